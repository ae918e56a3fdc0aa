use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::renewal::{Renew, Renewal, Renewed};
use super::{Held, LockGuard, held_by_others};
use crate::cluster::{Error, new_uuid};

/// Locks at a backend: keys whose value only the holder knows.
pub(super) struct Remote<S> {
    pub(super) store: Arc<S>,
    pub(super) prefix: String,
    renewal: Renewal,
}

/// The keys of a backend.
pub(super) trait Store: Send + Sync + 'static {
    /// Sets a key if it has no value. Returns false if it has one.
    fn take(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error>;

    /// Sets the time that the key has left, if the value is this one. Returns false if it is not.
    fn renew(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error>;

    /// Deletes the key, if the value is this one.
    fn free(&self, key: &str, value: &str) -> Result<(), Error>;

    /// Returns the time for which a key surely stays that was set for `ttl`.
    fn surely(&self, ttl: Duration) -> Duration {
        ttl
    }

    /// Returns the next fencing token, if there are any.
    fn count(&self, _key: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

/// The time that `acquire` asks for, as due does.
const TTL: Duration = Duration::from_secs(3);
/// A longer time is cut to this: the lock is renewed while its process lives.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The time between two attempts.
const RETRY: Duration = Duration::from_millis(20);

impl<S: Store> Remote<S> {
    pub(super) fn new(store: S, prefix: &str) -> Self {
        Self {
            store: Arc::new(store),
            prefix: prefix.to_owned(),
            renewal: Renewal::default(),
        }
    }

    pub(super) fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error> {
        let began = Instant::now();
        loop {
            if let Some(guard) = self.try_acquire(name, TTL)? {
                return Ok(guard);
            }
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(held_by_others(name, wait));
            }
            thread::sleep(left.min(RETRY));
        }
    }

    pub(super) fn try_acquire(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<LockGuard>, Error> {
        super::check(name)?;
        let ttl = ttl.min(LONGEST);
        let mut lock = Lock {
            store: self.store.clone(),
            key: format!("{}:{name}", self.prefix),
            value: new_uuid(),
            ttl,
            token: None,
            taken: Taken::Perhaps,
        };
        let mut since = Instant::now();
        // If the answer is lost, the lock is freed by its drop, since it may have been taken.
        if !self.store.take(&lock.key, &lock.value, ttl)? {
            lock.taken = Taken::No;
            return Ok(None);
        }
        lock.taken = Taken::Yes;
        if let Some(token) = self.store.count(&lock.key)? {
            lock.token = Some(token);
            // Somebody else may have taken it before the token was counted, and have a lower one.
            since = Instant::now();
            if !lock.renew()? {
                return Ok(None);
            }
        }
        let renewed = self.renewal.start(lock, since)?;
        Ok(Some(LockGuard::new(name, renewed)))
    }
}

struct Lock<S: Store> {
    store: Arc<S>,
    key: String,
    value: String,
    ttl: Duration,
    token: Option<u64>,
    taken: Taken,
}

enum Taken {
    /// Somebody else has it.
    No,
    /// The answer is lost.
    Perhaps,
    Yes,
}

impl<S: Store> Renew for Lock<S> {
    fn ttl(&self) -> Duration {
        self.store.surely(self.ttl)
    }

    fn renew(&self) -> Result<bool, Error> {
        self.store.renew(&self.key, &self.value, self.ttl)
    }
}

impl<S: Store> Held for Renewed<Lock<S>> {
    fn is_held(&self) -> bool {
        Renewed::is_held(self)
    }

    fn token(&self) -> Option<u64> {
        self.lock().token
    }
}

impl<S: Store> Drop for Lock<S> {
    fn drop(&mut self) {
        let (key, ttl) = (&self.key, self.ttl);
        match self.taken {
            Taken::No => {}
            // Whoever asked for it has the error already.
            Taken::Perhaps => drop(self.store.free(key, &self.value)),
            Taken::Yes => {
                if let Err(error) = self.store.free(key, &self.value) {
                    log::warn!(
                        target: "epicycle::cluster",
                        "the lock {key} could not be freed, and ends by itself within {ttl:?}: {error}"
                    );
                }
            }
        }
    }
}
