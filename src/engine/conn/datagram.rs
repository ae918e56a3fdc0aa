//! What is different about a session over datagrams, which has no stream and no buffers of its own.

use super::ConnState;
use super::flags::Flags;

impl ConnState {
    /// Makes it a session over datagrams.
    pub(crate) fn set_datagram(&mut self) {
        self.put(Flags::DATAGRAM, true);
    }

    #[inline]
    pub(crate) fn is_datagram(&self) -> bool {
        self.has(Flags::DATAGRAM)
    }

    /// A datagram of `n` bytes has arrived; returns whether its frames are wanted.
    pub(crate) fn on_datagram(&mut self, n: usize, now: u64) -> bool {
        self.bytes_in += n as u64;
        self.active_at = now;
        self.takes_frames()
    }

    /// Whether the handler may be given a frame.
    pub(crate) fn takes_frames(&self) -> bool {
        !self.has(Flags::NO_FRAMES)
    }

    /// A datagram of `n` bytes is queued.
    pub(crate) fn on_datagram_queued(&mut self, n: usize, now: u64) {
        self.bytes_out += n as u64;
        self.active_at = now;
    }

    /// A datagram found no room in the queue: `on_drain` is called when there is some.
    pub(crate) fn on_queue_full(&mut self) {
        self.put(Flags::CONGESTED, true);
    }

    /// There is room again; returns whether `on_drain` has become due.
    pub(crate) fn on_queue_empty(&mut self) -> bool {
        let was = self.has(Flags::CONGESTED);
        self.put(Flags::CONGESTED, false);
        if was {
            self.put(Flags::DRAIN_DUE, !self.has(Flags::NOT_OPEN));
        }
        was
    }

    /// Whether it waits for room in the queue.
    pub(crate) fn is_congested(&self) -> bool {
        self.has(Flags::CONGESTED)
    }
}
