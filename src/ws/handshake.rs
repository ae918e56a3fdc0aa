//! The client's opening handshake (RFC 6455, section 4.1).

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::deflate::{Agreed, DeflateOptions, EXTENSIONS, NAME};
use super::error::SendError;
use super::extension;
use super::key::{self, AcceptKey};
use crate::buf::outbox::Outbox;
use crate::codec::{Codec, Decoded, Encode, FrameError};
use crate::error::error_messages;
use crate::http::MessageError;
use crate::http::client::{ClientRequest, ResponsePart, StreamCodec};
use crate::http::fields::{is_token, is_value};
use crate::http::head::{check_target, is_host};

/// The request that opens a WebSocket. [Send](crate::Conn::send) it in [`on_open`](crate::EventHandler::on_open), on
/// the connection of a [`ClientCodec`](super::ClientCodec).
///
/// ```
/// use epicycle::ws::{DeflateOptions, Handshake};
///
/// let handshake = Handshake::new("chat.example", "/rooms/1?user=me")
///     .protocol("chat.v1")
///     .header("Authorization", "Bearer 1234")
///     .deflate(DeflateOptions::default());
/// # let _ = handshake;
/// ```
#[derive(Clone, Debug)]
#[must_use = "the handshake begins when it is sent"]
pub struct Handshake {
    host: String,
    target: String,
    protocols: Vec<String>,
    headers: Vec<(String, String)>,
    deflate: Option<DeflateOptions>,
}

impl Handshake {
    /// Returns a handshake for a WebSocket. `host` includes the port, unless it is the default one. `target` is the
    /// path with its query.
    pub fn new(host: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            target: target.into(),
            protocols: Vec::new(),
            headers: Vec::new(),
            deflate: None,
        }
    }

    /// Offers a sub-protocol, after those offered before. The handshake fails if the server chooses none of them.
    pub fn protocol(mut self, name: impl Into<String>) -> Self {
        self.protocols.push(name.into());
        self
    }

    /// Adds a header, such as `Origin` or `Authorization`. The codec itself writes the headers of the handshake, such
    /// as `Host` and `Upgrade`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers to compress messages.
    pub fn deflate(mut self, options: DeflateOptions) -> Self {
        self.deflate = Some(options);
        self
    }

    /// Sends the request. Returns the expected answer.
    pub(super) fn send(self, dst: &mut Outbox<'_>) -> Result<Expected, FrameError> {
        check("host", is_host(self.host.as_bytes()))?;
        check(
            "target",
            self.target.starts_with('/') && check_target("GET", self.target.as_bytes()).is_ok(),
        )?;
        check(
            "sub-protocol",
            self.protocols
                .iter()
                .all(|protocol| is_token(protocol.as_bytes())),
        )?;
        let mut headers = self.headers.iter();
        check(
            "header",
            headers.all(|(name, value)| is_header(name, value)),
        )?;
        let key = key::random();
        let protocols = self.protocols.join(", ");
        let extensions = self.deflate.as_ref().map(DeflateOptions::offer);
        let mut request = ClientRequest::get(&self.host, &self.target)
            .upgrade("websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", &key);
        if !protocols.is_empty() {
            request = request.header("Sec-WebSocket-Protocol", &protocols);
        }
        if let Some(extensions) = &extensions {
            request = request.header("Sec-WebSocket-Extensions", extensions);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut http = StreamCodec::default();
        http.encode(request, dst)?;
        Ok(Expected {
            http,
            accept: key::answer(&key),
            protocols: self.protocols,
            deflate: self.deflate,
        })
    }
}

/// The headers that form the handshake, and those that would give it a body.
const OWN_HEADERS: [&str; 9] = [
    "Host",
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Content-Length",
    "Transfer-Encoding",
];

/// Returns true if the header can be added to the handshake.
fn is_header(name: &str, value: &str) -> bool {
    let is_own = OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name));
    !is_own && is_token(name.as_bytes()) && is_value(value.as_bytes())
}

fn check(what: &'static str, holds: bool) -> Result<(), SendError> {
    if holds {
        Ok(())
    } else {
        Err(SendError::Handshake { what })
    }
}

/// The server's answer that opened a WebSocket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The sub-protocol that the server chose. It is always present if any was offered.
    pub protocol: Option<String>,
    /// True if messages may be compressed.
    pub compressed: bool,
    /// The headers of the answer.
    pub headers: HeaderMap,
}

/// The answer that a client expects to its handshake.
#[derive(Debug)]
pub(super) struct Expected {
    http: StreamCodec,
    accept: AcceptKey,
    protocols: Vec<String>,
    deflate: Option<DeflateOptions>,
}

