use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Instance, Registry};
use crate::cluster::Error;
use crate::cluster::follower::{Follower, Followers};

/// The lists of the registry as a server knows them, kept up to date by watches. Reading it never blocks on a backend.
///
/// When the backend is lost, the last lists stay. [`age`](Self::age) tells for how long they have not been confirmed.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::cluster::Kind;
/// use epicycle::cluster::registry::{Directory, Instance, MemoryRegistry, Registry};
///
/// let registry = MemoryRegistry::new();
/// let directory = Directory::start(registry.clone(), &["gate", "node"])?;
/// let before = directory.version();
/// registry.register(&Instance::new(Kind::Node, "node-1", "drpc://127.0.0.1:7001"))?;
/// while directory.get("node", "node-1").is_none() {
///     directory.wait(before, Duration::from_secs(1));
/// }
/// assert_eq!(directory.age(), Duration::ZERO);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
pub struct Directory {
    registry: Box<dyn Registry>,
    shared: Arc<Shared>,
    /// A drop ends them.
    followers: Vec<Follower>,
}

struct Shared {
    lists: RwLock<HashMap<&'static str, List>>,
    version: AtomicU64,
    waiting: Mutex<()>,
    changed: Condvar,
}

type List = BTreeMap<String, Arc<Instance>>;

impl Directory {
    /// Watches these names of a registry, each on a thread of its own. Blocks until the first lists are there.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Registry::watch`], and [`Error::Backend`] if a thread cannot be started.
    pub fn start(registry: impl Registry, names: &[&'static str]) -> Result<Self, Error> {
        Self::start_as(&Followers::default(), registry, names)
    }

    pub(in crate::cluster) fn start_as(
        followers: &Followers,
        registry: impl Registry,
        names: &[&'static str],
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            lists: RwLock::default(),
            version: AtomicU64::new(0),
            waiting: Mutex::new(()),
            changed: Condvar::new(),
        });
        let mut directory = Self {
            registry: Box::new(registry),
            shared,
            followers: Vec::new(),
        };
        for name in names.iter().copied() {
            let mut watch = directory.registry.watch(name)?;
            let shared = directory.shared.clone();
            if let Some(first) = watch.next() {
                shared.set(name, first);
            }
            let follower = followers.follow("registry", watch, move |list| {
                // At the end the last list stays.
                if let Some(list) = list {
                    shared.set(name, list);
                }
            })?;
            directory.followers.push(follower);
        }
        Ok(directory)
    }

    /// Returns an instance, if it is known.
    pub fn get(&self, name: &str, id: &str) -> Option<Arc<Instance>> {
        self.shared.lists.read().get(name)?.get(id).cloned()
    }

    /// Returns all known instances of a name, in the order of their ids.
    pub fn list(&self, name: &str) -> Vec<Arc<Instance>> {
        let lists = self.shared.lists.read();
        let mut list: Vec<_> = lists
            .get(name)
            .map_or_else(Vec::new, |list| list.values().cloned().collect());
        drop(lists);
        list.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// Returns true if the instance is registered. Asks the registry if it is not known here, and so may block.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Registry::find`].
    pub fn confirm(&self, name: &str, id: &str) -> Result<bool, Error> {
        if self.get(name, id).is_some() {
            return Ok(true);
        }
        Ok(self.registry.find(name, id)?.is_some())
    }

    /// Returns a number that is higher after each change.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Blocks until the version is another one, or the time is over. Returns the version.
    pub fn wait(&self, version: u64, timeout: Duration) -> u64 {
        let mut waiting = self.shared.waiting.lock();
        if self.version() == version {
            self.shared.changed.wait_for(&mut waiting, timeout);
        }
        self.version()
    }

    /// Returns for how long the lists have not been confirmed: zero as long as the registry can be reached.
    pub fn age(&self) -> Duration {
        let lost = self.followers.iter().filter_map(Follower::lost_for);
        lost.max().unwrap_or_default()
    }
}

impl Shared {
    fn set(&self, name: &'static str, list: Vec<Instance>) {
        let list: List = list
            .into_iter()
            .map(|instance| (instance.id.clone(), Arc::new(instance)))
            .collect();
        let old = self.lists.write().insert(name, list);
        drop(old);
        let waiting = self.waiting.lock();
        self.version.fetch_add(1, Ordering::AcqRel);
        drop(waiting);
        self.changed.notify_all();
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.shared.lists.read();
        let counts = lists.iter().map(|(name, list)| (name, list.len()));
        f.debug_map().entries(counts).finish()
    }
}
