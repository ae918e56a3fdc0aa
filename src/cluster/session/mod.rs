//! The clients of a gate: by connection, by user, by channel.
//!
//! Each reactor has [`Sessions`] of its own, without a lock. A connection's number tells its reactor. [`Users`] is what all reactors
//! share: it tells the connection of a user.

mod users;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};

use super::Error;
use crate::engine::slots::ConnId;

pub(super) use self::users::{Holder, Users};

/// The maximum number of channels of a connection.
const MAX_CHANNELS_EACH: usize = 64;

/// The maximum number of channels of a gate. One with members on several reactors counts once for each.
const MAX_CHANNELS: usize = 100_000;

/// The bits of a connection's number that tell its reactor.
const REACTOR_BITS: u32 = 10;

/// The maximum number of reactors of a gate.
pub(super) const MAX_REACTORS: usize = 1 << REACTOR_BITS;

/// The clients of one reactor.
pub(super) struct Sessions {
    reactor: usize,
    /// The count in the number of the last connection.
    last: i64,
    clients: FxHashMap<i64, Client>,
    users: usize,
    channels: HashMap<Arc<str>, FxHashSet<i64>>,
    /// The number of channels of all reactors.
    all_channels: Arc<AtomicUsize>,
}

struct Client {
    conn: ConnId,
    /// Its user, or 0.
    uid: i64,
    /// The number of the bind that gave it the user.
    bind: u64,
    channels: Vec<Arc<str>>,
}

impl Sessions {
    /// Returns the empty sessions of a reactor. `began` is the gate's start in microseconds since 1970: a number that is counted
    /// up from there is not used again by the gate's next life, unless this one accepts a million clients a second throughout.
    pub(super) fn new(reactor: usize, began: u64, all_channels: Arc<AtomicUsize>) -> Self {
        Self {
            reactor,
            last: (began & (u64::MAX >> (REACTOR_BITS + 1))) as i64,
            clients: FxHashMap::default(),
            users: 0,
            channels: HashMap::new(),
            all_channels,
        }
    }

    /// Adds a connection. Returns its number.
    pub(super) fn add(&mut self, conn: ConnId) -> i64 {
        self.last += 1;
        let cid = self.last << REACTOR_BITS | self.reactor as i64;
        let client = Client {
            conn,
            uid: 0,
            bind: 0,
            channels: Vec::new(),
        };
        self.clients.insert(cid, client);
        cid
    }

    /// Removes a connection from everywhere. Returns its user, or 0.
    pub(super) fn remove(&mut self, cid: i64) -> i64 {
        let Some(client) = self.clients.remove(&cid) else {
            return 0;
        };
        for channel in &client.channels {
            self.leave(channel, cid);
        }
        self.users -= usize::from(client.uid != 0);
        client.uid
    }

    /// Returns the connection of a number. If a user is given, it must be that of the connection.
    pub(super) fn find(&self, cid: i64, uid: i64) -> Option<ConnId> {
        let client = self.clients.get(&cid)?;
        (uid == 0 || uid == client.uid).then_some(client.conn)
    }

    /// Returns the connection that has a user, if it has it by this bind.
    pub(super) fn held(&self, uid: i64, holder: Holder) -> Option<ConnId> {
        let client = self.clients.get(&holder.cid)?;
        (uid == client.uid && holder.bind == client.bind).then_some(client.conn)
    }

    /// Returns the user of a connection, or 0.
    pub(super) fn uid(&self, cid: i64) -> i64 {
        self.clients.get(&cid).map_or(0, |client| client.uid)
    }

