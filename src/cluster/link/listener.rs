use std::fmt;
use std::time::Duration;

use super::Identity;
use crate::cluster::drpc::{
    Answer, Code, Frame, Hello, Incoming, NONCE, Op, Party, RejectReason, Request, Role, Secret,
    VERSION, Value,
};
use crate::cluster::{Error, Kind};

/// The listener's side of one connection.
///
/// It answers the opening by itself, and refuses what the peer may not ask. Everything else is for its owner.
pub struct Listener {
    ours: Identity,
    secret: Option<Secret>,
    peer: Option<Peer>,
    /// The nonces of both sides, once a Hello has been answered.
    nonces: Option<[[u8; NONCE]; 2]>,
    proven: bool,
    last: Duration,
    stats: ListenerStats,
}

/// The dialler as it introduced itself.
struct Peer {
    kind: u8,
    id: String,
}

/// The result of [`Listener::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict<'a> {
    /// The owner must serve the request, and answer it if `seq` is not 0.
    Serve {
        /// The number of the request.
        seq: u64,
        /// The request.
        request: Request<'a>,
    },
    /// Nothing is left to do.
    Done,
}

/// Counters of a [`Listener`], from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Requests that could not be read, or whose operation is unknown.
    pub malformed: u64,
    /// Requests that the peer may not send: without a proof, or for another kind of server.
    pub refused: u64,
}

/// The time after which a silent link is closed. Diallers send a heartbeat every 10 s.
const SILENCE: Duration = Duration::from_secs(20);

/// The time that a peer has to prove that it has the secret, if there is one.
const PROVING: Duration = Duration::from_secs(5);

/// The maximum length of a dialler's id, in bytes. It is kept as long as the link.
const MAX_ID: usize = 255;

impl Listener {
    /// Returns the listener of a new connection.
    pub fn new(ours: Identity, secret: Option<Secret>) -> Self {
        Self {
            ours,
            secret,
            peer: None,
            nonces: None,
            proven: false,
            last: Duration::ZERO,
            stats: ListenerStats::default(),
        }
    }

