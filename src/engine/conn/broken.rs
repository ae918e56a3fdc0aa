//! Broken connections, which may have input that arrived before they broke.

use super::ConnState;
use super::close::CloseReason;
use super::flags::Flags;
use super::limits::NEVER;

impl ConnState {
    /// Returns true if received input is still useful after the connection breaks. Input that the codec holds until
    /// something is sent is not, nor is input that was to leave the engine with the socket.
    pub(crate) fn keeps_input_when_broken(&self) -> bool {
        !self.has(Flags::NOT_OPEN)
            && !self.has(Flags::PEER_EOF | Flags::HELD | Flags::DETACHING | Flags::DATAGRAM)
    }

    /// Marks the connection as broken. Nothing can be sent any more, and the received input is read to its end.
    pub(crate) fn mark_broken(&mut self, reason: CloseReason, now: u64) {
        self.reason.get_or_insert_with(|| Box::new(reason));
        // No event follows, and a short read may not be the last one.
        self.flags
            .insert(Flags::BROKEN | Flags::READABLE | Flags::DOUBTFUL);
        // Output that can never be sent must not pause reads. A late event may have it offered once more, without
        // effect.
        self.flags
            .remove(Flags::WRITABLE | Flags::PAUSES_READS | Flags::CONGESTED | Flags::AWAITS_EMPTY);
        self.stalled_since = NEVER;
        self.active_at = now;
    }

    /// Returns true if the connection is broken and only its input is still useful.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        self.has(Flags::BROKEN)
    }
}
