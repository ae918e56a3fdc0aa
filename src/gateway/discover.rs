//! Sources of the nodes of pools.
//!
//! A source tells the nodes of a pool, whole, whenever they change. [`Control::discover`](super::Control::discover) follows one on
//! a thread of its own. Nodes that stay keep their state, and those that go are drained. A source that fails leaves the
//! last good list.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::gateway::Gateway;
//! use epicycle::gateway::discover::{Discover, DiscoverError, Stop};
//! use epicycle::gateway::settings::NodeSettings;
//!
//! /// Asks for the nodes every 10 seconds.
//! struct Inventory;
//!
//! impl Discover for Inventory {
//!     fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
//!         if stop.wait(Duration::from_secs(10)) {
//!             return Ok(None);
//!         }
//!         Ok(Some(vec![NodeSettings::new("http://127.0.0.1:9001")]))
//!     }
//! }
//!
//! let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
//! let running = gateway.start_plain()?;
//! running.control().discover("default", Inventory)?;
//! # running.shutdown();
//! # Ok::<(), epicycle::gateway::GatewayError>(())
//! ```

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::config;
use super::settings::NodeSettings;

/// The reason why a source has no list now.
pub type DiscoverError = Box<dyn std::error::Error + Send + Sync>;

/// A source of the nodes of a pool.
pub trait Discover: Send + 'static {
    /// Waits for the next list of nodes, which replaces the last one as a whole. It is called again at once, on the same thread.
    /// It may block as long as it looks at `stop`, for example by [waiting](Stop::wait) with it. `None` ends the source.
    ///
    /// # Errors
    ///
    /// The reason why there is no list. It is logged, and the source is asked again after 1 s, then 2 s, up to 1 min.
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError>;
}

/// The end of a gateway, as its sources see it.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Waits for so long, or until the gateway ends. Returns true if it ends.
    pub fn wait(&self, time: Duration) -> bool {
        let (is_set, changed) = &*self.0;
        let mut is_set = is_set.lock();
        if let Some(until) = Instant::now().checked_add(time) {
            while !*is_set && !changed.wait_until(&mut is_set, until).timed_out() {}
        } else {
            changed.wait_while(&mut is_set, |is_set| !*is_set);
        }
        *is_set
    }

    /// Returns true if the gateway ends.
    pub fn is_set(&self) -> bool {
        *self.0.0.lock()
    }

    pub(super) fn set(&self) {
        let (is_set, changed) = &*self.0;
        *is_set.lock() = true;
        changed.notify_all();
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

/// A file of nodes as a source: `ADDRESS,WEIGHT` a line, or TOML with the key `nodes` if its name ends in `.toml`. It is
/// looked at each second.
#[derive(Debug)]
pub struct NodesFile {
    watch: FileWatch,
    uses_tls: bool,
    is_read: bool,
}

impl NodesFile {
    /// Returns the source for a file. Its first list is what the file has now.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            watch: FileWatch::new(path),
            uses_tls: false,
            is_read: false,
        }
    }

    /// Sets whether the nodes speak TLS, which addresses of the form `tcp://` do not tell. Default: no.
    pub fn uses_tls(mut self, uses_tls: bool) -> Self {
        self.uses_tls = uses_tls;
        self
    }
}

impl Discover for NodesFile {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        while self.is_read && !self.watch.has_changed() {
            if stop.wait(LOOK) {
                return Ok(None);
            }
        }
        self.is_read = true;
        let nodes = config::nodes_of(self.watch.path(), self.uses_tls)?;
        Ok(Some(nodes))
    }
}

/// The time between two looks at a file.
const LOOK: Duration = Duration::from_secs(1);

/// A file that is looked at from time to time.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    seen: Option<Seen>,
}

/// The state of a file. A file that was replaced has another number, one that was written another time or length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    number: u64,
    length: u64,
    changed: (i64, i64),
}

/// The age in seconds from which a file was not written while it was read.
const OLD: i64 = 10;

impl FileWatch {
    /// Begins to watch a file. Call it before the file is read: what changes later is noticed then.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let seen = look(&path);
        Self { path, seen }
    }

    /// Begins to watch a file that was read a moment ago. If it is so young that it may have changed since, it counts as changed.
    pub fn of_a_file_just_read(path: impl Into<PathBuf>) -> Self {
        let mut watch = Self::new(path);
        watch.seen = watch.seen.filter(Seen::is_old);
        watch
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the file has changed since this was asked for last. A file that is gone for now has not.
    pub fn has_changed(&mut self) -> bool {
        let now = look(&self.path);
        let has_changed = now.is_some() && now != self.seen;
        if has_changed {
            self.seen = now;
        }
        has_changed
    }
}

impl Seen {
    fn is_old(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        self.changed.0 < now - OLD
    }
}

fn look(file: &Path) -> Option<Seen> {
    let meta = fs::metadata(file).ok()?;
    Some(Seen {
        device: meta.dev(),
        number: meta.ino(),
        length: meta.len(),
        changed: (meta.mtime(), meta.mtime_nsec()),
    })
}
