use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;

/// Returns a value as the text that due makes of it: text and numbers as they are, nothing as the empty text, structures as JSON.
///
/// # Errors
///
/// Returns [`Error::Codec`] if the value cannot be JSON.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::to_text;
///
/// assert_eq!(to_text("a\"b")?, "a\"b");
/// assert_eq!(to_text(&1.5)?, "1.5");
/// assert_eq!(to_text(&None::<u8>)?, "");
/// assert_eq!(to_text(&[1, 2])?, "[1,2]");
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
pub fn to_text<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    // By way of its own text, so that the fields of a structure keep their order.
    let json = serde_json::to_string(value).map_err(|error| Error::Codec(Arc::new(error)))?;
    match json.as_bytes() {
        [b'"', ..] => serde_json::from_str(&json).map_err(|error| Error::Codec(Arc::new(error))),
        b"null" => Ok(String::new()),
        _ => Ok(json),
    }
}

/// Reads what [`to_text`] made.
///
/// # Errors
///
/// Returns [`Error::Codec`] if the text is not that of such a value.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::from_text;
///
/// assert_eq!(from_text::<u64>("42")?, 42);
/// assert_eq!(from_text::<String>("42")?, "42");
/// assert_eq!(from_text::<Vec<u8>>("[1,2]")?, [1, 2]);
/// assert!(from_text::<u64>("many").is_err());
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
pub fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let read = match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        // A text that looks like something else, or that is no JSON.
        Err(_) if text.is_empty() => serde_json::from_value(Value::Null)
            .or_else(|_| serde_json::from_value(Value::String(String::new()))),
        Err(error) => serde_json::from_value(Value::String(text.to_owned())).map_err(|_| error),
    };
    read.map_err(|error| Error::Codec(Arc::new(error)))
}
