//! The limits every connection of a server lives under.

/// What happens when a peer does not read what is written to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutboundPolicy {
    /// Above the high-water mark the input of an accepted connection is not read, so that its peer cannot ask for
    /// more. A connection that this side made is read on, or two such ends could wait for each other for ever; a codec
    /// may decide otherwise for either ([`Codec::backpressure`](crate::codec::Codec::backpressure)). A write past the
    /// outbound limit is refused with [`WriteError::Full`](crate::WriteError).
    #[default]
    PauseReads,
    /// All input is read on; a write past the limit is refused, which drops that message for this peer.
    /// For feeds whose next message supersedes the last.
    Drop,
    /// All input is read on; a write past the limit closes the connection.
    Close,
}

/// The limits in the units the loop compares with: bytes, and milliseconds that may be [`NEVER`].
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
    /// Whether a connection has a limit from its start on.
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

/// Writes below this size are staged without a look at the outbound limit, which cannot be less.
pub(crate) const SMALL_WRITE: usize = 16 << 10;

/// How much may be written whatever the outbound limit, as long as the kernel has refused nothing: it is offered no
/// output before the callback has returned.
pub(crate) const UNOFFERED: usize = 1 << 20;

/// The longest time between two looks at what a peer has acknowledged, in milliseconds.
const LONGEST_LOOK: u64 = 60_000;

/// A time that never comes; additions to it saturate.
pub(crate) const NEVER: u64 = u64::MAX;

impl Limits {
    /// The longest write that can be taken.
    pub(crate) fn longest_write(&self) -> usize {
        self.outbound.max(UNOFFERED)
    }

    /// How often to look what a peer has acknowledged whose kernel takes no more: often enough that a limit that counts
    /// from the last progress is off by no more than an eighth.
    pub(crate) fn look_every(&self) -> u64 {
        let shortest = self.write_stall.min(self.idle).min(self.drain);
        (shortest / 8).clamp(1, LONGEST_LOOK)
    }

    /// Whether so much output is above the high-water mark.
    pub(crate) fn is_high(&self, bytes: usize, files: usize) -> bool {
        bytes > self.high_water || files > self.max_files / 4
    }

    /// Whether so much output is at the low-water mark, or below.
    pub(crate) fn is_low(&self, bytes: usize, files: usize) -> bool {
        bytes <= self.low_water && files <= self.max_files / 8
    }
}
