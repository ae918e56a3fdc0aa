//! Connections that no listener accepts: outbound ones, and sockets that the application has connected.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::context::Arrival;
use super::{Command, Engine, EventHandler, HandleError};
use crate::addr::Endpoint;
use crate::engine::conn::origin::Origin;
use crate::engine::connect::{Connect, ConnectError, DialId};
use crate::engine::listen::handshakes::Handshakes;
use crate::engine::mailbox::PushError;
use crate::error::Error;
use crate::sys::socket::StreamSocket;
#[cfg(feature = "tls")]
use crate::tls::{TlsClient, TlsServer};

/// A requested outbound connection. Dropping this value does not cancel the request.
pub struct Connecting<H: EventHandler> {
    id: DialId,
    reactor: usize,
    engine: Engine<H>,
}

/// A connected stream socket that the engine is to take over, for [`Engine::adopt_with`].
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use epicycle::{Adopt, Client, service};
///
/// let (near, far) = UnixStream::pair().expect("two ends");
/// let running = Client::new().start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
/// let adopt = Adopt::new(near).token(7).reactor(0);
/// running.engine().adopt_with(adopt).expect("the engine runs");
/// # use std::io::{Read, Write};
/// # (&far).write_all(b"hello").unwrap();
/// # (&far).read_exact(&mut [0; 5]).unwrap();
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it closes the socket"]
pub struct Adopt {
    socket: OwnedFd,
    token: u64,
    reactor: Option<usize>,
    handshakes: Handshakes,
}

impl Adopt {
    /// Describes a socket without TLS, for the reactors in rotation, with the token 0.
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        Self {
            socket: socket.into(),
            token: 0,
            reactor: None,
            handshakes: Handshakes::default(),
        }
    }

    /// Sets a number by which the handler recognizes the connection: [`Origin::Adopted`] contains it. Default: 0.
    pub fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }

    /// Chooses the reactor, counted from 0. Default: each in turn.
    pub fn reactor(mut self, reactor: usize) -> Self {
        self.reactor = Some(reactor);
        self
    }

    /// Uses TLS as the server: the peer begins the handshake.
    #[cfg(feature = "tls")]
    pub fn tls_server(mut self, tls: &TlsServer) -> Self {
        self.handshakes.tls = Some(tls.clone());
        self
    }

    /// Uses TLS as the client: this side begins the handshake, and the peer's certificate must be valid for `host`, or for
    /// [`TlsClient::server_name`] if that is set. The handshake may take 10 s.
    ///
    /// ```no_run
    /// use std::net::TcpStream;
    /// use epicycle::tls::{Roots, TlsClient};
    /// use epicycle::Adopt;
    ///
    /// let tls = TlsClient::new(&Roots::native()?)?;
    /// let socket = TcpStream::connect("example.com:443")?;
    /// let adopt = Adopt::new(socket).tls_client(&tls, "example.com");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_client(mut self, tls: &TlsClient, host: &str) -> Self {
        self.handshakes.tls_client = Some((tls.clone(), host.to_owned()));
        self
    }
}

#[cfg(feature = "tls")]
impl Handshakes {
    fn check(&self) -> Result<(), ConnectError> {
        let bad = |name, problem: &str| {
            let problem = problem.to_owned();
            Err(ConnectError::Option(Error::Option { name, problem }))
        };
        match (&self.tls, &self.tls_client) {
            (Some(_), Some(_)) => bad("tls_client", "it is a TLS server already; use one of both"),
            (Some(tls), None) if tls.handshake_limit().is_zero() => bad(
                "handshake_timeout",
                "zero would end the handshake at once; use Duration::MAX for never",
            ),
            (None, Some((tls, host))) => match tls.name_for(host) {
                Ok(_) => Ok(()),
                Err(error) => Err(ConnectError::Tls(error.into())),
            },
            _ => Ok(()),
        }
    }
}

