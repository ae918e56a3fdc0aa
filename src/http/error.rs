use ::http::StatusCode;

use crate::codec::FrameError;
use crate::error::error_messages;

/// The reason why a received message is refused.
///
/// It is the cause inside the [`FrameError`] with which the connection closes. A server first answers with
/// [`status`](Self::status).
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The message violates the grammar or the rules of RFC 9112.
    Malformed {
        /// The violation.
        what: &'static str,
    },
    /// The request or status line is longer than allowed.
    LineTooLong {
        /// The maximum length in bytes.
        max: usize,
    },
    /// The head or the trailer section is longer than allowed.
    HeadTooLong {
        /// The maximum length in bytes.
        max: usize,
    },
    /// There are more headers than allowed.
    TooManyHeaders {
        /// The maximum number of headers.
        max: usize,
    },
    /// The body is longer than allowed.
    BodyTooLong {
        /// The maximum length in bytes.
        max: u64,
    },
    /// The major version is not 1.
    Version,
    /// The body has a transfer coding other than chunked.
    TransferCoding,
    /// The request expects something other than 100-continue.
    Expectation,
    /// A client received more interim responses (1xx) to one request than it accepts.
    TooManyInterim {
        /// The maximum number of interim responses.
        max: usize,
    },
    /// The stream ended within a response.
    Truncated,
}

impl MessageError {
    /// Returns the status with which a server answers such a request. A gateway that received such a response from its
    /// upstream answers 502.
    pub fn status(self) -> StatusCode {
        match self {
            MessageError::Malformed { .. } => StatusCode::BAD_REQUEST,
            MessageError::LineTooLong { .. } => StatusCode::URI_TOO_LONG,
            MessageError::HeadTooLong { .. } | MessageError::TooManyHeaders { .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            MessageError::BodyTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            MessageError::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            MessageError::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            MessageError::Expectation => StatusCode::EXPECTATION_FAILED,
            MessageError::TooManyInterim { .. } | MessageError::Truncated => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// Returns the message error inside a codec's error, if there is one.
    pub fn of(error: &FrameError) -> Option<Self> {
        match error {
            FrameError::Other(error) => error.downcast_ref().copied(),
            FrameError::TooLong { max, .. } => Some(MessageError::BodyTooLong { max: *max as u64 }),
            _ => None,
        }
    }
}

pub(super) fn malformed<T>(what: &'static str) -> Result<T, MessageError> {
    Err(MessageError::Malformed { what })
}

impl From<MessageError> for FrameError {
    #[cold]
    fn from(error: MessageError) -> Self {
        FrameError::Other(Box::new(error))
    }
}

error_messages! {
    MessageError {
        MessageError::Malformed { what } => "a malformed HTTP message: {what}",
        MessageError::LineTooLong { max } => "the first line is longer than {max} bytes",
        MessageError::HeadTooLong { max } => "the headers take more than {max} bytes",
        MessageError::TooManyHeaders { max } => "there are more than {max} headers",
        MessageError::BodyTooLong { max } => "the body is longer than {max} bytes",
        MessageError::Version => "the major version of HTTP is not 1",
        MessageError::TransferCoding => "the body has a transfer coding other than chunked",
        MessageError::Expectation => "the Expect header asks for something other than 100-continue",
        MessageError::TooManyInterim { max } => "there were more than {max} interim responses to one request",
        MessageError::Truncated => "the stream ended within a response",
    }
}

/// The reason why an item was not sent. None of its bytes were sent.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// No answer is due: nothing was requested, or the answer is complete.
    NotAsked,
    /// The answer has begun: send the parts of its body, not another head.
    Begun,
    /// The part belongs to no answer.
    NotBegun,
    /// The name of a header is not a token, or its value contains a control character.
    Header {
        /// The name.
        name: String,
    },
    /// The header is one that the codec itself writes: framing, connection, or the host of a request.
    FramingHeader {
        /// The name.
        name: String,
    },
    /// Responses with this status have no body.
    Bodiless {
        /// The status.
        status: StatusCode,
    },
    /// The body is longer or shorter than announced.
    Length {
        /// The number of announced bytes that remain.
        left: u64,
        /// The number of bytes that were given.
        given: u64,
    },
    /// A body was written past the codec in answer to HEAD, which has no body.
    BodyForHead {
        /// The number of bytes that were written.
        given: u64,
    },
    /// A 101 requires an [upgrade](super::ServerResponse::upgrade).
    Status {
        /// The status.
        status: StatusCode,
    },
    /// The reason phrase of a response contains a control character.
    Reason,
    /// The method or the target of a request is invalid.
    RequestLine,
    /// The host of a request is missing or invalid.
    Host,
    /// The connection accepts no further request. It closes or changes its protocol after those already sent, or it
    /// received input that was not requested.
    Last,
    /// A field of a server-sent event contains a line break, or its identifier contains a NUL.
    Event {
        /// The name of the field.
        field: &'static str,
    },
}

impl From<SendError> for FrameError {
    #[cold]
    fn from(error: SendError) -> Self {
        FrameError::Other(Box::new(error))
    }
}

error_messages! {
    SendError {
        SendError::NotAsked => "no request waits for an answer; send one answer per request",
        SendError::Begun => "the answer has begun; send its parts and their end first",
        SendError::NotBegun => "no streamed message has begun; send its head first",
        SendError::Header { name } =>
            "the header {name:?} has a name that is not a token, or a value with a control character",
        SendError::FramingHeader { name } => "the codec itself writes the header {name:?}; leave it out",
        SendError::Bodiless { status } => "a response {status} cannot have a body; send it without one",
        SendError::Length { left, given } =>
            "{given} bytes of body were given, but {left} of the announced bytes remain",
        SendError::BodyForHead { given } =>
            "{given} bytes of body were written in answer to HEAD; send only the head and the end",
        SendError::Status { status } => "the status {status} changes the protocol; send it with `ServerResponse::upgrade`",
        SendError::Reason => "the reason phrase contains a control character",
        SendError::RequestLine => "the method is not a token, or the target has none of the known forms",
        SendError::Host => "the host of the request is missing or invalid; set it with `ClientRequest::host`",
        SendError::Last =>
            "the connection closes or changes its protocol after the earlier requests, or has \
             received input that was not requested; use another connection",
        SendError::Event { field } => "the {field} of a server-sent event must be a single line, without NUL",
    }
}
