//! [`epicycle::ws::ServerCodec`]: the frames of a client after the handshake. The options are the limits and the
//! compression.
#![no_main]

use epicycle_fuzz::websocket::{Server, Settings, check_echo};
use epicycle_fuzz::{Case, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<3>::new(data) else {
        return;
    };
    let [choice, frame, message] = case.options;
    let (frame, message) = (4 * usize::from(frame), 4 * usize::from(message));
    let settings = Settings::new(choice, frame, message, false);
    let server = Server::new(settings);
    check(&server, &case);
    // Compressed messages may be a little longer than the limit on frames.
    let roomy = Settings {
        frame: 2 * message + 100,
        ..settings
    };
    check_echo(roomy, &server.messages());
});
