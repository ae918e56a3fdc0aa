//! Bodies that are handed out in parts as they arrive, for the codecs of both sides.

use super::chunked::{Chunked, Piece};
use super::error::MessageError;
use super::head::Framing;
use super::limits::Limits;

/// The way in which the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// There is no body.
    None,
    Length(u64),
    Chunked,
    /// The body ends with the stream. Only responses have such bodies.
    Eof,
}

impl From<Framing> for Extent {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None => Extent::None,
            Framing::Length(len) => Extent::Length(len),
            Framing::Chunked => Extent::Chunked,
        }
    }
}

/// Finds the parts of one body after another.
#[derive(Debug, Default)]
pub(super) struct PartReader {
    next: Next,
    /// The number of bytes of the body that have arrived.
    received: u64,
}

/// The kind of input that is expected next.
#[derive(Debug, Default)]
enum Next {
    #[default]
    Head,
    /// This many bytes of a body.
    Length(u64),
    Chunks(Chunked),
    /// Bytes up to the end of the stream.
    UntilEof,
    /// The end. It consumes this many bytes, which the part before it has returned without consuming them.
    End(usize),
}

/// The next part of a body. `consumed` is the number of input bytes that it takes up.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// At least one byte of data.
    Data { bytes: &'a [u8], consumed: usize },
    /// The end, with the trailer lines.
    End { trailers: &'a [u8], consumed: usize },
    /// Framing without data.
    Skip { consumed: usize },
    /// The input must have at least this many bytes.
    NeedMore(usize),
}

impl PartReader {
    /// Returns true if a head has been read whose body has not ended.
    pub(super) fn is_within_body(&self) -> bool {
        !matches!(self.next, Next::Head)
    }

    /// Begins the body that follows a head of `head` bytes. Returns the number of bytes that the head consumes: 0 if
    /// the end of the message must be returned from the same input.
    pub(super) fn begin(
        &mut self,
        extent: Extent,
        head: usize,
        limits: &Limits,
    ) -> Result<usize, MessageError> {
        self.received = 0;
        self.next = match extent {
            Extent::Length(len) if len > limits.body => return Err(too_long(limits)),
            Extent::Length(len) if len > 0 => Next::Length(len),
            Extent::Chunked => Next::Chunks(Chunked::default()),
            Extent::Eof => Next::UntilEof,
            Extent::Length(_) | Extent::None => {
                self.next = Next::End(head);
                return Ok(0);
            }
        };
        Ok(head)
    }

    /// Returns the part at the start of `src`. With `last`, the stream ends after `src`. Must only be called
    /// [within a body](Self::is_within_body).
    pub(super) fn next<'a>(
        &mut self,
        src: &'a [u8],
        last: bool,
        limits: &Limits,
    ) -> Result<Found<'a>, MessageError> {
        match &mut self.next {
            Next::Head => Ok(Found::NeedMore(src.len() + 1)),
            Next::End(consumed) => {
                let consumed = *consumed;
                Ok(self.end(&[], consumed))
            }
            Next::UntilEof if last && src.is_empty() => Ok(self.end(&[], 0)),
            Next::Length(_) | Next::UntilEof if src.is_empty() => Ok(Found::NeedMore(1)),
            Next::Length(left) => {
                let left = *left;
                Ok(self.sized(src, left))
            }
            Next::UntilEof => self.until_eof(src, last, limits),
            Next::Chunks(_) => self.chunked(src, limits),
        }
    }

    fn sized<'a>(&mut self, src: &'a [u8], left: u64) -> Found<'a> {
        let len = left.min(src.len() as u64) as usize;
        let left = left - len as u64;
        let consumed = if left > 0 {
            self.next = Next::Length(left);
            len
        } else {
            self.next = Next::End(len);
            0
        };
        let bytes = &src[..len];
        Found::Data { bytes, consumed }
    }

    fn until_eof<'a>(
        &mut self,
        src: &'a [u8],
        last: bool,
        limits: &Limits,
    ) -> Result<Found<'a>, MessageError> {
        // The parts up to the limit do not depend on the division of the input.
        let allowed = limits.body - self.received;
        if allowed == 0 {
            return Err(too_long(limits));
        }
        let len = allowed.min(src.len() as u64) as usize;
        self.received += len as u64;
        let consumed = if last && len == src.len() {
            self.next = Next::End(len);
            0
        } else {
            len
        };
        let bytes = &src[..len];
        Ok(Found::Data { bytes, consumed })
    }

    fn chunked<'a>(&mut self, src: &'a [u8], limits: &Limits) -> Result<Found<'a>, MessageError> {
        let mut at = 0;
        while let Next::Chunks(chunked) = &mut self.next {
            let rest = &src[at..];
            match chunked.next(rest, limits)? {
                Piece::Framing(len) => {
                    at += len;
                    if chunked.left() > limits.body.saturating_sub(self.received) {
                        return Err(too_long(limits));
                    }
                }
                Piece::Data(len) => {
                    self.received += len as u64;
                    let (bytes, consumed) = (&rest[..len], at + len);
                    return Ok(Found::Data { bytes, consumed });
                }
                Piece::End(len) => return Ok(self.end(&rest[..len - 2], at + len)),
                Piece::NeedMore(_) if at > 0 => break,
                Piece::NeedMore(at_least) => return Ok(Found::NeedMore(at_least)),
            }
        }
        Ok(Found::Skip { consumed: at })
    }

    fn end<'a>(&mut self, trailers: &'a [u8], consumed: usize) -> Found<'a> {
        self.next = Next::Head;
        Found::End { trailers, consumed }
    }
}

#[cold]
fn too_long(limits: &Limits) -> MessageError {
    MessageError::BodyTooLong { max: limits.body }
}
