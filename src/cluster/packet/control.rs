use bytes::BufMut;

use crate::codec::{ByteOrder, FrameError};

/// A control packet: header `01`, a route from the table, seq 0, and the fields.
///
/// due does not have them. They are sent only to a client that has sent one, so that no other client meets them.
///
/// | Route | From | Fields |
/// |---|---|---|
/// | 1 `Resume` | client | `last u64`, token (the rest, UTF-8) |
/// | 2 `Resumed` | gate | `count u32` |
/// | 3 `Refused` | gate | `reason u8` |
/// | 4 `Goodbye` | gate | `reason u8`, `retry_ms u32` |
/// | 5 `Ack` | client | `n u64` |
/// | 6 `Leave` | client | – |
///
/// A reader skips routes that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control<'a> {
    /// The client takes its user back, on a new connection.
    Resume {
        /// The text that the application gave to its client.
        token: &'a str,
        /// The number of the last push that the client has.
        last: u64,
    },
    /// The user is back. The pushes that the client missed follow.
    Resumed {
        /// The number of pushes that follow.
        count: u32,
    },
    /// The user cannot be taken back; the client logs in anew.
    Refused {
        /// The reason.
        reason: ResumeRefusal,
    },
    /// The gate is about to close this connection.
    Goodbye {
        /// The reason.
        reason: GoodbyeReason,
        /// The time after which the client should connect again, in milliseconds. 0: at once.
        retry_ms: u32,
    },
    /// The client has all pushes up to this number, so that the gate can forget them.
    Ack {
        /// The number of the push.
        n: u64,
    },
    /// The client is about to close the connection for good: its user does not come back.
    Leave,
    /// A control packet of a later version.
    Unknown {
        /// Its route.
        route: i32,
    },
}

/// The reason why a user cannot be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeRefusal {
    /// 1: this gate does not resume.
    Off,
    /// 2: the token is not genuine.
    Invalid,
    /// 3: the token has expired, or the user is gone.
    Expired,
    /// 4: the client missed more pushes than were kept.
    Lost,
    /// 5: the gate that has the user cannot be reached, or has too much to do.
    Unavailable,
    /// Another number, of a later version.
    Other(u8),
}

/// The reason why a gate closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// 1: the gate is about to stop.
    Stopping,
    /// 2: the user has logged in on another connection.
    Replaced,
    /// 3: a node or an operator has closed the connection. The client stays away.
    Kicked,
    /// Another number, of a later version.
    Other(u8),
}

impl ResumeRefusal {
    /// Returns the number on the wire.
    pub fn code(self) -> u8 {
        match self {
            ResumeRefusal::Off => 1,
            ResumeRefusal::Invalid => 2,
            ResumeRefusal::Expired => 3,
            ResumeRefusal::Lost => 4,
            ResumeRefusal::Unavailable => 5,
            ResumeRefusal::Other(code) => code,
        }
    }

    /// Returns the reason of a number on the wire.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => ResumeRefusal::Off,
            2 => ResumeRefusal::Invalid,
            3 => ResumeRefusal::Expired,
            4 => ResumeRefusal::Lost,
            5 => ResumeRefusal::Unavailable,
            other => ResumeRefusal::Other(other),
        }
    }
}

impl GoodbyeReason {
    /// Returns the number on the wire.
    pub fn code(self) -> u8 {
        match self {
            GoodbyeReason::Stopping => 1,
            GoodbyeReason::Replaced => 2,
            GoodbyeReason::Kicked => 3,
            GoodbyeReason::Other(code) => code,
        }
    }

    /// Returns the reason of a number on the wire.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => GoodbyeReason::Stopping,
            2 => GoodbyeReason::Replaced,
            3 => GoodbyeReason::Kicked,
            other => GoodbyeReason::Other(other),
        }
    }
}

impl<'a> Control<'a> {
    pub(super) fn route(&self) -> i32 {
        match self {
            Control::Resume { .. } => 1,
            Control::Resumed { .. } => 2,
            Control::Refused { .. } => 3,
            Control::Goodbye { .. } => 4,
            Control::Ack { .. } => 5,
            Control::Leave => 6,
            Control::Unknown { route } => *route,
        }
    }

    pub(super) fn put_fields(&self, order: ByteOrder, dst: &mut Vec<u8>) {
        let mut put = |value: u64, width: usize| match order {
            ByteOrder::Big => dst.put_uint(value, width),
            ByteOrder::Little => dst.put_uint_le(value, width),
        };
        match *self {
            Control::Resume { token, last } => {
                put(last, 8);
                dst.put_slice(token.as_bytes());
            }
            Control::Resumed { count } => put(count.into(), 4),
            Control::Refused { reason } => put(reason.code().into(), 1),
            Control::Goodbye { reason, retry_ms } => {
                put(reason.code().into(), 1);
                put(retry_ms.into(), 4);
            }
            Control::Ack { n } => put(n, 8),
            Control::Leave | Control::Unknown { .. } => {}
        }
    }

    pub(super) fn decode(
        route: i64,
        order: ByteOrder,
        fields: &'a [u8],
    ) -> Result<Self, FrameError> {
        let malformed = FrameError::Malformed {
            what: "a control packet whose fields are too short or too long",
        };
        let number = |bytes: &[u8]| match order {
            ByteOrder::Big => bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
            ByteOrder::Little => bytes.iter().rfold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        Ok(match (route, fields.len()) {
            (1, 8..) => {
                let (last, token) = fields.split_at(8);
                let token = str::from_utf8(token).map_err(|_| FrameError::Malformed {
                    what: "a resume token that is not UTF-8",
                })?;
                Control::Resume {
                    token,
                    last: number(last),
                }
            }
            (2, 4) => Control::Resumed {
                count: number(fields) as u32,
            },
            (3, 1) => Control::Refused {
                reason: ResumeRefusal::from_code(fields[0]),
            },
            (4, 5) => Control::Goodbye {
                reason: GoodbyeReason::from_code(fields[0]),
                retry_ms: number(&fields[1..]) as u32,
            },
            (5, 8) => Control::Ack { n: number(fields) },
            (6, 0) => Control::Leave,
            (1..=6, _) => return Err(malformed),
            (route, _) => Control::Unknown {
                route: route as i32,
            },
        })
    }
}
