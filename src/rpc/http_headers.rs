//! The headers of HTTP as metadata, and metadata as headers.

use super::wire::Meta;
use crate::http::fields::is_token;

/// Returns true if a header of a request is no metadata. Streams need a connection that both sides send on.
pub(super) fn is_left_out(name: &[u8]) -> bool {
    const OTHERS: [&str; 4] = ["accept", "content-type", "x-reply-error", "expect"];
    let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
    OTHERS.iter().any(is)
        || name
            .get(..8)
            .is_some_and(|front| front.eq_ignore_ascii_case(b"x-stream"))
}

/// Returns the name of a header as metadata writes it. Case does not count in headers, but does in metadata.
pub(super) fn written(name: &[u8]) -> Vec<u8> {
    const KNOWN: [&str; 3] = [Meta::REAL_IP, "traceparent", "tracestate"];
    let mut known = KNOWN.iter();
    if let Some(known) = known.find(|known| known.as_bytes().eq_ignore_ascii_case(name)) {
        return known.as_bytes().to_vec();
    }
    let mut begins = true;
    let write = |byte: &u8| {
        let written = match begins {
            true => byte.to_ascii_uppercase(),
            false => byte.to_ascii_lowercase(),
        };
        begins = *byte == b'-';
        written
    };
    name.iter().map(write).collect()
}

/// Returns the name of a header for metadata of a reply. Returns `None` if no header comes from it.
pub(super) fn header_name(key: &[u8]) -> Option<&str> {
    // Those about the connection, which the codec writes; those of requests; and the error, which is the body.
    const LEFT_OUT: [&str; 29] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "access-control-allow-origin",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "date",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "origin",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "x-accept-body-codec",
        "x-content-type-options",
        "x-reply-error",
        "x-timeout",
    ];
    let name = std::str::from_utf8(key).ok()?;
    let is_left_out = LEFT_OUT
        .iter()
        .any(|other| other.eq_ignore_ascii_case(name));
    (is_token(key) && !is_left_out).then_some(name)
}
