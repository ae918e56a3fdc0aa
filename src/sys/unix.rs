//! Unix sockets: the state of a path, and abstract names.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::addr::Addr;

/// The state of the path of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathState {
    /// Nothing is at the path.
    Free,
    /// A socket is at the path, but no process has it open any more.
    Stale,
    /// A socket is at the path, and a process has it open. It may not listen yet.
    Alive,
}

/// Finds out the state of a path without making a connection.
///
/// It connects a datagram socket. A live socket of connections refuses it because of its type, and a stale one as if nobody
/// listened. A stream socket would be a worse probe: it would make a connection, would be refused by a socket that does not
/// listen yet, and on the BSDs by one whose backlog is full.
///
/// # Errors
///
/// The error of `connect(2)` if it leaves the state unknown.
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

/// Makes a Unix socket: of records (`SOCK_SEQPACKET`), or a stream socket.
///
/// # Errors
///
/// The error of `socket(2)`. `Unsupported` for records on Apple's systems, which have no such sockets.
pub(crate) fn socket(has_records: bool) -> io::Result<Socket> {
    if !has_records {
        return Socket::new(Domain::UNIX, Type::STREAM, None);
    }
    if cfg!(target_vendor = "apple") {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system has no Unix sockets of records; use unix://",
        ));
    }
    Socket::new(Domain::UNIX, Type::SEQPACKET, None)
}

/// Binds a socket to an address that must be free.
pub(crate) fn bind(socket: &Socket, addr: &SockAddr) -> io::Result<()> {
    socket.bind(addr).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => another_server(),
        _ => error,
    })
}

/// Returns the error for an address on which another process already listens.
pub(crate) fn another_server() -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        "another server answers there; stop it, or use another address",
    )
}

/// Returns an address in the abstract namespace of Unix sockets (`unix(7)`).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn abstract_addr(name: &[u8]) -> io::Result<SockAddr> {
    SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()))
}

/// Fails, because this platform has no abstract namespace.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn abstract_addr(_name: &[u8]) -> io::Result<SockAddr> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Linux has abstract names; use a path",
    ))
}

/// Converts the address of a Unix socket as `accept(2)` returns it.
#[cfg_attr(
    target_vendor = "apple",
    allow(dead_code, reason = "this platform has no accept4(2)")
)]
pub(super) fn to_addr(addr: Option<SocketAddrAny>) -> Addr {
    let Some(addr) = addr.and_then(|addr| SocketAddrUnix::try_from(addr).ok()) else {
        return Addr::Unix(None);
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // A socket without a name has an empty abstract name here.
    if let Some(name) = addr.abstract_name().filter(|name| !name.is_empty()) {
        return Addr::UnixAbstract(name.into());
    }
    let path = addr.path_bytes().map(OsStr::from_bytes);
    Addr::Unix(path.map(|path| Path::new(path).into()))
}

/// Returns the abstract name of a Unix socket, if it has one.
pub(super) fn abstract_name(addr: &SockAddr) -> Option<&[u8]> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return addr.as_abstract_namespace().filter(|name| !name.is_empty());
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return addr.as_pathname().and(None);
}

/// The process at the other end of a Unix socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The effective user.
    pub user: u32,
    /// The effective group.
    pub group: u32,
    /// The process. `None` if it is in another PID namespace, and where the platform does not tell.
    pub process: Option<u32>,
}

/// Returns the credentials of the process at the other end, as of its connect or listen (`SO_PEERCRED`, `unix(7)`).
///
/// rustix has the same call, but its process identifier cannot be zero, which is what the kernel returns for a process in
/// another PID namespace.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to `found`, which has that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials {
        user: found.uid,
        group: found.gid,
        process: u32::try_from(found.pid).ok().filter(|pid| *pid != 0),
    })
}

/// Returns the same by `getpeereid(3)`, on the BSDs.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(unsafe_code)]
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open, and both pointers are to memory of the right types.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials {
        user,
        group,
        process: None,
    })
}
