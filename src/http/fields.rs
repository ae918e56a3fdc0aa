use std::fmt;
use std::str;

use memchr::memchr;

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
    pub(super) fn new(lines: &'a [u8]) -> Self {
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
pub(super) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
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
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all_in(bytes, &TOKEN)
}

/// Whether it can be a header's value: no control characters but the tab.
#[inline]
pub(super) fn is_value(bytes: &[u8]) -> bool {
    all_in(bytes, &VALUE)
}

/// Whether it can be an authority without user information (RFC 9112, section 3.2): a host with or without a port.
#[inline]
pub(super) fn is_host(bytes: &[u8]) -> bool {
    all_in(bytes, &HOST)
}

/// Whether a target has none but characters that need no escape. Some are let pass that do, since browsers send them.
#[inline]
pub(super) fn is_target(bytes: &[u8]) -> bool {
    all_in(bytes, &TARGET)
}

/// Looks at eight bytes between two branches, which takes half as long as stopping at the first that is not in the
/// table.
#[inline]
fn all_in(bytes: &[u8], table: &[bool; 256]) -> bool {
    let mut all = true;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        for byte in chunk {
            all &= table[usize::from(*byte)];
        }
    }
    for byte in rest {
        all &= table[usize::from(*byte)];
    }
    all
}

static TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");
static HOST: [bool; 256] = table(b"-._~!$&'()*+,;=%:[]");
static TARGET: [bool; 256] = table(b"-._~!$&'()*+,;=%:[]@/?\"<>\\^`{|}");
static VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 32 {
        table[byte] = byte == b'\t' as usize;
        byte += 1;
    }
    table[0x7f] = false;
    table
};

/// Letters, digits, and some others.
const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut n = 0;
    while n < others.len() {
        table[others[n] as usize] = true;
        n += 1;
    }
    table
}
