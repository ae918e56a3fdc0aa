use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BodyError, Format, form, json, plain, protobuf};

/// A value that can be sent as a body: any type that serde serializes, [`Pb`](super::Pb), [`Raw`], [`RawRef`] and
/// [`Dual`].
pub trait EncodeBody {
    /// Appends the encoded value.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the format cannot encode the value.
    fn encode_body(&self, format: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError>;

    /// Returns the media type, if the value is a text that is the same in every format. A reply with it then has the codec
    /// [`PLAIN`](super::Codec::PLAIN), and the media type in its metadata, as `Content-Type`.
    fn content_type(&self) -> Option<&'static str> {
        None
    }
}

/// A value that a body can be decoded into: any type that serde deserializes, [`Pb`](super::Pb), [`Raw`] and [`Dual`].
pub trait DecodeBody: Sized {
    /// Decodes the value.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`] if the body does not encode such a value.
    fn decode_body(format: Format<'_>, body: &[u8]) -> Result<Self, BodyError>;
}

/// A value that can be both encoded and decoded.
pub trait Body: EncodeBody + DecodeBody {}

impl<T: EncodeBody + DecodeBody> Body for T {}

impl<T: Serialize + ?Sized> EncodeBody for T {
    fn encode_body(&self, format: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        match format {
            Format::Json => json::encode(self, out),
            Format::Protobuf => protobuf::encode_unit(self),
            Format::Plain => plain::encode(self, out),
            Format::Form => form::encode(self, out),
            Format::Own(codec) => codec.encode(&self, out),
            Format::None => Err(BodyError::UnsupportedCodec { id: 0 }),
            Format::Unknown(id) => Err(BodyError::UnsupportedCodec { id }),
        }
    }
}

impl<T: DeserializeOwned> DecodeBody for T {
    fn decode_body(format: Format<'_>, body: &[u8]) -> Result<Self, BodyError> {
        if body.is_empty() {
            // Types that do not accept `null` may have an empty value in this format.
            let null = json::decode(b"null");
            return match format {
                Format::Plain | Format::Form | Format::Own(_) if null.is_err() => {
                    decode(format, body)
                }
                _ => null,
            };
        }
        decode(format, body)
    }
}

fn decode<T: DeserializeOwned>(format: Format<'_>, body: &[u8]) -> Result<T, BodyError> {
    match format {
        Format::Json => json::decode(body),
        Format::Protobuf => protobuf::decode_unit(),
        Format::Plain => plain::decode(body),
        Format::Form => form::decode(body),
        Format::Own(codec) => {
            let mut value = None;
            codec.decode(body, &mut |deserializer| {
                value = Some(erased_serde::deserialize(deserializer)?);
                Ok(())
            })?;
            value.ok_or_else(|| BodyError::decode(codec.name(), "the codec found no value"))
        }
        Format::None => Err(BodyError::UnsupportedCodec { id: 0 }),
        Format::Unknown(id) => Err(BodyError::UnsupportedCodec { id }),
    }
}

/// The bytes of a body, unchanged, for any codec. Use it to forward a body without decoding it, or to send one that was
/// encoded before.
///
/// ```
/// use epicycle::rpc::wire::{Codec, Codecs, Raw};
///
/// let codecs = Codecs::standard();
/// let Raw(body) = codecs.unmarshal(Codec(b'z'), b"whatever")?;
/// assert_eq!(body, "whatever");
/// # Ok::<(), epicycle::rpc::wire::BodyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Raw(pub Bytes);

impl EncodeBody for Raw {
    fn encode_body(&self, _: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }
}

impl DecodeBody for Raw {
    fn decode_body(_: Format<'_>, body: &[u8]) -> Result<Self, BodyError> {
        Ok(Self(Bytes::copy_from_slice(body)))
    }
}

/// Borrowed bytes as a body, unchanged, for any codec: a [`Raw`] to send, without a copy of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawRef<'a>(pub &'a [u8]);

impl EncodeBody for RawRef<'_> {
    fn encode_body(&self, _: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        out.extend_from_slice(self.0);
        Ok(())
    }
}

/// A page. The reply has the metadata `Content-Type: text/html; charset=utf-8`, which is the header of that name over HTTP.
///
/// ```
/// use epicycle::rpc::Router;
/// use epicycle::rpc::wire::Html;
///
/// let mut routes = Router::new();
/// routes.call("/", |_ctx, _: ()| Ok(Html("<h1>hello</h1>".to_owned())));
/// ```
///
/// The text is sent as it is. Escape what comes from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Html(pub String);

impl EncodeBody for Html {
    fn encode_body(&self, _: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(())
    }

    fn content_type(&self) -> Option<&'static str> {
        Some("text/html; charset=utf-8")
    }
}

impl DecodeBody for Html {
    fn decode_body(_: Format<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let text = String::from_utf8(body.to_vec());
        text.map(Self)
            .map_err(|error| BodyError::decode("html", error))
    }
}

/// A type that both serde and prost support: prost encodes it as protobuf, and serde for every other codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dual<T>(pub T);

impl<T: Serialize + prost::Message> EncodeBody for Dual<T> {
    fn encode_body(&self, format: Format<'_>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        match format {
            Format::Protobuf => protobuf::encode(&self.0, out),
            format => self.0.encode_body(format, out),
        }
    }
}

impl<T: DeserializeOwned + prost::Message + Default> DecodeBody for Dual<T> {
    fn decode_body(format: Format<'_>, body: &[u8]) -> Result<Self, BodyError> {
        match format {
            Format::Protobuf => protobuf::decode(body).map(Self),
            format => T::decode_body(format, body).map(Self),
        }
    }
}
