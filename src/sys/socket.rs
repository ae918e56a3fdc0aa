//! Non-blocking stream sockets: TCP and Unix ones differ only in their addresses, and in the records that some have.
//!
//! The hot calls go through rustix, which on Linux makes the system call itself. libc's wrappers are thread-cancellation
//! points: in a process with several threads, that costs 45 instructions a call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

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
    Kernel(Socket, SocketType),
    #[cfg(feature = "testing")]
    Simulated(Simulated),
}

/// The type of a socket of the kernel, by which its reads differ.
#[derive(Clone, Copy, Debug)]
enum SocketType {
    Tcp,
    Unix,
    /// A Unix socket of records. A read takes one record, and drops the part of it that has no room.
    UnixPacket,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The number of bytes; 0 at the end of the stream.
    pub(crate) n: usize,
    /// True if the socket has no more input: the next read should wait for an event.
    pub(crate) drained: bool,
}

impl StreamSocket {
    fn new(socket: Socket, peer: &Addr, has_records: bool) -> Self {
        let kind = match peer {
            Addr::Ip(_) => SocketType::Tcp,
            _ if has_records => SocketType::UnixPacket,
            Addr::Unix(_) | Addr::UnixAbstract(_) => SocketType::Unix,
        };
        Self(Kind::Kernel(socket, kind))
    }

    /// Creates a socket of a simulated network.
    #[cfg(feature = "testing")]
    pub(crate) fn simulated(simulated: Simulated) -> Self {
        Self(Kind::Simulated(simulated))
    }

