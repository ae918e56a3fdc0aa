//! Body codecs: bytes of a value, and a value of bytes.

mod body;
pub(super) mod form;
mod json;
mod plain;
mod protobuf;

use std::fmt;
use std::sync::Arc;

use super::{Message, Meta, RegistryError};
use crate::error::error_messages;

pub use self::body::{Body, DecodeBody, Dual, EncodeBody, Raw};
pub use self::protobuf::Pb;

/// The id of a body codec, as it stands in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Codec(pub u8);

impl Codec {
    /// No codec: there is no body.
    pub const NONE: Codec = Codec(0);
    /// JSON, `j`.
    pub const JSON: Codec = Codec(b'j');
    /// Protobuf, `p`: for [`Pb`].
    pub const PROTOBUF: Codec = Codec(b'p');
    /// One string, number or truth value as text, `s`.
    pub const PLAIN: Codec = Codec(b's');
    /// `application/x-www-form-urlencoded`, `f`.
    pub const FORM: Codec = Codec(b'f');
}

/// How the body of a message is encoded: what a [`Codec`] stands for, found in [`Codecs`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Format<'a> {
    /// The message says that it has no body.
    None,
    /// JSON.
    Json,
    /// Protobuf.
    Protobuf,
    /// One string, number or truth value as text, as Go prints it.
    Plain,
    /// `application/x-www-form-urlencoded`. Lists are keys that repeat.
    Form,
    /// A codec of the user's.
    Own(&'a dyn BodyCodec),
    /// Nobody knows a codec of this id.
    Unknown(u8),
}

impl Format<'_> {
    /// Its name; `none` and `unknown` where there is no codec.
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

/// A body codec of one's own, for all types that serde knows.
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
    /// Its id in messages. Not 0.
    fn id(&self) -> Codec;

    /// Its name, for configuration and logs.
    fn name(&self) -> &str;

    /// Appends an encoded value.
    ///
    /// # Errors
    ///
    /// [`BodyError::encode`] when the codec has no such value.
    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError>;

    /// Decodes a value: calls `visit` once, with a deserializer for the body. The peer chooses the bytes.
    ///
    /// # Errors
    ///
    /// [`BodyError::decode`] when the body is no such value.
    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError>;
}

/// Takes a value out of a deserializer.
pub type Visit<'v> =
    &'v mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error>;

/// The body codecs that a peer knows, by id and by name.
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
    /// JSON, protobuf, plain and form.
    pub fn standard() -> Self {
        Self::default()
    }

    /// Adds a codec.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] when there is one of that id or name already, or the id is 0.
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

    /// What an id stands for.
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

    /// Whether a body can be in that codec. [`Codec::NONE`] is not one.
    pub fn knows(&self, codec: Codec) -> bool {
        !matches!(self.format(codec), Format::None | Format::Unknown(_))
    }

    /// The id of the codec that has a name.
    pub fn by_name(&self, name: &str) -> Option<Codec> {
        let built_in = BUILT_IN.iter().find(|(_, format)| format.name() == name);
        let own = || self.own.iter().find(|codec| codec.name() == name);
        built_in
            .map(|(id, _)| *id)
            .or_else(|| own().map(|codec| codec.id()))
    }

    /// Appends a value, encoded in a codec by its id.
    ///
    /// # Errors
    ///
    /// [`BodyError`] when the codec is unknown or has no such value. `out` may have a part of it then.
    pub fn marshal<T: EncodeBody + ?Sized>(
        &self,
        codec: Codec,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        value.encode_body(self.format(codec), out)
    }

    /// Decodes a value, in a codec by its id.
    ///
    /// An empty body reads as JSON's `null` where the type has that, whatever the codec.
    ///
    /// # Errors
    ///
    /// [`BodyError`] when the codec is unknown or the body is no such value.
    pub fn unmarshal<T: DecodeBody>(&self, codec: Codec, body: &[u8]) -> Result<T, BodyError> {
        T::decode_body(self.format(codec), body)
    }

    /// The codec of the reply to a call: the handler's choice, else the one that the caller accepts, if it is known,
    /// else the call's own, else the default.
    pub fn for_reply(&self, call: &Message<'_>, chosen: Option<Codec>, default: Codec) -> Codec {
        let accepted = || {
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

/// Why a value has no body, or a body is no such value. A call with such a body is answered with 400, and the text of this
/// as the reason.
#[non_exhaustive]
pub enum BodyError {
    /// The body is in a codec that is not known here, or in none.
    UnsupportedCodec {
        /// The codec's id.
        id: u8,
    },
    /// The codec has no values of this type at all.
    UnsupportedType {
        /// The codec's name.
        codec: String,
        /// What type it is, and what to do about it.
        what: &'static str,
    },
    /// The value cannot be encoded.
    Encode {
        /// The codec's name.
        codec: String,
        /// What the codec says.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body is no such value.
    Decode {
        /// The codec's name.
        codec: String,
        /// What the codec says.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BodyError {
    /// A value that a codec cannot encode.
    pub fn encode(codec: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Encode {
            codec: codec.to_owned(),
            error: error.into(),
        }
    }

    /// A body that a codec cannot decode.
    pub fn decode(codec: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError::Decode {
            codec: codec.to_owned(),
            error: error.into(),
        }
    }
}

error_messages! {
    BodyError {
        // As Teleport says it, so that its clients find what they look for.
        BodyError::UnsupportedCodec { id } => "unsupported codec id: {id}",
        BodyError::UnsupportedType { codec, what } => "{codec}: {what}",
        BodyError::Encode { codec, error } | BodyError::Decode { codec, error } => "{codec}: {error}",
    }
    causes {
        BodyError::Encode { error, .. } | BodyError::Decode { error, .. } => &**error,
    }
}
