use std::fmt;
use std::str;

use memchr::memchr;

use crate::charset::Charset;

/// The headers of a message, or its trailers, in the order in which they came: pairs of name and value.
///
/// They are found in the received bytes as one asks for them; nothing is stored. Values are bytes: what is beyond
/// ASCII in them has no agreed meaning (RFC 9110, section 5.5).
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    /// Lines, each with its CR LF, that have been found to be headers.
    lines: &'a [u8],
}

impl<'a> Headers<'a> {
    pub(crate) fn new(lines: &'a [u8]) -> Self {
        Self { lines }
    }

    /// The value of the first header of that name, in whatever case.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// The values of all headers of that name, in whatever case.
    pub fn get_all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Whether a header of that name has the token in its comma-separated list, both in whatever case.
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

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.lines.is_empty()
    }
}

/// The members of a comma-separated list, without the white space around them.
pub(crate) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // No line has a CR but at its end.
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

/// Whether it can be a header's name or a method (RFC 9110, section 5.6.2).
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && TOKEN.has_all(bytes)
}

/// Whether it can be a header's value: no control characters but the tab.
#[inline]
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    VALUE.has_all(bytes)
}

/// Whether a target has none but characters that need no escape. Some are let pass that do, since browsers send them.
#[inline]
pub(super) fn is_target(bytes: &[u8]) -> bool {
    TARGET.has_all(bytes)
}

pub(crate) static TOKEN: Charset = Charset::alphanumeric_and(b"!#$%&'*+-.^_`|~");
static TARGET: Charset = Charset::alphanumeric_and(b"-._~!$&'()*+,;=%:[]@/?\"<>\\^`{|}");
static VALUE: Charset = Charset::printable_and(b"\t");
