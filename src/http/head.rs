//! The head of a request, read by the rules of RFC 9112.
//!
//! The `httparse` crate parses the grammar. This module refuses the inputs about which the crate is lenient: if two
//! implementations read a message differently, an attacker can show one of them a request that the other does not see
//! (request smuggling).

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use memchr::memchr;

use self::flags::*;
use super::error::{MessageError, malformed};
use super::fields::is_target;
use super::limits::{Limits, MAX_HEADERS};
use super::lines::{is_named, tokens};
use crate::authority::Authority;

/// Facts about a request to keep until it is answered, one bit each.
pub(super) mod flags {
    /// The request is a HEAD.
    pub(in crate::http) const HEAD: u16 = 1 << 0;
    /// The request is a CONNECT.
    pub(in crate::http) const CONNECT: u16 = 1 << 1;
    /// The request's version, HTTP/1.0, has no chunked coding.
    pub(in crate::http) const HTTP10: u16 = 1 << 2;
    /// The connection closes after the answer.
    pub(in crate::http) const CLOSE: u16 = 1 << 3;
    /// The client waits for a `100 Continue`.
    pub(in crate::http) const EXPECTS: u16 = 1 << 4;
    /// The request's body is incomplete.
    pub(in crate::http) const RECEIVING: u16 = 1 << 5;
    /// Nothing more is to be sent.
    pub(in crate::http) const FINISHED: u16 = 1 << 6;
    /// A `Connection` header names other headers. Not about the answer.
    pub(in crate::http) const NOMINATES: u16 = 1 << 8;
    /// The answer ends with its `End`, even if its body has a length or is absent.
    pub(in crate::http) const AWAITS_END: u16 = 1 << 7;
}

/// A request's head, as offsets into the bytes in which it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// The length, including the empty line at the end.
    pub(super) len: u32,
    /// The end of the method. The target begins one byte later.
    pub(super) method: u32,
    /// The end of the target.
    pub(super) target: u32,
    /// The facts on which the answer depends: see [`flags`].
    pub(super) flags: u16,
}

/// The bytes between the target and the first header.
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

    /// Returns the range of the header lines.
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

/// The way in which the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    None,
    Length(u64),
    Chunked,
}

/// Parses the head of a request at the start of `src`. Returns `None` if it is incomplete.
#[inline]
pub(super) fn parse(src: &[u8], limits: &Limits) -> Result<Option<Head>, MessageError> {
    match parse_known(src, limits) {
        Err(MessageError::Version) => parse_minor(src, limits),
        parsed => parsed,
    }
}

/// Parses a head whose minor version is unknown. It is read as the highest known one (RFC 9110, section 2.5).
#[cold]
fn parse_minor(src: &[u8], limits: &Limits) -> Result<Option<Head>, MessageError> {
    let line = memchr(b'\n', src).unwrap_or(src.len());
    let digit = line.saturating_sub(2);
    let known = with_known_minor(src, digit, limits).ok_or(MessageError::Version)?;
    parse_known(&known, limits)
}

/// Returns a copy of a head, and of some bytes after it, with the digit of the minor version replaced by 1. Returns
/// `None` if the byte is not the digit of such a version.
#[cold]
pub(super) fn with_known_minor(src: &[u8], digit: usize, limits: &Limits) -> Option<Vec<u8>> {
    let before = src.get(..digit)?;
    if !before.ends_with(b"HTTP/1.") || !matches!(src.get(digit), Some(b'2'..=b'9')) {
        return None;
    }
    let len = src.len().min(limits.head as usize + 1);
    let mut copy = src[..len].to_vec();
    *copy.get_mut(digit)? = b'1';
    Some(copy)
}

