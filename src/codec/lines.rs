use memchr::memchr;

use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;
use crate::buf::ring::MAX_CAPACITY;

/// Lines that end in LF or CRLF. A frame is a line without its end, and may be empty.
///
/// When the peer ends its stream, what stands behind the last LF is one more line, unless it is empty.
///
/// What is sent gets an LF, or with [`crlf`](Self::crlf) a CRLF. A line that the decoder would read back
/// as something else is refused: one longer than the maximum, one that contains an LF, and, unless a CRLF
/// follows it, one that ends in CR.
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
    /// How many bytes at the start of the input are known to hold no LF.
    scanned: u32,
    crlf: bool,
}

impl Lines {
    /// The longest line unless [`with_max`](Self::with_max) says otherwise: 64 KiB, its end not counted.
    pub const DEFAULT_MAX: usize = 64 << 10;

    /// Lines of at most [`DEFAULT_MAX`](Self::DEFAULT_MAX) bytes, sent with an LF.
    pub fn new() -> Self {
        Self::with_max(Self::DEFAULT_MAX)
    }

    /// Lines of at most `bytes` bytes, LF or CRLF not counted; more than 1 GiB − 2 counts as 1 GiB − 2.
    ///
    /// An unfinished line is kept in memory, so this is also what a peer can make a connection hold.
    pub fn with_max(bytes: usize) -> Self {
        Self {
            max: bytes.min(MAX_CAPACITY - 2) as u32,
            scanned: 0,
            crlf: false,
        }
    }

    /// Ends what is sent with CRLF in place of LF. What is received may always end in either.
    #[must_use]
    pub fn crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// Finds the first line's length and how many bytes it takes up, its end included.
    #[inline]
    fn find(&mut self, src: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
        let from = src.len().min(self.scanned as usize);
        let found = memchr(b'\n', &src[from..]).map(|at| from + at);
        // Without an LF, a CR at the very end may turn out to be half of the line's end.
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
                what: "a line to send contains an LF",
            });
        }
        if line.last() == Some(&b'\r') && !self.crlf {
            return Err(FrameError::Malformed {
                what: "a line to send ends in CR, which with the LF behind it would be its end",
            });
        }
        dst.put(line);
        dst.put(if self.crlf { b"\r\n" } else { b"\n" });
        Ok(())
    }
}
