//! The traits that an application implements, and the types that it works with.
//!
//! ```
//! use epicycle::codec::Lines;
//! use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
//!
//! /// Answers each line with its number on that connection.
//! struct Numbers;
//!
//! impl EventHandler for Numbers {
//!     type Codec = Lines;
//!     type Session = u64;
//!
//!     fn codec(&mut self, _info: &ConnInfo<'_>) -> Lines {
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
mod limits;
mod listening;
mod outlet;
pub(crate) mod pipe;
mod reactor;
mod service;
#[cfg(feature = "tls")]
pub(crate) mod starting_tls;
pub(crate) mod switching;
mod udp;

use std::time::Duration;

use crate::codec::Codec;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::ConnInfo;
use crate::engine::connect::FailedConnect;
use crate::engine::slots::ConnId;

pub use self::answer::Answer;
pub use self::conn::{Conn, ConnTimer, DetachError, Detached};
pub use self::connecting::{Adopt, Connecting};
pub use self::engine::Engine;
#[cfg(feature = "rpc")]
pub(crate) use self::handle::ConnTask;
pub(crate) use self::handle::{Command, Completion, Moment};
pub use self::handle::{Handle, HandleError};
pub use self::listening::Listening;
pub use self::outlet::Outlet;
pub use self::pipe::PipeError;
pub use self::reactor::Reactor;
pub use self::service::{Service, service};
#[cfg(feature = "tls")]
pub use self::starting_tls::StartTlsError;
pub use self::udp::{Datagram, Udp};
pub use crate::engine::conn::write::WriteError;

/// The argument of [`EventHandler::react`]: a frame of the handler's codec.
pub type Frame<'a, H> = <<H as EventHandler>::Codec as Codec>::Frame<'a>;

