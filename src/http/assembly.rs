use super::chunked::{Chunked, Piece};
use super::error::MessageError;
use super::limits::Limits;

/// A chunked body that is arriving. Its data is moved together after the head.
#[derive(Debug)]
pub(super) struct Assembly {
    chunked: Chunked,
    /// The start of the data.
    begin: usize,
    /// The end of the data that has been moved together.
    pub(super) data: usize,
    /// The end of the input that has been read.
    pub(super) read: usize,
    /// The end of the trailers, once they are complete.
    pub(super) end: usize,
}

impl Assembly {
    /// Returns the state for a body that follows a head of `head` bytes.
    pub(super) fn behind(head: usize) -> Self {
        Self {
            chunked: Chunked::default(),
            begin: head,
            data: head,
            read: head,
            end: 0,
        }
    }

    /// Moves the data that has arrived to the end of the data before it. Returns the length of the input that is needed
    /// at least to continue, or `None` if the body is complete.
    pub(super) fn advance(
        &mut self,
        src: &mut [u8],
        limits: &Limits,
    ) -> Result<Option<usize>, MessageError> {
        loop {
            match self.chunked.next(&src[self.read..], limits)? {
                Piece::Framing(len) => {
                    self.read += len;
                    let body = (self.data - self.begin) as u64;
                    if self.chunked.left() > limits.body.saturating_sub(body) {
                        return Err(MessageError::BodyTooLong { max: limits.body });
                    }
                }
                Piece::Data(len) => {
                    src.copy_within(self.read..self.read + len, self.data);
                    self.data += len;
                    self.read += len;
                }
                Piece::End(len) => {
                    self.end = self.read + len;
                    return Ok(None);
                }
                Piece::NeedMore(len) => {
                    // The end of a chunk arrives with the rest of it.
                    let rest = self.chunked.left().saturating_add(2);
                    let rest = usize::try_from(rest).unwrap_or(usize::MAX);
                    return Ok(Some(self.read.saturating_add(len.max(rest))));
                }
            }
        }
    }
}
