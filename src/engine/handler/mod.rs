//! What an application implements, and what it is given to work with.
//!
//! ```
//! use epicycle::codec::Lines;
//! use epicycle::{Action, Conn, EventHandler, Server};
//!
//! /// Answers each line with its number on that connection.
//! struct Numbers;
//!
//! impl EventHandler for Numbers {
//!     type Codec = Lines;
//!     type Session = u64;
//!
//!     fn codec(&mut self) -> Lines {
//!         Lines::new()
//!     }
//!
//!     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<u64> {
//!         Some(0)
//!     }
//!
//!     fn react(&mut self, conn: &mut Conn<'_, Self>, count: &mut u64, _line: &[u8]) -> Action {
//!         *count += 1;
//!         conn.send(count.to_string()).into()
//!     }
//! }
//!
//! let running = Server::bind("tcp://127.0.0.1:0").start(|_reactor| Numbers)?;
//! # use std::io::{Read, Write};
//! # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
//! # peer.write_all(b"a\nb\n").unwrap();
//! # let mut answer = [0; 4];
//! # peer.read_exact(&mut answer).unwrap();
//! # assert_eq!(&answer, b"1\n2\n");
//! # Ok::<(), epicycle::Error>(())
//! ```

pub(crate) mod answer;
pub(crate) mod closing;
mod conn;
mod connecting;
pub(crate) mod context;
pub(crate) mod converse;
pub(crate) mod engine;
mod file;
mod flow;
mod handle;
pub(crate) mod pipe;
mod reactor;
mod service;
mod udp;

use std::time::Duration;

use crate::codec::Codec;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::connect::FailedConnect;
use crate::engine::slots::ConnId;

pub use self::answer::Answer;
pub use self::conn::{Conn, ConnTimer, DetachError, Detached};
pub use self::connecting::Connecting;
pub use self::engine::Engine;
pub(crate) use self::handle::{Command, Completion, Moment};
pub use self::handle::{Handle, HandleError};
pub use self::pipe::PipeError;
pub use self::reactor::Reactor;
pub use self::service::{Service, service};
pub use self::udp::{Datagram, Udp};
pub use crate::engine::conn::write::WriteError;

/// What is handed to [`EventHandler::react`]: a frame of the handler's codec.
pub type Frame<'a, H> = <<H as EventHandler>::Codec as Codec>::Frame<'a>;

