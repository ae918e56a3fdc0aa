//! The files of a configuration, looked at from time to time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use epicycle::gateway::settings::Settings;

/// Files, with what was seen of them.
pub(super) struct Watch {
    files: Vec<(PathBuf, Option<Seen>)>,
}

/// What a file looked like. A file that was replaced has another number, one that was written another time or length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    number: u64,
    length: u64,
    changed: (i64, i64),
}

impl Watch {
    /// Begins to watch the configuration file and the files of nodes that it names.
    pub(super) fn new(config: Option<&Path>, settings: &Settings) -> Self {
        let pools = settings.pools.values();
        let nodes = pools.filter_map(|pool| pool.nodes_file.as_deref());
        let files = config.into_iter().chain(nodes);
        Self {
            files: files.map(|file| (file.to_owned(), look(file))).collect(),
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

fn look(file: &Path) -> Option<Seen> {
    let meta = fs::metadata(file).ok()?;
    Some(Seen {
        device: meta.dev(),
        number: meta.ino(),
        length: meta.len(),
        changed: (meta.mtime(), meta.mtime_nsec()),
    })
}
