//! The state of backends, as it is told: by `stats()`, in metrics, in the log and in errors.

use std::time::Duration;

use epicycle::cluster::backends::{Nats, Redis};
use epicycle::cluster::center::{Center, FileSource};
use epicycle::cluster::eventbus::{EventBus, NatsEventBus, RedisEventBus};
use epicycle::cluster::gate::Gate;
use epicycle::cluster::locator::{Locator, RedisLocator};
use epicycle::cluster::lock::{Locks, RedisLocks};
use epicycle::cluster::registry::{EtcdRegistry, Instance, Registry};
use epicycle::cluster::{Kind, Monitor};
use log::Level;

use crate::process::free_port;
use crate::util::client::TempPath;
use crate::util::eventually;
use crate::util::logs::logs;
use crate::{etcd_server, nats_server, redis_server};

#[test]
fn a_redis_that_only_has_subscriptions_is_known_to_be_up_or_down() {
    let Some(mut server) = redis_server::Server::start(&[]) else {
        return;
    };
    let logs = logs();
    let redis = server.open();
    let locator = RedisLocator::with_prefix(&redis, "state-of-subscriptions");
    let _watch = locator.watch().expect("watches");
    eventually("it is up", || {
        redis.stats().is_up && redis.stats().last_ok.is_some()
    });
    server.kill();
    eventually("it is down", || !redis.stats().is_up);
    server.restart();
    eventually("it is up again", || redis.stats().is_up);
    let address = format!("127.0.0.1:{}", server.port);
    let below = "below state-of-subscriptions:locate";
    assert!(logs.have(Level::Warn, &["Redis: no subscriptions", below, &address]));
    eventually("the log tells that they are there again", || {
        logs.have(Level::Info, &["there again", below])
    });
}

#[test]
fn messages_from_nats_are_signs_of_life() {
    let Some(server) = nats_server::Server::start(&[]) else {
        return;
    };
    let nats = server.open();
    let bus = NatsEventBus::new(&nats);
    let _subscription = bus
        .subscribe("login", Box::new(|_| {}))
        .expect("subscribes");
    let since = || nats.stats().last_ok.expect("has answered");
    let short = Duration::from_millis(100);
    eventually("it is silent", || since() > short);
    eventually("it is heard", || {
        bus.publish("login", "7").expect("publishes");
        since() < short
    });
}

#[test]
fn the_connections_to_etcd_are_counted() {
    let Some(server) = etcd_server::Server::start() else {
        return;
    };
    let etcd = server.open();
    assert_eq!(etcd.stats().connections, 0);
    let registry = EtcdRegistry::new(&etcd);
    let _watch = registry.watch("gate").expect("watches");
    assert!(etcd.stats().connections > 0);
}

