//! Event buses whose backend hangs or is lost while subscriptions begin and end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread;
use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::{Nats, Redis};
use epicycle::cluster::eventbus::{
    EventBus, MemoryEventBus, NatsEventBus, RedisEventBus, Subscription, WhenFull,
};
use parking_lot::Mutex;

use crate::bus::{next, payloads};
use crate::util::{LONG, eventually};
use crate::{nats_server, redis_server};

/// Longer than a test waits for anything.
const AGES: Duration = Duration::from_secs(3600);
const QUEUE: usize = 4;

/// Does something on another thread, and tells when it is done.
fn aside(work: impl FnOnce() + Send + 'static) -> Receiver<()> {
    let (done, is_done) = channel();
    thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    is_done
}

/// Drops subscriptions of a bus whose server answers nothing, while another one is being made.
fn drop_while_it_hangs(bus: &(impl EventBus + Clone), subscriptions: [Subscription; 2]) {
    let own = bus.clone();
    let subscribing = aside(move || {
        let _ = own.subscribe("other", Box::new(|_| {}));
    });
    thread::sleep(Duration::from_millis(100));
    let dropped = aside(move || drop(subscriptions));
    dropped
        .recv_timeout(LONG)
        .expect("the end of a subscription waits for nobody");
    assert!(subscribing.try_recv().is_err(), "the server answers");
}

#[test]
fn the_end_of_a_subscription_does_not_wait_for_redis() {
    let Some(server) = redis_server::Server::start(&[]) else {
        return;
    };
    let redis = Redis::builder().url(server.url()).timeout(AGES).build();
    let bus = RedisEventBus::new(&redis.expect("is complete"));
    let ((one, _), (two, _)) = (payloads(&bus, "login"), payloads(&bus, "logout"));
    server.pause();
    drop_while_it_hangs(&bus, [one, two]);
    server.resume();
}

#[test]
fn the_end_of_a_subscription_does_not_wait_for_nats() {
    let Some(server) = nats_server::Server::start(&[]) else {
        return;
    };
    let nats = Nats::builder().url(server.url()).timeout(AGES).build();
    let bus = NatsEventBus::new(&nats.expect("is complete"));
    let ((one, _), (two, _)) = (payloads(&bus, "login"), payloads(&bus, "logout"));
    server.pause();
    drop_while_it_hangs(&bus, [one, two]);
    server.resume();
}

/// Subscribes in a handler whose queue is full, so that the backend's connection waits for that handler.
fn subscribe_in_a_handler(bus: &(impl EventBus + Clone)) {
    let (go, may_go) = sync_channel::<()>(0);
    let (sender, receiver) = channel();
    let (own, second) = (bus.clone(), Arc::new(Mutex::new(None)));
    let kept = second.clone();
    let handler = move |message: &epicycle::cluster::eventbus::Message| {
        if message.payload == "0" {
            may_go.recv().expect("the test lives");
            let subscribed = own.subscribe("other", Box::new(|_| {}));
            *kept.lock() = Some(subscribed.map_err(|error| error.to_string()));
        }
        let _ = sender.send(message.payload.clone());
    };
    let _subscription = bus
        .subscribe("login", Box::new(handler))
        .expect("subscribes");
    for n in 0..3 * QUEUE {
        bus.publish("login", &n.to_string()).expect("publishes");
    }
    // Time to fill the queue. With less, the test is easier to pass.
    thread::sleep(Duration::from_millis(200));
    go.send(()).expect("waits for it");
    for n in 0..3 * QUEUE {
        assert_eq!(next(&receiver), n.to_string());
    }
    let subscribed = second.lock().take().expect("was tried");
    let _second =
        subscribed.expect("the handler waits for the connection, and the connection not for it");
}

#[test]
fn a_handler_with_a_full_queue_can_subscribe() {
    if let Some(server) = redis_server::Server::start(&[]) {
        let bus = RedisEventBus::with(&server.open(), "due:eventbus", QUEUE, WhenFull::Block);
        subscribe_in_a_handler(&bus);
    }
    if let Some(server) = nats_server::Server::start(&[]) {
        let bus = NatsEventBus::with(&server.open(), "due:eventbus", QUEUE, WhenFull::Block);
        subscribe_in_a_handler(&bus);
    }
}

#[test]
fn a_handler_can_publish_to_its_own_full_queue() {
    let bus = MemoryEventBus::with_queue(QUEUE, WhenFull::Block);
    let (sender, receiver) = channel();
    let own = bus.clone();
    let handler = move |message: &epicycle::cluster::eventbus::Message| {
        if message.payload == "first" {
            for n in 0..3 * QUEUE {
                own.publish("login", &n.to_string()).expect("publishes");
            }
        }
        let _ = sender.send(message.payload.clone());
    };
    let _subscription = bus
        .subscribe("login", Box::new(handler))
        .expect("subscribes");
    bus.publish("login", "first").expect("publishes");
    assert_eq!(next(&receiver), "first");
    for n in 0..3 * QUEUE {
        assert_eq!(next(&receiver), n.to_string());
    }
    assert_eq!(bus.stats().dropped, 0);
}

/// Subscribes again to a topic that has a subscriber, while the server is away and when it is back.
fn second_subscriber(bus: &impl EventBus, kill: impl FnOnce(), restart: impl FnOnce()) {
    let (_first, receiver) = payloads(bus, "login");
    let subscribe = || bus.subscribe("login", Box::new(|_| {}));
    drop(subscribe().expect("is there"));
    kill();
    eventually("the loss is noticed", || subscribe().is_err());
    let error = subscribe().expect_err("is lost");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    restart();
    eventually("it is back", || subscribe().is_ok());
    eventually("messages come again", || {
        bus.publish("login", "after").is_ok()
    });
    assert_eq!(next(&receiver), "after");
}

#[test]
fn a_second_subscriber_is_told_that_the_backend_is_lost() {
    if let Some(server) = redis_server::Server::start(&[]) {
        let bus = RedisEventBus::new(&server.open());
        let server = Mutex::new(server);
        second_subscriber(&bus, || server.lock().kill(), || server.lock().restart());
    }
    if let Some(server) = nats_server::Server::start(&[]) {
        let bus = NatsEventBus::new(&server.open());
        let server = Mutex::new(server);
        second_subscriber(&bus, || server.lock().kill(), || server.lock().restart());
    }
}
