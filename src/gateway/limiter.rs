//! Limits of rates: buckets of tokens by key, in tables that all reactors share.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use super::settings::{LimitBy, LimitSettings};
use super::users::network;
use crate::http::Headers;

/// The limiters of a gateway, by the listeners and routes that have them. A limit that stays in the settings keeps its buckets.
#[derive(Debug, Default)]
pub(super) struct Limiters(Mutex<BTreeMap<String, Vec<Arc<Limiter>>>>);

/// A limit of a listener or a route.
#[derive(Debug)]
pub(super) struct Limiter {
    settings: LimitSettings,
    filling: Filling,
    /// The hash of keys. Its own key is secret, so no client can choose keys that meet.
    hasher: RandomState,
    /// The buckets, by the hashes of their keys. Each shard has a part of them, so that reactors seldom wait for each other.
    shards: Box<[Mutex<Shard>]>,
    max_in_shard: usize,
    /// The moment from which the buckets' times count.
    epoch: OnceLock<Instant>,
    forgotten: AtomicU64,
}

type Shard = LruCache<u64, Bucket, FxBuildHasher>;

/// The number of parts of a table.
const SHARDS: usize = 16;

/// The way in which buckets fill, in whole numbers, so that it is exact: a token is as many units as the rate's time has
/// nanoseconds, and each nanosecond brings as many units as the rate has requests.
#[derive(Clone, Copy, Debug)]
struct Filling {
    token: u64,
    each_nano: u64,
    full: u64,
}

/// A bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The units that it lacks.
    lacks: u64,
    /// The time at which that was so, in nanoseconds.
    at: u64,
}

impl Filling {
    fn new(settings: &LimitSettings) -> Self {
        // The settings were checked, so neither overflows: an hour a million times is 3.6e18 ns.
        let token = settings.rate.per.as_nanos() as u64;
        Self {
            token,
            each_nano: u64::from(settings.rate.requests),
            full: token.saturating_mul(u64::from(settings.burst)),
        }
    }
}

impl Bucket {
    fn fill(&mut self, filling: Filling, now: u64) {
        // Reactors look at the clock once a turn, so one may be behind another.
        let passed = now.saturating_sub(self.at);
        let gained = passed.saturating_mul(filling.each_nano);
        self.lacks = self.lacks.saturating_sub(gained);
        self.at = self.at.max(now);
    }

    /// Takes a token. If there is none, returns the time after which there is one, in nanoseconds.
    fn take(&mut self, filling: Filling, now: u64) -> Result<(), u64> {
        self.fill(filling, now);
        let lacks = self.lacks + filling.token;
        if lacks <= filling.full {
            self.lacks = lacks;
            return Ok(());
        }
        Err((lacks - filling.full).div_ceil(filling.each_nano))
    }

    fn give_back(&mut self, filling: Filling) {
        self.lacks = self.lacks.saturating_sub(filling.token);
    }
}

impl Limiter {
    pub(super) fn new(settings: &LimitSettings) -> Self {
        let shard = || Mutex::new(LruCache::unbounded_with_hasher(FxBuildHasher));
        Self {
            filling: Filling::new(settings),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            max_in_shard: (settings.max_keys as usize).div_ceil(SHARDS),
            epoch: OnceLock::new(),
            forgotten: AtomicU64::new(0),
            settings: settings.clone(),
        }
    }

    /// Returns the key of a request.
    pub(super) fn key(&self, client: Option<IpAddr>, fields: Headers<'_>) -> u64 {
        match &self.settings.by {
            LimitBy::Ip => self.hasher.hash_one(client.map(network)),
            LimitBy::Header(name) => self.hasher.hash_one(fields.get(name)),
            LimitBy::All => 0,
        }
    }

