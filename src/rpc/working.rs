//! Handlers at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::context::Kept;

/// Counts a handler as at work as long as it exists.
pub(super) struct Working {
    counters: [Arc<AtomicUsize>; 2],
    /// Exists as long.
    _kept: Kept,
}

impl Working {
    pub(super) fn new(counters: [&Arc<AtomicUsize>; 2], kept: Kept) -> Self {
        let counters = counters.map(|counter| {
            counter.fetch_add(1, Ordering::Relaxed);
            counter.clone()
        });
        Self {
            counters,
            _kept: kept,
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        for counter in &self.counters {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
