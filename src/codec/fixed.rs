use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;
use crate::buf::ring::MAX_CAPACITY;
use crate::error::Error;

/// Frames that all have the same number of bytes.
///
/// An item of any other length is refused when it is sent. An incomplete frame at the end of the peer's stream is not
/// returned.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Fixed, encode_to_vec};
///
/// let mut triples = Fixed::new(3)?;
/// let mut input = *b"abcde";
/// assert_eq!(triples.decode(&mut input)?, Decoded::Frame { frame: &b"abc"[..], consumed: 3 });
/// assert_eq!(triples.decode(&mut input[3..])?, Decoded::NeedMore { at_least: 3 });
///
/// assert_eq!(encode_to_vec(&mut triples, "abc")?, b"abc");
/// assert!(encode_to_vec(&mut triples, "ab").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fixed {
    size: u32,
}

impl Fixed {
    /// Returns a codec for frames of `size` bytes.
    ///
    /// An unfinished frame is kept in memory, so this is also the memory that a peer can make a connection hold.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Option`] if `size` is 0 or more than 1 GiB.
    pub fn new(size: usize) -> Result<Self, Error> {
        if (1..=MAX_CAPACITY).contains(&size) {
            return Ok(Self { size: size as u32 });
        }
        Err(Error::Option {
            name: "size",
            problem: format!(
                "a frame cannot have {size} bytes; from 1 to {MAX_CAPACITY} are possible"
            ),
        })
    }
}

impl Codec for Fixed {
    type Frame<'a> = &'a [u8];
    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        let size = self.size as usize;
        Ok(match src.get(..size) {
            Some(frame) => Decoded::Frame {
                frame,
                consumed: size,
            },
            None => Decoded::NeedMore { at_least: size },
        })
    }
}

impl<T: AsRef<[u8]>> Encode<T> for Fixed {
    #[inline]
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let item = item.as_ref();
        if item.len() != self.size as usize {
            return Err(FrameError::Malformed {
                what: "an item to send does not have the length of the frames of this connection",
            });
        }
        dst.put(item);
        Ok(())
    }
}
