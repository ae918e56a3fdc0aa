use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::{LocationEvent, Locator, check};
use crate::cluster::Error;
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::keyed::Keyed;
use crate::cluster::registry::Directory;

/// Locations that a server remembers. It asks the locator only for what it does not know.
///
/// A change that the locator's watch tells forgets the user's locations. When the watch was interrupted, all are forgotten. A
/// location that names an instance which is no longer registered is none, and is removed from the locator, unless it has changed
/// by then.
///
/// [`gate`](Self::gate) and [`node`](Self::node) may block, and belong on a worker pool. A reactor asks
/// [`cached_gate`](Self::cached_gate) and [`cached_node`](Self::cached_node) first. It is sharded by user, so that reactors seldom
/// wait for each other.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use epicycle::cluster::Kind;
/// use epicycle::cluster::locator::{Located, LocationCache, Locator, MemoryLocator};
/// use epicycle::cluster::registry::{Directory, Instance, MemoryRegistry, Registry};
///
/// let (registry, locator) = (MemoryRegistry::new(), MemoryLocator::new());
/// registry.register(&Instance::new(Kind::Gate, "gate-1", "drpc://127.0.0.1:7001"))?;
/// let directory = Arc::new(Directory::start(registry, &["gate", "node"])?);
/// let cache = LocationCache::start(locator.clone(), directory, 1000)?;
///
/// locator.bind_gate(7, "gate-1")?;
/// assert_eq!(cache.gate(7)?.as_deref(), Some("gate-1"));
/// // Nobody knows of a gate with that id.
/// locator.bind_gate(8, "gate-9")?;
/// assert_eq!(cache.gate(8)?, None);
/// assert_eq!(locator.locate_gate(8)?, None);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
pub struct LocationCache {
    locator: Box<dyn Locator>,
    directory: Arc<Directory>,
    known: Arc<Known>,
    /// One look-up at a time for a place. The others wait for its result.
    looking: Keyed<Place>,
    /// Its drop ends the watch.
    _follower: Follower,
}

/// A user's gate (no alias) or its node of an alias.
type Place = (i64, Option<Arc<str>>);

/// An answer that is found without asking the locator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// The user is at this instance.
    At(Arc<str>),
    /// The user is nowhere.
    Nowhere,
    /// It is not known: ask on a worker pool.
    Unknown,
}

/// Counters of a [`LocationCache`], from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocationStats {
    /// Users that are remembered now.
    pub users: u64,
    /// Questions that were answered from memory.
    pub hits: u64,
    /// Questions for which the locator was asked.
    pub lookups: u64,
    /// Users that were forgotten to make room.
    pub evicted: u64,
    /// Times that all was forgotten, since changes were missed.
    pub interrupted: u64,
    /// Locations that named an instance which is not registered, and were removed.
    pub removed: u64,
}

const SHARDS: usize = 64;

struct Known {
    /// False once the watch has ended: nothing is remembered then.
    watched: AtomicBool,
    shards: [Mutex<Shard>; SHARDS],
    hits: AtomicU64,
    lookups: AtomicU64,
    evicted: AtomicU64,
    interrupted: AtomicU64,
    removed: AtomicU64,
}

struct Shard {
    users: LruCache<i64, Places>,
    /// Raised by each change. A look-up that began before a change is not remembered.
    changes: u64,
}

#[derive(Default)]
struct Places {
    gate: Option<Option<Arc<str>>>,
    /// By alias. Few, so that a search is fast.
    nodes: Vec<(Arc<str>, Option<Arc<str>>)>,
}

impl LocationCache {
    /// The default number of users that are remembered: 1,000,000, at about 200 bytes each.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// Starts a cache of at most `capacity` users (at least 64), of which the least recently used go first. The directory must
    /// follow the names `gate` and `node`.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Locator::watch`], and [`Error::Backend`] if its thread cannot be started.
    pub fn start(
        locator: impl Locator,
        directory: Arc<Directory>,
        capacity: usize,
    ) -> Result<Self, Error> {
        Self::start_as(&Followers::default(), locator, directory, capacity)
    }

