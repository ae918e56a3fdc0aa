//! The raw RPC protocol, in both dialects, and with the dialect taken from the first message.
#![no_main]

use epicycle::rpc::wire::{Dialect, RawProtocol};
use epicycle_fuzz::{Case, rpc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    match case.options[0] % 3 {
        0 => rpc::check_stream(&|| Box::new(RawProtocol::new(Dialect::V4_0)), &case),
        1 => rpc::check_stream(&|| Box::new(RawProtocol::new(Dialect::V4_1)), &case),
        // A message of v4.0.0 may not be valid in the other dialect, in which a listener begins to send.
        _ => drop(rpc::check_cuts(&|| Box::new(RawProtocol::detect()), &case)),
    }
});
