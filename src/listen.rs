//! What a server listens on.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::addr::ListenAddr;
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// One thing a server listens on: an address to bind, or a socket that is bound already.
///
/// [`Server::bind`](crate::Server::bind) takes whatever becomes one: a string, a [`ListenAddr`], a
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
pub struct Listen {
    pub(crate) place: Result<Place, Error>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsServer>,
}

/// Where to listen.
#[derive(Debug)]
pub(crate) enum Place {
    Addr(ListenAddr),
    Socket(OwnedFd),
}

impl Listen {
    /// An address: a string (see [`ListenAddr`] for the forms), a `SocketAddr` or a `ListenAddr`. A bad one
    /// is reported when the server is started.
    pub fn on<A>(addr: A) -> Self
    where
        A: TryInto<ListenAddr, Error: Into<Error>>,
    {
        Self::at(addr.try_into().map(Place::Addr).map_err(Into::into))
    }

    /// A socket that is bound already, and listening or not yet: inherited, or made with options of one's own. It
    /// must be a stream socket. The server closes it when it shuts down, and leaves a Unix socket's path alone.
    pub fn socket(socket: impl Into<OwnedFd>) -> Self {
        Self::at(Ok(Place::Socket(socket.into())))
    }

    fn at(place: Result<Place, Error>) -> Self {
        Self {
            place,
            #[cfg(feature = "tls")]
            tls: None,
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
    #[must_use]
    pub fn tls(mut self, tls: &TlsServer) -> Self {
        self.tls = Some(tls.clone());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Addr(addr) => addr.fmt(f),
            Place::Socket(fd) => write!(f, "{fd:?}"),
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

impl From<ListenAddr> for Listen {
    fn from(addr: ListenAddr) -> Self {
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
