//! Checks of the headers that an application sends.

use super::error::SendError;
use super::fields::{is_token, is_value};

/// The result of checking headers.
#[derive(Default)]
pub(super) struct Checked {
    /// The number of bytes that the headers take.
    pub(super) len: usize,
    /// True if one of the headers is `Upgrade`.
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

/// Checks the name of a protocol to change to. Returns the number of bytes it takes.
#[cold]
pub(super) fn check_protocol(protocol: &str) -> Result<usize, SendError> {
    // A protocol is a name, optionally with a slash and a version (RFC 9110, section 7.8).
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
