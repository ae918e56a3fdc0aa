//! The header of the PROXY protocol. What is decided about a beginning stays so, whatever follows.
#![no_main]

use epicycle::ProxyHeader;
use epicycle::internals::proxy_header;
use libfuzzer_sys::fuzz_target;

/// The longest header.
const MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let whole = proxy_header(data);
    for end in 0..data.len() {
        match proxy_header(&data[..end]) {
            Ok(None) => {}
            decided => assert_eq!(decided, whole, "after {end} bytes"),
        }
    }
    match whole {
        Ok(None) => assert!(data.len() < MAX, "a header of more than {MAX} bytes"),
        Ok(Some((len, client))) => {
            assert!(len <= data.len() && len <= MAX);
            let Some(client) = client else { return };
            let server = "192.0.2.1:80".parse().expect("an address");
            for anew in [
                ProxyHeader::v1(client, server),
                ProxyHeader::v2(client, server),
            ] {
                let bytes = anew.as_bytes();
                let Ok(Some((len, Some(other)))) = proxy_header(bytes) else {
                    panic!("it is no header: {bytes:?}");
                };
                let same_ip = other.ip().to_canonical() == client.ip().to_canonical();
                assert!(len == bytes.len() && same_ip && other.port() == client.port());
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
