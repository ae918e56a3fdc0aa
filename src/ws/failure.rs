//! Why a WebSocket is failed (RFC 6455, section 7.1.7), and which close code the peer is told.

use std::fmt;

use super::close::CloseCode;
use crate::codec::FrameError;

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
