//! The state of listeners and routes that stays when their settings change.

use super::limiter::Limiters;
use super::mirror::Mirrors;
use super::split::Sequences;

/// The state of listeners and routes that all reactors share, and that stays when settings change.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) limiters: Limiters,
    /// The places of routes in their sequences of pools.
    pub(super) splits: Sequences,
    pub(super) mirrors: Mirrors,
}

impl Kept {
    /// Forgets what belongs to no listener and no route any more.
    pub(super) fn forget_unused(&self) {
        self.limiters.forget_unused();
        self.splits.forget_unused();
        self.mirrors.forget_unused();
    }
}
