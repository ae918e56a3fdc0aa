//! Feeds a codec its input in pieces.

use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};

/// The peer ends its stream behind the input.
pub(crate) const END: bool = true;
/// The peer may send more.
pub(crate) const OPEN: bool = false;

/// The frames, or those before an error and what kind it was.
pub(crate) type Outcome = Result<Vec<Vec<u8>>, (Vec<Vec<u8>>, &'static str)>;

/// A codec whose frames are slices of its input.
pub(crate) trait Bytewise: Clone + for<'a> Codec<Frame<'a> = &'a [u8]> {}
impl<C: Clone + for<'a> Codec<Frame<'a> = &'a [u8]>> Bytewise for C {}

/// Decodes `input` whole, cut in two at every place, and byte by byte: all must come to the same.
pub(crate) fn every_split<C: Bytewise>(codec: &C, input: &[u8], end: bool) -> Outcome {
    let whole = feed(codec.clone(), &[input], end, HEED);
    for at in 0..=input.len() {
        let (first, second) = input.split_at(at);
        assert_eq!(
            feed(codec.clone(), &[first, second], end, HEED),
            whole,
            "cut at {at}"
        );
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(
        feed(codec.clone(), &bytes, end, HEED),
        whole,
        "byte by byte"
    );
    assert_eq!(
        feed(codec.clone(), &bytes, end, IGNORE),
        whole,
        "byte by byte, also too early"
    );
    whole
}

/// Call a codec only when it has what it asked for, as the engine does.
const HEED: bool = true;
/// Call it for every byte, which it must bear.
const IGNORE: bool = false;

/// Does what a connection does with its input: keeps what is not consumed, and decodes until more is needed.
fn feed<C: Bytewise>(mut codec: C, chunks: &[&[u8]], end: bool, heed: bool) -> Outcome {
    let (mut kept, mut need, mut frames) = (Vec::new(), 1, Vec::new());
    for chunk in chunks {
        kept.extend_from_slice(chunk);
        while !kept.is_empty() && (kept.len() >= need || !heed) {
            match take(&mut kept, &mut frames, |src| codec.decode(src)) {
                Ok(None) => need = 1,
                Ok(Some(at_least)) => {
                    need = at_least;
                    break;
                }
                Err(error) => return Err((frames, error)),
            }
        }
    }
    while end && !kept.is_empty() {
        match take(&mut kept, &mut frames, |src| codec.decode_eof(src)) {
            Ok(None) => {}
            Ok(Some(_)) => break,
            Err(error) => return Err((frames, error)),
        }
    }
    Ok(frames)
}

/// Moves one frame out of `kept`, or says how much must be there before there can be one.
fn take(
    kept: &mut Vec<u8>,
    frames: &mut Vec<Vec<u8>>,
    decode: impl FnOnce(&mut [u8]) -> Result<Decoded<&[u8]>, FrameError>,
) -> Result<Option<usize>, &'static str> {
    let len = kept.len();
    let consumed = match decode(kept).map_err(|error| kind(&error))? {
        Decoded::NeedMore { at_least } => {
            assert!(
                at_least > len,
                "asked for {at_least} bytes, of which there are {len}"
            );
            return Ok(Some(at_least));
        }
        Decoded::Frame { frame, consumed } => {
            assert!(
                (1..=len).contains(&consumed),
                "consumed {consumed} of {len} bytes"
            );
            frames.push(frame.to_vec());
            consumed
        }
        Decoded::Skip { .. } | Decoded::Hold => unreachable!("these codecs only translate"),
    };
    kept.drain(..consumed);
    Ok(None)
}

pub(crate) fn encoded<T, C: Clone + Encode<T>>(
    codec: &C,
    item: T,
) -> Result<Vec<u8>, &'static str> {
    encode_to_vec(&mut codec.clone(), item).map_err(|error| kind(&error))
}

fn kind(error: &FrameError) -> &'static str {
    match error {
        FrameError::TooLong { len, max } => {
            assert!(*len > *max as u64, "{error}");
            "too long"
        }
        FrameError::Malformed { .. } => "malformed",
        _ => "other",
    }
}

pub(crate) fn at_least(found: Decoded<&[u8]>) -> Option<usize> {
    match found {
        Decoded::NeedMore { at_least } => Some(at_least),
        _ => None,
    }
}

pub(crate) fn owned(frames: &[&str]) -> Vec<Vec<u8>> {
    frames
        .iter()
        .map(|frame| frame.as_bytes().to_vec())
        .collect()
}
