use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Instance, Registry};
use crate::cluster::{Error, Watch, WatchHandle};

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
    watches: Vec<(WatchHandle, Option<JoinHandle<()>>)>,
}

struct Shared {
    lists: RwLock<HashMap<&'static str, List>>,
    version: AtomicU64,
    waiting: Mutex<()>,
    changed: Condvar,
}

type List = HashMap<String, Arc<Instance>>;

impl Directory {
    /// Watches these names of a registry, each on a thread of its own. Blocks until the first lists are there.
    ///
    /// # Errors
    ///
    /// Returns the error of [`Registry::watch`], and [`Error::Backend`] if a thread cannot be started.
    pub fn start(registry: impl Registry, names: &[&'static str]) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            lists: RwLock::default(),
            version: AtomicU64::new(0),
            waiting: Mutex::new(()),
            changed: Condvar::new(),
        });
        let mut directory = Self {
            registry: Box::new(registry),
            shared,
            watches: Vec::new(),
        };
        for name in names.iter().copied() {
            let mut watch = directory.registry.watch(name)?;
            if let Some(first) = watch.next() {
                directory.shared.set(name, first);
            }
            directory.follow(name, watch)?;
        }
        Ok(directory)
    }

    fn follow(&mut self, name: &'static str, watch: Watch<Vec<Instance>>) -> Result<(), Error> {
        let (handle, shared) = (watch.handle(), self.shared.clone());
        let thread = thread::Builder::new().name(format!("epicycle-{name}s"));
        let thread = thread.spawn(move || watch.for_each(|list| shared.set(name, list)));
        let thread = thread.map_err(|error| Error::Backend {
            backend: "registry",
            problem: format!("no thread for a watch: {error}"),
        })?;
        self.watches.push((handle, Some(thread)));
        Ok(())
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
    /// Returns the error of [`Registry::services`].
    pub fn confirm(&self, name: &str, id: &str) -> Result<bool, Error> {
        if self.get(name, id).is_some() {
            return Ok(true);
        }
        let services = self.registry.services(name)?;
        Ok(services.iter().any(|instance| instance.id == id))
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
        let lost = self
            .watches
            .iter()
            .filter_map(|(handle, _)| handle.lost_since());
        lost.map(|since| since.elapsed()).max().unwrap_or_default()
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

impl Drop for Directory {
    fn drop(&mut self) {
        for (handle, _) in &self.watches {
            handle.close();
        }
        for (_, thread) in &mut self.watches {
            if let Some(thread) = thread.take() {
                // The thread only copies lists, so it does not panic.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.shared.lists.read();
        let counts = lists.iter().map(|(name, list)| (name, list.len()));
        f.debug_map().entries(counts).finish()
    }
}
