//! Codecs of the data in packets: they encode values into bytes, and decode bytes into values.

#[cfg(feature = "codec-msgpack")]
mod msgpack;
#[cfg(feature = "codec-toml")]
mod toml;
#[cfg(feature = "codec-xml")]
mod xml;
#[cfg(feature = "codec-yaml")]
mod yaml;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Error;
use crate::rpc::wire::{Codecs, Format};

pub use crate::rpc::wire::{
    BodyCodec, BodyError, DecodeBody, Dual, EncodeBody, Pb, Raw, RawRef, Visit,
};

/// The format of the data in packets. A clone is cheap.
///
/// JSON and protobuf are always there. MessagePack, TOML, XML and YAML have a feature each, and their names: `"msgpack".parse()`.
///
/// A value is any type that serde knows. Protobuf has messages of prost instead, in a [`Pb`]; a [`Dual`] is for types that are
/// both. [`Raw`] is bytes that are encoded already, for any codec.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::codec::{Codec, Pb};
///
/// let data = Codec::Json.encode(&vec![1, 2])?;
/// assert_eq!(data, b"[1,2]");
/// assert_eq!(Codec::Json.decode::<Vec<u8>>(&data)?, [1, 2]);
///
/// // prost has a message for a single string, `google.protobuf.StringValue`.
/// let data = Codec::Protobuf.encode(&Pb("OK".to_owned()))?;
/// assert_eq!(data, b"\x0a\x02OK");
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Codec {
    /// JSON.
    #[default]
    Json,
    /// Protobuf.
    Protobuf,
    /// A codec of the application.
    Own(Arc<dyn BodyCodec>),
}

impl Codec {
    /// Returns a codec of the application. [`BodyCodec`] has an example of one.
    pub fn own(codec: impl BodyCodec) -> Self {
        Codec::Own(Arc::new(codec))
    }

    /// Returns the codec's name, for configuration and logs.
    pub fn name(&self) -> &str {
        match self {
            Codec::Json => "json",
            // Its name in due's configuration.
            Codec::Protobuf => "proto",
            Codec::Own(codec) => codec.name(),
        }
    }

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the codec does not have this type or cannot encode the value.
    pub fn encode<T: EncodeBody + ?Sized>(&self, value: &T) -> Result<Vec<u8>, Error> {
        let mut data = Vec::new();
        self.encode_into(value, &mut data)?;
        Ok(data)
    }

    /// Encodes a value, and appends it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] as [`encode`](Self::encode). `out` is then as before.
    pub fn encode_into<T: EncodeBody + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let before = out.len();
        value.encode_body(self.format(), out).map_err(|error| {
            out.truncate(before);
            Error::Codec(Arc::new(error))
        })
    }

    /// Decodes a value. No data at all is JSON's `null`, if the type accepts that.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the data is not that of such a value.
    pub fn decode<T: DecodeBody>(&self, data: &[u8]) -> Result<T, Error> {
        T::decode_body(self.format(), data).map_err(|error| Error::Codec(Arc::new(error)))
    }

    fn format(&self) -> Format<'_> {
        match self {
            Codec::Json => Format::Json,
            Codec::Protobuf => Format::Protobuf,
            Codec::Own(codec) => Format::Own(&**codec),
        }
    }
}

impl FromStr for Codec {
    type Err = Error;

    /// Returns the codec of a name: `json`, `proto`, and with a feature each, `codec-msgpack` for one, `msgpack`, `toml`, `xml` and
    /// `yaml`.
    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "json" => Ok(Codec::Json),
            "proto" => Ok(Codec::Protobuf),
            #[cfg(feature = "codec-msgpack")]
            "msgpack" => Ok(Codec::own(msgpack::Msgpack)),
            #[cfg(feature = "codec-toml")]
            "toml" => Ok(Codec::own(toml::Toml)),
            #[cfg(feature = "codec-xml")]
            "xml" => Ok(Codec::own(xml::Xml)),
            #[cfg(feature = "codec-yaml")]
            "yaml" => Ok(Codec::own(yaml::Yaml)),
            #[allow(
                unreachable_patterns,
                reason = "with every feature, all of them are above"
            )]
            "msgpack" | "toml" | "xml" | "yaml" => {
                let problem = format!("{name} needs the feature codec-{name}; build with it");
                Err(Error::argument("codec", problem))
            }
            other => {
                let problem = format!(
                    "{other:?} is not one of json, proto, msgpack, toml, xml, yaml; others are given to the builder"
                );
                Err(Error::argument("codec", problem))
            }
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the codecs of [`rpc`](crate::rpc), and those of the features.
pub(super) fn of_rpc() -> Codecs {
    #[allow(unused_mut, reason = "without the features")]
    let mut codecs = Codecs::standard();
    // Their ids and names differ, so no registration fails.
    #[cfg(feature = "codec-msgpack")]
    let _ = codecs.register(msgpack::Msgpack);
    #[cfg(feature = "codec-toml")]
    let _ = codecs.register(toml::Toml);
    #[cfg(feature = "codec-xml")]
    let _ = codecs.register(xml::Xml);
    #[cfg(feature = "codec-yaml")]
    let _ = codecs.register(yaml::Yaml);
    codecs
}

#[cfg(any(feature = "codec-toml", feature = "codec-xml"))]
fn text<'b>(codec: &str, body: &'b [u8]) -> Result<&'b str, BodyError> {
    std::str::from_utf8(body).map_err(|error| BodyError::decode(codec, error))
}
