//! The compression of responses: which of them, for whom, and the coding itself.

use std::cell::Cell;
use std::io::{self, Write};
use std::mem;
use std::rc::Rc;
use std::str;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::client::ClientResponse;
use crate::http::lines::tokens;
use crate::http::{HeaderBlock, Headers, SendError, StatusCode};

/// The length of a body from which it is worth it.
const MIN_LEN: u64 = 1 << 10;

/// The most bodies that a reactor compresses at a time. Each takes about 400 KiB.
const MAX_BODIES: usize = 256;

/// Compresses the body of a response.
#[derive(Debug)]
pub(super) struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    _share: Share,
}

/// The number of bodies that a reactor compresses now.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies(Rc<Cell<usize>>);

#[derive(Debug)]
struct Share(Bodies);

impl Drop for Share {
    fn drop(&mut self) {
        let Bodies(count) = &self.0;
        count.set(count.get() - 1);
    }
}

impl Bodies {
    /// Begins with another body, unless there are too many.
    pub(super) fn begin(&self, level: u8) -> Option<Box<Gzip>> {
        let Bodies(count) = self;
        if count.get() >= MAX_BODIES {
            return None;
        }
        count.set(count.get() + 1);
        let level = Compression::new(u32::from(level));
        Some(Box::new(Gzip {
            encoder: GzEncoder::new(Vec::new(), level),
            _share: Share(self.clone()),
        }))
    }
}

impl Gzip {
    /// Takes a part of the body. Returns all bytes from which the client can have it, so that nothing is held back.
    pub(super) fn add(&mut self, part: &[u8]) -> io::Result<Vec<u8>> {
        self.encoder.write_all(part)?;
        self.encoder.flush()?;
        Ok(mem::take(self.encoder.get_mut()))
    }

    /// Returns the last bytes.
    pub(super) fn end(self) -> io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Returns true if a client takes gzip (RFC 9110, section 12.5.3), and does not forbid that the response is changed.
pub(super) fn is_wanted(request: Headers<'_>) -> bool {
    accepts_gzip(request) && !forbids_transforms(request)
}

fn accepts_gzip(request: Headers<'_>) -> bool {
    let (mut gzip, mut other, mut identity) = (None, None, None);
    for coding in request.get_all("accept-encoding").flat_map(tokens) {
        let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(Some(1000), weight).unwrap_or(0);
        if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
            gzip = gzip.max(Some(weight));
        } else if name == b"*" {
            other = Some(weight);
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = Some(weight);
        }
    }
    let gzip = gzip.or(other).unwrap_or(0);
    gzip > 0 && identity.is_none_or(|identity| gzip >= identity)
}

/// Parses a weight, in thousandths: `q=0.5`.
fn weight(parameter: &[u8]) -> Option<u32> {
    let text = str::from_utf8(parameter).ok()?;
    let (name, value) = text.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, decimals) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let is_sound = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths: u32 = match decimals {
        "" => 0,
        _ => format!("{decimals:0<3}").parse().ok()?,
    };
    match (whole, is_sound) {
        ("0", true) => Some(thousandths),
        ("1", true) if thousandths == 0 => Some(1000),
        _ => None,
    }
}

fn forbids_transforms(fields: Headers<'_>) -> bool {
    fields.has_token("cache-control", "no-transform")
}

/// Returns true if a response is one of those that are compressed for clients that take it.
pub(super) fn is_compressible(response: &ClientResponse<'_>) -> bool {
    let fields = response.headers();
    let is_long = response.content_length().is_none_or(|len| len > MIN_LEN);
    let is_whole =
        response.status() != StatusCode::PARTIAL_CONTENT && fields.get("content-range").is_none();
    let is_coded = fields
        .get_all("content-encoding")
        .flat_map(tokens)
        .any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    is_long
        && is_whole
        && !is_coded
        && !response.status().is_informational()
        && !forbids_transforms(fields)
        && is_text(fields.get("content-type").unwrap_or_default())
}

/// Returns true for a type of text, but not for events, which are to arrive one by one.
fn is_text(content_type: &[u8]) -> bool {
    const TEXTS: [&str; 5] = [
        "application/javascript",
        "application/json",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
    ];
    let name = content_type.split(|byte| *byte == b';').next();
    let name = name.unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let Ok(name) = str::from_utf8(&name) else {
        return false;
    };
    let is_events = name == "text/event-stream";
    let is_kind_of_text = name.starts_with("text/")
        || name.ends_with("+json")
        || name.ends_with("+xml")
        || TEXTS.contains(&name);
    is_kind_of_text && !is_events
}

/// Tells caches that the response depends on what the client accepts.
pub(super) fn vary(fields: &mut HeaderBlock) -> Result<(), SendError> {
    let headers = fields.headers();
    let told = headers.has_token("vary", "accept-encoding") || headers.has_token("vary", "*");
    match told {
        true => Ok(()),
        false => fields.push("Vary", "Accept-Encoding"),
    }
}

