//! The configuration of an application, from sources that are watched: a folder, etcd, Consul, Nacos.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::cluster::center::{Center, FileSource};
//!
//! # let folder = std::env::temp_dir().join(format!("epicycle-center-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! // game.json: {"rooms": {"max": 8, "names": ["hall", "lobby"]}, "round": "30s"}
//! # std::fs::write(folder.join("game.json"), r#"{"rooms": {"max": 8, "names": ["hall", "lobby"]}, "round": "30s"}"#)?;
//! let center = Center::start(vec![Box::new(FileSource::new(&folder))])?;
//! assert_eq!(center.integer("game.rooms.max", 4), 8);
//! assert_eq!(center.text("game.rooms.names.1", "none"), "lobby");
//! assert_eq!(center.duration("game.round", Duration::ZERO), Duration::from_secs(30));
//! assert_eq!(center.scan::<Vec<String>>("game.rooms.names")?.len(), 2);
//!
//! // It is called whenever a value of the file has changed.
//! let _watching = center.watch(&["game"], Box::new(|name| println!("{name} has changed")));
//! # drop(center);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A value's path begins with the file's name, without the extension, which is the format: `json`, and with their features
//! `codec-toml`, `codec-xml` and `codec-yaml` the others. If two sources have a file of one name, the values of the later source have
//! precedence. A file that is empty or does not parse is logged, and its last values stay.

#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
#[cfg(feature = "nacos")]
mod nacos;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::codec::Codec;
use super::follower::{Follower, Followers};
use super::{Error, Watch};
use crate::panic;

#[cfg(feature = "consul")]
pub use self::consul::ConsulSource;
#[cfg(feature = "etcd")]
pub use self::etcd::EtcdSource;
pub use self::file::FileSource;
#[cfg(feature = "nacos")]
pub use self::nacos::NacosSource;

/// A source of configuration. Its calls may block.
pub trait Source: Send + Sync + 'static {
    /// Returns the source's name: `file`, for example.
    fn name(&self) -> &str;

    /// Returns false if it is only for writing. A [`Center`] does not watch it then.
    fn is_readable(&self) -> bool {
        true
    }

    /// Returns all files.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Backend`] if the source cannot be reached, and [`Error::InvalidArgument`] if it is only for writing.
    fn load(&self) -> Result<Vec<Configuration>, Error>;

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the source is only for reading, the name is not allowed, or the content is not of the format
    /// that the name says, and [`Error::Backend`] if the source cannot be reached.
    fn store(&self, file: &str, content: &[u8]) -> Result<(), Error>;

    /// Watches the files. Each value is all of them, the first at once.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn watch(&self) -> Result<Watch<Vec<Configuration>>, Error>;
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Configuration {
    /// Its place below the source's path: `b/game.json`.
    pub path: String,
    /// The last part of it: `game.json`.
    pub file: String,
    /// The file without its extension: `game`.
    pub name: String,
    /// The extension: `json`.
    pub format: String,
    /// The text.
    pub content: Vec<u8>,
}

impl Configuration {
    /// Returns the file at a path below that of its source.
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        let path = path.into();
        let file = path.rsplit('/').next().unwrap_or_default().to_owned();
        let (name, format) = file.rsplit_once('.').unwrap_or((&file, ""));
        Self {
            name: name.to_owned(),
            format: format.to_owned(),
            path,
            content: content.into(),
            file,
        }
    }
}

/// The uses of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// For reading.
    #[default]
    ReadOnly,
    /// For writing.
    WriteOnly,
    /// For both.
    ReadWrite,
}

impl Mode {
    fn is_readable(self) -> bool {
        self != Self::WriteOnly
    }

    fn check_read(self, source: &impl Source) -> Result<(), Error> {
        match self.is_readable() {
            true => Ok(()),
            false => Err(self.error(source, "writing")),
        }
    }

    fn check_write(self, source: &impl Source) -> Result<(), Error> {
        match self {
            Self::ReadOnly => Err(self.error(source, "reading")),
            _ => Ok(()),
        }
    }

    fn error(self, source: &impl Source, only: &str) -> Error {
        let name = source.name();
        let problem = format!("{name} is only for {only}; make it with .mode(Mode::ReadWrite)");
        Error::argument("source", problem)
    }
}