    /// Gives a connection a user, by a bind of this number, or takes it with 0. Returns the user that it had, or `None` if it is
    /// gone.
    pub(super) fn set_uid(&mut self, cid: i64, uid: i64, bind: u64) -> Option<i64> {
        let client = self.clients.get_mut(&cid)?;
        client.bind = bind;
        let old = std::mem::replace(&mut client.uid, uid);
        self.users = self.users + usize::from(uid != 0) - usize::from(old != 0);
        Some(old)
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn users(&self) -> usize {
        self.users
    }

    /// Returns all connections, or those with a user.
    pub(super) fn all(&self, users_only: bool) -> Vec<i64> {
        let clients = self.clients.iter();
        let wanted = clients.filter(|(_, client)| !users_only || client.uid != 0);
        wanted.map(|(cid, _)| *cid).collect()
    }

    /// Returns the members of a channel.
    pub(super) fn members(&self, channel: &str) -> Vec<i64> {
        let members = self.channels.get(channel);
        members.map_or_else(Vec::new, |members| members.iter().copied().collect())
    }

    /// Returns the channels of a connection.
    pub(super) fn channels(&self, cid: i64) -> Vec<Arc<str>> {
        (self.clients.get(&cid)).map_or_else(Vec::new, |client| client.channels.clone())
    }

    /// Makes a connection a member of a channel. It is no error if it is one already, or is gone.
    pub(super) fn join(&mut self, channel: &Arc<str>, cid: i64) -> Result<(), Error> {
        let Some(client) = self.clients.get_mut(&cid) else {
            return Ok(());
        };
        if client.channels.contains(channel) {
            return Ok(());
        }
        if client.channels.len() == MAX_CHANNELS_EACH {
            return Err(Error::Busy {
                what: "list of channels of a connection",
            });
        }
        if !self.channels.contains_key(channel) {
            // The counter may go over by one for each reactor that looks at the same time, and comes down again.
            if self.all_channels.fetch_add(1, Ordering::Relaxed) >= MAX_CHANNELS {
                self.all_channels.fetch_sub(1, Ordering::Relaxed);
                return Err(Error::Busy {
                    what: "table of channels",
                });
            }
        }
        client.channels.push(channel.clone());
        self.channels
            .entry(channel.clone())
            .or_default()
            .insert(cid);
        Ok(())
    }

    /// Takes a connection out of a channel, if it is a member.
    pub(super) fn part(&mut self, channel: &str, cid: i64) {
        let Some(client) = self.clients.get_mut(&cid) else {
            return;
        };
        client.channels.retain(|joined| **joined != *channel);
        self.leave(channel, cid);
    }

    fn leave(&mut self, channel: &str, cid: i64) {
        let Some(members) = self.channels.get_mut(channel) else {
            return;
        };
        members.remove(&cid);
        if members.is_empty() {
            self.channels.remove(channel);
            self.all_channels.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Returns the reactor of a connection's number. It may have no such reactor: numbers come from other servers.
pub(super) fn reactor_of(cid: i64) -> usize {
    (cid & (MAX_REACTORS as i64 - 1)) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions::new(3, 1_700_000_000_000_000, Arc::default())
    }

    fn conn(n: u32) -> ConnId {
        ConnId::from_u64(n.into())
    }

    #[test]
    fn numbers_rise_tell_the_reactor_and_are_never_used_again() {
        let mut first_life = sessions();
        let numbers: Vec<i64> = (0..1000).map(|n| first_life.add(conn(n))).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] > 0);
        assert!(numbers.iter().all(|cid| reactor_of(*cid) == 3));
        first_life.remove(numbers[999]);
        assert!(first_life.add(conn(0)) > numbers[999]);
        // A millisecond later, on another number of reactors.
        let mut second_life = Sessions::new(0, 1_700_000_000_002_000, Arc::default());
        assert!(second_life.add(conn(0)) > numbers[999] + 1);
    }

    #[test]
    fn a_connection_leaves_all_its_channels_and_an_empty_channel_goes() {
        let mut sessions = sessions();
        let (a, b) = (sessions.add(conn(1)), sessions.add(conn(2)));
        let (room, hall) = (Arc::from("room"), Arc::from("hall"));
        for (channel, cid) in [(&room, a), (&room, b), (&hall, a), (&room, a)] {
            sessions.join(channel, cid).expect("there is room");
        }
        assert_eq!(sessions.all_channels.load(Ordering::Relaxed), 2);
        sessions.remove(a);
        assert_eq!(sessions.members("room"), [b]);
        assert!(sessions.members("hall").is_empty());
        sessions.part("room", b);
        assert_eq!(sessions.all_channels.load(Ordering::Relaxed), 0);
        assert!(sessions.channels.is_empty());
    }

    #[test]
    fn channels_are_bounded_for_a_connection_and_for_the_gate() {
        let mut sessions = sessions();
        let (a, b) = (sessions.add(conn(1)), sessions.add(conn(2)));
        for n in 0..MAX_CHANNELS_EACH {
            sessions
                .join(&n.to_string().into(), a)
                .expect("there is room");
        }
        assert!(sessions.join(&"one more".into(), a).is_err());
        assert!(sessions.join(&"0".into(), a).is_ok(), "it is in that one");
        sessions.all_channels.store(MAX_CHANNELS, Ordering::Relaxed);
        assert!(sessions.join(&"new".into(), b).is_err());
        assert!(sessions.join(&"0".into(), b).is_ok(), "it exists");
        assert_eq!(sessions.all_channels.load(Ordering::Relaxed), MAX_CHANNELS);
    }

    #[test]
    fn a_user_is_counted_while_it_has_a_connection() {
        let mut sessions = sessions();
        let (a, b) = (sessions.add(conn(1)), sessions.add(conn(2)));
        assert_eq!(sessions.set_uid(a, 7, 1), Some(0));
        assert_eq!(sessions.set_uid(a, 8, 1), Some(7));
        assert_eq!(sessions.set_uid(b, 9, 1), Some(0));
        assert_eq!((sessions.users(), sessions.all(true).len()), (2, 2));
        assert_eq!(sessions.find(a, 7), None);
        assert_eq!(sessions.find(a, 8), Some(conn(1)));
        assert_eq!(sessions.set_uid(b, 0, 1), Some(9));
        assert_eq!(sessions.remove(a), 8);
        assert_eq!((sessions.users(), sessions.len()), (0, 1));
        assert_eq!(sessions.set_uid(a, 7, 1), None);
    }
}
