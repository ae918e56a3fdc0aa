use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::iter;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;

#[cfg(feature = "proxy-protocol")]
use super::context::Proxied;
use super::context::{Buffers, Connections, Context, Interval, Link, Timer};
use super::{Completion, Engine, EventHandler, Handle, Outlet, Reactor};
use crate::addr::Addr;
use crate::buf::outbox::Outbox;
use crate::buf::queue::MAX_SLICES;
use crate::codec::{Codec, Encode};
use crate::engine::conn::Name;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::{Limits, OutboundPolicy, SMALL_WRITE};
use crate::engine::conn::origin::{Origin, Transport};
use crate::engine::conn::write::WriteError;
use crate::engine::slots::ConnId;
use crate::engine::timer::TimerKey;
use crate::engine::turn_time::tick_at;
use crate::error::error_messages;
use crate::sys::options::{set_recv_buffer, set_send_buffer};
use crate::sys::socket::StreamSocket;
use crate::sys::unix::{self, PeerCredentials};

/// A connection, as callbacks receive it.
///
/// It lives for one callback. To reach the connection later or from another thread, keep its [`id`](Self::id) or its
/// [`handle`](Self::handle).
///
/// A write never blocks, and it is accepted as a whole or not at all. Accepted output is sent in order, at the end of
/// the reactor's turn and by one system call where possible. Only large [writes](Self::write) may leave earlier.
pub struct Conn<'a, H: EventHandler> {
    pub(super) link: &'a mut Link,
    pub(super) codec: &'a mut H::Codec,
    pub(super) cx: &'a mut Context<H>,
    pub(super) connections: &'a Connections<H>,
}

/// A timer on a connection. [`Conn::cancel_timer`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnTimer(TimerKey);

impl<'a, H: EventHandler> Conn<'a, H> {
    #[inline]
    pub(crate) fn new(
        link: &'a mut Link,
        codec: &'a mut H::Codec,
        cx: &'a mut Context<H>,
        connections: &'a Connections<H>,
    ) -> Self {
        Self {
            link,
            codec,
            cx,
            connections,
        }
    }

    /// Returns the connection's identifier.
    pub fn id(&self) -> ConnId {
        self.link.state.id
    }

