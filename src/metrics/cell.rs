//! The cells that metrics are counted in. Each has one writer; any thread may read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
///
/// An addition is a load and a store, without a locked instruction. So a counter has one writer: if two threads add at the
/// same time, one of the additions is lost. Give each thread a set of its own, and add the sets up when they are read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the number.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Returns the number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. It has one writer, as a [`Counter`] has.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the number.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to the number.
    #[inline]
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Subtracts from the number, which wraps around below 0.
    #[inline]
    pub fn subtract(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Returns the number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A time that only grows, up to 584 years. It has one writer, as a [`Counter`] has.
#[derive(Debug, Default)]
pub struct TimeCounter(Counter);

impl TimeCounter {
    /// Adds a time.
    #[inline]
    pub fn add(&self, time: Duration) {
        self.add_nanos(time.as_nanos() as u64);
    }

    /// Adds a time in nanoseconds.
    #[inline]
    pub fn add_nanos(&self, nanos: u64) {
        self.0.add(nanos);
    }

    /// Returns the time.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

/// A time that goes up and down, up to 584 years. It has one writer, as a [`Counter`] has.
#[derive(Debug, Default)]
pub struct TimeGauge(Gauge);

impl TimeGauge {
    /// Replaces the time.
    #[inline]
    pub fn set(&self, time: Duration) {
        self.set_nanos(time.as_nanos() as u64);
    }

    /// Replaces the time by one in nanoseconds.
    #[inline]
    pub fn set_nanos(&self, nanos: u64) {
        self.0.set(nanos);
    }

    /// Replaces the time, in nanoseconds, if the new one is longer.
    #[inline]
    pub fn raise_nanos(&self, nanos: u64) {
        if nanos > self.0.get() {
            self.0.set(nanos);
        }
    }

    /// Returns the time.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}
