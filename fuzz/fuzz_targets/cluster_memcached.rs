//! The answers of a memcached server to requests for values. The first byte chooses the request.
#![no_main]

use epicycle::internals::memcached_values;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, answers)) = data.split_first() else {
        return;
    };
    let with_time = choice % 2 == 1;
    let values = memcached_values(with_time, answers);
    let bytes: usize = values.iter().map(Vec::len).sum();
    assert!(bytes <= answers.len(), "{bytes} of {}", answers.len());
    let more = memcached_values(with_time, &[answers, b"\r\nEND\r\n"].concat());
    assert!(more.starts_with(&values));
});
