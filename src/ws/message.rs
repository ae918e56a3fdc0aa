//! What is sent and received.

use std::borrow::Cow;

use bytes::Bytes;

use super::close::Close;
use super::header::{Header, MAX_HEADER, Opcode};
use crate::http::Request;

/// A message.
///
/// One that has been received borrows the bytes it came in, unless it had to be put together of fragments or decompressed.
/// One to be sent is given to [`Conn::send`](crate::Conn::send), as are `&str` for text and `&[u8]` for binary.
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

/// What a server's handler gets.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A request, to be answered by an [`Accept`](super::Accept), which opens the WebSocket, or by any
    /// [`Response`](crate::http::Response).
    Request(Request<'a>),
    /// A message.
    Message(Message<'a>),
    /// The answer to a [`Ping`], or a sign of life that nobody asked for. Pings are answered by the codec.
    Pong(&'a [u8]),
    /// The peer closes the WebSocket, or answers a [`Close`] of this side: no message follows. The codec answers it once
    /// `react` has returned, unless a close of the handler's own was sent there.
    Closed(Close<'a>),
}

/// A fragment of a message, for one that is made while it is sent.
///
/// The first has its type, and those behind it must have the same; no other message can be sent before the `last`. Fragments
/// are not compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// A part of the message, which may be empty.
    pub part: Message<'a>,
    /// Whether it is the last one.
    pub last: bool,
}

/// Asks the peer for a [`Pong`](Incoming::Pong) with the same bytes, of which there are at most 125.
///
/// A peer that is gone without a word is found by this: it has said nothing when the next ping is due. The
/// [idle timeout](crate::Server::idle_timeout) does not tell, for a ping that is sent is traffic as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping<'a>(pub &'a [u8]);

/// A message that a server sends to many, framed once. Cloning it copies nothing.
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
    /// The payload.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// The text, if it is one.
    #[inline]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    /// A message that borrows nothing, copied if need be.
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

    /// The frame as it is sent: its header and the message.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}