    pub(super) fn name(&self) -> Name<'_> {
        self.link.state.name()
    }

    /// Returns a handle, which reaches the connection from any thread while it is open.
    pub fn handle(&self) -> Handle<H> {
        Handle::new(self.id(), self.cx.engine.clone())
    }

    /// Returns an outlet, which reaches the connection from any thread as a [`handle`](Self::handle) does, and has no type
    /// of a handler. Registries of connections with different handlers hold outlets.
    pub fn outlet(&self) -> Outlet {
        self.cx.engine.outlet(self.id())
    }

    /// Returns the engine that the connection belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// Returns the peer's address.
    pub fn peer_addr(&self) -> &Addr {
        &self.link.state.peer
    }

    /// Returns the address of the proxy that made the connection, if its listener expects
    /// [headers of the PROXY protocol](crate::Listen::proxy_protocol). [`peer_addr`](Self::peer_addr) is then the address of the
    /// proxy's client.
    #[cfg(feature = "proxy-protocol")]
    pub fn via(&self) -> Option<&Addr> {
        match self.cx.proxied.get(&self.id()) {
            Some(Proxied::Via(proxy)) => Some(proxy),
            _ => None,
        }
    }

    /// Returns the user, group and process at the other end of a Unix socket, as of the peer's connect.
    ///
    /// ```
    /// # use epicycle::codec::Raw;
    /// # use epicycle::{Action, Conn, ConnInfo, EventHandler};
    /// # struct Admin;
    /// # impl EventHandler for Admin {
    /// #     type Codec = Raw;
    /// #     type Session = ();
    /// #     fn codec(&mut self, _: &ConnInfo<'_>) -> Raw { Raw }
    /// fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
    ///     // Root alone may connect.
    ///     let peer = conn.peer_credentials().ok()?;
    ///     (peer.user == 0).then_some(())
    /// }
    /// #     fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action { Action::Continue }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported` for a connection that is not over a Unix socket. The error of `getsockopt(2)` with `SO_PEERCRED`, or of
    /// `getpeereid(3)`.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        if !self.link.stream.is_unix() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "only Unix sockets know the process at the other end",
            ));
        }
        unix::peer_credentials(self.as_fd())
    }

    /// Returns the local address.
    ///
    /// # Errors
    ///
    /// The error of `getsockname(2)`, if the socket is already gone.
    pub fn local_addr(&self) -> io::Result<Addr> {
        self.link.stream.local_addr()
    }

    /// Returns its codec, to read the state of the protocol. For example, `is_ready` of HTTP's client codec returns
    /// true if another request can be sent.
    pub fn codec(&self) -> &H::Codec {
        self.codec
    }

    /// Returns its codec, to change the state of the protocol. To change the protocol, [switch](Self::switch).
    pub fn codec_mut(&mut self) -> &mut H::Codec {
        self.codec
    }

    /// Puts another codec in the place of the present one, in mid-stream: after an HTTP `CONNECT` or an upgrade, after a
    /// handshake of its own kind, or once the protocol is known ([`Peek`](crate::codec::Peek)).
    ///
    /// The codec of a handler is one type, so this is for codecs that are [one of several](crate::codec::one_of), or that
    /// begin anew. The input behind the frame in hand goes to the new codec, as does the end of the peer's stream if the
    /// handler does not know of it yet. Output that was written stays and is sent first. The new codec owes and awaits no
    /// answer; an [`Answer`](crate::Answer) to a request of the old one has no effect. A UDP session loses the new codec with the
    /// first datagram that is no frame of it: see [`codec`](EventHandler::codec).
    pub fn switch(&mut self, codec: impl Into<H::Codec>) {
        let old = mem::replace(self.codec, codec.into());
        self.switched(old);
    }

    /// Returns its origin: the listener that accepted it, or the number of the outbound or adopted connection.
    pub fn origin(&self) -> Origin {
        self.link.state.origin()
    }

    /// Returns the [label](crate::Listen::label) of the listener that accepted it, as [`ConnInfo::label`](crate::ConnInfo::label)
    /// does. It is empty if the listener has none, and for other connections.
    pub fn label(&self) -> &str {
        match self.origin() {
            Origin::Accepted { listener } => self.cx.listener_label(listener),
            _ => "",
        }
    }

    /// Returns the transport.
    pub fn transport(&self) -> Transport {
        self.link.stream.transport()
    }

    /// Returns the result of the TLS handshake, or `None` on a connection without TLS.
    ///
    /// ```
    /// # use epicycle::{Conn, Service};
    /// fn speaks_h2(conn: &Conn<'_, Service>) -> bool {
    ///     conn.tls().is_some_and(|tls| tls.alpn() == Some(b"h2"))
    /// }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<crate::tls::TlsInfo<'_>> {
        self.link.stream.tls()
    }

    /// Returns the reactor, to reach its other connections, its timers and its UDP sockets.
    pub fn reactor(&mut self) -> Reactor<'_, H> {
        Reactor::new(self.connections, self.cx)
    }

    /// Calls `f` with another connection of the same reactor, at once. Returns `None` if it is not open, belongs to
    /// another reactor, or is in the hands of a running callback: as this one is, and those from which it was reached.
    ///
    /// It costs no copy, no allocation and no wake-up. The other connection's own callbacks, for example that
    /// it has room for output, follow after the running one. [`close`](Self::close) and
    /// [`abort`](Self::abort) take effect then, too. If `f` panics, the other connection closes with
    /// [`CloseReason::Panic`], and so does this one unless the panic is caught.
    ///
    /// To pass all bytes on unchanged, [`pipe`](Self::pipe) needs no handler. A relay that looks at them reads no more from one
    /// connection than the other takes. When [`has_room`](Self::has_room) of the other returns false, it
    /// [pauses](Self::pause_reads) this one. It [resumes](Self::resume_reads) it in the other's
    /// [`on_drain`](EventHandler::on_drain). Its clients have [`OutboundPolicy::Drop`], so that a client that does not read for
    /// a while can still send.
    ///
    /// ```
    /// use epicycle::codec::Lines;
    /// use epicycle::{Action, Conn, ConnInfo, ConnId, EventHandler};
    ///
    /// /// Passes each line on to the next client, and tells the sender if that was possible.
    /// #[derive(Default)]
    /// struct Pairs {
    ///     alone: Option<ConnId>,
    /// }
    ///
    /// impl EventHandler for Pairs {
    ///     type Codec = Lines;
    ///     type Session = Option<ConnId>;
    ///
    ///     fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
    ///         Lines::new()
    ///     }
    ///
    ///     fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Option<ConnId>> {
    ///         let id = conn.id();
    ///         let partner = self.alone.take();
    ///         let met = partner.and_then(|partner| conn.with(partner, |_, theirs| *theirs = Some(id)));
    ///         if met.is_none() {
    ///             self.alone = Some(id);
    ///         }
    ///         Some(met.and(partner))
    ///     }
    ///
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, partner: &mut Option<ConnId>, line: &[u8]) -> Action {
    ///         let sent = partner.and_then(|partner| conn.with(partner, |other, _| other.send(line)));
    ///         match sent {
    ///             Some(Ok(())) => Action::Continue,
    ///             Some(Err(_)) => conn.send("your partner does not read").into(),
    ///             None => conn.send("nobody is there").into(),
    ///         }
    ///     }
    /// }
    /// # use std::io::{Read, Write};
    /// # let server = epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1);
    /// # let running = server.start(|_reactor| Pairs::default())?;
    /// # let peer = || std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
    /// # let mut first = peer();
    /// # first.write_all(b"hello?\n").unwrap();
    /// # let mut answer = [0; 16];
    /// # first.read_exact(&mut answer).unwrap();
    /// # assert_eq!(&answer, b"nobody is there\n");
    /// # let mut second = peer();
    /// # second.write_all(b"hello\n").unwrap();
    /// # first.read_exact(&mut answer[..6]).unwrap();
    /// # assert_eq!(&answer[..6], b"hello\n");
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    #[inline]
    pub fn with<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut Conn<'_, H>, &mut H::Session) -> R,
    ) -> Option<R> {
        self.reactor().with(id, f)
    }

    /// Writes a copy of `bytes`. On a UDP session each write is one datagram, and so is each `send`.
    ///
    /// A write of 16 KiB or more to a plain TCP or Unix connection without waiting output is offered to the kernel at once, and
    /// only the rest that it refuses is copied. A callback can do that once a connection and turn, and all of a reactor's
    /// callbacks together for another MiB. Handlers with [`pre_write`](EventHandler::HANDLES_PRE_WRITE) cannot.
    ///
    /// # Errors
    ///
    /// [`WriteError::Closed`], [`WriteError::Full`] and [`WriteError::TooLong`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        // The usual write is small and the first of its turn.
        let state = &mut self.link.state;
        if bytes.len() < SMALL_WRITE
            && state.takes_staged()
            && state.out.stage(bytes, &mut self.cx.buffers.arena)
        {
            self.cx.lists.mark_dirty(state);
            return Ok(());
        }
        self.write_behind(bytes)
    }

    /// Handles writes that are large, follow other output, or are refused.
    #[inline(never)]
    fn write_behind(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.link.state.is_datagram() {
            return self.write_datagram(iter::once(bytes));
        }
        self.admit(bytes.len())?;
        match self.send_at_once(bytes.len(), |socket| socket.send(bytes)) {
            Some(sent) => self.enqueue_rest(&bytes[sent..]),
            None => self.outbox().put(bytes),
        }
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Writes shared bytes. More than a few hundred are kept by reference and not copied.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn write_shared(&mut self, bytes: impl Into<Bytes>) -> Result<(), WriteError> {
        let bytes = bytes.into();
        if self.link.state.is_datagram() {
            return self.write_datagram(iter::once(&bytes[..]));
        }
        self.admit(bytes.len())?;
        self.outbox().put_shared(bytes);
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Writes shared bytes, and offers them to the kernel at once if nothing waits. So one write to each of many connections
    /// visits each of them once, and not again in the flush phase. More writes to the same connection cost a system call each.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    #[cfg(feature = "cluster")]
    pub(crate) fn write_through(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        if self.link.state.is_datagram() {
            return self.write_shared(bytes);
        }
        self.admit(bytes.len())?;
        let sent = self
            .offer_at_once(|socket| socket.send(&bytes))
            .unwrap_or(0);
        if sent < bytes.len() {
            self.outbox().put_shared(bytes.slice(sent..));
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        Ok(())
    }

    /// Writes a copy of several slices, as one write.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), for all slices together.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<(), WriteError> {
        if self.link.state.is_datagram() {
            return self.write_datagram(slices.iter().map(|slice| &**slice));
        }
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.admit(len)?;
        let first = &slices[..slices.len().min(MAX_SLICES)];
        match self.send_at_once(len, |socket| socket.send_vectored(first)) {
            Some(mut sent) => {
                for slice in slices {
                    let skipped = sent.min(slice.len());
                    sent -= skipped;
                    self.enqueue_rest(&slice[skipped..]);
                }
            }
            None => {
                let mut outbox = self.outbox();
                for slice in slices {
                    outbox.put(slice);
                }
            }
        }
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Offers a large write to the kernel at once, if nothing else has to be sent first. The kernel's copy of it is then the
    /// only one. Returns the number of bytes taken, or `None` if the write must wait for the flush phase.
    ///
    /// That phase follows in any case. It handles all other results: it offers a refused rest again, and finds the error of this
    /// send with the connection.
    fn send_at_once(
        &mut self,
        len: usize,
        send: impl FnOnce(&StreamSocket) -> io::Result<usize>,
    ) -> Option<usize> {
        let was_dirty = self.link.state.is_dirty();
        if len < SMALL_WRITE || (was_dirty && self.cx.at_once_left < len) {
            return None;
        }
        let sent = self.offer_at_once(send)?;
        if was_dirty {
            self.cx.at_once_left -= len;
        }
        Some(sent)
    }

    /// Offers a write to the kernel at once, as [`send_at_once`](Self::send_at_once), whatever its length.
    fn offer_at_once(
        &mut self,
        send: impl FnOnce(&StreamSocket) -> io::Result<usize>,
    ) -> Option<usize> {
        let Link {
            stream,
            state,
            extras,
            ..
        } = &mut *self.link;
        if H::HANDLES_PRE_WRITE || !state.takes_at_once() {
            return None;
        }
        let socket = stream.as_plain()?;
        match send(socket) {
            Ok(sent) => {
                self.cx.metrics.bytes_out.add(sent as u64);
                state.on_sent(sent, self.cx.time.now());
                Some(sent)
            }
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    extras.get_or_insert_default().send_error = Some(error);
                }
                Some(0)
            }
        }
    }

    /// Appends what the kernel has not taken to the backlog.
    fn enqueue_rest(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            let Buffers { arena, pool, .. } = &mut self.cx.buffers;
            self.link.state.out.enqueue_copy(rest, arena, pool);
        }
    }

    /// Encodes an item with the connection's codec and writes it.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), and [`WriteError::Frame`] if the codec refuses the item. The connection stays
    /// open.
    pub fn send<T>(&mut self, item: T) -> Result<(), WriteError>
    where
        H::Codec: Encode<T>,
    {
        if self.link.state.is_datagram() {
            return self.send_datagram(item);
        }
        self.admit(0)?;
        let limit = self.link.state.outbound_limit(self.limits());
        let Link { stream, state, .. } = &mut *self.link;
        let unread = state.has_unread_input();
        let sent = state.bytes_out;
        let has_unread_input = || unread.unwrap_or_else(|| stream.has_decrypted_input());
        let mut attempt = Attempt::new(Outbox::new(
            &mut state.out,
            &mut self.cx.buffers.arena,
            &mut self.cx.buffers.pool,
        ));
        if H::Codec::CONVERSES {
            attempt.outbox.set_sent(sent);
            attempt.outbox.set_unread_input(&has_unread_input);
        }
        self.codec
            .encode(item, &mut attempt.outbox)
            .map_err(WriteError::Frame)?;
        if !self.codec.converses() && attempt.outbox.in_memory() > limit {
            let len = attempt.outbox.len() - attempt.before;
            drop(attempt);
            return Err(self.overflow(len));
        }
        attempt.keep();
        self.cx.lists.mark_dirty(&mut self.link.state);
        if H::Codec::CONVERSES {
            self.after_send();
        }
        Ok(())
    }

    /// Writes `bytes`, and calls `done` once the kernel has taken the last of them. If the connection closes before
    /// that, `done` receives an error. `done` is called exactly once, on the reactor's thread.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write). `done` is then not called.
    pub fn write_then(
        &mut self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), WriteError> {
        self.write_shared(bytes)?;
        self.on_flushed(Box::new(done));
        Ok(())
    }

    /// Calls `done` once the kernel has taken everything written so far.
    pub(crate) fn on_flushed(&mut self, done: Completion) {
        let position = self.link.state.bytes_out + self.link.state.out.len() as u64;
        let extras = self.link.extras.get_or_insert_default();
        extras.flushes.push_back((position, done));
        self.link.state.set_completes(true);
        self.cx.lists.mark_dirty(&mut self.link.state);
    }

    /// Stops reading. TCP's flow control then slows the peer down, and frames that have arrived stay undecoded. On a
    /// UDP session, datagrams that arrive meanwhile are dropped.
    ///
    /// It does nothing if reads are paused already: one [`resume_reads`](Self::resume_reads) ends any number of pauses.
    ///
    /// If the peer resets the connection meanwhile, [`resume_reads`](Self::resume_reads) still delivers the unread
    /// input, within the [`fin_timeout`](crate::Server::fin_timeout).
    pub fn pause_reads(&mut self) {
        self.link.state.set_paused(true);
    }

    /// Reads again, beginning with the input that has arrived meanwhile. It does nothing if reads are not paused.
    pub fn resume_reads(&mut self) {
        if self.link.state.is_paused() {
            self.link.state.set_paused(false);
            self.cx.resume(self.link);
        }
    }

    /// Returns true while reads are paused.
    pub fn reads_paused(&self) -> bool {
        self.link.state.is_paused()
    }

    /// Returns true while reads are paused by the handler, or by output that the peer does not take.
    #[cfg(feature = "cluster")]
    pub(crate) fn reads_later(&self) -> bool {
        self.link.state.reads_later()
    }

    /// Closes the connection once all output is sent. No further frame is handled.
    pub fn close(&mut self) {
        self.begin_close(CloseReason::Local);
    }

    /// Closes the connection with RST at the end of this turn. Output that is not sent by then is lost.
    pub fn abort(&mut self) {
        self.cx.abort(self.link, CloseReason::Aborted);
    }

    /// Sends FIN once all output is sent (half-close). Input from the peer is still read. Once the peer has ended its stream
    /// too, the connection closes with [`CloseReason::Peer`]. On a piped connection this does nothing, because a pipe passes
    /// FIN on by itself.
    pub fn shutdown_write(&mut self) {
        if self.link.state.is_piped() {
            return;
        }
        self.link.state.shut_write();
        self.cx.lists.mark_dirty(&mut self.link.state);
    }

    /// Takes the connection out of the engine. From now on no frame is handled and no write is accepted. Once all
    /// output is sent, `on_close` is called with [`CloseReason::Detached`]. Then `then` is called with the socket, on
    /// the reactor's thread.
    ///
    /// If the connection ends before that, `on_close` receives another reason and `then` is dropped.
    ///
    /// # Errors
    ///
    /// [`DetachError`]. `then` is dropped.
    pub fn detach(&mut self, then: impl FnOnce(Detached) + 'static) -> Result<(), DetachError> {
        if !self.link.stream.is_plain() {
            return Err(DetachError::NotPlain);
        }
        if self.link.state.is_piped() {
            return Err(DetachError::Piped);
        }
        if !self.link.state.detach() {
            return Err(DetachError::Closed);
        }
        self.link.extras.get_or_insert_default().detach = Some(Box::new(then));
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Returns true if it is neither closed nor closing.
    pub fn is_open(&self) -> bool {
        self.link.state.is_open()
    }

    /// Returns true if the peer has ended its stream.
    pub fn peer_has_shut_down(&self) -> bool {
        self.link.state.saw_peer_eof()
    }

    /// Returns the number of received bytes that wait for the rest of their frame. Inside `react` this is 0.
    pub fn buffered_in(&self) -> usize {
        self.link.state.inbox.len()
    }

    /// Returns the number of written bytes that the kernel has not taken, including those of files. For a UDP session
    /// this is 0, because all sessions of a socket share one queue.
    pub fn buffered_out(&self) -> usize {
        let accepted = self.link.stream.unsent();
        self.link.state.out.len() + accepted
    }

    /// Returns the time at which this turn of the loop began. In a simulation this is the virtual time, unlike
    /// [`Instant::now`].
    ///
    /// It is the same in all callbacks of a turn, and costs no system call.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// Returns the time since the reactor's start, in nanoseconds. Unlike [`now`](Self::now) it looks at the clock.
    #[cfg(feature = "rpc")]
    pub(crate) fn elapsed_nanos(&self) -> u64 {
        self.cx.time.elapsed_nanos()
    }

    /// Returns the time from the last activity to the beginning of this turn, to a millisecond. Activity is that bytes were
    /// received, or that the kernel took some. The idle timeout counts by the same time.
    pub fn quiet_for(&self) -> Duration {
        let active_at = self.link.state.active_at();
        Duration::from_millis(self.cx.time.now().saturating_sub(active_at))
    }

    /// Returns the time of day at the beginning of the turn, in whole seconds since 1970-01-01, midnight UTC. It costs no system
    /// call. In a simulation it is the virtual time of day.
    pub fn unix_time(&self) -> u64 {
        self.cx.time.unix_time()
    }

    /// Runs `task` on this reactor once the input of this turn is handled, right before output is sent. See
    /// [`Reactor::defer`](crate::Reactor::defer).
    pub fn defer(&mut self, task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + 'static) {
        self.cx.deferred.push_back(Box::new(task));
    }

    /// Requests a call of [`on_turn_end`](EventHandler::on_turn_end) at the end of this turn. See
    /// [`Reactor::request_turn_end`].
    pub fn request_turn_end(&mut self) {
        self.cx.wants_turn_end = true;
    }

    /// Calls [`on_timer`](EventHandler::on_timer) with `token` after `delay`, counted from now. The timers of a
    /// connection end with it.
    ///
    /// A timer never fires early. A delay of less than a second is as exact as the kernel's timers, usually to a
    /// tenth of a millisecond. A longer one ends with the next whole millisecond of the reactor's clock, so that many
    /// timers fire together.
    pub fn set_timer(&mut self, delay: Duration, token: u64) -> ConnTimer {
        let id = self.id();
        self.add_timer(self.cx.time.deadline(delay), Timer::User { id, token })
    }

    /// Calls [`on_timer`](EventHandler::on_timer) with `token` each `period`, first after one period from now. It
    /// ends when the timer is [cancelled](Self::cancel_timer) or the connection ends.
    ///
    /// The pace is even: each call is due one period after the last one was due, however late that was. Missed calls
    /// are skipped. A period of less than a microsecond counts as one microsecond. Intervals are as exact as
    /// [`set_timer`](Self::set_timer).
    pub fn set_interval(&mut self, period: Duration, token: u64) -> ConnTimer {
        let period = period.max(Duration::from_micros(1));
        let due = self.cx.time.clock.elapsed().saturating_add(period);
        let interval = Interval {
            id: self.id(),
            token,
            due,
            period,
        };
        self.add_timer(tick_at(due, period), Timer::Interval(Box::new(interval)))
    }

    fn add_timer(&mut self, deadline: u64, timer: Timer<H>) -> ConnTimer {
        let key = self.cx.wheel.insert(deadline, timer);
        self.link.extras.get_or_insert_default().timers.insert(key);
        ConnTimer(key)
    }

    /// Cancels a timer of this connection. Returns true if it was still pending.
    pub fn cancel_timer(&mut self, timer: ConnTimer) -> bool {
        let ours = self
            .link
            .extras
            .as_mut()
            .is_some_and(|extras| extras.timers.remove(&timer.0));
        ours && self.cx.wheel.cancel(timer.0).is_some()
    }

    /// Turns Nagle's algorithm off (`true`) or on.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`. Unix sockets have no such option.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.link.stream.options().set_tcp_nodelay(nodelay)
    }

    /// Turns TCP keepalive probes on or off.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`.
    pub fn set_keepalive(&self, keepalive: bool) -> io::Result<()> {
        self.link.stream.options().set_keepalive(keepalive)
    }

    /// Sets the size of the kernel's receive buffer, in bytes. All sessions of a UDP listener share one buffer.
    ///
    /// # Errors
    ///
    /// The error of `setsockopt(2)`, and [`io::ErrorKind::InvalidInput`] for 2 GiB or more, which `setsockopt(2)`
    /// would misread.
    pub fn set_recv_buffer(&self, bytes: usize) -> io::Result<()> {
        set_recv_buffer(&self.link.stream.options(), bytes)
    }

    /// Sets the size of the kernel's send buffer, in bytes. All sessions of a UDP listener share one buffer.
    ///
    /// # Errors
    ///
    /// As for [`set_recv_buffer`](Self::set_recv_buffer).
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        set_send_buffer(&self.link.stream.options(), bytes)
    }

    /// Returns the limits that apply to it.
    #[inline]
    pub(super) fn limits(&self) -> &Limits {
        self.cx.limits_of(&self.link.state)
    }

    #[inline]
    fn outbox(&mut self) -> Outbox<'_> {
        Outbox::new(
            &mut self.link.state.out,
            &mut self.cx.buffers.arena,
            &mut self.cx.buffers.pool,
        )
    }

    /// Checks that `len` more bytes may be written.
    #[inline]
    pub(super) fn admit(&mut self, len: usize) -> Result<(), WriteError> {
        if !self.link.state.takes_writes() {
            return Err(self.refusal());
        }
        let limit = self.link.state.outbound_limit(self.limits());
        if self.link.state.out.in_memory().saturating_add(len) > limit {
            return Err(self.overflow(len));
        }
        Ok(())
    }

    /// Returns the reason why no write is accepted.
    #[cold]
    fn refusal(&self) -> WriteError {
        #[cfg(feature = "tls")]
        if self.starts_tls() {
            return WriteError::StartsTls;
        }
        WriteError::Closed
    }

    /// Applies the outbound policy to a write of `len` bytes that has no room.
    #[cold]
    pub(super) fn overflow(&mut self, len: usize) -> WriteError {
        let queued = self.link.state.out.in_memory();
        let limits = self.limits();
        let (limit, max) = (limits.outbound, limits.longest_write());
        let closes = limits.policy == OutboundPolicy::Close;
        self.cx.metrics.overflows.add(1);
        if len > max {
            // It would not fit even if the peer read everything.
            if closes {
                let reason = CloseReason::Refused(WriteError::TooLong { len, max });
                self.cx.abort(self.link, reason);
            }
            return WriteError::TooLong { len, max };
        }
        if closes {
            self.cx
                .abort(self.link, CloseReason::OutboundLimit { queued });
        } else {
            let limits = self.cx.limits.get(self.link.state.limits());
            self.link.state.on_refused(limits);
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        WriteError::Full { queued, limit }
    }
}

