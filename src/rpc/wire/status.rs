use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::meta::encoded_len;
use super::{Dialect, Meta};

/// The codes that peers use by themselves. Those of an application are any other number; above 1000 is recommended.
pub mod code {
    /// Anything that has no code of its own.
    pub const UNKNOWN_ERROR: i32 = -1;
    /// The session closed before the reply came. Local.
    pub const CONNECTION_CLOSED: i32 = 102;
    /// The message could not be sent. Local.
    pub const WRITE_FAILED: i32 = 104;
    /// The connection could not be made. Local.
    pub const DIAL_FAILED: i32 = 105;
    /// The body, its codec or the URI is unusable.
    pub const BAD_MESSAGE: i32 = 400;
    /// The peer has not proved who it is.
    pub const UNAUTHORIZED: i32 = 401;
    /// No route has this path.
    pub const NOT_FOUND: i32 = 404;
    /// The message is no CALL, REPLY or PUSH.
    pub const MESSAGE_TYPE_NOT_ALLOWED: i32 = 405;
    /// The deadline has passed, on either side.
    pub const HANDLE_TIMEOUT: i32 = 408;
    /// A limit of calls or of their rate is reached. Not in Teleport.
    pub const TOO_MANY_REQUESTS: i32 = 429;
    /// The caller has given the call up. Not in Teleport.
    pub const CANCELLED: i32 = 499;
    /// The handler panicked.
    pub const INTERNAL_SERVER_ERROR: i32 = 500;
    /// A proxy did not reach the peer behind it.
    pub const BAD_GATEWAY: i32 = 502;
    /// The peer is draining or overloaded. Not in Teleport.
    pub const SERVICE_UNAVAILABLE: i32 = 503;

    /// The text of a code; `Unknown Error` for one that is not listed here.
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

/// Why a call failed: a code, its text, and what in particular was the reason.
///
/// A REPLY carries it in its metadata, as `X-Reply-Error={"code":404,"message":"Not Found"}`; an empty message and an
/// empty reason are left out there. A REPLY that has none has succeeded.
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
    /// One of [`code`], or the application's own.
    pub code: i32,
    /// What the code stands for.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: Cow<'static, str>,
    /// What was wrong with this call in particular.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
}

impl Status {
    /// A status of an application's own.
    pub fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            reason: "".into(),
        }
    }

    /// A status with the text that its code has in a dialect.
    pub fn of(code: i32, dialect: Dialect) -> Self {
        Self::new(code, code::text(code, dialect))
    }

    /// The same with a reason.
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The status in a REPLY's metadata; none when the call has succeeded.
    ///
    /// One that is no JSON of this form is a failure too: it has [`code::UNKNOWN_ERROR`] and the text itself as its reason.
    pub fn read(meta: &Meta<'_>) -> Option<Self> {
        let json = meta
            .get(Meta::REPLY_ERROR)
            .filter(|json| !json.is_empty())?;
        Some(serde_json::from_slice(&json).unwrap_or_else(|_| {
            Self::of(code::UNKNOWN_ERROR, Dialect::default())
                .with_reason(String::from_utf8_lossy(&json).into_owned())
        }))
    }

    /// Puts the status into a REPLY's metadata, in the place of one that is there.
    ///
    /// The reason, and after it the message, is shortened so that the metadata is encoded in at most `max` bytes, if
    /// what else is in it leaves room; `…` stands for what is left out. `max` is the protocol's
    /// [`max_field`](super::Protocol::max_field).
    pub fn write(&self, meta: &mut Meta<'_>, max: usize) {
        meta.remove(Meta::REPLY_ERROR);
        let frame = |message: &str, reason: &str| {
            let status = Self {
                code: self.code,
                message: message.to_owned().into(),
                reason: reason.to_owned().into(),
            };
            // A struct of a number and two texts always becomes JSON.
            serde_json::to_string(&status).unwrap_or_default()
        };
        // Both are there with one byte each, to count their keys; and `&X-Reply-Error=` in front.
        let around: usize = frame("a", "a").bytes().map(encoded_len).sum();
        let taken = meta.encoded().len() + Meta::REPLY_ERROR.len() + 2 + around - 2;
        let message = shortened(&self.message, max.saturating_sub(taken));
        let taken = taken + message.chars().map(encoded_char).sum::<usize>();
        let reason = shortened(&self.reason, max.saturating_sub(taken));
        meta.add(Meta::REPLY_ERROR, frame(&message, &reason));
    }
}

/// As much of the text as there is room for once it is JSON and encoded, with an ellipsis if that is not all.
fn shortened(text: &str, room: usize) -> Cow<'_, str> {
    let mut taken = 0;
    // Where the text can be cut so that the ellipsis fits as well.
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

/// How many bytes of metadata a character of a JSON string takes up.
fn encoded_char(char: char) -> usize {
    match char {
        // A backslash and a character that is escaped too, or one that is not.
        '"' | '\\' => 6,
        '\n' | '\r' | '\t' | '\x08' | '\x0c' => 4,
        // `\u0000` and so on.
        '\0'..' ' => 8,
        char if char.is_ascii() => encoded_len(char as u8),
        char => 3 * char.len_utf8(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.message.is_empty() {
            write!(f, " {}", self.message)?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Status {}
