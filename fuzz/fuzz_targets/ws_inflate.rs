//! Messages compressed by permessage-deflate: they are the same in one frame and in many, and no longer than allowed.
#![no_main]

use epicycle_fuzz::websocket::{Server, Settings};
use epicycle_fuzz::{Case, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let [choice, message, opcode] = case.options;
    let opcode = 1 + opcode % 2;
    let server = Server::new(Settings::new(
        choice,
        1 << 16,
        64 * usize::from(message),
        true,
    ));
    // The second copy may refer to the first.
    let whole = frame(0xC0 | opcode, &case.input).repeat(2);
    let mut fragments = frame(0x40 | opcode, &[]);
    for piece in case.pieces() {
        fragments.extend(frame(0, piece));
    }
    fragments.extend(frame(0x80, &[]));
    let fragments = fragments.repeat(2);
    let whole = check(
        &server,
        &Case {
            input: whole,
            ..case
        },
    );
    let fragments = check(
        &server,
        &Case {
            input: fragments,
            ..case
        },
    );
    assert_eq!(whole.frames, fragments.frames);
    // If the data is both malformed and too long, either fault may be found first.
    assert_eq!(whole.error.is_some(), fragments.error.is_some());
});

/// Returns a client's frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 126];
    match payload.len() {
        len @ 0..126 => frame[1] = 0x80 | len as u8,
        len => frame.extend((len as u16).to_be_bytes()),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