/// A connection that has left the engine. [`Conn::detach`] delivers it.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "dropping it closes the connection"]
pub struct Detached {
    /// The socket, non-blocking.
    pub socket: OwnedFd,
    /// The peer's address.
    pub peer: Addr,
    /// Received bytes that were not handled as a frame. They come before what the socket delivers next.
    pub unread: Vec<u8>,
}

/// The reason for which a connection cannot be detached.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetachError {
    /// The socket carries TLS, records of a Unix socket or datagrams, not the bytes that the application reads and writes.
    NotPlain,
    /// The connection is closed, closing, or already being detached.
    Closed,
    /// The connection is piped to another one ([`Conn::pipe`]).
    Piped,
}

/// The output that a codec is writing. It is removed again unless it is kept, also when the codec panics.
///
/// Otherwise the beginning of an item could stay staged on a connection that is not flushed. It would be sent later,
/// from a place in the arena that by then holds the output of other connections.
pub(super) struct Attempt<'a> {
    pub(super) outbox: Outbox<'a>,
    before: usize,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(outbox: Outbox<'a>) -> Self {
        let before = outbox.len();
        Self { outbox, before }
    }

    pub(super) fn keep(self) {
        // It holds nothing but references.
        mem::forget(self);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.outbox.rollback(self.before);
    }
}

impl<H: EventHandler> fmt::Debug for Conn<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id())
            .field("peer", self.peer_addr())
            .finish_non_exhaustive()
    }
}

/// The socket, for options that `Conn` does not offer. The engine alone may read, write and close it.
impl<H: EventHandler> AsFd for Conn<'_, H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.stream.as_fd()
    }
}

error_messages! {
    DetachError {
        DetachError::NotPlain => "only plain connections over TCP and Unix stream sockets can be detached",
        DetachError::Closed => "the connection is closed, or being detached already",
        DetachError::Piped => "the connection is piped to another one",
    }
}