/// The configuration of an application. Its values are those of its sources, and change with them. It is dropped to end the watches.
///
/// It holds at most 16,384 files.
pub struct Center {
    shared: Arc<Shared>,
    /// A drop ends them.
    _followers: Vec<Follower>,
}

struct Shared {
    sources: Vec<Box<dyn Source>>,
    /// The values by the files' names.
    values: RwLock<Arc<BTreeMap<String, Value>>>,
    /// The values that were read, by source. They are locked while those of all sources are made of them.
    read: Mutex<Vec<Files>>,
    watchers: Mutex<Watchers>,
}

/// The files that were read of a source.
#[derive(Clone, Default)]
struct Files {
    values: BTreeMap<String, Value>,
    /// Those that could not be read. The log has told of them.
    faulty: Vec<Configuration>,
}

#[derive(Default)]
struct Watchers {
    last: u64,
    all: Vec<Arc<Watcher>>,
}

struct Watcher {
    id: u64,
    names: BTreeSet<String>,
    /// The files that have changed, and that the handler has not been called with.
    waiting: Mutex<BTreeSet<String>>,
    handler: Mutex<Handler>,
}

/// A function that is called with the name of a file whose values have changed.
pub type Handler = Box<dyn FnMut(&str) + Send>;

/// The most files of all sources.
const MAX_FILES: usize = 16_384;
/// The formats that a center reads, some of them with a feature.
const FORMATS: [&str; 5] = ["msgpack", "toml", "xml", "yaml", "yml"];
/// The most watches.
const MAX_WATCHERS: usize = 1024;

impl Center {
    /// Reads all sources, and follows their changes, each on a thread of its own. Files that do not parse are logged and left out.
    ///
    /// # Errors
    ///
    /// Returns the error of a source that cannot be read, and [`Error::Backend`] if a thread cannot be started.
    pub fn start(sources: Vec<Box<dyn Source>>) -> Result<Self, Error> {
        let count = sources.len();
        let shared = Arc::new(Shared {
            sources,
            values: RwLock::default(),
            read: Mutex::new(vec![Files::default(); count]),
            watchers: Mutex::default(),
        });
        let mut followers = Vec::new();
        for (index, source) in shared.sources.iter().enumerate() {
            if !source.is_readable() {
                continue;
            }
            let mut watch = source.watch()?;
            if let Some(first) = watch.next() {
                shared.update(index, &first);
            }
            let own = Arc::downgrade(&shared);
            let follower = Followers::default().follow("config", watch, move |files| {
                if let (Some(shared), Some(files)) = (own.upgrade(), files) {
                    shared.update(index, &files);
                }
            })?;
            followers.push(follower);
        }
        Ok(Self {
            shared,
            _followers: followers,
        })
    }

    /// Returns true if there is a value at a path.
    pub fn has(&self, path: &str) -> bool {
        values::find(&self.values(), path).is_some()
    }

