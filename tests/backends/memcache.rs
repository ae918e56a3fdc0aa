//! Locks and a cache on memcached.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use epicycle::cluster::Error;
use epicycle::cluster::backends::Memcache;
use epicycle::cluster::cache::{Cache, MemcacheCache};
use epicycle::cluster::lock::{Locks, MemcacheLocks};
use epicycle::tls::{Roots, TlsClient};

use crate::caches::refuses_sums_that_are_none;
use crate::process::{Server, free_port};
use crate::util::client::TempPath;
use crate::util::eventually;
use crate::vectors::rows;

const SECOND: Duration = Duration::from_secs(1);

fn start(args: &[&str]) -> Option<Server> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Server::start(move |port| {
        let mut command = Command::new("memcached");
        let port = port.to_string();
        command.args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "16"]);
        command.args(["-u", "nobody"]).args(&args);
        command
    })
}

fn open(server: &Server) -> Memcache {
    Memcache::open(&server.address()).expect("is an address")
}

/// Says something to the server as somebody else would, and returns its lines up to the one that ends the answer.
fn say(server: &Server, command: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(server.address()).expect("connects");
    stream.write_all(command.as_bytes()).expect("is sent");
    let mut lines = Vec::new();
    for line in BufReader::new(stream).lines() {
        lines.push(line.expect("is read"));
        let is_over = !lines[0].starts_with("VALUE") || lines.last().is_some_and(|l| l == "END");
        if is_over {
            break;
        }
    }
    lines
}

#[test]
fn a_lock_is_held_by_one_at_a_time() {
    let Some(server) = start(&[]) else {
        return;
    };
    let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let locks = MemcacheLocks::new(&open(&server));
                for _ in 0..10 {
                    let guard = locks.acquire("door", SECOND * 60).expect("is free in time");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    entered.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(guard.is_held());
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(entered.into_inner(), 40);
    assert_eq!(say(&server, "gets due:lock:door\r\n"), ["END"]);
}

#[test]
fn locks_of_due_and_ours_exclude_each_other() {
    let (Some(server), rows) = (start(&[]), rows("memcache")) else {
        return;
    };
    let Some(add) = rows.first() else {
        return;
    };
    // The recording is a text in JSON.
    let add: String = serde_json::from_str(&add.data).expect("is text");
    assert!(add.starts_with("add due:lock:res 0 3 36\r\n"), "{add}");
    let locks = MemcacheLocks::new(&open(&server));

    assert_eq!(say(&server, &add), ["STORED"]);
    assert!(locks.try_acquire("res", SECOND).expect("answers").is_none());
    let guard = locks.acquire("res", SECOND * 60).expect("ends by itself");
    assert_eq!(say(&server, &add), ["NOT_STORED"]);
    let value = say(&server, "gets due:lock:res\r\n");
    assert!(
        value[0].starts_with("VALUE due:lock:res 0 36 "),
        "{value:?}"
    );
    drop(guard);
    assert_eq!(say(&server, &add), ["STORED"]);
}

#[test]
fn a_lock_is_renewed_for_as_long_as_it_is_held() {
    let Some(server) = start(&[]) else {
        return;
    };
    let locks = MemcacheLocks::new(&open(&server));
    let guard = locks.try_acquire("door", SECOND * 3).expect("answers");
    let guard = guard.expect("is free");
    let began = Instant::now();
    while began.elapsed() < SECOND * 6 {
        assert_eq!(say(&server, "gets due:lock:door\r\n").len(), 3);
        assert!(guard.is_held());
        std::thread::sleep(SECOND / 10);
    }
    drop(guard);
    assert_eq!(say(&server, "gets due:lock:door\r\n"), ["END"]);
}

#[test]
fn a_lock_that_somebody_else_has_by_now_is_lost_and_not_taken_from_him() {
    let Some(server) = start(&[]) else {
        return;
    };
    let locks = MemcacheLocks::new(&open(&server));
    let guard = locks.try_acquire("door", SECOND).expect("answers");
    let guard = guard.expect("is free");
    let set = say(&server, "set due:lock:door 0 0 7\r\nanother\r\n");
    assert_eq!(set, ["STORED"]);
    eventually("the loss is noticed", || !guard.is_held());
    drop(guard);
    let value = say(&server, "gets due:lock:door\r\n");
    assert_eq!(value[1], "another");
}

#[test]
fn a_lock_is_lost_when_the_server_hangs_for_longer_than_its_time() {
    let Some(server) = start(&[]) else {
        return;
    };
    let locks = MemcacheLocks::new(&open(&server));
    let guard = locks.try_acquire("door", SECOND).expect("answers");
    let guard = guard.expect("is free");
    server.pause();
    eventually("the loss is noticed", || !guard.is_held());
    server.resume();
}

#[test]
fn values_are_kept_for_their_time_under_the_keys_of_due() {
    let Some(server) = start(&[]) else {
        return;
    };
    let cache = MemcacheCache::new(&open(&server));
    assert!(!cache.has("k").expect("answers"));
    cache.set("k", "v", None).expect("sets");
    assert_eq!(cache.get("k").expect("answers").as_deref(), Some("v"));
    let found = say(&server, "gets due:cache:k\r\n");
    assert!(found[0].starts_with("VALUE due:cache:k 0 1 "), "{found:?}");
    assert_eq!(found[1], "v");
    assert_eq!(say(&server, "mg due:cache:k t\r\n"), ["HD t-1"]);

    // A value without a time keeps that which the key has.
    cache.set("k2", "5", Some(SECOND * 60)).expect("sets");
    cache.set("k2", "6", None).expect("sets");
    let left = say(&server, "mg due:cache:k2 t\r\n");
    let left: u64 = left[0][4..].parse().expect("is a number");
    assert!((1..=60).contains(&left), "{left}");
    // More than 30 days would be read as a moment.
    let days = SECOND * 3600 * 24 * 40;
    cache.set("k4", "stays", Some(days)).expect("sets");
    let left = say(&server, "mg due:cache:k4 t\r\n");
    let left: u64 = left[0][4..].parse().expect("is a number");
    assert!((days.as_secs() - 60..=days.as_secs()).contains(&left));

    cache.set("k3", "gone", Some(SECOND / 20)).expect("sets");
    eventually("its time is over", || !cache.has("k3").expect("answers"));
    let deleted = cache.delete(&["k", "k2", "k3", "none"]);
    assert_eq!(deleted.expect("answers"), 2);
}

#[test]
fn numbers_are_counted_and_other_values_refused() {
    let Some(server) = start(&[]) else {
        return;
    };
    let cache = MemcacheCache::new(&open(&server));
    assert_eq!(cache.increase("n", 12).expect("counts"), 12);
    // The server leaves spaces behind a number that it makes shorter.
    assert_eq!(say(&server, "decr due:cache:n 9\r\n"), ["3"]);
    assert_eq!(cache.increase("n", -5).expect("counts"), -2);
    assert!((cache.increase_float("f", 1.5).expect("counts") - 1.5).abs() < f64::EPSILON);
    refuses_sums_that_are_none(&cache);
    for error in [
        cache.set("a b", "", None).expect_err("has a space"),
        cache.get(&"k".repeat(300)).expect_err("is too long"),
    ] {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    cache.increase("shared", 1).expect("counts");
                }
            });
        }
    });
    assert_eq!(
        cache.get("shared").expect("answers").as_deref(),
        Some("400")
    );
}

