use super::Via;
use crate::error::error_messages;
use crate::gateway::egress::{Target, TargetError};

/// The reason why a text names no proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViaError {
    /// The scheme is missing or another one.
    Scheme,
    /// Name and password are not `USER:PASSWORD`, or too long.
    User,
    /// The proxy's host or port is none.
    Proxy(TargetError),
}

error_messages! {
    ViaError {
        ViaError::Scheme => "write socks5://HOST:PORT or http://HOST:PORT",
        ViaError::User => "write USER:PASSWORD@ before the host, with at most 255 bytes each",
        ViaError::Proxy(error) => "the proxy: {error}",
    }
    causes {
        ViaError::Proxy(error) => error,
    }
}

/// The failure of the negotiation with a proxy. A [`ConnectError::Negotiation`](crate::ConnectError::Negotiation) contains it.
#[non_exhaustive]
pub struct ViaFailure {
    /// The proxy.
    pub via: Via,
    /// The target that it was asked for.
    pub target: Target,
    /// The reason.
    pub refused: Refused,
}

/// The reason why a proxy does not connect a target.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A SOCKS proxy replied with this code (RFC 1928, section 6).
    Reply(u8),
    /// An HTTP proxy answered with this status.
    Status(u16),
    /// The proxy accepts none of the ways in which this side can prove who it is.
    Method,
    /// The proxy refused the name and the password.
    Password,
    /// The proxy does not speak the protocol.
    Malformed {
        /// The fault.
        what: &'static str,
    },
    /// The proxy ended the connection.
    Cut,
}

impl Refused {
    pub(super) fn malformed(what: &'static str) -> Self {
        Self::Malformed { what }
    }
}

/// Returns the meaning of a reply (RFC 1928, section 6).
fn meaning(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unknown",
    }
}

error_messages! {
    ViaFailure {
        ViaFailure { via, target, refused } => "the proxy {via} does not connect {target}: {refused}",
    }
}

error_messages! {
    Refused {
        Refused::Reply(code) => "reply {code} ({})" (meaning(*code)),
        Refused::Status(407) => "status 407: it wants a name and a password, or others; see the user in `via`",
        Refused::Status(status) => "status {status}",
        Refused::Method => "it accepts none of the methods of authentication; see the user in `via`",
        Refused::Password => "it refuses the name and the password; see the user in `via`",
        Refused::Malformed { what } => "{what}",
        Refused::Cut => "it ended the connection",
    }
}