    /// Returns the value at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        values::find(&self.values(), path).cloned()
    }

    /// Returns the text at a path, or the default. Numbers and truths become text.
    pub fn text(&self, path: &str, default: &str) -> String {
        self.read(path, values::text)
            .unwrap_or_else(|| default.to_owned())
    }

    /// Returns the integer at a path, or the default. Text of digits is one too.
    pub fn integer(&self, path: &str, default: i64) -> i64 {
        self.read(path, values::integer).unwrap_or(default)
    }

    /// Returns the number at a path, or the default.
    pub fn float(&self, path: &str, default: f64) -> f64 {
        self.read(path, values::float).unwrap_or(default)
    }

    /// Returns the truth at a path, or the default. The texts `true` and `1`, and numbers but for 0, are true.
    pub fn boolean(&self, path: &str, default: bool) -> bool {
        self.read(path, values::boolean).unwrap_or(default)
    }

    /// Returns the time at a path, or the default: a text such as `10s`, or nanoseconds, as due has it.
    pub fn duration(&self, path: &str, default: Duration) -> Duration {
        self.read(path, values::duration).unwrap_or(default)
    }

    /// Returns what is at a path as any type.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is nothing, and [`Error::Codec`] if it is no such type.
    pub fn scan<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let Some(value) = self.get(path) else {
            return Err(Error::argument("path", format!("there is no {path:?}")));
        };
        serde_json::from_value(value)
            .map_err(|error| Error::Codec(Arc::from(Box::from(format!("{path}: {error}")))))
    }

    /// Sets a value in memory. It stays until the file changes at its source.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the path is empty or leads through a value that is neither a table nor a list, or behind the
    /// end of a list.
    pub fn set(&self, path: &str, value: impl Into<Value>) -> Result<(), Error> {
        let value = value.into();
        self.shared
            .change(path, |values| values::set(values, path, value))
    }

    /// Removes a value in memory. It stays away until the file changes at its source. It is no error if there is none.
    pub fn delete(&self, path: &str) {
        // Only a path that leads nowhere is refused.
        let _ = self.shared.change(path, |values| {
            values::delete(values, path);
            Ok(())
        });
    }

    /// Writes a file at the source of this name.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no such source, and the errors of [`Source::store`]: content that does not parse is
    /// not written.
    pub fn store(&self, source: &str, file: &str, content: &[u8]) -> Result<(), Error> {
        let all = &self.shared.sources;
        let Some(found) = all.iter().find(|found| found.name() == source) else {
            let names: Vec<_> = all.iter().map(|source| source.name()).collect();
            let problem = format!("there is no {source:?}, but {names:?}");
            return Err(Error::argument("source", problem));
        };
        found.store(file, content)
    }

    /// Calls a handler whenever the values of one of these files have changed, or of any file if there are no names, until the returned
    /// value is dropped. It is called on the thread of the source, or on that which has called [`set`](Self::set), by one thread at a
    /// time. A handler that sets values itself is called with them after it has returned. One that panics is logged.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if there are too many.
    pub fn watch(&self, names: &[&str], handler: Handler) -> Result<Watching, Error> {
        let mut watchers = self.shared.watchers.lock();
        if watchers.all.len() == MAX_WATCHERS {
            return Err(Error::Busy {
                what: "list of watches",
            });
        }
        watchers.last += 1;
        let id = watchers.last;
        watchers.all.push(Arc::new(Watcher {
            id,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            waiting: Mutex::default(),
            handler: Mutex::new(handler),
        }));
        Ok(Watching {
            shared: Arc::downgrade(&self.shared),
            id,
        })
    }

    fn values(&self) -> Arc<BTreeMap<String, Value>> {
        self.shared.values.read().clone()
    }

    fn read<T>(&self, path: &str, convert: impl Fn(&Value) -> Option<T>) -> Option<T> {
        convert(values::find(&self.values(), path)?)
    }
}

impl Shared {
    /// Takes what a source has now.
    fn update(&self, index: usize, files: &[Configuration]) {
        let mut changed = BTreeSet::new();
        {
            let mut read = self.read.lock();
            let (mut new, mut faulty) = (BTreeMap::new(), Vec::new());
            for file in files.iter().take(MAX_FILES) {
                let last = read[index].values.get(&file.name);
                match decode(file) {
                    Ok(value) => drop(new.insert(file.name.clone(), value)),
                    Err(error) => {
                        // A source gives all of its files whenever one has changed.
                        if !read[index].faulty.contains(file) {
                            let (source, path) = (self.sources[index].name(), &file.path);
                            log::warn!(
                                target: "epicycle::cluster",
                                "the configuration {path} of {source} cannot be read, and its last values stay: {error}"
                            );
                        }
                        faulty.push(file.clone());
                        if let Some(last) = last {
                            new.insert(file.name.clone(), last.clone());
                        }
                    }
                }
            }
            let names: BTreeSet<_> = read[index]
                .values
                .keys()
                .chain(new.keys())
                .cloned()
                .collect();
            for name in names {
                if read[index].values.get(&name) != new.get(&name) {
                    changed.insert(name);
                }
            }
            read[index] = Files {
                values: new,
                faulty,
            };
            let mut values = BTreeMap::clone(&self.values.read());
            for name in &changed {
                let mut all = read.iter().filter_map(|source| source.values.get(name));
                match all.next().cloned() {
                    Some(mut value) => {
                        all.for_each(|more| values::merge(&mut value, more));
                        values.insert(name.clone(), value);
                    }
                    None => drop(values.remove(name)),
                }
            }
            *self.values.write() = Arc::new(values);
        }
        for name in &changed {
            self.tell(name);
        }
    }

