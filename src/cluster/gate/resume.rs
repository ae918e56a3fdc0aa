//! The users of a gate that may come back.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::options::ResumeOptions;
use super::pushes::{Pushes, Room};
use super::token::{Nonce, Tokens};
use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::drpc::Secret;
use crate::cluster::packet::{EncodedPacket, ResumeRefusal};

/// The state that the reactors of a gate share.
pub(super) struct SharedResume {
    pub(super) options: ResumeOptions,
    pub(super) tokens: Tokens,
    pub(super) room: Arc<Room>,
    /// The users without a connection that are waited for.
    pub(super) users: AtomicUsize,
}

impl SharedResume {
    pub(super) fn new(
        options: ResumeOptions,
        secret: Option<&Secret>,
        chance: &Chance,
    ) -> Result<Self, Error> {
        Ok(Self {
            options,
            tokens: Tokens::new(secret, chance)?,
            room: Room::new(&options),
            users: AtomicUsize::new(0),
        })
    }
}

/// The part of a client for which a token was issued.
pub(super) struct Resumable {
    pub(super) pushes: Pushes,
    pub(super) nonce: Nonce,
    pub(super) expires: Instant,
}

/// The connection that takes a user over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heir {
    /// One of this gate.
    Here(i64),
    /// One of another gate.
    There(Arc<str>, i64),
}

/// A claim on a user.
#[derive(Clone)]
pub(super) struct Claim {
    pub(super) uid: i64,
    pub(super) nonce: Nonce,
    /// The number of the last push that the client has.
    pub(super) last: u64,
    pub(super) heir: Heir,
}

/// A user that was taken over, with what its client has missed.
pub(super) struct TakenUser {
    pub(super) uid: i64,
    pub(super) channels: Vec<Arc<str>>,
    pub(super) pushes: Vec<EncodedPacket>,
}

impl TakenUser {
    /// Returns about how many bytes it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let pushes = self.pushes.iter().map(|packet| packet.as_bytes().len());
        pushes.sum()
    }
}

/// The number of a refusal, as the answer to Take has it.
const REFUSAL: u16 = 256;

pub(super) fn code_of(refusal: ResumeRefusal) -> u16 {
    REFUSAL + u16::from(refusal.code())
}

pub(super) fn refusal_of(code: u16) -> ResumeRefusal {
    match code.checked_sub(REFUSAL).map(u8::try_from) {
        Some(Ok(code)) => ResumeRefusal::from_code(code),
        _ => ResumeRefusal::Unavailable,
    }
}
