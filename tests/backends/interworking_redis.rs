//! Locks, cache and messages that servers of both kinds share through a real Redis. due's side says what the recorded one said.

use std::time::Duration;

use epicycle::cluster::cache::{Cache, RedisCache};
use epicycle::cluster::eventbus::{EventBus, Message, RedisEventBus};
use epicycle::cluster::lock::{Locks, RedisLocks};
use redis::{Connection, Value};

use crate::bus::payloads;
use crate::redis_server;
use crate::util::LONG;
use crate::vectors::rows;

/// Returns the recorded commands of an area.
fn commands(area: &str) -> Vec<Vec<String>> {
    let rows = rows(area).into_iter();
    rows.map(|row| serde_json::from_str(&row.data).expect("is a list"))
        .collect()
}

fn say(due: &mut Connection, command: &[String]) -> Value {
    let mut sent = redis::cmd(&command[0]);
    sent.arg(&command[1..]);
    // A script that is not known yet is refused, and sent in full then.
    sent.query(due).unwrap_or(Value::Nil)
}

#[test]
fn locks_of_due_and_ours_exclude_each_other() {
    let (Some(server), recorded) = (redis_server::Server::start(&[]), commands("lock_redis"))
    else {
        return;
    };
    if recorded.is_empty() {
        return;
    }
    let (mut due, locks) = (server.stranger(), RedisLocks::new(&server.open()));
    let ours = || {
        let taken = locks.try_acquire("res", Duration::from_secs(30));
        taken.expect("answers")
    };
    // It takes the lock, a second one fails, it is renewed, and the wrong holder cannot free it.
    assert_eq!(say(&mut due, &recorded[0]), Value::Okay);
    for command in &recorded[1..7] {
        assert!(ours().is_none(), "due has it");
        say(&mut due, command);
    }
    assert!(ours().is_none(), "due has it still");
    say(&mut due, &recorded[7]);
    let held = ours().expect("due has freed it");
    assert_eq!(say(&mut due, &recorded[8]), Value::Nil, "ours have it");
    say(&mut due, &recorded[9]);
    assert!(held.is_held(), "due frees only its own");
    drop(held);
    assert_eq!(say(&mut due, &recorded[8]), Value::Okay);
}

#[test]
fn values_of_due_are_read_and_ours_are_read_by_due() {
    let (Some(server), recorded) = (redis_server::Server::start(&[]), commands("cache_redis"))
    else {
        return;
    };
    let (mut due, cache) = (server.stranger(), RedisCache::new(&server.open()));
    for command in recorded.iter().filter(|command| command[0] != "del") {
        say(&mut due, command);
    }
    if recorded.is_empty() {
        return;
    }
    let get = |key: &str| cache.get(key).expect("answers");
    assert_eq!(get("k").as_deref(), Some("v"));
    assert_eq!(get("k2").as_deref(), Some("5"));
    assert_eq!(get("gs").as_deref(), Some("made"));
    let made = cache.get_or_set("gsnil", &mut || panic!("due has found that there is none"));
    assert_eq!(made.expect("answers"), None);
    assert_eq!(cache.increase("n", 4).expect("is a number"), 7);

    cache.set("k", "ours", None).expect("is set");
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    assert_eq!(say(&mut due, &recorded[2]), text("ours"));
    let none = cache.get_or_set("none", &mut || Ok(None));
    assert_eq!(none.expect("answers"), None);
    assert_eq!(say(&mut due, &recorded[3]), text("cache@nil"));
    assert_eq!(say(&mut due, &recorded[8]), Value::Int(10));
    say(&mut due, &recorded[10]);
    assert_eq!((get("k"), get("k2")), (None, None));
}

#[test]
fn messages_pass_both_ways() {
    let (Some(server), recorded) = (redis_server::Server::start(&[]), commands("eventbus_redis"))
    else {
        return;
    };
    if recorded.is_empty() {
        return;
    }
    let (mut due, mut listening) = (server.stranger(), server.stranger());
    let bus = RedisEventBus::new(&server.open());
    let (_subscription, receiver) = payloads(&bus, "login");
    assert_eq!(recorded[0][0], "subscribe");
    let mut messages = listening.as_pubsub();
    messages.subscribe(&recorded[0][1]).expect("subscribes");
    for command in &recorded[1..] {
        assert_eq!(say(&mut due, command), Value::Int(2), "both subscribe");
        let message = Message::from_json(command[2].as_bytes()).expect("is a message");
        let payload = receiver.recv_timeout(LONG).expect("comes");
        assert_eq!(payload, message.payload);
        messages.get_message().expect("comes to due too");
    }
    bus.publish("login", "ours").expect("publishes");
    let message = messages.get_message().expect("comes");
    assert_eq!(message.get_channel_name(), recorded[0][1]);
    let fields: serde_json::Value =
        serde_json::from_slice(message.get_payload_bytes()).expect("is JSON");
    assert_eq!(
        (&fields["topic"], &fields["payload"]),
        (&"login".into(), &"ours".into())
    );
    assert!(
        fields["id"].is_string() && fields["timestamp"].is_i64(),
        "{fields}"
    );
    assert_eq!(fields.as_object().map(serde_json::Map::len), Some(4));
}
