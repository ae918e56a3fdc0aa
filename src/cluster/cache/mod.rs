//! A cache that all servers of the cluster share.
//!
//! Values are text. [`to_text`](super::to_text) and [`from_text`](super::from_text) convert others as due does: text and numbers
//! as they are, structures as JSON.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::cluster::cache::{Cache, MemoryCache};
//!
//! let cache = MemoryCache::new();
//! cache.set("motd", "Welcome", Some(Duration::from_secs(60)))?;
//! assert_eq!(cache.get("motd")?.as_deref(), Some("Welcome"));
//! assert_eq!(cache.increase("logins", 3)?, 3);
//!
//! let profile = cache.get_or_set("profile:7", &mut || Ok(Some("{\"level\":3}".to_owned())))?;
//! assert_eq!(profile.as_deref(), Some("{\"level\":3}"));
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

#[cfg(feature = "memcache")]
mod memcache;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::time::Duration;

use super::Error;
use super::keyed::Keyed;

#[cfg(feature = "memcache")]
pub use self::memcache::MemcacheCache;
pub use self::memory::{CacheStats, MemoryCache};
#[cfg(feature = "redis")]
pub use self::redis::RedisCache;

/// The value that stands for "there is none", so that a missing value is not looked for again at once.
pub const NIL: &str = "cache@nil";

/// The time for which [`NIL`] is kept.
pub const NIL_TTL: Duration = Duration::from_secs(10);

/// A cache. Its calls may block, so they belong on a worker pool and not on a reactor.
///
/// # Errors
///
/// All calls return [`Error::Backend`] if the backend cannot be reached.
#[expect(
    clippy::missing_errors_doc,
    reason = "the trait tells them for all calls"
)]
pub trait Cache: Send + Sync + 'static {
    /// Returns true if the key has a value.
    fn has(&self, key: &str) -> Result<bool, Error>;

    /// Returns the value of a key.
    fn get(&self, key: &str) -> Result<Option<String>, Error>;

    /// Sets the value of a key, for `ttl`. Without one, a key that exists keeps the time that it has left, and a new key stays.
    fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), Error>;

    /// Returns the value of a key, and makes it if there is none. One thread at a time makes the value of a key; the others wait
    /// for it. A made value is kept for 1 to 24 hours, by chance, so that values made together do not end together. If `make`
    /// returns none, that is remembered for 10 seconds.
    ///
    /// Returns the error of `make`, if it returns one, and [`Error::InvalidArgument`] if `make` asks for its own key, or for one whose
    /// maker waits for this one, in the same process.
    fn get_or_set(&self, key: &str, make: Make<'_>) -> Result<Option<String>, Error>;

    /// Deletes keys. Returns the number of those that existed.
    fn delete(&self, keys: &[&str]) -> Result<usize, Error>;

    /// Adds to a number, and returns the sum. A missing number is 0, and the sum stays. Use a negative number to subtract.
    ///
    /// Returns [`Error::InvalidArgument`] if the value is no integer of 64 bits, or the sum is none.
    fn increase(&self, key: &str, by: i64) -> Result<i64, Error>;

    /// As [`increase`](Self::increase), with floating point.
    ///
    /// Returns [`Error::InvalidArgument`] if the value is no number, or the sum is infinite.
    fn increase_float(&self, key: &str, by: f64) -> Result<f64, Error>;
}

/// Makes a value for [`Cache::get_or_set`].
pub type Make<'m> = &'m mut dyn FnMut() -> Result<Option<String>, Error>;

/// Returns the time for which a made value is kept: 1 to 24 hours, by chance.
pub fn made_ttl() -> Duration {
    const HOUR: u64 = 60 * 60 * 1000;
    Duration::from_millis(fastrand::u64(HOUR..=24 * HOUR))
}

/// Does what [`Cache::get_or_set`] says. `read` returns what the backend has, [`NIL`] too.
fn get_or_make(
    cache: &impl Cache,
    making: &Keyed<String>,
    read: impl Fn() -> Result<Option<String>, Error>,
    key: &str,
    make: Make<'_>,
) -> Result<Option<String>, Error> {
    if let Some(found) = read()? {
        return Ok(unless_nil(found));
    }
    let _making = making.take("key", key.to_owned())?;
    // Another thread may have made it while this one waited.
    if let Some(found) = read()? {
        return Ok(unless_nil(found));
    }
    let made = make()?;
    match &made {
        Some(value) => cache.set(key, value, Some(made_ttl()))?,
        None => cache.set(key, NIL, Some(NIL_TTL))?,
    }
    Ok(made)
}

/// Returns a value, unless it stands for none.
fn unless_nil(value: String) -> Option<String> {
    (value != NIL).then_some(value)
}

/// Returns the error of a sum that cannot be made.
fn not_a_number(key: &str) -> Error {
    Error::argument("key", format!("{key:?} is no such number; set it anew"))
}

/// Returns the error of a sum that its type cannot have.
fn no_sum(key: &str) -> Error {
    Error::argument(
        "by",
        format!("the sum at {key:?} is out of range; it stays as it was"),
    )
}
