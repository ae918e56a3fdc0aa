use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::cache::{Cache, RedisCache};
use redis::Commands;

use crate::caches::refuses_sums_that_are_none;
use crate::redis_server::Server;
use crate::util::eventually;

#[test]
fn values_are_kept_for_their_time_under_the_keys_of_due() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let cache = RedisCache::new(&server.open());
    let mut stranger = server.stranger();
    assert!(!cache.has("k").expect("answers"));
    cache.set("k", "v", None).expect("sets");
    assert_eq!(cache.get("k").expect("answers").as_deref(), Some("v"));
    assert_eq!(
        stranger.get::<_, String>("due:cache:k").expect("is there"),
        "v"
    );
    assert_eq!(stranger.ttl::<_, i64>("due:cache:k").expect("answers"), -1);

    let minute = Duration::from_secs(60);
    cache.set("k2", "5", Some(minute)).expect("sets");
    cache.set("k2", "6", None).expect("sets");
    let left: i64 = stranger.ttl("due:cache:k2").expect("answers");
    assert!((1..=60).contains(&left), "{left}");

    let moment = Duration::from_millis(50);
    cache.set("k3", "gone", Some(moment)).expect("sets");
    eventually("its time is over", || !cache.has("k3").expect("answers"));
    assert_eq!(
        cache.delete(&["k", "k2", "k3", "none"]).expect("answers"),
        2
    );
}

#[test]
fn numbers_are_counted_and_other_values_refused() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let cache = RedisCache::new(&server.open());
    assert_eq!(cache.increase("n", 3).expect("counts"), 3);
    assert_eq!(cache.increase("n", -5).expect("counts"), -2);
    assert!((cache.increase_float("f", 1.5).expect("counts") - 1.5).abs() < f64::EPSILON);
    refuses_sums_that_are_none(&cache);
    assert!(matches!(
        cache.increase_float("text", 1.0),
        Err(Error::InvalidArgument { .. })
    ));
}

#[test]
fn a_value_that_is_no_text_costs_its_call_only() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open();
    let cache = RedisCache::new(&redis);
    let mut stranger = server.stranger();
    let () = stranger
        .set("due:cache:bytes", &b"\xff\xfe"[..])
        .expect("sets");
    for _ in 0..10 {
        let error = cache.get("bytes").expect_err("is no text");
        assert!(matches!(error, Error::Backend { .. }), "{error}");
        cache.set("text", "is served", None).expect("sets");
    }
    assert!(redis.stats().is_up);
    assert_eq!(redis.stats().connections, 1);
}

#[test]
fn a_value_is_made_once_and_so_is_the_lack_of_one() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let cache = RedisCache::new(&server.open());
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let value = cache.get_or_set("gs", &mut || {
                    made.fetch_add(1, Ordering::SeqCst);
                    Ok(Some("made".to_owned()))
                });
                assert_eq!(value.expect("is made").as_deref(), Some("made"));
            });
        }
    });
    assert_eq!(made.into_inner(), 1);

    let mut asked = 0;
    for _ in 0..3 {
        let value = cache.get_or_set("gsnil", &mut || {
            asked += 1;
            Ok(None)
        });
        assert_eq!(value.expect("answers"), None);
    }
    assert_eq!(asked, 1);
    assert!(!cache.has("gsnil").expect("answers"));
    let mut stranger = server.stranger();
    let nil: String = stranger.get("due:cache:gsnil").expect("is there");
    assert_eq!(nil, "cache@nil");
    let left: i64 = stranger.ttl("due:cache:gs").expect("answers");
    assert!((3590..=24 * 3600).contains(&left), "{left}");
}
