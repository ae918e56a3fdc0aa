//! Keys as text.

use std::borrow::Cow;
use std::path::Path;

use super::CryptoError;
use crate::sys::files::read_at_most;

/// The most bytes of a key's file.
const MAX_FILE: u64 = 64 << 10;

/// Returns the text of a key, which is given itself or by the path of its file.
pub(super) fn read(key: &str) -> Result<Cow<'_, str>, CryptoError> {
    if key.contains("-----BEGIN ") {
        return Ok(key.into());
    }
    // A key without its first line would be shown. No encoding of a key has dots.
    let shown = match key.contains('.') && key.len() < 256 {
        true => format!("{key:?}"),
        false => "it".to_owned(),
    };
    let failed = |problem: String| CryptoError::Key {
        problem: format!("{shown} is no text in PEM, and as the path of a file: {problem}"),
    };
    let bytes = read_at_most(MAX_FILE, Path::new(key));
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| failed("it is longer than 64 KiB".to_owned()))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    Ok(text.into())
}

/// Returns the error of a key that has another form.
pub(super) fn wrong(wanted: &str, error: impl std::fmt::Display) -> CryptoError {
    let problem = format!("{error}; it must be {wanted}");
    CryptoError::Key { problem }
}
