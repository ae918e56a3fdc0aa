//! Requests, parsed by the `httparse` crate.

use epicycle::codec::{Codec, Decoded, FrameError};
use httparse::Status;

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// As it was sent, with its escapes.
    pub(crate) target: String,
    pub(crate) keep_alive: bool,
    pub(crate) range: Option<String>,
    pub(crate) if_modified_since: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    #[default]
    Other,
}

/// Why a request is not served: the status it is answered with before the connection closes.
pub(crate) type Refusal = &'static str;

const BAD_REQUEST: Refusal = "400 Bad Request";
const HEAD_TOO_LARGE: Refusal = "431 Request Header Fields Too Large";

const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// Cuts requests, which have no bodies here, out of a connection's input.
pub(crate) struct Http;

impl Codec for Http {
    type Frame<'a> = Result<Head, Refusal>;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Self::Frame<'a>>, FrameError> {
        // A refusal takes up all input: nothing behind a request that was not understood can be trusted.
        let (frame, consumed) = match parse(src) {
            Ok(Some((head, consumed))) => (Ok(head), consumed),
            Ok(None) => {
                let at_least = src.len() + 1;
                return Ok(Decoded::NeedMore { at_least });
            }
            Err(refusal) => (Err(refusal), src.len()),
        };
        Ok(Decoded::Frame { frame, consumed })
    }
}

/// A request and its length, if all of it is there.
fn parse(src: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let consumed = match request.parse(src) {
        Ok(Status::Complete(head)) if head <= MAX_HEAD => head,
        Ok(Status::Partial) if src.len() <= MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
        Err(_) => return Err(BAD_REQUEST),
    };
    let is_http11 = request.version == Some(1);
    let mut head = Head {
        method: match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            _ => Method::Other,
        },
        target: request.path.unwrap_or_default().to_owned(),
        keep_alive: is_http11,
        ..Head::default()
    };
    let mut hosts = 0;
    let mut only_if = false;
    for header in &*request.headers {
        let text = || str::from_utf8(header.value).ok().map(str::trim);
        match header.name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "connection" => {
                let has = |option| {
                    let mut options = text().unwrap_or_default().split(',').map(str::trim);
                    options.any(|given| given.eq_ignore_ascii_case(option))
                };
                head.keep_alive = !has("close") && (is_http11 || has("keep-alive"));
            }
            "range" => head.range = text().map(str::to_owned),
            // There are no validators to compare with, so a part is sent only where there is no such condition.
            "if-range" => only_if = true,
            "if-modified-since" => head.if_modified_since = text().map(str::to_owned),
            "content-length" if header.value == b"0" => {}
            "content-length" | "transfer-encoding" => return Err("413 Content Too Large"),
            _ => {}
        }
    }
    if only_if {
        head.range = None;
    }
    if hosts > 1 || (hosts == 0 && is_http11) {
        return Err(BAD_REQUEST);
    }
    Ok(Some((head, consumed)))
}
