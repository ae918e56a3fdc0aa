//! Listening sockets: binding them, and accepting until there is nothing, too much, or an error.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::admission::Admission;
use crate::addr::{Addr, Family, ListenAddr};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::sys::socket::{self, Stream};

/// The socket options of listeners and of the connections they accept.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) linger: Option<Duration>,
    pub(crate) device: Option<String>,
}

/// How TCP probes a silent peer (`tcp(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// How long a connection is silent before the first probe; whole seconds.
    pub(crate) idle: Duration,
    /// The time between probes; whole seconds.
    pub(crate) interval: Duration,
    /// How many probes go unanswered before the connection is given up.
    pub(crate) count: u32,
}

/// The listeners of one thread.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    listeners: Vec<Listener>,
    options: Option<SocketOptions>,
    /// Who is asked first the next time.
    next: usize,
    /// Accepting failed for lack of resources; when to go on is for the owner's timer.
    blocked: bool,
    pause: Option<Duration>,
    last_pause: Duration,
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    ready: bool,
    /// Removed together with the last listener on it.
    path: Option<Arc<BoundPath>>,
}

/// A Unix socket's path, for as long as something listens on it.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// What an attempt to accept came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// A connection.
    Accepted(Stream, Addr),
    /// Nothing this time; there may be more.
    Failed,
    /// Nothing until the next event or the end of the pause.
    NoneWaits,
}

