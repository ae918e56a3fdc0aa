//! What the head of a request says about the request, by the rules of RFC 9112.
//!
//! The grammar is the `httparse` crate's. What it is lenient about is refused here, since wherever two
//! implementations read a message differently, one of them can be made to see a request that the other does not.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use memchr::memchr;

use super::error::{MessageError, malformed};
use super::fields::{is_host, is_target, tokens};
use super::flags::*;
use super::limits::{Limits, MOST_HEADERS};

/// A request's head, as positions in the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// How long it is, with the empty line at its end.
    pub(super) len: u32,
    /// Where the method ends; the target begins one byte behind that.
    pub(super) method: u32,
    /// Where the target ends.
    pub(super) target: u32,
    /// What its answer depends on.
    pub(super) flags: u16,
}

/// What is between the target and the first header.
const LINE_END: usize = " HTTP/1.1\r\n".len();

impl Head {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn method(&self) -> Range<usize> {
        0..self.method as usize
    }

    #[inline]
    pub(super) fn target(&self) -> Range<usize> {
        self.method as usize + 1..self.target as usize
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The lines of the headers.
    #[inline]
    pub(super) fn headers(&self) -> Range<usize> {
        self.target as usize + LINE_END..self.len() - 2
    }
}

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        })
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
}

/// Looks for the head of a request at the beginning of `src`; `None` when it is incomplete.
#[inline]
pub(super) fn parse(src: &[u8], limits: &Limits) -> Result<Option<Head>, MessageError> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let allowed = &mut headers[..usize::from(limits.headers)];
    let len = match request.parse_with_uninit_headers(src, allowed) {
        Ok(httparse::Status::Complete(len)) if len <= limits.head as usize => len,
        Ok(httparse::Status::Partial) => return partial(src, limits).map(|()| None),
        Ok(_) => return Err(too_long(src, limits)),
        // Which status is due shows only when all of the version is there.
        Err(httparse::Error::Version) if memchr(b'\n', src).is_none() => {
            return partial(src, limits).map(|()| None);
        }
        Err(error) => return Err(refuse(src, limits, error)),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return malformed("the request line is incomplete");
    };
    let version = match version {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let target_end = method.len() + 1 + target.len();
    if target_end + LINE_END > limits.line as usize {
        return Err(too_long(src, limits));
    }
    // The parser passes over empty lines at the beginning.
    if position(src, target.as_bytes()) != method.len() + 1 {
        return malformed("an empty line before the request that does not end in CR LF");
    }
    let mut facts = Facts::default();
    let mut end = target_end + LINE_END;
    for header in &*request.headers {
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
    check_target(method, target.as_bytes())?;
    facts.check_host(version)?;
    Ok(Some(Head {
        framing: facts.framing(version)?,
        len: len as u32,
        method: method.len() as u32,
        target: target_end as u32,
        flags: facts.flags(method, version)?,
    }))
}

/// Where in `src` a part of it lies.
#[inline]
pub(super) fn position(src: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(src.as_ptr() as usize)
}

/// Where the next line begins after a value that ends at `end`, if this one ends in CR LF.
#[inline]
pub(super) fn line_end(src: &[u8], mut end: usize) -> usize {
    while let Some(b' ' | b'\t') = src.get(end) {
        end += 1;
    }
    match src.get(end) {
        Some(b'\r') => end + 2,
        // No line begins here.
        _ => usize::MAX - 2,
    }
}

/// What the headers of a message say about its framing and its connection.
#[derive(Default)]
pub(super) struct Facts<'a> {
    hosts: u8,
    bad_host: bool,
    length: Option<Result<u64, MessageError>>,
    coding: Option<Coding>,
    expectation: Option<&'a [u8]>,
    pub(super) close: bool,
    pub(super) persist: bool,
}

/// What a message says about its transfer codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Another one, and chunked behind it.
    Unknown,
    /// The last one is not chunked, or chunked comes twice.
    Faulty,
}

