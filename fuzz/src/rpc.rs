//! Feeds RPC protocols their input in pieces, and encodes the received messages again.

use epicycle::codec::Decoded;
use epicycle::rpc::wire::{Filters, Limits, Message, Protocol};

use crate::Case;

/// Makes the protocol of a new connection.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Protocol>;

/// The messages in the input, and the error, if one occurred.
type Outcome = (Vec<Message<'static>>, Option<String>);

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.message = 1 << 16;
    limits
}

/// Checks that the messages do not depend on the division of the input, and that they can be encoded again.
pub fn check_stream<const OPTIONS: usize>(make: Make<'_>, case: &Case<OPTIONS>) {
    for message in check_cuts(make, case) {
        check_round_trip(make, message);
    }
}

/// Checks that the messages do not depend on the division of the input, and returns them.
pub fn check_cuts<const OPTIONS: usize>(
    make: Make<'_>,
    case: &Case<OPTIONS>,
) -> Vec<Message<'static>> {
    let whole = take(make, std::iter::once(&case.input[..]));
    assert_eq!(take(make, case.pieces()), whole);
    assert_eq!(take(make, case.input.chunks(1)), whole);
    whole.0
}

/// Checks that a WebSocket message is one RPC message or an error, and that it can be encoded again.
pub fn check_message(make: Make<'_>, input: &[u8]) {
    let mut protocol = make();
    match protocol.decode(input, &limits(), &Filters::standard()) {
        Ok(Decoded::Frame { frame, consumed }) => {
            assert_eq!(consumed, input.len());
            check_round_trip(make, frame.into_owned());
        }
        Ok(other) => panic!("{other:?} of a whole message"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn take<'a>(make: Make<'_>, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut protocol = make();
    let (limits, filters) = (limits(), Filters::standard());
    let (mut kept, mut messages) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            match protocol.decode(&kept, &limits, &filters) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    assert!(consumed > 0 && consumed <= kept.len());
                    assert!(consumed <= limits.message);
                    assert!(frame.body.len() <= limits.message);
                    messages.push(frame.into_owned());
                    kept.drain(..consumed);
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least > kept.len() && at_least <= limits.message);
                    break;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    (messages, None)
}

/// Encodes a received message, and checks that it decodes to the same message.
fn check_round_trip(make: Make<'_>, mut message: Message<'static>) {
    let filters = Filters::standard();
    let mut bytes = Vec::new();
    let sent = make().encode(&message, &filters, &mut bytes);
    sent.expect("what was received can be sent");
    // The new bytes may be longer than the received ones, because of escapes that the peer did not need.
    let decoded = make().decode(&bytes, &Limits::default(), &filters);
    let Ok(Decoded::Frame { frame, consumed }) = decoded else {
        panic!("{decoded:?} of {message:?}");
    };
    assert_eq!(consumed, bytes.len());
    message.size = frame.size;
    assert_eq!(frame, message);
}
