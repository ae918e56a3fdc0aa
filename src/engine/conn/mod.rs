//! The connection as a state machine, without socket and clock.
//!
//! The reactor reports the events of the socket (readable, bytes taken, end of stream) with their time. The state
//! machine returns the next step. Times are in milliseconds since the reactor's start.

mod broken;
mod clock;
pub(crate) mod close;
mod converse;
mod datagram;
mod flags;
pub(crate) mod limit_sets;
pub(crate) mod limits;
pub(crate) mod origin;
#[cfg(all(test, not(loom)))]
mod tests;
mod transfer;
pub(crate) mod write;

use std::fmt;
use std::time::{Duration, Instant};

use self::close::{CloseReason, Closed, TimeoutKind};
use self::flags::{Flags, Marks, Phase};
use self::limits::{Limits, NEVER};
use self::origin::{Direction, Origin};
use crate::addr::Addr;
use crate::buf::inbox::Inbox;
use crate::buf::pool::BufferPool;
use crate::buf::queue::{FLUSH_AT, OutQueue};
use crate::engine::slots::ConnId;

/// The state of a connection, without its socket, codec and session.
///
/// The order of the fields is fixed: those that every message needs come first, so that they lie in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ConnState {
    flags: Flags,
    direction: Direction,
    marks: Marks,
    /// The number of its set of limits.
    limits: u16,
    pub(crate) id: ConnId,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    active_at: u64,
    pub(crate) out: OutQueue,
    pub(crate) inbox: Inbox,
    opened_at: u64,
    /// The time at which the first byte of the incomplete frame in the inbox arrived, or `NEVER`.
    partial_since: u64,
    /// The time since which the kernel has refused output without known progress of the peer, or `NEVER`.
    stalled_since: u64,
    /// The end of the drain, or of the wait for the peer's closing message or FIN, or `NEVER`.
    close_by: u64,
    /// Boxed, because few connections are closing at a time.
    reason: Option<Box<CloseReason>>,
    pub(crate) peer: Addr,
    /// The listener or the token of its origin.
    number: u64,
}

/// The next step that the reactor must take with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: wait for events.
    Wait,
    /// Send FIN, then call [`fin_sent`](ConnState::fin_sent).
    SendFin,
    /// Close the socket. Sent output still arrives.
    Close,
    /// Close the socket with RST.
    Reset,
    /// Release the socket without closing it.
    Detach,
}

/// The result of a check of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// No limit has expired. Check again at this time, or never.
    At(u64),
    /// A limit of an open or opening connection has expired: close it.
    Timeout(TimeoutKind),
    /// The deadline that the handler has set is over.
    Deadline,
    /// The drain took too long: reset the connection.
    DrainOver,
    /// The peer's FIN did not arrive in time: close the connection anyway.
    FinOver,
}

/// A connection in a log line: its identifier and its peer.
pub(crate) struct Name<'a>(&'a ConnState);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.id, self.0.peer)
    }
}

impl ConnState {
    /// Returns the state of an open connection.
    pub(crate) fn new(id: ConnId, peer: Addr, origin: Origin, now: u64) -> Self {
        let (direction, number) = origin.split();
        Self {
            id,
            out: OutQueue::default(),
            inbox: Inbox::default(),
            flags: Flags::WRITABLE,
            bytes_in: 0,
            bytes_out: 0,
            opened_at: now,
            active_at: now,
            partial_since: NEVER,
            stalled_since: NEVER,
            close_by: NEVER,
            reason: None,
            peer,
            direction,
            marks: Marks::empty(),
            limits: limit_sets::SERVER,
            number,
        }
    }

    /// Returns the state of a connection that has to connect or complete a handshake first, within `limit`
    /// milliseconds.
    pub(crate) fn opening(id: ConnId, peer: Addr, origin: Origin, now: u64, limit: u64) -> Self {
        let mut state = Self::new(id, peer, origin, now);
        state.flags = Flags::OPENING;
        state.marks = Marks::NEVER_OPENED;
        state.close_by = now.saturating_add(limit);
        state
    }

