//! The place of KCP in the protocols of gates and clients, without the feature.

use std::convert::Infallible;

use crate::codec::{Codec, Decoded, FrameError};

/// No connection has it.
pub(super) enum KcpCodec {}

impl Codec for KcpCodec {
    type Frame<'a> = Infallible;

    fn decode(&mut self, _src: &mut [u8]) -> Result<Decoded<Infallible>, FrameError> {
        match *self {}
    }
}
