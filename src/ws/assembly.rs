//! The assembly of a message from fragments, or from decompressed data.

use super::failure::Failure;
use super::header::Opcode;
use super::message::Message;
use super::text::Text;

/// A message that is incomplete.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) compressed: bool,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Text(Text),
    Binary(Vec<u8>),
}

impl Assembly {
    pub(super) fn new(opcode: Opcode, compressed: bool) -> Self {
        let content = match opcode {
            Opcode::Text => Content::Text(Text::default()),
            _ => Content::Binary(Vec::new()),
        };
        Self {
            compressed,
            content,
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.content {
            Content::Text(text) => text.len(),
            Content::Binary(bytes) => bytes.len(),
        }
    }

    /// Returns the text so far, if the message is a text.
    pub(super) fn as_text(&self) -> Option<&Text> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Binary(_) => None,
        }
    }

    /// Appends data, up to a total of `max` bytes. Never allocates more than that.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1009 beyond `max` bytes, and with 1007 for a text that is not UTF-8.
    pub(super) fn push(&mut self, bytes: &[u8], max: usize) -> Result<(), Failure> {
        let len = self.len() + bytes.len();
        if len > max {
            return Err(Failure::too_big(len as u64, max));
        }
        match &mut self.content {
            Content::Text(text) => {
                if len > text.capacity() {
                    text.reserve_exact(grown(text.capacity(), len, max) - text.len());
                }
                text.push(bytes)
            }
            Content::Binary(binary) => {
                if len > binary.capacity() {
                    binary.reserve_exact(grown(binary.capacity(), len, max) - binary.len());
                }
                binary.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Returns the complete message.
    ///
    /// # Errors
    ///
    /// Returns a failure with 1007 for a text that ends within a character.
    pub(super) fn finish(self) -> Result<Message<'static>, Failure> {
        Ok(match self.content {
            Content::Text(text) => text.finish()?.into(),
            Content::Binary(bytes) => bytes.into(),
        })
    }
}

/// Returns the next capacity. Doubling keeps the total copying linear; the result never exceeds `max`.
fn grown(capacity: usize, needed: usize, max: usize) -> usize {
    capacity.saturating_mul(2).min(max).max(needed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ws::failure::CloseCode;

    #[test]
    fn the_limit_is_exact_and_bounds_the_memory() {
        for opcode in [Opcode::Text, Opcode::Binary] {
            let mut assembly = Assembly::new(opcode, false);
            for _ in 0..100 {
                assembly.push(b"0123456789", 1005).expect("fits");
            }
            assembly.push(b"01234", 1005).expect("fits");
            let capacity = match &assembly.content {
                Content::Text(text) => text.capacity(),
                Content::Binary(bytes) => bytes.capacity(),
            };
            assert!(capacity <= 1005 + 3, "{capacity}");
            let failure = assembly.push(b"5", 1005).expect_err("is too much");
            assert_eq!(failure.code, CloseCode::TOO_BIG);
            assert_eq!(assembly.finish().expect("is whole").as_bytes().len(), 1005);
        }
    }
}