    /// Takes a token for a request. If there is none, returns the time after which there is one.
    pub(super) fn take(&self, key: u64, now: Instant) -> Result<(), Duration> {
        let now = self.nanos(now);
        let mut shard = self.shard(key).lock();
        if let Some(bucket) = shard.get_mut(&key) {
            return bucket.take(self.filling, now).map_err(Duration::from_nanos);
        }
        if shard.len() >= self.max_in_shard {
            let oldest = shard.pop_lru();
            // A bucket that is full by now is as good as forgotten.
            let was_in_use = oldest.is_some_and(|(_, mut bucket)| {
                bucket.fill(self.filling, now);
                bucket.lacks > 0
            });
            if was_in_use {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut bucket = Bucket { lacks: 0, at: now };
        let taken = bucket.take(self.filling, now);
        shard.put(key, bucket);
        taken.map_err(Duration::from_nanos)
    }

    /// Gives back a token that was taken, since its request is not carried out.
    pub(super) fn give_back(&self, key: u64) {
        if let Some(bucket) = self.shard(key).lock().peek_mut(&key) {
            bucket.give_back(self.filling);
        }
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // The map uses other bits of the key.
        &self.shards[(key >> 48) as usize % SHARDS]
    }

    fn nanos(&self, now: Instant) -> u64 {
        let epoch = self.epoch.get_or_init(|| now);
        now.saturating_duration_since(*epoch).as_nanos() as u64
    }

    fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Limiters {
    /// Returns the limiters of a listener or a route, of which `owner` is the name. Those whose settings were there before go
    /// on with their buckets.
    pub(super) fn of(&self, owner: &str, limits: &[LimitSettings]) -> Box<[Arc<Limiter>]> {
        if limits.is_empty() {
            return Box::default();
        }
        let mut all = self.0.lock();
        let known = all.entry(owner.to_owned()).or_default();
        let limiters = limits.iter().map(|settings| {
            let found = known.iter().find(|known| known.settings == *settings);
            found.cloned().unwrap_or_else(|| {
                let limiter = Arc::new(Limiter::new(settings));
                known.push(limiter.clone());
                limiter
            })
        });
        limiters.collect()
    }

    /// Forgets the limiters that nobody uses any more.
    pub(super) fn forget_unused(&self) {
        self.0.lock().retain(|_, limiters| {
            limiters.retain(|limiter| Arc::strong_count(limiter) > 1);
            !limiters.is_empty()
        });
    }

    /// Returns the number of buckets, and of those that were forgotten while they were in use.
    pub(super) fn count(&self) -> (usize, u64) {
        let all = self.0.lock();
        let limiters = all.values().flatten();
        limiters.fold((0, 0), |(keys, forgotten), limiter| {
            let more = limiter.forgotten.load(Ordering::Relaxed);
            (keys + limiter.keys(), forgotten + more)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::settings::Rate;
    use crate::http::HeaderBlock;

    fn limiter(rate: &str, burst: u32) -> Limiter {
        let rate = rate.parse().expect("a rate");
        Limiter::new(&LimitSettings::new(rate).burst(burst))
    }

    #[test]
    fn a_bucket_has_its_burst_and_then_a_token_each_time_to_the_nanosecond() {
        for (rate, burst, each) in [
            ("100/s", 200, 10_000_000),
            ("30/m", 1, 2_000_000_000),
            ("3/h", 2, 1_200_000_000_000),
            ("1000000/s", 1_000_000, 1000),
        ] {
            let (limiter, start) = (limiter(rate, burst), Instant::now());
            let each = Duration::from_nanos(each);
            for _ in 0..burst {
                assert_eq!(limiter.take(7, start), Ok(()), "{rate}");
            }
            assert_eq!(limiter.take(7, start), Err(each), "{rate}");
            let nano = Duration::from_nanos(1);
            for n in 1..=10 {
                let due = start + each * n;
                assert_eq!(limiter.take(7, due - nano), Err(nano), "{rate}");
                assert_eq!(limiter.take(7, due), Ok(()), "{rate}");
                assert_eq!(limiter.take(7, due), Err(each), "{rate}");
            }
            // Another key has a bucket of its own.
            assert_eq!(limiter.take(8, start), Ok(()), "{rate}");
        }
    }

    #[test]
    fn a_rate_whose_interval_is_no_whole_number_is_exact_over_time() {
        let (limiter, start) = (limiter("7/s", 1), Instant::now());
        let mut taken = 0;
        for step in 0..100_000 {
            // 100 s in steps of 1 ms.
            let now = start + Duration::from_millis(step);
            taken += u32::from(limiter.take(1, now).is_ok());
        }
        assert_eq!(taken, 700);
    }

    #[test]
    fn a_clock_that_is_behind_brings_nothing_and_takes_nothing() {
        let (limiter, start) = (limiter("1/s", 1), Instant::now());
        let second = Duration::from_secs(1);
        // The first call begins the count of time.
        assert_eq!(limiter.take(1, start), Ok(()));
        assert_eq!(limiter.take(1, start + 10 * second), Ok(()));
        assert_eq!(limiter.take(1, start + 5 * second), Err(second));
        assert_eq!(limiter.take(1, start + 11 * second), Ok(()));
    }

    proptest! {
        #[test]
        fn no_time_lets_more_requests_pass_than_burst_and_rate(
            requests in 1_u32..50,
            burst in 1_u32..50,
            gaps in prop::collection::vec(0_u64..200_000_000, 1..200),
        ) {
            let (limiter, mut now) = (limiter(&format!("{requests}/s"), burst), Instant::now());
            let mut passed = Vec::new();
            for gap in gaps {
                now += Duration::from_nanos(gap);
                match limiter.take(1, now) {
                    Ok(()) => passed.push(now),
                    // The time that is told is the right one.
                    Err(wait) => {
                        let nano = Duration::from_nanos(1);
                        prop_assert!(limiter.take(1, now + wait - nano).is_err());
                        now += wait;
                        prop_assert!(limiter.take(1, now).is_ok());
                        passed.push(now);
                    }
                }
            }
            for (n, first) in passed.iter().enumerate() {
                for (m, last) in passed.iter().enumerate().skip(n) {
                    let time = last.duration_since(*first).as_nanos();
                    let most = u128::from(burst) * 1_000_000_000 + time * u128::from(requests);
                    prop_assert!((m - n + 1) as u128 * 1_000_000_000 <= most);
                }
            }
        }
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (limiter, now) = (limiter("1/h", 1), Instant::now());
        assert_eq!(limiter.take(1, now), Ok(()));
        limiter.give_back(1);
        assert_eq!(limiter.take(1, now), Ok(()));
        assert!(limiter.take(1, now).is_err());
        // One that was never taken makes no bucket fuller than full.
        limiter.give_back(2);
        assert_eq!(limiter.take(2, now), Ok(()));
        assert!(limiter.take(2, now).is_err());
    }

    #[test]
    fn addresses_share_a_bucket_by_host_or_household_and_fields_by_value() {
        let none = HeaderBlock::new();
        let by_ip = limiter("1/s", 1);
        let key = |text: &str| {
            let ip: IpAddr = text.parse().expect("an address");
            by_ip.key(Some(ip), none.headers())
        };
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        let rate = Rate::per_second(1);
        let settings = LimitSettings::new(rate).by(LimitBy::Header("X-Key".to_owned()));
        let by_field = Limiter::new(&settings);
        let of = |value: &str| {
            HeaderBlock::new()
                .with("x-key", value)
                .expect("it is sound")
        };
        let (a, b) = (of("a"), of("b"));
        assert_eq!(
            by_field.key(None, a.headers()),
            by_field.key(None, a.headers())
        );
        assert_ne!(
            by_field.key(None, a.headers()),
            by_field.key(None, b.headers())
        );
        assert_ne!(
            by_field.key(None, a.headers()),
            by_field.key(None, none.headers())
        );
    }

    #[test]
    fn very_many_keys_take_bounded_memory_and_those_in_use_are_forgotten_last() {
        let mut settings = LimitSettings::new(Rate::per_hour(1));
        settings.max_keys = 1000;
        let (limiter, now) = (Limiter::new(&settings), Instant::now());
        let key = |n: u32| {
            limiter.key(
                Some(IpAddr::from(n.to_be_bytes())),
                HeaderBlock::new().headers(),
            )
        };
        for n in 0..100_000 {
            assert_eq!(limiter.take(key(n), now), Ok(()));
            // One that asks again and again gains nothing by the others.
            if n > 0 {
                assert!(limiter.take(key(0), now).is_err(), "{n}");
            }
        }
        let keys = limiter.keys();
        assert!((900..=1008).contains(&keys), "{keys}");
        let forgotten = limiter.forgotten.load(Ordering::Relaxed);
        assert_eq!(forgotten, 100_000 - keys as u64);
        // Buckets that are full are forgotten for nothing.
        let later = now + Duration::from_secs(60 * 60);
        for n in 200_000..200_500 {
            assert_eq!(limiter.take(key(n), later), Ok(()));
        }
        assert_eq!(limiter.forgotten.load(Ordering::Relaxed), forgotten);
    }

    #[test]
    fn a_limit_that_stays_keeps_its_buckets_and_one_that_goes_is_forgotten() {
        let limiters = Limiters::default();
        let (a, b) = (
            LimitSettings::new(Rate::per_hour(1)),
            LimitSettings::new(Rate::per_hour(2)),
        );
        let first = limiters.of("route x", &[a.clone(), b.clone()]);
        let again = limiters.of("route x", std::slice::from_ref(&b));
        assert!(Arc::ptr_eq(&first[1], &again[0]));
        let other = limiters.of("route y", &[a]);
        assert!(!Arc::ptr_eq(&first[0], &other[0]));
        drop((first, other));
        limiters.forget_unused();
        assert_eq!(limiters.0.lock().len(), 1);
        drop(again);
        limiters.forget_unused();
        assert_eq!(limiters.0.lock().len(), 0);
    }
}
