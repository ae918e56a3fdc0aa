//! The filters gzip and md5: they unpack at most the allowed number of bytes, and restore the packed bytes.
#![no_main]

use std::borrow::Cow;

use epicycle::rpc::wire::{FilterPipe, Filters};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[count, low, high], rest)) = data.split_first_chunk() else {
        return;
    };
    let filters = Filters::standard();
    let max = usize::from(u16::from_le_bytes([low, high]));
    let (ids, content) = rest.split_at(usize::from(count % 4).min(rest.len()));
    let ids: Vec<_> = ids.iter().map(|id| b"gm"[usize::from(id % 2)]).collect();
    let pipe = FilterPipe::from_ids(&ids);
    if let Ok(unpacked) = pipe.unpack(Cow::Borrowed(content), &filters, max) {
        assert!(unpacked.len() <= max || ids.is_empty());
    }
    // Adds a header, so that the fuzzer need not find one.
    let stream = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff], content].concat();
    if let Ok(unpacked) = FilterPipe::from_ids(b"g").unpack(Cow::Owned(stream), &filters, max) {
        assert!(unpacked.len() <= max);
    }
    let packed = pipe
        .pack(Cow::Borrowed(content), &filters)
        .expect("can be packed");
    let unpacked = pipe.unpack(packed, &filters, content.len() + 128);
    assert_eq!(unpacked.expect("was packed"), content);
});
