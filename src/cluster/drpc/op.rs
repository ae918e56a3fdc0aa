/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the table of the module describes them")]
pub enum Op {
    Handshake = 1,
    Bind = 2,
    Unbind = 3,
    GetIp = 4,
    Stat = 5,
    IsOnline = 6,
    Disconnect = 7,
    Push = 8,
    Multicast = 9,
    Broadcast = 10,
    Publish = 11,
    Subscribe = 12,
    Unsubscribe = 13,
    Trigger = 14,
    Deliver = 15,
    GetState = 16,
    SetState = 17,
    Hello = 32,
    Prove = 33,
    Bye = 34,
    Reject = 35,
    GetAddr = 36,
    Ping = 37,
    GetToken = 38,
    Take = 39,
    Leave = 40,
    GiveBack = 41,
    PassOn = 42,
    Collected = 43,
}

impl Op {
    const ALL: [Op; 29] = [
        Op::Handshake,
        Op::Bind,
        Op::Unbind,
        Op::GetIp,
        Op::Stat,
        Op::IsOnline,
        Op::Disconnect,
        Op::Push,
        Op::Multicast,
        Op::Broadcast,
        Op::Publish,
        Op::Subscribe,
        Op::Unsubscribe,
        Op::Trigger,
        Op::Deliver,
        Op::GetState,
        Op::SetState,
        Op::Hello,
        Op::Prove,
        Op::Bye,
        Op::Reject,
        Op::GetAddr,
        Op::Ping,
        Op::GetToken,
        Op::Take,
        Op::Leave,
        Op::GiveBack,
        Op::PassOn,
        Op::Collected,
    ];

    /// Returns the number on the wire.
    #[inline]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the operation of a number on the wire, if there is one.
    #[inline]
    pub fn from_code(code: u8) -> Option<Self> {
        let at = match code {
            1..=17 => code - 1,
            32..=43 => code - 32 + 17,
            _ => return None,
        };
        Some(Self::ALL[usize::from(at)])
    }

    /// Returns all operations.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    /// Returns true if due does not know the operation.
    pub fn is_extension(self) -> bool {
        self.code() >= 32
    }
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// 0: it was carried out.
    Done,
    /// 1: no such connection or user.
    NotFound,
    /// 2: it failed in another way.
    Failed,
    /// Another number, which due does not send.
    Other(u16),
}

impl Code {
    /// Returns the number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Code::Done => 0,
            Code::NotFound => 1,
            Code::Failed => 2,
            Code::Other(code) => code,
        }
    }

    /// Returns the result of a number on the wire.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Code::Done,
            1 => Code::NotFound,
            2 => Code::Failed,
            other => Code::Other(other),
        }
    }
}

/// The meaning of a target's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// 1: a connection.
    Conn,
    /// 2: a user.
    User,
}

impl Scope {
    /// Returns the number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Scope::Conn => 1,
            Scope::User => 2,
        }
    }

    /// Returns the scope of a number on the wire, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Scope::Conn),
            2 => Some(Scope::User),
            _ => None,
        }
    }
}

/// A connection or a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The meaning of the number.
    pub scope: Scope,
    /// The number.
    pub id: i64,
}

impl Target {
    /// Returns the target that is a connection.
    pub fn conn(cid: i64) -> Self {
        Self {
            scope: Scope::Conn,
            id: cid,
        }
    }

    /// Returns the target that is a user.
    pub fn user(uid: i64) -> Self {
        Self {
            scope: Scope::User,
            id: uid,
        }
    }
}

/// The reason why a node rejects a packet that a gate delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// 1: the user is on another node now.
    Moved,
    /// 2: the node has no such route.
    UnknownRoute,
    /// 3: the node is about to stop.
    Draining,
    /// 4: the node has too much to do.
    Overload,
    /// Another number, of a later version.
    Other(u8),
}

impl RejectReason {
    /// Returns the number on the wire.
    pub fn code(self) -> u8 {
        match self {
            RejectReason::Moved => 1,
            RejectReason::UnknownRoute => 2,
            RejectReason::Draining => 3,
            RejectReason::Overload => 4,
            RejectReason::Other(code) => code,
        }
    }

    /// Returns the reason of a number on the wire.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => RejectReason::Moved,
            2 => RejectReason::UnknownRoute,
            3 => RejectReason::Draining,
            4 => RejectReason::Overload,
            other => RejectReason::Other(other),
        }
    }
}
