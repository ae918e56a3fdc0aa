//! A codec that takes part in the conversation: what waits for what is sent.

use super::ConnState;
use super::flags::Flags;
use super::limits::NEVER;

impl ConnState {
    /// Leaves what has arrived undecoded until something has been sent.
    pub(crate) fn hold(&mut self) {
        self.put(Flags::HELD, true);
    }

    /// Something has been sent; returns whether that was awaited.
    #[inline]
    pub(crate) fn release(&mut self) -> bool {
        let held = self.has(Flags::HELD);
        self.flags.remove(Flags::HELD);
        held
    }

    /// Waits for the peer's goodbye no longer than `limit` milliseconds from the first time this is called.
    pub(crate) fn await_goodbye(&mut self, now: u64, limit: u64) {
        self.end_response_wait();
        self.close_by = self.close_by.min(now.saturating_add(limit));
    }

    /// Waits for the peer's answer to begin, no longer than until `by`.
    pub(crate) fn await_response(&mut self, by: u64) {
        self.put(Flags::AWAITS_RESPONSE, true);
        self.close_by = by;
    }

    /// It has begun, or none is awaited any more.
    pub(crate) fn end_response_wait(&mut self) {
        if self.has(Flags::AWAITS_RESPONSE) {
            self.put(Flags::AWAITS_RESPONSE, false);
            self.close_by = NEVER;
        }
    }

    /// Whether the wait for the peer's answer has a limit.
    pub(crate) fn awaits_response(&self) -> bool {
        self.has(Flags::AWAITS_RESPONSE)
    }

    /// Lets the rest of the output take its time: the limit of the drain counts from when the peer last took some of it.
    pub(crate) fn take_time(&mut self) {
        self.unhurried = true;
    }

    /// Lets the answers that are owed or awaited come before the shutdown.
    pub(crate) fn begin_drain(&mut self) {
        self.put(Flags::DRAINING, true);
    }

    /// It closes: says whether a shutdown has waited for it.
    pub(crate) fn settle(&mut self) -> bool {
        let was = self.has(Flags::DRAINING);
        self.put(Flags::DRAINING, false);
        was
    }

    /// The handler has not answered at once. Returns whether that is news.
    pub(crate) fn owe(&mut self) -> bool {
        let owed = self.has(Flags::OWES);
        self.put(Flags::OWES, true);
        !owed
    }

    /// Nothing is owed any more. Returns whether anything was.
    pub(crate) fn pay(&mut self) -> bool {
        let owed = self.has(Flags::OWES);
        self.put(Flags::OWES, false);
        owed
    }

    /// Whether an answer is owed that was not given at once.
    pub(crate) fn owes(&self) -> bool {
        self.has(Flags::OWES)
    }

    /// Whether something is to be done once no answer is owed or awaited any more.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.has(Flags::OWES | Flags::DRAINING | Flags::AWAITS_RESPONSE)
    }

    /// Whether its bytes are about to go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.has(Flags::DETACHING | Flags::PIPED)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.has(Flags::DRAINING)
    }

    /// Whether something waits for an answer to be sent.
    #[inline]
    pub(crate) fn awaits_answer(&self) -> bool {
        self.has(Flags::HELD | Flags::PEER_EOF | Flags::DRAINING | Flags::OWES)
    }
}
