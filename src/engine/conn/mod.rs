//! The connection as a state machine: it knows no socket and no clock.
//!
//! The reactor tells it what the socket did (became readable, took so many bytes, ended) and at what
//! time; it tells the reactor what to do next. Time is in milliseconds since the reactor's start.

mod broken;
mod clock;
pub(crate) mod close;
mod converse;
mod datagram;
mod flags;
pub(crate) mod limits;
pub(crate) mod origin;
mod stall;
#[cfg(all(test, not(loom)))]
mod tests;
mod transfer;
pub(crate) mod write;

use std::fmt;
use std::time::{Duration, Instant};

use self::close::{CloseReason, Closed, TimeoutKind};
use self::flags::*;
use self::limits::{Limits, NEVER};
use self::origin::{Direction, Origin};
use crate::addr::Addr;
use crate::buf::inbox::Inbox;
use crate::buf::pool::BufferPool;
use crate::buf::queue::{FLUSH_AT, OutQueue};
use crate::engine::slots::ConnId;

/// Everything about a connection but its socket, codec and session.
///
/// The order is kept: what every message needs comes first, to lie in as few cache lines as possible.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ConnState {
    flags: u32,
    phase: Phase,
    direction: Direction,
    /// FIN is sent.
    fin_sent: bool,
    /// It closes since all has been said, and has time for that as long as the peer takes some of it.
    unhurried: bool,
    pub(crate) id: ConnId,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    active_at: u64,
    pub(crate) out: OutQueue,
    pub(crate) inbox: Inbox,
    opened_at: u64,
    /// When the first byte of the incomplete frame in the inbox came, or `NEVER`.
    partial_since: u64,
    /// Since when the kernel has refused output and the peer is not known to have taken any, or `NEVER`.
    stalled_since: u64,
    /// The end of the drain, or of the wait for the peer's goodbye or FIN, or `NEVER`.
    close_by: u64,
    /// Boxed, since only few connections are closing at a time.
    reason: Option<Box<CloseReason>>,
    pub(crate) peer: Addr,
    /// The listener, or the token, of its origin.
    number: u64,
}

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connecting, or shaking hands: the application does not know of it yet.
    Opening,
    /// Frames flow both ways.
    Open,
    /// Closing: what was written is being sent, what arrives is dropped.
    Flushing,
    /// All is sent and FIN with it; waiting for the peer's FIN, so that no RST overtakes the data.
    AwaitingFin,
    /// To be closed at once, with RST.
    Aborted,
    /// Closed; the slot is freed at the end of the turn.
    Closed,
}

/// What the reactor must do with the socket next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: wait for events.
    Wait,
    /// Send FIN, then tell by [`fin_sent`](ConnState::fin_sent).
    SendFin,
    /// Close the socket; what was sent arrives.
    Close,
    /// Close the socket with RST.
    Reset,
    /// Let go of the socket without closing it.
    Detach,
}

