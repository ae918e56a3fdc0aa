//! Stalled output: the kernel refuses more, while the peer may still take what the kernel has.

use super::ConnState;
use super::limits::NEVER;

impl ConnState {
    /// Returns true if output waits that the kernel has refused.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_since != NEVER
    }

    /// Records that the peer has acknowledged bytes. This is progress, even if the kernel refuses more output.
    pub(crate) fn on_acknowledged(&mut self, now: u64) {
        self.active_at = now;
        self.stalled_since = now;
    }
}
