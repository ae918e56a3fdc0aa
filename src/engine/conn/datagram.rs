//! UDP sessions, which have no stream and no buffers of their own.

use super::ConnState;
use super::flags::Flags;

impl ConnState {
    /// Makes it a UDP session.
    pub(crate) fn set_datagram(&mut self) {
        self.put(Flags::DATAGRAM, true);
    }

    #[inline]
    pub(crate) fn is_datagram(&self) -> bool {
        self.has(Flags::DATAGRAM)
    }

    /// Records a received datagram of `n` bytes. Returns true if its frames are wanted.
    pub(crate) fn on_datagram(&mut self, n: usize, now: u64) -> bool {
        self.bytes_in += n as u64;
        self.active_at = now;
        self.takes_frames()
    }

    /// Returns true if the handler may be given a frame.
    pub(crate) fn takes_frames(&self) -> bool {
        !self.has(Flags::NO_FRAMES)
    }

    /// Records a queued datagram of `n` bytes.
    pub(crate) fn on_datagram_queued(&mut self, n: usize, now: u64) {
        self.bytes_out += n as u64;
        self.active_at = now;
    }

    /// Records that the queue had no room for a datagram. `on_drain` is called when there is room.
    pub(crate) fn on_queue_full(&mut self) {
        self.put(Flags::CONGESTED, true);
    }

    /// Records that the queue has room again. Returns true if `on_drain` is due.
    pub(crate) fn on_queue_empty(&mut self) -> bool {
        let was = self.has(Flags::CONGESTED);
        self.put(Flags::CONGESTED, false);
        if was {
            self.put(Flags::DRAIN_DUE, !self.has(Flags::NOT_OPEN));
        }
        was
    }

    /// Returns true if it waits for room in the queue.
    pub(crate) fn is_congested(&self) -> bool {
        self.has(Flags::CONGESTED)
    }
}
