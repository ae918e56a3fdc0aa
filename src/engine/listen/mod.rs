//! The places on which a server listens.

pub(crate) mod admission;
pub(crate) mod bind;
pub mod handover;
pub(crate) mod handshakes;
pub(crate) mod listeners;
pub(crate) mod profile;
#[cfg(feature = "testing")]
pub(crate) mod simulated;
pub(crate) mod socket_path;

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use socket2::SockRef;

#[cfg(feature = "cluster")]
use self::admission::Entrance;
use self::handshakes::Handshakes;
use crate::addr::Endpoint;
use crate::engine::conn::limits::ConnLimits;
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::ProxyProtocol;
use crate::engine::udp::sockets::UdpPlace;
use crate::engine::udp::{UdpOptions, UdpSessions};
use crate::error::Error;
use crate::sys::datagram::MulticastInterface;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// A place on which a server listens: an address to bind, or a socket that is bound already.
///
/// [`Server::bind`](crate::Server::bind) accepts every type that converts into it: a string, an [`Endpoint`], a `SocketAddr`,
/// a `TcpListener`, a `UnixListener`, or any `OwnedFd` of a listening stream socket.
///
/// ```
/// use std::net::TcpListener;
/// use epicycle::{Listen, Server, service};
///
/// let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
/// let running = Server::bind(inherited)
///     .and(Listen::on("tcp://127.0.0.1:0"))
///     .start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
/// assert_eq!(running.local_addrs().len(), 2);
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "it has no effect until it is given to a server"]
pub struct Listen {
    pub(crate) place: Result<Place, Error>,
    pub(crate) label: Box<str>,
    pub(crate) limits: ConnLimits,
    handshakes: Handshakes,
    udp: UdpOptions,
    /// The first given option that only applies to UDP addresses.
    udp_option: Option<&'static str>,
    /// The first given option that only applies to paths, if the place is no path.
    path_option: Option<&'static str>,
}

/// The address or socket of a [`Listen`].
#[derive(Debug)]
pub(crate) enum Place {
    /// An address that is no path.
    Addr(Endpoint),
    Path(PathBuf, PathOptions),
    Socket(OwnedFd),
}

/// A place of a stream listener, with the number of its [`Listen`].
#[derive(Debug)]
pub(crate) struct StreamPlace {
    pub(crate) number: usize,
    pub(crate) place: Place,
    pub(crate) handshakes: Option<Arc<Handshakes>>,
}

/// A [`Listen`] whose options are checked.
#[derive(Debug)]
pub(crate) enum Resolved {
    Stream(StreamPlace),
    Udp(UdpPlace),
}

/// The options of a Unix socket's path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathOptions {
    /// True for a socket of records.
    pub(crate) has_records: bool,
    pub(crate) mode: Option<u32>,
    /// The user and the group.
    pub(crate) owner: Option<(Option<u32>, Option<u32>)>,
}

impl Listen {
    /// Listens on an address: a string (see [`Endpoint`] for the forms), a `SocketAddr` or an `Endpoint`. The start of the
    /// server reports a bad address.
    pub fn on<A>(addr: A) -> Self
    where
        A: TryInto<Endpoint, Error: Into<Error>>,
    {
        let place = addr.try_into().map(|addr| match addr {
            Endpoint::Unix(path) => Place::Path(path, PathOptions::default()),
            Endpoint::UnixPacket(path) => {
                let options = PathOptions {
                    has_records: true,
                    ..PathOptions::default()
                };
                Place::Path(path, options)
            }
            addr => Place::Addr(addr),
        });
        Self::at(place.map_err(Into::into))
    }

    /// Listens on a stream socket that is bound already: inherited, or made by the application with its own options. It may
    /// listen already. The server's socket options apply to it too. The server closes it at shutdown, and does not remove the
    /// path of a Unix socket.
    pub fn socket(socket: impl Into<OwnedFd>) -> Self {
        Self::at(Ok(Place::Socket(socket.into())))
    }

