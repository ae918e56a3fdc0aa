//! TOML.

use super::text;
use crate::rpc::wire::{self, BodyCodec, BodyError, Visit, erased_serde};

/// TOML. A value is a struct or a map, and nothing in it is null.
pub(super) struct Toml;

impl BodyCodec for Toml {
    fn id(&self) -> wire::Codec {
        wire::Codec(b't')
    }

    fn name(&self) -> &str {
        "toml"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        let mut text = toml::ser::Buffer::new();
        serde::Serialize::serialize(value, toml::Serializer::new(&mut text))
            .map_err(|error| BodyError::encode(self.name(), error))?;
        out.extend_from_slice(text.to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        let text = text(self.name(), body)?;
        let toml = toml::Deserializer::parse(text)
            .map_err(|error| BodyError::decode(self.name(), error.message().to_owned()))?;
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(toml))
            .map_err(|error| BodyError::decode(self.name(), error))
    }
}
