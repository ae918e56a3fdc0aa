use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use super::meta::clear;
use super::{
    BodyError, Codec, Codecs, DecodeBody, EncodeBody, FilterPipe, Meta, Status, Uri, UriError,
};

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A request for a REPLY.
    Call = 1,
    /// The answer to the CALL with the same [`seq`](Message::seq).
    Reply = 2,
    /// A message without an answer.
    Push = 3,
}

impl Kind {
    /// Returns the kind with this number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Kind::Call),
            2 => Some(Kind::Reply),
            3 => Some(Kind::Push),
            _ => None,
        }
    }
}

/// Prints the kind as Teleport's log does: `CALL`, `REPLY`, `PUSH`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Call => "CALL",
            Kind::Reply => "REPLY",
            Kind::Push => "PUSH",
        })
    }
}

/// A message, with its body encoded and its filters undone.
///
/// A decoded message borrows the input where possible; a `Message<'static>` does not. Byte strings need not be UTF-8.
/// `Display` prints the message as indented JSON.
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
/// // An owned message can be reset, to use its memory again.
/// let mut owned = push.into_owned();
/// owned.reset(Kind::Call);
/// assert!(owned.uri.is_empty() && owned.meta.is_empty() && owned.body.is_empty());
/// # Ok::<(), epicycle::rpc::wire::BodyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// The kind: CALL, REPLY or PUSH.
    pub kind: Kind,
    /// The sequence identifier that matches a REPLY to its CALL. It is opaque to the receiver, and may be empty.
    pub seq: Cow<'a, [u8]>,
    /// The destination. [`parse_uri`](Self::parse_uri) splits it.
    pub uri: Cow<'a, [u8]>,
    /// Additional pairs of key and value.
    pub meta: Meta<'a>,
    /// The codec of the body.
    pub codec: Codec,
    /// The encoded body.
    pub body: Cow<'a, [u8]>,
    /// The filters that the message was wrapped in, or will be wrapped in.
    pub filters: FilterPipe<'a>,
    /// The number of bytes that the message took on the wire, including its framing. It is 0 for a message that was not
    /// received. The framing of a WebSocket is not counted.
    pub size: usize,
}

impl<'a> Message<'a> {
    /// Returns an empty message.
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

    /// Returns a CALL to a URI.
    pub fn call(uri: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let mut message = Self::new(Kind::Call);
        message.uri = Cow::Borrowed(uri.as_ref());
        message
    }

    /// Returns a PUSH to a URI.
    pub fn push(uri: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let mut message = Self::new(Kind::Push);
        message.uri = Cow::Borrowed(uri.as_ref());
        message
    }

    /// Returns a REPLY to a CALL, with the call's `seq` and filters. With `echo_uri` it also gets the call's URI: see
    /// [`Dialect`](super::Dialect).
    pub fn reply(call: &'a Message<'_>, echo_uri: bool) -> Self {
        let mut message = Self::new(Kind::Reply);
        message.seq = Cow::Borrowed(&call.seq);
        message.filters = call.filters.reborrow();
        if echo_uri {
            message.uri = Cow::Borrowed(&call.uri);
        }
        message
    }

    /// Resets the message to an empty one. Allocated memory is kept.
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

    /// Returns the parts of the URI.
    ///
    /// # Errors
    ///
    /// Returns a [`UriError`] if the URI has no path or is invalid.
    pub fn parse_uri(&self) -> Result<Uri<'_>, UriError> {
        Uri::parse(&*self.uri)
    }

    /// Encodes a value as the body, with the codec of this id.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the codec is unknown or cannot encode the value. The body is then empty.
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

    /// Decodes the body with its codec.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the codec is unknown, or the body does not encode such a value.
    pub fn unmarshal<T: DecodeBody>(&self, codecs: &Codecs) -> Result<T, BodyError> {
        codecs.unmarshal(self.codec, &self.body)
    }

    /// Returns the status of a failed call that this REPLY answers. Returns `None` if the call succeeded, or if this is
    /// not a REPLY.
    pub fn status(&self) -> Option<Status> {
        (self.kind == Kind::Reply)
            .then(|| Status::read(&self.meta))
            .flatten()
    }

    /// Turns a REPLY into a failure: removes the body and writes the status into the metadata. Other metadata is kept.
    ///
    /// The status is shortened to fit a field of `max_field` bytes: see [`Status::write`].
    pub fn set_status(&mut self, status: &Status, max_field: usize) {
        status.write(&mut self.meta, max_field);
        self.codec = Codec::NONE;
        clear(&mut self.body);
    }

    /// Returns an owned copy.
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

/// Prints indented JSON with Teleport's names for the parts. A JSON body is printed as JSON, any other as text.
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
