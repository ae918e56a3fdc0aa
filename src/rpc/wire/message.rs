use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use super::meta::clear;
use super::{
    BodyError, Codec, Codecs, DecodeBody, EncodeBody, FilterPipe, Meta, Status, Uri, UriError,
};

/// What kind a message is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Asks for a REPLY.
    Call = 1,
    /// Answers the CALL of the same [`seq`](Message::seq).
    Reply = 2,
    /// Asks for nothing.
    Push = 3,
}

impl Kind {
    /// The kind of a number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Kind::Call),
            2 => Some(Kind::Reply),
            3 => Some(Kind::Push),
            _ => None,
        }
    }
}

/// As Teleport's log has it: `CALL`, `REPLY`, `PUSH`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Call => "CALL",
            Kind::Reply => "REPLY",
            Kind::Push => "PUSH",
        })
    }
}

/// A message, as it goes over the wire: its body is encoded, and its filters are undone.
///
/// A decoded one borrows the input as far as it can; a `Message<'static>` is free of it. Byte strings need not be UTF-8.
/// It shows itself as indented JSON.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::{Codec, Codecs, Kind, Message};
///
/// let codecs = Codecs::standard();
/// let mut push = Message::push("/push/status");
/// push.marshal(&codecs, Codec::JSON, "hi")?;
/// push.meta.add("K", "v");
/// assert_eq!(push.kind, Kind::Push);
/// assert_eq!(push.unmarshal::<String>(&codecs)?, "hi");
///
/// // The memory of one that is owned can be used again.
/// let mut owned = push.into_owned();
/// owned.reset(Kind::Call);
/// assert!(owned.uri.is_empty() && owned.meta.is_empty() && owned.body.is_empty());
/// # Ok::<(), epicycle::rpc::wire::BodyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Whether it is a CALL, a REPLY or a PUSH.
    pub kind: Kind,
    /// By what a REPLY is found to belong to its CALL: opaque to whoever did not make it. Empty is allowed.
    pub seq: Cow<'a, [u8]>,
    /// Where it is meant to go. [`parse_uri`](Self::parse_uri) takes it apart.
    pub uri: Cow<'a, [u8]>,
    /// Further pairs of key and value.
    pub meta: Meta<'a>,
    /// How the body is encoded.
    pub codec: Codec,
    /// The encoded body.
    pub body: Cow<'a, [u8]>,
    /// What the message was wrapped in, or is to be wrapped in.
    pub filters: FilterPipe<'a>,
    /// How many bytes it took up on the wire, framing included; 0 for one that was not received. A WebSocket's own
    /// framing does not count.
    pub size: usize,
}

impl<'a> Message<'a> {
    /// An empty message.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            seq: Cow::Borrowed(&[]),
            uri: Cow::Borrowed(&[]),
            meta: Meta::default(),
            codec: Codec::NONE,
            body: Cow::Borrowed(&[]),
            filters: FilterPipe::default(),
            size: 0,
        }
    }

    /// A CALL to a URI.
    pub fn call(uri: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let mut message = Self::new(Kind::Call);
        message.uri = Cow::Borrowed(uri.as_ref());
        message
    }

    /// A PUSH to a URI.
    pub fn push(uri: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let mut message = Self::new(Kind::Push);
        message.uri = Cow::Borrowed(uri.as_ref());
        message
    }

    /// A REPLY to a CALL: with its seq and its filters, and its URI where the [`Dialect`](super::Dialect) echoes that.
    pub fn reply(call: &'a Message<'_>, echo_uri: bool) -> Self {
        let mut message = Self::new(Kind::Reply);
        message.seq = Cow::Borrowed(&call.seq);
        message.filters = call.filters.reborrow();
        if echo_uri {
            message.uri = Cow::Borrowed(&call.uri);
        }
        message
    }

    /// Makes it an empty message again. Memory of its own is kept.
    pub fn reset(&mut self, kind: Kind) {
        self.kind = kind;
        clear(&mut self.seq);
        clear(&mut self.uri);
        self.meta.clear();
        self.codec = Codec::NONE;
        clear(&mut self.body);
        self.filters.clear();
        self.size = 0;
    }

    /// The parts of its URI.
    ///
    /// # Errors
    ///
    /// [`UriError`] when it has no path or cannot be read.
    pub fn parse_uri(&self) -> Result<Uri<'_>, UriError> {
        Uri::parse(&*self.uri)
    }

    /// Encodes a value as the body, in a codec by its id.
    ///
    /// # Errors
    ///
    /// [`BodyError`] when the codec is unknown or has no such value. The body is empty then.
    pub fn marshal<T: EncodeBody + ?Sized>(
        &mut self,
        codecs: &Codecs,
        codec: Codec,
        value: &T,
    ) -> Result<(), BodyError> {
        clear(&mut self.body);
        let body = self.body.to_mut();
        codecs
            .marshal(codec, value, body)
            .inspect_err(|_| body.clear())?;
        self.codec = codec;
        Ok(())
    }

    /// Decodes the body in its codec.
    ///
    /// # Errors
    ///
    /// [`BodyError`] when the codec is unknown, or the body is no such value.
    pub fn unmarshal<T: DecodeBody>(&self, codecs: &Codecs) -> Result<T, BodyError> {
        codecs.unmarshal(self.codec, &self.body)
    }

    /// Why the call failed that this REPLY answers; none if it succeeded, or if this is no REPLY.
    pub fn status(&self) -> Option<Status> {
        (self.kind == Kind::Reply)
            .then(|| Status::read(&self.meta))
            .flatten()
    }

    /// Makes a REPLY one of failure: without a body, and with the status in its metadata, which keeps what else is in it.
    ///
    /// The status is shortened to fit a field of `max_field` bytes, as [`Status::write`] has it.
    pub fn set_status(&mut self, status: &Status, max_field: usize) {
        status.write(&mut self.meta, max_field);
        self.codec = Codec::NONE;
        clear(&mut self.body);
    }

    /// The same, without a borrow.
    pub fn into_owned(self) -> Message<'static> {
        Message {
            kind: self.kind,
            seq: Cow::Owned(self.seq.into_owned()),
            uri: Cow::Owned(self.uri.into_owned()),
            meta: self.meta.into_owned(),
            codec: self.codec,
            body: Cow::Owned(self.body.into_owned()),
            filters: self.filters.into_owned(),
            size: self.size,
        }
    }
}

/// Indented JSON, with the names that Teleport gives the parts. A body that is JSON is shown as such, any other as text.
impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[derive(Serialize)]
        struct Shown<'a> {
            seq: Cow<'a, str>,
            mtype: u8,
            uri: Cow<'a, str>,
            meta: Cow<'a, str>,
            body_codec: u8,
            body: serde_json::Value,
            xfer_pipe: &'a [u8],
            size: usize,
        }
        let json = (self.codec == Codec::JSON)
            .then(|| serde_json::from_slice(&self.body).ok())
            .flatten();
        let shown = Shown {
            seq: String::from_utf8_lossy(&self.seq),
            mtype: self.kind as u8,
            uri: String::from_utf8_lossy(&self.uri),
            meta: String::from_utf8_lossy(self.meta.encoded()),
            body_codec: self.codec.0,
            body: json.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into()),
            xfer_pipe: self.filters.ids(),
            size: self.size,
        };
        let json = serde_json::to_string_pretty(&shown).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}
