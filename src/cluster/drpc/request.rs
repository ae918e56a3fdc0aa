use super::frame::DISCONNECT;
use super::wire::{Parts, Reader, text};
use super::{
    Frame, MAC, MAX_CHANNEL, MAX_TARGETS, NONCE, Op, RejectReason, Scope, Target, Targets,
};
use crate::cluster::Error;
use crate::rpc::wire::Sink;

/// A request. The [module](super) has the bodies.
///
/// Numbers of kinds, states and events are passed as they are, since due accepts any: see
/// [`Kind::from_code`](crate::cluster::Kind::from_code) and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Tells who dials. The first request of a link, with seq 1.
    Handshake {
        /// The number of the dialler's [`Kind`](crate::cluster::Kind).
        kind: u8,
        /// The dialler's instance id.
        id: &'a str,
    },
    /// Binds a user to a connection.
    Bind {
        /// The connection.
        cid: i64,
        /// The user.
        uid: i64,
    },
    /// Takes a user from its connection.
    Unbind {
        /// The user.
        uid: i64,
    },
    /// Asks for the IPv4 address of a client.
    GetIp {
        /// The client.
        target: Target,
    },
    /// Asks for the number of connections, or of users.
    Stat {
        /// The one of both to count.
        scope: Scope,
    },
    /// Asks if a client is connected.
    IsOnline {
        /// The client.
        target: Target,
    },
    /// Closes a connection.
    Disconnect {
        /// The client.
        target: Target,
        /// True to reset it; else what is queued is sent first.
        force: bool,
    },
    /// Sends a packet to a client.
    Push {
        /// The client.
        target: Target,
        /// True to disconnect the client after it.
        disconnect: bool,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Sends a packet to several clients.
    Multicast {
        /// The meaning of the targets.
        scope: Scope,
        /// The clients.
        targets: Targets<'a>,
        /// True to disconnect the clients after it.
        disconnect: bool,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Sends a packet to all clients of a gate.
    Broadcast {
        /// All connections, or only those with a user.
        scope: Scope,
        /// True to disconnect the clients after it.
        disconnect: bool,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Sends a packet to the members of a channel.
    Publish {
        /// The channel.
        channel: &'a str,
        /// True to disconnect the clients after it.
        disconnect: bool,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Makes clients members of a channel.
    Subscribe {
        /// The meaning of the targets.
        scope: Scope,
        /// The clients.
        targets: Targets<'a>,
        /// The channel.
        channel: &'a str,
    },
    /// Takes clients out of a channel.
    Unsubscribe {
        /// The meaning of the targets.
        scope: Scope,
        /// The clients.
        targets: Targets<'a>,
        /// The channel.
        channel: &'a str,
    },
    /// Tells a node what happened to a connection.
    Trigger {
        /// The number of the [`Event`](crate::cluster::Event).
        event: u8,
        /// The connection.
        cid: i64,
        /// Its user, or 0.
        uid: i64,
    },
    /// Hands a client's packet to a node.
    Deliver {
        /// The connection, or 0 if another node sends it.
        cid: i64,
        /// Its user, or 0.
        uid: i64,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Asks for the state of an instance.
    GetState,
    /// Sets the state of an instance.
    SetState {
        /// The number of the [`State`](crate::cluster::State).
        state: u8,
    },
    /// Asks if the listener knows the extensions.
    Hello(Hello),
    /// Proves that the dialler has the cluster's secret.
    Prove {
        /// The proof: see [`Secret::mac`](super::Secret::mac).
        mac: [u8; MAC],
    },
    /// Tells that all that came before has been done, and that no more is taken.
    Bye,
    /// Tells a gate that a packet which it delivered was not taken.
    Reject {
        /// The connection.
        cid: i64,
        /// The packet's route.
        route: i32,
        /// The packet's seq.
        seq: i32,
        /// The reason.
        reason: RejectReason,
    },
    /// Asks for the address of a client, as text: IPv6 too.
    GetAddr {
        /// The client.
        target: Target,
    },
    /// Asks for an answer.
    Ping,
    /// Asks for a token with which the client can take its user back after a loss of its connection.
    GetToken {
        /// The client.
        target: Target,
    },
    /// Takes the user of a token over, for a connection of the gate that asks.
    Take {
        /// The connection at the gate that asks.
        cid: i64,
        /// The number of the last push that the client has.
        last: u64,
        /// The token.
        token: &'a str,
    },
    /// Tells a node to forget a connection, whose user is on another one.
    Leave {
        /// The connection.
        cid: i64,
    },
    /// Gives up a Take: the connection does not have the user.
    GiveBack {
        /// The connection at the gate that has sent Take.
        cid: i64,
        /// The user.
        uid: i64,
    },
    /// Pushes a packet that has come for the connection that a user had before.
    PassOn {
        /// The connection that has the user now, or is about to.
        cid: i64,
        /// The user.
        uid: i64,
        /// True if the client is to be disconnected after it.
        disconnect: bool,
        /// The packet.
        packet: &'a [u8],
    },
    /// Tells a node that the gate has back what that has rejected of a connection. What follows may be taken again.
    Collected {
        /// The connection.
        cid: i64,
    },
}

/// The part of Hello that both sides send, so that each can prove that it has the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the extensions: [`VERSION`](super::VERSION).
    pub version: u8,
    /// Bits of later versions; 0 now.
    pub features: u32,
    /// Bytes that were never used before.
    pub nonce: [u8; NONCE],
}

impl<'a> Request<'a> {
    /// Returns the operation.
    pub fn op(&self) -> Op {
        match self {
            Request::Handshake { .. } => Op::Handshake,
            Request::Bind { .. } => Op::Bind,
            Request::Unbind { .. } => Op::Unbind,
            Request::GetIp { .. } => Op::GetIp,
            Request::Stat { .. } => Op::Stat,
            Request::IsOnline { .. } => Op::IsOnline,
            Request::Disconnect { .. } => Op::Disconnect,
            Request::Push { .. } => Op::Push,
            Request::Multicast { .. } => Op::Multicast,
            Request::Broadcast { .. } => Op::Broadcast,
            Request::Publish { .. } => Op::Publish,
            Request::Subscribe { .. } => Op::Subscribe,
            Request::Unsubscribe { .. } => Op::Unsubscribe,
            Request::Trigger { .. } => Op::Trigger,
            Request::Deliver { .. } => Op::Deliver,
            Request::GetState => Op::GetState,
            Request::SetState { .. } => Op::SetState,
            Request::Hello(_) => Op::Hello,
            Request::Prove { .. } => Op::Prove,
            Request::Bye => Op::Bye,
            Request::Reject { .. } => Op::Reject,
            Request::GetAddr { .. } => Op::GetAddr,
            Request::Ping => Op::Ping,
            Request::GetToken { .. } => Op::GetToken,
            Request::Take { .. } => Op::Take,
            Request::Leave { .. } => Op::Leave,
            Request::GiveBack { .. } => Op::GiveBack,
            Request::PassOn { .. } => Op::PassOn,
            Request::Collected { .. } => Op::Collected,
        }
    }

    /// Reads the body of a frame that a dialler sent.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidMessage`] if the operation is unknown, the body is too short or too long, a scope is neither 1
    /// nor 2, or a name is not UTF-8. The link is sound: answer with [`Code::Failed`](super::Code::Failed) if `seq` is not 0.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, Error> {
        let Some(op) = Op::from_code(frame.op) else {
            return Err(Error::InvalidMessage {
                what: "an unknown operation",
            });
        };
        let (mut body, disconnect) = (Reader::new(frame.body), frame.disconnect);
        let request = match op {
            Op::Handshake => Request::Handshake {
                kind: body.u8()?,
                id: text(body.rest())?,
            },
            Op::Bind => Request::Bind {
                cid: body.i64()?,
                uid: body.i64()?,
            },
            Op::Unbind => Request::Unbind { uid: body.i64()? },
            Op::GetIp => Request::GetIp {
                target: target(&mut body)?,
            },
            Op::Stat => Request::Stat {
                scope: scope(&mut body)?,
            },
            Op::IsOnline => Request::IsOnline {
                target: target(&mut body)?,
            },
            Op::Disconnect => Request::Disconnect {
                target: target(&mut body)?,
                force: body.u8()? != 0,
            },
            Op::Push => Request::Push {
                target: target(&mut body)?,
                disconnect,
                packet: body.rest(),
            },
            Op::Multicast => Request::Multicast {
                scope: scope(&mut body)?,
                targets: targets(&mut body)?,
                disconnect,
                packet: body.rest(),
            },
            Op::Broadcast => Request::Broadcast {
                scope: scope(&mut body)?,
                disconnect,
                packet: body.rest(),
            },
            Op::Publish => {
                let len = body.u8()?;
                Request::Publish {
                    channel: text(body.take(len.into())?)?,
                    disconnect,
                    packet: body.rest(),
                }
            }
            Op::Subscribe => Request::Subscribe {
                scope: scope(&mut body)?,
                targets: targets(&mut body)?,
                channel: channel(body.rest())?,
            },
            Op::Unsubscribe => Request::Unsubscribe {
                scope: scope(&mut body)?,
                targets: targets(&mut body)?,
                channel: channel(body.rest())?,
            },
            Op::Trigger => Request::Trigger {
                event: body.u8()?,
                cid: body.i64()?,
                uid: if body.is_empty() { 0 } else { body.i64()? },
            },
            Op::Deliver => Request::Deliver {
                cid: body.i64()?,
                uid: body.i64()?,
                packet: body.rest(),
            },
            Op::GetState => Request::GetState,
            Op::SetState => Request::SetState { state: body.u8()? },
            Op::Hello => Request::Hello(Hello::read(&mut body)?),
            Op::Prove => Request::Prove { mac: body.array()? },
            Op::Bye => Request::Bye,
            Op::Reject => Request::Reject {
                cid: body.i64()?,
                route: body.i32()?,
                seq: body.i32()?,
                reason: RejectReason::from_code(body.u8()?),
            },
            Op::GetAddr => Request::GetAddr {
                target: target(&mut body)?,
            },
            Op::Ping => Request::Ping,
            Op::GetToken => Request::GetToken {
                target: target(&mut body)?,
            },
            Op::Take => Request::Take {
                cid: body.i64()?,
                last: body.u64()?,
                token: text(body.rest())?,
            },
            Op::Leave => Request::Leave { cid: body.i64()? },
            Op::GiveBack => Request::GiveBack {
                cid: body.i64()?,
                uid: body.i64()?,
            },
            Op::PassOn => Request::PassOn {
                cid: body.i64()?,
                uid: body.i64()?,
                disconnect,
                packet: body.rest(),
            },
            Op::Collected => Request::Collected { cid: body.i64()? },
        };
        body.end()?;
        Ok(request)
    }

    /// Appends the request's frame to `dst`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::TooLarge`] if there are more than [`MAX_TARGETS`] targets, the channel is longer than [`MAX_CHANNEL`],
    /// or the frame longer than [`MAX_FRAME`](super::MAX_FRAME). Then nothing has been appended.
    #[inline]
    pub fn encode_into(&self, seq: u64, dst: &mut impl Sink) -> Result<(), Error> {
        let header = if self.disconnects() { DISCONNECT } else { 0 };
        let mut parts = Parts::new(header, self.op().code(), seq);
        self.put(&mut parts)?;
        parts.write(dst)
    }

    #[inline]
    fn put(&self, parts: &mut Parts<'a>) -> Result<(), Error> {
        match *self {
            Request::Handshake { kind, id } => {
                parts.put(&[kind]);
                parts.text = id.as_bytes();
            }
            Request::Bind { cid, uid } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&uid.to_be_bytes());
            }
            Request::Unbind { uid } => parts.put(&uid.to_be_bytes()),
            Request::GetIp { target }
            | Request::IsOnline { target }
            | Request::GetAddr { target }
            | Request::GetToken { target } => put_target(parts, target),
            Request::Stat { scope } => parts.put(&[scope.code()]),
            Request::Disconnect { target, force } => {
                put_target(parts, target);
                parts.put(&[force.into()]);
            }
            Request::Push { target, packet, .. } => {
                put_target(parts, target);
                parts.packet = packet;
            }
            Request::Multicast {
                scope,
                targets,
                packet,
                ..
            } => {
                put_targets(parts, scope, targets)?;
                parts.packet = packet;
            }
            Request::Broadcast { scope, packet, .. } => {
                parts.put(&[scope.code()]);
                parts.packet = packet;
            }
            Request::Publish {
                channel: name,
                packet,
                ..
            } => {
                let name = channel(name.as_bytes())?;
                parts.put(&[name.len() as u8]);
                parts.text = name.as_bytes();
                parts.packet = packet;
            }
            Request::Subscribe {
                scope,
                targets,
                channel: name,
            }
            | Request::Unsubscribe {
                scope,
                targets,
                channel: name,
            } => {
                put_targets(parts, scope, targets)?;
                parts.text = channel(name.as_bytes())?.as_bytes();
            }
            Request::Trigger { event, cid, uid } => {
                parts.put(&[event]);
                parts.put(&cid.to_be_bytes());
                if uid != 0 {
                    parts.put(&uid.to_be_bytes());
                }
            }
            Request::Deliver { cid, uid, packet } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&uid.to_be_bytes());
                parts.packet = packet;
            }
            Request::SetState { state } => parts.put(&[state]),
            Request::Hello(hello) => hello.put(parts),
            Request::Prove { mac } => parts.put(&mac),
            Request::Reject {
                cid,
                route,
                seq,
                reason,
            } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&route.to_be_bytes());
                parts.put(&seq.to_be_bytes());
                parts.put(&[reason.code()]);
            }
            Request::Take { cid, last, token } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&last.to_be_bytes());
                parts.text = token.as_bytes();
            }
            Request::Leave { cid } | Request::Collected { cid } => parts.put(&cid.to_be_bytes()),
            Request::GiveBack { cid, uid } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&uid.to_be_bytes());
            }
            Request::PassOn {
                cid, uid, packet, ..
            } => {
                parts.put(&cid.to_be_bytes());
                parts.put(&uid.to_be_bytes());
                parts.packet = packet;
            }
            Request::GetState | Request::Bye | Request::Ping => {}
        }
        Ok(())
    }

    fn disconnects(&self) -> bool {
        matches!(
            self,
            Request::Push {
                disconnect: true,
                ..
            } | Request::Multicast {
                disconnect: true,
                ..
            } | Request::Broadcast {
                disconnect: true,
                ..
            } | Request::Publish {
                disconnect: true,
                ..
            } | Request::PassOn {
                disconnect: true,
                ..
            }
        )
    }
}

