//! What the head of a response says about the response, by the rules of RFC 9112.

use std::mem::MaybeUninit;
use std::ops::Range;

use ::http::StatusCode;
use memchr::memchr;

use crate::http::error::{MessageError, malformed};
use crate::http::head::{Facts, Framing, Version, line_end, position, with_known_minor};
use crate::http::limits::{Limits, MOST_HEADERS};

/// A response's head, as positions in the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// How the end of the body is found.
    pub(super) extent: Extent,
    /// How long it is, with the empty line at its end.
    len: u32,
    /// Where the headers begin.
    headers: u32,
    pub(super) status: StatusCode,
    pub(super) version: Version,
    /// Whether the connection may be used again.
    pub(super) keep_alive: bool,
}

/// How the end of a response's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    /// It ends with the stream.
    Eof,
}

/// What a response answers, as far as that has a say in how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Ordinary,
    Head,
    /// Success makes a tunnel of the connection.
    Connect,
    /// The server may change the protocol.
    Upgrade,
}

impl Head {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// The lines of the headers.
    #[inline]
    pub(super) fn headers(&self) -> Range<usize> {
        self.headers as usize..self.len() - 2
    }

    /// Whether the connection does not speak HTTP from here on.
    pub(super) fn changes_protocol(&self, asked: Asked) -> bool {
        match asked {
            Asked::Connect => self.status.is_success(),
            Asked::Upgrade => self.status == StatusCode::SWITCHING_PROTOCOLS,
            Asked::Ordinary | Asked::Head => false,
        }
    }
}

/// Looks for the head of a response at the beginning of `src`; `None` when it is incomplete.
pub(super) fn parse(
    src: &[u8],
    asked: Asked,
    limits: &Limits,
) -> Result<Option<Head>, MessageError> {
    match parse_known(src, asked, limits) {
        Err(MessageError::Version) => parse_minor(src, asked, limits),
        parsed => parsed,
    }
}

/// The same for a minor version that is not known, which is read as the last one that is (RFC 9110, section 2.5).
#[cold]
fn parse_minor(src: &[u8], asked: Asked, limits: &Limits) -> Result<Option<Head>, MessageError> {
    let digit = "HTTP/1.".len();
    let known = with_known_minor(src, digit, limits).ok_or(MessageError::Version)?;
    parse_known(&known, asked, limits)
}

fn parse_known(src: &[u8], asked: Asked, limits: &Limits) -> Result<Option<Head>, MessageError> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let allowed = &mut headers[..usize::from(limits.headers)];
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, src, allowed);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) if len <= limits.head as usize => len,
        Ok(httparse::Status::Partial) if src.len() <= limits.head as usize => return Ok(None),
        Ok(_) => return Err(too_long(limits)),
        Err(error) => return Err(refuse(src, limits, error)),
    };
    let (Some(code), Some(version)) = (response.code, response.version) else {
        return malformed("the status line is incomplete");
    };
    let Ok(status) = StatusCode::from_u16(code) else {
        return malformed("a status that is none");
    };
    let version = match version {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let begin = first_line(src, limits)?;
    let mut facts = Facts::default();
    let mut end = begin;
    for header in &*response.headers {
        // The parser takes a bare LF for the end of a line, and names begin where lines do.
        if position(src, header.name.as_bytes()) != end {
            return malformed("a line that does not end in CR LF");
        }
        facts.note(header);
        end = line_end(src, position(src, header.value) + header.value.len());
    }
    if end + 2 != len {
        return malformed("a line that does not end in CR LF");
    }
    Ok(Some(Head {
        extent: extent(&facts, asked, status, version)?,
        len: len as u32,
        headers: begin as u32,
        status,
        version,
        keep_alive: !facts.close && (version == Version::Http11 || facts.persist),
    }))
}

/// Where the second line begins.
fn first_line(src: &[u8], limits: &Limits) -> Result<usize, MessageError> {
    // The parser passes over empty lines at the beginning.
    let line = memchr(b'\n', src).unwrap_or(src.len());
    if !src.starts_with(b"HTTP/") || src[..line].last() != Some(&b'\r') {
        return malformed(
            "a status line that does not end in CR LF, or does not begin the response",
        );
    }
    if line >= limits.line as usize {
        return Err(MessageError::LineTooLong {
            max: limits.line as usize,
        });
    }
    Ok(line + 1)
}

/// How long the body is (section 6.3).
fn extent(
    facts: &Facts,
    asked: Asked,
    status: StatusCode,
    version: Version,
) -> Result<Extent, MessageError> {
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || asked == Asked::Head
        || (asked == Asked::Connect && status.is_success());
    // What contradicts itself is refused, also where it does not count.
    Ok(match facts.framing(version)? {
        _ if bodiless => Extent::None,
        Framing::Length(len) => Extent::Length(len),
        Framing::Chunked => Extent::Chunked,
        Framing::None => Extent::Eof,
    })
}

#[cold]
fn too_long(limits: &Limits) -> MessageError {
    MessageError::HeadTooLong {
        max: limits.head as usize,
    }
}

#[cold]
fn refuse(src: &[u8], limits: &Limits, error: httparse::Error) -> MessageError {
    let what = match error {
        httparse::Error::TooManyHeaders => {
            return MessageError::TooManyHeaders {
                max: limits.headers.into(),
            };
        }
        httparse::Error::Version if names_a_version(src) => return MessageError::Version,
        httparse::Error::Version => "it does not begin with a version of HTTP",
        httparse::Error::HeaderName => "a header without a proper name",
        httparse::Error::HeaderValue => "a header with a control character in its value",
        httparse::Error::NewLine => "a line that does not end in CR LF",
        _ => "the status line is not a version, a status and a reason",
    };
    MessageError::Malformed { what }
}

/// Whether it begins with a version of the right form.
fn names_a_version(src: &[u8]) -> bool {
    match src.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor, ..]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}
