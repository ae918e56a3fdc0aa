use ::http::StatusCode;

use crate::codec::FrameError;
use crate::error::error_messages;

/// Why a message that was received is not taken.
///
/// It is the cause in the [`FrameError`] that the connection is closed with. A server answers with
/// [`status`](Self::status) before that.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// It breaks the grammar or the rules of RFC 9112.
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The request or status line is longer than allowed.
    LineTooLong {
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// The head or the trailer section is longer than allowed.
    HeadTooLong {
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// There are more headers than allowed.
    TooManyHeaders {
        /// The most allowed.
        max: usize,
    },
    /// The body is longer than allowed.
    BodyTooLong {
        /// The longest allowed, in bytes.
        max: u64,
    },
    /// The major version is not 1.
    Version,
    /// The body is encoded for the transfer by something other than chunked.
    TransferCoding,
    /// It expects something other than 100-continue.
    Expectation,
    /// More interim responses (1xx) than a client puts up with have come to one request.
    TooManyInterim {
        /// The most it puts up with.
        max: usize,
    },
}

impl MessageError {
    /// What a request like this is answered with. A gateway whose upstream has sent such a response answers 502.
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
            MessageError::TooManyInterim { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The error inside a codec's, if it is one of these.
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
        MessageError::Expectation => "something other than 100-continue is expected",
        MessageError::TooManyInterim { max } => "more than {max} interim responses have come to one request",
    }
}

/// Why what was to be sent is not: nothing of it has been.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// Nothing has been asked, or all of the answer has been sent.
    NotAsked,
    /// The answer has begun: its parts are due, not another head.
    Begun,
    /// There is no answer that the part would belong to.
    NotBegun,
    /// The name of a header is not a token, or the value has a control character in it.
    Header {
        /// The name.
        name: String,
    },
    /// The header says how the message is framed, or what a request is for, which the codec does.
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
        /// How many bytes more were to come.
        left: u64,
        /// How many were given.
        given: u64,
    },
    /// A body was written past the codec in answer to HEAD, which has none.
    BodyForHead {
        /// How many bytes were written.
        given: u64,
    },
    /// The status is one that needs something else: 100 a [`Continue`](super::Continue), 101 an
    /// [upgrade](super::Response::upgrade).
    Status {
        /// The status.
        status: StatusCode,
    },
    /// The method, the target or the host of a request cannot be in its head.
    RequestLine,
    /// There can be no other request on the connection: it closes, or changes its protocol, after those that it has had, or
    /// something has come that nobody has asked for.
    Last,
    /// A field of a server-sent event has a line break in it, or the identifier a NUL.
    Event {
        /// Which field.
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
        SendError::NotAsked => "no request waits for an answer",
        SendError::Begun => "the answer has begun; send its parts and their end first",
        SendError::NotBegun => "no streamed message has begun; send its head first",
        SendError::Header { name } =>
            "the header {name:?} has a name that is no token, or a control character in its value",
        SendError::FramingHeader { name } => "the header {name:?} is the codec's to write",
        SendError::Bodiless { status } => "a response {status} has no body",
        SendError::Length { left, given } =>
            "{given} bytes of body were given where {left} are left of those announced",
        SendError::BodyForHead { given } =>
            "{given} bytes of body were written in answer to HEAD; write none there, the head and the end are all",
        SendError::Status { status } => "the status {status} cannot be an answer of its own",
        SendError::RequestLine => "the method is no token, the target is of no known form, or the host is none",
        SendError::Last =>
            "the connection closes or changes its protocol after the requests it has had, or something \
             has come unasked; use another one",
        SendError::Event { field } => "the {field} of a server-sent event must be a single line, without NUL",
    }
}
