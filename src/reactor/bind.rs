//! Making sockets that listen: bound to addresses, or brought along.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::addr::{Family, ListenAddr};
use crate::error::Error;
use crate::listen::Place;
use crate::sys::options::{SocketOptions, named};
use crate::sys::socket;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// Its place among those the server was told of.
    pub(super) number: usize,
    pub(super) bound: Arc<Bound>,
    /// An event has announced connections.
    pub(super) ready: bool,
    /// Brought along: another owner's options hold, and nothing can be bound beside it.
    adopted: bool,
}

/// A socket, shared by all that listen on it, and what ends with it.
///
/// The path is dropped, and so removed, before the socket: as long as the socket answers, no other server takes the path
/// over, so that the path that is removed is this one's. The other way round a new server could come in between.
#[derive(Debug)]
pub(crate) struct Bound {
    path: Option<BoundPath>,
    pub(super) socket: Socket,
}

/// A Unix socket's path, for as long as something listens on it.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Somebody else listens on it too, and outlives this process perhaps.
    handed_over: AtomicBool,
}

impl Bound {
    /// A copy of the socket for another process, which has the path too from now on.
    pub(crate) fn hand_over(&self) -> io::Result<OwnedFd> {
        let copy = self.socket.try_clone()?;
        if let Some(path) = &self.path {
            path.handed_over.store(true, Ordering::Relaxed);
        }
        Ok(copy.into())
    }
}

impl Listener {
    /// Listens on a place.
    pub(super) fn bind(
        number: usize,
        place: Place,
        options: &SocketOptions,
    ) -> Result<Self, Error> {
        let name = place.to_string();
        let mut adopted = false;
        let bound = match place {
            Place::Addr(addr) => match &addr {
                ListenAddr::Tcp { family, .. } => {
                    let listen = |addr, dual_stack| listen_tcp(addr, dual_stack, options);
                    bind_first(&addr.resolve()?, *family, listen).map(|socket| (socket, None))
                }
                ListenAddr::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
                ListenAddr::Unix(path) => {
                    bind_unix(path, options).map(|(socket, path)| (socket, Some(path)))
                }
            },
            Place::Socket(fd) => {
                adopted = true;
                adopt(fd, options).map(|socket| (socket, None))
            }
        };
        let (socket, path) = bound.map_err(|source| Error::Bind { addr: name, source })?;
        Ok(Self {
            number,
            bound: Arc::new(Bound { socket, path }),
            ready: false,
            adopted,
        })
    }

    /// A listener of another thread on the same address.
    pub(super) fn sibling(&self, options: Option<&SocketOptions>) -> io::Result<Self> {
        let addr = self.bound.socket.local_addr()?;
        let bound = match (addr.as_socket(), options) {
            (Some(ip), Some(options)) if !self.adopted => {
                let any_family = ip.is_ipv6() && !self.bound.socket.only_v6()?;
                let socket = listen_tcp(ip, any_family, options)?;
                Arc::new(Bound { socket, path: None })
            }
            _ => self.bound.clone(),
        };
        Ok(Self {
            bound,
            ready: false,
            ..*self
        })
    }
}

/// Takes over a socket that is bound already.
fn adopt(fd: OwnedFd, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::from(fd);
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no stream socket",
        ));
    }
    let is_unix = socket.local_addr()?.domain() == Domain::UNIX;
    options.apply(&socket, !is_unix)?;
    socket.set_nonblocking(true)?;
    // On a socket that listens already this sets the backlog.
    socket.listen(options.backlog)?;
    Ok(socket)
}

/// Binds the first of the addresses that can be bound; `bind` is told whether IPv6 is to mean IPv4 too.
pub(super) fn bind_first<T>(
    addrs: &[SocketAddr],
    family: Family,
    bind: impl Fn(SocketAddr, bool) -> io::Result<T>,
) -> io::Result<T> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for addr in addrs {
        let dual_stack = family == Family::Any && addr.ip().is_unspecified();
        result = bind(*addr, dual_stack);
        if dual_stack && addr.is_ipv6() && result.as_ref().is_err_and(socket::lacks_ipv6) {
            let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), addr.port());
            result = bind(v4, false);
        }
        if result.is_ok() {
            break;
        }
    }
    result
}

fn listen_tcp(addr: SocketAddr, dual_stack: bool, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        named("accept_mode", socket::set_reuse_port(&socket))?;
    }
    if let Some(device) = &options.device {
        named("bind_to_device", socket::bind_to_device(&socket, device))?;
    }
    options.apply(&socket, true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: &SocketOptions) -> io::Result<(Socket, BoundPath)> {
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    options.apply(&socket, false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let bound = BoundPath {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
        handed_over: AtomicBool::new(false),
    };
    socket.listen(options.backlog)?;
    Ok((socket, bound))
}

/// Removes what a dead server left at the path: only a socket, and only one that nobody answers on.
fn clear_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is there; it stays, choose another path",
        ));
    }
    // A server whose queue is full would block the call, and answers all the same.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!(target: "epicycle::server", "removing the stale socket {}", path.display());
            fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another server answers there",
        )),
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if *self.handed_over.get_mut() {
            return;
        }
        // Another server may have taken the path over since.
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| {
            metadata.file_type().is_socket()
                && metadata.dev() == self.device
                && metadata.ino() == self.inode
        });
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!(target: "epicycle::server", "cannot remove {}: {error}", self.path.display());
        }
    }
}