#[test]
fn a_value_that_the_server_does_not_take_costs_its_call_only() {
    let Some(server) = start(&[]) else {
        return;
    };
    let memcache = open(&server);
    let cache = MemcacheCache::new(&memcache);
    let error = cache.set("big", &"x".repeat(2 << 20), Some(SECOND * 60));
    assert!(matches!(error, Err(Error::Backend { .. })), "{error:?}");
    cache.set("small", "is served", None).expect("sets");
    assert_eq!(memcache.stats().connections, 1);
    assert_eq!(cache.get("big").expect("answers"), None);
}

#[test]
fn a_server_that_is_not_there_fails_calls_and_is_found_when_it_comes() {
    let port = free_port();
    let memcache = Memcache::open(&format!("127.0.0.1:{port}")).expect("is an address");
    let cache = MemcacheCache::new(&memcache);
    let error = cache.get("k").expect_err("is not there");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(!memcache.stats().is_up);
    let command = move |port: u16| {
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody"]);
        command.args(["-p", &port.to_string()]);
        command
    };
    let Some(mut server) = Server::start_at(port, command) else {
        return;
    };
    eventually("it is found", || cache.set("k", "v", None).is_ok());
    assert!(memcache.stats().is_up);
    server.kill();
    eventually("it is lost", || cache.get("k").is_err());
    assert!(!memcache.stats().is_up);
    server.restart();
    eventually("it is found again", || {
        cache.get("k").is_ok_and(|value| value.is_none())
    });
}

