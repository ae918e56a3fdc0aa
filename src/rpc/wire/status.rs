use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::meta::encoded_len;
use super::{Dialect, Meta};
use crate::balance::Outcome;

/// The codes that peers use on their own. Applications may use any other number; above 1000 is recommended.
pub mod code {
    /// An error without a code of its own.
    pub const UNKNOWN_ERROR: i32 = -1;
    /// The session closed before the reply arrived. Set locally.
    pub const CONNECTION_CLOSED: i32 = 102;
    /// The message could not be sent. Set locally.
    pub const WRITE_FAILED: i32 = 104;
    /// The connection could not be opened. Set locally.
    pub const DIAL_FAILED: i32 = 105;
    /// The body, its codec or the URI is invalid.
    pub const BAD_MESSAGE: i32 = 400;
    /// The peer is not authenticated.
    pub const UNAUTHORIZED: i32 = 401;
    /// No route has this path.
    pub const NOT_FOUND: i32 = 404;
    /// The message is not a CALL, REPLY or PUSH.
    pub const MESSAGE_TYPE_NOT_ALLOWED: i32 = 405;
    /// The deadline expired, on either side.
    pub const HANDLE_TIMEOUT: i32 = 408;
    /// A limit on calls or on their rate was reached. Not in Teleport.
    pub const TOO_MANY_REQUESTS: i32 = 429;
    /// The caller cancelled the call. Not in Teleport.
    pub const CANCELLED: i32 = 499;
    /// The handler panicked.
    pub const INTERNAL_SERVER_ERROR: i32 = 500;
    /// A proxy could not reach the peer behind it.
    pub const BAD_GATEWAY: i32 = 502;
    /// The peer is shutting down or overloaded. Not in Teleport.
    pub const SERVICE_UNAVAILABLE: i32 = 503;

    /// Returns the text of a code, or `Unknown Error` for a code that is not listed here.
    ///
    /// ```
    /// use epicycle::rpc::wire::{Dialect, code};
    ///
    /// assert_eq!(code::text(400, Dialect::V4_1), "Bad Message");
    /// assert_eq!(code::text(400, Dialect::V4_0), "Bad Packet");
    /// ```
    pub fn text(code: i32, dialect: super::Dialect) -> &'static str {
        let old = dialect == super::Dialect::V4_0;
        match code {
            CONNECTION_CLOSED => "Connection Closed",
            WRITE_FAILED => "Write Failed",
            DIAL_FAILED => "Dial Failed",
            BAD_MESSAGE if old => "Bad Packet",
            BAD_MESSAGE => "Bad Message",
            UNAUTHORIZED => "Unauthorized",
            NOT_FOUND => "Not Found",
            MESSAGE_TYPE_NOT_ALLOWED if old => "Packet Type Not Allowed",
            MESSAGE_TYPE_NOT_ALLOWED => "Message Type Not Allowed",
            HANDLE_TIMEOUT => "Handle Timeout",
            TOO_MANY_REQUESTS => "Too Many Requests",
            CANCELLED => "Cancelled",
            INTERNAL_SERVER_ERROR => "Internal Server Error",
            BAD_GATEWAY => "Bad Gateway",
            SERVICE_UNAVAILABLE => "Service Unavailable",
            _ => "Unknown Error",
        }
    }
}

/// The result of a failed call: a code, its text, and the reason of this failure.
///
/// A REPLY carries it in its metadata, as `X-Reply-Error={"code":404,"message":"Not Found"}`. An empty message or
/// reason is omitted there. A REPLY without this key means success.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::{Dialect, Meta, Status, code};
///
/// let status = Status::of(code::NOT_FOUND, Dialect::V4_1).with_reason("/x");
/// assert_eq!(status.to_string(), "404 Not Found: /x");
///
/// let mut meta = Meta::default();
/// status.write(&mut meta, usize::MAX);
/// assert_eq!(Status::read(&meta), Some(status));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// A code from [`code`], or one of the application.
    pub code: i32,
    /// The text of the code.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: Cow<'static, str>,
    /// The reason of this failure.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
}

