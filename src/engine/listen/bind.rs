//! Listening sockets: bound to addresses, or adopted from the application.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::addr::{Addr, Endpoint};
use crate::engine::listen::handshakes::Handshakes;
use crate::engine::listen::socket_path::SocketPath;
use crate::engine::listen::{Place, StreamPlace};
use crate::error::Error;
use crate::sys::options::{SocketOptions, named};
use crate::sys::socket::bind_first;
use crate::sys::{socket, unix};

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The number of its [`Listen`](crate::Listen) in the server.
    pub(crate) number: usize,
    pub(crate) bound: Arc<BoundSocket>,
    pub(crate) handshakes: Option<Arc<Handshakes>>,
    /// True while the listener may have connections to accept.
    pub(crate) ready: bool,
    /// True if the application made the socket. It may lack `SO_REUSEPORT`, so that no sibling can be bound.
    adopted: bool,
}

/// A socket that several listeners may share, with its path.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) socket: Socket,
    /// True for a Unix socket of records.
    pub(crate) has_records: bool,
    /// Dropped after the socket.
    path: Option<SocketPath>,
}

impl BoundSocket {
    /// Returns a copy of the socket for another process. The last process that listens there removes the path.
    pub(crate) fn hand_over(&self) -> io::Result<OwnedFd> {
        let copy = self.socket.try_clone()?;
        if let Some(path) = &self.path {
            path.mark_copied();
        }
        Ok(copy.into())
    }
}

/// Removes the path before the socket is closed. While the socket is open, no other server takes the path over. After the
/// close, the path could already belong to a new server.
impl Drop for BoundSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            path.remove_before_close();
        }
    }
}

impl Listener {
    /// Listens on a place.
    pub(crate) fn bind(place: StreamPlace, options: &SocketOptions) -> Result<Self, Error> {
        let StreamPlace {
            number,
            place,
            handshakes,
        } = place;
        let name = place.to_string();
        let mut adopted = false;
        let bound = match place {
            Place::Addr(addr) => match &addr {
                Endpoint::Tcp { family, .. } => {
                    let listen = |addr, dual_stack| listen_tcp(addr, dual_stack, options);
                    bind_first(&addr.resolve()?, *family, listen).map(|socket| (socket, None))
                }
                Endpoint::UnixAbstract(name) | Endpoint::UnixPacketAbstract(name) => {
                    listen_abstract(name, addr.is_unix_packet(), options)
                        .map(|socket| (socket, None))
                }
                Endpoint::Udp { .. } | Endpoint::Unix(_) | Endpoint::UnixPacket(_) => {
                    Err(io::ErrorKind::Unsupported.into())
                }
            },
            Place::Path(path, path_options) => unix_socket(path_options.has_records, options)
                .and_then(|socket| {
                    let path = SocketPath::listen(&path, &path_options, &socket, options.backlog)?;
                    Ok((socket, Some(path)))
                }),
            Place::Socket(fd) => {
                adopted = true;
                adopt(fd, handshakes.as_deref(), options).map(|socket| (socket, None))
            }
        };
        let bind = |source| Error::Bind { addr: name, source };
        let bound = bound.and_then(|(socket, path)| {
            let has_records = socket::has_records(&socket)?;
            Ok(BoundSocket {
                socket,
                has_records,
                path,
            })
        });
        let bound = bound.map_err(bind)?;
        Ok(Self {
            number,
            bound: Arc::new(bound),
            handshakes,
            ready: false,
            adopted,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        let addr = self.bound.socket.local_addr()?;
        Ok(socket::to_addr(&addr))
    }

    /// Returns a listener for another thread on the same address. Without options it shares the socket.
    pub(crate) fn sibling(&self, options: Option<&SocketOptions>) -> io::Result<Self> {
        let addr = self.bound.socket.local_addr()?;
        let bound = match (addr.as_socket(), options) {
            (Some(ip), Some(options)) if !self.adopted => {
                let any_family = ip.is_ipv6() && !self.bound.socket.only_v6()?;
                let socket = listen_tcp(ip, any_family, options)?;
                Arc::new(BoundSocket {
                    socket,
                    has_records: false,
                    path: None,
                })
            }
            _ => self.bound.clone(),
        };
        Ok(Self {
            number: self.number,
            bound,
            handshakes: self.handshakes.clone(),
            ready: false,
            adopted: self.adopted,
        })
    }
}

/// Adopts a socket that is bound already.
fn adopt(
    fd: OwnedFd,
    handshakes: Option<&Handshakes>,
    options: &SocketOptions,
) -> io::Result<Socket> {
    let socket = Socket::from(fd);
    if socket::has_records(&socket)?
        && let Some(option) = handshakes.and_then(Handshakes::needs_bytes)
    {
        let problem = format!("it is a Unix socket of records, on which there is no {option}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let is_unix = socket.local_addr()?.domain() == Domain::UNIX;
    options.apply(&socket, !is_unix)?;
    socket.set_nonblocking(true)?;
    // If the socket listens already, this sets its backlog.
    socket.listen(options.backlog)?;
    Ok(socket)
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

/// Creates a Unix socket that is not bound yet.
fn unix_socket(has_records: bool, options: &SocketOptions) -> io::Result<Socket> {
    let socket = unix::socket(has_records)?;
    options.apply(&socket, false)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen_abstract(name: &[u8], has_records: bool, options: &SocketOptions) -> io::Result<Socket> {
    let socket = unix_socket(has_records, options)?;
    unix::bind(&socket, &unix::abstract_addr(name)?)?;
    socket.listen(options.backlog)?;
    Ok(socket)
}
