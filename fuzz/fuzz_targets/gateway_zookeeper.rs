//! The frames of a ZooKeeper server, of which a pool's source makes a list of nodes. The first byte chooses whether data names the nodes;
//! frames have a length of two bytes.
#![no_main]

use epicycle::internals::zookeeper_frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else {
        return;
    };
    let frames = std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        Some(frame)
    });
    zookeeper_frames(choice % 2 == 1, frames);
});
