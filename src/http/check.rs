//! Checks of the headers that an application sends.

use super::error::SendError;
use super::fields::{is_token, is_value};

/// What headers that may be sent come to.
#[derive(Default)]
pub(super) struct Checked {
    /// How many bytes they take.
    pub(super) len: usize,
    /// Whether one of them is `Upgrade`.
    pub(super) names_upgrade: bool,
}

/// Checks headers that are to be sent.
#[inline]
pub(super) fn check_headers(headers: &[(&str, &[u8])]) -> Result<Checked, SendError> {
    if headers.is_empty() {
        return Ok(Checked::default());
    }
    check_each(headers)
}

fn check_each(headers: &[(&str, &[u8])]) -> Result<Checked, SendError> {
    let mut checked = Checked::default();
    for (name, value) in headers {
        if !is_token(name.as_bytes()) || !is_value(value) {
            return Err(bad_header(name));
        }
        let is_framing = match name.len() {
            7 => {
                checked.names_upgrade |= name.eq_ignore_ascii_case("upgrade");
                false
            }
            10 => name.eq_ignore_ascii_case("connection"),
            14 => name.eq_ignore_ascii_case("content-length"),
            17 => name.eq_ignore_ascii_case("transfer-encoding"),
            _ => false,
        };
        if is_framing {
            return Err(framing_header(name));
        }
        checked.len += name.len() + value.len() + ": \r\n".len();
    }
    Ok(checked)
}

/// Checks a protocol to change to; returns how many bytes it takes.
#[cold]
pub(super) fn check_protocol(protocol: &str) -> Result<usize, SendError> {
    // A name and perhaps a version behind a slash (RFC 9110, section 7.8).
    if protocol.split('/').all(|part| is_token(part.as_bytes())) {
        Ok(protocol.len())
    } else {
        Err(bad_header("Upgrade"))
    }
}

#[cold]
fn bad_header(name: &str) -> SendError {
    SendError::Header { name: name.into() }
}

#[cold]
fn framing_header(name: &str) -> SendError {
    SendError::FramingHeader { name: name.into() }
}
