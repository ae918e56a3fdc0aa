//! What a server listens on.

pub(crate) mod admission;
pub(crate) mod bind;
pub mod handover;
pub(crate) mod listeners;
pub(crate) mod socket_path;

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::addr::Endpoint;
use crate::engine::udp::{UdpOptions, UdpSessions};
use crate::error::Error;
use crate::sys::datagram::MulticastInterface;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// One thing a server listens on: an address to bind, or a socket that is bound already.
///
/// [`Server::bind`](crate::Server::bind) takes whatever becomes one: a string, a [`Endpoint`], a
/// `SocketAddr`, a `TcpListener`, a `UnixListener`, or any `OwnedFd` of a listening stream socket.
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
#[must_use = "a server has to be told of it"]
pub struct Listen {
    pub(crate) place: Result<Place, Error>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsServer>,
    udp: UdpOptions,
    /// The first option that makes sense for datagrams only, if any was given.
    udp_option: Option<&'static str>,
    /// The first option that makes sense for a path only, if any was given without one.
    path_option: Option<&'static str>,
}

/// Where to listen.
#[derive(Debug)]
pub(crate) enum Place {
    /// Of another kind than a path.
    Addr(Endpoint),
    Path(PathBuf, PathOptions),
    Socket(OwnedFd),
}

/// The options of a Unix socket's path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathOptions {
    pub(crate) mode: Option<u32>,
    /// The user and the group.
    pub(crate) owner: Option<(Option<u32>, Option<u32>)>,
}

impl Listen {
    /// An address: a string (see [`Endpoint`] for the forms), a `SocketAddr` or a `Endpoint`. A bad one
    /// is reported when the server is started.
    pub fn on<A>(addr: A) -> Self
    where
        A: TryInto<Endpoint, Error: Into<Error>>,
    {
        let place = addr.try_into().map(|addr| match addr {
            Endpoint::Unix(path) => Place::Path(path, PathOptions::default()),
            addr => Place::Addr(addr),
        });
        Self::at(place.map_err(Into::into))
    }

    /// A socket that is bound already, and listening or not yet: inherited, or made with options of one's own. It
    /// must be a stream socket. The server's socket options hold for it too. The server closes it when it shuts
    /// down, and leaves a Unix socket's path alone.
    pub fn socket(socket: impl Into<OwnedFd>) -> Self {
        Self::at(Ok(Place::Socket(socket.into())))
    }

    fn at(place: Result<Place, Error>) -> Self {
        Self {
            place,
            #[cfg(feature = "tls")]
            tls: None,
            udp: UdpOptions::default(),
            udp_option: None,
            path_option: None,
        }
    }

    /// Speaks TLS with those who connect here. The handler knows a connection once its handshake is done.
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
        self.tls = Some(tls.clone());
        self
    }

    /// Where to listen, and how if it is for datagrams.
    pub(crate) fn resolve(self) -> Result<(Place, Option<UdpOptions>), Error> {
        let place = self.place?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls
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
        if let Place::Addr(Endpoint::Udp { .. }) = place {
            #[cfg(feature = "tls")]
            if self.tls.is_some() {
                return Err(Error::Option {
                    name: "tls",
                    problem: format!("there is no TLS over {place}; use a tcp:// address"),
                });
            }
            self.udp.check()?;
            return Ok((place, Some(self.udp)));
        }
        match self.udp_option {
            Some(name) => Err(Error::Option {
                name,
                problem: format!("{place} is no UDP address; use udp://, or leave the option out"),
            }),
            None => Ok((place, None)),
        }
    }
}

/// # Unix sockets
///
/// Options of the path; with an address of another kind they are an error when the server is started. They are applied before
/// the path can be connected to. Whoever else may write to its directory can put another file there.
impl Listen {
    /// Who may connect: the permissions of the path, up to `0o777`. Connecting takes the permission to write. Default: all that
    /// the process's umask leaves of `0o777`.
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

