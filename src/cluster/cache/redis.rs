use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Cache, Make, get_or_make, unless_nil};
use crate::cluster::Error;
use crate::cluster::backends::Redis;
use crate::cluster::keyed::Keyed;

/// A cache on Redis, in the format of due: the key `due:cache:KEY` holds the text. Clones share it.
///
/// [`get_or_set`](Cache::get_or_set) has one maker of a key at a time in each process, not one among all of them.
#[derive(Clone)]
pub struct RedisCache(Arc<Shared>);

struct Shared {
    redis: Redis,
    prefix: String,
    making: Keyed<String>,
}

/// A longer time is cut to this, since Redis refuses moments that its clock cannot tell.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl RedisCache {
    /// Returns a cache with the prefix of due, `due:cache`.
    pub fn new(redis: &Redis) -> Self {
        Self::with_prefix(redis, "due:cache")
    }

    /// Returns a cache whose keys begin with `PREFIX:`.
    pub fn with_prefix(redis: &Redis, prefix: &str) -> Self {
        Self(Arc::new(Shared {
            redis: redis.clone(),
            prefix: prefix.to_owned(),
            making: Keyed::default(),
        }))
    }

    fn command(&self, name: &str, key: &str) -> redis::Cmd {
        let mut command = redis::cmd(name);
        command.arg(format!("{}:{key}", self.0.prefix));
        command
    }

    fn run<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        self.0.redis.query(command)
    }

    /// Returns the value of a key, [`NIL`](super::NIL) too.
    fn read(&self, key: &str) -> Result<Option<String>, Error> {
        self.run(&self.command("GET", key))
    }
}

impl Cache for RedisCache {
    fn has(&self, key: &str) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.read(key)?.and_then(unless_nil))
    }

    fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), Error> {
        let mut set = self.command("SET", key);
        set.arg(value);
        match ttl {
            Some(ttl) => set
                .arg("PX")
                .arg(ttl.min(LONGEST).as_millis().max(1) as u64),
            None => set.arg("KEEPTTL"),
        };
        self.run(&set)
    }

    fn get_or_set(&self, key: &str, make: Make<'_>) -> Result<Option<String>, Error> {
        get_or_make(self, &self.0.making, || self.read(key), key, make)
    }

    fn delete(&self, keys: &[&str]) -> Result<usize, Error> {
        // One by one, since the keys of one command must lie in one slot of a cluster.
        let mut deleted = 0;
        for key in keys {
            deleted += self.run::<usize>(&self.command("DEL", key))?;
        }
        Ok(deleted)
    }

    fn increase(&self, key: &str, by: i64) -> Result<i64, Error> {
        let mut add = self.command("INCRBY", key);
        add.arg(by);
        self.run(&add).map_err(|error| of_a_number(key, error))
    }

    fn increase_float(&self, key: &str, by: f64) -> Result<f64, Error> {
        let mut add = self.command("INCRBYFLOAT", key);
        add.arg(by);
        self.run(&add).map_err(|error| of_a_number(key, error))
    }
}

/// Redis tells by text only that the value is no number, or that the sum is none.
fn of_a_number(key: &str, error: Error) -> Error {
    let Error::Backend { problem, .. } = &error else {
        return error;
    };
    let tells = |texts: [&str; 2]| texts.iter().any(|text| problem.contains(text));
    if tells(["overflow", "NaN or Infinity"]) {
        super::no_sum(key)
    } else if tells(["not an integer", "not a valid float"]) {
        super::not_a_number(key)
    } else {
        error
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache")
            .field("redis", &self.0.redis)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
