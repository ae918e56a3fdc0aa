use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{LocationEvent, Locator, MAX_WAITING, MAX_WATCHES, check};
use crate::cluster::{Error, Watch, WatchSender, watch};

/// A locator in memory, for servers that are in one process, and for tests. Clones share it.
///
/// It holds up to 1,000,000 users unless [`with_max_users`](Self::with_max_users) says otherwise, at about 200 bytes each, and up
/// to 1,024 watches.
#[derive(Clone)]
pub struct MemoryLocator(Arc<RwLock<Users>>);

struct Users {
    max: usize,
    by_uid: HashMap<i64, Places>,
    watches: Vec<WatchSender<LocationEvent>>,
}

#[derive(Default)]
struct Places {
    gate: Option<String>,
    /// By alias.
    nodes: BTreeMap<String, String>,
}

impl MemoryLocator {
    /// Returns an empty locator.
    pub fn new() -> Self {
        Self::with_max_users(1_000_000)
    }

    /// Returns an empty locator of at most so many users. More are refused with [`Error::Busy`].
    pub fn with_max_users(max: usize) -> Self {
        Self(Arc::new(RwLock::new(Users {
            max,
            by_uid: HashMap::new(),
            watches: Vec::new(),
        })))
    }

    /// Returns the number of users that are bound to something.
    pub fn len(&self) -> usize {
        self.0.read().by_uid.len()
    }

    /// Returns true if no user is bound to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MemoryLocator {
    fn default() -> Self {
        Self::new()
    }
}

impl Users {
    fn places(&mut self, uid: i64) -> Result<&mut Places, Error> {
        if self.by_uid.len() >= self.max && !self.by_uid.contains_key(&uid) {
            return Err(Error::Busy { what: "locator" });
        }
        Ok(self.by_uid.entry(uid).or_default())
    }

    /// Removes what `take` takes out of a user's places, and the user if nothing is left.
    fn unbind(&mut self, uid: i64, take: impl FnOnce(&mut Places) -> bool) -> bool {
        let Some(places) = self.by_uid.get_mut(&uid) else {
            return false;
        };
        let taken = take(places);
        if places.gate.is_none() && places.nodes.is_empty() {
            self.by_uid.remove(&uid);
        }
        taken
    }

    fn notify(&mut self, event: &LocationEvent) {
        self.watches.retain(|sender| {
            sender.push(event.clone(), MAX_WAITING) || sender.replace(LocationEvent::Interrupted)
        });
    }
}

impl Locator for MemoryLocator {
    fn kind(&self) -> &str {
        "memory"
    }

    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        check(uid, &[gid])?;
        let mut users = self.0.write();
        users.places(uid)?.gate = Some(gid.to_owned());
        let gid = gid.to_owned();
        users.notify(&LocationEvent::GateBound { uid, gid });
        Ok(())
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        check(uid, &[gid])?;
        let mut users = self.0.write();
        let unbound = users.unbind(uid, |places| {
            places.gate.take_if(|bound| bound == gid).is_some()
        });
        if unbound {
            let gid = gid.to_owned();
            users.notify(&LocationEvent::GateUnbound { uid, gid });
        }
        Ok(unbound)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        check(uid, &[alias, nid])?;
        let (alias, nid) = (alias.to_owned(), nid.to_owned());
        let mut users = self.0.write();
        let places = users.places(uid)?;
        places.nodes.insert(alias.clone(), nid.clone());
        users.notify(&LocationEvent::NodeBound { uid, alias, nid });
        Ok(())
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        check(uid, &[alias, nid])?;
        let mut users = self.0.write();
        let unbound = users.unbind(uid, |places| {
            let is_bound = places.nodes.get(alias).is_some_and(|bound| bound == nid);
            is_bound && places.nodes.remove(alias).is_some()
        });
        if unbound {
            let (alias, nid) = (alias.to_owned(), nid.to_owned());
            users.notify(&LocationEvent::NodeUnbound { uid, alias, nid });
        }
        Ok(unbound)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        check(uid, &[])?;
        let users = self.0.read();
        let gate = users
            .by_uid
            .get(&uid)
            .and_then(|places| places.gate.clone());
        Ok(gate)
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        check(uid, &[alias])?;
        let users = self.0.read();
        let places = users.by_uid.get(&uid);
        Ok(places.and_then(|places| places.nodes.get(alias).cloned()))
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        check(uid, &[])?;
        let users = self.0.read();
        let places = users.by_uid.get(&uid);
        let nodes = places
            .map(|places| places.nodes.clone())
            .unwrap_or_default();
        Ok(nodes.into_iter().collect())
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let (sender, watch) = watch();
        let mut users = self.0.write();
        users.watches.retain(|sender| !sender.is_closed());
        if users.watches.len() == MAX_WATCHES {
            return Err(Error::Busy {
                what: "locator's list of watches",
            });
        }
        users.watches.push(sender);
        Ok(watch)
    }
}

impl fmt::Debug for MemoryLocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.0.read();
        f.debug_struct("MemoryLocator")
            .field("users", &users.by_uid.len())
            .field("watches", &users.watches.len())
            .finish()
    }
}
