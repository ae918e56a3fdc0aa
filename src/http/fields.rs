use std::fmt;
use std::str;

use memchr::memchr;

use crate::charset::Charset;

/// The headers of a message, or its trailers, in the order in which they arrived: pairs of name and value.
///
/// They are found in the received bytes on each access; nothing is stored. Values are bytes, since bytes beyond ASCII
/// have no agreed meaning (RFC 9110, section 5.5).
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    /// The header lines, each with its CR LF. The parser has checked them.
    lines: &'a [u8],
}

impl<'a> Headers<'a> {
    pub(crate) fn new(lines: &'a [u8]) -> Self {
        Self { lines }
    }

    /// Returns the value of the first header of that name, in any case.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// Returns the values of all headers of that name, in any case.
    pub fn get_all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Returns true if a header of that name has the token in its comma-separated list. Case is ignored in both.
    ///
    /// ```
    /// # use epicycle::codec::{Codec, Decoded};
    /// # use epicycle::http::HttpCodec;
    /// let mut input = *b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\r\n";
    /// let Decoded::Frame { frame: request, .. } = HttpCodec::default().decode(&mut input)? else {
    ///     panic!("it is complete");
    /// };
    /// assert!(request.headers().has_token("connection", "upgrade"));
    /// # Ok::<(), epicycle::codec::FrameError>(())
    /// ```
    pub fn has_token(self, name: &str, token: &str) -> bool {
        self.get_all(name)
            .flat_map(tokens)
            .any(|other| other.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Returns true if there are no headers.
    pub fn is_empty(self) -> bool {
        self.lines.is_empty()
    }
}

/// Returns the members of a comma-separated list, without the white space around them.
pub(crate) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // A line has a CR only at its end.
        let end = memchr(b'\r', self.lines)?;
        let line = &self.lines[..end];
        self.lines = self.lines.get(end + 2..).unwrap_or_default();
        let colon = memchr(b':', line)?;
        let name = str::from_utf8(&line[..colon]).unwrap_or_default();
        Some((name, line[colon + 1..].trim_ascii()))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.map(|(name, value)| (name, String::from_utf8_lossy(value)));
        f.debug_map().entries(fields).finish()
    }
}

/// Returns true if the bytes can be a header's name or a method (RFC 9110, section 5.6.2).
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && TOKEN.has_all(bytes)
}

/// Returns true if the bytes can be a header's value: no control characters except the tab.
#[inline]
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    VALUE.has_all(bytes)
}

/// Returns true if a target has only characters that need no escape. Some others are accepted, since browsers send
/// them.
#[inline]
pub(super) fn is_target(bytes: &[u8]) -> bool {
    TARGET.has_all(bytes)
}

pub(crate) static TOKEN: Charset = Charset::alphanumeric_and(b"!#$%&'*+-.^_`|~");
static TARGET: Charset = Charset::alphanumeric_and(b"-._~!$&'()*+,;=%:[]@/?\"<>\\^`{|}");
static VALUE: Charset = Charset::printable_and(b"\t");
