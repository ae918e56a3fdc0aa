//! Connections that no listener accepts: outbound ones, and sockets that the application has connected.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::context::Arrival;
use super::{Command, Engine, EventHandler, HandleError};
use crate::addr::Endpoint;
use crate::engine::conn::origin::Origin;
use crate::engine::connect::{Connect, ConnectError, DialId};
use crate::engine::mailbox::PushError;
use crate::error::Error;
use crate::sys::socket::StreamSocket;
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// A requested outbound connection. Dropping this value does not cancel the request.
pub struct Connecting<H: EventHandler> {
    id: DialId,
    reactor: usize,
    engine: Engine<H>,
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
        if !self.takes_connects() {
            return Err(ConnectError::Stopped);
        }
        let mut connect = connect.into();
        connect.check().map_err(ConnectError::Option)?;
        let to = std::mem::replace(&mut connect.to, Ok(Endpoint::Unix(Default::default())));
        let to = to
            .map_err(|error| error.copy())
            .and_then(check_reachable)
            .map_err(ConnectError::Address)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &connect.tls {
            check_tls(tls, &to)?;
        }
        let id = DialId(self.shared().next_dial.fetch_add(1, Ordering::Relaxed));
        self.request(reactor, Command::Connect(id, connect, to))?;
        Ok(Connecting {
            id,
            reactor,
            engine: self.clone(),
        })
    }

    /// Takes over a connected stream socket, TCP or Unix, on the reactors in rotation.
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
        let socket = socket.into();
        if !self.takes_connects() {
            return Err(ConnectError::Stopped);
        }
        let (socket, peer) = StreamSocket::adopt(socket).map_err(ConnectError::Io)?;
        let target = self.peer(self.next_reactor());
        target.load.fetch_add(1, Ordering::Relaxed);
        let arrival = Arrival {
            socket,
            peer,
            origin: Origin::Adopted { token },
            handshakes: None,
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
fn check_reachable(to: Endpoint) -> Result<Endpoint, Error> {
    let (host, port, kind) = match &to {
        Endpoint::Tcp { host, port, .. } => (host, *port, "tcp"),
        Endpoint::Udp { host, port, .. } => (host, *port, "udp"),
        Endpoint::Unix(_) | Endpoint::UnixAbstract(_) => return Ok(to),
    };
    let problem = match port {
        _ if host.is_empty() => "there is no host to connect to",
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
        Endpoint::Unix(_) | Endpoint::UnixAbstract(_) => "",
        Endpoint::Udp { .. } => {
            return Err(ConnectError::Address(Error::Address {
                input: to.to_string(),
                problem: "there is no TLS over datagrams; use a tcp:// address".to_owned(),
            }));
        }
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
