//! Body codecs: they encode values into bytes, and decode bytes into values.

mod body;
pub(super) mod form;
mod json;
mod plain;
mod protobuf;

use std::fmt;
use std::sync::Arc;

use super::{Message, Meta, RegistryError};
use crate::error::error_messages;

pub use self::body::{Body, DecodeBody, Dual, EncodeBody, Html, Raw, RawRef};
pub use self::protobuf::Pb;

/// The id of a body codec in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Codec(pub u8);

impl Codec {
    /// No codec: there is no body.
    pub const NONE: Codec = Codec(0);
    /// JSON, `j`.
    pub const JSON: Codec = Codec(b'j');
    /// Protobuf, `p`: for [`Pb`].
    pub const PROTOBUF: Codec = Codec(b'p');
    /// One string, number or boolean as text, `s`.
    pub const PLAIN: Codec = Codec(b's');
    /// `application/x-www-form-urlencoded`, `f`.
    pub const FORM: Codec = Codec(b'f');
}

/// The format of a message's body: the meaning of a [`Codec`], found in [`Codecs`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Format<'a> {
    /// The message has no body.
    None,
    /// JSON.
    Json,
    /// Protobuf.
    Protobuf,
    /// One string, number or boolean as text, as Go prints it.
    Plain,
    /// `application/x-www-form-urlencoded`. A list is a repeated key.
    Form,
    /// A custom codec.
    Own(&'a dyn BodyCodec),
    /// No codec with this id is registered.
    Unknown(u8),
}

impl Format<'_> {
    /// Returns the codec's name. Returns `none` or `unknown` if there is no codec.
    pub fn name(&self) -> &str {
        match self {
            Format::None => "none",
            Format::Json => "json",
            Format::Protobuf => "protobuf",
            Format::Plain => "plain",
            Format::Form => "form",
            Format::Own(codec) => codec.name(),
            Format::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Debug for Format<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A custom body codec, for all types that serde supports.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::wire::{BodyCodec, BodyError, Codec, Codecs, Visit, erased_serde};
///
/// /// JSON, but indented.
/// struct Indented;
///
/// impl BodyCodec for Indented {
///     fn id(&self) -> Codec { Codec(b'i') }
///     fn name(&self) -> &str { "indented" }
///
///     fn encode(
///         &self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>,
///     ) -> Result<(), BodyError> {
///         serde_json::to_writer_pretty(out, value).map_err(|error| BodyError::encode(self.name(), error))
///     }
///
///     fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
///         let mut json = serde_json::Deserializer::from_slice(body);
///         visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
///             .map_err(|error| BodyError::decode(self.name(), error))
///     }
/// }
///
/// let mut codecs = Codecs::standard();
/// codecs.register(Indented)?;
/// let mut body = Vec::new();
/// codecs.marshal(Codec(b'i'), &vec![1, 2], &mut body)?;
/// assert_eq!(body, b"[\n  1,\n  2\n]");
/// assert_eq!(codecs.unmarshal::<Vec<i32>>(Codec(b'i'), &body)?, [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait BodyCodec: Send + Sync + 'static {
    /// Returns the codec's id in messages. It must not be 0.
    fn id(&self) -> Codec;

    /// Returns the codec's name, for configuration and logs.
    fn name(&self) -> &str;

    /// Appends an encoded value.
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::encode`] if the codec cannot encode the value.
    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError>;

    /// Decodes a value: calls `visit` once, with a deserializer for the body. The peer chooses the bytes.
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::decode`] if the body does not encode such a value.
    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError>;
}

/// Reads a value from a deserializer.
pub type Visit<'v> =
    &'v mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error>;

/// The body codecs of a peer, by id and by name.
#[derive(Clone, Default)]
pub struct Codecs {
    own: Vec<Arc<dyn BodyCodec>>,
}