#[test]
fn a_monitor_tells_the_state_of_backends() {
    let (Some(mut redis_server), Some(etcd)) = (
        redis_server::Server::start(&[]),
        etcd_server::Server::start(),
    ) else {
        return;
    };
    let (monitor, redis) = (Monitor::new(), redis_server.open());
    let bus = RedisEventBus::new(&redis);
    monitor.add_metrics("bus", bus.clone());
    bus.publish("login", "7").expect("publishes");
    let gate = Gate::builder()
        .id("gate-1")
        .listen("tcp://127.0.0.1:0")
        .registry(EtcdRegistry::new(&etcd.open()))
        .locator(RedisLocator::new(&redis))
        .monitor(&monitor)
        .start()
        .expect("starts");
    let has = |line: &str| monitor.metrics().lines().any(|told| told == line);
    for line in [
        r#"epicycle_bus_published_total{role="bus"} 1"#,
        r#"epicycle_backend_up{role="bus",backend="redis"} 1"#,
        r#"epicycle_backend_up{id="gate-1",role="registry",backend="etcd"} 1"#,
        r#"epicycle_backend_up{id="gate-1",role="locator",backend="redis"} 1"#,
        r#"epicycle_backend_queue{id="gate-1",role="locator",backend="redis"} 0"#,
    ] {
        eventually("the metrics have the line", || has(line));
    }
    assert!(
        monitor
            .metrics()
            .contains("epicycle_backend_last_ok_seconds{role=\"bus\"")
    );
    redis_server.kill();
    eventually("the loss is told", || {
        has(r#"epicycle_backend_up{id="gate-1",role="locator",backend="redis"} 0"#)
    });
    drop(gate);
}

#[test]
fn errors_of_redis_name_the_server_and_a_remedy() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let error_of = |redis: &Redis| {
        let error = RedisLocator::new(redis).locate_gate(7);
        error.expect_err("cannot be reached").to_string()
    };
    let nobody = error_of(&Redis::open(&format!("redis://{address}")).expect("is a URL"));
    assert!(
        nobody.starts_with(&format!("Redis: {address}: ")),
        "{nobody}"
    );

    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let silent_addr = silent.local_addr().expect("is bound");
    let hanging = Redis::builder()
        .url(format!("redis://{silent_addr}"))
        .timeout(Duration::from_millis(100))
        .build()
        .expect("is complete");
    let hanging = error_of(&hanging);
    assert!(
        hanging.contains("it has not answered within 100ms"),
        "{hanging}"
    );
    assert!(hanging.contains(&silent_addr.to_string()), "{hanging}");

    let nats = Nats::builder()
        .url(format!("nats://{silent_addr}"))
        .timeout(Duration::from_millis(100))
        .build()
        .expect("is complete");
    let error = NatsEventBus::new(&nats).publish("login", "7");
    let error = error.expect_err("hangs").to_string();
    assert!(
        error.starts_with("NATS: ") && error.contains(&silent_addr.to_string()),
        "{error}"
    );

    let Some(server) = redis_server::Server::start(&["--requirepass", "right"]) else {
        return;
    };
    let unknown = error_of(&server.open());
    assert!(
        unknown.contains("check the user and the password"),
        "{unknown}"
    );
}

#[test]
fn a_lock_that_was_never_taken_is_not_said_to_end_by_itself() {
    let logs = logs();
    let redis = Redis::open(&format!("redis://127.0.0.1:{}", free_port())).expect("is a URL");
    let locks = RedisLocks::with_prefix(&redis, "never-taken");
    locks
        .try_acquire("door", Duration::from_secs(1))
        .expect_err("is not there");
    assert!(logs.with("never-taken").is_empty());
}

#[test]
fn slashes_around_a_namespace_of_etcd_do_not_count() {
    let Some(server) = etcd_server::Server::start() else {
        return;
    };
    let etcd = server.open();
    let node = Instance::new(
        Kind::Node,
        "node-1",
        "drpc://127.0.0.1:7001?is_secure=false",
    );
    let registry = EtcdRegistry::with_namespace(&etcd, "/services/");
    registry.register(&node).expect("registers");
    let found = EtcdRegistry::new(&etcd).services("node").expect("answers");
    assert_eq!(found, [node]);
}

#[test]
fn a_file_of_a_configuration_that_cannot_be_read_is_told_once_with_its_source() {
    let folder = TempPath::new();
    std::fs::create_dir_all(&folder.0).expect("makes the folder");
    let write = |file: &str, text: &str| {
        std::fs::write(folder.0.join(file), text).expect("writes");
    };
    write("told-once.json", "{");
    write("other.json", r#"{"n": 1}"#);
    let logs = logs();
    let path = folder.0.to_str().expect("is text");
    let center = Center::start(vec![Box::new(FileSource::new(path))]).expect("starts");
    write("other.json", r#"{"n": 2}"#);
    eventually("the other file is read", || {
        center.integer("other.n", 0) == 2
    });
    let told = logs.with("told-once.json of file cannot be read");
    assert_eq!(told.len(), 1, "{told:?}");
    let error = center.scan::<Vec<i64>>("other.n").expect_err("is no list");
    assert!(error.to_string().starts_with("other.n: "), "{error}");
}
