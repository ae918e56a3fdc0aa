use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BodyError, DecodeBody, EncodeBody, Format};

/// A protobuf message of prost, as a body. Its codec is [`Codec::PROTOBUF`](super::Codec::PROTOBUF).
///
/// ```
/// use epicycle::rpc::wire::{Codec, Codecs, Pb};
///
/// // Of prost's types this one is the wrapper of a string, `google.protobuf.StringValue`.
/// let mut body = Vec::new();
/// let codecs = Codecs::standard();
/// codecs.marshal(Codec::PROTOBUF, &Pb("OK".to_owned()), &mut body)?;
/// assert_eq!(body, b"\x0a\x02OK");
/// assert_eq!(codecs.unmarshal::<Pb<String>>(Codec::PROTOBUF, &body)?.0, "OK");
/// # Ok::<(), epicycle::rpc::wire::BodyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pb<T>(pub T);

const OTHER_CODEC: &str = "a protobuf message has no form in this codec; use protobuf, or `Dual` for a type that serde knows too";
const NO_MESSAGE: &str =
    "the type is not a protobuf message; wrap one in `Pb`, or use a codec that serde types have";

impl<T: prost::Message> EncodeBody for Pb<T> {
    fn encode_body(&self, format: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        require_protobuf(format)?;
        encode(&self.0, out)
    }
}

impl<T: prost::Message + Default> DecodeBody for Pb<T> {
    fn decode_body(format: Format<'_>, body: &[u8]) -> Result<Self, BodyError> {
        require_protobuf(format)?;
        decode(body).map(Self)
    }
}

fn require_protobuf(format: Format<'_>) -> Result<(), BodyError> {
    match format {
        Format::Protobuf => Ok(()),
        Format::None => Err(BodyError::UnsupportedCodec { id: 0 }),
        Format::Unknown(id) => Err(BodyError::UnsupportedCodec { id }),
        format => Err(unsupported(format.name(), OTHER_CODEC)),
    }
}

fn unsupported(codec: &str, what: &'static str) -> BodyError {
    BodyError::UnsupportedType {
        codec: codec.to_owned(),
        what,
    }
}

pub(super) fn encode<T: prost::Message>(value: &T, out: &mut Vec<u8>) -> Result<(), BodyError> {
    value
        .encode(out)
        .map_err(|error| BodyError::encode("protobuf", error))
}

pub(super) fn decode<T: prost::Message + Default>(body: &[u8]) -> Result<T, BodyError> {
    T::decode(body).map_err(|error| BodyError::decode("protobuf", error))
}

/// Encodes a type that is not a protobuf message but accepts JSON's `null`: as an empty message.
pub(super) fn encode_unit<T: Serialize + ?Sized>(value: &T) -> Result<(), BodyError> {
    match serde_json::to_vec(value) {
        Ok(json) if json == b"null" => Ok(()),
        _ => Err(unsupported("protobuf", NO_MESSAGE)),
    }
}

/// Decodes a message as `()`: all its fields are unknown, so nothing is read.
pub(super) fn decode_unit<T: DeserializeOwned>() -> Result<T, BodyError> {
    serde_json::from_slice(b"null").map_err(|_| unsupported("protobuf", NO_MESSAGE))
}
