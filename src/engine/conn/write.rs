//! The errors of writes.

use std::io;

use crate::codec::FrameError;
use crate::error::error_messages;

/// The error of a write that was not accepted. Nothing of it will be sent.
#[non_exhaustive]
pub enum WriteError {
    /// The connection is closed or closing, its write side is shut down, or it is piped to another one.
    Closed,
    /// TLS is beginning on the connection: see [`Conn::start_tls_server`](crate::Conn). Write in
    /// [`on_tls`](crate::EventHandler::on_tls).
    StartsTls,
    /// The write would exceed the [outbound limit](crate::Server::outbound_limit), because the peer does not read
    /// fast enough. Try again in `on_drain`, which is called when there is room.
    Full {
        /// The number of bytes that already wait to be sent.
        queued: usize,
        /// The largest number of bytes that may wait.
        limit: usize,
    },
    /// The [largest number of files](crate::Server::max_queued_files) waits already. Try again in `on_drain`, which
    /// is called when there is room.
    TooManyFiles {
        /// The number of files that already wait to be sent.
        queued: usize,
        /// The largest number of files that may wait.
        limit: usize,
    },
    /// The write is longer than a datagram can be, or than both the [outbound limit](crate::Server::outbound_limit)
    /// and 1 MiB.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The greatest possible length, in bytes.
        max: usize,
    },
    /// The item could not be encoded.
    Frame(FrameError),
    /// The file has no such part.
    Range {
        /// The offset of the first byte.
        start: u64,
        /// The offset behind the last byte.
        end: u64,
        /// The length of the file in bytes.
        len: u64,
    },
    /// The file cannot be sent. It is not a regular file, or its length cannot be read.
    File(io::Error),
}

impl WriteError {
    /// Returns true if the peer or the state of the connection caused the error, rather than the item to be written.
    pub(crate) fn is_external(&self) -> bool {
        matches!(
            self,
            WriteError::Closed
                | WriteError::StartsTls
                | WriteError::Full { .. }
                | WriteError::TooManyFiles { .. }
        )
    }
}

/// The error of an item that the codec cannot encode.
impl<E> From<E> for WriteError
where
    FrameError: From<E>,
{
    #[cold]
    fn from(error: E) -> Self {
        WriteError::Frame(error.into())
    }
}

error_messages! {
    WriteError {
        WriteError::Closed => "the connection is closed",
        WriteError::StartsTls => "TLS is beginning on the connection; write in on_tls",
        WriteError::Full { queued, limit } =>
            "the peer does not read fast enough: {queued} bytes wait and the limit is {limit}; write again in on_drain",
        WriteError::TooManyFiles { queued, limit } =>
            "the peer does not read fast enough: {queued} files wait and the limit is {limit}; send again in on_drain",
        WriteError::TooLong { len, max } =>
            "a write of {len} bytes is too long: the limit is {max}; split it into several writes",
        WriteError::Frame(error) => "{error}",
        WriteError::Range { start, end, len } =>
            "the file has no part from {start} to {end}: its length is {len} bytes",
        WriteError::File(error) => "the file cannot be sent: {error}",
    }
    causes {
        WriteError::Frame(error) => error,
        WriteError::File(error) => error,
    }
}
