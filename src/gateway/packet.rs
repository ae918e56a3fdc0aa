//! The codec of UDP sessions whose datagrams are passed on.

use crate::codec::{Codec, Decoded, FrameError, Stage};

/// The codec of sessions whose datagrams are passed on: each is a frame, also an empty one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet;

impl Codec for Packet {
    type Frame<'a> = &'a [u8];
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Ok(Decoded::Frame {
            consumed: src.len(),
            frame: src,
        })
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        self.decode(src)
    }

    fn stage(&self) -> Stage {
        // So that it is asked about an empty datagram.
        Stage::AwaitingRest
    }
}
