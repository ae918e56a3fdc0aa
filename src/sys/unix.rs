//! Unix sockets: what is at a path, and names without one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::addr::Addr;

/// What is at the path of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathState {
    /// Nothing.
    Free,
    /// A socket that no process has any more.
    Stale,
    /// A socket that a process has, be it that it does not listen yet.
    Alive,
}

/// Finds out without connecting: a datagram socket is refused by a stream socket for its type, and by what is stale as if
/// nobody listened. A stream socket would make a connection, be refused by one that does not listen yet, and on the BSDs by
/// one whose queue is full.
///
/// # Errors
///
/// What `connect(2)` answers when it cannot tell.
pub(crate) fn path_state(path: &Path) -> io::Result<PathState> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(PathState::Alive),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PROTOTYPE) => Ok(PathState::Alive),
            Some(Errno::CONNREFUSED) => Ok(PathState::Stale),
            Some(Errno::NOENT) => Ok(PathState::Free),
            _ => Err(error),
        },
    }
}

/// Binds a socket to an address that nobody has.
pub(crate) fn bind(socket: &Socket, addr: &SockAddr) -> io::Result<()> {
    socket.bind(addr).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => another_server(),
        _ => error,
    })
}

/// Somebody else listens on the address that is to be listened on.
pub(crate) fn another_server() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another server answers there")
}

/// An address in the abstract namespace of Unix sockets (`unix(7)`).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn abstract_addr(name: &[u8]) -> io::Result<SockAddr> {
    SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()))
}

/// This platform has no abstract namespace.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn abstract_addr(_name: &[u8]) -> io::Result<SockAddr> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Linux has abstract names; use a path",
    ))
}

/// The address of a Unix socket as `accept(2)` tells it.
#[cfg_attr(
    target_vendor = "apple",
    allow(dead_code, reason = "there is no accept4(2)")
)]
pub(super) fn to_addr(addr: Option<SocketAddrAny>) -> Addr {
    let Some(addr) = addr.and_then(|addr| SocketAddrUnix::try_from(addr).ok()) else {
        return Addr::Unix(None);
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // The address of a socket without a name is told as an empty one.
    if let Some(name) = addr.abstract_name().filter(|name| !name.is_empty()) {
        return Addr::UnixAbstract(name.into());
    }
    let path = addr.path_bytes().map(OsStr::from_bytes);
    Addr::Unix(path.map(|path| Path::new(path).into()))
}

/// The abstract name of a Unix socket.
pub(super) fn abstract_name(addr: &SockAddr) -> Option<&[u8]> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return addr.as_abstract_namespace().filter(|name| !name.is_empty());
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return addr.as_pathname().and(None);
}
