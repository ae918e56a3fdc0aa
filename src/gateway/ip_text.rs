//! IP addresses as text.

use std::io::Write;
use std::net::IpAddr;
use std::str;

/// An address as text. An IPv4 address within an IPv6 address is written as itself.
#[derive(Clone, Copy)]
pub(super) struct IpText {
    /// The longest is an IPv6 address that ends in an IPv4 address.
    bytes: [u8; 45],
    len: usize,
}

impl IpText {
    /// The text for an address that there is none of.
    pub(super) const NONE: Self = {
        let mut bytes = [0; 45];
        bytes[0] = b'-';
        Self { bytes, len: 1 }
    };

    pub(super) fn of(ip: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; 45],
            len: 0,
        };
        match ip.to_canonical() {
            // Each request needs it. The formatting of the standard library takes ten times as long.
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                text.put_number(a);
                for octet in [b, c, d] {
                    text.put(b'.');
                    text.put_number(octet);
                }
            }
            IpAddr::V6(ip) => {
                let mut room = &mut text.bytes[..];
                let before = room.len();
                // It fits.
                let _ = write!(room, "{ip}");
                text.len = before - room.len();
            }
        }
        text
    }

    #[inline]
    fn put_number(&mut self, number: u8) {
        if number >= 100 {
            self.put(b'0' + number / 100);
        }
        if number >= 10 {
            self.put(b'0' + number / 10 % 10);
        }
        self.put(b'0' + number % 10);
    }

    #[inline]
    fn put(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn as_str(&self) -> &str {
        // All of it is ASCII.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_written_as_the_standard_library_writes_it(ip: IpAddr) {
            let text = IpText::of(ip);
            let expected = ip.to_canonical().to_string();
            prop_assert_eq!(text.as_str(), expected);
        }
    }

    #[test]
    fn the_longest_addresses_fit() {
        for ip in [
            "255.255.255.255",
            "0.0.0.0",
            "1111:2222:3333:4444:5555:6666:7777:8888",
        ] {
            let parsed = ip.parse().expect("it is an address");
            assert_eq!(IpText::of(parsed).as_str(), ip);
        }
        let mapped = "::ffff:10.20.30.40".parse().expect("it is an address");
        assert_eq!(IpText::of(mapped).as_str(), "10.20.30.40");
    }
}
