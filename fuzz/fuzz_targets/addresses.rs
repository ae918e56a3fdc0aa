//! Addresses: the text of a parsed address parses to the same address.
#![no_main]

use epicycle::Endpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Ok(addr) = input.parse::<Endpoint>() {
        let shown = addr.to_string();
        let again = shown.parse::<Endpoint>();
        assert_eq!(again.expect("what is shown is understood"), addr, "{shown}");
    }
});
