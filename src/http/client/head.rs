//! The head of a response, read by the rules of RFC 9112.

use std::mem::MaybeUninit;
use std::ops::Range;

use ::http::StatusCode;
use memchr::memchr;

use crate::http::error::{MessageError, malformed};
use crate::http::head::{Facts, Framing, Version, line_end, position, with_known_minor};
use crate::http::limits::{Limits, MAX_HEADERS};
use crate::http::lines::HopLines;
use crate::http::parts::Extent;
use crate::http::reader::ends_in;
use crate::http::write::is_bodiless;

/// Finds the head of the next response.
#[derive(Debug, Default)]
pub(super) struct HeadFinder {
    /// The number of bytes at the start of the input that are known to contain no complete head.
    scanned: u32,
    /// The length of all interim responses to the current request together.
    interim_len: u32,
    /// The number of these interim responses.
    interim: u8,
    /// True if a repeated `Content-Length` is accepted when all values are equal.
    pub(super) accepts_repeated_length: bool,
}

/// The result of a search for a head.
pub(super) enum Start {
    Head(Head),
    /// The head of an interim response (1xx).
    Interim(Head),
    /// The input must have at least this many bytes.
    NeedMore(usize),
}

/// The maximum number of interim responses to one request.
const MAX_INTERIM: u8 = 16;

impl HeadFinder {
    /// Looks for a head in `src`, the input after the last response.
    pub(super) fn find(
        &mut self,
        src: &[u8],
        request: RequestKind,
        limits: &Limits,
    ) -> Result<Start, MessageError> {
        let is_worth_it = self.scanned == 0
            || src.len() > limits.head as usize
            || ends_in(src, self.scanned as usize);
        let found = if is_worth_it {
            parse(src, request, limits, self.accepts_repeated_length)?
        } else {
            None
        };
        let Some(head) = found else {
            self.scanned = src.len() as u32;
            return Ok(Start::NeedMore(src.len() + 1));
        };
        self.scanned = 0;
        if head.status.is_informational() && !head.upgrades {
            self.pass_over(&head, limits)?;
            return Ok(Start::Interim(head));
        }
        (self.interim, self.interim_len) = (0, 0);
        Ok(Start::Head(head))
    }

    /// Counts an interim response, which another response to the same request follows. Only a limited number is
    /// accepted.
    fn pass_over(&mut self, head: &Head, limits: &Limits) -> Result<(), MessageError> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return malformed("a change of protocol that was not requested");
        }
        self.interim += 1;
        self.interim_len = self.interim_len.saturating_add(head.len);
        if self.interim > MAX_INTERIM {
            let max = MAX_INTERIM.into();
            return Err(MessageError::TooManyInterim { max });
        }
        if self.interim_len > limits.head {
            return Err(too_long(limits));
        }
        Ok(())
    }
}

/// A response's head, as offsets into the bytes in which it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The way in which the end of the body is found.
    pub(super) extent: Extent,
    /// The length, including the empty line at the end.
    len: u32,
    /// The start of the headers.
    headers: u32,
    pub(super) status: StatusCode,
    pub(super) version: Version,
    /// True if the connection may be used again.
    pub(super) keep_alive: bool,
    /// True if the connection does not use HTTP any more after this response.
    pub(super) upgrades: bool,
    /// True if a `Connection` header names other headers.
    pub(super) nominates: bool,
    /// The lines that a proxy does not pass on.
    pub(super) hop_lines: HopLines,
    /// The announced length of the body, even where the response to the request has none.
    pub(super) length: Option<u64>,
}

/// The kind of request, as far as it affects the reading of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Ordinary,
    Head,
    /// A successful response turns the connection into a tunnel.
    Connect,
    /// The response may change the protocol.
    Upgrade,
}

impl Head {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the range of the header lines.
    #[inline]
    pub(super) fn headers(&self) -> Range<usize> {
        self.headers as usize..self.len() - 2
    }

    /// Returns true if no other response follows on the connection.
    pub(super) fn is_last(&self) -> bool {
        !self.keep_alive || self.extent == Extent::Eof
    }
}

