use memchr::memchr;

use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;
use crate::buf::ring::MAX_CAPACITY;

/// Lines that end in LF or CRLF. A frame is a line without its line ending, and may be empty.
///
/// When the peer ends its stream, the bytes after the last LF are one more line, unless there are none.
///
/// A line that is sent gets an LF, or with [`crlf`](Self::crlf) a CRLF. A line that the decoder would read back
/// differently is refused: one longer than the maximum, one that contains an LF, and one that ends in CR (unless a CRLF
/// follows it).
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Lines, encode_to_vec};
///
/// let mut lines = Lines::new();
/// let mut input = *b"GET\r\n\nrest";
/// assert_eq!(lines.decode(&mut input)?, Decoded::Frame { frame: &b"GET"[..], consumed: 5 });
/// assert_eq!(lines.decode(&mut input[5..])?, Decoded::Frame { frame: &b""[..], consumed: 1 });
/// assert_eq!(lines.decode(&mut input[6..])?, Decoded::NeedMore { at_least: 5 });
/// assert_eq!(lines.decode_eof(&mut input[6..])?, Decoded::Frame { frame: &b"rest"[..], consumed: 4 });
///
/// assert_eq!(encode_to_vec(&mut lines, "hello")?, b"hello\n");
/// assert_eq!(encode_to_vec(&mut Lines::new().crlf(), "hello")?, b"hello\r\n");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lines {
    max: u32,
    /// The number of bytes at the start of the input that are known to contain no LF.
    scanned: u32,
    crlf: bool,
}

impl Lines {
    /// The default maximum length of a line: 64 KiB, its line ending not counted.
    pub const DEFAULT_MAX: usize = 64 << 10;

    /// Returns a codec for lines of at most [`DEFAULT_MAX`](Self::DEFAULT_MAX) bytes, sent with an LF.
    pub fn new() -> Self {
        Self::with_max(Self::DEFAULT_MAX)
    }

    /// Returns a codec for lines of at most `bytes` bytes, LF or CRLF not counted. More than 1 GiB − 2 counts as 1 GiB
    /// − 2.
    ///
    /// An unfinished line is kept in memory, so this is also the memory that a peer can make a connection hold.
    pub fn with_max(bytes: usize) -> Self {
        Self {
            max: bytes.min(MAX_CAPACITY - 2) as u32,
            scanned: 0,
            crlf: false,
        }
    }

    /// Ends sent lines with CRLF in place of LF. Received lines may end in either.
    #[must_use]
    pub fn crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// Returns the first line's length, and the number of bytes that it takes up with its line ending.
    #[inline]
    fn find(&mut self, src: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
        let from = src.len().min(self.scanned as usize);
        let found = memchr(b'\n', &src[from..]).map(|at| from + at);
        // Without an LF, a CR at the very end may be the first half of a CRLF.
        let before = &src[..found.unwrap_or(src.len())];
        let len = before.len() - usize::from(before.last() == Some(&b'\r'));
        self.check(len)?;
        self.scanned = if found.is_some() { 0 } else { src.len() as u32 };
        Ok(found.map(|lf| (len, lf + 1)))
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), FrameError> {
        let max = self.max as usize;
        if len > max {
            let len = len as u64;
            return Err(FrameError::TooLong { len, max });
        }
        Ok(())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec for Lines {
    type Frame<'a> = &'a [u8];
    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Ok(match self.find(src)? {
            Some((len, consumed)) => Decoded::Frame {
                frame: &src[..len],
                consumed,
            },
            None => Decoded::NeedMore {
                at_least: src.len() + 1,
            },
        })
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        let (len, consumed) = match self.find(src)? {
            Some(line) => line,
            None if src.is_empty() => return Ok(Decoded::NeedMore { at_least: 1 }),
            None => {
                self.check(src.len())?;
                self.scanned = 0;
                (src.len(), src.len())
            }
        };
        Ok(Decoded::Frame {
            frame: &src[..len],
            consumed,
        })
    }
}

impl<T: AsRef<[u8]>> Encode<T> for Lines {
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let line = item.as_ref();
        self.check(line.len())?;
        if memchr(b'\n', line).is_some() {
            return Err(FrameError::Malformed {
                what: "a line to send contains an LF; send each line by itself, or all of them with `Conn::write`",
            });
        }
        if line.last() == Some(&b'\r') && !self.crlf {
            return Err(FrameError::Malformed {
                what: "a line to send ends in CR, which the peer would read as a part of the line ending",
            });
        }
        dst.put(line);
        dst.put(if self.crlf { b"\r\n" } else { b"\n" });
        Ok(())
    }
}
