//! [`SocksServer`]. The option is whether it wants a password. Each message is answered, which must be possible, and the messages do
//! not depend on the division of the input into pieces.
#![no_main]

use std::net::SocketAddr;

use epicycle::codec::{Codec, Decoded, encode_to_vec};
use epicycle::gateway::socks::{ReplyCode, SocksAnswer, SocksFrame, SocksServer};
use epicycle_fuzz::Case;
use libfuzzer_sys::fuzz_target;

/// The longest handshake: a greeting with 255 methods, credentials of 255 bytes each, and a request with a name.
const LONGEST: usize = 257 + 513 + 262;

/// Returns the messages that a client has sent, and what is left behind the last one.
fn run<'a>(wants_password: bool, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Vec<u8>) {
    let mut socks = SocksServer::new(wants_password);
    let (mut seen, mut waiting) = (Vec::new(), Vec::new());
    for piece in pieces {
        waiting.extend_from_slice(piece);
        // A codec is given nothing only if it awaits the rest of a message.
        while !waiting.is_empty() {
            let length = waiting.len();
            let (answer, consumed, is_last) = match socks.decode(&mut waiting) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    assert!(0 < consumed && consumed <= length);
                    seen.push(format!("{frame:?}"));
                    match frame {
                        SocksFrame::Greeting(choice) => (
                            SocksAnswer::Method(choice),
                            consumed,
                            !choice.is_acceptable(),
                        ),
                        SocksFrame::Credentials { user, password } => {
                            assert!(!user.is_empty() && user.len() < 256);
                            assert!(!password.is_empty() && password.len() < 256);
                            (SocksAnswer::Credentials(true), consumed, false)
                        }
                        _ => {
                            let addr = SocketAddr::from(([127, 0, 0, 1], 80));
                            (
                                SocksAnswer::Reply(ReplyCode::Succeeded, addr),
                                consumed,
                                true,
                            )
                        }
                    }
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least > length, "it asks for what it has");
                    assert!(at_least <= LONGEST, "it asks for {at_least} bytes");
                    break;
                }
                Err(error) => {
                    seen.push(error.to_string());
                    return (seen, Vec::new());
                }
                Ok(other) => panic!("{other:?}"),
            };
            let answer = encode_to_vec(&mut socks, answer);
            assert!(answer.is_ok_and(|bytes| !bytes.is_empty()), "{seen:?}");
            waiting.drain(..consumed);
            if is_last {
                return (seen, waiting);
            }
        }
    }
    (seen, waiting)
}

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let wants_password = case.options[0] % 2 == 1;
    let (whole, _) = run(wants_password, std::iter::once(&case.input[..]));
    let (cut, _) = run(wants_password, case.pieces());
    assert_eq!(cut, whole);
});
