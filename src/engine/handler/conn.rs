use std::fmt;
use std::io::{self, IoSlice};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::context::{Context, Interval, Link, Timer};
use super::{Completion, Engine, EventHandler, Handle};
use crate::addr::Addr;
use crate::buf::outbox::{Input, Outbox};
use crate::codec::{Codec, Encode};
use crate::engine::conn::Name;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::{OutboundPolicy, SMALL_WRITE};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::write::WriteError;
use crate::engine::slots::ConnId;
use crate::engine::timer::TimerKey;
use crate::engine::turn_time::tick_at;
use crate::error::error_messages;
use crate::sys::options::{set_recv_buffer, set_send_buffer};

/// A connection, as its callbacks see it.
///
/// It lives for one callback. Keep its [`id`](Self::id), or its [`handle`](Self::handle) to reach it later
/// or from another thread.
///
/// Writing never blocks and never fails half-way: what is taken is sent in order, by one system call at
/// the end of the reactor's turn where possible.
pub struct Conn<'a, H: EventHandler> {
    pub(super) link: &'a mut Link,
    pub(super) codec: &'a mut H::Codec,
    pub(super) cx: &'a mut Context<H>,
}

/// A timer on a connection, for [`Conn::cancel_timer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnTimer(TimerKey);

impl<'a, H: EventHandler> Conn<'a, H> {
    #[inline]
    pub(crate) fn new(link: &'a mut Link, codec: &'a mut H::Codec, cx: &'a mut Context<H>) -> Self {
        Self { link, codec, cx }
    }

    /// The connection's identifier.
    pub fn id(&self) -> ConnId {
        self.link.state.id
    }

