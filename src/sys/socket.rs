//! Non-blocking stream sockets: TCP and Unix ones differ only in their addresses.
//!
//! The hot calls go through rustix, which on Linux makes the system call itself: libc's wrappers are
//! thread-cancellation points, whose locked instructions come to 45 instructions a call in a process of
//! several threads.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Protocol, SockAddr, SockRef, Socket, Type};

use super::options::SocketOptions;
#[cfg(feature = "testing")]
use super::simulated::Simulated;
use super::unix;
use crate::addr::{Addr, Family};

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub(crate) struct StreamSocket(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(Socket),
    Unix(Socket),
    #[cfg(feature = "testing")]
    Simulated(Simulated),
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(crate) n: usize,
    /// There is no more for now: the next read is worth it only after an event.
    pub(crate) drained: bool,
}

impl StreamSocket {
    fn new(socket: Socket, peer: &Addr) -> Self {
        Self(match peer {
            Addr::Ip(_) => Kind::Tcp(socket),
            Addr::Unix(_) | Addr::UnixAbstract(_) => Kind::Unix(socket),
        })
    }

    /// A socket of a simulated network.
    #[cfg(feature = "testing")]
    pub(crate) fn simulated(simulated: Simulated) -> Self {
        Self(Kind::Simulated(simulated))
    }

    /// `recv(2)`: how many bytes arrived, 0 at the end of the stream.
    #[inline]
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => {
                let (n, _) = rustix::net::recv(socket, into, RecvFlags::empty())?;
                Ok(n)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.recv(into),
        }
    }

    /// The same of a TCP socket, which tells whether that drained it: when it comes back short, unless the kernel has told
    /// of urgent data, at whose mark a read ends.
    #[inline]
    pub(crate) fn receive_from_tcp(&self, into: &mut [u8]) -> io::Result<Received> {
        let n = self.recv(into)?;
        let drained = n < into.len();
        Ok(Received { n, drained })
    }

    /// The same of any socket.
    #[inline]
    pub(crate) fn receive(&self, into: &mut [u8]) -> io::Result<Received> {
        match &self.0 {
            Kind::Unix(socket) => receive_from_unix(socket, into),
            _ => self.receive_from_tcp(into),
        }
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.0, Kind::Unix(_))
    }

    /// `send(2)`: how many bytes the kernel took. A broken pipe is an error, never a signal.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => {
                Ok(rustix::net::send(socket, bytes, NO_SIGNAL)?)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.send(bytes),
        }
    }

    /// `sendmsg(2)` of several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(slices, NO_SIGNAL)
    }

    /// The same, when more is sent at once: the last packet may wait for it, where the platform can tell.
    pub(crate) fn send_vectored_and_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(slices, NO_SIGNAL.union(MORE))
    }

    fn send_message(&self, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => {
                let mut control = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(socket, slices, &mut control, flags)?)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.send_vectored(slices),
        }
    }

    /// A socket that is connected already, made non-blocking, and its peer.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Self, Addr)> {
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::STREAM {
            let problem = "it is no stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let peer = to_addr(&socket.peer_addr()?);
        socket.set_nonblocking(true)?;
        Ok((Self::new(socket, &peer), peer))
    }

    /// Has its events told with a token, edge-triggered.
    pub(crate) fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Kind::Simulated(simulated) = &self.0 {
            simulated.end.watch(token.0);
            return Ok(());
        }
        let fd = self.as_fd().as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        registry.register(&mut SourceFd(&fd), token, interest)
    }

    /// Whether a connect has succeeded.
    ///
    /// # Errors
    ///
    /// Why it has failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => is_connected(socket),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => Ok(true),
        }
    }

    /// Sends FIN behind everything the kernel has taken.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => socket.shutdown(Shutdown::Write),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.shutdown_write(),
        }
    }

    /// Makes the close send RST and drop whatever is still on its way.
    pub(crate) fn reset_on_close(&self) {
        match &self.0 {
            // A socket that is gone already cannot take the option, and needs none.
            Kind::Tcp(socket) | Kind::Unix(socket) => drop(socket.set_linger(Some(Duration::ZERO))),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.reset_on_close(),
        }
    }

    /// The pending error, if the connection is broken; reading it clears it (`SO_ERROR`).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => socket.take_error().ok().flatten(),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.take_error(),
        }
    }

    /// Whether there is input that has not been received.
    pub(crate) fn has_input(&self) -> bool {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => {
                rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK).is_ok_and(|(n, _)| n > 0)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.has_input(),
        }
    }

    /// How many of the bytes sent the peer has not acknowledged, if the kernel tells (`SIOCOUTQ`, Linux only).
    pub(crate) fn unacknowledged(&self) -> Option<u64> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => unacknowledged(socket),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => None,
        }
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// Whether the kernel can move bytes into it and out of it by itself.
    pub(crate) fn is_kernels(&self) -> bool {
        matches!(self.0, Kind::Tcp(_) | Kind::Unix(_))
    }

    /// The descriptor, to be closed by others; none of a simulated one.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        match self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => Some(socket.into()),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => None,
        }
    }
}

