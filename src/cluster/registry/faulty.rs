use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

/// The records that cannot be read. The log tells of each once, however often it is read, and again when it has changed.
pub(super) struct Faulty(Mutex<LruCache<u64, ()>>);

/// Of more faulty records than these, the log tells again.
const MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("is not zero");

impl Default for Faulty {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX)))
    }
}

impl Faulty {
    /// Warns of a record, unless that was done before.
    pub(super) fn warn(&self, record: impl Hash, message: impl fmt::Display) {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        if self.0.lock().put(hasher.finish(), ()).is_none() {
            log::warn!(target: "epicycle::cluster", "{message}");
        }
    }
}