impl<'a> Facts<'a> {
    #[inline]
    pub(super) fn note(&mut self, header: &httparse::Header<'a>) {
        let (name, value) = (header.name, header.value);
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.hosts = self.hosts.saturating_add(1);
                self.bad_host |= !is_host(value);
            }
            6 if name.eq_ignore_ascii_case("expect") => self.expectation = Some(value),
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in tokens(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.persist |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let length = match self.length {
                    None => parse_length(value),
                    Some(_) => malformed("more than one Content-Length"),
                };
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                // Two lines are one list: its last member is in the last.
                let coding = match self.coding {
                    None => Coding::of(value),
                    Some(_) => Coding::Faulty,
                };
                self.coding = Some(coding);
            }
            _ => {}
        }
    }

    /// Each request has one host, by which proxies and servers must not differ (section 3.2).
    fn check_host(&self, version: Version) -> Result<(), MessageError> {
        match self.hosts {
            _ if self.bad_host => malformed("a Host that is no host"),
            0 if version == Version::Http11 => malformed("no Host"),
            0 | 1 => Ok(()),
            _ => malformed("more than one Host"),
        }
    }

    /// The framing that the headers tell (section 6.3), which may not leave any doubt.
    #[inline]
    pub(super) fn framing(&self, version: Version) -> Result<Framing, MessageError> {
        match (self.coding, self.length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => length.map(Framing::Length),
            (Some(_), Some(_)) => malformed("both a Content-Length and a Transfer-Encoding"),
            (Some(_), None) if version == Version::Http10 => {
                malformed("a Transfer-Encoding, which HTTP/1.0 does not have")
            }
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Unknown), None) => Err(MessageError::TransferCoding),
            (Some(Coding::Faulty), None) => {
                malformed("a Transfer-Encoding that does not end in one chunked")
            }
        }
    }

    /// What is to be remembered until the request is answered.
    fn flags(&self, method: &str, version: Version) -> Result<u16, MessageError> {
        let mut flags = match method {
            "HEAD" => HEAD,
            "CONNECT" => CONNECT,
            _ => 0,
        };
        if version == Version::Http10 {
            flags |= HTTP10;
        }
        if self.close || (version == Version::Http10 && !self.persist) {
            flags |= CLOSE;
        }
        if self.expects(version)? {
            flags |= EXPECTS;
        }
        Ok(flags)
    }

    fn expects(&self, version: Version) -> Result<bool, MessageError> {
        match self.expectation {
            // A client of that version cannot mean it (RFC 9110, section 10.1.1).
            Some(_) if version == Version::Http10 => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
            Some(_) => Err(MessageError::Expectation),
            None => Ok(false),
        }
    }
}

impl Coding {
    fn of(list: &[u8]) -> Self {
        if list.eq_ignore_ascii_case(b"chunked") {
            return Coding::Chunked;
        }
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let count = tokens(list).filter(|coding| is_chunked(coding)).count();
        match tokens(list).last() {
            Some(last) if count == 1 && is_chunked(last) => Coding::Unknown,
            _ => Coding::Faulty,
        }
    }
}

/// Digits and nothing else: no sign, no list, no overflow.
fn parse_length(value: &[u8]) -> Result<u64, MessageError> {
    if value.is_empty() {
        return malformed("an empty Content-Length");
    }
    let mut length = 0_u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        let longer = length
            .checked_mul(10)
            .and_then(|length| length.checked_add(digit.into()));
        match longer {
            Some(longer) if digit <= 9 => length = longer,
            _ => return malformed("a Content-Length that is no number"),
        }
    }
    Ok(length)
}

/// A target has one of four forms (section 3.2).
#[inline]
pub(super) fn check_target(method: &str, target: &[u8]) -> Result<(), MessageError> {
    let well_formed = match target {
        [b'/', ..] => method != "CONNECT",
        b"*" => method == "OPTIONS",
        authority if method == "CONNECT" => is_host(authority) && authority.contains(&b':'),
        absolute => authority(absolute).is_some_and(is_host),
    };
    if !well_formed {
        return malformed("a target of no known form");
    }
    if !is_target(target) {
        return malformed("a target with characters that must be escaped");
    }
    Ok(())
}

/// The authority of a target in absolute form.
pub(super) fn authority(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = target.split_at_checked(7)?;
    let rest = match scheme {
        scheme if scheme.eq_ignore_ascii_case(b"http://") => rest,
        scheme if scheme.eq_ignore_ascii_case(b"https:/") => rest.strip_prefix(b"/")?,
        _ => return None,
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let authority = &rest[..end.unwrap_or(rest.len())];
    (!authority.is_empty()).then_some(authority)
}

/// The head is incomplete, which is allowed up to its limits.
#[cold]
fn partial(src: &[u8], limits: &Limits) -> Result<(), MessageError> {
    let line = memchr(b'\n', src).unwrap_or(src.len());
    if line > limits.line as usize || src.len() > limits.head as usize {
        return Err(too_long(src, limits));
    }
    Ok(())
}

#[cold]
fn too_long(src: &[u8], limits: &Limits) -> MessageError {
    match memchr(b'\n', src) {
        Some(line) if line <= limits.line as usize => MessageError::HeadTooLong {
            max: limits.head as usize,
        },
        _ => MessageError::LineTooLong {
            max: limits.line as usize,
        },
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
        httparse::Error::Version if names_another_version(src) => return MessageError::Version,
        httparse::Error::Version => "no version at the end of the request line",
        httparse::Error::HeaderName => "a header without a proper name",
        httparse::Error::HeaderValue => "a header with a control character in its value",
        httparse::Error::NewLine => "a line that does not end in CR LF",
        _ => "the request line is not a method, a target and a version",
    };
    MessageError::Malformed { what }
}

/// Whether the first line ends in a version of the right form.
fn names_another_version(src: &[u8]) -> bool {
    let line = src.split(|byte| *byte == b'\r').next().unwrap_or(src);
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    match (parts.next(), parts.next()) {
        (Some(&[b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}