/// The callbacks of an application: a connection opens, a frame arrives, a connection closes.
///
/// Each reactor has its own handler value. The factory given to [`Server::run`](crate::Server::run) makes it on the
/// reactor's thread. All callbacks of a handler run on that thread, one at a time. So a handler needs no locks and
/// need be neither `Send` nor `Sync`. To share state among reactors, let the factory capture an `Arc`. A callback
/// must not block: give such work to a [`WorkerPool`](crate::WorkerPool).
///
/// For each connection the order is [`on_open`](Self::on_open), then [`react`](Self::react) for every frame, then
/// [`on_close`](Self::on_close) exactly once. A panic in a callback of a connection closes only that connection, and
/// `on_close` still runs. This needs the default `panic = "unwind"`.
pub trait EventHandler: Sized + 'static {
    /// Decodes the byte stream into frames. [`Raw`](crate::codec::Raw) passes the bytes on as they arrive.
    type Codec: Codec;

    /// The application's state for a connection. Use `()` for none.
    type Session: 'static;

    /// True if [`on_datagram`](Self::on_datagram) is implemented. If it is false, a server does not start on a UDP
    /// address without [sessions](crate::Listen::sessions), because it would drop all datagrams that arrive there.
    const HANDLES_DATAGRAMS: bool = false;

    /// True if [`on_fin`](Self::on_fin) is implemented. If it is false, it is not called.
    const HANDLES_FIN: bool = false;

    /// True if [`pre_write`](Self::pre_write) is implemented. If it is false, it is not called, and large writes may reach the
    /// kernel at once: see [`Conn::write`].
    const HANDLES_PRE_WRITE: bool = false;

    /// Makes the codec of a new connection.
    ///
    /// `info` tells the listener, its label, the token of an outbound connection, and more. With it, a handler whose codec is
    /// [one of several](crate::codec::one_of) chooses the protocol. Other handlers ignore it.
    ///
    /// It is called before the TLS handshake. If both sides have agreed on a protocol there, it is called again, and the new
    /// codec takes the place of the first: [`info.alpn()`](ConnInfo::alpn) is then known. Of a UDP session it is also called
    /// after a datagram that is not a frame, since the old codec may be amid that frame. The new one takes the place also of a
    /// codec that the session had [switched](Conn::switch) to: keep the choice by the [peer](ConnInfo::peer_addr) if it has to
    /// last.
    fn codec(&mut self, info: &ConnInfo<'_>) -> Self::Codec;

    /// Called before the reactor runs. No connection opens before this.
    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _ = reactor;
    }

    /// Called when a connection has opened. `None` refuses it: the connection closes once all output is sent, without
    /// any other callback.
    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Self::Session>;

    /// Called when a frame has arrived.
    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
        frame: Frame<'_, Self>,
    ) -> Action;

    /// Receives the bytes before they are offered to the kernel, each byte once and in order, if
    /// [`HANDLES_PRE_WRITE`](Self::HANDLES_PRE_WRITE) is true. Datagrams are not included.
    fn pre_write(&mut self, id: ConnId, session: &mut Self::Session, bytes: &[u8]) {
        let _ = (id, session, bytes);
    }

    /// Called when there is room for output again, after the output of a connection went above its high-water mark or
    /// a write was refused as [`Full`](WriteError::Full). See [`Conn::has_room`].
    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Self::Session) -> Action {
        let _ = (conn, session);
        Action::Continue
    }

    /// Called once when the peer's FIN has arrived, if [`HANDLES_FIN`](Self::HANDLES_FIN) is true: also while an answer is
    /// owed, while input is held back and while reads are paused. Input before the FIN may not have been handled yet;
    /// [`on_peer_shutdown`](Self::on_peer_shutdown) follows when all of it has been, and never comes first.
    ///
    /// FIN has two meanings: the peer has left, or it has ended its stream and still reads. TCP does not tell them apart. A
    /// proxy usually takes a client's FIN for the first, and returns [`Action::Close`], so that the upstream does not work for
    /// nobody. On an outbound connection return [`Action::Continue`]: the end of the response may not be handled yet.
    fn on_fin(&mut self, conn: &mut Conn<'_, Self>, session: &mut Self::Session) -> Action {
        let _ = (conn, session);
        Action::Continue
    }

    /// Called when the peer has ended its stream (half-close). The peer may still be reading. By default the
    /// connection drains and closes. With [`Action::Continue`] it stays open for writing, until
    /// [`Conn::shutdown_write`] or [`Conn::close`] is called.
    fn on_peer_shutdown(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
    ) -> Action {
        let _ = (conn, session);
        Action::Close
    }

    /// Called when the TLS handshake is complete that [`Conn::start_tls_server`] or [`Conn::start_tls_client`] has begun.
    /// Writes are accepted again, and [`Conn::tls`] returns the result of the handshake. If it fails, the connection closes
    /// with [`CloseReason::Tls`], and this is not called.
    #[cfg(feature = "tls")]
    fn on_tls(&mut self, conn: &mut Conn<'_, Self>, session: &mut Self::Session) -> Action {
        let _ = (conn, session);
        Action::Continue
    }

    /// Called when a timer of [`Conn::set_timer`] or [`Conn::set_interval`] expires.
    fn on_timer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Self::Session,
        token: u64,
    ) -> Action {
        let _ = (conn, session, token);
        Action::Continue
    }

    /// Called when the deadline of [`Conn::set_deadline`] is over. By default the connection closes, with
    /// [`TimeoutKind::Deadline`](crate::TimeoutKind), and a codec that owes an answer sends an error: HTTP answers 503.
    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>, session: &mut Self::Session) -> Action {
        let _ = (conn, session);
        Action::Close
    }

    /// Called when a connection has closed, exactly once for each session that `on_open` made.
    ///
    /// If this side has connected and the peer has failed, by a timeout or by its input, this is called at once.
    /// After that the engine still sends the remaining output, and waits for the peer's FIN as long as
    /// [`fin_timeout`](crate::Server::fin_timeout) allows. `info` then has the figures from before that.
    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Self::Session,
        reason: CloseReason,
    ) {
        let _ = (reactor, info, session, reason);
    }

    /// Called when an attempt to make an outbound connection failed. [`FailedConnect::retry_in`] tells whether
    /// another one follows. Each [`Engine::connect`] that was accepted results in an [`on_open`](Self::on_open), or
    /// in a failure without another attempt.
    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        let _ = (reactor, failed);
    }

    /// Decides about a peer without a session, at a UDP socket with [sessions](crate::Listen::sessions), when its
    /// first datagram arrives. `true`, the default, opens a session, and the datagram goes on to
    /// [`react`](Self::react). `false` drops the datagram.
    ///
    /// The sender's address may be forged, and a session costs memory and takes the place of another one. So return
    /// `false` until the peer has proved its address. With [`Udp::reply`], send it something that only the owner of
    /// the address can return, for example a hash of the address under a secret of the server, as DTLS and QUIC do.
    /// This costs no memory. Do not send more bytes than arrived.
    ///
    /// A panic here refuses the peer.
    fn admit(&mut self, udp: &mut Udp<'_, Self>, datagram: &Datagram<'_>) -> bool {
        let _ = (udp, datagram);
        true
    }

    /// Called when a datagram has arrived at a UDP socket without [sessions](crate::Listen::sessions), if
    /// [`HANDLES_DATAGRAMS`](Self::HANDLES_DATAGRAMS) is true. The default drops the datagram.
    ///
    /// A panic here costs only this datagram. [`Action::Close`] does nothing, because there is no connection to
    /// close. So the result of a reply can be returned: `udp.reply(bytes).into()`.
    ///
    /// ```
    /// # use epicycle::{codec::Raw, Conn, Frame};
    /// use epicycle::{ConnInfo, Action, Datagram, EventHandler, Server, Udp};
    ///
    /// struct Echo;
    ///
    /// impl EventHandler for Echo {
    /// #   type Codec = Raw;
    /// #   type Session = ();
    /// #   fn codec(&mut self, _: &ConnInfo<'_>) -> Raw { Raw }
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

    /// Called once in a turn in which [`Conn::request_turn_end`] was called: after the input, the timers and the deferred tasks,
    /// right before the output is sent. This is the place to do once what many callbacks of the turn have collected: to
    /// write a batch, or to commit it.
    ///
    /// ```
    /// use epicycle::codec::Lines;
    /// use epicycle::{Action, Conn, ConnId, EventHandler, Reactor};
    ///
    /// /// Answers each line with the number of lines that arrived in the same turn.
    /// #[derive(Default)]
    /// struct Batches {
    ///     waiting: Vec<ConnId>,
    /// }
    ///
    /// impl EventHandler for Batches {
    /// #   type Codec = Lines;
    /// #   type Session = ();
    /// #   fn codec(&mut self, _: &epicycle::ConnInfo<'_>) -> Lines { Lines::new() }
    /// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), _line: &[u8]) -> Action {
    ///         self.waiting.push(conn.id());
    ///         conn.request_turn_end();
    ///         Action::Continue
    ///     }
    ///
    ///     fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
    ///         let answer = self.waiting.len().to_string();
    ///         for id in self.waiting.drain(..) {
    ///             reactor.with(id, |conn, _| conn.send(&answer));
    ///         }
    ///     }
    /// }
    /// # use std::io::{Read, Write};
    /// # let running = epicycle::Server::bind("tcp://127.0.0.1:0").start(|_reactor| Batches::default())?;
    /// # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
    /// # peer.write_all(b"a\nb\n").unwrap();
    /// # let mut answer = [0; 4];
    /// # peer.read_exact(&mut answer).unwrap();
    /// # assert_eq!(&answer, b"2\n2\n");
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _ = reactor;
    }

    /// Called once after boot (see [`Server::tick`](crate::Server::tick)), then again after the returned time, until
    /// it returns `None`. It runs on the reactor's thread, like every callback.
    ///
    /// The returned time counts from when this call was due, however late it was made. So equal times keep an even
    /// pace. Missed calls are skipped. It is as exact as [`Conn::set_timer`].
    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        let _ = reactor;
        None
    }

    /// Called when the engine shuts down. No more connections are accepted, and the open ones drain and close after
    /// this. This is the place for a last message.
    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _ = reactor;
    }
}

