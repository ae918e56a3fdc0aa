//! Lines of JSON.
//!
//! The keys are always the same, and few texts need escapes. So a line is put together here, and `serde_json` writes only the
//! texts with escapes. Serialising a structure took seven times as long.

use std::net::SocketAddr;
use std::time::Duration;

use super::texts::visible;
use crate::addr::Addr;
use crate::gateway::ip_text::IpText;

/// A line that is being written. The `begin` of each value is its key, with all marks before and behind it.
pub(super) struct JsonLine<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> JsonLine<'a> {
    /// Begins a line behind others.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        // Most lines are shorter.
        out.reserve(1 << 10);
        Self { out }
    }

    /// Writes a text, cut to so many bytes, without control characters.
    #[inline]
    pub(super) fn text(&mut self, begin: &[u8], text: &[u8], max: usize) {
        self.out.extend_from_slice(begin);
        if text.len() > max || !is_plain(text) {
            return self.unusual_text(text, max);
        }
        self.out.push(b'"');
        self.out.extend_from_slice(text);
        self.out.push(b'"');
    }

    /// Writes the address of a peer.
    pub(super) fn peer(&mut self, begin: &[u8], peer: &Addr) {
        let Addr::Ip(SocketAddr::V4(addr)) = peer else {
            return self.text(begin, peer.to_string().as_bytes(), usize::MAX);
        };
        self.out.extend_from_slice(begin);
        self.out.push(b'"');
        let ip = IpText::of((*addr.ip()).into());
        self.out.extend_from_slice(ip.as_bytes());
        self.number(b":", addr.port().into());
        self.out.push(b'"');
    }

    #[cold]
    fn unusual_text(&mut self, text: &[u8], max: usize) {
        let text = String::from_utf8_lossy(text);
        // Writing to a vector does not fail.
        let _ = serde_json::to_writer(&mut *self.out, &visible(&text, max));
    }

    #[inline]
    pub(super) fn number(&mut self, begin: &[u8], number: u64) {
        self.out.extend_from_slice(begin);
        let mut text = itoa::Buffer::new();
        self.out.extend_from_slice(text.format(number).as_bytes());
    }

    /// Writes a time in milliseconds, with up to three decimals, or `null`.
    pub(super) fn millis(&mut self, begin: &[u8], time: Option<Duration>) {
        let Some(time) = time else {
            self.out.extend_from_slice(begin);
            return self.out.extend_from_slice(b"null");
        };
        let millis = time.as_secs() * 1000 + u64::from(time.subsec_millis());
        self.number(begin, millis);
        let micros = time.subsec_micros() % 1000;
        let digits = [micros / 100, micros / 10 % 10, micros % 10];
        let digits = digits.map(|digit| b'0' + digit as u8);
        let len = match digits {
            [_, b'0', b'0'] => 1,
            [_, _, b'0'] => 2,
            _ => 3,
        };
        self.out.push(b'.');
        self.out.extend_from_slice(&digits[..len]);
    }

    pub(super) fn flag(&mut self, begin: &[u8], flag: bool) {
        self.out.extend_from_slice(begin);
        let text: &[u8] = if flag { b"true" } else { b"false" };
        self.out.extend_from_slice(text);
    }

    /// Ends the line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Returns true if a text needs no escapes: printable ASCII without quotes and backslashes.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    let needs = |byte: u8| !(b' '..=b'~').contains(&byte) || byte == b'"' || byte == b'\\';
    // Without a branch for each byte.
    !text.iter().fold(false, |found, byte| found | needs(*byte))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_what_serde_json_writes(text in any::<String>(), plain in "[ -~]{0,40}", nanos in 0..1_u64 << 52) {
            for text in [text, plain] {
                let mut out = Vec::new();
                JsonLine::new(&mut out).text(b"", text.as_bytes(), 100);
                let expected = serde_json::to_vec(&visible(&text, 100)).expect("it is a text");
                prop_assert_eq!(out, expected);
            }
            let time = Duration::from_nanos(nanos);
            let mut out = Vec::new();
            JsonLine::new(&mut out).millis(b"", Some(time));
            let expected = serde_json::to_vec(&(time.as_micros() as f64 / 1e3)).expect("it is a number");
            prop_assert_eq!(out, expected);
        }
    }
}
