use memchr::memchr_iter;

use super::error::{MessageError, malformed};
use super::head::{self, Head};
use super::limits::Limits;

/// Finds the head of the next request.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadReader {
    pub(super) limits: Limits,
    /// How many bytes at the start of the input are known to hold no complete head.
    scanned: u32,
    /// How many empty lines have come in place of the head.
    empty_lines: u8,
}

/// The most empty lines before a request.
const MOST_EMPTY_LINES: u8 = 10;

/// What the input begins with.
pub(super) enum Start {
    Head(Head),
    /// So many bytes that are to be ignored.
    Nothing(usize),
    /// It cannot be told with fewer bytes than this.
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

    /// An empty line before a request is ignored (RFC 9112, section 2.2). There may be a few, but not without end.
    #[cold]
    fn skip_empty_line(&mut self, behind_cr: &[u8]) -> Result<Start, MessageError> {
        match behind_cr {
            [] => Ok(Start::NeedMore(2)),
            [b'\n', ..] if self.empty_lines == MOST_EMPTY_LINES => {
                malformed("too many empty lines before a request")
            }
            [b'\n', ..] => {
                self.empty_lines += 1;
                Ok(Start::Nothing(2))
            }
            _ => malformed("a CR without an LF"),
        }
    }

    /// Whether the beginning of a head is there, and not all of it.
    pub(super) fn is_within_head(&self) -> bool {
        self.scanned > 0
    }

    /// Whether a head that was incomplete ends in what has come since. Parsing it anew with each byte of a slow
    /// client's would take time that grows with the square of its length.
    #[cold]
    fn finds_empty_line(&mut self, src: &[u8]) -> bool {
        let known = std::mem::replace(&mut self.scanned, src.len() as u32);
        ends_in(src, known as usize)
    }
}

/// Whether `src` has an empty line, which ends a head or trailers. There is none within the first `known` bytes.
pub(super) fn ends_in(src: &[u8], known: usize) -> bool {
    let fresh = &src[known.saturating_sub(2)..];
    memchr_iter(b'\n', fresh).any(|at| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}
