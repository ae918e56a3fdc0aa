//! Close codes (RFC 6455, section 7.4), and the failures that lead to them (section 7.1.7).

use std::fmt;

use crate::codec::FrameError;

/// Why a WebSocket is closed, as a number that may stand in a Close frame.
///
/// These are 1000 to 1003, 1007 to 1014 and, for applications and libraries, 3000 to 4999.
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
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a server goes down, or a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a type of message that is not served, such as binary where only text is.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a payload that is not what it should be, such as a text that is no UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a message that breaks a rule of the application, when no other code fits.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message that is too long.
    pub const TOO_BIG: Self = Self(1009);
    /// 1010: a client misses an extension that it asked for.
    pub const EXTENSION: Self = Self(1010);
    /// 1011: the server met with something unforeseen.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the server restarts.
    pub const RESTART: Self = Self(1012);
    /// 1013: the server is overloaded; try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// The code of that number, unless it must not stand in a Close frame.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the peer did wrong.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: CloseCode,
    pub(super) error: FrameError,
}

impl Failure {
    /// Something that the protocol does not allow: 1002.
    #[cold]
    pub(super) fn protocol(what: &'static str) -> Self {
        Self {
            code: CloseCode::PROTOCOL,
            error: FrameError::Malformed { what },
        }
    }

    /// A payload that is not what its type promises: 1007.
    #[cold]
    pub(super) fn data(what: &'static str) -> Self {
        Self {
            code: CloseCode::INVALID_DATA,
            error: FrameError::Malformed { what },
        }
    }

    /// A frame or a message over its limit: 1009.
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
