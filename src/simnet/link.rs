//! The delays and faults of a simulated network.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The delays and faults of a simulated network, or of one direction between two of its hosts. Begin with a profile, then
/// change single settings.
///
/// | | [`calm`](Self::calm) | [`hostile`](Self::hostile) |
/// |---|---|---|
/// | [`delay`](Self::delay) | 10 µs | 0 to 50 ms |
/// | [`segments`](Self::segments) | as they were sent | up to 64 KiB, most of them much smaller |
/// | [`send_buffer`](Self::send_buffer) | 256 KiB | 1 B to 64 KiB |
/// | [`interference`](Self::interference) | none | 15 % of the calls |
/// | [`resets`](Self::resets) | none | none |
/// | [`slow_turns`](Self::slow_turns) | no time | up to 3 ms |
/// | [`bandwidth`](Self::bandwidth) | unlimited | unlimited |
/// | [`loss`](Self::loss) of datagrams | none | 10 % |
/// | [`duplicates`](Self::duplicates) of datagrams | none | 5 % |
///
/// With any interference, sockets also become ready in random order and in batches of random size.
///
/// ```
/// use std::time::Duration;
/// use epicycle::testing::Link;
///
/// let lossy = Link::hostile().resets(20).delay(Duration::ZERO..=Duration::from_millis(400));
/// ```
#[derive(Clone, Debug)]
#[must_use = "each method returns the changed link"]
pub struct Link {
    /// In microseconds.
    pub(crate) delay: RangeInclusive<u64>,
    pub(crate) segments: usize,
    pub(crate) send_buffer: RangeInclusive<usize>,
    pub(crate) interference: u32,
    pub(crate) resets: u32,
    /// In microseconds.
    pub(crate) slow_turns: u64,
    /// In bytes a second. None if it is unlimited.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) loss: u32,
    pub(crate) duplicates: u32,
}

impl Link {
    /// Returns a network without faults: bytes arrive as they were sent, 10 µs later.
    pub fn calm() -> Self {
        Self {
            delay: 10..=10,
            segments: usize::MAX,
            send_buffer: 256 << 10..=256 << 10,
            interference: 0,
            resets: 0,
            slow_turns: 0,
            bandwidth: None,
            loss: 0,
            duplicates: 0,
        }
    }

    /// Returns a network with all faults that the socket interface allows, except broken connections.
    pub fn hostile() -> Self {
        Self {
            delay: 0..=50_000,
            segments: 64 << 10,
            send_buffer: 1..=64 << 10,
            interference: 15,
            resets: 0,
            slow_turns: 3_000,
            bandwidth: None,
            loss: 10,
            duplicates: 5,
        }
    }

    /// Sets the range of a segment's delay, in each direction. Its precision is a microsecond.
    pub fn delay(mut self, range: RangeInclusive<Duration>) -> Self {
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4);
        let start = micros(range.start());
        self.delay = start..=micros(range.end()).max(start);
        self
    }

    /// Sets the length of the longest segment in bytes. The network cuts the bytes that a peer sends into segments of random
    /// length; few reach the longest.
    pub fn segments(mut self, longest: usize) -> Self {
        self.segments = longest.max(1);
        self
    }

    /// Sets the range of a connection's send buffer, in bytes: the number of bytes that the kernel accepts while the peer does
    /// not read. Between two engines it is also the range of the receive buffers.
    pub fn send_buffer(mut self, range: RangeInclusive<usize>) -> Self {
        let start = (*range.start()).max(1);
        self.send_buffer = start..=(*range.end()).max(start);
        self
    }

    /// Sets the percentage of socket calls that are cut short, refused with `EAGAIN` or interrupted. The most is 90.
    pub fn interference(mut self, percent: u32) -> Self {
        // Some calls have to succeed, or no exchange ends.
        self.interference = percent.min(90);
        self
    }

    /// Sets the percentage of connections that break within their first two seconds.
    pub fn resets(mut self, percent: u32) -> Self {
        self.resets = percent;
        self
    }

    /// Sets the longest time that a turn of a reactor takes, in virtual time. The link of a single direction does not use it.
    pub fn slow_turns(mut self, longest: Duration) -> Self {
        self.slow_turns = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX / 4);
        self
    }

    /// Sets the bytes that pass in a second, from 1 on. All connections from one host to another share them; each direction
    /// has its own. They do not limit datagrams.
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Sets the percentage of datagrams that are lost. TCP sends again what is lost, so streams only have a
    /// [`delay`](Self::delay).
    pub fn loss(mut self, percent: u32) -> Self {
        self.loss = percent;
        self
    }

    /// Sets the percentage of datagrams that arrive twice.
    pub fn duplicates(mut self, percent: u32) -> Self {
        self.duplicates = percent;
        self
    }
}

impl Default for Link {
    /// Returns the hostile profile.
    fn default() -> Self {
        Self::hostile()
    }
}
