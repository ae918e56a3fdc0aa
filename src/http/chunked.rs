//! Chunked bodies (RFC 9112, section 7.1).

use memchr::memchr;

use super::error::{MessageError, malformed};
use super::head::{line_end, position};
use super::limits::{Limits, MAX_HEADERS};
use super::reader::ends_in;

/// Finds the data in a chunked body as its bytes arrive.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// The number of bytes of the current chunk that have not arrived.
    left: u64,
    /// The number of bytes of chunk extensions and leading zeros so far. They are ignored, up to a limit.
    ignored: u32,
    /// The number of bytes of trailers that are known to contain no empty line.
    scanned: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailers,
}

/// The next element of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// This many bytes of framing.
    Framing(usize),
    /// This many bytes of data.
    Data(usize),
    /// The end: this many bytes of trailers, including the empty line after them.
    End(usize),
    /// The input must have at least this many bytes.
    NeedMore(usize),
}

/// The maximum length of a chunk-size line, extensions included.
const MAX_LINE: usize = 1 << 10;

impl Chunked {
    /// Returns the element at the start of `src`. `src` must follow everything returned before.
    pub(super) fn next(&mut self, src: &[u8], limits: &Limits) -> Result<Piece, MessageError> {
        match self.state {
            State::Size => self.size(src, limits),
            State::Data if src.is_empty() => Ok(Piece::NeedMore(1)),
            State::Data => {
                let len = self.left.min(src.len() as u64);
                self.left -= len;
                if self.left == 0 {
                    self.state = State::DataEnd;
                }
                Ok(Piece::Data(len as usize))
            }
            State::DataEnd => match src {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Piece::Framing(2))
                }
                [] | [b'\r'] => Ok(Piece::NeedMore(2)),
                _ => malformed("a chunk that is longer than its announced size"),
            },
            State::Trailers => self.trailers(src, limits),
        }
    }

    /// Returns the number of bytes of the current chunk that have not arrived.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    fn size(&mut self, src: &[u8], limits: &Limits) -> Result<Piece, MessageError> {
        let Some(end) = memchr(b'\n', &src[..src.len().min(MAX_LINE)]) else {
            if src.len() >= MAX_LINE {
                return malformed("a chunk whose extensions are too long");
            }
            return Ok(Piece::NeedMore(src.len() + 1));
        };
        let Some(line) = src[..end].strip_suffix(b"\r") else {
            return malformed("a chunk size that does not end in CR LF");
        };
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (size, rest) = line.split_at(digits);
        check_extensions(rest)?;
        let zeros = size.iter().take_while(|digit| **digit == b'0').count();
        self.count_ignored(rest.len() + zeros, limits)?;
        self.left = parse_size(size)?;
        self.state = if self.left > 0 {
            State::Data
        } else {
            State::Trailers
        };
        Ok(Piece::Framing(end + 1))
    }

    /// Reads the trailer section. Like a head, one that arrives slowly is parsed only when its end has arrived.
    fn trailers(&mut self, src: &[u8], limits: &Limits) -> Result<Piece, MessageError> {
        match src {
            [b'\r', b'\n', ..] => return Ok(Piece::End(2)),
            [] | [b'\r'] => return Ok(Piece::NeedMore(src.len() + 1)),
            _ => {}
        }
        let known = self.scanned as usize;
        if known > 0 && src.len() <= limits.head as usize && !ends_in(src, known) {
            self.scanned = src.len() as u32;
            return Ok(Piece::NeedMore(src.len() + 1));
        }
        let parsed = trailers(src, limits)?;
        if let Piece::NeedMore(_) = parsed {
            self.scanned = src.len() as u32;
        }
        Ok(parsed)
    }

    fn count_ignored(&mut self, len: usize, limits: &Limits) -> Result<(), MessageError> {
        self.ignored = self.ignored.saturating_add(len as u32);
        if self.ignored > limits.head {
            return Err(MessageError::HeadTooLong {
                max: limits.head as usize,
            });
        }
        Ok(())
    }
}

/// Checks the rest of a chunk-size line: it is empty, or has extensions, which are ignored.
fn check_extensions(rest: &[u8]) -> Result<(), MessageError> {
    if rest.is_empty() {
        return Ok(());
    }
    if rest.trim_ascii_start().first() != Some(&b';') {
        return malformed("a chunk size that is not a number");
    }
    if rest
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return malformed("a chunk extension with a control character in it");
    }
    Ok(())
}

fn parse_size(digits: &[u8]) -> Result<u64, MessageError> {
    // A longer number does not fit into 64 bits.
    if digits.is_empty() || digits.len() > 16 {
        return malformed("a chunk size that is not a number, or too large");
    }
    Ok(digits.iter().fold(0, |size, digit| {
        size << 4 | u64::from((*digit as char).to_digit(16).unwrap_or_default())
    }))
}

/// Parses trailers, by the same rules as headers.
fn trailers(src: &[u8], limits: &Limits) -> Result<Piece, MessageError> {
    let max = limits.head as usize;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(src, &mut headers[..usize::from(limits.headers)]) {
        Ok(httparse::Status::Complete((len, headers))) if len <= max => {
            let mut end = 0;
            for header in headers {
                if position(src, header.name.as_bytes()) != end {
                    return malformed("a trailer that does not end in CR LF");
                }
                end = line_end(src, position(src, header.value) + header.value.len());
            }
            if end + 2 != len {
                return malformed("a trailer that does not end in CR LF");
            }
            Ok(Piece::End(len))
        }
        Ok(httparse::Status::Partial) if src.len() <= max => Ok(Piece::NeedMore(src.len() + 1)),
        Ok(_) => Err(MessageError::HeadTooLong { max }),
        Err(httparse::Error::TooManyHeaders) => Err(MessageError::TooManyHeaders {
            max: limits.headers.into(),
        }),
        Err(_) => malformed("a malformed trailer"),
    }
}
