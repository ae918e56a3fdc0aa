//! The parts that all servers share: event bus, locks, cache, and the text of values.

use std::collections::HashMap;
use std::panic::panic_any;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use epicycle::cluster::cache::{Cache, MemoryCache, NIL};
use epicycle::cluster::eventbus::{EventBus, MemoryEventBus, Message, WhenFull};
use epicycle::cluster::lock::{Locks, MemoryLocks};
use epicycle::cluster::{Error, from_text, new_uuid, to_text};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::util::{LONG, eventually, expect_panics};
use crate::vectors::rows;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Profile {
    id: u32,
    name: String,
}

#[test]
fn values_have_the_text_that_due_gives_them() {
    let mut published = Vec::new();
    for row in rows("eventbus_redis") {
        let command: Vec<String> = serde_json::from_str(&row.data).expect("is a list");
        if command[0] == "publish" {
            let message = Message::from_json(command[2].as_bytes()).expect("is a message");
            assert_eq!(message.to_json().expect("is JSON"), command[2]);
            assert_eq!((&*message.topic, message.id.len()), ("login", 36));
            published.push(message.payload);
        }
    }
    if published.is_empty() {
        return;
    }
    let profile = |id, name: &str| Profile {
        id,
        name: name.to_owned(),
    };
    let ours = [
        to_text("text"),
        to_text(&42),
        to_text(&1.5),
        to_text(&true),
        to_text(&None::<u8>),
        to_text("bytes"),
        to_text(&profile(1, "a")),
        to_text(&profile(2, "b")),
        to_text(&[1, 2]),
        to_text(&HashMap::from([("k", "v")])),
    ];
    let ours: Result<Vec<_>, _> = ours.into_iter().collect();
    assert_eq!(ours.expect("are JSON"), published);
    let read: Profile = from_text(&published[6]).expect("is one");
    assert_eq!(read, profile(1, "a"));
}

proptest! {
    #[test]
    fn values_that_become_text_become_values_again(
        text in "\\PC{0,20}",
        number in any::<i64>(),
        list in proptest::collection::vec("\\PC{0,5}", 0..5),
    ) {
        prop_assert_eq!(&from_text::<i64>(&to_text(&number).expect("is JSON")).expect("was one"), &number);
        prop_assert_eq!(&from_text::<Vec<String>>(&to_text(&list).expect("is JSON")).expect("was one"), &list);
        let profile = Profile { id: number as u32, name: text.clone() };
        prop_assert_eq!(&from_text::<Profile>(&to_text(&profile).expect("is JSON")).expect("was one"), &profile);
        prop_assert_eq!(to_text(&text).expect("is JSON"), text);
    }
}

#[test]
fn messages_come_in_order_to_each_subscriber_of_their_topic() {
    let bus = MemoryEventBus::with_queue(1000, WhenFull::Block);
    let mut receivers = Vec::new();
    let mut subscriptions = Vec::new();
    for topic in ["a", "a", "b"] {
        let (sender, receiver) = mpsc::channel();
        let handler = move |message: &Message| {
            let _ = sender.send(message.parse::<u64>());
        };
        let subscription = bus.subscribe(topic, Box::new(handler));
        subscriptions.push(subscription.expect("is in memory"));
        receivers.push(receiver);
    }
    for n in 0..5000_u64 {
        let topic = if n % 3 == 0 { "b" } else { "a" };
        bus.publish(topic, &n.to_string()).expect("is in memory");
    }
    bus.publish("c", "nobody").expect("is in memory");
    for (at, receiver) in receivers.iter().enumerate() {
        for n in (0..5000).filter(|n| (n % 3 == 0) == (at == 2)) {
            let found = receiver
                .recv_timeout(LONG)
                .expect("comes")
                .expect("is a number");
            assert_eq!(found, n);
        }
    }
    drop(subscriptions);
    let stats = bus.stats();
    assert_eq!(
        (stats.published, stats.dropped, stats.subscriptions),
        (5001, 0, 0)
    );
}