    pub(in crate::cluster) fn start_as(
        followers: &Followers,
        locator: impl Locator,
        directory: Arc<Directory>,
        capacity: usize,
    ) -> Result<Self, Error> {
        let known = Arc::new(Known::new(capacity));
        let forgetful = known.clone();
        let follower = followers.follow("locator", locator.watch()?, move |change| {
            forgetful.on_change(change);
        })?;
        Ok(Self {
            locator: Box::new(locator),
            directory,
            known,
            looking: Keyed::default(),
            _follower: follower,
        })
    }

    /// Returns the gate of a user, as far as it is known here. Never blocks on the locator.
    pub fn cached_gate(&self, uid: i64) -> Located {
        self.cached(uid, None)
    }

    /// Returns the node of an alias that a user is bound to, as far as it is known here. Never blocks on the locator.
    pub fn cached_node(&self, uid: i64, alias: &str) -> Located {
        self.cached(uid, Some(alias))
    }

    /// Returns the gate of a user.
    ///
    /// # Errors
    ///
    /// Returns the error of the locator.
    pub fn gate(&self, uid: i64) -> Result<Option<Arc<str>>, Error> {
        self.locate(uid, None)
    }

    /// Returns the node of an alias that a user is bound to.
    ///
    /// # Errors
    ///
    /// Returns the error of the locator.
    pub fn node(&self, uid: i64, alias: &str) -> Result<Option<Arc<str>>, Error> {
        self.locate(uid, Some(alias))
    }

