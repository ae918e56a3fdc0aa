//! The connections whose packets a node rejects until their gate has those back that were rejected before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::engine::slots::ConnId;

/// The connections of which a packet was rejected since its user was elsewhere.
///
/// The user may come back while the gate does not know of that yet. Then what is still on its way would be handled before the packets
/// that the gate sends again. So it is rejected too, until the gate tells that it has all of them.
#[derive(Default)]
pub(super) struct Rejecting {
    until: FxHashMap<Key, Instant>,
    /// All of them by their time, and some that have ended earlier.
    order: VecDeque<(Instant, Key)>,
}

/// A link of a gate, and a connection of that gate.
type Key = (ConnId, i64);

/// The maximum number of connections, and of those within [`LONGEST`]. Packets of others may overtake the ones that were rejected.
const MAX: usize = 65_536;

/// The longest time for which a gate is waited for.
const LONGEST: Duration = Duration::from_secs(10);

impl Rejecting {
    /// Begins to reject what comes of a connection.
    pub(super) fn begin(&mut self, link: ConnId, cid: i64, now: Instant) {
        while let Some((until, key)) = self.order.pop_front_if(|(until, _)| *until <= now) {
            if self.until.get(&key) == Some(&until) {
                self.until.remove(&key);
            }
        }
        if self.order.len() < MAX {
            let (key, until) = ((link, cid), now + LONGEST);
            self.order.push_back((until, key));
            self.until.insert(key, until);
        }
    }

    #[inline]
    pub(super) fn contains(&self, link: ConnId, cid: i64, now: Instant) -> bool {
        !self.until.is_empty() && (self.until.get(&(link, cid))).is_some_and(|until| *until > now)
    }

    pub(super) fn end(&mut self, link: ConnId, cid: i64) {
        self.until.remove(&(link, cid));
    }
}