#[test]
fn a_slow_subscriber_loses_the_oldest_messages_and_holds_nobody_up() {
    let bus = MemoryEventBus::with_queue(10, WhenFull::DropOldest);
    let (begun, began) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let (sender, slow) = mpsc::channel();
    let handler = move |message: &Message| {
        let _ = begun.send(());
        let _ = wait.recv();
        let _ = sender.send(message.payload.clone());
    };
    let _slow = bus.subscribe("t", Box::new(handler)).expect("is in memory");
    let (sender, fast) = mpsc::channel();
    let handler = move |message: &Message| {
        let _ = sender.send(message.payload.clone());
    };
    let _fast = bus.subscribe("t", Box::new(handler)).expect("is in memory");
    for n in 0..101 {
        bus.publish("t", &n.to_string()).expect("is in memory");
        let found = fast.recv_timeout(LONG).expect("comes");
        assert_eq!(found, n.to_string());
        if n == 0 {
            began.recv_timeout(LONG).expect("begins");
        }
    }
    assert_eq!(bus.stats().dropped, 90);
    drop(go_on);
    let kept: Vec<_> = (0..11)
        .map(|_| slow.recv_timeout(LONG).expect("comes"))
        .collect();
    let expected: Vec<_> = [0]
        .into_iter()
        .chain(91..101)
        .map(|n| n.to_string())
        .collect();
    assert_eq!(kept, expected);
}

