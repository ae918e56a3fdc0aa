//! The answer of a name server, of which a pool's source makes a list of nodes.
#![no_main]

use epicycle::internals::dns_answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // A record has at least 11 bytes, and is read for three questions.
    assert!(dns_answer(data) <= 3 * data.len() / 11);
});
