//! Metadata, statuses, URIs and names: a parsed value is written as text that parses to the same value.
#![no_main]

use epicycle::rpc::wire::{Meta, Status, Uri, uri_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let meta = Meta::from_encoded(data);
    let mut written = Meta::default();
    written.add_all(&meta);
    assert_eq!(written, meta);
    let mut again = Meta::default();
    again.add_all(&written);
    assert_eq!(again.encoded(), written.encoded());
    if let Some((key, value)) = meta.iter().next() {
        assert_eq!(meta.get(&key), Some(value));
        assert!(written.remove(&key));
        assert_eq!(written.get(&key), None);
        written.set(&key, b"x");
        assert_eq!(written.get_all(&key).count(), 1);
    }

    if let Some(status) = Status::read(&meta) {
        let mut whole = Meta::default();
        status.write(&mut whole, usize::MAX);
        assert_eq!(Status::read(&whole), Some(status.clone()));
        let room = whole.encoded().len().saturating_sub(1);
        let mut short = Meta::default();
        status.write(&mut short, room.max(100));
        assert!(short.encoded().len() <= room.max(100));
    }

    if let Ok(uri) = Uri::parse(data) {
        assert!(!uri.path().is_empty());
        assert!(
            data.windows(uri.query().len().max(1))
                .any(|part| part == uri.query())
                || uri.query().is_empty()
        );
    }
    if let Ok(name) = std::str::from_utf8(data) {
        let path = uri_path(name);
        assert!(path.starts_with('/') && !path.contains("//"));
    }
});