    /// Calls `recv(2)`. Returns the number of bytes, 0 at the end of the stream.
    #[inline]
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Kernel(socket, _) => {
                let (n, _) = rustix::net::recv(socket, into, RecvFlags::empty())?;
                Ok(n)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.recv(into),
        }
    }

    /// Calls `recv(2)` with `MSG_PEEK`: the bytes stay in the socket. Returns their number, 0 at the end of the stream.
    pub(crate) fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Kernel(socket, _) => {
                let (n, _) = rustix::net::recv(socket, into, RecvFlags::PEEK)?;
                Ok(n)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.peek(into),
        }
    }

    /// Takes bytes that a [`peek`](Self::peek) has found, as many as `into` has.
    pub(crate) fn take_peeked(&self, into: &mut [u8]) -> io::Result<()> {
        match &self.0 {
            Kind::Kernel(socket, _) => {
                let mut taken = 0;
                // A read may end earlier: at a mark of urgent data, or behind a message of a Unix socket.
                while taken < into.len() {
                    let (n, _) = rustix::net::recv(socket, &mut into[taken..], RecvFlags::empty())?;
                    if n == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    taken += n;
                }
                Ok(())
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.take_peeked(into),
        }
    }

    /// Receives from a TCP socket, and reports whether the read drained it. A short read drains a TCP socket, except when
    /// the kernel has reported urgent data: a read ends at its mark.
    #[inline]
    pub(crate) fn receive_from_tcp(&self, into: &mut [u8]) -> io::Result<Received> {
        let n = self.recv(into)?;
        let drained = n < into.len();
        Ok(Received { n, drained })
    }

    /// Receives from any socket, and reports whether the read drained it.
    #[inline]
    pub(crate) fn receive(&self, into: &mut [u8]) -> io::Result<Received> {
        match &self.0 {
            Kind::Kernel(socket, SocketType::Unix) => receive_from_unix(socket, into),
            _ => self.receive_from_tcp(into),
        }
    }

    /// Returns true for a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(
            self.0,
            Kind::Kernel(_, SocketType::Unix | SocketType::UnixPacket)
        )
    }

    /// Returns true for a Unix socket of records, which is read and written as a [`PacketStream`](super::packets::PacketStream).
    pub(crate) fn has_records(&self) -> bool {
        matches!(self.0, Kind::Kernel(_, SocketType::UnixPacket))
    }

    /// Calls `send(2)`. Returns the number of bytes that the kernel accepted. A broken pipe is an error, never a signal.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Kernel(socket, _) => Ok(rustix::net::send(socket, bytes, NO_SIGNAL)?),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.send(bytes),
        }
    }

    /// Calls `sendmsg(2)` with several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(slices, NO_SIGNAL)
    }

    /// Calls `sendmsg(2)` and announces that more follows at once, so that the kernel may delay the last packet (`MSG_MORE`),
    /// where the platform supports it.
    pub(crate) fn send_vectored_and_more(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(slices, NO_SIGNAL.union(MORE))
    }

    fn send_message(&self, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
        match &self.0 {
            Kind::Kernel(socket, _) => {
                let mut control = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(socket, slices, &mut control, flags)?)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.send_vectored(slices),
        }
    }

    /// Takes a socket that is already connected, and makes it non-blocking. Returns it with the address of its peer.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Self, Addr)> {
        let socket = Socket::from(fd);
        let has_records = has_records(&socket)?;
        let peer = to_addr(&socket.peer_addr()?);
        socket.set_nonblocking(true)?;
        Ok((Self::new(socket, &peer, has_records), peer))
    }

    /// Accepts a connection, if this socket [awaits](await_peer) one.
    pub(crate) fn accept(&self) -> io::Result<(Self, Addr)> {
        match &self.0 {
            Kind::Kernel(socket, _) => accept(socket, false),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Registers the socket for edge-triggered events with a token: for input, and for room for output if `for_room` is true.
    pub(crate) fn watch(
        &self,
        registry: &Registry,
        token: Token,
        for_room: bool,
    ) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Kind::Simulated(simulated) = &self.0 {
            simulated.end.watch(token.0, for_room);
            return Ok(());
        }
        let fd = self.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, interest(for_room))
    }

    /// Registers the socket again, for room for output too. If there is room by now, an event reports it.
    pub(crate) fn watch_room(&self, registry: &Registry, token: Token) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Kind::Simulated(simulated) = &self.0 {
            simulated.end.watch_room();
            return Ok(());
        }
        let fd = self.as_fd().as_raw_fd();
        registry.reregister(&mut SourceFd(&fd), token, interest(true))
    }

    /// Returns true if a connect has succeeded, false if it is still under way.
    ///
    /// # Errors
    ///
    /// The reason if it has failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        match &self.0 {
            Kind::Kernel(socket, _) => is_connected(socket),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.is_connected(),
        }
    }

    /// Sends FIN after all bytes that the kernel has accepted.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Kernel(socket, _) => socket.shutdown(Shutdown::Write),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.shutdown_write(),
        }
    }

    /// Makes the close send RST and drop output that the kernel still holds.
    pub(crate) fn reset_on_close(&self) {
        match &self.0 {
            // The call fails only if the connection is gone already, which then needs no reset.
            Kind::Kernel(socket, _) => {
                drop(socket.set_linger(Some(Duration::ZERO)));
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.reset_on_close(),
        }
    }

    /// Returns the pending error, if the connection is broken, and clears it (`SO_ERROR`).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        match &self.0 {
            Kind::Kernel(socket, _) => socket.take_error().ok().flatten(),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.take_error(),
        }
    }

    /// Returns true if the socket has input that has not been received.
    pub(crate) fn has_input(&self) -> bool {
        match &self.0 {
            Kind::Kernel(socket, _) => {
                rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK).is_ok_and(|(n, _)| n > 0)
            }
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.end.has_input(),
        }
    }

    /// Returns the number of bytes sent that the peer has not acknowledged (`SIOCOUTQ`). Only Linux reports it.
    pub(crate) fn unacknowledged(&self) -> Option<u64> {
        match &self.0 {
            Kind::Kernel(socket, _) => unacknowledged(socket),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => None,
        }
    }

    /// Returns the address of this end.
    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match &self.0 {
            Kind::Kernel(socket, _) => Ok(to_addr(&socket.local_addr()?)),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => Ok(simulated.local_addr()),
        }
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// Returns true for a socket of the kernel, false for a simulated one.
    pub(crate) fn is_kernels(&self) -> bool {
        matches!(self.0, Kind::Kernel(..))
    }

    /// Returns the descriptor, which the caller then owns. Returns `None` for a simulated socket.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        match self.0 {
            Kind::Kernel(socket, _) => Some(socket.into()),
            #[cfg(feature = "testing")]
            Kind::Simulated(_) => None,
        }
    }
}

/// Returns a non-blocking socket that awaits a peer at a local address.
pub(crate) fn await_peer(local: SocketAddr) -> io::Result<StreamSocket> {
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    // Those that are refused must not keep the awaited one out.
    socket.listen(16)?;
    Ok(StreamSocket(Kind::Kernel(socket, SocketType::Tcp)))
}

/// Reads a Unix socket. A read also ends behind a message with descriptors or credentials, even if more input follows. The
/// kernel reports that by `MSG_CTRUNC`, because this call gives it no room for them.
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

/// Reads a Unix socket. A read also ends behind a message with descriptors or credentials, even if more input follows. Not
/// every kernel reports that, so only an empty read shows that the socket is drained.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn receive_from_unix(socket: &Socket, into: &mut [u8]) -> io::Result<Received> {
    let (n, _) = rustix::net::recv(socket, into, RecvFlags::empty())?;
    Ok(Received { n, drained: false })
}

