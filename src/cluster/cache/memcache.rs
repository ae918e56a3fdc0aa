use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Cache, Make, get_or_make, no_sum, not_a_number, unless_nil};
use crate::cluster::Error;
use crate::cluster::backends::Memcache;
use crate::cluster::keyed::Keyed;

/// A cache on memcached, in the format of due: the key `due:cache:KEY` holds the text. Clones share it.
///
/// [`get_or_set`](Cache::get_or_set) has one maker of a key at a time in each process, not one among all of them. Times are rounded up
/// to whole seconds. A value that is set without a time, and a number, are read and then stored if nobody has changed them
/// meanwhile. That needs memcached 1.6 or later. A key has no spaces, and at most 250 bytes with its prefix.
#[derive(Clone)]
pub struct MemcacheCache(Arc<Shared>);

struct Shared {
    memcache: Memcache,
    prefix: String,
    making: Keyed<String>,
}

impl MemcacheCache {
    /// Returns a cache with the prefix of due, `due:cache`.
    pub fn new(memcache: &Memcache) -> Self {
        Self::with_prefix(memcache, "due:cache")
    }

    /// Returns a cache whose keys begin with `PREFIX:`.
    pub fn with_prefix(memcache: &Memcache, prefix: &str) -> Self {
        Self(Arc::new(Shared {
            memcache: memcache.clone(),
            prefix: prefix.to_owned(),
            making: Keyed::default(),
        }))
    }

    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.0.prefix)
    }

    /// Returns the value of a key, [`NIL`](super::NIL) too.
    fn read(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(found) = self.0.memcache.get(&self.key(key))? else {
            return Ok(None);
        };
        let text = String::from_utf8(found.value);
        text.map(Some)
            .map_err(|_| Error::backend("memcached", format!("the value of {key:?} is no text")))
    }

    fn add<N: FromStr + ToString + Copy>(
        &self,
        key: &str,
        zero: N,
        add: impl Fn(N) -> Option<N>,
    ) -> Result<N, Error> {
        self.0.memcache.change(&self.key(key), |old| {
            let number = match old {
                None => zero,
                // When memcached itself has made a number shorter, spaces are behind it.
                Some(old) => std::str::from_utf8(old.trim_ascii_end())
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| not_a_number(key))?,
            };
            let sum = add(number).ok_or_else(|| no_sum(key))?;
            Ok((sum.to_string().into_bytes(), sum))
        })
    }
}

impl Cache for MemcacheCache {
    fn has(&self, key: &str) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.read(key)?.and_then(unless_nil))
    }

    fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), Error> {
        let (memcache, key, value) = (&self.0.memcache, self.key(key), value.as_bytes());
        match ttl {
            Some(ttl) => memcache.set(&key, value, Some(ttl)),
            None => memcache.change(&key, |_| Ok((value.to_vec(), ()))),
        }
    }

    fn get_or_set(&self, key: &str, make: Make<'_>) -> Result<Option<String>, Error> {
        get_or_make(self, &self.0.making, || self.read(key), key, make)
    }

    fn delete(&self, keys: &[&str]) -> Result<usize, Error> {
        let mut deleted = 0;
        for key in keys {
            deleted += usize::from(self.0.memcache.delete(&self.key(key))?);
        }
        Ok(deleted)
    }

    fn increase(&self, key: &str, by: i64) -> Result<i64, Error> {
        self.add(key, 0, |number: i64| number.checked_add(by))
    }

    fn increase_float(&self, key: &str, by: f64) -> Result<f64, Error> {
        let finite = |sum: f64| sum.is_finite().then_some(sum);
        self.add(key, 0.0, |number: f64| finite(number + by))
    }
}

impl fmt::Debug for MemcacheCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheCache")
            .field("memcache", &self.0.memcache)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}
