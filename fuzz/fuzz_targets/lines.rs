//! [`Lines`]. The option is the longest line.
#![no_main]

use epicycle::codec::Lines;
use epicycle_fuzz::{Case, Plain, check, check_round_trip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let longest = usize::from(case.options[0]);
    // The longest line, and the two bytes of its end.
    let lines = Plain(Lines::with_max(longest), longest + 2);
    for line in check(&lines, &case).frames {
        check_round_trip(&lines.0, &line, &line);
        check_round_trip(&lines.0.clone().crlf(), &line, &line);
    }
});