/// Parses the head of a response at the start of `src`. Returns `None` if it is incomplete.
fn parse(
    src: &[u8],
    request: RequestKind,
    limits: &Limits,
    accepts_repeated_length: bool,
) -> Result<Option<Head>, MessageError> {
    match parse_known(src, request, limits, accepts_repeated_length) {
        // An unknown minor version is read as the highest known one (RFC 9110, section 2.5).
        Err(MessageError::Version) => {
            let digit = "HTTP/1.".len();
            let known = with_known_minor(src, digit, limits).ok_or(MessageError::Version)?;
            parse_known(&known, request, limits, accepts_repeated_length)
        }
        parsed => parsed,
    }
}

fn parse_known(
    src: &[u8],
    request: RequestKind,
    limits: &Limits,
    accepts_repeated_length: bool,
) -> Result<Option<Head>, MessageError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
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
        return malformed("a status that is not a valid number");
    };
    let version = match version {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let begin = first_line(src, limits)?;
    if version == Version::Http10 && status == StatusCode::SWITCHING_PROTOCOLS {
        return malformed(
            "a change of protocol by an HTTP/1.0 server, which that version does not allow",
        );
    }
    let mut facts = Facts::accepting_repeated_length(accepts_repeated_length);
    let mut hop_lines = HopLines::default();
    let mut end = begin;
    for header in &*response.headers {
        let at = end;
        // The parser accepts a bare LF as a line ending, so check that each name begins where the line before it ends
        // in CR LF.
        if position(src, header.name.as_bytes()) != at {
            return malformed("a line that does not end in CR LF");
        }
        facts.note(header);
        end = line_end(src, position(src, header.value) + header.value.len());
        hop_lines.note(header.name.as_bytes(), at, end);
    }
    if end + 2 != len {
        return malformed("a line that does not end in CR LF");
    }
    let framing = facts.framing(version)?;
    let upgrades = match request {
        RequestKind::Connect => status.is_success(),
        RequestKind::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
        RequestKind::Ordinary | RequestKind::Head => false,
    };
    if upgrades && request == RequestKind::Upgrade {
        check_change(&facts, framing)?;
    }
    Ok(Some(Head {
        extent: extent(framing, request, status),
        len: len as u32,
        headers: begin as u32,
        status,
        version,
        keep_alive: !facts.close && (version == Version::Http11 || facts.persist),
        upgrades,
        nominates: facts.nominates,
        hop_lines,
        length: match framing {
            Framing::Length(len) => Some(len),
            _ => None,
        },
    }))
}

/// Refuses a change of protocol that another recipient may not take for one, or may begin at another byte (RFC 9110, sections 7.8 and
/// 8.6; RFC 9112, section 6.1).
#[cold]
fn check_change(facts: &Facts, framing: Framing) -> Result<(), MessageError> {
    match framing {
        _ if !facts.upgrade => malformed("a change of protocol without `Connection: Upgrade`"),
        // All agree on where no body ends.
        Framing::None | Framing::Length(0) => Ok(()),
        _ => malformed("a change of protocol with a body, which it cannot have"),
    }
}

/// Returns the start of the second line.
fn first_line(src: &[u8], limits: &Limits) -> Result<usize, MessageError> {
    // The parser skips empty lines at the start.
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

/// Returns the way in which the end of the body is found (section 6.3). Contradictory framing has been refused, even
/// where it has no effect.
fn extent(framing: Framing, request: RequestKind, status: StatusCode) -> Extent {
    let bodiless = is_bodiless(status)
        || request == RequestKind::Head
        || (request == RequestKind::Connect && status.is_success());
    match framing {
        _ if bodiless => Extent::None,
        Framing::None => Extent::Eof,
        framing => framing.into(),
    }
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
        httparse::Error::HeaderName => "a header without a valid name",
        httparse::Error::HeaderValue => "a header with a control character in its value",
        httparse::Error::NewLine => "a line that does not end in CR LF",
        _ => "the status line is not a version, a status and a reason",
    };
    MessageError::Malformed { what }
}

/// Returns true if the bytes begin with a version of the right form.
fn names_a_version(src: &[u8]) -> bool {
    match src.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor, ..]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}