    pub(super) fn name(&self) -> Name<'_> {
        self.link.state.name()
    }

    /// A way to reach it from any thread, for as long as it is open.
    pub fn handle(&self) -> Handle<H> {
        Handle::new(self.id(), self.cx.engine.clone())
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> &Addr {
        &self.link.state.peer
    }

    /// This end's address.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` answers, when the socket is gone already.
    pub fn local_addr(&self) -> io::Result<Addr> {
        self.link.stream.local_addr()
    }

    /// Its codec, to ask how things stand: `is_ready` of HTTP's client codec tells whether another request can be sent, say.
    pub fn codec(&self) -> &H::Codec {
        self.codec
    }

    /// Which way it came: from which listener, or as whose outbound connection.
    pub fn origin(&self) -> Origin {
        self.link.state.origin()
    }

    /// What was negotiated, when the connection is a TLS one.
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

    /// Writes a copy of `bytes`. On a UDP session each write is a datagram, as is each `send`.
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

    /// Writes what is large, or follows other output, or is refused.
    #[inline(never)]
    fn write_behind(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.link.state.is_datagram() {
            return self.write_datagram(iter::once(bytes));
        }
        self.admit(bytes.len())?;
        self.outbox().put(bytes);
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Writes shared bytes, by reference when they are more than a few hundred.
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

    /// Writes a copy of several slices, as one.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), for all of them together.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<(), WriteError> {
        if self.link.state.is_datagram() {
            return self.write_datagram(slices.iter().map(|slice| &**slice));
        }
        self.admit(slices.iter().map(|slice| slice.len()).sum())?;
        let mut outbox = self.outbox();
        for slice in slices {
            outbox.put(slice);
        }
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Encodes an item with the connection's codec and writes it.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), and [`WriteError::Frame`] when the codec refuses the item; the
    /// connection goes on then.
    pub fn send<T>(&mut self, item: T) -> Result<(), WriteError>
    where
        H::Codec: Encode<T>,
    {
        if self.link.state.is_datagram() {
            return self.send_datagram(item);
        }
        self.admit(0)?;
        let limit = self.link.state.outbound_limit(&self.cx.limits);
        let Link { stream, state, .. } = &mut *self.link;
        let unread = state.has_unread_input();
        let sent = state.bytes_out;
        let stream_has_input = || stream.has_decrypted_input();
        let mut attempt = Attempt::new(Outbox::new(
            &mut state.out,
            &mut self.cx.buffers.arena,
            &mut self.cx.buffers.pool,
        ));
        if H::Codec::CONVERSES {
            attempt.outbox.set_sent(sent);
            attempt.outbox.set_input(match unread {
                Some(false) => Input::None,
                Some(true) => Input::Waits,
                None => Input::Ask(&stream_has_input),
            });
        }
        self.codec
            .encode(item, &mut attempt.outbox)
            .map_err(WriteError::Frame)?;
        if !H::Codec::CONVERSES && attempt.outbox.in_memory() > limit {
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

    /// Writes `bytes` and calls `done` once the kernel has taken the last of them, or with an error when
    /// the connection closes before that. `done` runs on the reactor's thread, exactly once.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); `done` is not called then.
    pub fn write_then(
        &mut self,
        bytes: impl Into<Bytes>,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) -> Result<(), WriteError> {
        self.write_shared(bytes)?;
        self.on_flushed(Box::new(done));
        Ok(())
    }

    /// Calls `done` once everything written so far is in the kernel.
    pub(crate) fn on_flushed(&mut self, done: Completion) {
        let position = self.link.state.bytes_out + self.link.state.out.len() as u64;
        let extras = self.link.extras.get_or_insert_default();
        extras.flushes.push_back((position, done));
        self.cx.lists.mark_dirty(&mut self.link.state);
    }

    /// Stops reading: the peer is slowed down by TCP's flow control, and frames that have arrived stay
    /// undecoded. On a UDP session, what arrives meanwhile is dropped.
    ///
    /// Should the peer reset the connection meanwhile, what lies unread can still be had by
    /// [`resume_reads`](Self::resume_reads), within the [`fin_timeout`](crate::Server::fin_timeout).
    pub fn pause_reads(&mut self) {
        self.link.state.set_paused(true);
    }

    /// Reads again, beginning with what has arrived meanwhile.
    pub fn resume_reads(&mut self) {
        if self.link.state.is_paused() {
            self.link.state.set_paused(false);
            self.cx.resume(self.link);
        }
    }

    /// Whether reads are paused.
    pub fn reads_paused(&self) -> bool {
        self.link.state.is_paused()
    }

    /// Closes the connection once everything written is sent. No further frame is handled.
    pub fn close(&mut self) {
        self.begin_close(CloseReason::Local);
    }

    /// Closes the connection at the end of this turn with RST; what is not sent by then is lost.
    pub fn abort(&mut self) {
        self.cx.abort(self.link, CloseReason::Aborted);
    }

    /// Sends FIN once everything written is sent; what the peer sends is still read. Does nothing on a connection that
    /// is joined with another one, whose end is passed on.
    pub fn shutdown_write(&mut self) {
        if self.link.state.is_piped() {
            return;
        }
        self.link.state.shut_write();
        self.cx.lists.mark_dirty(&mut self.link.state);
    }

    /// Takes the connection out of the engine: from now on no frame is handled and no write taken; once
    /// what was written is sent, `on_close` is called with [`CloseReason::Detached`], and then `then` with the
    /// socket, on the reactor's thread.
    ///
    /// A connection that ends before that has another reason, and `then` is dropped.
    ///
    /// # Errors
    ///
    /// [`DetachError`]; `then` is dropped.
    pub fn detach(&mut self, then: impl FnOnce(Detached) + 'static) -> Result<(), DetachError> {
        if !self.link.stream.is_plain() {
            return Err(DetachError::NotPlain);
        }
        if self.link.state.is_piped() {
            return Err(DetachError::Joined);
        }
        if !self.link.state.detach() {
            return Err(DetachError::Closed);
        }
        self.link.extras.get_or_insert_default().detach = Some(Box::new(then));
        self.cx.lists.mark_dirty(&mut self.link.state);
        Ok(())
    }

    /// Whether it is neither closed nor closing.
    pub fn is_open(&self) -> bool {
        self.link.state.is_open()
    }

    /// Whether the peer has ended its stream.
    pub fn peer_has_shut_down(&self) -> bool {
        self.link.state.saw_peer_eof()
    }

    /// How many received bytes wait for the rest of their frame. Inside `react`, 0.
    pub fn buffered_in(&self) -> usize {
        self.link.state.inbox.len()
    }

    /// How many written bytes the kernel has not yet taken, those of files included. Of a UDP session 0: its datagrams
    /// wait in the queue that all sessions of the socket share.
    pub fn buffered_out(&self) -> usize {
        let accepted = self.link.stream.unsent();
        self.link.state.out.len() + accepted
    }

    /// When this turn of the loop began: in a simulation the virtual time, which [`Instant::now`] is not.
    ///
    /// It is the same in all callbacks of a turn, and costs nothing to ask.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// Calls [`on_timer`](EventHandler::on_timer) with `token` after `delay`, counted from now. Timers of a connection end
    /// with it.
    ///
    /// A timer is never early. One of less than a second is as exact as the kernel's timers, usually to a tenth of a
    /// millisecond; a longer one ends with the next whole millisecond of the reactor's clock, so that many run out together.
    pub fn set_timer(&mut self, delay: Duration, token: u64) -> ConnTimer {
        let id = self.id();
        self.add_timer(self.cx.time.deadline(delay), Timer::User { id, token })
    }

    /// Calls [`on_timer`](EventHandler::on_timer) with `token` each `period`, first after one period from now, until the
    /// timer is [cancelled](Self::cancel_timer) or the connection ends.
    ///
    /// The pace is even: each call is due one period after the last one was due, however late that was. Calls that have been
    /// missed altogether are skipped. A period of less than a microsecond counts as one. It is as exact as
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

    /// Cancels a timer of this connection; returns whether it was still pending.
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
    /// What `setsockopt(2)` answers; Unix sockets have no such option.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.link.stream.options().set_tcp_nodelay(nodelay)
    }

    /// Turns TCP keepalive probes on or off.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers.
    pub fn set_keepalive(&self, keepalive: bool) -> io::Result<()> {
        self.link.stream.options().set_keepalive(keepalive)
    }

    /// Sets the size of the kernel's receive buffer, in bytes. All sessions of a UDP listener share one.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` answers, and [`io::ErrorKind::InvalidInput`] for 2 GiB or more, which it would misread.
    pub fn set_recv_buffer(&self, bytes: usize) -> io::Result<()> {
        set_recv_buffer(&self.link.stream.options(), bytes)
    }

    /// Sets the size of the kernel's send buffer, in bytes. All sessions of a UDP listener share one.
    ///
    /// # Errors
    ///
    /// As for [`set_recv_buffer`](Self::set_recv_buffer).
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        set_send_buffer(&self.link.stream.options(), bytes)
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
    pub(super) fn admit(&mut self, len: usize) -> Result<(), WriteError> {
        if !self.link.state.takes_writes() {
            return Err(WriteError::Closed);
        }
        let limit = self.link.state.outbound_limit(&self.cx.limits);
        if self.link.state.out.in_memory().saturating_add(len) > limit {
            return Err(self.overflow(len));
        }
        Ok(())
    }

    /// Does what the policy says about a write of `len` bytes that has no room.
    #[cold]
    pub(super) fn overflow(&mut self, len: usize) -> WriteError {
        let queued = self.link.state.out.in_memory();
        let limit = self.cx.limits.outbound;
        let max = self.cx.limits.longest_write();
        self.cx.metrics.overflows.add(1);
        let closes = self.cx.limits.policy == OutboundPolicy::Close;
        if len > max {
            // However fast the peer reads.
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
            self.link.state.on_refused(&self.cx.limits);
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        WriteError::Full { queued, limit }
    }
}

/// A connection that has left the engine, for [`Conn::detach`].
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "dropping it closes the connection"]
pub struct Detached {
    /// The socket, non-blocking.
    pub socket: OwnedFd,
    /// The other end.
    pub peer: Addr,
    /// What was received and not handled as a frame: it comes before what the socket gives.
    pub unread: Vec<u8>,
}

/// Why a connection cannot be detached.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetachError {
    /// Its socket does not carry the bytes that the application reads and writes, but TLS records or datagrams.
    NotPlain,
    /// It is closed or closing, or being detached already.
    Closed,
    /// It is joined with another one by [`Conn::pipe`].
    Joined,
}

/// What a codec is writing: taken back unless it is kept, also when the codec panics.
///
/// Were its beginning left staged then, on a connection that goes on and that nobody flushes, it would be sent
/// later from where the arena holds the output of others by that time.
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
        // There is nothing in it but references.
        std::mem::forget(self);
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

/// The socket, for options that `Conn` does not offer. Reading, writing and closing are the engine's.
impl<H: EventHandler> AsFd for Conn<'_, H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.stream.as_fd()
    }
}

error_messages! {
    DetachError {
        DetachError::NotPlain => "only plain TCP and Unix connections can be detached",
        DetachError::Closed => "the connection is closed, or being detached already",
        DetachError::Joined => "the connection is joined with another one",
    }
}
