//! The connection's state for conversing codecs: the input that is held, and the answers that are owed or awaited.

use super::ConnState;
use super::flags::{Flags, Marks};
use super::limits::NEVER;

impl ConnState {
    /// Leaves received input undecoded until something has been sent.
    pub(crate) fn hold(&mut self) {
        self.put(Flags::HELD, true);
    }

    /// Called when something has been sent. Returns true if held input was waiting for that.
    #[inline]
    pub(crate) fn release(&mut self) -> bool {
        let held = self.has(Flags::HELD);
        self.flags.remove(Flags::HELD);
        held
    }

    /// Limits the wait for the peer's closing message to `limit` milliseconds, counted from the first call.
    pub(crate) fn await_closing_message(&mut self, now: u64, limit: u64) {
        self.end_response_wait();
        self.close_by = self.close_by.min(now.saturating_add(limit));
    }

    /// Waits until `by` for the peer's answer to begin.
    pub(crate) fn await_response(&mut self, by: u64) {
        self.put(Flags::AWAITS_RESPONSE, true);
        self.close_by = by;
    }

    /// Ends the wait, because the answer has begun or none is awaited any more.
    pub(crate) fn end_response_wait(&mut self) {
        if self.has(Flags::AWAITS_RESPONSE) {
            self.put(Flags::AWAITS_RESPONSE, false);
            self.close_by = NEVER;
        }
    }

    /// Returns true if the wait for the peer's answer has a limit.
    pub(crate) fn awaits_response(&self) -> bool {
        self.has(Flags::AWAITS_RESPONSE)
    }

    /// Lets the drain last as long as the peer takes output: its limit counts from the last progress.
    pub(crate) fn drain_by_progress(&mut self) {
        self.marks.insert(Marks::DRAINS_BY_PROGRESS);
    }

    /// Waits with the shutdown for the answers that are owed or awaited.
    pub(crate) fn begin_drain(&mut self) {
        self.put(Flags::DRAINING, true);
    }

    /// Ends that wait because the connection closes. Returns true if a shutdown waited for it.
    pub(crate) fn end_draining(&mut self) -> bool {
        let was = self.has(Flags::DRAINING);
        self.put(Flags::DRAINING, false);
        was
    }

    /// Records that the handler has not answered at once. Returns true if that was not recorded before.
    pub(crate) fn mark_owing(&mut self) -> bool {
        let owed = self.has(Flags::OWES);
        self.put(Flags::OWES, true);
        !owed
    }

    /// Records that no answer is owed any more. Returns true if one was.
    pub(crate) fn clear_owing(&mut self) -> bool {
        let owed = self.has(Flags::OWES);
        self.put(Flags::OWES, false);
        owed
    }

    /// Returns true if an answer is owed that was not given at once.
    pub(crate) fn owes(&self) -> bool {
        self.has(Flags::OWES)
    }

    /// Returns true if an action waits until no answer is owed or awaited.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.has(Flags::OWES | Flags::DRAINING | Flags::AWAITS_RESPONSE)
    }

    /// Returns true if the connection is being detached or piped.
    pub(crate) fn is_leaving(&self) -> bool {
        self.has(Flags::DETACHING | Flags::PIPED)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.has(Flags::DRAINING)
    }

    /// Returns true if an action waits for an answer to be sent.
    #[inline]
    pub(crate) fn awaits_answer(&self) -> bool {
        self.has(Flags::HELD | Flags::PEER_EOF | Flags::DRAINING | Flags::OWES)
    }
}
