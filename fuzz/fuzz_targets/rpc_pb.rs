//! RPC messages as protobuf, on a stream and in a WebSocket.
#![no_main]

use epicycle::rpc::wire::{Dialect, PbProtocol};
use epicycle_fuzz::{Case, rpc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let protocol = || PbProtocol::new(Dialect::V4_1);
    if case.options[0] & 0x80 == 0 {
        rpc::check_stream(&|| Box::new(protocol()), &case);
    } else {
        rpc::check_message(&|| Box::new(protocol().in_websocket()), &case.input);
    }
});