/// Returns true for a Unix socket of records, and false for a stream socket.
///
/// # Errors
///
/// `InvalidInput` for a socket of another type. The error of `getsockopt(2)`.
pub(crate) fn has_records(socket: &Socket) -> io::Result<bool> {
    match socket.r#type()? {
        Type::STREAM => Ok(false),
        Type::SEQPACKET if socket.local_addr()?.domain() == Domain::UNIX => Ok(true),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no stream socket",
        )),
    }
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
    // TCP connects a socket to itself if the kernel chooses the destination port as the local one, and nobody listens
    // there.
    if peer.as_socket().is_some() && socket.local_addr()?.as_socket() == peer.as_socket() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(true)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn unacknowledged(socket: &Socket) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the call writes only that integer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u64::try_from(bytes).ok().filter(|_| result == 0)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unacknowledged(_socket: &Socket) -> Option<u64> {
    None
}

fn interest(for_room: bool) -> Interest {
    let mut interest = Interest::READABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        interest |= Interest::PRIORITY;
    }
    if for_room {
        interest |= Interest::WRITABLE;
    }
    interest
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Kernel(socket, _) => socket.as_fd(),
            #[cfg(feature = "testing")]
            Kind::Simulated(simulated) => simulated.stand_in.as_fd(),
        }
    }
}

/// Starts a non-blocking connect. `has_records` asks for a Unix socket of records.
pub(crate) fn connect(
    to: &Addr,
    has_records: bool,
    local: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<StreamSocket> {
    let (addr, protocol) = match to {
        Addr::Ip(addr) => (SockAddr::from(*addr), Some(Protocol::TCP)),
        Addr::Unix(Some(path)) => (SockAddr::unix(path)?, None),
        Addr::UnixAbstract(name) => (unix::abstract_addr(name)?, None),
        Addr::Unix(None) => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    let socket = match protocol {
        Some(_) => Socket::new(addr.domain(), Type::STREAM, protocol)?,
        None => unix::socket(has_records)?,
    };
    socket.set_nonblocking(true)?;
    options.apply(&socket, protocol.is_some())?;
    if let Some(local) = local.filter(|_| protocol.is_some()) {
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    match socket.connect(&addr) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(StreamSocket::new(socket, to, has_records)),
    }
}

/// Accepts one connection, non-blocking and with close-on-exec. `has_records` tells that the listener is a Unix socket of
/// records.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
    target_os = "illumos"
))]
pub(crate) fn accept(listener: &Socket, has_records: bool) -> io::Result<(StreamSocket, Addr)> {
    use rustix::net::{AddressFamily, SocketFlags, acceptfrom_with};

    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = acceptfrom_with(listener, flags)?;
    let peer = match peer {
        Some(peer) if peer.address_family() != AddressFamily::UNIX => {
            from_ip(SocketAddr::try_from(peer)?)
        }
        peer => unix::to_addr(peer),
    };
    let socket = StreamSocket::new(Socket::from(fd), &peer, has_records);
    Ok((socket, peer))
}

/// Accepts one connection, non-blocking and with close-on-exec, where `accept4(2)` does not exist.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
    target_os = "illumos"
)))]
pub(crate) fn accept(listener: &Socket, has_records: bool) -> io::Result<(StreamSocket, Addr)> {
    let (socket, addr) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let peer = to_addr(&addr);
    Ok((StreamSocket::new(socket, &peer, has_records), peer))
}

/// True if an accepted TCP socket inherits all the options of its listener, as on Linux. These are options of TCP sockets
/// only.
pub(crate) const TCP_INHERITS_OPTIONS: bool = cfg!(target_os = "linux");

#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: SendFlags = SendFlags::MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: SendFlags = SendFlags::empty();

#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// Apple's systems have a socket option instead, which socket2 sets on each socket.
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

/// Converts an address. The IPv4 peer of a dual-stack listener gets its IPv4 address.
fn from_ip(mut addr: SocketAddr) -> Addr {
    addr.set_ip(addr.ip().to_canonical());
    Addr::Ip(addr)
}

/// Restricts a socket to one network interface.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn bind_to_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

/// Fails, because this platform has no such socket option.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn bind_to_device(_socket: &Socket, _device: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets several sockets listen on one address (`SO_REUSEPORT`). The kernel distributes connections over them.
pub(crate) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    #[cfg(not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))]
    return socket.set_reuse_port(true);
    #[cfg(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
    return Err(io::ErrorKind::Unsupported.into());
}

/// Returns true if an error of `accept(2)` concerns one peer only, which has aborted or whose network has failed. Other
/// connections can still be accepted.
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

/// Returns true if this host lacks what a new socket needs: descriptors, memory or local ports.
#[cfg(feature = "gateway")]
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}

/// Returns true if a bind failed because the host has no IPv6.
pub(crate) fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

/// Binds the first of the addresses that can be bound. The second argument of `bind` is true if an IPv6 socket should also
/// accept IPv4 peers.
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
