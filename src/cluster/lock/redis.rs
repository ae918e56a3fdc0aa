use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::Script;

use super::renewal::{Renew, Renewal, Renewed};
use super::{Held, LockGuard, Locks};
use crate::cluster::backends::Redis;
use crate::cluster::{Error, new_uuid};

/// Locks on Redis, in the format of due: the key `due:lock:NAME` holds an id that only its holder knows.
///
/// A lock is renewed at half of its time, or each 1.5 seconds, by a thread of the adapter. It is freed when its guard is dropped, which
/// blocks as a call does. If the process dies, Redis frees the lock after its time: 3 seconds, or what `try_acquire` says. If Redis
/// dies, so do the locks, and [`is_held`](LockGuard::is_held) tells that at the next renewal.
#[derive(Clone)]
pub struct RedisLocks(Arc<Shared>);

struct Shared {
    redis: Redis,
    prefix: String,
    tokens: bool,
    renewal: Renewal,
    scripts: Arc<Scripts>,
}

struct Scripts {
    renew: Script,
    free: Script,
}

/// The time that [`Locks::acquire`] asks for, as due does.
const TTL: Duration = Duration::from_secs(3);
/// The time between two attempts.
const RETRY: Duration = Duration::from_millis(20);

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
        Self::with(&self.0.redis, &self.0.prefix, true)
    }

    fn with(redis: &Redis, prefix: &str, tokens: bool) -> Self {
        let scripts = Scripts {
            renew: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NO'} end \
                 redis.call('PEXPIRE', KEYS[1], ARGV[2]) return {'OK'}",
            ),
            free: Script::new(
                "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NO'} end \
                 redis.call('DEL', KEYS[1]) return {'OK'}",
            ),
        };
        Self(Arc::new(Shared {
            redis: redis.clone(),
            prefix: prefix.to_owned(),
            tokens,
            renewal: Renewal::default(),
            scripts: Arc::new(scripts),
        }))
    }

    fn take(&self, name: &str, ttl: Duration) -> Result<Option<LockGuard>, Error> {
        super::check(name)?;
        let shared = &*self.0;
        let ttl = ttl.max(Duration::from_millis(1));
        let mut lock = RedisLock {
            redis: shared.redis.clone(),
            scripts: shared.scripts.clone(),
            key: format!("{}:{name}", shared.prefix),
            value: new_uuid(),
            ttl,
            token: None,
            is_taken: true,
        };
        let mut set = redis::cmd("SET");
        set.arg(&lock.key).arg(&lock.value);
        set.arg("PX").arg(ttl.as_millis() as u64).arg("NX");
        let mut since = Instant::now();
        // If the answer is lost, the lock is freed by its drop, since it may have been taken.
        if shared.redis.query::<Option<()>>(&set)?.is_none() {
            lock.is_taken = false;
            return Ok(None);
        }
        if shared.tokens {
            let mut count = redis::cmd("INCR");
            count.arg(format!("{}:token", lock.key));
            lock.token = Some(shared.redis.query(&count)?);
            // Somebody else may have taken it before the token was counted, and have a lower one.
            since = Instant::now();
            if !lock.renew()? {
                return Ok(None);
            }
        }
        let renewed = shared.renewal.start(lock, since)?;
        Ok(Some(LockGuard::new(name, renewed)))
    }
}

impl Locks for RedisLocks {
    fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error> {
        let began = Instant::now();
        loop {
            if let Some(guard) = self.take(name, TTL)? {
                return Ok(guard);
            }
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: "a request for a lock",
                    after: wait,
                });
            }
            thread::sleep(left.min(RETRY));
        }
    }

    fn try_acquire(&self, name: &str, ttl: Duration) -> Result<Option<LockGuard>, Error> {
        self.take(name, ttl)
    }
}

struct RedisLock {
    redis: Redis,
    scripts: Arc<Scripts>,
    key: String,
    value: String,
    ttl: Duration,
    token: Option<u64>,
    /// False if somebody else has it.
    is_taken: bool,
}

impl Renew for RedisLock {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn renew(&self) -> Result<bool, Error> {
        let ttl = self.ttl.as_millis().to_string();
        self.redis
            .run_script(&self.scripts.renew, &self.key, &[&self.value, &ttl])
    }
}

impl Held for Renewed<RedisLock> {
    fn is_held(&self) -> bool {
        Renewed::is_held(self)
    }

    fn token(&self) -> Option<u64> {
        self.lock().token
    }
}

impl Drop for RedisLock {
    fn drop(&mut self) {
        if !self.is_taken {
            return;
        }
        let freed = self
            .redis
            .run_script(&self.scripts.free, &self.key, &[&self.value]);
        if let Err(error) = freed {
            log::warn!(
                target: "epicycle::cluster",
                "the lock {} could not be freed, and ends by itself within {:?}: {error}", self.key, self.ttl
            );
        }
    }
}

impl fmt::Debug for RedisLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLocks")
            .field("redis", &self.0.redis)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
