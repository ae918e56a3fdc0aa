use super::chunked::{Chunked, Piece};
use super::error::MessageError;
use super::limits::Limits;

/// A chunked body on its way: its data is moved together behind the head.
#[derive(Debug)]
pub(super) struct Assembly {
    chunked: Chunked,
    /// Where the data begins.
    begin: usize,
    /// Where the data ends that has been put together.
    pub(super) data: usize,
    /// How far the input has been read.
    pub(super) read: usize,
    /// Where the trailers end, once all is there.
    pub(super) end: usize,
}

impl Assembly {
    /// A body that follows a head of so many bytes.
    pub(super) fn behind(head: usize) -> Self {
        Self {
            chunked: Chunked::default(),
            begin: head,
            data: head,
            read: head,
            end: 0,
        }
    }

    /// Puts what has come behind what is there; returns how long the input must be at the least to go on, or that it is
    /// complete.
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
                    // With the rest of a chunk its end comes as well.
                    let rest = self.chunked.left().saturating_add(2);
                    let rest = usize::try_from(rest).unwrap_or(usize::MAX);
                    return Ok(Some(self.read.saturating_add(len.max(rest))));
                }
            }
        }
    }
}