#[test]
fn a_server_that_hangs_costs_the_timeout_and_calls_wait_for_no_longer() {
    let Some(server) = start(&[]) else {
        return;
    };
    let memcache = Memcache::builder()
        .server(server.address())
        .connections(1)
        .timeout(SECOND / 5)
        .build()
        .expect("is complete");
    let cache = MemcacheCache::new(&memcache);
    cache.set("k", "v", None).expect("sets");
    server.pause();
    eventually("it hangs", || cache.get("k").is_err());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(cache.get("k").is_err()));
        }
    });
    assert!(!memcache.stats().is_up);
    assert_eq!(memcache.stats().queue, 0);
    server.resume();
    eventually("it answers again", || cache.get("k").is_ok());
}

#[test]
fn users_are_checked_and_not_shown() {
    let users = TempPath::new();
    std::fs::write(&users.0, "game:sesame\n").expect("writes");
    let path = users.0.display().to_string();
    let Some(server) = start(&["-Y", &path]) else {
        return;
    };
    let with = |name: &str, password: &str| {
        let builder = Memcache::builder().server(server.address());
        let builder = builder.user(name, password);
        assert!(!format!("{builder:?}").contains(password));
        MemcacheCache::new(&builder.build().expect("is complete"))
    };
    with("game", "sesame").set("k", "v", None).expect("sets");
    let error = with("game", "parsley").get("k").expect_err("is wrong");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let nobody = MemcacheCache::new(&open(&server));
    assert!(nobody.set("k", "v", Some(SECOND)).is_err());
}

#[test]
fn tls_takes_certificates_of_the_authority_that_was_named() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let certificate = certificate.expect("is made");
    let (cert, key) = (TempPath::new(), TempPath::new());
    std::fs::write(&cert.0, certificate.cert.pem()).expect("writes");
    std::fs::write(&key.0, certificate.signing_key.serialize_pem()).expect("writes");
    // The server reads it as another user.
    let options = format!(
        "ssl_chain_cert={},ssl_key={}",
        cert.0.display(),
        key.0.display()
    );
    let Some(server) = start(&["-Z", "-o", &options]) else {
        return;
    };
    let roots = Roots::from_pem_file(&cert.0).expect("is a certificate");
    let address = format!("localhost:{}", server.port);
    let open = |tls: Option<&TlsClient>| {
        let builder = Memcache::builder().server(&address);
        let builder = match tls {
            Some(tls) => builder.tls(tls),
            None => builder.timeout(SECOND),
        };
        MemcacheCache::new(&builder.build().expect("is complete"))
    };
    let trusting = TlsClient::new(&roots).expect("is complete");
    open(Some(&trusting)).set("k", "v", None).expect("sets");
    let stranger = Roots::native().and_then(|roots| TlsClient::new(&roots));
    if let Ok(stranger) = stranger {
        assert!(open(Some(&stranger)).get("k").is_err());
    }
    assert!(open(None).get("k").is_err());
}

#[test]
fn keys_are_spread_over_the_servers_as_due_does() {
    let (Some(one), Some(other)) = (start(&[]), start(&[])) else {
        return;
    };
    let builder = Memcache::builder().server(one.address());
    let both = builder
        .server(other.address())
        .build()
        .expect("is complete");
    let cache = MemcacheCache::new(&both);
    let mut counts = [0, 0];
    for n in 0..100 {
        let key = format!("k{n}");
        cache.set(&key, "v", None).expect("sets");
        let place = crc32fast::hash(format!("due:cache:{key}").as_bytes()) as usize % 2;
        counts[place] += 1;
        let server = [&one, &other][place];
        assert_eq!(say(server, &format!("get due:cache:{key}\r\n")).len(), 3);
    }
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    assert!(both.stats().is_up);
}

#[test]
fn what_is_no_server_and_no_user_is_refused() {
    for builder in [
        Memcache::builder(),
        Memcache::builder().server(""),
        Memcache::builder().server("host:port"),
        Memcache::builder().server("h").user("a b", "c"),
        Memcache::builder().server("h").timeout(Duration::ZERO),
    ] {
        let error = builder.build().expect_err("is wrong");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn a_time_may_be_as_long_as_there_is() {
    let Some(server) = start(&[]) else {
        return;
    };
    let memcache = open(&server);
    let locks = MemcacheLocks::new(&memcache);
    let held = locks.try_acquire("door", Duration::MAX).expect("answers");
    assert!(held.is_some_and(|held| held.is_held()));
    let cache = MemcacheCache::new(&memcache);
    for years in [20, 100, u64::MAX / (365 * 24 * 3600)] {
        let ttl = Duration::from_secs(years * 365 * 24 * 3600);
        cache.set("key", "value", Some(ttl)).expect("answers");
        assert!(cache.has("key").expect("answers"), "{years} years");
    }
    let set = cache.set("key", "value", Some(Duration::MAX));
    set.expect("answers");
}