    /// Takes a frame. Appends answers to `output`. `nonce` returns bytes that were never used before.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unauthorized`] if a proof is wrong. Send the output and close the connection then.
    pub fn receive<'a>(
        &mut self,
        frame: Incoming<'a>,
        now: Duration,
        nonce: impl FnOnce() -> [u8; NONCE],
        output: &mut Vec<u8>,
    ) -> Result<Verdict<'a>, Error> {
        self.last = now;
        let Incoming::Frame(frame) = frame else {
            return Ok(Verdict::Done);
        };
        let Ok(request) = Request::decode(&frame) else {
            self.stats.malformed += 1;
            return refuse(&frame, output);
        };
        let (seq, op) = (frame.seq, frame.op);
        match request {
            Request::Handshake { kind, id } => {
                // A proof holds for the id with which it was given, and so does what the peer has sent.
                let is_another =
                    (self.peer.as_ref()).is_some_and(|peer| (peer.kind, &*peer.id) != (kind, id));
                if self.proven || is_another || id.len() > MAX_ID {
                    return self.refuse(&frame, output);
                }
                let id = id.to_owned();
                self.peer = Some(Peer { kind, id });
                self.nonces = None;
                answer(Answer::new(op, Code::Done), seq, output)
            }
            Request::Hello(hello) => self.greet(&frame, hello, nonce, output),
            Request::Prove { mac } => {
                let proof = self
                    .secret
                    .as_ref()
                    .zip(self.peer.as_ref())
                    .zip(self.nonces);
                let Some(((secret, peer), [theirs, ours])) = proof else {
                    return self.refuse(&frame, output);
                };
                let (dialler, listener) = parties(peer, theirs, &self.ours, ours);
                if !secret.verify(&mac, Role::Dialler, &dialler, &listener) {
                    self.refuse(&frame, output)?;
                    return Err(Error::secrets_differ());
                }
                self.proven = true;
                answer(Answer::new(op, Code::Done), seq, output)
            }
            _ if self.secret.is_some() && !self.proven => self.refuse(&frame, output),
            // A node answers it once it has taken or rejected all that came before.
            Request::Ping if self.ours.kind != Kind::Node => {
                answer(Answer::new(op, Code::Done), seq, output)
            }
            request if serves(self.ours.kind, request.op()) => Ok(Verdict::Serve { seq, request }),
            _ => self.refuse(&frame, output),
        }
    }

    /// Tells the peer that what it sent before has been done, and that no more is taken. Only for peers that
    /// [know](Self::knows_extensions) it.
    pub fn bye(&self, output: &mut Vec<u8>) {
        // Before the proofs a dialler takes nothing but answers.
        let is_known = self.secret.is_none() || self.proven;
        if is_known && self.knows_extensions() {
            // It has no part that could be too long.
            let _ = Request::Bye.encode_into(0, output);
        }
    }

    /// Tells the peer that a packet which it delivered was not taken. Only for peers that [know](Self::knows_extensions) it.
    pub fn reject(
        &self,
        cid: i64,
        route: i32,
        seq: i32,
        reason: RejectReason,
        output: &mut Vec<u8>,
    ) {
        if self.knows_extensions() {
            let reject = Request::Reject {
                cid,
                route,
                seq,
                reason,
            };
            // It has no part that could be too long.
            let _ = reject.encode_into(0, output);
        }
    }

    /// Returns true if the peer has said Hello.
    pub fn knows_extensions(&self) -> bool {
        self.nonces.is_some()
    }

    /// Returns the number of the dialler's kind and its id, once it has introduced itself.
    pub fn peer(&self) -> Option<(u8, &str)> {
        self.peer.as_ref().map(|peer| (peer.kind, &*peer.id))
    }

    /// Returns the time at which the link must be closed, if nothing comes until then.
    pub fn deadline(&self) -> Duration {
        // Whoever has not proved that it has the secret may not hold a connection, whatever it sends.
        match self.secret.is_some() && !self.proven {
            true => PROVING,
            false => self.last.saturating_add(SILENCE),
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> ListenerStats {
        self.stats
    }

    fn greet<'a>(
        &mut self,
        frame: &Frame<'_>,
        theirs: Hello,
        nonce: impl FnOnce() -> [u8; NONCE],
        output: &mut Vec<u8>,
    ) -> Result<Verdict<'a>, Error> {
        let Some(peer) = self.peer.as_ref().filter(|_| !self.proven) else {
            return self.refuse(frame, output);
        };
        let nonce = nonce();
        let hello = Hello {
            version: VERSION,
            features: 0,
            nonce,
        };
        let mac = self.secret.as_ref().map(|secret| {
            let (dialler, listener) = parties(peer, theirs.nonce, &self.ours, nonce);
            secret.mac(Role::Listener, &dialler, &listener)
        });
        self.nonces = Some([theirs.nonce, nonce]);
        let value = Value::Hello(hello, mac);
        let (op, code) = (frame.op, Code::Done);
        answer(Answer { op, code, value }, frame.seq, output)
    }

    fn refuse<'a>(
        &mut self,
        frame: &Frame<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Verdict<'a>, Error> {
        self.stats.refused += 1;
        refuse(frame, output)
    }
}

/// Answers that a request was not served.
fn refuse<'a>(frame: &Frame<'_>, output: &mut Vec<u8>) -> Result<Verdict<'a>, Error> {
    answer(Answer::new(frame.op, Code::Failed), frame.seq, output)
}

fn answer<'a>(answer: Answer<'_>, seq: u64, output: &mut Vec<u8>) -> Result<Verdict<'a>, Error> {
    if seq != 0 {
        answer.encode_into(seq, output)?;
    }
    Ok(Verdict::Done)
}

fn parties<'p>(
    peer: &'p Peer,
    theirs: [u8; NONCE],
    ours: &'p Identity,
    nonce: [u8; NONCE],
) -> (Party<'p>, Party<'p>) {
    let dialler = Party {
        kind: peer.kind,
        id: &peer.id,
        nonce: theirs,
    };
    let listener = Party {
        kind: ours.kind.code(),
        id: &ours.id,
        nonce,
    };
    (dialler, listener)
}

/// Returns true if a server of that kind serves the operation.
fn serves(kind: Kind, op: Op) -> bool {
    match op {
        Op::GetState | Op::SetState | Op::Bye | Op::Ping => true,
        Op::Trigger | Op::Deliver | Op::Leave | Op::Collected => kind == Kind::Node,
        _ => kind == Kind::Gate,
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("ours", &self.ours)
            .field("peer", &self.peer())
            .field("proven", &self.proven)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
