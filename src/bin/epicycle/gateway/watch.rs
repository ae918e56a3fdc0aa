//! The files of a configuration, looked at from time to time.

use std::path::Path;

use epicycle::gateway::discover::FileWatch;
use epicycle::gateway::settings::Settings;

/// The configuration file, and the files of nodes that it names.
pub(super) struct Watch {
    files: Vec<FileWatch>,
}

impl Watch {
    /// Begins to watch the configuration file. Call it before the file is read: what changes later is noticed then.
    pub(super) fn new(config: Option<&Path>) -> Self {
        Self {
            files: config.into_iter().map(FileWatch::new).collect(),
        }
    }

    /// Watches the configuration file and the files of nodes that it names now.
    pub(super) fn follow(&mut self, config: Option<&Path>, settings: &Settings) {
        let pools = settings.pools.values();
        let nodes = pools.filter_map(|pool| pool.nodes_file.as_deref());
        let mut old = std::mem::take(&mut self.files);
        for file in config.into_iter().chain(nodes) {
            let known = old.iter().position(|other| other.path() == file);
            self.files.push(match known {
                Some(known) => old.swap_remove(known),
                None => FileWatch::of_a_file_just_read(file),
            });
        }
    }

    /// Returns true if one of them has changed since this was asked for last. A file that is gone for now has not.
    pub(super) fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for file in &mut self.files {
            changed |= file.has_changed();
        }
        changed
    }
}
