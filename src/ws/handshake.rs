//! A client's opening handshake (RFC 6455, section 4.1).

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::deflate::{Agreed, DeflateOptions, EXTENSIONS, NAME};
use super::error::SendError;
use super::extension;
use super::key::{self, AcceptKey};
use crate::codec::FrameError;
use crate::http::fields::{is_token, is_value};
use crate::http::head::{check_target, is_host};

/// The request that opens a WebSocket, to be [sent](crate::Conn::send) in [`on_open`](crate::EventHandler::on_open) to a
/// [`ClientCodec`](super::ClientCodec)'s connection.
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
    /// A handshake for a WebSocket at that host, with the port unless it is the usual one, and that path, with the query
    /// if there is one.
    pub fn new(host: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            target: target.into(),
            protocols: Vec::new(),
            headers: Vec::new(),
            deflate: None,
        }
    }

    /// Offers a sub-protocol, after those offered before. A server that chooses none of them fails the handshake.
    pub fn protocol(mut self, name: impl Into<String>) -> Self {
        self.protocols.push(name.into());
        self
    }

    /// Adds a header, such as `Origin` or `Authorization`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers to compress messages.
    pub fn deflate(mut self, options: DeflateOptions) -> Self {
        self.deflate = Some(options);
        self
    }

    /// The bytes of the request, and what is expected of the answer.
    pub(super) fn begin(self) -> Result<(Vec<u8>, Expected), SendError> {
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
            headers.all(|(name, value)| is_token(name.as_bytes()) && is_value(value.as_bytes())),
        )?;
        let key = key::random();
        let mut lines = vec![
            format!("GET {} HTTP/1.1", self.target),
            format!("Host: {}", self.host),
            "Connection: Upgrade".to_owned(),
            "Upgrade: websocket".to_owned(),
            "Sec-WebSocket-Version: 13".to_owned(),
            format!("Sec-WebSocket-Key: {}", key.escape_ascii()),
        ];
        if !self.protocols.is_empty() {
            lines.push(format!(
                "Sec-WebSocket-Protocol: {}",
                self.protocols.join(", ")
            ));
        }
        if let Some(deflate) = &self.deflate {
            lines.push(format!("Sec-WebSocket-Extensions: {}", deflate.offer()));
        }
        lines.extend(
            self.headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
        let request = lines.join("\r\n") + "\r\n\r\n";
        let expected = Expected {
            accept: key::answer(&key),
            protocols: self.protocols,
            deflate: self.deflate,
        };
        Ok((request.into_bytes(), expected))
    }
}

fn check(what: &'static str, holds: bool) -> Result<(), SendError> {
    if holds {
        Ok(())
    } else {
        Err(SendError::Handshake { what })
    }
}

/// A WebSocket has been opened, and this is what the server said to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The sub-protocol that the server chose; there is one if any was offered.
    pub protocol: Option<String>,
    /// Whether messages may be compressed.
    pub compressed: bool,
    /// The headers of the answer.
    pub headers: HeaderMap,
}

/// What a client expects of the answer to its handshake.
#[derive(Debug)]
pub(super) struct Expected {
    accept: AcceptKey,
    protocols: Vec<String>,
    deflate: Option<DeflateOptions>,
}

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// The most headers of an answer.
const MAX_HEADERS: usize = 64;

impl Expected {
    /// Reads the answer at the beginning of `src`: its length, and what it agrees to. `None` when it is incomplete.
    pub(super) fn read(&self, src: &[u8]) -> Result<Option<(usize, Answer)>, HandshakeError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut fields);
        let len = match response.parse(src) {
            Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD => len,
            Ok(httparse::Status::Partial) if src.len() < MAX_HEAD => return Ok(None),
            Ok(_) => return Err(HandshakeError::TooLong { max: MAX_HEAD }),
            Err(error) => return Err(HandshakeError::Malformed(error.to_string())),
        };
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        let status =
            status.ok_or_else(|| HandshakeError::Malformed("a status that is none".to_owned()))?;
        let mut headers = HeaderMap::new();
        for field in &*response.headers {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        match status {
            StatusCode::SWITCHING_PROTOCOLS => {
                let answer = Answer::Opened(self.check(&headers)?, headers);
                Ok(Some((len, answer)))
            }
            status if status.is_informational() => Ok(Some((len, Answer::Informational))),
            status => Err(HandshakeError::Status(status)),
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<Terms, HandshakeError> {
        let lacks = |name| Err(HandshakeError::Header { name });
        if !has_token(headers, "upgrade", "websocket") {
            return lacks("Upgrade");
        }
        if !has_token(headers, "connection", "upgrade") {
            return lacks("Connection");
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

/// What a server's answer says.
#[derive(Debug)]
pub(super) enum Answer {
    /// Something to be passed over (RFC 9110, section 15.2).
    Informational,
    Opened(Terms, HeaderMap),
}

/// What has been agreed upon.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) protocol: Option<String>,
    pub(super) deflate: Option<Agreed>,
}

/// `None` when there is no such header, `Some(None)` when there are several, or it is no text.
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

/// Why a server did not open a WebSocket. It is the cause in the [`FrameError`] that the connection is closed with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The answer was another one than 101.
    Status(StatusCode),
    /// The answer lacks a header, or its value does not go with what was offered.
    Header {
        /// The header's name.
        name: &'static str,
    },
    /// The answer is no HTTP; this is what is wrong with it.
    Malformed(String),
    /// The answer's head is longer than allowed.
    TooLong {
        /// The most bytes allowed.
        max: usize,
    },
}

impl HandshakeError {
    /// The error inside a codec's, if it is one of these.
    pub fn of(error: &FrameError) -> Option<&Self> {
        match error {
            FrameError::Other(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl From<HandshakeError> for FrameError {
    #[cold]
    fn from(error: HandshakeError) -> Self {
        FrameError::Other(Box::new(error))
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Status(status) => {
                write!(f, "the server opened no WebSocket but answered {status}")
            }
            HandshakeError::Header { name } => {
                write!(
                    f,
                    "the server's answer has no {name}, or not one that goes with what was offered"
                )
            }
            HandshakeError::Malformed(what) => write!(f, "the server's answer is no HTTP: {what}"),
            HandshakeError::TooLong { max } => write!(
                f,
                "the head of the server's answer is longer than {max} bytes"
            ),
        }
    }
}

impl std::error::Error for HandshakeError {}