/// A read of a Unix socket, which also ends behind a message that carries descriptors or credentials, however much follows it.
/// The kernel tells of that, since nobody asks for what is carried.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline(never)]
fn receive_from_unix(socket: &Socket, into: &mut [u8]) -> io::Result<Received> {
    let len = into.len();
    let mut control = RecvAncillaryBuffer::default();
    let slices = &mut [IoSliceMut::new(into)];
    let message = rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::empty())?;
    let ends_a_record = message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received {
        n: message.bytes,
        drained: message.bytes < len && !ends_a_record,
    })
}

/// A read of a Unix socket, which also ends behind a message that carries something, however much follows it. Not every
/// kernel tells, so only the next read does.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn receive_from_unix(socket: &Socket, into: &mut [u8]) -> io::Result<Received> {
    let (n, _) = rustix::net::recv(socket, into, RecvFlags::empty())?;
    Ok(Received { n, drained: false })
}

fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    let peer = match socket.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
        Err(error) => return Err(error),
    };
    // TCP connects a port of this host to itself when nobody listens there and the kernel picks it.
    if peer.as_socket().is_some() && socket.local_addr()?.as_socket() == peer.as_socket() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(true)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn unacknowledged(socket: &Socket) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the call writes nothing but that number.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u64::try_from(bytes).ok().filter(|_| result == 0)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unacknowledged(_socket: &Socket) -> Option<u64> {
    None
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Tcp(socket) | Kind::Unix(socket) => socket.as_fd(),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.stand_in.as_fd(),
        }
    }
}

/// Begins to connect, without waiting.
pub(crate) fn connect(
    to: &Addr,
    local: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<StreamSocket> {
    let (addr, protocol) = match to {
        Addr::Ip(addr) => (SockAddr::from(*addr), Some(Protocol::TCP)),
        Addr::Unix(Some(path)) => (SockAddr::unix(path)?, None),
        Addr::UnixAbstract(name) => (unix::abstract_addr(name)?, None),
        Addr::Unix(None) => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    let socket = Socket::new(addr.domain(), Type::STREAM, protocol)?;
    socket.set_nonblocking(true)?;
    options.apply(&socket, protocol.is_some())?;
    if let Some(local) = local.filter(|_| protocol.is_some()) {
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    match socket.connect(&addr) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(StreamSocket::new(socket, to)),
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
pub(crate) fn accept(listener: &Socket) -> io::Result<(StreamSocket, Addr)> {
    use rustix::net::{AddressFamily, SocketFlags, acceptfrom_with};

    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = acceptfrom_with(listener, flags)?;
    let peer = match peer {
        Some(peer) if peer.address_family() != AddressFamily::UNIX => {
            from_ip(SocketAddr::try_from(peer)?)
        }
        peer => unix::to_addr(peer),
    };
    Ok((StreamSocket::new(Socket::from(fd), &peer), peer))
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
pub(crate) fn accept(listener: &Socket) -> io::Result<(StreamSocket, Addr)> {
    let (socket, addr) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let peer = to_addr(&addr);
    Ok((StreamSocket::new(socket, &peer), peer))
}

/// Whether an accepted TCP socket has the listener's options: Linux copies them all. Unix sockets have none of them.
pub(crate) const TCP_INHERITS_OPTIONS: bool = cfg!(target_os = "linux");

#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: SendFlags = SendFlags::MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: SendFlags = SendFlags::empty();

#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// Apple's sockets have an option for it, which socket2 sets on each.
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

pub(crate) fn to_addr(addr: &SockAddr) -> Addr {
    match addr.as_socket() {
        Some(ip) => from_ip(ip),
        None => match unix::abstract_name(addr) {
            Some(name) => Addr::UnixAbstract(name.into()),
            None => Addr::Unix(addr.as_pathname().map(Into::into)),
        },
    }
}

/// An IPv4 peer of a dual-stack listener shows as IPv4.
fn from_ip(mut addr: SocketAddr) -> Addr {
    addr.set_ip(addr.ip().to_canonical());
    Addr::Ip(addr)
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

/// Whether `accept(2)` failed for one peer alone, which gave up or whose network failed; the others wait.
pub(crate) fn concerns_one_peer(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
        )
    )
}

/// Whether binding failed because the host has no IPv6.
pub(crate) fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

/// Binds the first of the addresses that can be bound; `bind` is told whether IPv6 is to mean IPv4 too.
pub(crate) fn bind_first<T>(
    addrs: &[SocketAddr],
    family: Family,
    bind: impl Fn(SocketAddr, bool) -> io::Result<T>,
) -> io::Result<T> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for addr in addrs {
        let dual_stack = family == Family::Any && addr.ip().is_unspecified();
        result = bind(*addr, dual_stack);
        if dual_stack && addr.is_ipv6() && result.as_ref().is_err_and(lacks_ipv6) {
            let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), addr.port());
            result = bind(v4, false);
        }
        if result.is_ok() {
            break;
        }
    }
    result
}