/// The result of a callback: the next step for the connection.
///
/// It can be made `From` the result of a write. `conn.write(answer).into()` continues if the write was accepted, and
/// closes the connection if it was refused. A callback that writes more than once leaves the `?` to a function of its own:
///
/// ```
/// use epicycle::codec::Lines;
/// use epicycle::{Action, Conn, ConnInfo, EventHandler, WriteError};
///
/// struct Mail;
///
/// impl Mail {
///     fn answer(&mut self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Result<Action, WriteError> {
///         match line {
///             b"EHLO" => {
///                 conn.send("250-mail.example")?;
///                 conn.send("250 8BITMIME")?;
///             }
///             b"QUIT" => {
///                 conn.send("221 goodbye")?;
///                 return Ok(Action::Close);
///             }
///             _ => conn.send("500 unknown command")?,
///         }
///         Ok(Action::Continue)
///     }
/// }
///
/// impl EventHandler for Mail {
/// #   type Codec = Lines;
/// #   type Session = ();
/// #   fn codec(&mut self, _: &ConnInfo<'_>) -> Lines { Lines::new().crlf() }
/// #   fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> { Some(()) }
///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), line: &[u8]) -> Action {
///         self.answer(conn, line).unwrap_or_else(Action::from)
///     }
/// }
/// ```
#[derive(Debug, Default)]
#[must_use]
#[non_exhaustive]
pub enum Action {
    /// Continue.
    #[default]
    Continue,
    /// Close this connection once all output is sent.
    Close,
    /// Close this connection once all output is sent, because a write was refused. The error is logged, as a warning
    /// unless the peer caused it, and is the [`CloseReason`]. A codec that owes an answer sends an error: HTTP
    /// answers 500.
    Refused(Box<WriteError>),
    /// Shut the whole engine down, in stages.
    Shutdown,
}

impl From<Result<(), WriteError>> for Action {
    #[inline]
    fn from(written: Result<(), WriteError>) -> Self {
        match written {
            Ok(()) => Action::Continue,
            Err(error) => error.into(),
        }
    }
}

impl From<WriteError> for Action {
    /// Out of line, so that callbacks that write do not contain the code that moves the error.
    #[cold]
    #[inline(never)]
    fn from(refused: WriteError) -> Self {
        Action::Refused(Box::new(refused))
    }
}