    /// Whose the path is: the numbers of the user and of the group, `None` for the process's own (`chown(2)`). Another user takes
    /// root; another group, one that the process belongs to. Default: the process's own.
    pub fn path_owner(self, user: Option<u32>, group: Option<u32>) -> Self {
        self.path("path_owner", |path| path.owner = Some((user, group)))
    }

    fn path(mut self, option: &'static str, set: impl FnOnce(&mut PathOptions)) -> Self {
        match &mut self.place {
            Ok(Place::Path(_, options)) => set(options),
            Ok(_) => {
                self.path_option.get_or_insert(option);
            }
            // That is reported first.
            Err(_) => {}
        }
        self
    }
}

/// # UDP
///
/// Options of UDP sockets; with an address of another kind they are an error when the server is started.
impl Listen {
    /// Serves the socket as sessions, one for each peer address. Default: datagrams are handed to
    /// [`on_datagram`](crate::EventHandler::on_datagram) one by one, and a handler without it is refused; but
    /// [`serve`](crate::serve) has sessions.
    pub fn sessions(self, sessions: UdpSessions) -> Self {
        self.udp("sessions", |udp| udp.sessions = Some(sessions))
    }

    /// Has sessions where datagrams would be handed out one by one.
    pub(crate) fn or_sessions(mut self) -> Self {
        if let Ok(Place::Addr(Endpoint::Udp { .. })) = self.place {
            self.udp.sessions.get_or_insert_with(UdpSessions::new);
        }
        self
    }

    /// Joins a multicast group. With [`AcceptMode::ReusePort`](crate::AcceptMode), a socket that joins a group here is
    /// still on one reactor only, since each socket would receive a copy.
    pub fn join_multicast(self, group: impl Into<IpAddr>, interface: MulticastInterface) -> Self {
        let group = group.into();
        self.udp("join_multicast", |udp| udp.groups.push((group, interface)))
    }

    /// Allows sending to broadcast addresses (`SO_BROADCAST`). Default: off.
    pub fn broadcast(self, on: bool) -> Self {
        self.udp("broadcast", |udp| udp.broadcast = on)
    }

    /// The kernel's receive buffer of the socket, in bytes (`SO_RCVBUF`). Default: the system's. What arrives while it
    /// is full is lost, so bursts need a large one; the system caps it (`net.core.rmem_max`).
    pub fn recv_buffer(self, bytes: usize) -> Self {
        self.udp("recv_buffer", |udp| udp.recv_buffer = Some(bytes))
    }

    /// The kernel's send buffer of the socket, in bytes (`SO_SNDBUF`). Default: the system's.
    pub fn send_buffer(self, bytes: usize) -> Self {
        self.udp("send_buffer", |udp| udp.send_buffer = Some(bytes))
    }

    /// How many datagrams a system call receives or sends at the most, from 1 to 64. Default: 64.
    ///
    /// On Linux, with 2 or more, a run of datagrams of one size between the same two addresses counts as one (`UDP_GRO`,
    /// `UDP_SEGMENT`). Each of the batch then has a buffer of 64 KiB, once per reactor: with 64, 4 MiB of addresses, of
    /// which only what datagrams have reached takes memory. Elsewhere each datagram is a call of its own.
    pub fn batch(self, datagrams: usize) -> Self {
        self.udp("batch", |udp| udp.batch = datagrams)
    }

    /// The longest datagram received whole, in bytes; of a longer one the beginning is handed over, marked as
    /// [`truncated`](crate::Datagram::truncated). Default: 64 KiB, so that all are whole.
    pub fn max_datagram(self, bytes: usize) -> Self {
        self.udp("max_datagram", |udp| udp.max_datagram = bytes)
    }

    fn udp(mut self, option: &'static str, set: impl FnOnce(&mut UdpOptions)) -> Self {
        set(&mut self.udp);
        self.udp_option.get_or_insert(option);
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Addr(addr) => addr.fmt(f),
            Place::Path(path, _) => write!(f, "unix://{}", path.display()),
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
