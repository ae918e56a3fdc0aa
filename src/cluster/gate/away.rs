use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::resume::{Claim, Heir, Resumable};
use super::work::Reply;
use crate::engine::timer::TimerKey;

/// A user whose connection is lost, or was given up since the user is on another one.
pub(super) struct Away {
    /// Its pushes, until another connection has the user.
    pub(super) resumable: Option<Resumable>,
    /// The end of the time within which it can come back.
    pub(super) ends: Instant,
    pub(super) ip: Option<IpAddr>,
    pub(super) address: String,
    pub(super) stage: Stage,
    /// The claim that waits for the end of the one before.
    pub(super) next: Option<(Claim, Option<Arc<Reply>>)>,
    pub(super) timer: Option<TimerKey>,
}

/// The progress of a user that is away towards another connection.
pub(super) enum Stage {
    /// Nobody has claimed it.
    Waits,
    /// Its claim waits for nodes.
    Claimed(Heir),
    /// It was handed over. If it is not on the other connection by this time, the locator is asked. Until then nothing is forgotten.
    Handed(Heir, Instant),
    /// It is on the other connection. What still comes for this one is passed on until this time.
    Settled(Heir, Instant),
}

impl Stage {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Stage::Settled(..))
    }

    /// Returns true if this connection has claimed the user and does not have it yet.
    pub(super) fn is_claimed_by(&self, heir: &Heir) -> bool {
        matches!(self, Stage::Claimed(by) | Stage::Handed(by, _) if by == heir)
    }
}