/// Makes the fields of a response those of a compressed one. Its bytes are others than the node's, so no range and no digest of
/// those fits, and a strong ETag becomes a weak one (RFC 9110, section 8.8.1).
pub(super) fn recode(fields: &mut HeaderBlock) -> Result<(), SendError> {
    for name in [
        "accept-ranges",
        "content-digest",
        "content-encoding",
        "content-md5",
        "digest",
        "repr-digest",
    ] {
        fields.remove(name);
    }
    fields.push("Content-Encoding", "gzip")?;
    let strong = fields.headers().get("etag");
    let strong = strong.filter(|etag| etag.starts_with(b"\""));
    if let Some(weak) = strong.map(|etag| [b"W/", etag].concat()) {
        fields.set("ETag", weak)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::MultiGzDecoder;

    use super::*;

    fn fields(name: &str, value: &str) -> HeaderBlock {
        HeaderBlock::new().with(name, value).expect("it is sound")
    }

    #[test]
    fn a_client_gets_gzip_if_it_takes_it_and_prefers_nothing_else_that_there_is() {
        for (accepted, wanted) in [
            ("gzip", true),
            ("GZip", true),
            ("x-gzip", true),
            ("br, gzip", true),
            ("gzip;q=0.001", true),
            ("gzip; q=1.000", true),
            ("*", true),
            ("br;q=1.0, *;q=0.1", true),
            ("gzip;q=0.5, identity;q=0.5", true),
            ("gzip;q=0, gzip", true),
            ("", false),
            ("br", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("gzip;q=0.5, identity", false),
            // Malformed weights take nothing.
            ("gzip;q=", false),
            ("gzip;q=2", false),
            ("gzip;q=0.0001", false),
            ("gzip;q=1.001", false),
            ("gzip;q=-1", false),
            ("gzip;level=1", false),
        ] {
            let fields = fields("Accept-Encoding", accepted);
            assert_eq!(is_wanted(fields.headers()), wanted, "{accepted:?}");
        }
        assert!(!is_wanted(HeaderBlock::new().headers()));
        let mut both = fields("Accept-Encoding", "gzip");
        both.push("Cache-Control", "no-cache, No-Transform")
            .expect("it is sound");
        assert!(!is_wanted(both.headers()));
    }

    #[test]
    fn texts_are_compressed_and_nothing_else() {
        for (kind, wanted) in [
            ("text/html", true),
            ("text/html; charset=utf-8", true),
            ("Text/Plain", true),
            ("application/json", true),
            ("application/problem+json;x=y", true),
            ("image/svg+xml", true),
            ("text/event-stream", false),
            ("text/event-stream; charset=utf-8", false),
            ("image/png", false),
            ("application/octet-stream", false),
            ("application/grpc", false),
            ("video/mp4", false),
            ("", false),
        ] {
            assert_eq!(is_text(kind.as_bytes()), wanted, "{kind:?}");
        }
    }

    #[test]
    fn the_fields_are_those_of_the_compressed_body() {
        let mut block = HeaderBlock::new();
        for (name, value) in [
            ("ETag", "\"abc\""),
            ("Accept-Ranges", "bytes"),
            ("Content-MD5", "Q2hlY2s="),
            ("Vary", "Origin"),
            ("Content-Encoding", "identity"),
        ] {
            block.push(name, value).expect("it is sound");
        }
        vary(&mut block).expect("it is sound");
        recode(&mut block).expect("it is sound");
        let text = format!("{block:?}");
        let wanted = r#"["Vary: Origin", "Vary: Accept-Encoding", "Content-Encoding: gzip", "ETag: W/\"abc\""]"#;
        assert_eq!(text, wanted);
        for told in ["Accept-Encoding", "*", "Origin, accept-encoding"] {
            let mut block = fields("Vary", told);
            vary(&mut block).expect("it is sound");
            assert_eq!(block.headers().get_all("vary").count(), 1, "{told}");
        }
        let mut weak = fields("ETag", "W/\"abc\"");
        recode(&mut weak).expect("it is sound");
        assert_eq!(weak.headers().get("etag"), Some(&b"W/\"abc\""[..]));
    }

    #[test]
    fn each_part_can_be_read_once_it_is_passed_on() {
        let bodies = Bodies::default();
        let mut gzip = bodies.begin(5).expect("there is room");
        let (mut sent, mut read) = (Vec::new(), Vec::new());
        for part in [&b"first"[..], b" second", &[b'x'; 100_000], b""] {
            sent.extend(gzip.add(part).expect("it is written"));
            read.extend_from_slice(part);
            let mut seen = vec![0; read.len()];
            let mut decoder = MultiGzDecoder::new(&*sent);
            decoder.read_exact(&mut seen).expect("all of it is there");
            assert!(seen == read);
        }
        sent.extend(gzip.end().expect("it ends"));
        let mut all = Vec::new();
        MultiGzDecoder::new(&*sent)
            .read_to_end(&mut all)
            .expect("it is whole");
        assert!(all == read);
        assert!(sent.len() < 1000, "{}", sent.len());
    }

    #[test]
    fn a_reactor_compresses_so_many_bodies_at_a_time() {
        let bodies = Bodies::default();
        let mut all: Vec<_> = (0..MAX_BODIES).map(|_| bodies.begin(1)).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(bodies.begin(1).is_none());
        all.pop();
        assert!(bodies.begin(1).is_some());
    }
}
