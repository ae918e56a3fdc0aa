//! Connections that no listener accepts: those this side makes, and those the application has made.

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

/// An outbound connection that was asked for. Dropping it changes nothing.
pub struct Connecting<H: EventHandler> {
    id: DialId,
    reactor: usize,
    engine: Engine<H>,
}

impl<H: EventHandler> Engine<H> {
    /// Makes an outbound connection, on the reactors by turns. Comes back at once; what becomes of it is told
    /// to the handler: [`on_open`](EventHandler::on_open) when it is open,
    /// [`on_connect_failed`](EventHandler::on_connect_failed) when that fails.
    ///
    /// It counts among the engine's connections, but not against
    /// [`max_connections`](crate::Server::max_connections).
    ///
    /// A shutdown that waits for answers may need connections to come to them. So they are made, over UDP excepted, as long as a
    /// connection is left on which somebody [waits](crate::codec::Stage) for an answer since the shutdown began. After that, and
    /// at the drain deadline, no more are made, and idle ones are closed.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Option`], [`ConnectError::Address`] for an address that cannot be connected to, [`ConnectError::Tls`] for one whose host
    /// no certificate can be for, [`ConnectError::Stopped`] and
    /// [`ConnectError::MailboxFull`]. The handler hears nothing then.
    pub fn connect(&self, connect: impl Into<Connect>) -> Result<Connecting<H>, ConnectError> {
        self.connect_on(self.next_reactor(), connect)
    }

    /// The same on one reactor.
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
        let to = to.and_then(reachable).map_err(ConnectError::Address)?;
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

    /// Takes over a connected stream socket, TCP or Unix, on the reactors by turns:
    /// [`on_open`](EventHandler::on_open) is called for it, and its origin is [`Origin::Adopted`] with `token`.
    ///
    /// The socket becomes non-blocking; its other options stay as they are. The connection is read on while its output
    /// waits, unless its codec [says otherwise](crate::codec::Backpressure).
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`] for a descriptor that is no connected stream socket, and
    /// [`ConnectError::Stopped`]. The socket is closed then.
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
        };
        // Bounded by descriptors, as the connections that the main reactor deals are.
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

/// Finds addresses that can be listened on, but not connected to.
fn reachable(to: Endpoint) -> Result<Endpoint, Error> {
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
        problem: format!("{problem}; write {kind}://127.0.0.1:9000, say"),
    })
}

/// Finds what TLS cannot be spoken with, which no further attempt would change.
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
    /// The reactor that the connection belongs to, counted from 0.
    pub fn reactor(&self) -> usize {
        self.reactor
    }

    /// Ends the attempts: the handler is told of a last failure, [`ConnectError::Cancelled`]. A connection that is
    /// open by then stays open, and is not made again when it ends.
    ///
    /// # Errors
    ///
    /// [`HandleError`] when the request was not taken.
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
