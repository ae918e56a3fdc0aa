//! [`Delimited`]. The options are the longest frame and the delimiter.
#![no_main]

use epicycle::codec::Delimited;
use epicycle_fuzz::{Case, Plain, check, check_round_trip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<2>::new(data) else {
        return;
    };
    let longest = usize::from(case.options[0]);
    // Some delimiters overlap with themselves.
    let delimiters = ["\n", "\r\n", "--", "-\n-", "abab", "\0\0\0\0\0"];
    let delimiter = delimiters[usize::from(case.options[1]) % delimiters.len()];
    let codec = Delimited::with_max(delimiter, longest).expect("a delimiter that is possible");
    let blocks = Plain(codec, longest + delimiter.len());
    for block in check(&blocks, &case).frames {
        check_round_trip(&blocks.0, &block, &block);
    }
});
