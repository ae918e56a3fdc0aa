//! Header lines as they were received, for proxies.

use std::cmp::Ordering;
use std::fmt;

use memchr::memchr;

/// A header line as it was received. The parser has checked it.
///
/// A proxy copies it into a [`HeaderBlock`](super::HeaderBlock) with
/// [`push_line`](super::HeaderBlock::push_line), which does not check it again.
#[derive(Clone, Copy)]
pub struct HeaderLine<'a> {
    /// The line, with its CR LF.
    bytes: &'a [u8],
    colon: usize,
}

impl<'a> HeaderLine<'a> {
    /// Returns the whole line, with its CR LF.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the position of the colon after the name.
    #[inline]
    pub fn colon(&self) -> usize {
        self.colon
    }

    /// Returns the name, which is a token in ASCII.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[..self.colon]
    }

    /// Returns the value, without the white space around it.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.bytes[self.colon + 1..].trim_ascii()
    }

    /// Returns true if the header has that name, in any case.
    #[inline]
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// Returns true if the header is about this connection only, so that a proxy does not pass it on (RFC 9110, section
    /// 7.6.1): `Connection`, `Proxy-Connection`, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authorization`, `TE`,
    /// `Trailer`, `Transfer-Encoding`, `Upgrade` or `HTTP2-Settings`.
    ///
    /// A `Connection` header can name others: see [`Headers::end_to_end`](super::Headers::end_to_end).
    #[inline]
    pub fn is_hop_by_hop(&self) -> bool {
        match self.colon {
            2 => self.is("te"),
            7 => self.is("trailer") || self.is("upgrade"),
            10 => self.is("connection") || self.is("keep-alive"),
            14 => self.is("http2-settings"),
            16 => self.is("proxy-connection"),
            17 => self.is("transfer-encoding"),
            18 => self.is("proxy-authenticate"),
            19 => self.is("proxy-authorization"),
            _ => false,
        }
    }

    /// Returns true if the codecs write this header from what they know: `Host` and `Content-Length`.
    fn is_the_codecs(&self) -> bool {
        match self.colon {
            4 => self.is("host"),
            14 => self.is("content-length"),
            _ => false,
        }
    }
}

impl fmt::Debug for HeaderLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = String::from_utf8_lossy(self.bytes);
        line.trim_end().fmt(f)
    }
}

/// Iterates over checked header lines.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = HeaderLine<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeaderLine<'a>> {
        // A line has an LF only at its end.
        let end = memchr(b'\n', self.0)? + 1;
        let (bytes, rest) = self.0.split_at(end);
        self.0 = rest;
        let colon = memchr(b':', bytes)?;
        Some(HeaderLine { bytes, colon })
    }
}

/// Returns the members of a comma-separated list, without the white space around them.
pub(crate) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Iterates over the lines that a proxy passes on.
pub(super) struct EndToEnd<'a> {
    lines: Lines<'a>,
    /// The options in `Connection` headers, sorted. Empty if there are only the usual ones.
    nominated: Vec<&'a [u8]>,
}

impl<'a> EndToEnd<'a> {
    #[inline]
    pub(super) fn new(lines: Lines<'a>, nominates: bool) -> Self {
        let nominated = if nominates {
            nominated(lines)
        } else {
            Vec::new()
        };
        Self { lines, nominated }
    }

    fn passes(&self, line: &HeaderLine<'_>) -> bool {
        !line.is_hop_by_hop()
            && !line.is_the_codecs()
            && (self.nominated.is_empty() || !self.is_nominated(line.name()))
    }

    #[cold]
    fn is_nominated(&self, name: &[u8]) -> bool {
        let found = self
            .nominated
            .binary_search_by(|other| by_letters(other, name));
        found.is_ok()
    }
}

impl<'a> Iterator for EndToEnd<'a> {
    type Item = HeaderLine<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeaderLine<'a>> {
        loop {
            let line = self.lines.next()?;
            if self.passes(&line) {
                return Some(line);
            }
        }
    }
}

/// Returns the options in `Connection` headers, sorted.
#[cold]
fn nominated<'a>(lines: Lines<'a>) -> Vec<&'a [u8]> {
    let connection = lines.filter(|line| line.is("connection"));
    let mut options: Vec<&[u8]> = connection.flat_map(|line| tokens(line.value())).collect();
    options.sort_unstable_by(|a, b| by_letters(a, b));
    options
}

/// Compares names without regard to case.
fn by_letters(a: &[u8], b: &[u8]) -> Ordering {
    let lower = u8::to_ascii_lowercase;
    a.iter().map(lower).cmp(b.iter().map(lower))
}