#[test]
fn a_handler_that_panics_costs_its_message_and_an_ended_subscription_gets_none() {
    expect_panics();
    let bus = MemoryEventBus::new();
    let (sender, receiver) = mpsc::channel();
    let handler = move |message: &Message| {
        if message.payload == "bad" {
            panic_any("on purpose");
        }
        let _ = sender.send(message.payload.clone());
    };
    let subscription = bus.subscribe("t", Box::new(handler)).expect("is in memory");
    for payload in ["bad", "good"] {
        bus.publish("t", payload).expect("is in memory");
    }
    assert_eq!(receiver.recv_timeout(LONG).expect("comes"), "good");
    assert_eq!(bus.stats().panics, 1);
    drop(subscription);
    bus.publish("t", "late").expect("is in memory");
    // The handler is dropped with its thread.
    assert!(receiver.recv_timeout(LONG).is_err());
    assert!(matches!(
        bus.publish("", "x"),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(bus.subscribe("", Box::new(|_| {})).is_err());
}

#[test]
fn one_thread_at_a_time_holds_a_lock_and_tokens_rise() {
    let locks = MemoryLocks::new();
    let inside = Arc::new(AtomicUsize::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (locks, inside, last) = (locks.clone(), inside.clone(), last.clone());
            thread::spawn(move || {
                for _ in 0..50 {
                    let held = locks.acquire("l", LONG).expect("is free in time");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    let token = held.token().expect("counts");
                    assert!(last.swap(token, Ordering::SeqCst) < token);
                    assert!(held.is_held() && held.name() == "l");
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("does not panic");
    }
    assert_eq!(locks.held(), 0);
}

#[test]
fn a_lock_that_is_not_free_in_time_is_a_timeout_and_others_are_free() {
    let locks = MemoryLocks::new();
    let ttl = Duration::from_secs(3);
    let held = locks
        .try_acquire("a", ttl)
        .expect("is in memory")
        .expect("is free");
    assert!(locks.try_acquire("a", ttl).expect("is in memory").is_none());
    let error = locks
        .acquire("a", Duration::from_millis(20))
        .expect_err("is held");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(locks.try_acquire("b", ttl).expect("is in memory").is_some());
    let waiter = {
        let locks = locks.clone();
        thread::spawn(move || locks.acquire("a", LONG).map(drop))
    };
    drop(held);
    waiter
        .join()
        .expect("does not panic")
        .expect("is free in time");
    assert!(locks.acquire("", ttl).is_err());
    assert_eq!(locks.held(), 0);
}

/// A cache whose time the test sets, in milliseconds.
fn timed(keys: usize) -> (MemoryCache, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(0));
    let clock = now.clone();
    let cache = MemoryCache::with_clock(keys, move || {
        Duration::from_millis(clock.load(Ordering::SeqCst))
    });
    (cache, now)
}

/// The model of a key: the value and the time at which it ends.
type Model = HashMap<String, (String, Option<u64>)>;

proptest! {
    #[test]
    fn the_cache_in_memory_does_what_a_map_with_times_does(
        steps in proptest::collection::vec((0..6_u8, 0..3_usize, 0..50_u64), 0..60),
    ) {
        let (cache, clock) = timed(100);
        let mut model = Model::new();
        for (step, key, number) in steps {
            let key = format!("k{key}");
            let now = clock.load(Ordering::SeqCst);
            model.retain(|_, (_, ends)| ends.is_none_or(|ends| ends > now));
            let ends = model.get(&key).and_then(|(_, ends)| *ends);
            match step {
                0 => drop(clock.fetch_add(number, Ordering::SeqCst)),
                1 => {
                    cache.set(&key, &number.to_string(), None).expect("is in memory");
                    model.insert(key, (number.to_string(), ends));
                }
                2 => {
                    let ttl = Duration::from_millis(number);
                    cache.set(&key, &number.to_string(), Some(ttl)).expect("is in memory");
                    model.insert(key, (number.to_string(), Some(now + number)));
                }
                3 => {
                    let old: i64 = model.get(&key).map_or(0, |(value, _)| value.parse().expect("is one"));
                    let sum = cache.increase(&key, -(number as i64)).expect("is a number");
                    prop_assert_eq!(sum, old - number as i64);
                    model.insert(key, (sum.to_string(), ends));
                }
                4 => {
                    let deleted = cache.delete(&[&key, "never"]).expect("is in memory");
                    prop_assert_eq!(deleted == 1, model.remove(&key).is_some());
                }
                _ => {
                    let expected = model.get(&key).map(|(value, _)| value.clone());
                    prop_assert_eq!(cache.has(&key).expect("is in memory"), expected.is_some());
                    prop_assert_eq!(cache.get(&key).expect("is in memory"), expected);
                }
            }
        }
    }
}

#[test]
fn one_thread_makes_a_value_and_the_others_wait_for_it() {
    let cache = MemoryCache::new();
    let made = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (cache, made) = (cache.clone(), made.clone());
            thread::spawn(move || {
                cache.get_or_set("k", &mut || {
                    made.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(5));
                    Ok(Some("v".to_owned()))
                })
            })
        })
        .collect();
    for thread in threads {
        let found = thread.join().expect("does not panic").expect("is made");
        assert_eq!(found.as_deref(), Some("v"));
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[test]
fn a_maker_that_asks_for_its_own_value_gets_an_error() {
    let cache = MemoryCache::new();
    let mut inner = None;
    let found = cache.get_or_set("k", &mut || {
        inner = Some(cache.get_or_set("k", &mut || Ok(None)));
        cache.get_or_set("other", &mut || Ok(Some("v".to_owned())))
    });
    assert_eq!(found.expect("is made").as_deref(), Some("v"));
    let error = inner.expect("was asked for").expect_err("would wait");
    assert!(
        matches!(error, Error::InvalidArgument { name: "key", .. }),
        "{error}"
    );
    // It holds nothing up.
    let found = cache.get_or_set("k", &mut || Ok(None)).expect("is there");
    assert_eq!(found.as_deref(), Some("v"));
}

#[test]
fn makers_that_ask_for_the_values_of_each_other_get_an_error() {
    let cache = MemoryCache::new();
    let both = Barrier::new(3);
    let make = |own: &str, other: &str| {
        cache.get_or_set(own, &mut || {
            both.wait();
            cache.get_or_set(other, &mut || Ok(Some("v".to_owned())))
        })
    };
    thread::scope(|scope| {
        let (a, b, c) = (
            scope.spawn(|| make("a", "b")),
            scope.spawn(|| make("b", "c")),
            scope.spawn(|| make("c", "a")),
        );
        let made = [a, b, c].map(|thread| thread.join().expect("does not panic"));
        let failed = made.iter().filter(|made| made.is_err()).count();
        assert_eq!(failed, 1, "{made:?}");
        assert!(
            made.iter().all(|made| match made {
                Ok(value) => value.as_deref() == Some("v"),
                Err(error) => matches!(error, Error::InvalidArgument { .. }),
            }),
            "{made:?}"
        );
    });
}

#[test]
fn nothing_found_is_remembered_for_ten_seconds_and_a_made_value_for_an_hour_at_least() {
    let (cache, now) = timed(100);
    let mut made = 0;
    let mut make = |cache: &MemoryCache, value: Option<&str>| {
        let found = cache.get_or_set("k", &mut || {
            made += 1;
            Ok(value.map(str::to_owned))
        });
        (found.expect("is made"), made)
    };
    assert_eq!(make(&cache, None), (None, 1));
    now.store(9_999, Ordering::SeqCst);
    assert_eq!(make(&cache, Some("v")), (None, 1));
    assert!(!cache.has("k").expect("is in memory"));
    assert_eq!(cache.get("k").expect("is in memory"), None);
    now.store(10_000, Ordering::SeqCst);
    assert_eq!(make(&cache, Some("v")), (Some("v".to_owned()), 2));
    now.fetch_add(60 * 60 * 1000 - 1, Ordering::SeqCst);
    assert_eq!(make(&cache, Some("w")), (Some("v".to_owned()), 2));
    now.fetch_add(23 * 60 * 60 * 1000 + 1, Ordering::SeqCst);
    assert_eq!(make(&cache, Some("w")), (Some("w".to_owned()), 3));
    // An error is not remembered.
    let failed = cache.get_or_set("e", &mut || Err(Error::Cancelled));
    assert!(matches!(failed, Err(Error::Cancelled)));
    let found = cache.get_or_set("e", &mut || Ok(Some("v".to_owned())));
    assert_eq!(found.expect("is made").as_deref(), Some("v"));
    // The value that stands for none can be set too.
    cache.set("n", NIL, None).expect("is in memory");
    assert_eq!(cache.get("n").expect("is in memory"), None);
}

#[test]
fn sums_that_are_no_numbers_are_refused_and_change_nothing() {
    let cache = MemoryCache::new();
    cache.set("text", "many", None).expect("is in memory");
    assert!(matches!(
        cache.increase("text", 1),
        Err(Error::InvalidArgument { .. })
    ));
    assert_eq!(
        cache.get("text").expect("is in memory").as_deref(),
        Some("many")
    );
    assert_eq!(cache.increase("n", i64::MAX).expect("is one"), i64::MAX);
    let most = cache.increase("n", 1).expect_err("overflows").to_string();
    assert!(most.contains("out of range"), "{most}");
    assert_eq!(cache.increase("n", i64::MIN).expect("is one"), -1);
    assert!((cache.increase_float("f", 1.5).expect("is one") - 1.5).abs() < f64::EPSILON);
    assert!((cache.increase_float("f", -2.0).expect("is one") + 0.5).abs() < f64::EPSILON);
    assert_eq!(
        cache.get("f").expect("is in memory").as_deref(),
        Some("-0.5")
    );
    assert!(cache.increase_float("f", f64::INFINITY).is_err());
    assert!(cache.increase("f", 1).is_err());
}

#[test]
fn the_cache_holds_as_many_keys_as_it_may_and_drops_the_least_recently_used() {
    let cache = MemoryCache::with_capacity(3);
    for key in ["a", "b", "c"] {
        cache.set(key, key, None).expect("is in memory");
    }
    assert!(cache.has("a").expect("is in memory"));
    cache.set("d", "d", None).expect("is in memory");
    assert!(!cache.has("b").expect("is in memory"));
    assert!(cache.has("a").expect("is in memory"));
    let stats = cache.stats();
    assert_eq!((stats.keys, stats.evicted), (3, 1));
}

#[test]
fn threads_that_add_to_one_number_lose_nothing() {
    let cache = MemoryCache::new();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let cache = cache.clone();
            thread::spawn(move || (0..500).try_for_each(|_| cache.increase("n", 1).map(drop)))
        })
        .collect();
    for thread in threads {
        thread.join().expect("does not panic").expect("is a number");
    }
    eventually("the sum is right", || {
        cache.get("n").ok().flatten().as_deref() == Some("4000")
    });
}

#[test]
fn ids_are_uuids_of_version_1_and_never_the_same() {
    let ids: Vec<_> = (0..1000).map(|_| new_uuid()).collect();
    assert!(
        ids.iter()
            .all(|id| id.len() == 36 && id.as_bytes()[14] == b'1'),
        "{}",
        ids[0]
    );
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len());
}
