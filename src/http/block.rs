use std::fmt;

use super::check::check_headers;
use super::error::SendError;

/// Headers that many answers have in common. They are checked and encoded once.
///
/// ```
/// use epicycle::http::{HeaderBlock, Response};
///
/// let common = HeaderBlock::new()
///     .with("Server", "example")?
///     .with("Content-Type", "application/json")?;
/// let answer = Response::ok().block(&common).body("{}");
/// # let _ = answer;
/// # Ok::<(), epicycle::http::SendError>(())
/// ```
#[derive(Clone, Default)]
pub struct HeaderBlock {
    /// The encoded header lines.
    lines: Vec<u8>,
    /// True if one of them is `Upgrade`.
    names_upgrade: bool,
}

impl HeaderBlock {
    /// Returns an empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Header`] or [`SendError::FramingHeader`].
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, SendError> {
        let value = value.as_ref();
        self.names_upgrade |= check_headers(&[(name, value)])?.names_upgrade;
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.lines.extend_from_slice(part);
        }
        Ok(self)
    }

    #[inline]
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    #[inline]
    pub(super) fn names_upgrade(&self) -> bool {
        self.names_upgrade
    }
}

impl fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = String::from_utf8_lossy(&self.lines);
        f.debug_list().entries(lines.lines()).finish()
    }
}
