//! RPC messages as JSON, on a stream and in a WebSocket, in both dialects.
#![no_main]

use epicycle::rpc::wire::{Dialect, JsonProtocol};
use epicycle_fuzz::{Case, rpc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let [choice] = case.options;
    let protocol = || match choice % 3 {
        0 => JsonProtocol::new(Dialect::V4_0),
        1 => JsonProtocol::new(Dialect::V4_1),
        _ => JsonProtocol::detect(),
    };
    if choice & 0x80 == 0 {
        rpc::check_stream(&|| Box::new(protocol()), &case);
    } else {
        rpc::check_message(&|| Box::new(protocol().in_websocket()), &case.input);
    }
});
