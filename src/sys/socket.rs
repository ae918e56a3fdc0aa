//! Non-blocking stream sockets: TCP and Unix ones differ only in their addresses.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::{SockAddr, SockRef, Socket};

use crate::addr::Addr;

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub(crate) struct Stream(Socket);

impl Stream {
    /// `recv(2)`: how many bytes arrived, 0 at the end of the stream.
    #[inline]
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        direct::recv(&self.0, into)
    }

    /// `send(2)`: how many bytes the kernel took. A broken pipe is an error, never a signal.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        direct::send(&self.0, bytes)
    }

    /// `sendmsg(2)` of several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_vectored_with_flags(slices, NO_SIGNAL)
    }

    /// Sends FIN behind everything the kernel has taken.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Closes with RST, dropping whatever is still on its way.
    pub(crate) fn reset(self) {
        // A socket that is gone already cannot take the option, and needs none.
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }

    /// The pending error, if the connection is broken; reading it clears it (`SO_ERROR`).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.0.take_error().ok().flatten()
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        self.0.local_addr().map(|addr| to_addr(&addr))
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The two hot system calls without libc's wrappers, which are thread-cancellation points: their locked
/// instructions come to 45 instructions a call in a process of several threads.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[allow(unsafe_code)]
mod direct {
    use super::{AsRawFd, NO_SIGNAL, Socket, io};

    #[inline]
    pub(super) fn recv(socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe a live, writable slice; no address is asked for.
        let n = unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                libc::c_long::from(socket.as_raw_fd()),
                into.as_mut_ptr(),
                into.len(),
                0_usize,
                0_usize,
                0_usize,
            )
        };
        result(n)
    }

    #[inline]
    pub(super) fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe a live slice; no address is given.
        let n = unsafe {
            libc::syscall(
                libc::SYS_sendto,
                libc::c_long::from(socket.as_raw_fd()),
                bytes.as_ptr(),
                bytes.len(),
                NO_SIGNAL as usize,
                0_usize,
                0_usize,
            )
        };
        result(n)
    }

    #[inline]
    fn result(n: libc::c_long) -> io::Result<usize> {
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

/// The same by libc.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod direct {
    use super::{NO_SIGNAL, Socket, io};
    use std::io::Read;

    pub(super) fn recv(mut socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        socket.read(into)
    }

    pub(super) fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        socket.send_with_flags(bytes, NO_SIGNAL)
    }
}

/// Accepts one connection, non-blocking and closed on exec.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
    target_os = "illumos"
))]
#[allow(unsafe_code)]
pub(crate) fn accept(listener: &Socket) -> io::Result<(Stream, Addr)> {
    use std::os::fd::{FromRawFd, OwnedFd};

    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `try_init` hands over storage and a length that describe each other, and accept4 fills
    // them as it promises to. A non-negative result is a new descriptor that nothing else owns.
    let (fd, addr) = unsafe {
        SockAddr::try_init(|storage, len| {
            let fd = libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags);
            if fd < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(OwnedFd::from_raw_fd(fd))
            }
        })?
    };
    Ok((Stream(Socket::from(fd)), to_addr(&addr)))
}

/// Accepts one connection, non-blocking and closed on exec, where there is no `accept4(2)`.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
    target_os = "illumos"
)))]
pub(crate) fn accept(listener: &Socket) -> io::Result<(Stream, Addr)> {
    let (socket, addr) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((Stream(socket), to_addr(&addr)))
}

/// Whether an accepted socket has the listener's options: Linux copies them all.
pub(crate) const ACCEPT_INHERITS_OPTIONS: bool = cfg!(target_os = "linux");

#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
/// Apple's sockets have an option for it, which socket2 sets on each.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

pub(crate) fn to_addr(addr: &SockAddr) -> Addr {
    match addr.as_socket() {
        Some(mut ip) => {
            ip.set_ip(ip.ip().to_canonical());
            Addr::Ip(ip)
        }
        None => Addr::Unix(addr.as_pathname().map(Into::into)),
    }
}

/// Restricts a socket to one network interface.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn bind_to_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

/// This platform has no such socket option.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn bind_to_device(_socket: &Socket, _device: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets several sockets listen on one address, the kernel spreading connections over them.
pub(crate) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    #[cfg(not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))]
    return socket.set_reuse_port(true);
    #[cfg(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
    return Err(io::ErrorKind::Unsupported.into());
}

/// Whether `accept(2)` failed for lack of something that closing connections gives back.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}
