use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Script;

use super::remote::{Remote, Store};
use super::{LockGuard, Locks};
use crate::cluster::Error;
use crate::cluster::backends::Redis;

/// Locks on Redis, in the format of due: the key `due:lock:NAME` holds an id that only its holder knows.
///
/// A lock is renewed at half of its time, or each 1.5 seconds, by a thread of the adapter. It is freed when its guard is dropped, which
/// blocks as a call does. If the process dies, Redis frees the lock after its time: 3 seconds, or what `try_acquire` says. If Redis
/// dies, so do the locks, and [`is_held`](LockGuard::is_held) tells that at the next renewal.
#[derive(Clone)]
pub struct RedisLocks(Arc<Remote<Keys>>);

struct Keys {
    redis: Redis,
    tokens: bool,
    renew: Script,
}

impl RedisLocks {
    /// Returns locks with the prefix of due, `due:lock`.
    pub fn new(redis: &Redis) -> Self {
        Self::with(redis, "due:lock", false)
    }

    /// Returns locks whose keys begin with `PREFIX:`.
    pub fn with_prefix(redis: &Redis, prefix: &str) -> Self {
        Self::with(redis, prefix, false)
    }

    /// Has each holder get a [fencing token](LockGuard::token), from a counter at `PREFIX:NAME:token`, which stays for ever. It costs
    /// two commands more for each lock. If Redis loses its data, tokens begin at 1 again.
    pub fn with_tokens(self) -> Self {
        Self::with(&self.0.store.redis, &self.0.prefix, true)
    }

    fn with(redis: &Redis, prefix: &str, tokens: bool) -> Self {
        let keys = Keys {
            redis: redis.clone(),
            tokens,
            renew: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NO'} end \
                 redis.call('PEXPIRE', KEYS[1], ARGV[2]) return {'OK'}",
            ),
        };
        Self(Arc::new(Remote::new(keys, prefix)))
    }
}

impl Store for Keys {
    fn take(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(millis(ttl)).arg("NX");
        Ok(self.redis.query::<Option<()>>(&set)?.is_some())
    }

    fn renew(&self, key: &str, value: &str, ttl: Duration) -> Result<bool, Error> {
        let ttl = millis(ttl).to_string();
        self.redis.run_script(&self.renew, key, &[value, &ttl])
    }

    fn free(&self, key: &str, value: &str) -> Result<(), Error> {
        self.redis.delete_if(key, value, None).map(drop)
    }

    fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        if !self.tokens {
            return Ok(None);
        }
        let mut count = redis::cmd("INCR");
        count.arg(format!("{key}:token"));
        self.redis.query(&count).map(Some)
    }
}

fn millis(ttl: Duration) -> u64 {
    ttl.as_millis().max(1) as u64
}

impl Locks for RedisLocks {
    fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error> {
        self.0.acquire(name, wait)
    }

    fn try_acquire(&self, name: &str, ttl: Duration) -> Result<Option<LockGuard>, Error> {
        self.0.try_acquire(name, ttl)
    }
}

impl fmt::Debug for RedisLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLocks")
            .field("redis", &self.0.store.redis)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
