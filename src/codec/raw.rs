use super::{Codec, Decoded, Encode, FrameError};
use crate::buf::outbox::Outbox;

/// No framing: a frame is the input that has arrived, at least one byte.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, Raw};
///
/// let mut input = *b"anything";
/// assert_eq!(
///     Raw.decode(&mut input)?,
///     Decoded::Frame { frame: &b"anything"[..], consumed: 8 },
/// );
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Frame<'a> = &'a [u8];
    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Ok(Decoded::Frame {
            consumed: src.len(),
            frame: src,
        })
    }
}

impl<T: AsRef<[u8]>> Encode<T> for Raw {
    #[inline]
    fn encode(&mut self, item: T, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        dst.put(item.as_ref());
        Ok(())
    }
}
