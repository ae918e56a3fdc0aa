//! A connection that is broken, and may have input that arrived before it broke.

use super::ConnState;
use super::close::CloseReason;
use super::flags::Flags;
use super::limits::NEVER;

impl ConnState {
    /// Whether input that has arrived is still of use when the connection breaks. What the codec holds back until something
    /// is sent is not, nor what is to leave the engine with the socket once everything is sent.
    pub(crate) fn outlives_break(&self) -> bool {
        !self.has(Flags::NOT_OPEN)
            && !self.has(Flags::PEER_EOF | Flags::HELD | Flags::DETACHING | Flags::DATAGRAM)
    }

    /// The connection is broken: nothing can be sent any more, and what has arrived is read to its end.
    pub(crate) fn break_off(&mut self, reason: CloseReason, now: u64) {
        self.reason.get_or_insert_with(|| Box::new(reason));
        // No event follows, and no short read is the last one.
        self.flags
            .insert(Flags::BROKEN | Flags::READABLE | Flags::DOUBTFUL);
        // Output that will never be sent holds up nobody. A late event may have it offered once more, in vain.
        self.flags
            .remove(Flags::WRITABLE | Flags::PAUSES_READS | Flags::CONGESTED);
        self.stalled_since = NEVER;
        self.active_at = now;
    }

    /// Whether it is broken, and only its input is still of use.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.has(Flags::BROKEN)
    }
}
