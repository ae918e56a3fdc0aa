//! The items that are sent and received.

use std::borrow::Cow;

use bytes::Bytes;

use super::close::Close;
use super::header::{Header, MAX_HEADER, Opcode};
use crate::http::ServerRequest;

/// A message.
///
/// A received message borrows the input, unless it was fragmented or compressed. Send one with
/// [`Conn::send`](crate::Conn::send), which also takes `&str` for text and `&[u8]` for binary.
///
/// ```
/// use epicycle::ws::Message;
///
/// assert_eq!(Message::from("hello"), Message::Text("hello".into()));
/// assert_eq!(Message::from(&b"hello"[..]).as_bytes(), b"hello");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Binary(Cow<'a, [u8]>),
}

/// The frames that a server's handler receives.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A request. Answer it with an [`Accept`](super::Accept), which opens the WebSocket, or with any
    /// [`ServerResponse`](crate::http::ServerResponse).
    Request(ServerRequest<'a>),
    /// A message.
    Message(Message<'a>),
    /// The answer to a [`Ping`], or an unsolicited pong (RFC 6455, section 5.5.3). The codec itself answers pings.
    Pong(&'a [u8]),
    /// The peer closes the WebSocket, or answers a [`Close`] of this side. No message follows. The codec answers it
    /// once `react` has returned, unless the handler sent its own close there.
    Closed(Close<'a>),
}

/// A fragment of a message, for a message that is produced while it is sent.
///
/// The first fragment has the type of the message, and those after it must have the same. No other message can be sent
/// before the `last` fragment. Fragments are not compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Fragment<'a> {
    /// A part of the message. It may be empty.
    pub part: Message<'a>,
    /// True for the last fragment.
    pub last: bool,
}

/// Asks the peer for a [`Pong`](Incoming::Pong) with the same bytes, at most 125.
///
/// Use it to find peers that are gone without a FIN or RST: such a peer has sent nothing by the time the next ping is
/// due. The [idle timeout](crate::Server::idle_timeout) does not find them, since sent pings count as traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nothing is sent until it is passed to `Conn::send`"]
pub struct Ping<'a>(pub &'a [u8]);

/// A message that is framed once, for a server to send to many peers. A clone copies no bytes.
///
/// ```
/// use epicycle::ws::Prepared;
///
/// let news = Prepared::new("hello, all");
/// assert_eq!(news.as_bytes()[..], *b"\x81\x0Ahello, all");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared(Bytes);

impl Message<'_> {
    /// Returns the payload.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// Returns the text of a text message.
    #[inline]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    /// Returns a message that borrows nothing. Borrowed bytes are copied.
    pub fn into_owned(self) -> Message<'static> {
        match self {
            Message::Text(text) => Message::Text(Cow::Owned(text.into_owned())),
            Message::Binary(bytes) => Message::Binary(Cow::Owned(bytes.into_owned())),
        }
    }

    #[inline]
    pub(super) fn opcode(&self) -> Opcode {
        match self {
            Message::Text(_) => Opcode::Text,
            Message::Binary(_) => Opcode::Binary,
        }
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Message::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Message<'_> {
    fn from(text: String) -> Self {
        Message::Text(Cow::Owned(text))
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Message::Binary(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Message<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Message::Binary(Cow::Owned(bytes))
    }
}

impl Prepared {
    /// Frames a message.
    pub fn new<'a>(message: impl Into<Message<'a>>) -> Self {
        let message = message.into();
        let payload = message.as_bytes();
        let header = Header {
            fin: true,
            rsv1: false,
            opcode: message.opcode(),
            mask: None,
            len: payload.len() as u64,
        };
        let mut bytes = vec![0; MAX_HEADER];
        let size = header.write(&mut bytes);
        bytes.truncate(size);
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }

    /// Returns the frame as it is sent: its header and the message.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}
