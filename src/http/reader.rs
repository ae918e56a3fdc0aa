use memchr::memchr_iter;

use super::error::{MessageError, malformed};
use super::head::{self, Head};
use super::limits::Limits;

/// Finds the head of the next request.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadReader {
    pub(super) limits: Limits,
    /// The number of bytes at the start of the input that are known to contain no complete head.
    scanned: u32,
    /// The number of empty lines that arrived in place of the head.
    empty_lines: u8,
}

/// The maximum number of empty lines before a request.
const MAX_EMPTY_LINES: u8 = 10;

/// The result of a search for a head.
pub(super) enum Start {
    Head(Head),
    /// This many bytes are to be ignored.
    Ignored(usize),
    /// The input must have at least this many bytes.
    NeedMore(usize),
}

impl HeadReader {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    #[inline]
    pub(super) fn read(&mut self, src: &[u8]) -> Result<Start, MessageError> {
        if let [b'\r', rest @ ..] = src {
            return self.skip_empty_line(rest);
        }
        if self.scanned > 0 && src.len() <= self.limits.head as usize && !self.finds_empty_line(src)
        {
            return Ok(Start::NeedMore(src.len() + 1));
        }
        match head::parse(src, &self.limits)? {
            Some(head) => {
                (self.scanned, self.empty_lines) = (0, 0);
                Ok(Start::Head(head))
            }
            None => {
                self.scanned = src.len() as u32;
                Ok(Start::NeedMore(src.len() + 1))
            }
        }
    }

    /// Skips an empty line before a request (RFC 9112, section 2.2). Only a few are accepted.
    #[cold]
    fn skip_empty_line(&mut self, behind_cr: &[u8]) -> Result<Start, MessageError> {
        match behind_cr {
            [] => Ok(Start::NeedMore(2)),
            [b'\n', ..] if self.empty_lines == MAX_EMPTY_LINES => {
                malformed("too many empty lines before a request")
            }
            [b'\n', ..] => {
                self.empty_lines += 1;
                Ok(Start::Ignored(2))
            }
            _ => malformed("a CR that is not followed by an LF"),
        }
    }

    /// Returns true if a head has begun and is incomplete.
    pub(super) fn is_within_head(&self) -> bool {
        self.scanned > 0
    }

    /// Returns true if the new input contains the end of the head. Parsing an incomplete head again with each byte of a
    /// slow client would take quadratic time.
    #[cold]
    fn finds_empty_line(&mut self, src: &[u8]) -> bool {
        let known = std::mem::replace(&mut self.scanned, src.len() as u32);
        ends_in(src, known as usize)
    }
}

/// Returns true if `src` contains an empty line, which ends a head or trailers. The first `known` bytes contain none.
pub(super) fn ends_in(src: &[u8], known: usize) -> bool {
    let fresh = &src[known.saturating_sub(2)..];
    memchr_iter(b'\n', fresh).any(|at| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}