impl Expected {
    /// Reads the answer at the start of `src`.
    pub(super) fn read(&mut self, src: &mut [u8]) -> Result<Reply, FrameError> {
        let decoded = self.http.decode(src).map_err(HandshakeError::malformed)?;
        let (part, consumed) = match decoded {
            Decoded::Frame { frame, consumed } => (frame, consumed),
            Decoded::Skip { consumed } => return Ok(Reply::Interim(consumed)),
            Decoded::NeedMore { at_least } => return Ok(Reply::Incomplete(at_least)),
            Decoded::Hold => return Ok(Reply::Incomplete(src.len() + 1)),
        };
        // The body of a refusal is not read.
        let ResponsePart::Head(response) = part else {
            return Ok(Reply::Interim(consumed));
        };
        if !response.is_upgrade() {
            return Err(HandshakeError::Status(response.status()).into());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in response.headers() {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        let terms = self.check(&headers)?;
        Ok(Reply::Opened(consumed, terms, headers))
    }

    /// Checks the headers of an answer that HTTP accepts as a change of protocol, so with `Connection: Upgrade`.
    fn check(&self, headers: &HeaderMap) -> Result<Terms, HandshakeError> {
        let lacks = |name| Err(HandshakeError::Header { name });
        if !has_token(headers, "upgrade", "websocket") {
            return lacks("Upgrade");
        }
        if only(headers, "sec-websocket-accept").flatten() != str::from_utf8(&self.accept).ok() {
            return lacks("Sec-WebSocket-Accept");
        }
        let protocol = match only(headers, "sec-websocket-protocol") {
            None if self.protocols.is_empty() => None,
            Some(Some(chosen)) if self.protocols.iter().any(|offered| offered == chosen) => {
                Some(chosen.to_owned())
            }
            _ => return lacks("Sec-WebSocket-Protocol"),
        };
        let deflate = match (only(headers, EXTENSIONS), &self.deflate) {
            (None, _) => None,
            (Some(Some(value)), Some(options)) => match extension::parse(value).as_deref() {
                Some([answer]) if answer.name.eq_ignore_ascii_case(NAME) => {
                    let agreed = options.conclude(&answer.params);
                    Some(agreed.ok_or(HandshakeError::Header {
                        name: "Sec-WebSocket-Extensions",
                    })?)
                }
                _ => return lacks("Sec-WebSocket-Extensions"),
            },
            _ => return lacks("Sec-WebSocket-Extensions"),
        };
        Ok(Terms { protocol, deflate })
    }
}

/// The result of reading the server's answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// An interim response of this many bytes, which is skipped (RFC 9110, section 15.2).
    Interim(usize),
    /// The WebSocket is open. The head takes up this many bytes.
    Opened(usize, Terms, HeaderMap),
    /// The input must have at least this many bytes.
    Incomplete(usize),
}

/// The terms on which both sides agreed.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) protocol: Option<String>,
    pub(super) deflate: Option<Agreed>,
}

/// Returns `None` if the header is missing, and `Some(None)` if it occurs several times or is not text.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(first.to_str().ok().filter(|_| values.next().is_none()))
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut members = values.flat_map(|value| value.split(','));
    members.any(|member| member.trim().eq_ignore_ascii_case(token))
}

/// The reason why a server did not open a WebSocket. It is the cause inside the [`FrameError`] with which the
/// connection closes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The status of the answer is not 101.
    Status(StatusCode),
    /// A header is missing in the answer, or its value does not match the offer.
    Header {
        /// The header's name.
        name: &'static str,
    },
    /// The answer is not HTTP that opens a WebSocket. The text is the fault.
    Malformed(String),
    /// The answer's head is longer than allowed.
    TooLong {
        /// The maximum length in bytes.
        max: usize,
    },
}

impl HandshakeError {
    /// Returns the handshake error inside a codec's error, if there is one.
    pub fn of(error: &FrameError) -> Option<&Self> {
        match error {
            FrameError::Other(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Returns the error for an answer that HTTP refuses.
    #[cold]
    fn malformed(error: FrameError) -> Self {
        match MessageError::of(&error) {
            Some(MessageError::HeadTooLong { max } | MessageError::LineTooLong { max }) => {
                HandshakeError::TooLong { max }
            }
            Some(other) => HandshakeError::Malformed(other.to_string()),
            None => HandshakeError::Malformed(error.to_string()),
        }
    }
}

impl From<HandshakeError> for FrameError {
    #[cold]
    fn from(error: HandshakeError) -> Self {
        FrameError::Other(Box::new(error))
    }
}

error_messages! {
    HandshakeError {
        HandshakeError::Status(status) => "the server opened no WebSocket but answered {status}",
        HandshakeError::Header { name } =>
            "the server's answer has no {name}, or one that does not match the offer",
        HandshakeError::Malformed(what) => "the server's answer is malformed: {what}",
        HandshakeError::TooLong { max } => "the head of the server's answer is longer than {max} bytes",
    }
}
