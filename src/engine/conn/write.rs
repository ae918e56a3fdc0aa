//! Why what the application writes is not taken.

use std::io;

use crate::codec::FrameError;
use crate::error::error_messages;

/// Why a write was not taken. Nothing of it will be sent.
#[non_exhaustive]
pub enum WriteError {
    /// The connection is closed or closing, its write side is shut down, or it is joined with another one.
    Closed,
    /// It would exceed the [outbound limit](crate::Server::outbound_limit): the peer does not read fast enough. Try again in
    /// `on_drain`, which follows.
    Full {
        /// How many bytes wait to be sent already.
        queued: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// As many files wait as [may](crate::Server::max_queued_files). Try again in `on_drain`, which follows.
    TooManyFiles {
        /// How many files wait to be sent already.
        queued: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// It is longer than a datagram can be, or than both the [outbound limit](crate::Server::outbound_limit) and 1 MiB.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest possible, in bytes.
        max: usize,
    },
    /// The item could not be encoded.
    Frame(FrameError),
    /// The file has no such part.
    Range {
        /// Where the part begins.
        start: u64,
        /// Where it ends; the byte there is not in it.
        end: u64,
        /// How many bytes the file has.
        len: u64,
    },
    /// The file cannot be sent: it is not a regular one, or its length cannot be told.
    File(io::Error),
}

impl WriteError {
    /// Whether the peer, or what has become of the connection, is the cause, and not what was to be written.
    pub(crate) fn is_circumstance(&self) -> bool {
        matches!(
            self,
            WriteError::Closed | WriteError::Full { .. } | WriteError::TooManyFiles { .. }
        )
    }
}

error_messages! {
    WriteError {
        WriteError::Closed => "the connection is closed",
        WriteError::Full { queued, limit } =>
            "the peer does not read fast enough: {queued} bytes wait, where {limit} may; write again in on_drain",
        WriteError::TooManyFiles { queued, limit } =>
            "the peer does not read fast enough: {queued} files wait, where {limit} may; send again in on_drain",
        WriteError::TooLong { len, max } =>
            "{len} bytes are too long for one write, which may have {max} here; write several",
        WriteError::Frame(error) => "{error}",
        WriteError::Range { start, end, len } =>
            "the file has {len} bytes: there is no part of it from {start} to {end}",
        WriteError::File(error) => "the file cannot be sent: {error}",
    }
    causes {
        WriteError::Frame(error) => error,
        WriteError::File(error) => error,
    }
}
