//! A time that threads share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A time that threads share, in microseconds. 0 means none.
pub(super) struct SharedTime(AtomicU64);

impl SharedTime {
    pub(super) fn new(time: Option<Duration>) -> Self {
        let this = Self(AtomicU64::new(0));
        this.set(time);
        this
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    pub(super) fn set(&self, time: Option<Duration>) {
        let micros = |time: Duration| {
            time.as_nanos()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX)
        };
        self.0.store(time.map_or(0, micros), Ordering::Relaxed);
    }
}