impl<H: EventHandler> Engine<H> {
    /// Makes an outbound connection, on the reactors in rotation. Returns at once. The handler receives the result:
    /// [`on_open`](EventHandler::on_open) when the connection is open, or
    /// [`on_connect_failed`](EventHandler::on_connect_failed) when an attempt fails.
    ///
    /// The connection counts among the engine's connections, but not against
    /// [`max_connections`](crate::Server::max_connections).
    ///
    /// During a shutdown, an answer may need an outbound connection. So connections (except over UDP) are made as
    /// long as somebody [waits](crate::codec::Stage) for an answer on a connection, counted from the beginning of the
    /// shutdown. After that, and at the drain deadline, no more are made and idle ones are closed.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Option`], [`ConnectError::Address`] for an address that cannot be connected to,
    /// [`ConnectError::Tls`] for a host that no certificate can be for, [`ConnectError::Stopped`] and
    /// [`ConnectError::MailboxFull`]. The handler is then not called.
    pub fn connect(&self, connect: impl Into<Connect>) -> Result<Connecting<H>, ConnectError> {
        self.connect_on(self.next_reactor(), connect)
    }

    /// Makes an outbound connection on one reactor, as [`connect`](Self::connect) does.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and [`ConnectError::NoSuchReactor`].
    pub fn connect_on(
        &self,
        reactor: usize,
        connect: impl Into<Connect>,
    ) -> Result<Connecting<H>, ConnectError> {
        let (id, connect, to) = self.prepare(connect.into())?;
        self.request(reactor, Command::Connect(id, Box::new(connect), to))?;
        Ok(self.connecting(id, reactor))
    }

    /// Returns the handle of a requested connection.
    pub(super) fn connecting(&self, id: DialId, reactor: usize) -> Connecting<H> {
        Connecting {
            id,
            reactor,
            engine: self.clone(),
        }
    }

    /// Checks a connect, and gives it its identifier.
    pub(super) fn prepare(
        &self,
        mut connect: Connect,
    ) -> Result<(DialId, Connect, Endpoint), ConnectError> {
        if !self.takes_connects() {
            return Err(ConnectError::Stopped);
        }
        connect
            .check(&self.shared().limits)
            .map_err(ConnectError::Option)?;
        let to = std::mem::replace(&mut connect.to, Ok(Endpoint::Unix(Default::default())));
        let to = to
            .map_err(|error| error.copy())
            .and_then(|to| check_reachable(to, connect.any_port))
            .map_err(ConnectError::Address)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &connect.tls {
            check_tls(tls, &to)?;
        }
        let id = DialId(self.shared().next_dial.fetch_add(1, Ordering::Relaxed));
        Ok((id, connect, to))
    }

