//! The files of a configuration, looked at from time to time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use epicycle::gateway::settings::Settings;

/// The age in seconds from which a file was not written while it was read.
const OLD: i64 = 10;

/// Files, with what was seen of them.
pub(super) struct Watch {
    files: Vec<(PathBuf, Option<Seen>)>,
}

/// The state of a file. A file that was replaced has another number, one that was written another time or length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    number: u64,
    length: u64,
    changed: (i64, i64),
}

impl Watch {
    /// Begins to watch the configuration file. Call it before the file is read: what changes later is noticed then.
    pub(super) fn new(config: Option<&Path>) -> Self {
        let files = config.into_iter();
        Self {
            files: files.map(|file| (file.to_owned(), look(file))).collect(),
        }
    }

    /// Watches the configuration file and the files of nodes that it names now.
    pub(super) fn follow(&mut self, config: Option<&Path>, settings: &Settings) {
        let pools = settings.pools.values();
        let nodes = pools.filter_map(|pool| pool.nodes_file.as_deref());
        let old = std::mem::take(&mut self.files);
        for file in config.into_iter().chain(nodes) {
            let known = old.iter().find(|(other, _)| other == file);
            // One that is new here was read a moment ago. It may have changed since, if it is young.
            let seen = known.map_or_else(|| look(file).filter(Seen::is_old), |(_, seen)| *seen);
            self.files.push((file.to_owned(), seen));
        }
    }

    /// Returns true if one of them has changed since this was asked for last. A file that is gone for now has not.
    pub(super) fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (file, seen) in &mut self.files {
            let now = look(file);
            if now.is_some() && now != *seen {
                *seen = now;
                changed = true;
            }
        }
        changed
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
