use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::{Cache, Make, get_or_make, unless_nil};
use crate::cluster::Error;
use crate::cluster::keyed::Keyed;

/// A cache in memory, for servers that are in one process, and for tests. Clones share it.
///
/// It holds up to 1,000,000 keys unless [`with_capacity`](Self::with_capacity) says otherwise. The least recently used go first.
#[derive(Clone)]
pub struct MemoryCache(Arc<Shared>);

/// Counters of a [`MemoryCache`], from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Keys now, including those whose time is over and that nobody has asked for since.
    pub keys: u64,
    /// Keys dropped to make room.
    pub evicted: u64,
}

struct Shared {
    entries: Mutex<LruCache<String, Entry>>,
    /// One maker at a time for a key.
    making: Keyed<String>,
    evicted: AtomicU64,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
}

struct Entry {
    value: String,
    /// The time at which it ends.
    ends: Option<Duration>,
}

impl MemoryCache {
    /// Returns an empty cache of 1,000,000 keys.
    pub fn new() -> Self {
        Self::with_capacity(1_000_000)
    }

    /// Returns an empty cache of so many keys, at least 1.
    pub fn with_capacity(keys: usize) -> Self {
        let start = Instant::now();
        Self::with_clock(keys, move || start.elapsed())
    }

    /// Returns an empty cache of so many keys whose time is that of `now`: the time since any fixed moment. For tests.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::time::Duration;
    /// use epicycle::cluster::cache::{Cache, MemoryCache};
    ///
    /// let seconds = Arc::new(AtomicU64::new(0));
    /// let clock = seconds.clone();
    /// let cache = MemoryCache::with_clock(10, move || Duration::from_secs(clock.load(Ordering::Relaxed)));
    /// cache.set("key", "value", Some(Duration::from_secs(5)))?;
    /// assert!(cache.has("key")?);
    /// seconds.store(5, Ordering::Relaxed);
    /// assert!(!cache.has("key")?);
    /// # Ok::<(), epicycle::cluster::Error>(())
    /// ```
    pub fn with_clock(keys: usize, now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        // Room is made as it is needed, not for the whole capacity at once.
        let mut entries = LruCache::unbounded();
        entries.resize(NonZeroUsize::new(keys).unwrap_or(NonZeroUsize::MIN));
        Self(Arc::new(Shared {
            entries: Mutex::new(entries),
            making: Keyed::default(),
            evicted: AtomicU64::new(0),
            now: Box::new(now),
        }))
    }

    /// Returns the counters.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            keys: self.0.entries.lock().len() as u64,
            evicted: self.0.evicted.load(Ordering::Relaxed),
        }
    }
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// Returns the value of a key, [`NIL`](super::NIL) too.
    fn read(&self, key: &str) -> Option<String> {
        let now = (self.now)();
        let mut entries = self.entries.lock();
        let entry = entries.get(key)?;
        if entry.is_over(now) {
            entries.pop(key);
            return None;
        }
        Some(entry.value.clone())
    }

    /// Puts what `change` makes of the entry of a key.
    fn change<R>(
        &self,
        key: &str,
        change: impl FnOnce(Option<&Entry>, Duration) -> Result<(Entry, R), Error>,
    ) -> Result<R, Error> {
        let now = (self.now)();
        let mut entries = self.entries.lock();
        let old = entries.peek(key).filter(|entry| !entry.is_over(now));
        let (entry, result) = change(old, now)?;
        if let Some((evicted, _)) = entries.push(key.to_owned(), entry)
            && evicted != key
        {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(result)
    }

    /// Changes a number, and returns it.
    fn add<N: std::str::FromStr + ToString + Copy>(
        &self,
        key: &str,
        zero: N,
        add: impl FnOnce(N) -> Option<N>,
    ) -> Result<N, Error> {
        self.change(key, |old, _| {
            let number = match old {
                None => zero,
                Some(old) => (old.value.parse()).map_err(|_| super::not_a_number(key))?,
            };
            let sum = add(number).ok_or_else(|| super::no_sum(key))?;
            let entry = Entry {
                value: sum.to_string(),
                ends: old.and_then(|old| old.ends),
            };
            Ok((entry, sum))
        })
    }
}

impl Entry {
    fn is_over(&self, now: Duration) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

impl Cache for MemoryCache {
    fn has(&self, key: &str) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.0.read(key).and_then(unless_nil))
    }

    fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), Error> {
        self.0.change(key, |old, now| {
            let ends = match ttl {
                Some(ttl) => now.checked_add(ttl),
                None => old.and_then(|old| old.ends),
            };
            let value = value.to_owned();
            Ok((Entry { value, ends }, ()))
        })
    }

    fn get_or_set(&self, key: &str, make: Make<'_>) -> Result<Option<String>, Error> {
        get_or_make(self, &self.0.making, || Ok(self.0.read(key)), key, make)
    }

    fn delete(&self, keys: &[&str]) -> Result<usize, Error> {
        let now = (self.0.now)();
        let mut entries = self.0.entries.lock();
        let existed = |key: &&&str| entries.pop(**key).is_some_and(|entry| !entry.is_over(now));
        Ok(keys.iter().filter(existed).count())
    }

    fn increase(&self, key: &str, by: i64) -> Result<i64, Error> {
        self.0.add(key, 0, |number: i64| number.checked_add(by))
    }

    fn increase_float(&self, key: &str, by: f64) -> Result<f64, Error> {
        let finite = |sum: f64| sum.is_finite().then_some(sum);
        self.0.add(key, 0.0, |number: f64| finite(number + by))
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
