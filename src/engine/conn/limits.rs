//! The limits that apply to every connection of a server.

/// The policy for a peer that does not read its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutboundPolicy {
    /// Above the high-water mark the input of an accepted connection is not read, so that its peer cannot ask for
    /// more. A connection that this side made is still read, because otherwise two such ends could wait for each
    /// other for ever. A codec may decide otherwise for either
    /// ([`Codec::backpressure`](crate::codec::Codec::backpressure)). A write beyond the outbound limit is refused
    /// with [`WriteError::Full`](crate::WriteError).
    #[default]
    PauseReads,
    /// All input is read. A write beyond the outbound limit is refused, which drops that message for this peer. Use
    /// it for feeds in which each message supersedes the last.
    Drop,
    /// All input is read. A write beyond the outbound limit closes the connection.
    Close,
}

/// The limits in the units that the loop compares: bytes, and milliseconds that may be [`NEVER`].
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    pub(crate) outbound: usize,
    pub(crate) max_files: usize,
    pub(crate) policy: OutboundPolicy,
    pub(crate) max_frame: usize,
    pub(crate) read_budget: usize,
    pub(crate) frame_budget: usize,
    /// True if a connection has a limit from its start.
    pub(crate) watch_open: bool,
    pub(crate) idle: u64,
    pub(crate) answer: u64,
    pub(crate) read: u64,
    pub(crate) write_stall: u64,
    pub(crate) handshake: u64,
    pub(crate) lifetime: u64,
    pub(crate) drain: u64,
    pub(crate) fin: u64,
}

/// Writes below this size are staged without a check of the outbound limit, which cannot be smaller.
pub(crate) const SMALL_WRITE: usize = 16 << 10;

/// The number of bytes that may be written beyond the outbound limit while the kernel has refused nothing. The kernel
/// is offered no output before the callback returns.
pub(crate) const UNOFFERED: usize = 1 << 20;

/// The longest time between two checks of the bytes that a peer has acknowledged, in milliseconds.
const MAX_CHECK_INTERVAL: u64 = 60_000;

/// A time that never comes. Additions to it saturate.
pub(crate) const NEVER: u64 = u64::MAX;

impl Limits {
    /// Returns the length of the longest write that can be accepted.
    pub(crate) fn longest_write(&self) -> usize {
        self.outbound.max(UNOFFERED)
    }

    /// Returns the time between two checks of the bytes that a peer has acknowledged, in milliseconds. With it, a
    /// limit that counts from the last progress is off by no more than an eighth.
    pub(crate) fn check_interval(&self) -> u64 {
        let shortest = self.write_stall.min(self.idle).min(self.drain);
        (shortest / 8).clamp(1, MAX_CHECK_INTERVAL)
    }

    /// Returns true if this much output is above the high-water mark.
    pub(crate) fn is_high(&self, bytes: usize, files: usize) -> bool {
        bytes > self.high_water || files > self.max_files / 4
    }

    /// Returns true if this much output is at or below the low-water mark.
    pub(crate) fn is_low(&self, bytes: usize, files: usize) -> bool {
        bytes <= self.low_water && files <= self.max_files / 8
    }
}
