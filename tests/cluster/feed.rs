//! Feeds a codec its input in pieces.

use epicycle::codec::{Codec, Decoded, FrameError};

/// The frames as text, and the error that ended them.
pub(crate) type Outcome = (Vec<String>, Option<String>);

/// Decodes the input whole, cut in two at every place, and byte by byte: all must come to the same.
pub(crate) fn every_split<C>(codec: &C, input: &[u8]) -> Outcome
where
    C: Codec + Clone,
    for<'a> C::Frame<'a>: std::fmt::Debug,
{
    let whole = feed(codec.clone(), &[input], true);
    for at in 0..=input.len() {
        let (first, second) = input.split_at(at);
        assert_eq!(feed(codec.clone(), &[first, second], true), whole, "{at}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(feed(codec.clone(), &bytes, true), whole, "byte by byte");
    let early = feed(codec.clone(), &bytes, false);
    assert_eq!(early, whole, "byte by byte, asked too early");
    whole
}

/// Does what a connection does with its input. With `heed` it calls the codec only when it has what it asked for.
fn feed<C>(mut codec: C, pieces: &[&[u8]], heed: bool) -> Outcome
where
    C: Codec,
    for<'a> C::Frame<'a>: std::fmt::Debug,
{
    let (mut kept, mut need, mut frames) = (Vec::new(), 1, Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        while !kept.is_empty() && (kept.len() >= need || !heed) {
            let len = kept.len();
            let consumed = match codec.decode(&mut kept) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    frames.push(format!("{frame:?}"));
                    assert!((1..=len).contains(&consumed), "{consumed} of {len}");
                    consumed
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least > len, "asked for {at_least}, has {len}");
                    need = at_least;
                    break;
                }
                Ok(_) => panic!("this codec only translates"),
                Err(error) => return (frames, Some(kind(&error).to_owned())),
            };
            kept.drain(..consumed);
            need = 1;
        }
    }
    (frames, None)
}

pub(crate) fn kind(error: &FrameError) -> &'static str {
    match error {
        FrameError::TooLong { len, max } => {
            assert!(*len > *max as u64, "{error}");
            "too long"
        }
        FrameError::Malformed { .. } => "malformed",
        _ => "other",
    }
}
