//! Measures the backends: `cargo test --release --all-features --test backends speed -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use epicycle::cluster::Kind;
use epicycle::cluster::State;
use epicycle::cluster::eventbus::{EventBus, Message, NatsEventBus, RedisEventBus, WhenFull};
use epicycle::cluster::locator::{Locator, RedisLocator};
use epicycle::cluster::registry::{EtcdRegistry, Instance, Registry};
use rustix::time::{ClockId, clock_gettime};

use crate::util::eventually;
use crate::{etcd_server, nats_server, redis_server};

const MESSAGES: usize = 100_000;
const BINDS: i64 = 40_000;
const THREADS: i64 = 4;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn per_second(count: usize, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()) as u64
}

#[test]
#[ignore = "it measures"]
fn speed_of_binds_through_redis() {
    let Some(server) = redis_server::Server::start(&[]) else {
        return;
    };
    let locator = RedisLocator::new(&server.open());
    let (began, cpu) = (Instant::now(), cpu_time());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let locator = &locator;
            scope.spawn(move || {
                for uid in (thread..BINDS).step_by(THREADS as usize) {
                    locator.bind_gate(1 + uid, "gate-1").expect("binds");
                }
            });
        }
    });
    let (time, cpu) = (began.elapsed(), cpu_time() - cpu);
    println!(
        "redis: {} binds/s, {} per second of our processor time",
        per_second(BINDS as usize, time),
        per_second(BINDS as usize, cpu)
    );
}

fn measure_bus(name: &str, bus: &impl EventBus) {
    let count = Arc::new(AtomicUsize::new(0));
    let own = count.clone();
    let handler = move |_: &Message| {
        own.fetch_add(1, Ordering::Relaxed);
    };
    let _subscription = bus
        .subscribe("speed", Box::new(handler))
        .expect("subscribes");
    let (began, cpu) = (Instant::now(), cpu_time());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..MESSAGES / THREADS as usize {
                    while bus.publish("speed", "{\"uid\":7}").is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    eventually("all have come", || {
        count.load(Ordering::Relaxed) == MESSAGES
    });
    let (time, cpu) = (began.elapsed(), cpu_time() - cpu);
    println!(
        "{name}: {} messages/s, {} per second of our processor time",
        per_second(MESSAGES, time),
        per_second(MESSAGES, cpu)
    );
}

#[test]
#[ignore = "it measures"]
fn speed_of_messages_over_nats() {
    if let Some(server) = nats_server::Server::start(&[]) {
        let bus = NatsEventBus::with(&server.open(), "due:eventbus", 1024, WhenFull::Block);
        measure_bus("nats", &bus);
    }
}

#[test]
#[ignore = "it measures"]
fn speed_of_messages_over_redis() {
    if let Some(server) = redis_server::Server::start(&[]) {
        let bus = RedisEventBus::with(&server.open(), "due:eventbus", 1024, WhenFull::Block);
        measure_bus("redis", &bus);
    }
}

#[test]
#[ignore = "it measures"]
fn speed_of_a_registry_of_a_thousand_on_etcd() {
    let Some(server) = etcd_server::Server::start() else {
        return;
    };
    let (ours, theirs) = (
        EtcdRegistry::new(&server.open()),
        EtcdRegistry::new(&server.open()),
    );
    let node = |n: usize| {
        let endpoint = format!("drpc://127.0.0.1:{}?is_secure=false", 10_000 + n);
        Instance::new(Kind::Node, format!("node-{n}"), endpoint)
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let ours = &ours;
            scope.spawn(move || {
                for n in (thread..1000).step_by(8) {
                    ours.register(&node(n)).expect("registers");
                }
            });
        }
    });
    let began = Instant::now();
    assert_eq!(theirs.services("node").expect("answers").len(), 1000);
    let listed = began.elapsed();
    let mut watch = theirs.watch("node").expect("watches");
    watch.next();
    let mut busy = node(500);
    busy.state = State::Busy;
    let began = Instant::now();
    ours.register(&busy).expect("registers");
    loop {
        let list = watch.next().expect("is open");
        if list.iter().any(|instance| instance.state == State::Busy) {
            break;
        }
    }
    println!(
        "etcd: a list of 1,000 in {listed:?}, a change known after {:?}",
        began.elapsed()
    );
}
