//! Close codes (RFC 6455, section 7.4), and the failures that cause them (section 7.1.7).

use std::fmt;

use crate::codec::FrameError;

/// The reason for closing a WebSocket, as a number that is valid in a Close frame.
///
/// Valid are 1000 to 1003, 1007 to 1014 and, for applications and libraries, 3000 to 4999.
///
/// ```
/// use epicycle::ws::CloseCode;
///
/// assert_eq!(CloseCode::new(1001), Some(CloseCode::GOING_AWAY));
/// assert_eq!(CloseCode::new(1006), None); // means that there was no Close frame
/// assert_eq!(CloseCode::new(4000).map(CloseCode::get), Some(4000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the connection has served its purpose.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server shuts down, or the browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer violated the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a type of message that is not supported, such as binary where only text is accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a payload that does not match its type, such as a text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a message that violates a rule of the application, if no other code fits.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message that is too long.
    pub const TOO_BIG: Self = Self(1009);
    /// 1010: the server did not agree to an extension that the client requires.
    pub const EXTENSION: Self = Self(1010);
    /// 1011: the server met an unexpected condition.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the server restarts.
    pub const RESTART: Self = Self(1012);
    /// 1013: the server is overloaded; try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Returns the code of that number. Returns `None` if it is not valid in a Close frame.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error of the peer, with the close code for it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: CloseCode,
    pub(super) error: FrameError,
}

impl Failure {
    /// Returns a protocol violation: 1002.
    #[cold]
    pub(super) fn protocol(what: &'static str) -> Self {
        Self {
            code: CloseCode::PROTOCOL,
            error: FrameError::Malformed { what },
        }
    }

    /// Returns a payload that does not match its type: 1007.
    #[cold]
    pub(super) fn data(what: &'static str) -> Self {
        Self {
            code: CloseCode::INVALID_DATA,
            error: FrameError::Malformed { what },
        }
    }

    /// Returns a frame or a message over its limit: 1009.
    #[cold]
    pub(super) fn too_big(len: u64, max: usize) -> Self {
        Self {
            code: CloseCode::TOO_BIG,
            error: FrameError::TooLong { len, max },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.error, self.code)
    }
}
