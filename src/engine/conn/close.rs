//! How connections end, and what is told about them then.

use std::time::{Duration, Instant};
use std::{fmt, io};

use crate::addr::Addr;
use crate::codec::FrameError;
use crate::engine::conn::write::WriteError;
use crate::engine::slots::ConnId;

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler or a `Handle` closed it.
    Local,
    /// The handler or a `Handle` aborted it.
    Aborted,
    /// The peer ended its stream, and what had been written was sent.
    Peer,
    /// The peer reset the connection, or it broke on the way. What had arrived before that was handled first, unless the
    /// codec held it back or the handler had paused reads.
    Reset(io::Error),
    /// The socket failed in another way.
    Io(io::Error),
    /// The peer broke the TLS protocol, or refused this side's part in it: the error inside says which.
    Tls(io::Error),
    /// The peer ended its TLS stream without close_notify: what it sent may have been cut short on the way.
    Truncated,
    /// The peer sent what its codec could not make a frame of.
    Frame(FrameError),
    /// A timeout ran out.
    Timeout(TimeoutKind),
    /// A write went past the outbound limit, with the policy [`Close`](crate::OutboundPolicy::Close).
    OutboundLimit {
        /// How many bytes waited to be sent.
        queued: usize,
    },
    /// A UDP session whose peer had been silent for longest made room for another one
    /// ([`evict_silent`](crate::UdpSessions::evict_silent)).
    Evicted,
    /// The handler took the socket out of the engine.
    Detached,
    /// The connection that it was joined with ([`Conn::pipe`](crate::Conn::pipe)) has ended before its time.
    Pipe,
    /// What the handler sent was refused, and it left it at that: see [`Action::Refused`](crate::Action::Refused).
    Refused(WriteError),
    /// The handler dropped an [`Answer`](crate::Answer) that it owed.
    Unanswered,
    /// A callback for this connection panicked.
    Panic,
    /// The engine shut down.
    Shutdown,
}

/// Which timeout ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// Nothing was received or sent for too long.
    Idle,
    /// The handler gave no answer, or did not go on with it, for too long.
    Answer,
    /// A frame that had begun did not become complete.
    Read,
    /// The peer did not begin the answer that it owed in time.
    Response,
    /// The peer took no output for too long.
    WriteStall,
    /// Connecting took too long.
    Connect,
    /// The TLS handshake did not end, or the first frame did not come.
    Handshake,
    /// The peer did not answer the goodbye of its protocol, such as a WebSocket's Close.
    Close,
    /// The connection reached its greatest age.
    Lifetime,
    /// It was closing, and the peer did not take the rest in time: that rest is lost.
    Drain,
}

impl CloseReason {
    /// Whether the peer is to blame, which may not even be there any more.
    pub(crate) fn is_the_peers_fault(&self) -> bool {
        matches!(
            self,
            CloseReason::Timeout(_) | CloseReason::Frame(_) | CloseReason::Tls(_)
        )
    }

    /// Whether this side wanted the connection to end.
    pub(crate) fn is_wanted(&self) -> bool {
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
                    "the peer did not read fast enough: {queued} bytes wait, the outbound limit"
                )
            }
            CloseReason::Evicted => f.write_str("evicted to make room for another session"),
            CloseReason::Detached => f.write_str("detached from the engine"),
            CloseReason::Pipe => f.write_str("the connection it was joined with has ended"),
            CloseReason::Refused(error) => write!(f, "what was sent is refused: {error}"),
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
            TimeoutKind::Response => "the peer gave no answer in time",
            TimeoutKind::WriteStall => "the peer took no output for too long",
            TimeoutKind::Connect => "connecting took too long",
            TimeoutKind::Handshake => "the handshake or the first frame took too long",
            TimeoutKind::Close => "the peer did not say goodbye in time",
            TimeoutKind::Lifetime => "open for as long as allowed",
            TimeoutKind::Drain => "the peer did not take the rest in time",
        })
    }
}

/// A closed connection's last account, for [`on_close`](crate::EventHandler::on_close).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Its identifier, which no other connection of this engine will have.
    pub id: ConnId,
    /// The other end.
    pub peer: Addr,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes the kernel took for sending.
    pub bytes_out: u64,
    /// Bytes written that the kernel never took: lost.
    pub unsent: usize,
    /// Bytes received that never became a frame.
    pub undecoded: usize,
    /// How long it was open, to the millisecond.
    pub open_for: Duration,
    /// The request that the codec has answered in the handler's place, as the last: it was malformed, too large or late, or
    /// the handler has failed to answer it. With this an access log is complete.
    pub refused: Option<Refused>,
    /// When the turn of the loop began in which it closed, as [`Conn::now`](crate::Conn::now) tells it.
    pub closed_at: Instant,
}

/// A request that the codec has answered in the handler's place.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// What it was answered, in the numbers of the protocol: HTTP's status.
    pub status: u16,
    /// What had arrived of it and was not handed to the handler, up to its first 256 bytes: of HTTP, the request line for the most part. These
    /// are the peer's bytes, whatever they are; [`escape_ascii`](slice::escape_ascii) makes them fit for a log.
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

/// So much of a refused request is kept.
pub(crate) const REFUSED_INPUT: usize = 256;
