use std::fmt;
use std::str;

use super::lines::{EndToEnd, HeaderLine, Lines, tokens};
use crate::charset::Charset;

/// The headers of a message, or its trailers, in the order in which they arrived: pairs of name and value.
///
/// They are found in the received bytes on each access; nothing is stored. Values are bytes, since bytes beyond ASCII
/// have no agreed meaning (RFC 9110, section 5.5).
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    /// The header lines, each with its CR LF. The parser has checked them.
    lines: &'a [u8],
    /// True if a `Connection` header among them names others.
    nominates: bool,
}

impl<'a> Headers<'a> {
    /// The headers of a head that has none.
    #[cfg(feature = "gateway")]
    pub(crate) const NONE: Self = Self {
        lines: &[],
        nominates: false,
    };

    /// Returns the headers of a head. `nominates` is true if a `Connection` header among them names others.
    #[inline]
    pub(super) fn new(lines: &'a [u8], nominates: bool) -> Self {
        Self { lines, nominates }
    }

    pub(super) fn trailers(lines: &'a [u8]) -> Self {
        Self::new(lines, false)
    }

    /// Returns the value of the first header of that name, in any case.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// Returns the values of all headers of that name, in any case.
    pub fn get_all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        Lines(self.lines)
            .filter(move |line| line.is(name))
            .map(|line| line.value())
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

    /// Returns the header lines as they were received, without a look at their values. A proxy passes them on with
    /// [`HeaderBlock::push_line`](super::HeaderBlock::push_line).
    #[inline]
    pub fn lines(self) -> impl Iterator<Item = HeaderLine<'a>> {
        Lines(self.lines)
    }

    /// Returns the lines that a proxy passes on: all but those that are [hop-by-hop](HeaderLine::is_hop_by_hop), those
    /// that a `Connection` header names, and `Host` and `Content-Length`, which the codecs write.
    ///
    /// ```
    /// # use epicycle::codec::{Codec, Decoded};
    /// # use epicycle::http::HttpCodec;
    /// let mut input = *b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nAccept: */*\r\n\r\n";
    /// let Decoded::Frame { frame: request, .. } = HttpCodec::default().decode(&mut input)? else {
    ///     panic!("it is complete");
    /// };
    /// let lines: Vec<_> = request.headers().end_to_end().map(|line| line.as_bytes()).collect();
    /// assert_eq!(lines, [b"Accept: */*\r\n"]);
    /// # Ok::<(), epicycle::codec::FrameError>(())
    /// ```
    #[inline]
    pub fn end_to_end(self) -> impl Iterator<Item = HeaderLine<'a>> {
        EndToEnd::new(Lines(self.lines), self.nominates)
    }

    /// Returns the filter of [`end_to_end`](Self::end_to_end).
    #[cfg(feature = "gateway")]
    #[inline]
    pub(super) fn end_to_end_filter(self) -> EndToEnd<'a> {
        EndToEnd::new(Lines(self.lines), self.nominates)
    }

    /// Returns the lines, each with its CR LF.
    #[cfg(feature = "gateway")]
    #[inline]
    pub(super) fn as_bytes(self) -> &'a [u8] {
        self.lines
    }

    /// Returns true if a `Connection` header names other headers.
    #[cfg(feature = "gateway")]
    pub(crate) fn nominates(self) -> bool {
        self.nominates
    }

    /// Returns true if there are no headers.
    pub fn is_empty(self) -> bool {
        self.lines.is_empty()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut lines = Lines(self.lines);
        let line = lines.next()?;
        self.lines = lines.0;
        let name = str::from_utf8(line.name()).unwrap_or_default();
        Some((name, line.value()))
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
/// them: the graphic characters of ASCII are, except `#`.
///
/// It checks eight bytes at a time, the last of which overlap those before them.
#[inline]
pub(super) fn is_target(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    };
    let chunks = bytes.as_chunks::<8>().0.iter().chain([last]);
    chunks.fold(0, |found, chunk| found | outside_target(chunk)) == 0
}

/// Returns a word that is 0 if no byte of the chunk is outside the characters of a target.
///
/// Each sum and difference stays within its byte, unless a byte is beyond ASCII. Then the result is not 0 anyway.
#[inline(always)]
fn outside_target(chunk: &[u8; 8]) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(*chunk);
    let from_space_down = !((word | each(0x80)) - each(b'!'));
    let delete = word.wrapping_add(each(1));
    let hash = !(word ^ each(b'#')).wrapping_add(each(0x7F));
    (word | from_space_down | delete | hash) & each(0x80)
}

pub(crate) static TOKEN: Charset = Charset::alphanumeric_and(b"!#$%&'*+-.^_`|~");
static VALUE: Charset = Charset::printable_and(b"\t");

#[cfg(all(test, not(loom)))]
mod tests {
    use super::is_target;

    #[test]
    fn a_target_has_the_graphic_characters_of_ascii_except_the_hash() {
        let marks = b"-._~!$&'()*+,;=%:[]@/?\"<>\\^`{|}";
        for byte in 0..=0xFF_u8 {
            let expected = byte.is_ascii_alphanumeric() || marks.contains(&byte);
            for len in 1..=20 {
                for at in 0..len {
                    let mut target = [b'a'; 20];
                    target[at] = byte;
                    let found = is_target(&target[..len]);
                    assert_eq!(found, expected, "{byte:#x} at {at} of {len}");
                }
            }
            assert!(byte.is_ascii() || !is_target(&[byte; 16]), "{byte:#x}");
        }
    }
}
