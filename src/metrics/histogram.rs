//! Histograms: how often which values occur.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::{AtomicHistogram, Config, Histogram as Buckets};

/// A histogram of sizes or times, of 10 KiB. Any thread may record and read; none of them waits.
///
/// The buckets are log-linear: each power of two is cut into 32 of the same width, so a value is known to within 3.2 %.
/// Values above 4.3 x 10^12 (an hour and 13 minutes in nanoseconds, or 4 TiB) count as that.
///
/// The buckets are those of the crate `histogram`, whose additions are atomic. `hdrhistogram`, the best-known one, must be
/// locked, or be copied through a channel, to be read while another thread records. Each record is two locked instructions,
/// which a [`Counter`](super::Counter) avoids. So record what happens once in a request, not what happens for each byte.
pub struct Histogram {
    buckets: AtomicHistogram,
    sum: AtomicU64,
}

/// The values that a [`Histogram`] has recorded up to one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Distribution {
    buckets: Buckets,
    sum: u64,
}

/// The binary logarithm of the number of buckets for each power of two.
const GROUPING: u8 = 5;

/// The number of bits of the largest value.
const MAX_BITS: u8 = 42;

const MAX: u64 = (1 << MAX_BITS) - 1;

fn config() -> Config {
    match Config::new(GROUPING, MAX_BITS) {
        Ok(config) => config,
        Err(_) => unreachable!("the constants are in the allowed range"),
    }
}

impl Histogram {
    /// Records a value.
    #[inline]
    pub fn record(&self, value: u64) {
        let value = value.min(MAX);
        // Only values above the largest are refused.
        let _ = self.buckets.increment(value);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records a time, in nanoseconds.
    #[inline]
    pub fn record_time(&self, time: Duration) {
        self.record(time.as_nanos().min(MAX.into()) as u64);
    }

    /// Returns what it has recorded. A value that is recorded meanwhile may be missing in part.
    pub fn read(&self) -> Distribution {
        Distribution {
            buckets: self.buckets.load(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: AtomicHistogram::with_config(&config()),
            sum: AtomicU64::default(),
        }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Distribution {
    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.buckets.as_slice().iter().sum()
    }

    /// Returns the sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns the value below or at which this share of the values is, from 0 to 1, rounded up by at most 3.2 %. `None` if
    /// there are no values.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let bucket = self.buckets.quantile_bucket(share.clamp(0.0, 1.0));
        Some(bucket.ok()??.end())
    }

    /// Returns the [`quantile`](Self::quantile) of times.
    pub fn time_quantile(&self, share: f64) -> Option<Duration> {
        self.quantile(share).map(Duration::from_nanos)
    }

    /// Adds the values of another one.
    pub fn add(&mut self, other: &Self) {
        self.buckets = self
            .buckets
            .wrapping_add(&other.buckets)
            .unwrap_or_else(|_| self.buckets.clone());
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Returns the number of values up to each of the powers of two, less one, with these exponents.
    pub(crate) fn up_to_powers(
        &self,
        exponents: impl Iterator<Item = u32>,
    ) -> impl Iterator<Item = (u64, u64)> {
        let mut buckets = self.buckets.iter().peekable();
        let mut count = 0;
        exponents.map(move |exponent| {
            // Buckets end at powers of two, so none is cut.
            let end = (1 << exponent) - 1;
            while let Some(bucket) = buckets.next_if(|bucket| bucket.end() <= end) {
                count += bucket.count();
            }
            (end, count)
        })
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            buckets: Buckets::with_config(&config()),
            sum: 0,
        }
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distribution")
            .field("count", &self.count())
            .field("sum", &self.sum)
            .field("median", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish_non_exhaustive()
    }
}
