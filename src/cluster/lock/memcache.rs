use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::remote::{LONGEST, Remote, Store};
use super::{LockGuard, Locks};
use crate::cluster::Error;
use crate::cluster::backends::Memcache;

/// Locks on memcached, in the format of due: the key `due:lock:NAME` holds an id that only its holder knows.
///
/// A lock is renewed once a second by a thread of the adapter, and freed when its guard is dropped, which blocks as a call does. If
/// the process dies, memcached frees the lock after its time: 3 seconds, or up to two seconds more than `try_acquire` says, since
/// memcached counts whole seconds. If memcached dies, so do the locks, and [`is_held`](LockGuard::is_held) tells that at the next
/// renewal.
///
/// A server that is full forgets keys, locks among them. There are no fencing tokens, since it would forget these too.
#[derive(Clone)]
pub struct MemcacheLocks(Arc<Remote<Keys>>);

struct Keys(Memcache);

/// The time by which a key may end too early, since memcached's clock has whole seconds.
const TICK: Duration = Duration::from_secs(1);

impl MemcacheLocks {
    /// Returns locks with the prefix of due, `due:lock`.
    pub fn new(memcache: &Memcache) -> Self {
        Self::with_prefix(memcache, "due:lock")
    }

    /// Returns locks whose keys begin with `PREFIX:`.
    pub fn with_prefix(memcache: &Memcache, prefix: &str) -> Self {
        Self(Arc::new(Remote::new(Keys(memcache.clone()), prefix)))
    }
}

impl Store for Keys {
    fn take(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error> {
        self.0.add(key, value.as_bytes(), Some(ttl))
    }

    fn renew(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error> {
        match self.0.get(key)? {
            Some(found) if found.value == value.as_bytes() => {
                self.0.replace(key, &found, value.as_bytes(), Some(ttl))
            }
            _ => Ok(false),
        }
    }

    fn free(&self, key: &str, value: &str) -> Result<(), Error> {
        match self.0.get(key)? {
            Some(found) if found.value == value.as_bytes() => self.0.remove(key, &found).map(drop),
            _ => Ok(()),
        }
    }

    fn surely(&self, ttl: Duration) -> Duration {
        ttl.saturating_sub(TICK)
    }
}

impl Locks for MemcacheLocks {
    fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error> {
        self.0.acquire(name, wait)
    }

    fn try_acquire(&self, name: &str, ttl: Duration) -> Result<Option<LockGuard>, Error> {
        let ttl = ttl.min(LONGEST);
        let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        self.0.try_acquire(name, whole.max(TICK) + TICK)
    }
}

impl fmt::Debug for MemcacheLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheLocks")
            .field("memcache", &self.0.store.0)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