/// The most attempts in one turn.
pub(crate) const ACCEPT_BUDGET: usize = 64;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Listeners {
    /// Binds every address.
    pub(crate) fn bind(addrs: &[ListenAddr], options: &SocketOptions) -> Result<Self, Error> {
        let bind = |addr: &ListenAddr| {
            let bound = match addr {
                ListenAddr::Tcp { family, .. } => bind_tcp(&addr.resolve()?, *family, options),
                ListenAddr::Unix(path) => bind_unix(path, options),
            };
            bound.map_err(|source| Error::Bind {
                addr: addr.to_string(),
                source,
            })
        };
        Ok(Self {
            listeners: addrs.iter().map(bind).collect::<Result<_, _>>()?,
            options: Some(options.clone()),
            ..Self::default()
        })
    }

    /// Listeners of another thread on the same addresses: TCP ones bound anew, so that the kernel spreads
    /// connections over them, Unix ones shared.
    pub(crate) fn sibling(&self) -> io::Result<Self> {
        let options = self.options.as_ref();
        let copy = |listener: &Listener| {
            let addr = listener.socket.local_addr()?;
            let socket = match (addr.as_socket(), options) {
                (Some(ip), Some(options)) => {
                    let any_family = ip.is_ipv6() && !listener.socket.only_v6()?;
                    listen_tcp(ip, any_family, options)?
                }
                _ => listener.socket.try_clone()?,
            };
            Ok(Listener {
                socket,
                ready: false,
                path: listener.path.clone(),
            })
        };
        Ok(Self {
            listeners: self.listeners.iter().map(copy).collect::<io::Result<_>>()?,
            options: self.options.clone(),
            ..Self::default()
        })
    }

    /// The addresses it is bound to.
    pub(crate) fn local_addrs(&self) -> io::Result<Vec<Addr>> {
        let addr = |listener: &Listener| Ok(socket::to_addr(&listener.socket.local_addr()?));
        self.listeners.iter().map(addr).collect()
    }

    /// Watches the listeners, with tokens from `first` on.
    pub(crate) fn register(&self, registry: &Registry, first: usize) -> io::Result<()> {
        for (n, listener) in self.listeners.iter().enumerate() {
            let fd = listener.socket.as_raw_fd();
            registry.register(&mut SourceFd(&fd), Token(first + n), Interest::READABLE)?;
        }
        Ok(())
    }

    pub(crate) fn mark_ready(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.ready = true;
        }
    }

    /// Whether accepting is worth an attempt now.
    #[inline]
    pub(crate) fn are_ready(&self) -> bool {
        !self.blocked && self.listeners.iter().any(|listener| listener.ready)
    }

    /// Tries once to accept a connection; one that the limits forbid is closed and counted.
    pub(crate) fn accept(&mut self, admission: &Admission, metrics: &Metrics) -> Attempt {
        if !self.are_ready() {
            return Attempt::NoneWaits;
        }
        self.next = (self.next + 1) % self.listeners.len();
        let listener = &mut self.listeners[self.next];
        if !listener.ready {
            return Attempt::Failed;
        }
        match socket::accept(&listener.socket) {
            Ok((stream, peer)) => {
                self.last_pause = Duration::ZERO;
                metrics.accepted.add(1);
                if !admission.admit(&peer) {
                    metrics.refused.add(1);
                    log::debug!(target: "epicycle::accept", "{peer} refused: too many connections");
                    return Attempt::Failed;
                }
                let is_tcp = peer.ip().is_some();
                if !(is_tcp && socket::TCP_INHERITS_OPTIONS)
                    && let Some(options) = &self.options
                    && let Err(error) = options.apply(&stream, is_tcp)
                {
                    log::debug!(target: "epicycle::accept", "{peer}: socket options: {error}");
                }
                return Attempt::Accepted(stream, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
            Err(error) => {
                metrics.accept_errors.add(1);
                if socket::concerns_one_peer(&error) {
                    log::debug!(target: "epicycle::accept", "accept: {error}");
                } else {
                    self.block(&error);
                }
            }
        }
        Attempt::Failed
    }

    /// Accepting goes on after a pause: connections that close give back what it lacks.
    fn block(&mut self, error: &io::Error) {
        let pause = (self.last_pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        log::warn!(
            target: "epicycle::accept",
            "cannot accept ({error}); next attempt in {pause:?}. Raise the limit (ulimit -n) or set max_connections"
        );
        self.blocked = true;
        self.pause = Some(pause);
        self.last_pause = pause;
    }

    /// How long to wait before [`unblock`](Self::unblock), once after each failure.
    pub(crate) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Stops listening.
    pub(crate) fn close(&mut self) {
        self.listeners.clear();
    }
}

impl SocketOptions {
    fn apply(&self, stream: &Stream, is_tcp: bool) -> io::Result<()> {
        let socket = stream.options();
        if is_tcp {
            socket.set_tcp_nodelay(self.nodelay)?;
            if let Some(keepalive) = &self.keepalive {
                socket.set_tcp_keepalive(&keepalive.to_socket2())?;
            }
        }
        self.apply_sizes(&socket)
    }

    fn apply_sizes(&self, socket: &Socket) -> io::Result<()> {
        if let Some(bytes) = self.recv_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if self.linger.is_some() {
            socket.set_linger(self.linger)?;
        }
        Ok(())
    }
}

impl Keepalive {
    fn to_socket2(self) -> TcpKeepalive {
        socket::keepalive(self.idle, self.interval, self.count)
    }
}

/// Listens on the first of the addresses that can be bound.
fn bind_tcp(addrs: &[SocketAddr], family: Family, options: &SocketOptions) -> io::Result<Listener> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for addr in addrs {
        let dual_stack = family == Family::Any && addr.ip().is_unspecified();
        result = listen_tcp(*addr, dual_stack, options);
        if dual_stack && addr.is_ipv6() && result.as_ref().is_err_and(socket::lacks_ipv6) {
            let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), addr.port());
            result = listen_tcp(v4, false, options);
        }
        if result.is_ok() {
            break;
        }
    }
    result.map(|socket| Listener {
        socket,
        ready: false,
        path: None,
    })
}

fn listen_tcp(addr: SocketAddr, dual_stack: bool, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket::set_reuse_port(&socket)?;
    }
    if let Some(device) = &options.device {
        socket::bind_to_device(&socket, device)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(keepalive) = &options.keepalive {
        socket.set_tcp_keepalive(&keepalive.to_socket2())?;
    }
    options.apply_sizes(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: &SocketOptions) -> io::Result<Listener> {
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    options.apply_sizes(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let bound = BoundPath {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    socket.listen(options.backlog)?;
    Ok(Listener {
        socket,
        ready: false,
        path: Some(Arc::new(bound)),
    })
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