    /// Takes over a connected stream socket, TCP or Unix (also one of [records](crate::Endpoint#records)), on the reactors in rotation.
    /// [`on_open`](EventHandler::on_open) is called for it. Its origin is [`Origin::Adopted`] with `token`.
    ///
    /// The socket becomes non-blocking. Its other options stay as they are. The connection is read while its output
    /// waits, unless its codec [requires otherwise](crate::codec::Backpressure).
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`] for a descriptor that is not a connected stream socket, and [`ConnectError::Stopped`].
    /// The socket is then closed.
    pub fn adopt(&self, socket: impl Into<OwnedFd>, token: u64) -> Result<(), ConnectError> {
        self.adopt_with(Adopt::new(socket).token(token))
    }

    /// Takes over a connected stream socket on one reactor, as [`adopt`](Self::adopt) does.
    ///
    /// # Errors
    ///
    /// As for [`adopt`](Self::adopt), and [`ConnectError::NoSuchReactor`].
    pub fn adopt_on(
        &self,
        reactor: usize,
        socket: impl Into<OwnedFd>,
        token: u64,
    ) -> Result<(), ConnectError> {
        self.adopt_with(Adopt::new(socket).token(token).reactor(reactor))
    }

    /// Takes over a connected stream socket, as [`adopt`](Self::adopt) does, with the options of the [`Adopt`].
    ///
    /// With TLS, [`on_open`](EventHandler::on_open) is called when the handshake is complete. If it fails,
    /// [`on_connect_failed`](EventHandler::on_connect_failed) is called instead, with the token and the address of the peer.
    ///
    /// # Errors
    ///
    /// As for [`adopt`](Self::adopt), and [`ConnectError::NoSuchReactor`], [`ConnectError::Option`] and
    /// [`ConnectError::Tls`] for a host that no certificate can be for.
    pub fn adopt_with(&self, adopt: Adopt) -> Result<(), ConnectError> {
        if !self.takes_connects() {
            return Err(ConnectError::Stopped);
        }
        let reactors = self.reactors();
        let reactor = adopt.reactor.unwrap_or_else(|| self.next_reactor());
        let target = self.shared().reactors.get(reactor);
        let target = target.ok_or(ConnectError::NoSuchReactor { reactor, reactors })?;
        #[cfg(feature = "tls")]
        adopt.handshakes.check()?;
        let (socket, peer) = StreamSocket::adopt(adopt.socket).map_err(ConnectError::Io)?;
        if socket.has_records()
            && let Some(name) = adopt.handshakes.needs_bytes()
        {
            let problem = "it is not for a Unix socket of records; use a stream socket".to_owned();
            return Err(ConnectError::Option(Error::Option { name, problem }));
        }
        target.load.fetch_add(1, Ordering::Relaxed);
        let arrival = Arrival {
            socket,
            peer,
            origin: Origin::Adopted { token: adopt.token },
            handshakes: adopt.handshakes.shared(),
        };
        // The number of descriptors bounds these, as it bounds the connections that the main reactor deals.
        if let Err(PushError::Closed(_) | PushError::Full(_)) =
            target.mailbox.push_unbounded(Command::Adopt(arrival))
        {
            target.load.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Stopped);
        }
        Ok(())
    }

    fn next_reactor(&self) -> usize {
        self.shared().next_reactor.fetch_add(1, Ordering::Relaxed) % self.reactors()
    }
}

/// Returns an error for addresses that can be listened on but not connected to.
fn check_reachable(to: Endpoint, any_port: bool) -> Result<Endpoint, Error> {
    let (host, port, kind) = match &to {
        Endpoint::Tcp { host, port, .. } => (host, *port, "tcp"),
        Endpoint::Udp { host, port, .. } => (host, *port, "udp"),
        _ => return Ok(to),
    };
    let problem = match port {
        _ if host.is_empty() => "there is no host to connect to",
        0 if any_port && kind == "udp" => return Ok(to),
        0 => "port 0 cannot be connected to",
        _ => return Ok(to),
    };
    Err(Error::Address {
        input: to.to_string(),
        problem: format!("{problem}; write {kind}://127.0.0.1:9000, for example"),
    })
}

/// Returns an error for hosts that TLS cannot be used with. Further attempts would fail in the same way.
#[cfg(feature = "tls")]
fn check_tls(tls: &TlsClient, to: &Endpoint) -> Result<(), ConnectError> {
    let host = match to {
        Endpoint::Tcp { host, .. } => host,
        Endpoint::Udp { .. } | Endpoint::UnixPacket(_) | Endpoint::UnixPacketAbstract(_) => {
            return Err(ConnectError::Address(Error::Address {
                input: to.to_string(),
                problem: "there is no TLS over datagrams and records; use a tcp:// address"
                    .to_owned(),
            }));
        }
        _ => "",
    };
    match tls.name_for(host) {
        Ok(_) => Ok(()),
        Err(error) => Err(ConnectError::Tls(error.into())),
    }
}

impl<H: EventHandler> Connecting<H> {
    /// Returns the reactor that the connection belongs to, counted from 0.
    pub fn reactor(&self) -> usize {
        self.reactor
    }

    /// Ends the attempts. The handler receives a last failure, [`ConnectError::Cancelled`]. A connection that is
    /// already open stays open, and is not made again when it ends.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if the request was not accepted.
    pub fn cancel(&self) -> Result<(), HandleError> {
        self.engine
            .request(self.reactor, Command::CancelConnect(self.id))
    }
}

impl<H: EventHandler> fmt::Debug for Connecting<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connecting").field(&self.id.0).finish()
    }
}

impl From<HandleError> for ConnectError {
    fn from(error: HandleError) -> Self {
        match error {
            HandleError::Closed => ConnectError::Stopped,
            HandleError::MailboxFull => ConnectError::MailboxFull,
            HandleError::NoSuchReactor { reactor, reactors } => {
                ConnectError::NoSuchReactor { reactor, reactors }
            }
        }
    }
}
