//! Checks of the headers that an application sends.

use super::error::SendError;
use super::fields::{is_token, is_value};
use super::lines::is_named;
use super::list::Pair;

/// The headers among some that the codecs must know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) date: bool,
    pub(super) host: bool,
    pub(super) te: bool,
    pub(super) upgrade: bool,
}

impl Names {
    /// Notes a header.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8]) -> Result<(), SendError> {
        let is_framing = match name.len() {
            2 => {
                self.te |= is_named(name, b"te");
                false
            }
            4 => {
                self.date |= is_named(name, b"date");
                self.host |= is_named(name, b"host");
                false
            }
            7 => {
                self.upgrade |= is_named(name, b"upgrade");
                false
            }
            10 => is_named(name, b"connection"),
            14 => is_named(name, b"content-length"),
            17 => is_named(name, b"transfer-encoding"),
            _ => false,
        };
        if is_framing {
            return Err(framing_header(name));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            date: self.date | other.date,
            host: self.host | other.host,
            te: self.te | other.te,
            upgrade: self.upgrade | other.upgrade,
        }
    }
}

/// The result of checking headers.
#[derive(Default)]
pub(super) struct Checked {
    /// The number of bytes that the headers take.
    pub(super) len: usize,
    pub(super) names: Names,
}

/// Checks headers that are to be sent.
#[inline]
pub(super) fn check_headers(headers: &[Pair<'_>]) -> Result<Checked, SendError> {
    if headers.is_empty() {
        return Ok(Checked::default());
    }
    check_each(headers)
}

fn check_each(headers: &[Pair<'_>]) -> Result<Checked, SendError> {
    let mut checked = Checked::default();
    for (name, value) in headers {
        if !is_token(name.as_bytes()) || !is_value(value) {
            return Err(bad_header(name));
        }
        checked.names.note(name.as_bytes())?;
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
pub(super) fn framing_header(name: &[u8]) -> SendError {
    let name = String::from_utf8_lossy(name).into_owned();
    SendError::FramingHeader { name }
}
