//! The reasons for which connections close, and the record of a closed connection.

use std::time::{Duration, Instant};
use std::{fmt, io};

use crate::addr::Addr;
use crate::codec::FrameError;
use crate::engine::conn::write::WriteError;
use crate::engine::slots::ConnId;

/// The reason for which a connection closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler or a `Handle` closed it.
    Local,
    /// The handler or a `Handle` aborted it.
    Aborted,
    /// The peer ended its stream, and all output was sent.
    Peer,
    /// The peer reset the connection, or the network broke it. Input that had arrived before was handled first,
    /// unless the codec held it back or the handler had paused reads.
    Reset(io::Error),
    /// The socket failed in another way.
    Io(io::Error),
    /// The peer violated the TLS protocol or refused the handshake. The inner error has the details.
    Tls(io::Error),
    /// The peer ended its TLS stream without close_notify. Its data may have been truncated on the way.
    Truncated,
    /// The peer sent input that the codec could not decode.
    Frame(FrameError),
    /// A timeout expired.
    Timeout(TimeoutKind),
    /// A write exceeded the outbound limit, with the policy [`Close`](crate::OutboundPolicy::Close).
    OutboundLimit {
        /// The number of bytes that waited to be sent.
        queued: usize,
    },
    /// The UDP session whose peer had been silent for longest was closed to make room for another one
    /// ([`evict_silent`](crate::UdpSessions::evict_silent)).
    Evicted,
    /// The handler took the socket out of the engine.
    Detached,
    /// The connection it was piped to ([`Conn::pipe`](crate::Conn::pipe)) failed or closed.
    Pipe,
    /// A write was refused, and the handler closed the connection for that: see
    /// [`Action::Refused`](crate::Action::Refused).
    Refused(WriteError),
    /// The handler dropped an [`Answer`](crate::Answer) that it owed.
    Unanswered,
    /// A callback for this connection panicked.
    Panic,
    /// The engine shut down.
    Shutdown,
}

/// The timeout that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// Nothing was received or sent for too long.
    Idle,
    /// The handler did not answer, or did not continue its answer, for too long.
    Answer,
    /// A frame had begun and did not become complete in time.
    Read,
    /// The peer did not begin the answer that it owed in time.
    Response,
    /// The peer took no output for too long.
    WriteStall,
    /// Connecting took too long.
    Connect,
    /// The TLS handshake did not end in time, or the first frame did not arrive in time.
    Handshake,
    /// The peer did not answer the closing message of its protocol, such as WebSocket's Close.
    Close,
    /// The deadline that the handler had set was over.
    Deadline,
    /// The connection reached its maximum lifetime.
    Lifetime,
    /// The connection was closing and the peer did not take the remaining output in time. That output is lost.
    Drain,
}

impl CloseReason {
    /// Returns true if the peer caused the end. The peer may no longer be reachable.
    pub(crate) fn is_peer_fault(&self) -> bool {
        matches!(
            self,
            CloseReason::Timeout(_) | CloseReason::Frame(_) | CloseReason::Tls(_)
        )
    }

    /// Returns true if this side chose to end the connection.
    pub(crate) fn is_by_this_side(&self) -> bool {
        matches!(
            self,
            CloseReason::Local
                | CloseReason::Refused(_)
                | CloseReason::Aborted
                | CloseReason::Detached
                | CloseReason::Shutdown
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Local => f.write_str("closed by this side"),
            CloseReason::Aborted => f.write_str("aborted by this side"),
            CloseReason::Peer => f.write_str("closed by the peer"),
            CloseReason::Reset(error) => write!(f, "reset by the peer: {error}"),
            CloseReason::Io(error) => write!(f, "socket error: {error}"),
            CloseReason::Tls(error) => write!(f, "TLS failed: {error}"),
            CloseReason::Truncated => f.write_str("the peer's TLS stream was cut short"),
            CloseReason::Frame(error) => error.fmt(f),
            CloseReason::Timeout(kind) => kind.fmt(f),
            CloseReason::OutboundLimit { queued } => {
                write!(
                    f,
                    "the peer did not read fast enough: {queued} bytes wait, up to the outbound limit"
                )
            }
            CloseReason::Evicted => f.write_str("evicted to make room for another session"),
            CloseReason::Detached => f.write_str("detached from the engine"),
            CloseReason::Pipe => f.write_str("the connection it was piped to has ended"),
            CloseReason::Refused(error) => write!(f, "a write was refused: {error}"),
            CloseReason::Unanswered => f.write_str("the handler dropped an answer that it owed"),
            CloseReason::Panic => f.write_str("a callback panicked"),
            CloseReason::Shutdown => f.write_str("the engine shut down"),
        }
    }
}

impl fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeoutKind::Idle => "idle for too long",
            TimeoutKind::Answer => "the handler gave no answer in time",
            TimeoutKind::Read => "a frame took too long to arrive",
            TimeoutKind::Deadline => "its deadline was over",
            TimeoutKind::Response => "the peer gave no answer in time",
            TimeoutKind::WriteStall => "the peer took no output for too long",
            TimeoutKind::Connect => "connecting took too long",
            TimeoutKind::Handshake => "the handshake or the first frame took too long",
            TimeoutKind::Close => "the peer did not answer the closing message in time",
            TimeoutKind::Lifetime => "the maximum lifetime was reached",
            TimeoutKind::Drain => "the peer did not take the remaining output in time",
        })
    }
}

/// The record of a closed connection. [`on_close`](crate::EventHandler::on_close) receives it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Its identifier. No other connection of this engine has the same.
    pub id: ConnId,
    /// The peer's address.
    pub peer: Addr,
    /// The number of bytes received.
    pub bytes_in: u64,
    /// The number of bytes that the kernel took for sending.
    pub bytes_out: u64,
    /// The number of written bytes that the kernel never took. They are lost.
    pub unsent: usize,
    /// The number of received bytes that never became a frame.
    pub undecoded: usize,
    /// The time for which it was open, in whole milliseconds.
    pub open_for: Duration,
    /// The last request that the codec answered in place of the handler, because it was malformed, too large or late,
    /// or the handler failed to answer it. An access log needs it to be complete.
    pub refused: Option<Refused>,
    /// The time at which the turn began in which the connection closed, as [`Conn::now`](crate::Conn::now) returns
    /// it.
    pub closed_at: Instant,
}

/// A request that the codec answered in place of the handler.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The status of the answer, in the numbers of the protocol. For HTTP this is the status code.
    pub status: u16,
    /// The part of the request that had arrived and was not given to the handler, at most its first 256 bytes. For
    /// HTTP this is mostly the request line. The peer chose these bytes, so escape them before logging them, for
    /// example with [`escape_ascii`](slice::escape_ascii).
    pub input: Box<[u8]>,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused")
            .field("status", &self.status)
            .field("input", &format_args!("\"{}\"", self.input.escape_ascii()))
            .finish()
    }
}

/// The number of bytes of a refused request that are kept.
pub(crate) const REFUSED_INPUT: usize = 256;
