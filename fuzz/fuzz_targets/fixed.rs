//! [`Fixed`]. The option is the size less one.
#![no_main]

use epicycle::codec::Fixed;
use epicycle_fuzz::{Case, Plain, check, check_round_trip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<1>::new(data) else {
        return;
    };
    let size = usize::from(case.options[0]) + 1;
    let blocks = Plain(Fixed::new(size).expect("a size that is possible"), size);
    for block in check(&blocks, &case).frames {
        assert_eq!(block.len(), size);
        check_round_trip(&blocks.0, &block, &block);
    }
});
