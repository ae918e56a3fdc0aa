//! The requests of servers about clients, on their way to the reactors that have these.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::resume::{Claim, Heir, TakenUser};
use crate::cluster::drpc::{Answer, Code, Op, Value};
use crate::cluster::packet::{EncodedPacket, ResumeRefusal};
use crate::cluster::session::Holder;
use crate::engine::slots::ConnId;
use crate::ws;

/// A task for one reactor, and whom to tell the result.
pub(super) struct Work {
    pub(super) task: Task,
    pub(super) reply: Option<Arc<Reply>>,
}

/// A connection, and the user that it must have, or 0 if any will do.
#[derive(Clone, Copy)]
pub(super) struct Who {
    pub(super) cid: i64,
    pub(super) uid: i64,
}

/// Where the user of a connection has gone.
pub(super) enum Whereabouts {
    /// To another connection of this gate.
    Here,
    At(Arc<str>),
    /// To another gate, which it has left again.
    Gone,
}

pub(super) enum Task {
    Bind {
        cid: i64,
        uid: i64,
    },
    /// The locator has answered.
    Bound {
        cid: i64,
        uid: i64,
        confirmed: bool,
        asked: Instant,
    },
    Unbind(Who),
    /// Makes a token for a client.
    Issue(Who),
    /// A connection, here or at another gate, wants a user back.
    Take(Claim),
    /// The reactor that had a user has told the connection that wants it back.
    Taken {
        cid: i64,
        uid: i64,
        taken: Result<TakenUser, ResumeRefusal>,
    },
    /// A connection that has claimed a user does not have it, and never will.
    GiveBack {
        uid: i64,
        heir: Heir,
    },
    /// The locator has answered about a user that was taken back.
    Resumed {
        cid: i64,
        uid: i64,
        /// The gate that had it, if it was another one.
        from: Option<Arc<str>>,
        confirmed: bool,
    },
    /// The locator has told the gate of the user of a connection that is away and was handed over, if it is another one.
    Inherited {
        cid: i64,
        heir: Heir,
        gate: Option<Arc<str>>,
    },
    /// The answer to something that was done elsewhere.
    Answer(Code),
    /// Another connection has the user now.
    Lose {
        uid: i64,
        holder: Holder,
        to: Whereabouts,
    },
    /// GetIp, IsOnline or GetAddr.
    Look(Who, Op),
    Disconnect {
        who: Who,
        force: bool,
    },
    Push {
        who: Who,
        parcel: Arc<Parcel>,
    },
    /// Pushes what has come for the connection that a user had before.
    PassOn {
        who: Who,
        parcel: Arc<Parcel>,
    },
    Multicast {
        to: Vec<Who>,
        parcel: Arc<Parcel>,
    },
    Broadcast {
        users_only: bool,
        parcel: Arc<Parcel>,
    },
    Publish {
        channel: Arc<str>,
        parcel: Arc<Parcel>,
    },
    /// A multicast, broadcast or publish that has begun.
    FanOut {
        to: Vec<Who>,
        next: usize,
        sent: u64,
        parcel: Arc<Parcel>,
    },
    Join {
        to: Vec<Who>,
        channel: Arc<str>,
    },
    Part {
        to: Vec<Who>,
        channel: Arc<str>,
    },
}

/// A packet to push, encoded once for all its receivers.
pub(super) struct Parcel {
    pub(super) packet: EncodedPacket,
    pub(super) route: i32,
    /// False for heartbeats and control packets, which are not counted.
    pub(super) is_data: bool,
    /// The same as a message of WebSocket, once the first client needs it.
    framed: OnceLock<ws::Prepared>,
    /// True if the receivers are to be disconnected after it.
    pub(super) disconnect: bool,
}

/// Whom to answer, and what the reactors have found so far.
pub(super) struct Reply {
    pub(super) link: ConnId,
    op: u8,
    seq: u64,
    /// The number of reactors that have not told their part.
    missing: AtomicUsize,
    total: AtomicU64,
    failed: AtomicUsize,
}

impl Work {
    /// Returns about how many bytes it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let (targets, parcel) = match &self.task {
            Task::Push { parcel, .. } | Task::PassOn { parcel, .. } => (0, Some(parcel)),
            Task::Multicast { to, parcel } | Task::FanOut { to, parcel, .. } => {
                (to.len(), Some(parcel))
            }
            Task::Broadcast { parcel, .. } | Task::Publish { parcel, .. } => (0, Some(parcel)),
            Task::Join { to, .. } | Task::Part { to, .. } => (to.len(), None),
            Task::Taken {
                taken: Ok(taken), ..
            } => return size_of::<Self>() + taken.bytes(),
            _ => (0, None),
        };
        let packet = parcel.map_or(0, |parcel| parcel.packet.as_bytes().len());
        size_of::<Self>() + targets * size_of::<Who>() + packet
    }
}

impl Parcel {
    pub(super) fn new(packet: EncodedPacket, route: Option<i32>, disconnect: bool) -> Arc<Self> {
        Arc::new(Self {
            packet,
            route: route.unwrap_or_default(),
            is_data: route.is_some(),
            framed: OnceLock::new(),
            disconnect,
        })
    }

    pub(super) fn framed(&self) -> &ws::Prepared {
        let frame = || ws::Prepared::new(self.packet.as_bytes());
        self.framed.get_or_init(frame)
    }
}

impl Reply {
    /// Returns whom to answer, or `None` if no answer is wanted. `parts` is the number of reactors that take part.
    pub(super) fn new(link: ConnId, op: Op, seq: u64, parts: usize) -> Option<Arc<Self>> {
        let reply = Self {
            link,
            op: op.code(),
            seq,
            missing: AtomicUsize::new(parts),
            total: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
        };
        (seq != 0).then(|| Arc::new(reply))
    }

    /// Returns the answer if this was the last part. `code` is that of this part.
    pub(super) fn part(&self, code: Code, value: Value<'_>) -> Option<Vec<u8>> {
        if let Value::Total(n) = value {
            self.total.fetch_add(n, Ordering::Relaxed);
        }
        if code == Code::Failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        if self.missing.fetch_sub(1, Ordering::AcqRel) != 1 {
            return None;
        }
        let failed = self.failed.load(Ordering::Relaxed) > 0;
        let code = if failed { Code::Failed } else { code };
        let value = match value {
            Value::Total(_) => Value::Total(self.total.load(Ordering::Relaxed)),
            value => value,
        };
        Some(self.encode(code, value))
    }

    fn encode(&self, code: Code, value: Value<'_>) -> Vec<u8> {
        let mut answer = Answer::new(self.op, code);
        if let Value::Taken(_) = value {
            answer.value = value;
        }
        // An operation without a value has none, whatever was counted on the way.
        if std::mem::discriminant(&answer.value) == std::mem::discriminant(&value) {
            answer.value = value;
        }
        let mut frame = Vec::new();
        // The value is one of the operation, and short.
        let _ = answer.encode_into(self.seq, &mut frame);
        frame
    }
}
