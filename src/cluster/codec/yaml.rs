//! YAML.

use serde_saphyr::{budget, options, ser_options};

use crate::rpc::wire::{self, BodyCodec, BodyError, Visit, erased_serde};

/// YAML, in block style with four spaces, as due writes it.
pub(super) struct Yaml;

impl BodyCodec for Yaml {
    fn id(&self) -> wire::Codec {
        wire::Codec(b'y')
    }

    fn name(&self) -> &str {
        "yaml"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        let options = ser_options! { indent_step: 4, compact_list_indent: false };
        serde_saphyr::to_io_writer_with_options(out, &value, options)
            .map_err(|error| BodyError::encode(self.name(), error))
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        // Errors go into logs, so they hold no excerpts of the data. No encoder writes anchors, by which few bytes can become
        // many values.
        let options = options! { with_snippet: false, budget: budget! { max_anchors: 0 } };
        serde_saphyr::with_deserializer_from_slice_with_options(body, options, |yaml| {
            visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(yaml))
                .map_err(serde::de::Error::custom)
        })
        .map_err(|error| BodyError::decode(self.name(), error))
    }
}