impl Hello {
    pub(super) fn read(body: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            version: body.u8()?,
            features: body.u32()?,
            nonce: body.array()?,
        })
    }

    pub(super) fn put(&self, parts: &mut Parts<'_>) {
        parts.put(&[self.version]);
        parts.put(&self.features.to_be_bytes());
        parts.put(&self.nonce);
    }
}

fn scope(body: &mut Reader<'_>) -> Result<Scope, Error> {
    Scope::from_code(body.u8()?).ok_or(Error::InvalidMessage {
        what: "a scope that is neither connection (1) nor user (2)",
    })
}

fn target(body: &mut Reader<'_>) -> Result<Target, Error> {
    // A wrong length is told before a wrong scope.
    let (code, id) = (body.u8()?, body.i64()?);
    let scope = scope(&mut Reader::new(&[code]))?;
    Ok(Target { scope, id })
}

fn targets<'a>(body: &mut Reader<'a>) -> Result<Targets<'a>, Error> {
    let count = body.u16()?;
    body.take(8 * usize::from(count)).map(Targets::from_wire)
}

fn channel(name: &[u8]) -> Result<&str, Error> {
    if name.len() > MAX_CHANNEL {
        return Err(Error::TooLarge {
            what: "channel's name",
            len: name.len(),
            max: MAX_CHANNEL,
        });
    }
    text(name)
}

fn put_target(parts: &mut Parts<'_>, target: Target) {
    parts.put(&[target.scope.code()]);
    parts.put(&target.id.to_be_bytes());
}

fn put_targets<'a>(parts: &mut Parts<'a>, scope: Scope, targets: Targets<'a>) -> Result<(), Error> {
    if targets.len() > MAX_TARGETS {
        return Err(Error::TooLarge {
            what: "list of targets",
            len: targets.len(),
            max: MAX_TARGETS,
        });
    }
    parts.put(&[scope.code()]);
    parts.put(&(targets.len() as u16).to_be_bytes());
    parts.targets = targets;
    Ok(())
}
