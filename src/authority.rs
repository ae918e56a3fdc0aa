//! The authority of a URI: a host, and a port if one is given (RFC 3986, sections 3.2.2 and 3.2.3).
//!
//! The `Host` header, request targets, and the addresses of listeners and of connects share this one parser. If two parts
//! of a program parsed an authority differently, an attacker could make them see different hosts.

use std::net::Ipv6Addr;
use std::str;

use memchr::memchr;

use crate::charset::Charset;

/// `HOST` or `HOST:PORT`. User information is not allowed (RFC 9110, section 4.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// The host, without the brackets of an IP literal. It may be empty.
    pub(crate) host: &'a [u8],
    /// True if the host is an IP literal.
    pub(crate) is_literal: bool,
    /// The port. `None` if it is absent or empty.
    pub(crate) port: Option<u16>,
}

/// The part of an authority that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The host contains a character that is not allowed in a host name.
    Host,
    /// The brackets do not enclose an IPv6 address.
    Literal,
    /// The port is not a number from 0 to 65535.
    Port,
}

/// The characters of a name that need no escape: `unreserved` and `sub-delims`.
static NAME: Charset = Charset::alphanumeric_and(b"-._~!$&'()*+,;=");

impl<'a> Authority<'a> {
    /// Parses the authority of a URI.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        // A search from the end takes fewer steps than one through the host.
        let (host, port) = split_port(bytes);
        if !NAME.has_all(host) {
            return Self::parse_unusual(bytes);
        }
        Ok(Self {
            host,
            is_literal: false,
            port,
        })
    }

    /// Parses an authority whose host is an IP literal or contains escapes, whose port is empty or longer than usual, or
    /// that is wrong.
    #[cold]
    fn parse_unusual(bytes: &'a [u8]) -> Result<Self, Flaw> {
        if bytes.first() == Some(&b'[') {
            return Self::with_literal(bytes, is_ip_literal);
        }
        let colon = memchr(b':', bytes).unwrap_or(bytes.len());
        let (host, rest) = bytes.split_at(colon);
        if !is_escaped_name(host) {
            return Err(Flaw::Host);
        }
        let port = match rest {
            [_, port @ ..] => parse_port(port)?,
            [] => None,
        };
        Ok(Self {
            host,
            is_literal: false,
            port,
        })
    }

    /// Parses the address of a socket. Its host may have a zone (RFC 4007, section 11), but no escapes.
    pub(crate) fn parse_socket(bytes: &'a [u8]) -> Result<Self, Flaw> {
        if bytes.first() == Some(&b'[') {
            return Self::with_literal(bytes, is_ipv6_with_zone);
        }
        if bytes.contains(&b'%') {
            return Err(Flaw::Host);
        }
        Self::parse(bytes)
    }

    fn with_literal(bytes: &'a [u8], is_host: fn(&str) -> bool) -> Result<Self, Flaw> {
        let end = memchr(b']', bytes).ok_or(Flaw::Literal)?;
        let host = &bytes[1..end];
        if !str::from_utf8(host).is_ok_and(is_host) {
            return Err(Flaw::Literal);
        }
        let port = match &bytes[end + 1..] {
            [] => None,
            [b':', port @ ..] => parse_port(port)?,
            _ => return Err(Flaw::Literal),
        };
        Ok(Self {
            host,
            is_literal: true,
            port,
        })
    }
}

/// Splits off a port of one to five digits at the end, if there is one.
#[inline(always)]
fn split_port(bytes: &[u8]) -> (&[u8], Option<u16>) {
    let (mut port, mut place) = (0, 1);
    let mut rest = bytes;
    while let [before @ .., last] = rest {
        match last.wrapping_sub(b'0') {
            digit @ 0..=9 if place <= 10_000 => port += u32::from(digit) * place,
            _ if *last == b':' && place > 1 => {
                return u16::try_from(port).map_or((bytes, None), |port| (before, Some(port)));
            }
            _ => break,
        }
        place *= 10;
        rest = before;
    }
    (bytes, None)
}

/// Returns `None` for an empty port.
fn parse_port(digits: &[u8]) -> Result<Option<u16>, Flaw> {
    if digits.is_empty() {
        return Ok(None);
    }
    let mut port = 0_u32;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        port = 10 * port + u32::from(digit);
        if digit > 9 || port > u16::MAX.into() {
            return Err(Flaw::Port);
        }
    }
    Ok(Some(port as u16))
}

/// Returns true for a name in which all other characters are escaped.
#[cold]
fn is_escaped_name(name: &[u8]) -> bool {
    let mut rest = name.split(|byte| *byte == b'%');
    let is_sound = rest.next().is_some_and(|first| NAME.has_all(first));
    is_sound
        && rest.all(|part| match part {
            [high, low, rest @ ..] => {
                high.is_ascii_hexdigit() && low.is_ascii_hexdigit() && NAME.has_all(rest)
            }
            _ => false,
        })
}

/// Returns true for text that may be enclosed in brackets: an IPv6 address, or an address of a later version.
fn is_ip_literal(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok() || is_later_version(text)
}