    /// Binds a user to a gate, and forgets what was known: the next answer is the new one.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Locator::bind_gate`].
    pub fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        self.changing(uid, |locator| locator.bind_gate(uid, gid))
    }

    /// Unbinds a user from a gate, if it is still bound to that one, and forgets what was known.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Locator::unbind_gate`].
    pub fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        self.changing(uid, |locator| locator.unbind_gate(uid, gid))
    }

    /// Binds a user to a node, and forgets what was known: the next answer is the new one.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Locator::bind_node`].
    pub fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        self.changing(uid, |locator| locator.bind_node(uid, alias, nid))
    }

    /// Unbinds a user from a node, if it is still bound to that one, and forgets what was known.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Locator::unbind_node`].
    pub fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        self.changing(uid, |locator| locator.unbind_node(uid, alias, nid))
    }

    /// Forgets what is known of a user: the next answer is the locator's.
    pub fn forget(&self, uid: i64) {
        self.known.forget(uid);
    }

    /// Returns the number of changes so far that may concern a user. An answer has all changes from before it was asked for.
    pub(in crate::cluster) fn changes(&self, uid: i64) -> u64 {
        self.known.changes(uid)
    }

    /// Returns the counters.
    pub fn stats(&self) -> LocationStats {
        let known = &self.known;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let users = known.shards.iter().map(|shard| shard.lock().users.len());
        LocationStats {
            users: users.sum::<usize>() as u64,
            hits: read(&known.hits),
            lookups: read(&known.lookups),
            evicted: read(&known.evicted),
            interrupted: read(&known.interrupted),
            removed: read(&known.removed),
        }
    }

    fn changing<R>(&self, uid: i64, change: impl FnOnce(&dyn Locator) -> R) -> R {
        let result = change(&*self.locator);
        // The watch tells it too, but later.
        self.known.forget(uid);
        result
    }

    fn cached(&self, uid: i64, alias: Option<&str>) -> Located {
        let found = self.known.get(uid, alias);
        let located = match found {
            None => return Located::Unknown,
            Some(None) => Located::Nowhere,
            // An instance that is gone may have come back elsewhere: only the locator knows.
            Some(Some(id)) if self.directory.get(name(alias), &id).is_none() => {
                return Located::Unknown;
            }
            Some(Some(id)) => Located::At(id),
        };
        self.known.hits.fetch_add(1, Ordering::Relaxed);
        located
    }

    fn locate(&self, uid: i64, alias: Option<&str>) -> Result<Option<Arc<str>>, Error> {
        check(uid, alias.as_slice())?;
        let known = |located| match located {
            Located::At(id) => Some(Some(id)),
            Located::Nowhere => Some(None),
            Located::Unknown => None,
        };
        if let Some(found) = known(self.cached(uid, alias)) {
            return Ok(found);
        }
        let _looking = self.looking.take("uid", (uid, alias.map(Arc::from)))?;
        // Another thread may have found it while this one waited.
        if let Some(found) = known(self.cached(uid, alias)) {
            return Ok(found);
        }
        let changes = self.known.changes(uid);
        self.known.lookups.fetch_add(1, Ordering::Relaxed);
        let found = match alias {
            None => self.locator.locate_gate(uid)?,
            Some(alias) => self.locator.locate_node(uid, alias)?,
        };
        let found = match found {
            Some(id) if self.is_gone(alias, &id) => {
                self.remove(uid, alias, &id)?;
                None
            }
            found => found.map(Arc::from),
        };
        self.known.set(uid, alias, found.clone(), changes);
        Ok(found)
    }

    /// Returns true if the instance is certainly not registered. If the registry cannot be asked, that is not certain.
    fn is_gone(&self, alias: Option<&str>, id: &str) -> bool {
        matches!(self.directory.confirm(name(alias), id), Ok(false))
    }

    fn remove(&self, uid: i64, alias: Option<&str>, id: &str) -> Result<(), Error> {
        let removed = match alias {
            None => self.locator.unbind_gate(uid, id)?,
            Some(alias) => self.locator.unbind_node(uid, alias, id)?,
        };
        self.known
            .removed
            .fetch_add(removed.into(), Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the name under which the instances of a place are registered.
fn name(alias: Option<&str>) -> &'static str {
    alias.map_or("gate", |_| "node")
}

impl Known {
    fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shard = |_| {
            // Room is made as it is needed, not for the whole capacity at once.
            let mut users = LruCache::unbounded();
            users.resize(capacity);
            Mutex::new(Shard { users, changes: 0 })
        };
        Self {
            watched: AtomicBool::new(true),
            shards: std::array::from_fn(shard),
            hits: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        }
    }

    fn shard(&self, uid: i64) -> &Mutex<Shard> {
        // Ids are often consecutive, or multiples of something.
        let spread = (uid as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(spread >> 58) as usize]
    }

    fn get(&self, uid: i64, alias: Option<&str>) -> Option<Option<Arc<str>>> {
        let mut shard = self.shard(uid).lock();
        let places = shard.users.get(&uid)?;
        match alias {
            None => places.gate.clone(),
            Some(alias) => {
                let mut nodes = places.nodes.iter();
                let (_, found) = nodes.find(|(known, _)| **known == *alias)?;
                Some(found.clone())
            }
        }
    }

    /// Returns the number of changes so far, for [`set`](Self::set).
    fn changes(&self, uid: i64) -> u64 {
        self.shard(uid).lock().changes
    }

    /// Remembers a place, unless something has changed since.
    fn set(&self, uid: i64, alias: Option<&str>, found: Option<Arc<str>>, changes: u64) {
        let mut shard = self.shard(uid).lock();
        if shard.changes != changes || !self.watched.load(Ordering::Relaxed) {
            return;
        }
        if !shard.users.contains(&uid) {
            let evicted = shard.users.push(uid, Places::default());
            self.evicted
                .fetch_add(evicted.is_some().into(), Ordering::Relaxed);
        }
        let Some(places) = shard.users.get_mut(&uid) else {
            return;
        };
        match alias {
            None => places.gate = Some(found),
            Some(alias) => {
                places.nodes.retain(|(known, _)| **known != *alias);
                if places.nodes.len() < MAX_ALIASES {
                    places.nodes.push((alias.into(), found));
                }
            }
        }
    }

    fn on_change(&self, change: Option<LocationEvent>) {
        match change {
            Some(
                LocationEvent::GateBound { uid, .. }
                | LocationEvent::GateUnbound { uid, .. }
                | LocationEvent::NodeBound { uid, .. }
                | LocationEvent::NodeUnbound { uid, .. },
            ) => self.forget(uid),
            Some(LocationEvent::Interrupted) => {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                self.forget_all();
            }
            // Without a watch nothing that is remembered can be trusted.
            None => {
                self.watched.store(false, Ordering::Relaxed);
                self.forget_all();
            }
        }
    }

    fn forget(&self, uid: i64) {
        let mut shard = self.shard(uid).lock();
        shard.changes += 1;
        shard.users.pop(&uid);
    }

    fn forget_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.changes += 1;
            shard.users.clear();
        }
    }
}

/// The maximum number of aliases that are remembered of a user.
const MAX_ALIASES: usize = 64;

impl fmt::Debug for LocationCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocationCache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
