//! MessagePack.

use crate::rpc::wire::{self, BodyCodec, BodyError, Visit, erased_serde};

/// The most values within each other, as in JSON. The default of the crate is eight times as much stack.
const MAX_DEPTH: usize = 128;

/// MessagePack, with structs as maps from names, as due and most other languages have them.
pub(super) struct Msgpack;

impl BodyCodec for Msgpack {
    fn id(&self) -> wire::Codec {
        wire::Codec(b'm')
    }

    fn name(&self) -> &str {
        "msgpack"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
        serde::Serialize::serialize(value, &mut serializer)
            .map_err(|error| BodyError::encode(self.name(), error))
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        let mut rest = body;
        let mut msgpack = rmp_serde::Deserializer::new(&mut rest);
        msgpack.set_max_depth(MAX_DEPTH);
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(
            &mut msgpack,
        ))
        .map_err(|error| BodyError::decode(self.name(), error))?;
        if rest.is_empty() {
            Ok(())
        } else {
            let error = format!("{} bytes after the value", rest.len());
            Err(BodyError::decode(self.name(), error))
        }
    }
}