#[inline(always)]
fn parse_known(src: &[u8], limits: &Limits) -> Result<Option<Head>, MessageError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let allowed = &mut headers[..usize::from(limits.headers)];
    let len = match request.parse_with_uninit_headers(src, allowed) {
        Ok(httparse::Status::Complete(len)) if len <= limits.head as usize => len,
        Ok(httparse::Status::Partial) => return partial(src, limits).map(|()| None),
        Ok(_) => return Err(too_long(src, limits)),
        // The status (400 or 505) depends on the whole version, so wait for it.
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
    // The parser skips empty lines at the start.
    if position(src, target.as_bytes()) != method.len() + 1 {
        return malformed("an empty line before the request that does not end in CR LF");
    }
    let mut facts = Facts::default();
    let mut end = target_end + LINE_END;
    for header in &*request.headers {
        // The parser accepts a bare LF as a line ending, so check that each name begins where the line before it ends
        // in CR LF.
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

/// Returns the offset in `src` of a slice of it.
#[inline]
pub(super) fn position(src: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(src.as_ptr() as usize)
}

/// Returns the offset of the next line after a value that ends at `end`, if the value's line ends in CR LF.
#[inline]
pub(super) fn line_end(src: &[u8], mut end: usize) -> usize {
    // Few values have white space behind them.
    if src.get(end) == Some(&b'\r') {
        return end + 2;
    }
    while let Some(b' ' | b'\t') = src.get(end) {
        end += 1;
    }
    match src.get(end) {
        Some(b'\r') => end + 2,
        _ => NOWHERE,
    }
}

/// An offset at which no line begins.
const NOWHERE: usize = usize::MAX - 2;

/// The framing and connection headers of a message.
#[derive(Default)]
pub(super) struct Facts {
    /// False if there is no header that the fields below are about, except `hosts`.
    has_framing: bool,
    hosts: u8,
    bad_host: bool,
    length: Option<Result<u64, MessageError>>,
    coding: Option<Coding>,
    /// `Some(true)` for exactly 100-continue, `Some(false)` for anything else.
    expectation: Option<bool>,
    pub(super) close: bool,
    pub(super) persist: bool,
    /// True if a `Connection` header has the option `upgrade`, without which `Upgrade` means nothing.
    pub(super) upgrade: bool,
    /// True if a `Connection` header names other headers, which a proxy drops.
    pub(super) nominates: bool,
    /// True if a repeated `Content-Length` is accepted when all values are equal.
    accepts_repeated_length: bool,
}

/// The transfer codings of a message, collected from all `Transfer-Encoding` lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// No coding so far.
    None,
    Chunked,
    /// Only codings other than chunked, which would not mark the end of the body.
    Other,
    /// Other codings, with chunked as the last.
    OtherChunked,
    /// Chunked occurs twice, or is not the last.
    Faulty,
}

impl Facts {
    /// Returns an empty collection. With `accepts`, a repeated `Content-Length` is accepted if all values are equal.
    pub(super) fn accepting_repeated_length(accepts: bool) -> Self {
        Self {
            accepts_repeated_length: accepts,
            ..Self::default()
        }
    }

    /// Notes a header. The usual ones, which are not about framing or the connection, take no call.
    #[inline(always)]
    pub(super) fn note(&mut self, header: &httparse::Header<'_>) {
        let (name, value) = (header.name.as_bytes(), header.value);
        if is_named(name, b"host") {
            self.hosts = self.hosts.saturating_add(1);
            // `Host` is empty if the target's URI has no authority (section 3.2).
            self.bad_host |= !value.is_empty() && !is_host(value);
            return;
        }
        let first = name.first().map_or(0, |letter| letter | 0x20);
        if let (6, b'e') | (10 | 14, b'c') | (17, b't') = (name.len(), first) {
            self.note_framing(name, value);
        }
    }

    #[inline(never)]
    fn note_framing(&mut self, name: &[u8], value: &[u8]) {
        self.has_framing = true;
        match name.len() {
            6 if is_named(name, b"expect") => {
                for expectation in tokens(value) {
                    let is_known = expectation.eq_ignore_ascii_case(b"100-continue");
                    self.expectation = Some(is_known && self.expectation.unwrap_or(true));
                }
            }
            10 if is_named(name, b"connection") && is_named(value, b"keep-alive") => {
                self.persist = true;
            }
            10 if is_named(name, b"connection") => {
                for option in tokens(value) {
                    match option.len() {
                        5 if is_named(option, b"close") => self.close = true,
                        10 if is_named(option, b"keep-alive") => self.persist = true,
                        7 if is_named(option, b"upgrade") => self.upgrade = true,
                        _ => self.nominates |= names_a_header(option),
                    }
                }
            }
            14 if is_named(name, b"content-length") => {
                let length = if self.accepts_repeated_length {
                    parse_repeated_length(value)
                } else {
                    parse_length(value)
                };
                self.length = Some(match self.length {
                    Some(same) if self.accepts_repeated_length && same == length => same,
                    Some(_) => malformed("more than one Content-Length"),
                    None => length,
                });
            }
            17 if is_named(name, b"transfer-encoding") => {
                // Several lines form one list.
                let begun = self.coding.unwrap_or(Coding::None);
                self.coding = Some(tokens(value).fold(begun, Coding::then));
            }
            _ => {}
        }
    }

    /// Checks the host: each request has exactly one, so that proxies and servers agree on it (section 3.2).
    #[inline]
    fn check_host(&self, version: Version) -> Result<(), MessageError> {
        match self.hosts {
            _ if self.bad_host => malformed("a Host header whose value is not a host"),
            1 => Ok(()),
            0 if version == Version::Http10 => Ok(()),
            0 => malformed("no Host"),
            _ => malformed("more than one Host"),
        }
    }

    /// Returns the framing (section 6.3). Ambiguous framing is refused.
    #[inline]
    pub(super) fn framing(&self, version: Version) -> Result<Framing, MessageError> {
        if self.has_framing {
            self.announced_framing(version)
        } else {
            Ok(Framing::None)
        }
    }

    #[inline(never)]
    fn announced_framing(&self, version: Version) -> Result<Framing, MessageError> {
        match (self.coding, self.length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => length.map(Framing::Length),
            (Some(_), Some(_)) => malformed("both a Content-Length and a Transfer-Encoding"),
            (Some(_), None) if version == Version::Http10 => {
                malformed("a Transfer-Encoding, which HTTP/1.0 does not have")
            }
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::OtherChunked), None) => Err(MessageError::TransferCoding),
            (Some(Coding::None | Coding::Other | Coding::Faulty), None) => malformed(
                "a Transfer-Encoding whose last coding is not chunked, or that has chunked twice",
            ),
        }
    }

    /// Returns the [`flags`] to keep until the request is answered.
    #[inline(always)]
    fn flags(&self, method: &str, version: Version) -> Result<u16, MessageError> {
        let flags = match method {
            "HEAD" => HEAD,
            "CONNECT" => CONNECT,
            _ => 0,
        };
        if self.has_framing || version == Version::Http10 {
            Ok(flags | self.connection_flags(version)?)
        } else {
            Ok(flags)
        }
    }

    #[inline(never)]
    fn connection_flags(&self, version: Version) -> Result<u16, MessageError> {
        let mut flags = 0;
        if version == Version::Http10 {
            flags |= HTTP10;
        }
        if self.close || (version == Version::Http10 && !self.persist) {
            flags |= CLOSE;
        }
        if self.expects(version)? {
            flags |= EXPECTS;
        }
        flags |= u16::from(self.nominates) * NOMINATES;
        Ok(flags)
    }

    fn expects(&self, version: Version) -> Result<bool, MessageError> {
        match self.expectation {
            // An HTTP/1.0 client cannot mean it (RFC 9110, section 10.1.1).
            Some(_) if version == Version::Http10 => Ok(false),
            Some(true) => Ok(true),
            Some(false) => Err(MessageError::Expectation),
            None => Ok(false),
        }
    }
}

