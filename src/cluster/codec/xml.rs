//! XML.

use super::text;
use crate::rpc::wire::{self, BodyCodec, BodyError, Visit, erased_serde};

/// XML. A value is a struct: its name is that of the root element, a list is an element that is repeated.
pub(super) struct Xml;

impl BodyCodec for Xml {
    fn id(&self) -> wire::Codec {
        wire::Codec(b'x')
    }

    fn name(&self) -> &str {
        "xml"
    }

    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyError> {
        let mut text = String::new();
        let mut xml = quick_xml::se::Serializer::new(&mut text);
        xml.expand_empty_elements(true);
        serde::Serialize::serialize(value, xml)
            .map_err(|error| BodyError::encode(self.name(), error))?;
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn decode(&self, body: &[u8], visit: Visit<'_>) -> Result<(), BodyError> {
        let text = text(self.name(), body)?;
        let mut xml = quick_xml::de::Deserializer::from_str(text);
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut xml))
            .map_err(|error| BodyError::decode(self.name(), error))
    }
}
