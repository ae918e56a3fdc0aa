//! A protocol as the codec of a connection, without a peer.

use std::sync::Arc;

use epicycle::Outbox;
use epicycle::codec::{Codec, Decoded, Encode, FrameError, encode_to_vec};
use epicycle::rpc::wire::{Dialect, Filters, Limits, Message, Protocol, RawProtocol};

/// All that a handler of one's own needs to speak it.
struct Wire<P> {
    protocol: P,
    limits: Arc<Limits>,
    filters: Arc<Filters>,
}

impl<P: Protocol + 'static> Codec for Wire<P> {
    type Frame<'a> = Message<'a>;
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Message<'a>>, FrameError> {
        let decoded = self.protocol.decode(src, &self.limits, &self.filters);
        decoded.map_err(FrameError::from)
    }
}

impl<P: Protocol + 'static> Encode<&Message<'_>> for Wire<P> {
    fn encode(&mut self, message: &Message<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let encoded = self.protocol.encode(message, &self.filters, dst);
        encoded.map_err(FrameError::from)
    }
}

fn wire(protocol: RawProtocol) -> Wire<RawProtocol> {
    Wire {
        protocol,
        limits: Arc::default(),
        filters: Arc::new(Filters::standard()),
    }
}

#[test]
fn a_protocol_is_the_codec_of_a_connection() {
    let mut call = Message::call("/math/add");
    call.seq = b"0"[..].into();
    let body = vec![b'x'; 100_000];
    call.body = (&body[..]).into();
    let mut bytes = encode_to_vec(&mut wire(RawProtocol::new(Dialect::V4_0)), &call).unwrap();
    let mut listener = wire(RawProtocol::detect());
    let whole = bytes.len();
    let needed = listener.decode(&mut bytes[..5]).unwrap();
    assert!(matches!(needed, Decoded::NeedMore { at_least } if at_least == whole));
    let Decoded::Frame { frame, .. } = listener.decode(&mut bytes).unwrap() else {
        panic!("the message is complete");
    };
    assert_eq!(frame.body, body);
    // What is sent back is in the dialect that the peer has shown.
    let reply = Message::reply(&frame, true).into_owned();
    let reply = encode_to_vec(&mut listener, &reply).unwrap();
    assert_eq!(
        reply,
        b"\0\0\0\x1er\0\0\0\0\x010\x02\0\0\0\x09/math/add\0\0\0\0\0"
    );

    let error = listener.decode(&mut b"\0\0\0\x05".clone()).unwrap_err();
    assert!(error.to_string().contains("a size field of 5"), "{error}");
    let error = listener.decode(&mut b"\x7f\0\0\0".clone()).unwrap_err();
    assert!(matches!(
        error,
        FrameError::TooLong {
            len: 0x7f00_0000,
            ..
        }
    ));
}

#[test]
fn a_message_without_filters_borrows_the_bytes_that_arrived() {
    let bytes = b"\0\0\0\x14r\0\0\x010\x01\0\x02/a\0\0jhey";
    let mut protocol = RawProtocol::detect();
    let decoded = protocol.decode(bytes, &Limits::default(), &Filters::standard());
    let Ok(Decoded::Frame { frame, .. }) = decoded else {
        panic!("{decoded:?}");
    };
    for part in [&frame.seq, &frame.uri, &frame.body] {
        assert!(bytes.as_ptr_range().contains(&part.as_ptr()), "{part:?}");
    }
}
