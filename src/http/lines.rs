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
        is_hop_by_hop(self.name())
    }
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.len() {
        2 => is_named(name, b"te"),
        7 => is_named(name, b"trailer") || is_named(name, b"upgrade"),
        10 => is_named(name, b"connection") || is_named(name, b"keep-alive"),
        14 => is_named(name, b"http2-settings"),
        16 => is_named(name, b"proxy-connection"),
        17 => is_named(name, b"transfer-encoding"),
        18 => is_named(name, b"proxy-authenticate"),
        19 => is_named(name, b"proxy-authorization"),
        _ => false,
    }
}

/// Returns true if the codecs write a header of this name from what they know: `Host` and `Content-Length`.
fn is_the_codecs(name: &[u8]) -> bool {
    match name.len() {
        4 => is_named(name, b"host"),
        14 => is_named(name, b"content-length"),
        _ => false,
    }
}

/// The lines of a head that a proxy does not pass on, as the parser has found them. Most heads have few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HopLines {
    /// Where they begin and end, in order. Those behind the last one are empty.
    places: [(u16, u16); Self::MAX],
    len: u8,
    /// True if there are more than have a place here, or if they lie beyond what a place can tell.
    are_unknown: bool,
    /// True if there is a `Date` among the others.
    pub(super) has_date: bool,
}

impl HopLines {
    const MAX: usize = 4;

    /// Notes a line by its name, and by where it begins and ends.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8], begin: usize, end: usize) {
        if is_hop_by_hop(name) || is_the_codecs(name) {
            let place = self.places.get_mut(usize::from(self.len));
            match (place, u16::try_from(begin), u16::try_from(end)) {
                (Some(place), Ok(begin), Ok(end)) => *place = (begin, end),
                _ => self.are_unknown = true,
            }
            self.len = self.len.saturating_add(1);
        } else if name.len() == 4 {
            self.has_date |= is_named(name, b"date");
        }
    }

    /// Calls `keep` for each stretch of the lines from `begin` to `end` that a proxy passes on. Returns false if they are not
    /// known.
    #[cfg(feature = "gateway")]
    #[inline]
    pub(super) fn each_other(
        &self,
        begin: usize,
        end: usize,
        mut keep: impl FnMut(std::ops::Range<usize>),
    ) -> bool {
        if self.are_unknown {
            return false;
        }
        let mut at = begin;
        for (begin, end) in &self.places[..usize::from(self.len)] {
            keep(at..usize::from(*begin));
            at = usize::from(*end);
        }
        keep(at..end);
        true
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
        let colon = find(b':', self.0)?;
        let end = colon + find(b'\n', self.0.get(colon..)?)? + 1;
        let (bytes, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        Some(HeaderLine { bytes, colon })
    }
}

/// Returns the position of a byte, which is usually near. Names and most values are shorter than the start of `memchr` costs.
#[inline]
fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    const NEAR: usize = 6;
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    for (n, chunk) in bytes.as_chunks::<8>().0.iter().take(NEAR).enumerate() {
        // The lowest bit that is set belongs to the first byte that is equal.
        let word = u64::from_le_bytes(*chunk) ^ each(byte);
        let found = word.wrapping_sub(each(1)) & !word & each(0x80);
        if found != 0 {
            return Some(n * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let seen = (bytes.len() / 8).min(NEAR) * 8;
    let rest = bytes.get(seen..)?;
    if rest.len() < 8 {
        let at = rest.iter().position(|other| *other == byte);
        return at.map(|at| seen + at);
    }
    memchr(byte, rest).map(|at| seen + at)
}

/// Returns true if a header's name, or an option in its value, is the `known` one in any case. `known` is in lower case.
///
/// It compares whole words, without a branch for each byte. `known` has only letters, digits and hyphens. Apart from control
/// characters, which neither names nor values contain, no other byte differs from those in the bit of the case alone.
#[inline]
pub(crate) fn is_named<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    debug_assert!(
        !name
            .iter()
            .any(|byte| byte.is_ascii_control() && *byte != b'\t'),
        "it has a control character"
    );
    let Ok(name) = <&[u8; N]>::try_from(name) else {
        return false;
    };
    let mut difference = 0;
    for (byte, known) in name.iter().zip(known) {
        difference |= (byte | 0x20) ^ known;
    }
    difference == 0
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

    #[inline]
    pub(super) fn passes(&self, line: &HeaderLine<'_>) -> bool {
        !line.is_hop_by_hop()
            && !is_the_codecs(line.name())
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

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_known_in_any_case_and_nothing_else_is() {
        for name in ["keep-alive", "Keep-Alive", "KEEP-ALIVE"] {
            assert!(is_named(name.as_bytes(), b"keep-alive"), "{name}");
        }
        for at in 0.."keep-alive".len() {
            for byte in (0x20..=0xFF).filter(|byte| *byte != 0x7F) {
                let mut name = *b"keep-alive";
                name[at] = byte;
                let expected = name.eq_ignore_ascii_case(b"keep-alive");
                assert_eq!(
                    is_named(&name, b"keep-alive"),
                    expected,
                    "{byte:#x} at {at}"
                );
            }
        }
        assert!(!is_named(b"keep-alive ", b"keep-alive"));
        assert!(!is_named(b"", b"host"));
    }

    proptest! {
        #[test]
        fn a_byte_is_found_where_it_is_first(
            before in prop::collection::vec(any::<u8>(), 0..100),
            after in prop::collection::vec(any::<u8>(), 0..20),
            byte in prop::sample::select(vec![b':', b'\n', 0, 1, 0x80, 0xFF]),
            is_there: bool,
        ) {
            let mut bytes: Vec<u8> = before.into_iter().filter(|other| *other != byte).collect();
            bytes.extend(is_there.then_some(byte));
            bytes.extend(after);
            prop_assert_eq!(find(byte, &bytes), memchr(byte, &bytes));
        }
    }
}
