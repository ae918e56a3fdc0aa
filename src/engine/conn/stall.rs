//! Output that the kernel refuses, and a peer that may be taking what the kernel has.

use super::ConnState;
use super::limits::NEVER;

impl ConnState {
    /// Whether output waits that the kernel has refused.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_since != NEVER
    }

    /// The peer has acknowledged some of what the kernel has: it gets on, however long the kernel refuses more.
    pub(crate) fn on_acknowledged(&mut self, now: u64) {
        self.active_at = now;
        self.stalled_since = now;
    }
}