/// An application: what happens when connections open, frames arrive and connections close.
///
/// Each reactor has a handler value of its own, made on the reactor's thread by the factory given to
/// [`Server::run`](crate::Server::run). All its callbacks run on that thread, one at a time, so a handler
/// needs no locks and need be neither `Send` nor `Sync`. What reactors share is an `Arc` that the factory
/// captures. A callback must not block: hand such work to a [`WorkerPool`](crate::WorkerPool).
///
/// For each connection: [`on_open`](Self::on_open), then [`react`](Self::react) for every frame, then
/// [`on_close`](Self::on_close) exactly once. A panic in a callback of a connection closes that connection
/// alone, and `on_close` still runs (this needs the default `panic = "unwind"`).
pub trait EventHandler: Sized + 'static {
    /// How the byte stream is cut into frames; [`Raw`](crate::codec::Raw) when it is not.
    type Codec: Codec;

    /// What the handler keeps about a connection; `()` for nothing.
    type Session: 'static;

    /// Whether [`on_datagram`](Self::on_datagram) is implemented. Without it, a server does not start on a UDP address that has no
    /// [sessions](crate::Listen::sessions), since it would drop whatever arrives there.
    const HANDLES_DATAGRAMS: bool = false;

    /// Makes the codec of a new connection.
    fn codec(&mut self) -> Self::Codec;

    /// The reactor is about to run. Connections come only after this.
    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _ = reactor;
    }

    /// A connection has opened. `None` refuses it: what has been written to it is sent, then it is
    /// closed without any other callback.
    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Self::Session>;

    /// A frame has arrived.
    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
        frame: Frame<'_, Self>,
    ) -> Action;

    /// A look at the bytes before they are offered to the kernel: each byte once, in order. Datagrams are not shown.
    fn pre_write(&mut self, id: ConnId, session: &mut Self::Session, bytes: &[u8]) {
        let _ = (id, session, bytes);
    }

    /// The output of a connection went above its high-water mark, or a write was refused as
    /// [`Full`](WriteError::Full), and there is room now: time to write more. See [`Conn::has_room`].
    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Self::Session) -> Action {
        let _ = (conn, session);
        Action::Continue
    }

    /// The peer has ended its stream and may still be reading: a half-close. By default the connection
    /// drains and closes; with [`Action::Continue`] it stays open for writing.
    fn on_peer_shutdown(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
    ) -> Action {
        let _ = (conn, session);
        Action::Close
    }

    /// A timer set with [`Conn::set_timer`] has run out.
    fn on_timer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
        token: u64,
    ) -> Action {
        let _ = (conn, session, token);
        Action::Continue
    }

    /// A connection has closed. Runs exactly once for each session that `on_open` made.
    ///
    /// Where this side has connected and the peer has failed, by a timeout or by what it sent, this runs at once. The engine
    /// then still sends what was written, and waits for the peer's FIN as long as
    /// [`fin_timeout`](crate::Server::fin_timeout) allows; `info` tells how things stand before that.
    fn on_close(&mut self, info: &Closed, session: Self::Session, reason: CloseReason) {
        let _ = (info, session, reason);
    }

    /// An outbound connection was not made, or not this time: see [`FailedConnect::retry_in`]. Each
    /// [`Engine::connect`] that was taken comes to an [`on_open`](Self::on_open) or to a failure that is not
    /// tried again.
    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        let _ = (reactor, failed);
    }

    /// A first datagram has arrived from a peer that has no session, at a UDP socket with [sessions](crate::Listen::sessions):
    /// whether it may have one. By default it may.
    ///
    /// The address may be forged, and a session costs memory and the place of another one. Until the peer has proved that it
    /// is where it says, answer `false`, and send it what only the true owner of the address can return, as DTLS and QUIC
    /// do: a hash of the address under a secret of the server's, say, by [`Udp::reply`]. That costs no memory. Send no more bytes
    /// than came. Once `true` is answered, the datagram goes on to [`react`](Self::react); otherwise it is dropped.
    ///
    /// A panic here refuses the peer.
    fn admit(&mut self, udp: &mut Udp<'_, Self>, datagram: &Datagram<'_>) -> bool {
        let _ = (udp, datagram);
        true
    }

    /// A datagram has arrived at a UDP socket without [sessions](crate::Listen::sessions). Called only where
    /// [`HANDLES_DATAGRAMS`](Self::HANDLES_DATAGRAMS) is true; the default drops the datagram.
    ///
    /// A panic here costs this datagram alone. [`Action::Close`] does nothing, as there is no connection to close, so
    /// that a reply's result can be the answer: `udp.reply(bytes).into()`.
    ///
    /// ```
    /// # use epicycle::{codec::Raw, Conn, Frame};
    /// use epicycle::{Action, Datagram, EventHandler, Server, Udp};
    ///
    /// struct Echo;
    ///
    /// impl EventHandler for Echo {
    /// #   type Codec = Raw;
    /// #   type Session = ();
    /// #   fn codec(&mut self) -> Raw { Raw }
    /// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { None }
    /// #   fn react(&mut self, _: &mut Conn<'_, Self>, _: &mut (), _: Frame<'_, Self>) -> Action { Action::Close }
    ///     const HANDLES_DATAGRAMS: bool = true;
    ///
    ///     fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
    ///         udp.reply(datagram.data).into()
    ///     }
    /// }
    ///
    /// let running = Server::bind("udp://127.0.0.1:0").start(|_reactor| Echo)?;
    /// # let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    /// # peer.send_to(b"hello", running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
    /// # let mut answer = [0; 9];
    /// # assert_eq!(peer.recv(&mut answer).unwrap(), 5);
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        let _ = (udp, datagram);
        Action::Continue
    }

    /// Called once after boot (see [`Server::tick`](crate::Server::tick)), then again after the time it
    /// answers, until it answers `None`. It runs on the loop, never beside it.
    ///
    /// That time counts from when this call was due, however late it was made, so equal times keep an even pace. Calls that
    /// have been missed altogether are skipped. It is as exact as [`Conn::set_timer`].
    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        let _ = reactor;
        None
    }

    /// The engine is shutting down: no connection is accepted any more, and those that are open will drain
    /// and close after this. The place for a last message.
    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _ = reactor;
    }
}

/// What a callback wants to happen next.
///
/// Made `From` the result of a write, so that `conn.write(answer).into()` goes on when the answer was
/// taken, and closes the connection when it was refused.
#[derive(Debug, Default)]
#[must_use]
#[non_exhaustive]
pub enum Action {
    /// Go on.
    #[default]
    Continue,
    /// Close this connection once everything written is sent.
    Close,
    /// The same, because a write was refused. The error is logged, as a warning unless the peer is the cause of it, and is the
    /// [`CloseReason`]. A codec that owes an answer gives one that says so: HTTP answers 500.
    Refused(Box<WriteError>),
    /// Shut the whole server down, in stages.
    Shutdown,
}

impl From<Result<(), WriteError>> for Action {
    #[inline]
    fn from(written: Result<(), WriteError>) -> Self {
        match written {
            Ok(()) => Action::Continue,
            Err(error) => refused(error),
        }
    }
}

/// Out of line, so that moving the error does not weigh on every callback that writes.
#[cold]
#[inline(never)]
fn refused(error: WriteError) -> Action {
    Action::Refused(Box::new(error))
}