impl Status {
    /// Returns a status of the application.
    pub fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            reason: "".into(),
        }
    }

    /// Returns a status with the text of its code in a dialect.
    pub fn of(code: i32, dialect: Dialect) -> Self {
        Self::new(code, code::text(code, dialect))
    }

    /// Sets the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Returns the meaning of the status for the health of the peer that answered. Circuit breakers and balancers count by it.
    ///
    /// A refusal by a limit ([`code::TOO_MANY_REQUESTS`]) and a call that its caller cancelled say nothing about the peer's
    /// health. The codes 102 to 105, 408, 500, 502 and 503 are failures. All others are answers as good as any.
    ///
    /// ```
    /// use epicycle::balance::Outcome;
    /// use epicycle::rpc::{Status, code};
    ///
    /// assert_eq!(Status::new(code::TOO_MANY_REQUESTS, "").balance_outcome(), Outcome::Abandoned);
    /// assert_eq!(Status::new(code::SERVICE_UNAVAILABLE, "").balance_outcome(), Outcome::Failure);
    /// assert_eq!(Status::new(code::NOT_FOUND, "").balance_outcome(), Outcome::Success);
    /// ```
    pub fn balance_outcome(&self) -> Outcome {
        match self.code {
            code::TOO_MANY_REQUESTS | code::CANCELLED => Outcome::Abandoned,
            code::CONNECTION_CLOSED
            | code::WRITE_FAILED
            | code::DIAL_FAILED
            | code::HANDLE_TIMEOUT
            | code::INTERNAL_SERVER_ERROR
            | code::BAD_GATEWAY
            | code::SERVICE_UNAVAILABLE => Outcome::Failure,
            _ => Outcome::Success,
        }
    }

    /// Returns the status in a REPLY's metadata. Returns `None` if the call succeeded.
    ///
    /// A status that is not JSON of this form is a failure too: it results in [`code::UNKNOWN_ERROR`] with the text as
    /// its reason.
    pub fn read(meta: &Meta<'_>) -> Option<Self> {
        let json = meta
            .get(Meta::REPLY_ERROR)
            .filter(|json| !json.is_empty())?;
        Some(serde_json::from_slice(&json).unwrap_or_else(|_| {
            Self::of(code::UNKNOWN_ERROR, Dialect::default())
                .with_reason(String::from_utf8_lossy(&json).into_owned())
        }))
    }

    /// Writes the status into a REPLY's metadata. It replaces an earlier status.
    ///
    /// The reason, and then the message, is shortened so that the encoded metadata takes at most `max` bytes, as far as
    /// the other metadata leaves room. `…` marks the omission. `max` is the protocol's
    /// [`max_field`](super::Protocol::max_field).
    pub fn write(&self, meta: &mut Meta<'_>, max: usize) {
        meta.remove(Meta::REPLY_ERROR);
        let frame = |message: &str, reason: &str| {
            let status = Self {
                code: self.code,
                message: message.to_owned().into(),
                reason: reason.to_owned().into(),
            };
            // A struct of a number and two texts can always be encoded as JSON.
            serde_json::to_string(&status).unwrap_or_default()
        };
        // Both texts have one byte here, so that their keys are counted, as well as the `&X-Reply-Error=` in front.
        let around: usize = frame("a", "a").bytes().map(encoded_len).sum();
        let taken = meta.encoded().len() + Meta::REPLY_ERROR.len() + 2 + around - 2;
        let message = shortened(&self.message, max.saturating_sub(taken));
        let taken = taken + message.chars().map(encoded_char).sum::<usize>();
        let reason = shortened(&self.reason, max.saturating_sub(taken));
        meta.add(Meta::REPLY_ERROR, frame(&message, &reason));
    }
}

/// Returns as much of the text as fits in `room` once it is JSON and encoded, with an ellipsis if it is cut.
fn shortened(text: &str, room: usize) -> Cow<'_, str> {
    let mut taken = 0;
    // The position at which the text can be cut so that the ellipsis fits too.
    let mut cut = None;
    for (at, char) in text.char_indices() {
        if taken + encoded_char('…') <= room {
            cut = Some(at);
        }
        taken += encoded_char(char);
        if taken > room {
            return match cut {
                Some(at) => format!("{}…", &text[..at]).into(),
                None => "".into(),
            };
        }
    }
    text.into()
}

/// Returns the number of bytes of metadata that a character of a JSON string takes up.
fn encoded_char(char: char) -> usize {
    match char {
        // A backslash, and a character that is escaped or not.
        '"' | '\\' => 6,
        '\n' | '\r' | '\t' | '\x08' | '\x0c' => 4,
        // `\u0000` and so on.
        '\0'..' ' => 8,
        char if char.is_ascii() => encoded_len(char as u8),
        char => 3 * char.len_utf8(),
    }
}

/// Prints the status on one line: control characters are escaped, so that a peer cannot forge lines of a log.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.message.is_empty() {
            write!(f, " {}", OneLine(&self.message))?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", OneLine(&self.reason))?;
        }
        Ok(())
    }
}

/// A text of a peer's for a log. Its control characters are escaped.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_escaped = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
        for piece in self.0.split_inclusive(is_escaped) {
            let last = piece.chars().next_back().filter(|char| is_escaped(*char));
            let front = &piece[..piece.len() - last.map_or(0, char::len_utf8)];
            f.write_str(front)?;
            if let Some(last) = last {
                write!(f, "{}", last.escape_default())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Status {}