    /// Returns true unless it is a UDP address.
    pub(crate) fn is_stream(&self) -> bool {
        !matches!(self.place, Ok(Place::Addr(Endpoint::Udp { .. })))
    }

    /// Returns true if a socket has the port of this address, and `None` if the address may be that of any socket of its kind: a
    /// port that the kernel chooses, or no port at all.
    pub(crate) fn is_bound_by(&self, socket: &impl AsFd) -> Option<bool> {
        let addr = SockRef::from(socket).local_addr().ok();
        let bound = addr
            .and_then(|addr| addr.as_socket())
            .map(|addr| addr.port());
        match &self.place {
            Ok(Place::Addr(Endpoint::Tcp { port: 0, .. })) => bound.is_none().then_some(false),
            Ok(Place::Addr(Endpoint::Tcp { port, .. })) => Some(bound == Some(*port)),
            Ok(Place::Socket(_)) => None,
            _ => bound.is_some().then_some(false),
        }
    }

    /// Listens on a socket that another process has bound.
    pub(crate) fn take_over(&mut self, socket: OwnedFd) {
        self.place = Ok(Place::Socket(socket));
    }

    fn at(place: Result<Place, Error>) -> Self {
        Self {
            place,
            label: Box::default(),
            limits: ConnLimits::default(),
            handshakes: Handshakes::default(),
            udp: UdpOptions::default(),
            udp_option: None,
            path_option: None,
        }
    }

    /// Sets a label, by which [`EventHandler::codec`](crate::EventHandler::codec) can tell the listeners apart. The default is
    /// the empty one.
    pub fn label(mut self, label: impl Into<Box<str>>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets limits for the connections of this listener that differ from the server's. For UDP they apply to the sessions, of
    /// which [`UdpSessions::idle_timeout`] sets the idle timeout.
    pub fn limits(mut self, limits: ConnLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Uses TLS for the connections that are accepted here. The handler receives a connection when its handshake is complete.
    ///
    /// ```no_run
    /// use epicycle::tls::{Identity, TlsServer};
    /// use epicycle::{Listen, serve};
    ///
    /// let tls = TlsServer::new(Identity::from_pem_files("cert.pem", "key.pem")?)?;
    /// serve(Listen::on("tcp://:8443").tls(&tls), |conn, bytes| conn.write(bytes).into())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsServer) -> Self {
        self.handshakes.tls = Some(tls.clone());
        self
    }

    /// Expects a header of the PROXY protocol, version 1 or 2, on connections from these proxies. It comes before TLS and
    /// before the codec. [`Conn::peer_addr`](crate::Conn::peer_addr) is then the address of the proxy's client, and
    /// [`Conn::via`](crate::Conn::via) that of the proxy. A connection whose proxy speaks for itself (`LOCAL`, `UNKNOWN`) keeps
    /// the proxy's address.
    ///
    /// Limits for each IP address count the clients, not the proxies. A header of more than 4 KiB, or one that does not arrive
    /// in time, ends the connection. Extensions of version 2 are skipped.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, proxies: ProxyProtocol) -> Self {
        self.handshakes.proxy = Some(proxies);
        self
    }

    /// Counts the connections that have not passed the steps before `on_open`.
    #[cfg(feature = "cluster")]
    pub(crate) fn entrance(mut self, entrance: &Arc<Entrance>) -> Self {
        self.handshakes.entrance = Some(entrance.clone());
        self
    }

