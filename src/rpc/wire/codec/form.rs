use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BodyError;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), BodyError> {
    let form = serde_html_form::to_string(value);
    let form = form.map_err(|error| BodyError::encode("form", error))?;
    out.extend_from_slice(form.as_bytes());
    Ok(())
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    serde_html_form::from_bytes(body).map_err(|error| BodyError::decode("form", error))
}
