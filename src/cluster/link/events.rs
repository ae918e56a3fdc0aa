#[cfg(doc)]
use super::Lane;
use crate::cluster::Error;
use crate::cluster::drpc::{Answer, RejectReason};

/// A change that the owner of a [`Lane`] must know of.
#[derive(Debug)]
#[non_exhaustive]
pub enum LaneEvent<'a, T> {
    /// The peer is known and takes requests.
    Up {
        /// True if the peer knows the extensions; false if it is due.
        extensions: bool,
        /// The number of the peer's [`State`](crate::cluster::State), if it told one.
        state: Option<u8>,
    },
    /// A call has ended.
    Answered {
        /// The caller's token.
        token: T,
        /// The answer, or the reason why there is none.
        result: Result<Answer<'a>, Error>,
    },
    /// The peer has not taken a packet that was delivered to it.
    Rejected {
        /// The connection.
        cid: i64,
        /// The packet's route.
        route: i32,
        /// The packet's seq.
        seq: i32,
        /// The reason.
        reason: RejectReason,
    },
    /// The peer is about to stop: it has done what was sent before, and takes no more.
    Bye,
    /// Frames have waited for too long for a connection and are given up.
    GaveUp {
        /// Their number.
        frames: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// Counters of a [`Lane`], from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Frames written to a connection, without heartbeats and openings.
    pub sent: u64,
    /// Calls that wait for an answer now.
    pub calls: u64,
    /// Bytes that wait for a connection now.
    pub queued_bytes: u64,
    /// Frames refused, since a queue or the table of calls was full.
    pub refused: u64,
    /// Frames given up, since there was no connection for too long.
    pub given_up: u64,
    /// Calls that timed out.
    pub timeouts: u64,
    /// Answers to calls that were cancelled or had timed out.
    pub late: u64,
    /// Answers that could not be read.
    pub malformed: u64,
}