const BUILT_IN: [(Codec, Format<'static>); 4] = [
    (Codec::JSON, Format::Json),
    (Codec::PROTOBUF, Format::Protobuf),
    (Codec::PLAIN, Format::Plain),
    (Codec::FORM, Format::Form),
];

impl Codecs {
    /// Returns a registry with JSON, protobuf, plain and form.
    pub fn standard() -> Self {
        Self::default()
    }

    /// Adds a codec.
    ///
    /// # Errors
    ///
    /// Returns a [`RegistryError`] if a codec with this id or name is registered, or if the id is 0.
    pub fn register(&mut self, codec: impl BodyCodec) -> Result<(), RegistryError> {
        let (id, name) = (codec.id(), codec.name());
        let refused = name.to_owned();
        match self.format(id) {
            Format::None => return Err(RegistryError::ReservedId { refused }),
            Format::Unknown(_) => {}
            other => {
                return Err(RegistryError::DuplicateId {
                    what: "codec",
                    id: id.0,
                    registered: other.name().to_owned(),
                    refused,
                });
            }
        }
        if self.by_name(name).is_some() {
            return Err(RegistryError::DuplicateName {
                what: "codec",
                name: refused,
            });
        }
        self.own.push(Arc::new(codec));
        Ok(())
    }

    /// Returns the format of an id.
    pub fn format(&self, codec: Codec) -> Format<'_> {
        match codec {
            Codec::NONE => Format::None,
            Codec::JSON => Format::Json,
            Codec::PROTOBUF => Format::Protobuf,
            Codec::PLAIN => Format::Plain,
            Codec::FORM => Format::Form,
            id => match self.own.iter().find(|codec| codec.id() == id) {
                Some(codec) => Format::Own(&**codec),
                None => Format::Unknown(id.0),
            },
        }
    }

    /// Returns true if a body can be in that codec. Returns false for [`Codec::NONE`].
    pub fn knows(&self, codec: Codec) -> bool {
        !matches!(self.format(codec), Format::None | Format::Unknown(_))
    }

    /// Returns the id of the codec with this name.
    pub fn by_name(&self, name: &str) -> Option<Codec> {
        let built_in = BUILT_IN.iter().find(|(_, format)| format.name() == name);
        let own = || self.own.iter().find(|codec| codec.name() == name);
        built_in
            .map(|(id, _)| *id)
            .or_else(|| own().map(|codec| codec.id()))
    }

    /// Returns the names of all codecs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let built_in = BUILT_IN.iter().map(|(_, format)| format.name());
        built_in.chain(self.own.iter().map(|codec| codec.name()))
    }

    /// Encodes a value with the codec of this id, and appends it.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the codec is unknown or cannot encode the value. `out` may then contain a part of the
    /// value.
    pub fn marshal<T: EncodeBody + ?Sized>(
        &self,
        codec: Codec,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        value.encode_body(self.format(codec), out)
    }

    /// Decodes a value with the codec of this id.
    ///
    /// With any codec, an empty body decodes as JSON's `null`, if the type accepts that.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the codec is unknown, or the body does not encode such a value.
    pub fn unmarshal<T: DecodeBody>(&self, codec: Codec, body: &[u8]) -> Result<T, BodyError> {
        T::decode_body(self.format(codec), body)
    }

    /// Returns the codec for the reply to a call: the handler's choice; else the codec that the caller accepts, if it
    /// is registered; else the codec of the call; else the default.
    #[inline]
    pub fn for_reply(&self, call: &Message<'_>, chosen: Option<Codec>, default: Codec) -> Codec {
        let accepted = || {
            if call.meta.encoded().is_empty() {
                return None;
            }
            let id = call.meta.get_str(Meta::ACCEPT_BODY_CODEC)?.parse().ok()?;
            Some(Codec(id)).filter(|codec| self.knows(*codec))
        };
        let calls = || Some(call.codec).filter(|codec| *codec != Codec::NONE);
        chosen.or_else(accepted).or_else(calls).unwrap_or(default)
    }
}

impl fmt::Debug for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built_in = BUILT_IN.iter().map(|(_, format)| format.name());
        let own = self.own.iter().map(|codec| codec.name());
        f.debug_set().entries(built_in.chain(own)).finish()
    }
}

/// The reason why a value cannot be encoded, or a body cannot be decoded. A call with such a body is answered with 400,
/// and this text is the reason.
#[non_exhaustive]
pub enum BodyError {
    /// The body has a codec that is not registered here, or none.
    UnsupportedCodec {
        /// The codec's id.
        id: u8,
    },
    /// The codec does not support this type at all.
    UnsupportedType {
        /// The codec's name.
        codec: String,
        /// The kind of type, and the remedy.
        what: &'static str,
    },
    /// The value cannot be encoded.
    Encode {
        /// The codec's name.
        codec: String,
        /// The error of the codec.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body does not encode such a value.
    Decode {
        /// The codec's name.
        codec: String,
        /// The error of the codec.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BodyError {
    /// Returns the error of a value that a codec cannot encode.
    pub fn encode(codec: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Encode {
            codec: codec.to_owned(),
            error: error.into(),
        }
    }

    /// Returns the error of a body that a codec cannot decode.
    pub fn decode(codec: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Decode {
            codec: codec.to_owned(),
            error: error.into(),
        }
    }
}

error_messages! {
    BodyError {
        // Teleport's text, which its clients may look for.
        BodyError::UnsupportedCodec { id } => "unsupported codec id: {id}",
        BodyError::UnsupportedType { codec, what } => "{codec}: {what}",
        BodyError::Encode { codec, error } | BodyError::Decode { codec, error } => "{codec}: {error}",
    }
    causes {
        BodyError::Encode { error, .. } | BodyError::Decode { error, .. } => &**error,
    }
}