/// Returns true if a `Connection` option is the name of a header that is not hop-by-hop anyway.
fn names_a_header(option: &[u8]) -> bool {
    !option.eq_ignore_ascii_case(b"te")
}

impl Coding {
    /// Returns the codings with another one appended.
    fn then(self, coding: &[u8]) -> Self {
        match (self, coding.eq_ignore_ascii_case(b"chunked")) {
            (Coding::None, true) => Coding::Chunked,
            (Coding::Other, true) => Coding::OtherChunked,
            (Coding::None | Coding::Other, false) => Coding::Other,
            (Coding::Chunked | Coding::OtherChunked | Coding::Faulty, _) => Coding::Faulty,
        }
    }
}

/// Accepts digits only: no sign, no list, no overflow.
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
            _ => return malformed("a Content-Length that is not a number"),
        }
    }
    Ok(length)
}

/// Parses a list of lengths that are all equal (RFC 9110, section 8.6).
#[cold]
fn parse_repeated_length(list: &[u8]) -> Result<u64, MessageError> {
    let mut lengths = tokens(list).map(parse_length);
    let first = lengths.next().unwrap_or_else(|| parse_length(list))?;
    if lengths.any(|length| length != Ok(first)) {
        return malformed("more than one Content-Length");
    }
    Ok(first)
}

/// Checks that a target has one of the four forms (section 3.2).
#[inline]
pub(crate) fn check_target(method: &str, target: &[u8]) -> Result<(), MessageError> {
    let well_formed = match target {
        [b'/', ..] => method != "CONNECT",
        b"*" => method == "OPTIONS",
        authority if method == "CONNECT" => is_host_and_port(authority),
        absolute => authority(absolute).is_some_and(is_host),
    };
    if !well_formed {
        return malformed("a target that has none of the known forms");
    }
    if !is_target(target) {
        return malformed("a target with characters that must be escaped");
    }
    Ok(())
}

/// Returns true if the bytes are the authority of an `http` URI. Its host must not be empty (RFC 9110, section 4.2.1).
#[inline]
pub(crate) fn is_host(bytes: &[u8]) -> bool {
    Authority::parse(bytes).is_ok_and(|authority| !authority.host.is_empty())
}

/// Returns true if the bytes are a host and a port, the target of a tunnel. The port has no default (RFC 9110, section
/// 9.3.6).
#[cold]
fn is_host_and_port(bytes: &[u8]) -> bool {
    let has_port = |authority: Authority<'_>| authority.port.is_some_and(|port| port > 0);
    is_host(bytes) && Authority::parse(bytes).is_ok_and(has_port)
}

/// Returns the authority of a target in absolute form.
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

/// Checks an incomplete head against the limits.
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
        httparse::Error::HeaderName => "a header without a valid name",
        httparse::Error::HeaderValue => "a header with a control character in its value",
        httparse::Error::NewLine => "a line that does not end in CR LF",
        _ => "the request line is not a method, a target and a version",
    };
    MessageError::Malformed { what }
}

/// Returns true if the first line ends in a version of the right form.
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
