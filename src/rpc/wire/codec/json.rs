use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BodyError;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), BodyError> {
    serde_json::to_writer(out, value).map_err(|error| BodyError::encode("json", error))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    serde_json::from_slice(body).map_err(|error| BodyError::decode("json", error))
}
