use std::time::Duration;

use epicycle::cluster::Error;
use epicycle::cluster::backends::Redis;
use epicycle::cluster::eventbus::{EventBus, RedisEventBus};
use redis::Commands;

use crate::bus::listen;
use crate::process::free_port;
use crate::redis_server::Server;
use crate::util::{LONG, eventually};
use crate::vectors::rows;

#[test]
fn messages_come_in_order_to_each_subscriber_of_their_topic() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (ours, theirs) = (
        RedisEventBus::new(&server.open()),
        RedisEventBus::new(&server.open()),
    );
    let (_first, one) = listen(&ours, "login");
    let (_second, two) = listen(&ours, "login");
    let (_other, other) = listen(&ours, "logout");
    for number in 0..500 {
        theirs
            .publish("login", &number.to_string())
            .expect("publishes");
    }
    theirs.publish("logout", "end").expect("publishes");
    for number in 0..500 {
        for receiver in [&one, &two] {
            let message = receiver.recv_timeout(LONG).expect("comes");
            assert_eq!(message.parse::<u64>().expect("is a number"), number);
            assert_eq!(message.topic, "login");
        }
    }
    assert_eq!(other.recv_timeout(LONG).expect("comes").payload, "end");
    assert!(other.try_recv().is_err());
    assert_eq!(ours.stats().delivered, 1001);
    assert_eq!(theirs.stats().published, 501);
}

#[test]
fn messages_of_due_are_read_and_ours_have_its_form() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = RedisEventBus::new(&server.open());
    let (_subscription, messages) = listen(&bus, "login");
    let mut stranger = server.stranger();
    let recorded = rows("eventbus_redis");
    let commands = recorded
        .iter()
        .filter(|row| row.data.starts_with('['))
        .map(|row| serde_json::from_str::<Vec<String>>(&row.data).expect("is JSON"));
    let mut fields = Vec::new();
    for command in commands.filter(|command| command[0] == "publish") {
        let () = stranger
            .publish(&command[1], &command[2])
            .expect("publishes");
        let message = messages.recv_timeout(LONG).expect("comes");
        let wanted: serde_json::Value = serde_json::from_str(&command[2]).expect("is JSON");
        assert_eq!(message.payload, wanted["payload"]);
        assert_eq!(message.id, wanted["id"]);
        fields = wanted
            .as_object()
            .map(|fields| fields.keys().cloned().collect())
            .expect("is an object");
    }
    if fields.is_empty() {
        return;
    }
    let mut listening = server.stranger();
    let mut subscription = listening.as_pubsub();
    subscription
        .subscribe("due:eventbus:login")
        .expect("subscribes");
    bus.publish("login", "text").expect("publishes");
    let payload: String = subscription
        .get_message()
        .and_then(|message| message.get_payload())
        .expect("comes");
    let ours: serde_json::Value = serde_json::from_str(&payload).expect("is JSON");
    let mut keys: Vec<_> = ours
        .as_object()
        .map(|fields| fields.keys().cloned().collect())
        .expect("is an object");
    keys.sort();
    fields.sort();
    assert_eq!(keys, fields);
}

#[test]
fn what_is_no_message_costs_nothing_but_itself() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = RedisEventBus::new(&server.open());
    let (_subscription, messages) = listen(&bus, "login");
    let mut stranger = server.stranger();
    for garbage in ["", "no JSON", "{}", "[1]"] {
        let () = stranger
            .publish("due:eventbus:login", garbage)
            .expect("publishes");
    }
    bus.publish("login", "after").expect("publishes");
    let message = messages.recv_timeout(LONG).expect("comes");
    assert_eq!(message.payload, "after");
}

#[test]
fn a_subscription_that_is_dropped_is_ended_at_the_server() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let bus = RedisEventBus::new(&server.open());
    let mut stranger = server.stranger();
    let mut subscribers = move || {
        let (_, count): (String, u64) = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg("due:eventbus:login")
            .query(&mut stranger)
            .expect("answers");
        count
    };
    let (first, _one) = listen(&bus, "login");
    let (second, two) = listen(&bus, "login");
    assert_eq!(subscribers(), 1);
    drop(first);
    bus.publish("login", "still").expect("publishes");
    assert_eq!(two.recv_timeout(LONG).expect("comes").payload, "still");
    drop(second);
    eventually("nobody subscribes", || subscribers() == 0);
    let (_third, three) = listen(&bus, "login");
    bus.publish("login", "again").expect("publishes");
    assert_eq!(three.recv_timeout(LONG).expect("comes").payload, "again");
}

#[test]
fn subscriptions_are_made_again_when_the_server_was_lost() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let bus = RedisEventBus::new(&server.open());
    let (_subscription, messages) = listen(&bus, "login");
    server.kill();
    assert!(bus.publish("login", "lost").is_err());
    server.restart();
    eventually("messages come again", || {
        let _ = bus.publish("login", "found");
        let message = messages.recv_timeout(Duration::from_millis(50));
        message.is_ok_and(|message| message.payload == "found")
    });
}

#[test]
fn a_subscription_without_a_server_is_refused() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let bus = RedisEventBus::new(&Redis::open(&url).expect("is a URL"));
    let error = bus
        .subscribe("login", Box::new(|_| {}))
        .expect_err("is not there");
    assert!(
        matches!(
            error,
            Error::Backend {
                backend: "redis",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(bus.stats().subscriptions, 0);
}