    /// Returns its name for log lines.
    pub(crate) fn name(&self) -> Name<'_> {
        Name(self)
    }

    /// Returns the number of its set of limits.
    #[inline]
    pub(crate) fn limits(&self) -> u16 {
        self.limits
    }

    /// Gives it another set of limits. Returns the number of the old one.
    pub(crate) fn set_limits(&mut self, number: u16) -> u16 {
        std::mem::replace(&mut self.limits, number)
    }

    /// Returns its origin.
    pub(crate) fn origin(&self) -> Origin {
        self.direction.with(self.number)
    }

    fn phase(&self) -> Phase {
        self.flags.phase()
    }

    /// Asserts, in debug builds, that the flags fit the phase and each other. Called after each event.
    #[inline]
    pub(crate) fn check(&self) {
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let phase = self.phase();
        // A failure here aborts the connection. Its end must not fail for the same reason again.
        if matches!(phase, Phase::Aborted | Phase::Closed) {
            return;
        }
        let holds = |rule: bool, name: &str| {
            assert!(rule, "{}: {name}: {:?}", self.name(), self.flags);
        };
        let of_streams =
            Flags::UNIX | Flags::SEALED | Flags::TAIL | Flags::PIPED | Flags::DETACHING;
        let (is_broken, is_datagram) = (self.has(Flags::BROKEN), self.has(Flags::DATAGRAM));
        let forbidden = match phase {
            Phase::Opening if !self.never_opened() => Flags::CLOSE_NOTIFIED,
            phase => Flags::forbidden(phase),
        };
        holds(!self.has(forbidden), "the flags fit the phase");
        holds(
            !self.has(Flags::AWAITS_EMPTY) || self.has(Flags::CONGESTED),
            "output that must be empty is congested",
        );
        holds(
            !is_datagram || !self.has(of_streams),
            "a datagram session has no flag of a stream",
        );
        holds(
            !is_broken || !self.has(Flags::PAUSES_READS),
            "a broken connection does not pause reads",
        );
        holds(
            !is_broken || self.reason.is_some() || self.is_close_notified(),
            "a broken connection has a reason",
        );
        holds(
            phase != Phase::AwaitingFin
                || (self.marks.contains(Marks::FIN_SENT) && self.out.len() == 0),
            "FIN is sent behind all output",
        );
    }

    #[inline]
    fn has(&self, flag: Flags) -> bool {
        self.flags.intersects(flag)
    }

    #[inline]
    fn put(&mut self, flag: Flags, on: bool) {
        self.flags.set(flag, on);
    }

    // Events of the socket.

    /// Records the usual event: there is input, and the peer may send more.
    #[inline]
    pub(crate) fn on_readable(&mut self, writable: bool) {
        let writable = if writable {
            Flags::WRITABLE
        } else {
            Flags::empty()
        };
        self.flags.insert(Flags::READABLE | writable);
    }

    #[inline]
    pub(crate) fn on_event(&mut self, readable: bool, writable: bool, read_closed: bool) {
        if readable {
            self.flags.insert(Flags::READABLE);
        }
        if writable {
            self.flags.insert(Flags::WRITABLE);
        }
        if read_closed {
            self.flags.insert(Flags::DOUBTFUL | Flags::READABLE);
            self.on_fin();
        }
    }

    /// Records a read of `n` bytes. `drained` is true if the stream has no more for now.
    #[inline]
    pub(crate) fn on_read(&mut self, n: usize, drained: bool, now: u64) {
        self.bytes_in += n as u64;
        self.active_at = now;
        if drained && !self.has(Flags::DOUBTFUL) {
            self.flags.remove(Flags::READABLE);
        }
    }

    /// Records urgent data. More of it may follow later.
    #[cold]
    pub(crate) fn on_urgent(&mut self) {
        self.flags.insert(Flags::DOUBTFUL);
    }

    /// Returns true if an event has told that the peer has ended its stream, or that there is urgent data.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn may_have_ended(&self) -> bool {
        self.has(Flags::DOUBTFUL)
    }

    /// Marks its socket as a Unix one.
    pub(crate) fn set_unix(&mut self) {
        self.put(Flags::UNIX, true);
    }

    /// Returns true if the peer has ended its stream, or there was urgent data.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.has(Flags::DOUBTFUL)
    }

    /// Undoes the activity of input that was skipped and belongs to no message. It does not count against timeouts.
    pub(crate) fn on_skipped(&mut self, active_at: u64) {
        self.active_at = active_at;
    }

    pub(crate) fn on_read_would_block(&mut self) {
        self.flags.remove(Flags::READABLE);
    }

    pub(crate) fn on_peer_eof(&mut self) {
        self.flags.remove(Flags::READABLE);
        self.flags.insert(Flags::PEER_EOF);
    }

    /// Records that the kernel took all staged output. This is the usual case and needs no next step.
    #[inline]
    pub(crate) fn on_staged_sent(&mut self, n: usize, now: u64) {
        self.out.staged_sent();
        self.bytes_out += n as u64;
        self.active_at = now;
    }

    pub(crate) fn on_sent(&mut self, n: usize, now: u64) {
        self.bytes_out += n as u64;
        self.active_at = now;
        self.stalled_since = NEVER;
    }

    /// Records that the kernel has no room. Returns true if no event will report when it has, because the socket is not
    /// registered for that.
    pub(crate) fn on_write_would_block(&mut self, now: u64) -> bool {
        self.flags.remove(Flags::WRITABLE);
        if self.stalled_since == NEVER {
            self.stalled_since = now;
        }
        !self.watches_room()
    }

    /// Returns true if events report room.
    pub(crate) fn watches_room(&self) -> bool {
        self.marks.contains(Marks::WATCHES_ROOM)
    }

    /// Returns true if the socket has to be registered for room from the start. A connection that is open writes until the
    /// kernel has no room, which most never see.
    pub(crate) fn needs_room_event(&self) -> bool {
        self.has(Flags::OPENING | Flags::SEALED)
    }

    /// Records that events report room.
    pub(crate) fn set_watches_room(&mut self) {
        self.marks.insert(Marks::WATCHES_ROOM);
    }

    /// Records that an event reported the peer's FIN, or that a read found it.
    pub(crate) fn on_fin(&mut self) {
        self.marks.insert(Marks::FIN_ARRIVED);
    }

    /// Returns true if the peer's FIN has arrived and the handler was not told.
    pub(crate) fn has_untold_fin(&self) -> bool {
        self.marks & (Marks::FIN_ARRIVED | Marks::FIN_TOLD) == Marks::FIN_ARRIVED
    }

    pub(crate) fn on_fin_told(&mut self) {
        self.marks.insert(Marks::FIN_TOLD);
    }

    /// Records that the handler is told of the end of the peer's stream.
    pub(crate) fn on_end_told(&mut self) {
        self.marks.insert(Marks::END_TOLD);
    }

    /// Has the end of the peer's stream found again, if the handler was not told of it.
    pub(crate) fn recheck_end(&mut self) {
        if self.has(Flags::PEER_EOF) && self.is_open() && !self.marks.contains(Marks::END_TOLD) {
            self.flags.remove(Flags::PEER_EOF);
            self.flags.insert(Flags::READABLE | Flags::DOUBTFUL);
        }
    }

    // Results of the codec.

    #[inline]
    pub(crate) fn on_frames(&mut self) {
        self.flags.insert(Flags::GREETED);
    }

    /// Records an incomplete frame. `fresh` is true if it is not the one of the last decode step.
    pub(crate) fn on_partial(&mut self, fresh: bool, now: u64) {
        if fresh || self.partial_since == NEVER {
            self.partial_since = now;
        }
    }

    #[inline]
    pub(crate) fn on_input_consumed(&mut self) {
        self.partial_since = NEVER;
    }

    /// Records that input is read again. The pause must not count against the peer.
    pub(crate) fn on_resumed(&mut self, now: u64) {
        if self.partial_since != NEVER {
            self.partial_since = now;
        }
    }

    // Opening.

    /// Records that the connection is established and the handshake complete.
    pub(crate) fn opened(&mut self, now: u64) {
        self.flags.set_phase(Phase::Open);
        self.marks.remove(Marks::NEVER_OPENED);
        self.opened_at = now;
        self.active_at = now;
        self.close_by = NEVER;
    }

    /// Returns to the phase before it was open, for a TLS handshake in mid-stream, which may take `limit` milliseconds. All
    /// earlier output is sent.
    #[cfg(feature = "tls")]
    pub(crate) fn begin_handshake(&mut self, now: u64, limit: u64) {
        self.end_response_wait();
        self.on_input_consumed();
        // The handshake needs the end of the stream, if there is one, and no event may follow for its input.
        self.recheck_end();
        self.flags.remove(Flags::DETACHING | Flags::HELD);
        self.flags.insert(Flags::READABLE | Flags::SEALED);
        self.flags.set_phase(Phase::Opening);
        self.close_by = now.saturating_add(limit);
    }

    /// Records that this handshake is complete.
    #[cfg(feature = "tls")]
    pub(crate) fn end_handshake(&mut self, now: u64) {
        self.flags.set_phase(Phase::Open);
        self.active_at = now;
        self.close_by = NEVER;
    }

    // Requests of the application.

    /// Returns true if writes are accepted.
    pub(crate) fn takes_writes(&self) -> bool {
        !self.has(Flags::NO_WRITES)
    }

    /// Returns true if a write may simply be staged: it is accepted, and no backlog must be sent before it.
    #[inline]
    pub(crate) fn takes_staged(&self) -> bool {
        !self.has(Flags::NO_WRITES | Flags::DATAGRAM) && self.out.len() == 0
    }

    /// Returns true if a write may be offered to the kernel at once: it is accepted, the kernel has room, and nothing must be
    /// sent before it or waits for it to be sent.
    pub(crate) fn takes_at_once(&self) -> bool {
        self.is_writable()
            && !self
                .has(Flags::NO_WRITES | Flags::DATAGRAM | Flags::BROKEN | Flags::AWAITS_RESPONSE)
            && self.out.is_unused()
    }

    /// Returns true if a callback has changed nothing but the output.
    #[inline]
    pub(crate) fn is_undisturbed(&self) -> bool {
        !self.has(Flags::EXTRAORDINARY)
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.put(Flags::PAUSED, paused);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.has(Flags::PAUSED)
    }

    /// Stops accepting writes and handling frames, until all output is sent. Then the socket can be released. Returns false if
    /// the connection is not open, or is already leaving the engine.
    pub(crate) fn detach(&mut self) -> bool {
        let can = !self.has(Flags::CLOSING | Flags::DETACHING);
        if can {
            self.put(Flags::DETACHING, true);
        }
        can
    }

    pub(crate) fn shut_write(&mut self) {
        self.put(Flags::SHUT_WRITE, true);
    }

    /// Begins to close: all output is sent, then FIN. Returns true if it was open until now.
    ///
    /// An opening connection has no output of the application, so it ends at once.
    pub(crate) fn begin_close(&mut self, reason: CloseReason, now: u64, limits: &Limits) -> bool {
        match self.phase() {
            Phase::Open => self.drain(reason, now, limits),
            Phase::Opening => self.abort(reason),
            _ => return false,
        }
        true
    }

    /// Closes an opening connection whose handshake failed, after the alert has been sent to the peer.
    #[cfg_attr(
        not(feature = "tls"),
        allow(dead_code, reason = "only TLS has a handshake")
    )]
    pub(crate) fn refuse(&mut self, reason: CloseReason, now: u64, limits: &Limits) {
        self.drain(reason, now, limits);
    }

    fn drain(&mut self, reason: CloseReason, now: u64, limits: &Limits) {
        self.flags.set_phase(Phase::Flushing);
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.close_by = now.saturating_add(limits.drain);
        self.partial_since = NEVER;
        // From now on `close_by` is the end of the drain.
        self.flags.remove(Flags::DRAIN_DUE | Flags::AWAITS_RESPONSE);
    }

    /// Returns the reason for the end if the handler should be notified before the end, and only once. The side that
    /// connected waits for the result, and a peer that has failed may take long to end its side.
    pub(crate) fn take_early_reason(&mut self) -> Option<CloseReason> {
        if self.direction != Direction::Connected
            || self.has(Flags::CLOSE_NOTIFIED)
            || self.is_open()
        {
            return None;
        }
        let reason = self.reason.take_if(|reason| reason.is_peer_fault())?;
        self.put(Flags::CLOSE_NOTIFIED, true);
        Some(*reason)
    }

    /// Returns true if the handler has been notified of the end.
    pub(crate) fn is_close_notified(&self) -> bool {
        self.has(Flags::CLOSE_NOTIFIED)
    }

    /// Makes a reset the next step, even if output waits.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        if self.phase() != Phase::Closed {
            self.flags.set_phase(Phase::Aborted);
            // Nothing more is offered to the kernel.
            self.flags.remove(Flags::WRITABLE);
            self.reason.get_or_insert_with(|| Box::new(reason));
        }
    }

    /// Drops the output that the peer does not take, and records that as the reason.
    pub(crate) fn abandon_flush(&mut self) {
        self.flags.set_phase(Phase::Aborted);
        self.flags.remove(Flags::WRITABLE);
        self.reason = Some(Box::new(CloseReason::Timeout(TimeoutKind::Drain)));
    }

    // The next step.

    /// Returns true if the peer has ended its stream and nothing is to be sent, not even the end of a TLS stream.
    pub(crate) fn is_finished(&self) -> bool {
        self.has(Flags::PEER_EOF) && !self.has(Flags::TAIL | Flags::SEALED) && self.out.len() == 0
    }

    /// Returns true if there is nothing to read, decode, send or report: only the writability has changed.
    #[inline]
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        !self.has(Flags::READABLE | Flags::DRAIN_DUE | Flags::TAIL | Flags::OPENING)
            && self.out.len() == 0
            && self.inbox.is_empty()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        !self.has(Flags::CLOSING)
    }

    /// Returns true if it is connecting or in the handshake.
    #[inline]
    pub(crate) fn is_opening(&self) -> bool {
        self.has(Flags::OPENING)
    }

    /// Returns true if it ends, or has ended, without ever having been open.
    pub(crate) fn never_opened(&self) -> bool {
        self.marks.contains(Marks::NEVER_OPENED)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.has(Flags::CLOSED)
    }

    /// Returns true in the usual case: there is input, all of it is wanted, and nothing waits before it. Output of this
    /// turn may be staged: another connection may have written it.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.has_only(Flags::READABLE) && self.holds_nothing()
    }

    /// Returns true in the usual case of a Unix socket.
    #[inline]
    pub(crate) fn is_ordinary_unix(&self) -> bool {
        self.has_only(Flags::UNIX | Flags::READABLE) && self.holds_nothing()
    }

    /// Returns true if, of the flags that matter to a connection with input, only these are set.
    #[inline]
    fn has_only(&self, flags: Flags) -> bool {
        let matter = Flags::EXTRAORDINARY | Flags::UNIX | Flags::READABLE;
        self.flags & matter == flags
    }

    #[inline]
    fn holds_nothing(&self) -> bool {
        self.inbox.is_empty() && self.out.backlog_len() == 0
    }

    /// Returns true if nothing is left to do after a read: no input anywhere, and nothing is due.
    #[inline]
    pub(crate) fn has_nothing_pending(&self) -> bool {
        !self.has(Flags::READABLE | Flags::DRAIN_DUE) && self.inbox.is_empty()
    }

    /// Sets if reads pause while the output is congested.
    pub(crate) fn set_pauses_reads(&mut self, pauses: bool) {
        self.put(Flags::PAUSES_READS, pauses && !self.has(Flags::BROKEN));
    }

    /// Returns true if reads pause while the output is congested.
    pub(crate) fn pauses_reads(&self) -> bool {
        self.has(Flags::PAUSES_READS)
    }

    /// Returns true if input should be read and decoded: the handler wants it, and no congested output forbids it.
    #[inline]
    pub(crate) fn wants_frames(&self) -> bool {
        !self.has(Flags::NO_FRAMES) && !self.output_forbids_reads()
    }

    /// Returns true if input is to be read later: the handler has paused reads, or congested output forbids them.
    pub(crate) fn reads_later(&self) -> bool {
        self.has(Flags::PAUSED) || self.output_forbids_reads()
    }

    #[inline]
    fn output_forbids_reads(&self) -> bool {
        self.flags.contains(Flags::CONGESTED | Flags::PAUSES_READS)
    }

    /// Returns true if a read may find input or its end.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        self.has(Flags::READABLE) && !self.has(Flags::PEER_EOF)
    }

    /// Returns true if input waits that the codec has not seen, and `None` if only the stream can tell.
    #[inline]
    pub(crate) fn has_unread_input(&self) -> Option<bool> {
        match self.is_readable() {
            _ if !self.inbox.is_empty() => Some(true),
            true => None,
            false => Some(false),
        }
    }

    /// Returns true if input is only read to be dropped.
    pub(crate) fn discards_input(&self) -> bool {
        self.has(Flags::FLUSHING | Flags::AWAITING_FIN)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.has(Flags::WRITABLE)
    }

    pub(crate) fn saw_peer_eof(&self) -> bool {
        self.has(Flags::PEER_EOF)
    }

    /// Returns true if the backlog should be offered to the kernel.
    #[inline]
    pub(crate) fn can_send_backlog(&self) -> bool {
        self.is_writable() && (self.has_sendable() || self.has(Flags::TAIL))
    }

    /// Records if the stream holds output that the kernel has not taken.
    pub(crate) fn set_tail(&mut self, tail: bool) {
        self.put(Flags::TAIL, tail);
    }

    /// Marks the stream as encrypted.
    pub(crate) fn seal(&mut self) {
        self.put(Flags::SEALED, true);
    }

    /// Compares the output with the water marks after a flush. Returns true if `on_drain` has become due.
    pub(crate) fn update_congestion(&mut self, limits: &Limits) -> bool {
        if self.has(Flags::PIPED | Flags::BROKEN) {
            return false;
        }
        let (bytes, files) = (self.out.len(), self.out.files());
        if limits.is_high(bytes, files) {
            self.put(Flags::CONGESTED, true);
        } else if self.has(Flags::CONGESTED) && self.has_drained(limits) {
            self.put(Flags::CONGESTED | Flags::AWAITS_EMPTY, false);
            self.put(Flags::DRAIN_DUE, self.phase() == Phase::Open);
            return true;
        }
        false
    }

    fn has_drained(&self, limits: &Limits) -> bool {
        if self.has(Flags::AWAITS_EMPTY) {
            self.out.len() == 0 && self.has(Flags::WRITABLE)
        } else {
            limits.is_low(self.out.len(), self.out.files())
        }
    }

    /// Records that more than the high-water mark waits.
    pub(crate) fn set_congested(&mut self) {
        self.put(Flags::CONGESTED, true);
    }

    /// Records a refused write. The application will try again in `on_drain`.
    pub(crate) fn on_refused(&mut self, limits: &Limits) {
        self.put(Flags::CONGESTED, true);
        // With so little output, a water mark would come too early: the write would be refused again.
        if limits.is_low(self.out.len(), self.out.files()) {
            self.put(Flags::AWAITS_EMPTY, true);
        }
    }

    /// Returns the number of bytes that may wait to be sent.
    pub(crate) fn outbound_limit(&self, limits: &Limits) -> usize {
        if self.is_writable() {
            limits.longest_write()
        } else {
            limits.outbound
        }
    }

    /// Returns true if its output should be offered to the kernel before more is written.
    pub(crate) fn should_be_flushed(&self) -> bool {
        self.out.len() >= FLUSH_AT || self.has(Flags::CONGESTED)
    }

    /// Returns true if `on_drain` is due, and clears that.
    #[inline]
    pub(crate) fn take_drain_due(&mut self) -> bool {
        let due = self.has(Flags::DRAIN_DUE);
        self.flags.remove(Flags::DRAIN_DUE);
        due
    }

    /// Returns true if the usual flush needs no next step.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.has(
            Flags::CLOSING
                | Flags::CONGESTED
                | Flags::SHUT_WRITE
                | Flags::SEALED
                | Flags::DETACHING
                | Flags::PIPED
                | Flags::COMPLETES,
        )
    }

    /// Returns the next step, once the flush phase has offered everything to the kernel.
    pub(crate) fn next_step(&self) -> Step {
        let drained = self.out.len() == 0 && !self.has(Flags::TAIL);
        let fin_sent = self.marks.contains(Marks::FIN_SENT);
        match self.phase() {
            Phase::Aborted => Step::Reset,
            Phase::Flushing if self.has(Flags::BROKEN) => Step::Close,
            Phase::Open if self.has(Flags::BROKEN) && self.has(Flags::DETACHING) => Step::Close,
            // Closing sends FIN, but not close_notify.
            Phase::Flushing if drained && self.has(Flags::PEER_EOF) && !self.has(Flags::SEALED) => {
                Step::Close
            }
            Phase::Flushing if drained && self.has(Flags::DATAGRAM) => Step::Close,
            Phase::AwaitingFin if self.has(Flags::PEER_EOF) => Step::Close,
            Phase::Flushing if drained => Step::SendFin,
            Phase::Open if drained && self.has(Flags::SHUT_WRITE) && !fin_sent => Step::SendFin,
            Phase::Open if drained && self.has(Flags::DETACHING) => Step::Detach,
            Phase::Open if self.has(Flags::DETACHING) => Step::Wait,
            Phase::Open if fin_sent && self.has(Flags::PEER_EOF) => Step::Close,
            _ => Step::Wait,
        }
    }

    /// Records that FIN was sent behind all output.
    pub(crate) fn fin_sent(&mut self, now: u64, limits: &Limits) {
        self.marks.insert(Marks::FIN_SENT);
        if self.phase() == Phase::Flushing {
            self.flags.set_phase(Phase::AwaitingFin);
            let by = if self.marks.contains(Marks::DRAINS_BY_PROGRESS) {
                NEVER
            } else {
                self.close_by
            };
            self.close_by = by.min(now.saturating_add(limits.fin));
        }
    }

    /// Returns true if all output and FIN are sent.
    pub(crate) fn awaits_fin(&self) -> bool {
        self.has(Flags::AWAITING_FIN)
    }

    /// Limits the wait for the peer's FIN to `tick`. Returns true if it is under way.
    pub(crate) fn shorten_fin_wait(&mut self, tick: u64) -> bool {
        if self.awaits_fin() {
            self.close_by = self.close_by.min(tick);
        }
        self.awaits_fin()
    }

    /// Sets if a completion waits for output to be sent.
    pub(crate) fn set_completes(&mut self, completes: bool) {
        self.put(Flags::COMPLETES, completes);
    }

    // The reactor's lists.

    /// Puts it on the ready list. Returns true if it was not on it yet.
    #[inline]
    pub(crate) fn enqueue(&mut self) -> bool {
        let fresh = !self.has(Flags::QUEUED);
        self.flags.insert(Flags::QUEUED);
        fresh
    }

    #[inline]
    pub(crate) fn dequeue(&mut self) {
        self.flags.remove(Flags::QUEUED);
    }

    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        self.has(Flags::QUEUED)
    }

    /// Puts it on the flush list. Returns true if it was not on it yet.
    #[inline]
    pub(crate) fn mark_dirty(&mut self) -> bool {
        let fresh = !self.has(Flags::DIRTY);
        self.flags.insert(Flags::DIRTY);
        fresh
    }

    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.has(Flags::DIRTY)
    }

    #[inline]
    pub(crate) fn clear_dirty(&mut self) {
        self.flags.remove(Flags::DIRTY);
    }

    /// Returns its record up to now.
    pub(crate) fn account(&self, now: u64, at: Instant) -> Closed {
        Closed {
            id: self.id,
            peer: self.peer.clone(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            unsent: self.out.len(),
            undecoded: self.inbox.len(),
            open_for: Duration::from_millis(now.saturating_sub(self.opened_at)),
            refused: None,
            closed_at: at,
        }
    }

    /// Ends it and returns the buffers to the pool. Returns the reason for `on_close`.
    ///
    /// The first reason counts. `last` is the reason of this end, used if there is no earlier one.
    pub(crate) fn finish(
        &mut self,
        last: Option<CloseReason>,
        buffers: &mut BufferPool,
    ) -> CloseReason {
        self.flags.set_phase(Phase::Closed);
        self.out.clear(buffers);
        self.inbox.clear(buffers);
        match (self.reason.take(), last) {
            (Some(first), _) => *first,
            (None, Some(last)) => last,
            (None, None) if self.has(Flags::PEER_EOF) => CloseReason::Peer,
            (None, None) => CloseReason::Local,
        }
    }
}
