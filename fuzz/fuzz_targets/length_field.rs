//! [`LengthField`]. The options are its layout.
#![no_main]

use epicycle::codec::{ByteOrder, LengthField};
use epicycle_fuzz::{Case, Plain, check, check_round_trip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::<9>::new(data) else {
        return;
    };
    let [offset, length, strip, order, includes, longest, a, b, wide] = case.options;
    let (offset, strip) = (usize::from(offset), usize::from(strip));
    let longest = 16 * usize::from(longest);
    let adjustment = i64::from(i16::from_be_bytes([a, b])) << (wide % 49);
    let description = LengthField::builder()
        .offset(offset)
        .length(length.into())
        .strip(strip)
        .byte_order([ByteOrder::Big, ByteOrder::Little][usize::from(order % 2)])
        .includes_length(includes % 2 == 1)
        .adjustment(adjustment)
        .max_frame(longest);
    let Ok(codec) = description.build() else {
        return;
    };
    let frames = Plain(codec, longest);
    for frame in check(&frames, &case).frames {
        // If nothing is stripped, a frame contains its length field, but an item to send does not.
        if strip == 0 {
            let field = offset..offset + usize::from(length);
            let item = [&frame[..field.start], &frame[field.end..]].concat();
            check_round_trip(&frames.0, &item, &frame);
        }
    }
});
