use std::io;
use std::time::Duration;

use crate::engine::conn::close::{CloseReason, TimeoutKind};
use crate::engine::connect::ConnectError;
use crate::error::{Error, error_messages};
use crate::http::MessageError;

/// The reason why a request has no response, or no complete one.
#[non_exhaustive]
pub enum FetchError {
    /// The URL cannot be used.
    Url {
        /// The URL.
        url: String,
        /// The problem and its remedy.
        problem: &'static str,
    },
    /// The method, a header or the length of the body cannot be sent. Contains the cause, mostly an
    /// [`http::SendError`](crate::http::SendError) inside a frame error.
    Request(Box<dyn std::error::Error + Send + Sync>),
    /// The connection was not made: the name does not resolve, the server refused, TLS failed, or it took too long.
    Connect {
        /// The host and port.
        to: String,
        /// The cause.
        error: ConnectError,
    },
    /// The connection ended before the first byte of the response. The server may have carried out the request, so
    /// only one with an idempotent method is sent again, and only if the connection was a reused one.
    NoResponse(CloseReason),
    /// The connection ended within the response.
    CutShort(CloseReason),
    /// The server sent something that is not HTTP/1.1, or a head that is longer than allowed.
    Response(Box<dyn std::error::Error + Send + Sync>),
    /// The server was silent for too long: before the response ([`TimeoutKind::Response`]), within it
    /// ([`TimeoutKind::Read`]), or it did not take the request ([`TimeoutKind::WriteStall`]).
    Timeout(TimeoutKind),
    /// The whole request took longer than its [timeout](super::Request::timeout).
    Deadline {
        /// The timeout.
        timeout: Duration,
    },
    /// The body is longer than allowed.
    TooLong {
        /// The maximum length in bytes.
        max: u64,
    },
    /// Too many requests wait already, for connections or for the client's thread.
    Busy,
    /// The client has stopped.
    Stopped,
    /// The client's thread could not be started.
    Start(Error),
    /// TLS cannot be set up: the system's trusted authorities cannot be read.
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// The call would block, and was made on the thread of a reactor.
    OnReactor,
}

impl FetchError {
    /// Returns the error of a connection that has ended with `reason` while a response was awaited.
    pub(super) fn of(reason: CloseReason, has_begun: bool) -> Self {
        match reason {
            CloseReason::Timeout(kind) => FetchError::Timeout(kind),
            CloseReason::Shutdown => FetchError::Stopped,
            CloseReason::Frame(error) => match MessageError::of(&error) {
                Some(MessageError::Truncated) => FetchError::CutShort(CloseReason::Frame(error)),
                _ => FetchError::Response(Box::new(error)),
            },
            reason if has_begun => FetchError::CutShort(reason),
            reason => FetchError::NoResponse(reason),
        }
    }

    /// Returns true if time was the reason.
    pub fn is_timeout(&self) -> bool {
        match self {
            FetchError::Timeout(_) | FetchError::Deadline { .. } => true,
            FetchError::Connect { error, .. } => matches!(error.last(), ConnectError::Timeout),
            _ => false,
        }
    }
}

error_messages! {
    FetchError {
        FetchError::Url { url, problem } => "bad URL {url:?}: {problem}",
        FetchError::Request(error) => "the request cannot be sent: {error}",
        FetchError::Connect { to, error } => "cannot connect to {to}: {error}",
        FetchError::NoResponse(reason) =>
            "the connection ended before the response: {reason}; the server may have carried out the request",
        FetchError::CutShort(reason) => "the response was cut short: {reason}",
        FetchError::Response(error) => "the response cannot be understood: {error}",
        FetchError::Timeout(TimeoutKind::Response) =>
            "the server did not begin its response in time; raise response_timeout if it may take longer",
        FetchError::Timeout(TimeoutKind::Read) =>
            "the server paused for too long within its response; raise read_timeout if it may",
        FetchError::Timeout(kind) => "the server was too slow: {kind}",
        FetchError::Deadline { timeout } =>
            "the request took longer than {timeout:?}; raise its timeout if it may",
        FetchError::TooLong { max } =>
            "the body is longer than {max} bytes; raise max_body, or read it as a stream",
        FetchError::Busy =>
            "too many requests wait already; ask less often, or raise max_waiting and the connections' limits",
        FetchError::Stopped => "the client has stopped",
        FetchError::Start(error) => "the client cannot start: {error}",
        FetchError::Tls(error) => "{error}",
        FetchError::OnReactor =>
            "a reactor's thread must not block; use `send_then`, or do this on a `WorkerPool`",
    }
    causes {
        FetchError::Request(error) | FetchError::Response(error) | FetchError::Tls(error) => &**error,
        FetchError::Connect { error, .. } => error,
        FetchError::Start(error) => error,
    }
}

/// The kind tells timeouts and cut responses. The error itself is inside.
impl From<FetchError> for io::Error {
    fn from(error: FetchError) -> Self {
        let kind = match &error {
            error if error.is_timeout() => io::ErrorKind::TimedOut,
            FetchError::CutShort(_) => io::ErrorKind::UnexpectedEof,
            FetchError::NoResponse(_) => io::ErrorKind::ConnectionAborted,
            FetchError::Url { .. } | FetchError::Request(_) => io::ErrorKind::InvalidInput,
            FetchError::Response(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
