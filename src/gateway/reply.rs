use bytes::Bytes;

use crate::http::{HeaderBlock, SendError, StatusCode};

/// An answer of the gateway's own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status. One that has no body gets none.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderBlock,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Returns an answer without a body.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            fields: HeaderBlock::new(),
            body: Bytes::new(),
        }
    }

    /// Returns an answer of plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut reply = Self::new(status);
        // The field is well-formed.
        let _ = reply
            .fields
            .push("Content-Type", "text/plain; charset=utf-8");
        reply.body = Bytes::from(text.into());
        reply
    }

    /// Adds a field.
    ///
    /// # Errors
    ///
    /// As for [`HeaderBlock::push`].
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, SendError> {
        self.fields.push(name, value)?;
        Ok(self)
    }
}
