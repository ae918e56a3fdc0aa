//! A file of nodes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Discover, DiscoverError, Stop};
use crate::gateway::config;
use crate::gateway::settings::NodeSettings;

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