    /// Returns the place with its options, which are checked. `number` is that of the listener.
    pub(crate) fn resolve(self, number: usize) -> Result<Resolved, Error> {
        let place = self.place?;
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxies) = &self.handshakes.proxy {
            proxies.check()?;
            if let Place::Addr(Endpoint::Udp { .. }) = place {
                return Err(Error::Option {
                    name: "proxy_protocol",
                    problem: format!("it is not for datagrams; use a tcp:// address, not {place}"),
                });
            }
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.handshakes.tls
            && tls.handshake_limit().is_zero()
        {
            return Err(Error::Option {
                name: "handshake_timeout",
                problem: "zero would end every handshake at once; use Duration::MAX for never"
                    .to_owned(),
            });
        }
        if let Some(name) = self.path_option {
            return Err(Error::Option {
                name,
                problem: format!("{place} has no path; use unix:///PATH, or leave the option out"),
            });
        }
        if let Place::Path(
            _,
            PathOptions {
                mode: Some(mode), ..
            },
        ) = place
            && mode > 0o777
        {
            return Err(Error::Option {
                name: "path_mode",
                problem: format!("{mode:#o} is more than 0o777; write it in octal, 0o660, say"),
            });
        }
        if let Place::Addr(addr @ Endpoint::Udp { .. }) = place {
            #[cfg(feature = "tls")]
            if self.handshakes.tls.is_some() {
                return Err(Error::Option {
                    name: "tls",
                    problem: format!("there is no TLS over {addr}; use a tcp:// address"),
                });
            }
            self.udp.check()?;
            return Ok(Resolved::Udp((number, addr, self.udp)));
        }
        if place.has_records()
            && let Some(name) = self.handshakes.needs_bytes()
        {
            return Err(Error::Option {
                name,
                problem: format!("it is not for {place}; use unix:// or tcp://"),
            });
        }
        match self.udp_option {
            Some(name) => Err(Error::Option {
                name,
                problem: format!("{place} is no UDP address; use udp://, or leave the option out"),
            }),
            None => Ok(Resolved::Stream(StreamPlace {
                number,
                place,
                handshakes: self.handshakes.shared(),
            })),
        }
    }
}

/// # Unix sockets
///
/// Options of the path. With an address of another type they make the start fail. They are applied before a peer can connect
/// to the path. Another user who may write to the directory can replace the path.
impl Listen {
    /// Sets the permissions of the path, up to `0o777`. A peer needs the permission to write in order to connect. Default:
    /// `0o777` without the bits of the process's umask.
    ///
    /// ```no_run
    /// use epicycle::{Listen, serve};
    ///
    /// // The user and the group.
    /// serve(Listen::on("unix:///run/app/app.sock").path_mode(0o660), |conn, bytes| conn.write(bytes).into())?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn path_mode(self, mode: u32) -> Self {
        self.path("path_mode", |path| path.mode = Some(mode))
    }

    /// Sets the owner of the path: the numbers of the user and of the group (`chown(2)`). `None` stands for the process's own.
    /// Only root can set another user. Other processes can only set a group to which they belong. Default: the process's own
    /// user and group.
    pub fn path_owner(self, user: Option<u32>, group: Option<u32>) -> Self {
        self.path("path_owner", |path| path.owner = Some((user, group)))
    }

    fn path(mut self, option: &'static str, set: impl FnOnce(&mut PathOptions)) -> Self {
        match &mut self.place {
            Ok(Place::Path(_, options)) => set(options),
            Ok(_) => {
                self.path_option.get_or_insert(option);
            }
            // The bad address is reported first.
            Err(_) => {}
        }
        self
    }
}

/// # UDP
///
/// Options of UDP sockets. With an address of another type they make the start fail.
impl Listen {
    /// Serves the socket as sessions, one for each peer address. Default: off, each datagram is given to
    /// [`on_datagram`](crate::EventHandler::on_datagram), and the start fails for a handler without that.
    /// [`serve`](crate::serve) uses sessions.
    pub fn sessions(self, sessions: UdpSessions) -> Self {
        self.udp("sessions", |udp| udp.sessions = Some(sessions))
    }

    /// Uses sessions with the default options if this is a UDP address without sessions.
    pub(crate) fn or_sessions(mut self) -> Self {
        if let Ok(Place::Addr(Endpoint::Udp { .. })) = self.place {
            self.udp.sessions.get_or_insert_with(UdpSessions::new);
        }
        self
    }

    /// Joins a multicast group. The socket is on one reactor only, also with [`AcceptMode::ReusePort`](crate::AcceptMode),
    /// because each of several sockets would receive a copy.
    pub fn join_multicast(self, group: impl Into<IpAddr>, interface: MulticastInterface) -> Self {
        let group = group.into();
        self.udp("join_multicast", |udp| udp.groups.push((group, interface)))
    }

