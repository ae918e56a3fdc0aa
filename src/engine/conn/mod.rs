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
use self::flags::{Flags, Phase};
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
    flags: Flags,
    direction: Direction,
    /// It has not been open, at least not yet.
    never_opened: bool,
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
            never_opened: false,
            fin_sent: false,
            unhurried: false,
            number,
        }
    }

    /// A connection that has to connect or to shake hands first, within `limit` milliseconds.
    pub(crate) fn opening(id: ConnId, peer: Addr, origin: Origin, now: u64, limit: u64) -> Self {
        let mut state = Self::new(id, peer, origin, now);
        state.flags = Flags::OPENING;
        state.never_opened = true;
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

    fn phase(&self) -> Phase {
        self.flags.phase()
    }

    /// Asserts that the flags fit the phase and each other, in debug builds: called after each event.
    #[inline]
    pub(crate) fn check(&self) {
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let phase = self.phase();
        // A failure here aborts the connection, whose end must not fail for the same reason again.
        if matches!(phase, Phase::Aborted | Phase::Closed) {
            return;
        }
        let wrong = self.flags & Flags::forbidden(phase);
        assert!(wrong.is_empty(), "{}: {wrong:?} in {phase:?}", self.name());
        if self.has(Flags::AWAITS_EMPTY) {
            assert!(
                self.has(Flags::CONGESTED),
                "{}: {:?}",
                self.name(),
                self.flags
            );
        }
        if self.has(Flags::DATAGRAM) {
            let of_streams =
                Flags::UNIX | Flags::SEALED | Flags::TAIL | Flags::PIPED | Flags::DETACHING;
            assert!(!self.has(of_streams), "{}: {:?}", self.name(), self.flags);
        }
        if self.has(Flags::BROKEN) {
            assert!(
                !self.has(Flags::PAUSES_READS),
                "{}: {:?}",
                self.name(),
                self.flags
            );
            assert!(
                self.reason.is_some() || self.is_told() || self.is_closed(),
                "{}",
                self.name()
            );
        }
        if phase == Phase::AwaitingFin {
            assert!(self.fin_sent && self.out.len() == 0, "{}", self.name());
        }
    }

    #[inline]
    fn has(&self, flag: Flags) -> bool {
        self.flags.intersects(flag)
    }

    #[inline]
    fn put(&mut self, flag: Flags, on: bool) {
        self.flags.set(flag, on);
    }

    // What the socket did.

    /// The usual event: there is input, and the peer may send more.
    #[inline]
    pub(crate) fn on_readable(&mut self, writable: bool) {
        self.flags.insert(Flags::READABLE);
        if writable {
            self.flags.insert(Flags::WRITABLE);
        }
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
        }
    }

    /// A read gave `n` bytes; `drained` when the stream has no more for now.
    #[inline]
    pub(crate) fn on_read(&mut self, n: usize, drained: bool, now: u64) {
        self.bytes_in += n as u64;
        self.active_at = now;
        if drained && !self.has(Flags::DOUBTFUL) {
            self.flags.remove(Flags::READABLE);
        }
    }

    /// There is urgent data, and there may be more of it later.
    #[cold]
    pub(crate) fn on_urgent(&mut self) {
        self.flags.insert(Flags::DOUBTFUL);
    }

    /// Its socket is a Unix one.
    pub(crate) fn set_unix(&mut self) {
        self.put(Flags::UNIX, true);
    }

    /// Whether the peer has ended its stream, or there was urgent data.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.has(Flags::DOUBTFUL)
    }

    /// What has been received since was skipped and belongs to no message: it is no sign of life.
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
        self.flags.remove(Flags::WRITABLE);
        if self.stalled_since == NEVER {
            self.stalled_since = now;
        }
    }

    // What the codec found.

    #[inline]
    pub(crate) fn on_frames(&mut self) {
        self.flags.insert(Flags::GREETED);
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
        self.flags.set_phase(Phase::Open);
        self.never_opened = false;
        self.opened_at = now;
        self.active_at = now;
        self.close_by = NEVER;
    }

    // What the application asked.

    /// Whether writes are taken.
    pub(crate) fn takes_writes(&self) -> bool {
        !self.has(Flags::NO_WRITES)
    }

    /// Whether a write may simply be staged: it is taken, and nothing waits that it must go behind.
    #[inline]
    pub(crate) fn takes_staged(&self) -> bool {
        !self.has(Flags::NO_WRITES | Flags::DATAGRAM) && self.out.len() == 0
    }

    /// Whether a callback has changed nothing but the output.
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

    /// Stops taking writes and handling frames; once everything is sent, the socket is let go. Returns whether
    /// it can: it is open, and not on its way out already.
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

    /// Begins to close: drain what was written, then FIN. Returns whether it was open until now.
    ///
    /// A connection that is still opening has written nothing for the application: it ends at once.
    pub(crate) fn begin_close(&mut self, reason: CloseReason, now: u64, limits: &Limits) -> bool {
        match self.phase() {
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
        self.flags.set_phase(Phase::Flushing);
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.close_by = now.saturating_add(limits.drain);
        self.partial_since = NEVER;
        // From now on `close_by` is the drain's.
        self.flags.remove(Flags::DRAIN_DUE | Flags::AWAITS_RESPONSE);
    }

    /// Why the connection ends, if the handler is to hear of that before the end; only once. Who has connected waits for what
    /// becomes of it, and a peer that has failed may take long to end its side.
    pub(crate) fn take_early_reason(&mut self) -> Option<CloseReason> {
        if self.direction != Direction::Connected || self.has(Flags::TOLD) || self.is_open() {
            return None;
        }
        let reason = self.reason.take_if(|reason| reason.is_the_peers_fault())?;
        self.put(Flags::TOLD, true);
        Some(*reason)
    }

    /// Whether the handler has heard of the end.
    pub(crate) fn is_told(&self) -> bool {
        self.has(Flags::TOLD)
    }

    /// Makes the next step a reset, whatever is still to be sent.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        if self.phase() != Phase::Closed {
            self.flags.set_phase(Phase::Aborted);
            // Nothing more is offered to the kernel.
            self.flags.remove(Flags::WRITABLE);
            self.reason.get_or_insert_with(|| Box::new(reason));
        }
    }

    /// The peer does not take the rest: it is lost, and the reason says so.
    pub(crate) fn give_up_flushing(&mut self) {
        self.flags.set_phase(Phase::Aborted);
        self.flags.remove(Flags::WRITABLE);
        self.reason = Some(Box::new(CloseReason::Timeout(TimeoutKind::Drain)));
    }

    // What to do next.

    /// Whether the peer has ended its stream and nothing is to be sent, not even the end of a TLS stream.
    pub(crate) fn is_finished(&self) -> bool {
        self.has(Flags::PEER_EOF) && !self.has(Flags::TAIL | Flags::SEALED) && self.out.len() == 0
    }

    /// Whether there is nothing to read, decode, send or tell: only the kernel has changed its mind.
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

    /// Whether it is connecting or shaking hands.
    #[inline]
    pub(crate) fn is_opening(&self) -> bool {
        self.has(Flags::OPENING)
    }

    /// Whether it ends, or has ended, without ever having been open.
    pub(crate) fn never_opened(&self) -> bool {
        self.never_opened
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.has(Flags::CLOSED)
    }

    /// The usual case: there is input, all of it is wanted, and nothing waits in any buffer.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.is_just(Flags::READABLE) && self.holds_nothing()
    }

    /// The same of a Unix socket.
    #[inline]
    pub(crate) fn is_ordinary_unix(&self) -> bool {
        self.is_just(Flags::UNIX | Flags::READABLE) && self.holds_nothing()
    }

    /// Whether of the flags that matter to one with input it has these alone.
    #[inline]
    fn is_just(&self, flags: Flags) -> bool {
        let matter = Flags::EXTRAORDINARY | Flags::UNIX | Flags::READABLE;
        self.flags & matter == flags
    }

    #[inline]
    fn holds_nothing(&self) -> bool {
        self.inbox.is_empty() && self.out.len() == 0
    }

    /// Whether a read has left nothing to look after: no input anywhere, nothing due.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        !self.has(Flags::READABLE | Flags::DRAIN_DUE) && self.inbox.is_empty()
    }

    /// Has it not read while its output is congested.
    pub(crate) fn pause_reads_when_congested(&mut self) {
        self.put(Flags::PAUSES_READS, true);
    }

    /// Whether congested output keeps it from being read.
    pub(crate) fn pauses_reads(&self) -> bool {
        self.has(Flags::PAUSES_READS)
    }

    /// Whether input should be read and decoded: the handler wants it, and no congested output forbids it.
    #[inline]
    pub(crate) fn wants_frames(&self) -> bool {
        let both = Flags::CONGESTED | Flags::PAUSES_READS;
        !self.has(Flags::NO_FRAMES) && !self.flags.contains(both)
    }

    /// Whether a read may find input or its end.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        self.has(Flags::READABLE) && !self.has(Flags::PEER_EOF)
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
        self.has(Flags::FLUSHING | Flags::AWAITING_FIN)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.has(Flags::WRITABLE)
    }

    pub(crate) fn saw_peer_eof(&self) -> bool {
        self.has(Flags::PEER_EOF)
    }

    /// Whether the kernel should be offered the backlog.
    #[inline]
    pub(crate) fn can_send_backlog(&self) -> bool {
        self.is_writable() && (self.has_sendable() || self.has(Flags::TAIL))
    }

    /// Tells whether the stream holds output back that the kernel has not taken.
    pub(crate) fn set_tail(&mut self, tail: bool) {
        self.put(Flags::TAIL, tail);
    }

    /// Tells that the stream is encrypted.
    pub(crate) fn seal(&mut self) {
        self.put(Flags::SEALED, true);
    }

    /// Looks at the water marks after a flush; returns whether `on_drain` has become due.
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

    /// Notes that more waits than the high-water mark.
    pub(crate) fn set_congested(&mut self) {
        self.put(Flags::CONGESTED, true);
    }

    /// Notes that a write was refused, and will be tried again in `on_drain`.
    pub(crate) fn on_refused(&mut self, limits: &Limits) {
        self.put(Flags::CONGESTED, true);
        // It would be refused again.
        if limits.is_low(self.out.len(), self.out.files()) {
            self.put(Flags::AWAITS_EMPTY, true);
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
        self.out.len() >= FLUSH_AT || self.has(Flags::CONGESTED)
    }

    /// Whether `on_drain` is due; it is not any more then.
    #[inline]
    pub(crate) fn take_drain_due(&mut self) -> bool {
        let due = self.has(Flags::DRAIN_DUE);
        self.flags.remove(Flags::DRAIN_DUE);
        due
    }

    /// Whether nothing needs a look after the usual flush.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.has(
            Flags::CLOSING
                | Flags::CONGESTED
                | Flags::SHUT_WRITE
                | Flags::SEALED
                | Flags::DETACHING,
        )
    }

    /// What to do with the socket, once the flush phase has offered everything to the kernel.
    pub(crate) fn next_step(&self) -> Step {
        let drained = self.out.len() == 0 && !self.has(Flags::TAIL);
        match self.phase() {
            Phase::Aborted => Step::Reset,
            Phase::Flushing if self.has(Flags::BROKEN) => Step::Close,
            Phase::Open if self.has(Flags::BROKEN) && self.has(Flags::DETACHING) => Step::Close,
            // Closing would do for FIN, but not for close_notify.
            Phase::Flushing if drained && self.has(Flags::PEER_EOF) && !self.has(Flags::SEALED) => {
                Step::Close
            }
            Phase::Flushing if drained && self.has(Flags::DATAGRAM) => Step::Close,
            Phase::AwaitingFin if self.has(Flags::PEER_EOF) => Step::Close,
            Phase::Flushing if drained => Step::SendFin,
            Phase::Open if drained && self.has(Flags::SHUT_WRITE) && !self.fin_sent => {
                Step::SendFin
            }
            Phase::Open if drained && self.has(Flags::DETACHING) => Step::Detach,
            Phase::Open if self.has(Flags::DETACHING) => Step::Wait,
            Phase::Open if self.fin_sent && self.has(Flags::PEER_EOF) => Step::Close,
            _ => Step::Wait,
        }
    }

    /// FIN is on its way behind all that was written.
    pub(crate) fn fin_sent(&mut self, now: u64, limits: &Limits) {
        self.fin_sent = true;
        if self.phase() == Phase::Flushing {
            self.flags.set_phase(Phase::AwaitingFin);
            let by = if self.unhurried { NEVER } else { self.close_by };
            self.close_by = by.min(now.saturating_add(limits.fin));
        }
    }

    /// Whether all is sent, and FIN with it.
    pub(crate) fn awaits_fin(&self) -> bool {
        self.has(Flags::AWAITING_FIN)
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

    /// Puts it on the flush list; returns whether it was not on it yet.
    #[inline]
    pub(crate) fn mark_dirty(&mut self) -> bool {
        let fresh = !self.has(Flags::DIRTY);
        self.flags.insert(Flags::DIRTY);
        fresh
    }

    #[inline]
    pub(crate) fn clear_dirty(&mut self) {
        self.flags.remove(Flags::DIRTY);
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
        self.flags.set_phase(Phase::Closed);
        let closed = self.account(now, at);
        self.out.clear(buffers);
        self.inbox.clear(buffers);
        let default = if self.has(Flags::PEER_EOF) {
            CloseReason::Peer
        } else {
            CloseReason::Local
        };
        let first = self.reason.take().map(|reason| *reason);
        let reason = first.or(last).unwrap_or(default);
        (closed, reason)
    }
}
