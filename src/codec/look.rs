//! One decode step, guarded against faulty codecs.

use super::{Codec, Decoded, FrameError};

/// The number of frames in a row that may consume nothing. A codec that returns more is faulty.
const MAX_WITHOUT_PROGRESS: u32 = 1 << 20;

/// Asks the codec for the first frame in `input`. A result that would make the caller loop forever, or read beyond the
/// input, becomes an error.
#[inline(always)]
pub(crate) fn look<'a, C: Codec>(
    codec: &mut C,
    input: &'a mut [u8],
    last: bool,
    without_progress: &mut u32,
) -> Result<Decoded<C::Frame<'a>>, FrameError> {
    let len = input.len();
    // It is returned as it is. Frames may be large, and would be copied.
    let found = if last {
        codec.decode_eof(input)
    } else {
        codec.decode(input)
    };
    let what = match &found {
        Ok(Decoded::Frame { consumed, .. } | Decoded::Skip { consumed }) if *consumed > len => {
            "it has consumed more than there is"
        }
        Ok(Decoded::Skip { consumed: 0 }) => "it has skipped nothing",
        Ok(Decoded::Frame { consumed: 0, .. }) if *without_progress < MAX_WITHOUT_PROGRESS => {
            *without_progress += 1;
            return found;
        }
        Ok(Decoded::Frame { consumed: 0, .. }) => {
            "it returns frames without end from the same input"
        }
        Ok(_) => {
            *without_progress = 0;
            return found;
        }
        Err(_) => return found,
    };
    Err(FrameError::Codec { what })
}