fn is_later_version(text: &str) -> bool {
    let parts = text
        .strip_prefix(['v', 'V'])
        .and_then(|text| text.split_once('.'));
    parts.is_some_and(|(version, address)| {
        let address = address.as_bytes();
        !version.is_empty()
            && version.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !address.is_empty()
            && address.iter().all(|byte| *byte == b':' || NAME.has(*byte))
    })
}

fn is_ipv6_with_zone(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().is_ok()
        && !zone.is_empty()
        && zone.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(&str, Option<u16>), Flaw> {
        let authority = Authority::parse(text.as_bytes())?;
        let host = str::from_utf8(authority.host).expect("is ASCII");
        Ok((host, authority.port))
    }

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            ("example.org", "example.org", None),
            ("example.org:80", "example.org", Some(80)),
            ("example.org:", "example.org", None),
            ("EXAMPLE.org:00443", "EXAMPLE.org", Some(443)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("a:0", "a", Some(0)),
            ("a:000080", "a", Some(80)),
            ("a:65535", "a", Some(65535)),
            ("a_b-c~d", "a_b-c~d", None),
            ("!$&'()*+,;=", "!$&'()*+,;=", None),
            ("%41%c3%BC.example", "%41%c3%BC.example", None),
            ("", "", None),
            (":80", "", Some(80)),
            ("[::1]", "::1", None),
            ("[::1]:", "::1", None),
            ("[::1]:8080", "::1", Some(8080)),
            ("[2001:DB8::192.0.2.1]:80", "2001:DB8::192.0.2.1", Some(80)),
            ("[1:2:3:4:5:6:7::]", "1:2:3:4:5:6:7::", None),
            ("[v1.fe80::a+en1]:80", "v1.fe80::a+en1", Some(80)),
        ] {
            assert_eq!(parsed(text), Ok((host, port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for (text, flaw) in [
            ("a:80x", Flaw::Port),
            ("a:-1", Flaw::Port),
            ("a:+80", Flaw::Port),
            ("a:b:c", Flaw::Port),
            ("a:80:80", Flaw::Port),
            ("a:65536", Flaw::Port),
            ("a:99999", Flaw::Port),
            ("a:4294967376", Flaw::Port),
            ("a:99999999999999999999", Flaw::Port),
            ("::1", Flaw::Port),
            ("[::1", Flaw::Literal),
            ("[]", Flaw::Literal),
            ("[]:80", Flaw::Literal),
            ("[zz]", Flaw::Literal),
            ("[::1]80", Flaw::Literal),
            ("[::1]]", Flaw::Literal),
            ("[[::1]]", Flaw::Literal),
            ("[127.0.0.1]", Flaw::Literal),
            ("[fe80::1%25eth0]", Flaw::Literal),
            ("[fe80::1%eth0]", Flaw::Literal),
            ("[1:2:3:4:5:6:7:8::]", Flaw::Literal),
            ("[v1.]", Flaw::Literal),
            ("[v.a]", Flaw::Literal),
            ("[vx.a]", Flaw::Literal),
            ("[\u{e9}]", Flaw::Literal),
            ("::1]", Flaw::Port),
            ("[::1]:80x", Flaw::Port),
            ("a[b", Flaw::Host),
            ("a]", Flaw::Host),
            ("%zz", Flaw::Host),
            ("%4", Flaw::Host),
            ("a%", Flaw::Host),
            ("x@a", Flaw::Host),
            ("a/b", Flaw::Host),
            ("a b", Flaw::Host),
            ("a,b c", Flaw::Host),
            ("a\\b", Flaw::Host),
            ("\u{e9}", Flaw::Host),
            ("a\0", Flaw::Host),
        ] {
            assert_eq!(parsed(text), Err(flaw), "{text}");
        }
    }

    #[test]
    fn the_address_of_a_socket_may_have_a_zone_and_no_escapes() {
        let parse = |text: &'static str| Authority::parse_socket(text.as_bytes());
        for text in [
            "[fe80::1%eth0]:80",
            "[fe80::1%3]:80",
            "[::1]:80",
            "a:80",
            ":80",
        ] {
            assert_eq!(
                parse(text).map(|parsed| parsed.port),
                Ok(Some(80)),
                "{text}"
            );
        }
        for text in ["[fe80::1%]:80", "[fe80::1% ]:80", "[v1.a]:80", "[%eth0]:80"] {
            assert_eq!(parse(text), Err(Flaw::Literal), "{text}");
        }
        assert_eq!(parse("%41:80"), Err(Flaw::Host));
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_can_be_put_together_again(text in "[a-c0-9:.%\\[\\]v@-]{0,12}") {
            if let Ok(authority) = Authority::parse(text.as_bytes()) {
                let host = str::from_utf8(authority.host).expect("is ASCII");
                let host = if authority.is_literal { format!("[{host}]") } else { host.to_owned() };
                let port = text.strip_prefix(&host).expect("begins with its host");
                let digits = port.strip_prefix(':').unwrap_or(port);
                prop_assert_eq!(digits.parse().ok(), authority.port);
                prop_assert!(digits.bytes().all(|byte| byte.is_ascii_digit()));
            }
        }
    }
}
