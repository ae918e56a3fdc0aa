use std::net::SocketAddr;

use super::wire::{self, Address, Parsed};
use crate::error::error_messages;
use crate::gateway::egress::{Target, TargetError};

/// A datagram of a SOCKS client, with the target that its header names (RFC 1928, section 7).
///
/// ```
/// use epicycle::gateway::socks::{SocksDatagram, datagram_header};
///
/// let header = datagram_header("192.0.2.1:53".parse()?);
/// let whole = [header.as_slice(), b"question"].concat();
/// let datagram = SocksDatagram::parse(&whole)?;
/// assert_eq!(datagram.target.to_string(), "192.0.2.1:53");
/// assert_eq!(datagram.data, b"question");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocksDatagram<'a> {
    /// The target. Of a datagram from a server, where it comes from.
    pub target: Target,
    /// The contents, possibly empty.
    pub data: &'a [u8],
}

/// The reason why a datagram is not passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatagramError {
    /// It is a fragment.
    Fragment,
    /// The header is cut short, its reserved bytes are not 0, or its address is of an unknown kind or has port 0.
    Malformed,
    /// The host is no host.
    Host(TargetError),
}

error_messages! {
    DatagramError {
        DatagramError::Fragment => "it is a fragment",
        DatagramError::Malformed => "its header is malformed",
        DatagramError::Host(error) => "{error}",
    }
}

/// The longest header, with the address of an IPv6 host.
const MAX_HEADER: usize = 4 + 16 + 2;

/// The header of a datagram that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramHeader {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl DatagramHeader {
    /// Returns its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Returns the header of a datagram from this address.
pub fn datagram_header(from: SocketAddr) -> DatagramHeader {
    let mut header = DatagramHeader {
        bytes: [0; MAX_HEADER],
        len: 3,
    };
    let mut put = |bytes: &[u8]| {
        header.bytes[header.len..][..bytes.len()].copy_from_slice(bytes);
        header.len += bytes.len();
    };
    wire::put_addr_by(from, &mut put);
    header
}

impl<'a> SocksDatagram<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// [`DatagramError`].
    pub fn parse(src: &'a [u8]) -> Result<Self, DatagramError> {
        match *src {
            [0, 0, 0, ..] => {}
            [0, 0, _, ..] => return Err(DatagramError::Fragment),
            _ => return Err(DatagramError::Malformed),
        }
        match wire::address(src, 3) {
            Parsed::Part(Address::Host(host, port), end) if port != 0 => Ok(Self {
                target: Target { host, port },
                data: &src[end..],
            }),
            Parsed::Part(Address::Bad(error), _) => Err(DatagramError::Host(error)),
            _ => Err(DatagramError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::egress::Host;

    #[test]
    fn a_datagram_names_its_target_and_bad_ones_are_told_apart() {
        let parsed = |src: &[u8]| match SocksDatagram::parse(src) {
            Ok(datagram) => format!("{} {:?}", datagram.target, datagram.data),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            parsed(b"\0\0\0\x01\x7f\0\0\x01\0\x35ab"),
            "127.0.0.1:53 [97, 98]"
        );
        assert_eq!(
            parsed(b"\0\0\0\x03\x0bExample.org\0\x35"),
            "example.org:53 []"
        );
        assert_eq!(
            parsed(b"\0\0\x01\x01\x7f\0\0\x01\0\x35ab"),
            "it is a fragment"
        );
        assert_eq!(parsed(b"\0\0\x80\x01"), "it is a fragment");
        for bad in [
            &b""[..],
            b"\0",
            b"\0\0\0",
            b"\0\0\0\x01\x7f\0\0\x01\0",
            b"\0\0\0\x05\x7f\0\0\x01\0\x35",
            b"\0\0\0\x01\x7f\0\0\x01\0\0",
            b"\0\x01\0\x01\x7f\0\0\x01\0\x35",
        ] {
            assert_eq!(parsed(bad), "its header is malformed", "{bad:x?}");
        }
        for bad in [&b"\0\0\0\x03\0\0\x35"[..], b"\0\0\0\x03\x05127.1\0\x35"] {
            let error = SocksDatagram::parse(bad);
            assert!(matches!(error, Err(DatagramError::Host(_))), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_server_writes_is_what_a_client_reads(
            ip: std::net::IpAddr,
            port in 1..=u16::MAX,
            data in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let addr = SocketAddr::new(ip, port);
            let whole = [datagram_header(addr).as_slice(), &data].concat();
            let read = SocksDatagram::parse(&whole).expect("is sound");
            prop_assert_eq!(read.target.host, Host::Ip(ip.to_canonical()));
            prop_assert_eq!((read.target.port, read.data), (port, &data[..]));
        }

        #[test]
        fn any_bytes_are_a_datagram_or_an_error(
            head in prop::collection::vec(prop_oneof![0..6_u8, any::<u8>()], 0..40),
            is_plain: bool,
        ) {
            let src = match is_plain {
                true => [&b"\0\0\0"[..], &head].concat(),
                false => head,
            };
            if let Ok(datagram) = SocksDatagram::parse(&src) {
                prop_assert!(src.starts_with(b"\0\0\0") && src.ends_with(datagram.data));
                prop_assert!(datagram.target.port != 0 && datagram.data.len() + 7 <= src.len());
            }
        }
    }
}
