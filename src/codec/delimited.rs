use std::sync::Arc;

use memchr::memmem::Finder;

use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;
use crate::buf::ring::MAX_CAPACITY;
use crate::error::Error;

/// Frames that end in a delimiter of one or more bytes. A frame is returned without its delimiter, and may be empty.
///
/// When the peer ends its stream, the bytes after the last delimiter are not a frame.
///
/// The codec appends the delimiter to each item that is sent. An item that the decoder would read back differently is
/// refused: one longer than the maximum, one that contains the delimiter, and one whose end forms a delimiter with the
/// start of the appended one, as `a-` does before `--`.
///
/// The search is prepared once and shared by clones. Make one value, and clone it for each connection.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Delimited, encode_to_vec};
///
/// let mut blocks = Delimited::new("\r\n\r\n")?;
/// let mut input = *b"a: 1\r\nb: 2\r\n\r\nc:";
/// assert_eq!(blocks.decode(&mut input)?, Decoded::Frame { frame: &b"a: 1\r\nb: 2"[..], consumed: 14 });
/// assert_eq!(blocks.decode(&mut input[14..])?, Decoded::NeedMore { at_least: 3 });
///
/// assert_eq!(encode_to_vec(&mut blocks, "c: 3")?, b"c: 3\r\n\r\n");
/// assert!(encode_to_vec(&mut blocks, "c: 3\r\n").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    delimiter: Arc<Delimiter>,
    max: u32,
    /// The number of bytes at the start of the input that are known to contain no complete delimiter.
    scanned: u32,
}

impl Delimited {
    /// The default maximum length of a frame: 64 KiB, its delimiter not counted.
    pub const DEFAULT_MAX: usize = 64 << 10;

    /// Returns a codec for frames of at most [`DEFAULT_MAX`](Self::DEFAULT_MAX) bytes that end in `delimiter`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Option`] if `delimiter` is empty.
    pub fn new(delimiter: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::with_max(delimiter, Self::DEFAULT_MAX)
    }

    /// Returns a codec for frames of at most `bytes` bytes, not counting the `delimiter` that ends them.
    ///
    /// An unfinished frame is kept in memory, so this is also the memory that a peer can make a connection hold.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Option`] if `delimiter` is empty, or longer than 1 GiB together with `bytes`.
    pub fn with_max(delimiter: impl AsRef<[u8]>, bytes: usize) -> Result<Self, Error> {
        let delimiter = delimiter.as_ref();
        if delimiter.is_empty() {
            return Err(Error::Option {
                name: "delimiter",
                problem: "it is empty; give at least one byte".into(),
            });
        }
        if bytes.saturating_add(delimiter.len()) > MAX_CAPACITY {
            return Err(Error::Option {
                name: "max",
                problem: format!(
                    "{bytes} bytes and a delimiter of {} cannot be buffered; at most {MAX_CAPACITY} can",
                    delimiter.len(),
                ),
            });
        }
        Ok(Self {
            delimiter: Arc::new(Delimiter::new(delimiter)),
            max: bytes as u32,
            scanned: 0,
        })
    }

    #[cold]
    fn too_long(&self, len: usize) -> FrameError {
        FrameError::TooLong {
            len: len as u64,
            max: self.max as usize,
        }
    }
}

impl Codec for Delimited {
    type Frame<'a> = &'a [u8];
    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        let (delimiter, max) = (self.delimiter.bytes().len(), self.max as usize);
        // The bytes scanned before may end in a part of a delimiter.
        let from = src
            .len()
            .min(self.scanned as usize)
            .saturating_sub(delimiter - 1);
        if let Some(at) = self.delimiter.finder.find(&src[from..]) {
            let end = from + at;
            if end > max {
                return Err(self.too_long(end));
            }
            self.scanned = 0;
            return Ok(Decoded::Frame {
                frame: &src[..end],
                consumed: end + delimiter,
            });
        }
        // In this many bytes the delimiter of even the longest frame would have been found.
        if src.len() >= max + delimiter {
            return Err(self.too_long(src.len() - (delimiter - 1)));
        }
        self.scanned = src.len() as u32;
        Ok(Decoded::NeedMore {
            at_least: src.len() + 1,
        })
    }
}

impl<T: AsRef<[u8]>> Encode<T> for Delimited {
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let item = item.as_ref();
        if item.len() > self.max as usize {
            return Err(self.too_long(item.len()));
        }
        if self.delimiter.finder.find(item).is_some() {
            return Err(FrameError::Malformed {
                what: "an item to send contains the delimiter",
            });
        }
        if self.delimiter.begins_in(item) {
            return Err(FrameError::Malformed {
                what: "an item to send forms a delimiter too early, with the start of the one that is appended",
            });
        }
        dst.put(item);
        dst.put(self.delimiter.bytes());
        Ok(())
    }
}

/// A delimiter, with the search tables computed once for it.
#[derive(Debug)]
struct Delimiter {
    finder: Finder<'static>,
    /// The distances at which two delimiters can overlap. Most delimiters have none.
    overlaps: Box<[usize]>,
}

impl Delimiter {
    fn new(bytes: &[u8]) -> Self {
        let overlaps = (1..bytes.len()).filter(|&shift| bytes.starts_with(&bytes[shift..]));
        Self {
            overlaps: overlaps.collect(),
            finder: Finder::new(bytes).into_owned(),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.finder.needle()
    }

    /// Returns true if a delimiter appended to `item` would form an earlier one that starts in `item`.
    fn begins_in(&self, item: &[u8]) -> bool {
        let mut overlaps = self.overlaps.iter();
        overlaps.any(|&shift| item.ends_with(&self.bytes()[..shift]))
    }
}
