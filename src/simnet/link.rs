//! How badly a simulated network treats its connections.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How the simulated network treats connections: a profile to begin with, and what is different about it.
///
/// | | [`calm`](Self::calm) | [`hostile`](Self::hostile) |
/// |---|---|---|
/// | [`delay`](Self::delay) | 10 µs | 0 to 50 ms |
/// | [`segments`](Self::segments) | as they were sent | 64 KiB, most of them much smaller |
/// | [`send_buffer`](Self::send_buffer) | 256 KiB | 1 B to 64 KiB |
/// | [`interference`](Self::interference) | none | 15 % of the calls |
/// | [`resets`](Self::resets) | none | none |
/// | [`slow_turns`](Self::slow_turns) | take no time | up to 3 ms |
///
/// With any interference at all, sockets become ready in an order, and in batches, that chance decides.
///
/// ```
/// use std::time::Duration;
/// use epicycle::testing::Link;
///
/// let lossy = Link::hostile().resets(20).delay(Duration::ZERO..=Duration::from_millis(400));
/// ```
#[derive(Clone, Debug)]
pub struct Link {
    /// In microseconds.
    pub(crate) delay: RangeInclusive<u64>,
    pub(crate) segments: usize,
    pub(crate) send_buffer: RangeInclusive<usize>,
    pub(crate) interference: u32,
    pub(crate) resets: u32,
    /// In microseconds.
    pub(crate) slow_turns: u64,
}

impl Link {
    /// A network without surprises: what is sent arrives as it was sent, one hop later.
    pub fn calm() -> Self {
        Self {
            delay: 10..=10,
            segments: usize::MAX,
            send_buffer: 256 << 10..=256 << 10,
            interference: 0,
            resets: 0,
            slow_turns: 0,
        }
    }

    /// A network that does whatever the socket interface allows, except to break connections.
    pub fn hostile() -> Self {
        Self {
            delay: 0..=50_000,
            segments: 64 << 10,
            send_buffer: 1..=64 << 10,
            interference: 15,
            resets: 0,
            slow_turns: 3_000,
        }
    }

    /// How long a segment is on its way, in each direction, to the microsecond.
    pub fn delay(mut self, range: RangeInclusive<Duration>) -> Self {
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4);
        let start = micros(range.start());
        self.delay = start..=micros(range.end()).max(start);
        self
    }

    /// The longest segment, in bytes, into which what peers send is cut. Chance decides for each segment; few reach it.
    pub fn segments(mut self, longest: usize) -> Self {
        self.segments = longest.max(1);
        self
    }

    /// How many bytes the kernel takes for a peer that does not read, a size for each connection.
    pub fn send_buffer(mut self, range: RangeInclusive<usize>) -> Self {
        let start = (*range.start()).max(1);
        self.send_buffer = start..=(*range.end()).max(start);
        self
    }

    /// How many of 100 calls of the sockets are cut short, refused with `EAGAIN` or interrupted.
    pub fn interference(mut self, percent: u32) -> Self {
        // Some calls have to succeed, or nothing comes to an end.
        self.interference = percent.min(90);
        self
    }

    /// How many of 100 connections break within their first two seconds.
    pub fn resets(mut self, percent: u32) -> Self {
        self.resets = percent;
        self
    }

    /// How long a turn of the reactor takes at the most, in virtual time.
    pub fn slow_turns(mut self, longest: Duration) -> Self {
        self.slow_turns = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX / 4);
        self
    }
}

impl Default for Link {
    /// The hostile one.
    fn default() -> Self {
        Self::hostile()
    }
}
