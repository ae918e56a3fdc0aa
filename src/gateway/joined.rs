//! The codec of connections that are joined with others.

use crate::codec::{Codec, Decoded, FrameError, Stage};

/// The codec of a connection that is joined with another one, or will be. What arrives before that waits.
///
/// There is always more to come, so a shutdown waits for the end of such a connection, until its deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Joined;

impl Codec for Joined {
    type Frame<'a> = ();
    const CONVERSES: bool = true;

    fn decode(&mut self, src: &mut [u8]) -> Result<Decoded<()>, FrameError> {
        Ok(Decoded::NeedMore {
            at_least: src.len() + 1,
        })
    }

    fn stage(&self) -> Stage {
        Stage::Awaiting
    }
}
