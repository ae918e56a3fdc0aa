use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

/// The connections of users, for all reactors of a gate.
///
/// A push to a user reads one of 64 tables for the time of a look-up. A bind writes one. Packets of clients need none.
///
/// The locator is changed by jobs that run one at a time for each user, in their order. A bind counts from its
/// [beginning](Self::begin), before its job is submitted. So a job that makes the locator forget a user is submitted only if no bind
/// has begun, and a bind that begins later writes the locator after it.
pub(in crate::cluster) struct Users {
    shards: [RwLock<FxHashMap<i64, User>>; SHARDS],
    /// The number of binds that have succeeded.
    binds: AtomicU64,
}

#[derive(Default)]
struct User {
    /// Its connection, or 0.
    cid: i64,
    /// The number of the bind that gave it this connection.
    bind: u64,
    /// The number of binds that have begun and not ended.
    binding: u32,
}

const SHARDS: usize = 64;

/// The connection of a user, and the number of the bind by which it has it. The same connection may lose the user and get it again:
/// whoever wants to take the user from it tells the number, so that no later bind is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Holder {
    pub(in crate::cluster) cid: i64,
    pub(in crate::cluster) bind: u64,
}

/// The result of a bind that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Finished {
    /// The number of the bind.
    pub(in crate::cluster) bind: u64,
    /// The connection that had the user before, if it was another one.
    pub(in crate::cluster) replaced: Option<Holder>,
    /// True if nobody has the user, or is about to: the locator must forget it.
    pub(in crate::cluster) is_free: bool,
}

impl Users {
    pub(in crate::cluster) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            binds: AtomicU64::new(0),
        }
    }

    /// Returns the connection of a user.
    pub(in crate::cluster) fn find(&self, uid: i64) -> Option<i64> {
        Some(self.holder(uid)?.cid)
    }

    /// Returns the connection of a user, and by which bind it has it.
    pub(in crate::cluster) fn holder(&self, uid: i64) -> Option<Holder> {
        let users = self.shard(uid).read();
        let &User { cid, bind, .. } = users.get(&uid)?;
        (cid != 0).then_some(Holder { cid, bind })
    }

    /// Returns all users that have a connection.
    pub(in crate::cluster) fn all(&self) -> Vec<i64> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let bound = shard.iter().filter(|(_, user)| user.cid != 0);
            all.extend(bound.map(|(uid, _)| *uid));
        }
        all
    }

    /// Begins a bind. Each is followed by one [`finish`](Self::finish).
    pub(in crate::cluster) fn begin(&self, uid: i64) {
        self.shard(uid).write().entry(uid).or_default().binding += 1;
    }

    /// Ends a bind: with the connection that has the user now, or `None` if it failed.
    pub(in crate::cluster) fn finish(&self, uid: i64, cid: Option<i64>) -> Finished {
        let mut users = self.shard(uid).write();
        let user = users.entry(uid).or_default();
        user.binding = user.binding.saturating_sub(1);
        let (mut bind, mut replaced) = (0, None);
        if let Some(cid) = cid {
            bind = self.binds.fetch_add(1, Ordering::Relaxed) + 1;
            let old = Holder {
                cid: std::mem::replace(&mut user.cid, cid),
                bind: std::mem::replace(&mut user.bind, bind),
            };
            replaced = (old.cid != 0 && old.cid != cid).then_some(old);
        }
        let is_free = user.is_free();
        if is_free {
            users.remove(&uid);
        }
        Finished {
            bind,
            replaced,
            is_free,
        }
    }

    /// Takes the user from a connection, if it is still that one's. Returns true if nobody has the user now, or is about to: the
    /// locator must forget it.
    pub(in crate::cluster) fn release(&self, uid: i64, cid: i64) -> bool {
        let mut users = self.shard(uid).write();
        let Entry::Occupied(mut user) = users.entry(uid) else {
            return false;
        };
        if user.get().cid != cid {
            return false;
        }
        user.get_mut().cid = 0;
        let is_free = user.get().is_free();
        if is_free {
            user.remove();
        }
        is_free
    }

    fn shard(&self, uid: i64) -> &RwLock<FxHashMap<i64, User>> {
        // Ids are often consecutive, or multiples of something.
        let spread = (uid as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(spread >> 58) as usize]
    }
}

impl User {
    fn is_free(&self) -> bool {
        self.cid == 0 && self.binding == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    impl Users {
        fn len(&self) -> usize {
            self.shards.iter().map(|shard| shard.read().len()).sum()
        }
    }

    #[test]
    fn the_later_bind_replaces_the_earlier_one_and_only_the_last_holder_frees_the_user() {
        let users = Users::new();
        users.begin(7);
        users.begin(7);
        assert_eq!(users.find(7), None);
        let first = users.finish(7, Some(1));
        assert_eq!((first.replaced, first.is_free), (None, false));
        let second = users.finish(7, Some(2));
        let older = Holder {
            cid: 1,
            bind: first.bind,
        };
        assert_eq!((second.replaced, second.is_free), (Some(older), false));
        assert!(second.bind > first.bind);
        assert_eq!(users.find(7), Some(2));
        assert!(!users.release(7, 1), "it is another one's");
        assert!(users.release(7, 2));
        assert_eq!((users.find(7), users.len()), (None, 0));
    }

    #[test]
    fn a_user_whose_bind_is_under_way_is_not_freed_by_the_end_of_its_connection() {
        let users = Users::new();
        users.begin(7);
        users.finish(7, Some(1));
        users.begin(7);
        assert!(!users.release(7, 1));
        assert!(users.finish(7, None).is_free, "the bind failed");
        assert_eq!(users.len(), 0);
        assert!(!users.release(7, 1));
    }

    #[test]
    fn a_bind_to_the_same_connection_replaces_nobody() {
        let users = Users::new();
        users.begin(7);
        users.finish(7, Some(1));
        users.begin(7);
        assert_eq!(users.finish(7, Some(1)).replaced, None);
    }
}
