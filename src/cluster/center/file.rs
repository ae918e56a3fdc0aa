use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};

use super::{Configuration, Mode, Source};
use crate::cluster::{Error, Watch, WatchSender, watch};
use crate::sys::files::read_at_most;

/// A folder of files, and of folders in it. Names that begin with a dot are left out, as are files above 8 MiB.
///
/// Changes are told by the system, and looked for every 5 seconds besides, since not every file system tells them. It does not matter
/// if a file is written in place, or another one is renamed over it, or a link leads to another folder, as in a config map of
/// Kubernetes.
#[derive(Clone)]
pub struct FileSource {
    folder: PathBuf,
    mode: Mode,
}

const MAX_FILE: u64 = 8 << 20;
/// The most files and folders that are looked at.
const MAX_ENTRIES: usize = 16_384;
/// Changes that come together are read together.
const SETTLED: Duration = Duration::from_millis(50);
/// The folder is looked at after this time even if no change was told.
const TURN: Duration = Duration::from_secs(5);

impl FileSource {
    /// Returns the source of a folder, for reading. That of due is `./config`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            mode: Mode::default(),
        }
    }

    /// Sets the use of the source.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn read(&self) -> Result<Vec<Configuration>, Error> {
        let mut files = Vec::new();
        let mut entries = 0;
        self.walk(&self.folder, &mut BTreeSet::new(), &mut entries, &mut files)
            .map_err(|error| problem(&self.folder, &error))?;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn walk(
        &self,
        folder: &Path,
        above: &mut BTreeSet<PathBuf>,
        entries: &mut usize,
        into: &mut Vec<Configuration>,
    ) -> io::Result<()> {
        // A link may lead to a folder that it is in.
        let own = fs::canonicalize(folder)?;
        if !above.insert(own.clone()) {
            return Ok(());
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            *entries += 1;
            if *entries > MAX_ENTRIES || name.is_none_or(|name| name.starts_with('.')) {
                continue;
            }
            // A file may go while it is looked at.
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => self.walk(&path, above, entries, into)?,
                Ok(found) if found.is_file() => {
                    let below = path.strip_prefix(&self.folder).unwrap_or(&path);
                    if let Ok(Some(content)) = read_at_most(MAX_FILE, &path) {
                        into.push(Configuration::new(below.to_string_lossy(), content));
                    }
                }
                _ => {}
            }
        }
        above.remove(&own);
        Ok(())
    }

    fn follow(&self, sender: &WatchSender<Vec<Configuration>>, mut last: Vec<Configuration>) {
        let (told, changes) = mpsc::sync_channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // To read a file is an event too.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = told.try_send(());
            }
        });
        let mut watcher = watcher
            .inspect_err(|error| {
                log::warn!(
                    target: "epicycle::cluster",
                    "changes of {} are looked for every {TURN:?}, since the system cannot tell them: {error}", self.folder.display()
                );
            })
            .ok();
        let mut is_watching = false;
        while !sender.is_closed() {
            if let Some(watcher) = &mut watcher
                && !is_watching
            {
                // If the folder is not there, the next turn tries again.
                is_watching = watcher
                    .watch(&self.folder, RecursiveMode::Recursive)
                    .is_ok();
            }
            match self.read() {
                Ok(files) => {
                    sender.set_lost(false);
                    if files != last {
                        sender.replace(files.clone());
                        last = files;
                    }
                }
                Err(error) => {
                    log::debug!(target: "epicycle::cluster", "{error}");
                    sender.set_lost(true);
                    is_watching = false;
                }
            }
            // The end of the watch is noticed after a part of the turn.
            let mut parts = 0..10;
            while !sender.is_closed() && parts.next().is_some() {
                match changes.recv_timeout(TURN / 10) {
                    Ok(()) => {
                        thread::sleep(SETTLED);
                        let _ = changes.try_recv();
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // There is no watcher.
                    Err(RecvTimeoutError::Disconnected) => thread::sleep(TURN / 10),
                }
            }
        }
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        "file"
    }

    fn is_readable(&self) -> bool {
        self.mode.is_readable()
    }

    fn load(&self) -> Result<Vec<Configuration>, Error> {
        self.mode.check_read(self)?;
        self.read()
    }

    /// The file is written beside, and then renamed, so that nobody reads a part of it.
    fn store(&self, file: &str, content: &[u8]) -> Result<(), Error> {
        self.mode.check_write(self)?;
        let path = self.folder.join(super::check(file, content)?);
        let name = path.file_name().map(|name| name.to_string_lossy());
        // Another thread may write the same file.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let beside = format!(".{}.{process}.{number}", name.unwrap_or_default());
        let beside = path.with_file_name(beside);
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut written = fs::File::create(&beside)?;
            written.write_all(content)?;
            written.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().map_err(|error: io::Error| {
            let _ = fs::remove_file(&beside);
            problem(&path, &error)
        })
    }

    fn watch(&self) -> Result<Watch<Vec<Configuration>>, Error> {
        let first = self.load()?;
        let (sender, watch) = watch();
        sender.replace(first.clone());
        let own = self.clone();
        thread::Builder::new()
            .name("epicycle-files".to_owned())
            .spawn(move || own.follow(&sender, first))
            .map_err(|error| problem(&self.folder, &error))?;
        Ok(watch)
    }
}

fn problem(path: &Path, error: &io::Error) -> Error {
    Error::backend("configuration", format!("{}: {error}", path.display()))
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("folder", &self.folder)
            .field("mode", &self.mode)
            .finish()
    }
}
