//! The messages of SOCKS5, as both sides write and read them (RFC 1928, sections 3 to 6).

use std::net::{IpAddr, SocketAddr};

use crate::buf::outbox::Outbox;
use crate::codec::FrameError;
use crate::gateway::egress::{Host, TargetError};
use crate::metric_label;

pub(super) const VERSION: u8 = 5;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The way in which a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Not at all.
    None,
    /// By a user name and a password (RFC 1929).
    Password,
}

impl Method {
    pub(super) const fn code(self) -> u8 {
        match self {
            Method::None => 0,
            Method::Password => 2,
        }
    }
}

/// The code for "no acceptable methods".
pub(super) const NO_METHOD: u8 = 0xff;

/// The request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// A connection to the target.
    Connect,
    /// A connection from the target.
    Bind,
    /// A relay of datagrams.
    UdpAssociate,
}

impl Command {
    pub(super) const fn code(self) -> u8 {
        match self {
            Command::Connect => 1,
            Command::Bind => 2,
            Command::UdpAssociate => 3,
        }
    }

    pub(super) fn of(code: u8) -> Option<Self> {
        let all = [Command::Connect, Command::Bind, Command::UdpAssociate];
        all.into_iter().find(|command| command.code() == code)
    }
}

metric_label! {
    /// The result of a request, as a SOCKS server tells it.
    #[non_exhaustive]
    pub enum ReplyCode("reply") {
        /// The request succeeded.
        Succeeded = "succeeded",
        /// It failed for another reason.
        Failure = "failure",
        /// The rules do not allow it.
        NotAllowed = "not_allowed",
        /// The network is unreachable.
        NetworkUnreachable = "network_unreachable",
        /// The host is unreachable, or its name has no address.
        HostUnreachable = "host_unreachable",
        /// The target refused the connection.
        Refused = "refused",
        /// The target did not answer in time.
        Expired = "expired",
        /// The server does not do this.
        CommandNotSupported = "command_not_supported",
        /// The address is of a kind that the server does not know.
        AddressNotSupported = "address_not_supported",
    }
}

impl ReplyCode {
    /// Returns the reply with that code. Unknown ones are failures.
    pub(in crate::gateway) fn of(code: u8) -> Self {
        let all = [
            ReplyCode::NotAllowed,
            ReplyCode::NetworkUnreachable,
            ReplyCode::HostUnreachable,
            ReplyCode::Refused,
            ReplyCode::Expired,
        ];
        let found = all.into_iter().find(|reply| reply.code() == code);
        found.unwrap_or(ReplyCode::Failure)
    }

    pub(super) const fn code(self) -> u8 {
        self as u8
    }
}

/// A part of a message, or the length that its input must have at least.
pub(super) enum Parsed<T> {
    /// The part, and the number of bytes up to its end.
    Part(T, usize),
    /// There must be so many bytes.
    NeedMore(usize),
}

/// An address as it stands in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A host and a port. The port may be 0.
    Host(Host, u16),
    /// An address of an unknown kind.
    UnknownKind,
    /// A host that is no host, such as an empty name.
    Bad(TargetError),
}

/// Reads an address with its port, which begins with the byte `at` of `src`.
pub(super) fn address(src: &[u8], at: usize) -> Parsed<Address> {
    let Some(&kind) = src.get(at) else {
        return Parsed::NeedMore(at + 1);
    };
    let start = at + 1;
    let (host, end) = match kind {
        IPV4 => (start, start + 4),
        IPV6 => (start, start + 16),
        NAME => match src.get(start) {
            Some(&len) => (start + 1, start + 1 + usize::from(len)),
            None => return Parsed::NeedMore(start + 1),
        },
        _ => return Parsed::Part(Address::UnknownKind, start),
    };
    let Some(&[high, low]) = src.get(end..end + 2) else {
        return Parsed::NeedMore(end + 2);
    };
    let bytes = &src[host..end];
    let parsed = match kind {
        NAME => Host::parse(bytes),
        _ => Ok(Host::Ip(ip(bytes))),
    };
    let port = u16::from_be_bytes([high, low]);
    let address = match parsed {
        Ok(host) => Address::Host(host, port),
        Err(error) => Address::Bad(error),
    };
    Parsed::Part(address, end + 2)
}

/// Returns the address of 4 or 16 bytes.
fn ip(bytes: &[u8]) -> IpAddr {
    let ip = match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => {
            let mut all = [0; 16];
            all.copy_from_slice(bytes);
            IpAddr::from(all)
        }
    };
    ip.to_canonical()
}

/// Writes an address.
pub(super) fn put_addr(addr: SocketAddr, dst: &mut Outbox<'_>) {
    put_addr_by(addr, &mut |bytes| dst.put(bytes));
}

/// Writes an address part by part.
pub(super) fn put_addr_by(addr: SocketAddr, put: &mut dyn FnMut(&[u8])) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            put(&[IPV4]);
            put(&ip.octets());
        }
        IpAddr::V6(ip) => {
            put(&[IPV6]);
            put(&ip.octets());
        }
    }
    put(&addr.port().to_be_bytes());
}

pub(super) fn malformed<T>(what: &'static str) -> Result<T, FrameError> {
    Err(FrameError::Malformed { what })
}
