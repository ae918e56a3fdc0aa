//! Locks that all servers of the cluster share, by name.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::cluster::lock::{Locks, MemoryLocks};
//!
//! let locks = MemoryLocks::new();
//! let held = locks.acquire("season-end", Duration::from_secs(5))?;
//! assert!(held.is_held());
//! // Nobody else has it meanwhile.
//! assert!(locks.try_acquire("season-end", Duration::from_secs(3))?.is_none());
//! drop(held);
//! assert!(locks.try_acquire("season-end", Duration::from_secs(3))?.is_some());
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

#[cfg(feature = "memcache")]
mod memcache;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "memcache", feature = "redis"))]
mod remote;
#[cfg(any(feature = "memcache", feature = "redis"))]
mod renewal;

use std::fmt;
use std::time::Duration;

use super::Error;

#[cfg(feature = "memcache")]
pub use self::memcache::MemcacheLocks;
pub use self::memory::MemoryLocks;
#[cfg(feature = "redis")]
pub use self::redis::RedisLocks;

/// Locks by name. The calls may block, so they belong on a worker pool and not on a reactor.
pub trait Locks: Send + Sync + 'static {
    /// Waits until the lock is free, for at most `wait`, and takes it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Timeout`] if it was not free in time, [`Error::InvalidArgument`] if the name is empty,
    /// [`Error::Busy`] if too many are held, and [`Error::Backend`] if the backend cannot be reached.
    fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error>;

    /// Takes the lock if it is free. `ttl` is the time after which a backend frees it if this process dies, at most a
    /// day.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), but for the timeout.
    fn try_acquire(&self, name: &str, ttl: Duration) -> Result<Option<LockGuard>, Error>;
}

/// A backend's part of a lock that is held. Its drop frees the lock, if it is still held.
pub trait Held: Send + Sync {
    /// Returns true as long as nobody else can have the lock.
    fn is_held(&self) -> bool;

    /// Returns a number that is higher than that of everybody who held the lock before, if the backend counts.
    fn token(&self) -> Option<u64>;
}

/// A lock that is held. Dropping it frees the lock.
#[must_use = "dropping it frees the lock"]
pub struct LockGuard {
    name: String,
    held: Box<dyn Held>,
}

impl LockGuard {
    /// Returns the guard of a lock, for those who implement a backend.
    pub fn new(name: impl Into<String>, held: impl Held + 'static) -> Self {
        Self {
            name: name.into(),
            held: Box::new(held),
        }
    }

    /// Returns the lock's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns true as long as nobody else can have the lock. With a backend it may be lost, if the backend cannot be reached for
    /// longer than the lock's time. If the backend has forgotten the lock, since it was started anew without its data, somebody else
    /// can have it until the next renewal notices: for half of the lock's time, at most 1.5 s.
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Returns the fencing token: a number that is higher than that of everybody who held the lock before. A service that
    /// remembers the highest one can refuse a holder that has lost its lock without noticing. `None` if the backend does not count. If
    /// the backend loses its data, tokens begin at 1 again, and such a service refuses all until it is told to forget the highest one.
    pub fn token(&self) -> Option<u64> {
        self.held.token()
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("name", &self.name)
            .field("held", &self.is_held())
            .field("token", &self.token())
            .finish()
    }
}

/// Returns the error of a lock that was not free within a time.
fn held_by_others(name: &str, wait: Duration) -> Error {
    let what = format!("a request for the lock {name:?}, which others held all the time,");
    Error::Timeout {
        what: what.into(),
        after: wait,
    }
}

/// Checks a name.
fn check(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::argument("name", "it is empty; give the lock a name"));
    }
    Ok(())
}
