//! The codec of WebSocket connections whose frames are seen. Without the feature `ws` there is none.

#[cfg(feature = "ws")]
pub(super) use crate::ws::{RelayCodec, Relayed};

#[cfg(not(feature = "ws"))]
pub(super) use self::without::{RelayCodec, Relayed};

#[cfg(not(feature = "ws"))]
mod without {
    use std::marker::PhantomData;

    use crate::buf::outbox::Outbox;
    use crate::codec::{Codec, Decoded, Encode, FrameError};

    /// A codec that no connection has.
    #[derive(Debug)]
    pub enum RelayCodec {}

    /// A part that nobody sends.
    #[derive(Clone, Copy, Debug)]
    pub struct Relayed<'a>(PhantomData<&'a ()>);

    impl Relayed<'_> {
        pub fn len(&self) -> usize {
            0
        }
    }

    impl Codec for RelayCodec {
        type Frame<'a> = Relayed<'a>;

        fn decode<'a>(&mut self, _: &'a mut [u8]) -> Result<Decoded<Relayed<'a>>, FrameError> {
            match *self {}
        }
    }

    impl Encode<Relayed<'_>> for RelayCodec {
        fn encode(&mut self, _: Relayed<'_>, _: &mut Outbox<'_>) -> Result<(), FrameError> {
            match *self {}
        }
    }
}

/// Returns the codecs for the side of the client and for that of the node.
#[cfg(feature = "ws")]
pub(super) fn codecs() -> Option<(RelayCodec, RelayCodec)> {
    Some((RelayCodec::for_client(), RelayCodec::for_server()))
}

/// The settings are refused that would need some.
#[cfg(not(feature = "ws"))]
pub(super) fn codecs() -> Option<(RelayCodec, RelayCodec)> {
    None
}