    fn change(
        &self,
        path: &str,
        change: impl FnOnce(&mut BTreeMap<String, Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let changed = {
            let _read = self.read.lock();
            let before = self.values.read().clone();
            let mut values = BTreeMap::clone(&before);
            change(&mut values)?;
            let names = [&before, &values].map(|values| values::name(values, path));
            let mut names = names.into_iter();
            let changed = names.find(|name| before.get(*name) != values.get(*name));
            let changed = changed.map(str::to_owned);
            *self.values.write() = Arc::new(values);
            changed
        };
        if let Some(name) = changed {
            self.tell(&name);
        }
        Ok(())
    }

    fn tell(&self, name: &str) {
        let watchers = self.watchers.lock().all.clone();
        for watcher in watchers {
            if watcher.names.is_empty() || watcher.names.contains(name) {
                watcher.waiting.lock().insert(name.to_owned());
                watcher.catch_up();
            }
        }
    }
}

impl Watcher {
    /// Calls the handler with all that waits. If it runs already, it is called again afterwards: a handler may change values itself, and
    /// may end the center, which waits for the threads of other sources.
    fn catch_up(&self) {
        while let Some(mut handler) = self.handler.try_lock() {
            while let Some(name) = self.next() {
                panic::catch("epicycle::cluster", "the watch of a configuration", || {
                    handler(&name);
                });
            }
            drop(handler);
            if self.waiting.lock().is_empty() {
                return;
            }
        }
    }

    fn next(&self) -> Option<String> {
        self.waiting.lock().pop_first()
    }
}

/// Reads a file.
fn decode(file: &Configuration) -> Result<Value, Error> {
    // One that is written in place is empty for a moment, which some formats take for a value.
    if file.content.is_empty() {
        return Err(Error::argument("content", "it is empty"));
    }
    codec(file)?.decode(&file.content)
}

/// Returns the codec of a file. One without an extension is JSON.
fn codec(file: &Configuration) -> Result<Codec, Error> {
    let format = match &*file.format {
        "" => "json",
        "yml" => "yaml",
        format => format,
    };
    Codec::from_str(format)
}

/// Checks a file that is to be written. Returns its path. Content of a format that no center reads is not checked.
fn check<'f>(file: &'f str, content: &[u8]) -> Result<&'f str, Error> {
    let path = file.trim_start_matches('/');
    let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(is_odd) || path.contains(char::is_control) {
        let problem = format!("{file:?} is no path of a file below that of the source");
        return Err(Error::argument("file", problem));
    }
    let written = Configuration::new(path, content);
    let is_known = codec(&written).is_ok() || FORMATS.contains(&&*written.format);
    if is_known && let Err(error) = decode(&written) {
        let problem = format!("{path} would not be read: {error}");
        return Err(Error::argument("content", problem));
    }
    Ok(path)
}

/// Ends a watch of values when it is dropped.
#[must_use = "dropping it ends the watch"]
pub struct Watching {
    shared: Weak<Shared>,
    id: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut watchers = shared.watchers.lock();
            watchers.all.retain(|watcher| watcher.id != self.id);
        }
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}

impl fmt::Debug for Center {
    /// Leaves out the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values();
        f.debug_struct("Center")
            .field("files", &values.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_program_could_not_read_is_not_written() {
        for format in FORMATS {
            let refused = check(&format!("game.{format}"), b"\xff<").expect_err("is no text");
            assert!(refused.to_string().contains("would not be read"));
        }
        assert_eq!(check("game.txt", b"\xff<").expect("is unknown"), "game.txt");
        let toml = check("game.toml", b"a = 1");
        match cfg!(feature = "codec-toml") {
            true => assert_eq!(toml.expect("is read"), "game.toml"),
            false => {
                let refused = toml.expect_err("cannot be read").to_string();
                assert!(refused.contains("codec-toml"), "{refused}");
            }
        }
    }
}
