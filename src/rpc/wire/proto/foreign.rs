//! The beginnings of other protocols, so that an error can name them.

use crate::rpc::wire::WireError;

/// The methods with which requests of HTTP begin, and the beginning of its responses.
const HTTP: [&[u8]; 10] = [
    b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"PRI ", b"HTTP",
];

/// Returns the error of input that is no message of `expected`. If the input begins as another protocol does, the error says so:
/// somebody has the wrong port, or the wrong option.
#[cold]
pub(in crate::rpc) fn explain(error: WireError, src: &[u8], expected: &'static str) -> WireError {
    match found(src) {
        Some(found) if found != expected => WireError::OtherProtocol { found, expected },
        _ => error,
    }
}

/// Returns the protocol whose beginning this is.
pub(in crate::rpc) fn found(src: &[u8]) -> Option<&'static str> {
    let is_tls = matches!(src, [20..=23, 3, 0..=4, ..]);
    let is_http = HTTP.iter().any(|begin| src.starts_with(begin));
    // The first byte of a size is 0 as a rule.
    let is_raw = matches!(src, [0, _, _, _, b'r', 0..=8, ..]);
    if is_tls {
        Some("TLS")
    } else if is_http {
        Some("http")
    } else {
        is_raw.then_some("raw")
    }
}