/// What a look at the clock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Nothing is due; look again at this time, if ever.
    At(u64),
    /// A limit on a connection that is open, or about to be, ran out: close it.
    Timeout(TimeoutKind),
    /// The drain took too long: reset it.
    DrainOver,
    /// The peer's FIN did not come: close it all the same.
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
    /// A connection that is open.
    pub(crate) fn new(id: ConnId, peer: Addr, origin: Origin, now: u64) -> Self {
        let (direction, number) = origin.split();
        Self {
            id,
            out: OutQueue::default(),
            inbox: Inbox::default(),
            flags: WRITABLE,
            phase: Phase::Open,
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
            fin_sent: false,
            unhurried: false,
            number,
        }
    }

    /// A connection that has to connect or to shake hands first, within `limit` milliseconds.
    pub(crate) fn opening(id: ConnId, peer: Addr, origin: Origin, now: u64, limit: u64) -> Self {
        let mut state = Self::new(id, peer, origin, now);
        state.phase = Phase::Opening;
        state.flags = OPENING;
        state.close_by = now.saturating_add(limit);
        state
    }

    /// What it is called in log lines.
    pub(crate) fn name(&self) -> Name<'_> {
        Name(self)
    }

    /// Which way it came.
    pub(crate) fn origin(&self) -> Origin {
        self.direction.with(self.number)
    }

    #[inline]
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    fn put(&mut self, flag: u32, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    // What the socket did.

    /// The usual event: there is input, and the peer may send more.
    #[inline]
    pub(crate) fn on_readable(&mut self, writable: bool) {
        self.flags |= READABLE | if writable { WRITABLE } else { 0 };
    }

    #[inline]
    pub(crate) fn on_event(&mut self, readable: bool, writable: bool, read_closed: bool) {
        if readable {
            self.flags |= READABLE;
        }
        if writable {
            self.flags |= WRITABLE;
        }
        if read_closed {
            self.flags |= DOUBTFUL | READABLE;
        }
    }

    /// A read gave `n` bytes; `drained` when the stream has no more for now.
    #[inline]
    pub(crate) fn on_read(&mut self, n: usize, drained: bool, now: u64) {
        self.bytes_in += n as u64;
        self.active_at = now;
        if drained && !self.has(DOUBTFUL) {
            self.flags &= !READABLE;
        }
    }

    /// There is urgent data, and there may be more of it later.
    #[cold]
    pub(crate) fn on_urgent(&mut self) {
        self.flags |= DOUBTFUL;
    }

    /// Its socket is a Unix one.
    pub(crate) fn set_unix(&mut self) {
        self.put(UNIX, true);
    }

    /// Whether the peer has ended its stream, or there was urgent data.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.has(DOUBTFUL)
    }

    /// What has been received since was skipped and belongs to no message: it is no sign of life.
    pub(crate) fn on_skipped(&mut self, active_at: u64) {
        self.active_at = active_at;
    }

    pub(crate) fn on_read_would_block(&mut self) {
        self.flags &= !READABLE;
    }

    pub(crate) fn on_peer_eof(&mut self) {
        self.flags = self.flags & !READABLE | PEER_EOF;
    }

    /// The kernel took everything that was staged: the usual case, and nothing follows from it.
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

    pub(crate) fn on_write_would_block(&mut self, now: u64) {
        self.flags &= !WRITABLE;
        if self.stalled_since == NEVER {
            self.stalled_since = now;
        }
    }

    // What the codec found.

    #[inline]
    pub(crate) fn on_frames(&mut self) {
        self.flags |= GREETED;
    }

    /// A frame is incomplete; `fresh` when it is another one than at the last look.
    pub(crate) fn on_partial(&mut self, fresh: bool, now: u64) {
        if fresh || self.partial_since == NEVER {
            self.partial_since = now;
        }
    }

    #[inline]
    pub(crate) fn on_input_consumed(&mut self) {
        self.partial_since = NEVER;
    }

    /// Input is read again: the time it was not is no fault of the peer's.
    pub(crate) fn on_resumed(&mut self, now: u64) {
        if self.partial_since != NEVER {
            self.partial_since = now;
        }
    }

    // How it opened.

    /// Connected, and hands are shaken: frames flow from now on.
    pub(crate) fn opened(&mut self, now: u64) {
        self.phase = Phase::Open;
        self.put(OPENING, false);
        self.opened_at = now;
        self.active_at = now;
        self.close_by = NEVER;
    }

    // What the application asked.

    /// Whether writes are taken.
    pub(crate) fn takes_writes(&self) -> bool {
        !self.has(NO_WRITES)
    }

    /// Whether a write may simply be staged: it is taken, and nothing waits that it must go behind.
    #[inline]
    pub(crate) fn takes_staged(&self) -> bool {
        !self.has(NO_WRITES | DATAGRAM) && self.out.len() == 0
    }

    /// Whether a callback has changed nothing but the output.
    #[inline]
    pub(crate) fn is_undisturbed(&self) -> bool {
        !self.has(EXTRAORDINARY)
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.put(PAUSED, paused);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.has(PAUSED)
    }

    /// Stops taking writes and handling frames; once everything is sent, the socket is let go. Returns whether
    /// it can: it is open, and not on its way out already.
    pub(crate) fn detach(&mut self) -> bool {
        let can = !self.has(CLOSING | DETACHING);
        if can {
            self.put(DETACHING, true);
        }
        can
    }

    pub(crate) fn shut_write(&mut self) {
        self.put(SHUT_WRITE, true);
    }

    /// Begins to close: drain what was written, then FIN. Returns whether it was open until now.
    ///
    /// A connection that is still opening has written nothing for the application: it ends at once.
    pub(crate) fn begin_close(&mut self, reason: CloseReason, now: u64, limits: &Limits) -> bool {
        match self.phase {
            Phase::Open => self.drain(reason, now, limits),
            Phase::Opening => self.abort(reason),
            _ => return false,
        }
        true
    }

    /// Closes an opening connection whose handshake failed, once the peer has been told why.
    #[cfg_attr(
        not(feature = "tls"),
        allow(dead_code, reason = "only TLS has a handshake")
    )]
    pub(crate) fn refuse(&mut self, reason: CloseReason, now: u64, limits: &Limits) {
        self.drain(reason, now, limits);
    }

    fn drain(&mut self, reason: CloseReason, now: u64, limits: &Limits) {
        self.phase = Phase::Flushing;
        self.put(CLOSING, true);
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.close_by = now.saturating_add(limits.drain);
        self.partial_since = NEVER;
        // From now on `close_by` is the drain's.
        self.flags &= !(DRAIN_DUE | AWAITS_RESPONSE);
    }

    /// Why the connection ends, if the handler is to hear of that before the end; only once. Who has connected waits for what
    /// becomes of it, and a peer that has failed may take long to end its side.
    pub(crate) fn take_early_reason(&mut self) -> Option<CloseReason> {
        if self.direction != Direction::Connected || self.has(TOLD) || self.is_open() {
            return None;
        }
        let reason = self.reason.take_if(|reason| reason.is_the_peers_fault())?;
        self.put(TOLD, true);
        Some(*reason)
    }

    /// Whether the handler has heard of the end.
    pub(crate) fn is_told(&self) -> bool {
        self.has(TOLD)
    }

    /// Makes the next step a reset, whatever is still to be sent.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Aborted;
            // Nothing more is offered to the kernel.
            self.flags = self.flags & !WRITABLE | CLOSING;
            self.reason.get_or_insert_with(|| Box::new(reason));
        }
    }

    /// The peer does not take the rest: it is lost, and the reason says so.
    pub(crate) fn give_up_flushing(&mut self) {
        self.phase = Phase::Aborted;
        self.flags &= !WRITABLE;
        self.reason = Some(Box::new(CloseReason::Timeout(TimeoutKind::Drain)));
    }

    // What to do next.

    /// Whether the peer has ended its stream and nothing is to be sent, not even the end of a TLS stream.
    pub(crate) fn is_finished(&self) -> bool {
        self.has(PEER_EOF) && !self.has(TAIL | SEALED) && self.out.len() == 0
    }

    /// Whether there is nothing to read, decode, send or tell: only the kernel has changed its mind.
    #[inline]
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.flags & (READABLE | DRAIN_DUE | TAIL | OPENING) == 0
            && self.out.len() == 0
            && self.inbox.is_empty()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        !self.has(CLOSING)
    }

    /// Whether it is connecting or shaking hands.
    #[inline]
    pub(crate) fn is_opening(&self) -> bool {
        self.phase == Phase::Opening
    }

    /// Whether it ends, or has ended, without ever having been open.
    pub(crate) fn never_opened(&self) -> bool {
        self.has(OPENING)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The usual case: there is input, all of it is wanted, and nothing waits in any buffer.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.flags & (EXTRAORDINARY | UNIX | READABLE) == READABLE && self.holds_nothing()
    }

    /// The same of a Unix socket.
    #[inline]
    pub(crate) fn is_ordinary_unix(&self) -> bool {
        self.flags & (EXTRAORDINARY | UNIX | READABLE) == UNIX | READABLE && self.holds_nothing()
    }

    #[inline]
    fn holds_nothing(&self) -> bool {
        self.inbox.is_empty() && self.out.len() == 0
    }

    /// Whether a read has left nothing to look after: no input anywhere, nothing due.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.flags & (READABLE | DRAIN_DUE) == 0 && self.inbox.is_empty()
    }

    /// Has it not read while its output is congested.
    pub(crate) fn pause_reads_when_congested(&mut self) {
        self.put(PAUSES_READS, true);
    }

    /// Whether congested output keeps it from being read.
    pub(crate) fn pauses_reads(&self) -> bool {
        self.has(PAUSES_READS)
    }

    /// Whether input should be read and decoded: the handler wants it, and no congested output forbids it.
    #[inline]
    pub(crate) fn wants_frames(&self) -> bool {
        const BOTH: u32 = CONGESTED | PAUSES_READS;
        !self.has(NO_FRAMES) && self.flags & BOTH != BOTH
    }

    /// Whether a read may find input or its end.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        self.has(READABLE) && !self.has(PEER_EOF)
    }

    /// Whether input waits that the codec has not seen. `None` when the stream may have some.
    #[inline]
    pub(crate) fn has_unread_input(&self) -> Option<bool> {
        match self.is_readable() {
            _ if !self.inbox.is_empty() => Some(true),
            true => None,
            false => Some(false),
        }
    }

    /// Whether what arrives is only read to be dropped.
    pub(crate) fn discards_input(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::AwaitingFin)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.has(WRITABLE)
    }

    pub(crate) fn saw_peer_eof(&self) -> bool {
        self.has(PEER_EOF)
    }

    /// Whether the kernel should be offered the backlog.
    #[inline]
    pub(crate) fn can_send_backlog(&self) -> bool {
        self.is_writable() && (self.has_sendable() || self.has(TAIL))
    }

    /// Tells whether the stream holds output back that the kernel has not taken.
    pub(crate) fn set_tail(&mut self, tail: bool) {
        self.put(TAIL, tail);
    }

    /// Tells that the stream is encrypted.
    pub(crate) fn seal(&mut self) {
        self.put(SEALED, true);
    }

    /// Looks at the water marks after a flush; returns whether `on_drain` has become due.
    pub(crate) fn update_congestion(&mut self, limits: &Limits) -> bool {
        if self.has(PIPED | BROKEN) {
            return false;
        }
        let (bytes, files) = (self.out.len(), self.out.files());
        if limits.is_high(bytes, files) {
            self.put(CONGESTED, true);
        } else if self.has(CONGESTED) && self.has_drained(limits) {
            self.put(CONGESTED | AWAITS_EMPTY, false);
            self.put(DRAIN_DUE, self.phase == Phase::Open);
            return true;
        }
        false
    }

    fn has_drained(&self, limits: &Limits) -> bool {
        if self.has(AWAITS_EMPTY) {
            self.out.len() == 0 && self.has(WRITABLE)
        } else {
            limits.is_low(self.out.len(), self.out.files())
        }
    }

    /// Notes that more waits than the high-water mark.
    pub(crate) fn set_congested(&mut self) {
        self.put(CONGESTED, true);
    }

    /// Notes that a write was refused, and will be tried again in `on_drain`.
    pub(crate) fn on_refused(&mut self, limits: &Limits) {
        self.put(CONGESTED, true);
        // It would be refused again.
        if limits.is_low(self.out.len(), self.out.files()) {
            self.put(AWAITS_EMPTY, true);
        }
    }

    /// How many bytes may wait to be sent.
    pub(crate) fn outbound_limit(&self, limits: &Limits) -> usize {
        if self.is_writable() {
            limits.longest_write()
        } else {
            limits.outbound
        }
    }

    /// Whether its output should be offered to the kernel before more is written.
    pub(crate) fn should_be_flushed(&self) -> bool {
        self.out.len() >= FLUSH_AT || self.has(CONGESTED)
    }

    /// Whether `on_drain` is due; it is not any more then.
    #[inline]
    pub(crate) fn take_drain_due(&mut self) -> bool {
        let due = self.has(DRAIN_DUE);
        self.flags &= !DRAIN_DUE;
        due
    }

    /// Whether nothing needs a look after the usual flush.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.has(CLOSING | CONGESTED | SHUT_WRITE | SEALED | DETACHING)
    }

    /// What to do with the socket, once the flush phase has offered everything to the kernel.
    pub(crate) fn next_step(&self) -> Step {
        let drained = self.out.len() == 0 && !self.has(TAIL);
        match self.phase {
            Phase::Aborted => Step::Reset,
            Phase::Flushing if self.has(BROKEN) => Step::Close,
            Phase::Open if self.has(BROKEN) && self.has(DETACHING) => Step::Close,
            // Closing would do for FIN, but not for close_notify.
            Phase::Flushing if drained && self.has(PEER_EOF) && !self.has(SEALED) => Step::Close,
            Phase::Flushing if drained && self.has(DATAGRAM) => Step::Close,
            Phase::AwaitingFin if self.has(PEER_EOF) => Step::Close,
            Phase::Flushing if drained => Step::SendFin,
            Phase::Open if drained && self.has(SHUT_WRITE) && !self.fin_sent => Step::SendFin,
            Phase::Open if drained && self.has(DETACHING) => Step::Detach,
            Phase::Open if self.has(DETACHING) => Step::Wait,
            Phase::Open if self.fin_sent && self.has(PEER_EOF) => Step::Close,
            _ => Step::Wait,
        }
    }

    /// FIN is on its way behind all that was written.
    pub(crate) fn fin_sent(&mut self, now: u64, limits: &Limits) {
        self.fin_sent = true;
        if self.phase == Phase::Flushing {
            self.phase = Phase::AwaitingFin;
            let by = if self.unhurried { NEVER } else { self.close_by };
            self.close_by = by.min(now.saturating_add(limits.fin));
        }
    }

    /// Whether all is sent, and FIN with it.
    pub(crate) fn awaits_fin(&self) -> bool {
        self.phase == Phase::AwaitingFin
    }

    /// Lets the wait for the peer's FIN last no longer than until `tick`; returns whether it is under way.
    pub(crate) fn shorten_fin_wait(&mut self, tick: u64) -> bool {
        if self.awaits_fin() {
            self.close_by = self.close_by.min(tick);
        }
        self.awaits_fin()
    }

    // The reactor's lists.

    /// Puts it on the ready list; returns whether it was not on it yet.
    #[inline]
    pub(crate) fn enqueue(&mut self) -> bool {
        let fresh = !self.has(QUEUED);
        self.flags |= QUEUED;
        fresh
    }

    #[inline]
    pub(crate) fn dequeue(&mut self) {
        self.flags &= !QUEUED;
    }

    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        self.has(QUEUED)
    }

    /// Puts it on the flush list; returns whether it was not on it yet.
    #[inline]
    pub(crate) fn mark_dirty(&mut self) -> bool {
        let fresh = !self.has(DIRTY);
        self.flags |= DIRTY;
        fresh
    }

    #[inline]
    pub(crate) fn clear_dirty(&mut self) {
        self.flags &= !DIRTY;
    }

    /// Its account up to now.
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

    /// Ends it, giving the buffers back; the account and the reason are for `on_close`.
    ///
    /// It is `now`, which is `at` for others. The first reason counts; `last` is the one of this end.
    pub(crate) fn finish(
        &mut self,
        now: u64,
        at: Instant,
        last: Option<CloseReason>,
        buffers: &mut BufferPool,
    ) -> (Closed, CloseReason) {
        self.phase = Phase::Closed;
        self.put(CLOSING, true);
        let closed = self.account(now, at);
        self.out.clear(buffers);
        self.inbox.clear(buffers);
        let default = if self.has(PEER_EOF) {
            CloseReason::Peer
        } else {
            CloseReason::Local
        };
        let first = self.reason.take().map(|reason| *reason);
        let reason = first.or(last).unwrap_or(default);
        (closed, reason)
    }
}