    /// Allows sending to broadcast addresses (`SO_BROADCAST`). Default: off.
    pub fn broadcast(self, on: bool) -> Self {
        self.udp("broadcast", |udp| udp.broadcast = on)
    }

    /// Sets the size of the kernel's receive buffer of the socket, in bytes (`SO_RCVBUF`). Default: the system's size. The
    /// system caps it (`net.core.rmem_max`). Datagrams that arrive while it is full are lost, so bursts need a large one.
    pub fn recv_buffer(self, bytes: usize) -> Self {
        self.udp("recv_buffer", |udp| udp.recv_buffer = Some(bytes))
    }

    /// Sets the size of the kernel's send buffer of the socket, in bytes (`SO_SNDBUF`). Default: the system's size.
    pub fn send_buffer(self, bytes: usize) -> Self {
        self.udp("send_buffer", |udp| udp.send_buffer = Some(bytes))
    }

    /// Sets the most datagrams that one system call receives or sends, from 1 to 64. Default: 64.
    ///
    /// On Linux, with 2 or more, a run of datagrams of one size between the same two addresses counts as one (`UDP_GRO`,
    /// `UDP_SEGMENT`). Each datagram of the batch then has a buffer of 64 KiB, once per reactor. A batch of 64 reserves 4 MiB
    /// of address space, of which only the part that datagrams have reached takes memory. On other systems each datagram needs
    /// one call.
    pub fn batch(self, datagrams: usize) -> Self {
        self.udp("batch", |udp| udp.batch = datagrams)
    }

    /// Sets the length of the longest datagram that is received whole, from 16 bytes to 64 KiB. Default: 64 KiB, so that all
    /// datagrams are whole. A longer datagram is cut to this length and marked as [`truncated`](crate::Datagram::truncated).
    pub fn max_datagram(self, bytes: usize) -> Self {
        self.udp("max_datagram", |udp| udp.max_datagram = bytes)
    }

    /// Lets other sockets of the same user have the address too (`SO_REUSEPORT`), if they ask for that as well. The kernel then
    /// chooses one of them for each peer. So another process can open the address before this one closes it. Default: off.
    pub fn share_addr(self, on: bool) -> Self {
        self.udp("share_addr", |udp| udp.shares_addr = on)
    }

    fn udp(mut self, option: &'static str, set: impl FnOnce(&mut UdpOptions)) -> Self {
        set(&mut self.udp);
        self.udp_option.get_or_insert(option);
        self
    }
}

impl Place {
    /// Returns true if the address is that of a Unix socket of records.
    fn has_records(&self) -> bool {
        match self {
            Place::Addr(addr) => addr.is_unix_packet(),
            Place::Path(_, options) => options.has_records,
            Place::Socket(_) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Addr(addr) => addr.fmt(f),
            Place::Path(path, options) => {
                let scheme = match options.has_records {
                    true => "unixpacket",
                    false => "unix",
                };
                write!(f, "{scheme}://{}", path.display())
            }
            Place::Socket(fd) => write!(f, "descriptor {}", fd.as_raw_fd()),
        }
    }
}

impl From<&str> for Listen {
    fn from(addr: &str) -> Self {
        Self::on(addr)
    }
}

impl From<&String> for Listen {
    fn from(addr: &String) -> Self {
        Self::on(addr)
    }
}

impl From<String> for Listen {
    fn from(addr: String) -> Self {
        Self::on(addr)
    }
}

impl From<Endpoint> for Listen {
    fn from(addr: Endpoint) -> Self {
        Self::on(addr)
    }
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self::on(addr)
    }
}

impl From<OwnedFd> for Listen {
    fn from(socket: OwnedFd) -> Self {
        Self::socket(socket)
    }
}

impl From<TcpListener> for Listen {
    fn from(listener: TcpListener) -> Self {
        Self::socket(listener)
    }
}

impl From<UnixListener> for Listen {
    fn from(listener: UnixListener) -> Self {
        Self::socket(listener)
    }
}
