use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use epicycle::cluster::Error;
use epicycle::cluster::cache::{Cache, RedisCache};
use epicycle::cluster::lock::{Locks, RedisLocks};
use redis::Commands;

use crate::redis_server::Server;
use crate::util::eventually;

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_lock_is_held_by_one_at_a_time() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let locks = RedisLocks::new(&server.open());
                for _ in 0..20 {
                    let guard = locks
                        .acquire("door", Duration::from_secs(60))
                        .expect("is free in time");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    entered.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(guard.is_held());
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(entered.into_inner(), 80);
    let mut stranger = server.stranger();
    assert!(
        !stranger
            .exists::<_, bool>("due:lock:door")
            .expect("answers")
    );
}

#[test]
fn a_lock_that_is_taken_is_refused_or_waited_for() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locks = RedisLocks::new(&server.open());
    let held = locks.try_acquire("door", SHORT).expect("answers");
    assert!(held.is_some());
    assert!(locks.try_acquire("door", SHORT).expect("answers").is_none());
    let began = Instant::now();
    let error = locks.acquire("door", SHORT).expect_err("is taken");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(began.elapsed() >= SHORT);
    drop(held);
    assert!(locks.try_acquire("door", SHORT).expect("answers").is_some());
}

#[test]
fn a_lock_is_renewed_for_as_long_as_it_is_held() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locks = RedisLocks::new(&server.open());
    let guard = locks
        .try_acquire("door", SHORT)
        .expect("answers")
        .expect("is free");
    let mut stranger = server.stranger();
    let began = Instant::now();
    while began.elapsed() < SHORT * 5 {
        assert!(
            stranger
                .exists::<_, bool>("due:lock:door")
                .expect("answers")
        );
        assert!(guard.is_held());
        std::thread::sleep(SHORT / 10);
    }
    drop(guard);
    assert!(
        !stranger
            .exists::<_, bool>("due:lock:door")
            .expect("answers")
    );
}

#[test]
fn a_lock_that_somebody_else_has_by_now_is_lost_and_not_taken_from_him() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locks = RedisLocks::new(&server.open());
    let guard = locks
        .try_acquire("door", SHORT)
        .expect("answers")
        .expect("is free");
    let mut stranger = server.stranger();
    let () = stranger.set("due:lock:door", "another").expect("sets");
    eventually("the loss is noticed", || !guard.is_held());
    drop(guard);
    let value: String = stranger.get("due:lock:door").expect("is there");
    assert_eq!(value, "another");
}

#[test]
fn a_lock_is_lost_when_the_server_hangs_for_longer_than_its_time() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locks = RedisLocks::new(&server.open());
    let guard = locks
        .try_acquire("door", SHORT)
        .expect("answers")
        .expect("is free");
    server.pause();
    let began = Instant::now();
    eventually("the loss is noticed", || !guard.is_held());
    assert!(began.elapsed() <= SHORT * 20);
    server.resume();
}

#[test]
fn each_holder_has_a_higher_token() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locks = RedisLocks::new(&server.open()).with_tokens();
    let mut last = 0;
    for _ in 0..5 {
        let guard = locks
            .acquire("door", Duration::from_secs(5))
            .expect("is free");
        let token = guard.token().expect("is counted");
        assert!(token > last);
        last = token;
    }
    let plain = RedisLocks::new(&server.open());
    let guard = plain
        .acquire("door", Duration::from_secs(5))
        .expect("is free");
    assert_eq!(guard.token(), None);
}

#[test]
fn a_time_may_be_as_long_as_there_is() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open();
    let locks = RedisLocks::new(&redis);
    let held = locks.try_acquire("door", Duration::MAX).expect("answers");
    assert!(held.is_some_and(|held| held.is_held()));
    let cache = RedisCache::new(&redis);
    let set = cache.set("key", "value", Some(Duration::MAX));
    set.expect("answers");
    assert!(cache.has("key").expect("answers"));
}
