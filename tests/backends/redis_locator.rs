use std::time::{Duration, Instant};

use epicycle::cluster::Error;
use epicycle::cluster::backends::Redis;
use epicycle::cluster::eventbus::{EventBus, RedisEventBus};
use epicycle::cluster::locator::{LocationEvent, Locator, RedisLocator};
use redis::Commands;

use crate::bus::{next, payloads};
use crate::process::free_port;
use crate::redis_server::Server;
use crate::util::eventually;
use crate::vectors::rows;

#[test]
fn users_are_found_where_they_were_bound_last() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let locator = RedisLocator::new(&server.open());
    assert_eq!(locator.locate_gate(7).expect("answers"), None);
    locator.bind_gate(7, "gate-1").expect("binds");
    locator.bind_gate(7, "gate-2").expect("binds");
    assert_eq!(
        locator.locate_gate(7).expect("answers").as_deref(),
        Some("gate-2")
    );
    assert!(!locator.unbind_gate(7, "gate-1").expect("answers"));
    assert!(locator.unbind_gate(7, "gate-2").expect("answers"));
    assert_eq!(locator.locate_gate(7).expect("answers"), None);

    locator.bind_node(7, "hall", "hall-1").expect("binds");
    locator.bind_node(7, "game", "game-1").expect("binds");
    let mut nodes = locator.locate_nodes(7).expect("answers");
    nodes.sort();
    let pair = |alias: &str, nid: &str| (alias.to_owned(), nid.to_owned());
    assert_eq!(nodes, [pair("game", "game-1"), pair("hall", "hall-1")]);
    assert!(!locator.unbind_node(7, "hall", "game-1").expect("answers"));
    assert!(locator.unbind_node(7, "hall", "hall-1").expect("answers"));
    assert_eq!(locator.locate_node(7, "hall").expect("answers"), None);
    assert_eq!(
        locator.locate_node(7, "game").expect("answers").as_deref(),
        Some("game-1")
    );
}

#[test]
fn keys_channels_and_messages_are_those_of_due() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let recorded: Vec<Vec<String>> = rows("locator_redis")
        .iter()
        .filter(|row| row.data.starts_with('['))
        .map(|row| serde_json::from_str(&row.data).expect("is JSON"))
        .collect();
    if recorded.is_empty() {
        return;
    }
    let mut stranger = server.stranger();
    let mut listening = server.stranger();
    let mut subscription = listening.as_pubsub();
    for command in recorded.iter().filter(|command| command[0] == "subscribe") {
        subscription.subscribe(&command[1]).expect("subscribes");
    }
    let locator = RedisLocator::new(&server.open());
    // What due did: bind 7 to gate-1, then to node-1.
    locator.bind_gate(7, "gate-1").expect("binds");
    locator.bind_node(7, "node", "node-1").expect("binds");
    locator.unbind_gate(7, "gate-1").expect("unbinds");
    for wanted in ["\"type\":1", "\"type\":2", "\"type\":3"] {
        let published = recorded
            .iter()
            .find(|command| command[0] == "publish" && command[2].contains(wanted))
            .expect("was recorded");
        let message = subscription.get_message().expect("comes");
        assert_eq!(message.get_channel_name(), published[1]);
        let payload: String = message.get_payload().expect("is text");
        assert_eq!(payload, published[2]);
    }
    // The keys that due sets are those that we read, and the other way round.
    let set = recorded
        .iter()
        .find(|command| command[0] == "hset")
        .expect("was recorded");
    let stored: String = stranger.hget(&set[1], &set[2]).expect("is there");
    assert_eq!(stored, set[3]);
    let set = recorded
        .iter()
        .find(|command| command[0] == "set")
        .expect("was recorded");
    let () = stranger.set(&set[1], &set[2]).expect("sets");
    assert_eq!(
        locator.locate_gate(7).expect("answers").as_deref(),
        Some(&*set[2])
    );
}

#[test]
fn a_watch_tells_what_others_change_and_when_changes_were_missed() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (ours, theirs) = (
        RedisLocator::new(&server.open()),
        RedisLocator::new(&server.open()),
    );
    let mut watch = ours.watch().expect("watches");
    assert_eq!(watch.next(), Some(LocationEvent::Interrupted));
    theirs.bind_gate(7, "gate-1").expect("binds");
    theirs.bind_node(7, "node", "node-1").expect("binds");
    theirs.unbind_node(7, "node", "node-1").expect("unbinds");
    theirs.unbind_gate(7, "gate-1").expect("unbinds");
    let (gid, alias, nid) = ("gate-1".to_owned(), "node".to_owned(), "node-1".to_owned());
    let wanted = [
        LocationEvent::GateBound {
            uid: 7,
            gid: gid.clone(),
        },
        LocationEvent::NodeBound {
            uid: 7,
            alias: alias.clone(),
            nid: nid.clone(),
        },
        LocationEvent::NodeUnbound { uid: 7, alias, nid },
        LocationEvent::GateUnbound { uid: 7, gid },
    ];
    for event in wanted {
        assert_eq!(watch.next(), Some(event));
    }

    let handle = watch.handle();
    assert_eq!(handle.lost_since(), None);
    server.kill();
    eventually("the loss is noticed", || handle.lost_since().is_some());
    server.restart();
    assert_eq!(watch.next(), Some(LocationEvent::Interrupted));
    eventually("it is found again", || handle.lost_since().is_none());
    let mut stranger = server.stranger();
    let () = stranger
        .publish("due:locate:locate:cluster:gate:event", "no JSON")
        .expect("publishes");
    assert_eq!(watch.next(), Some(LocationEvent::Interrupted));
}

#[test]
fn a_server_that_is_not_there_fails_calls_at_once_and_is_found_when_it_comes() {
    let port = free_port();
    let redis = Redis::open(&format!("redis://127.0.0.1:{port}")).expect("is a URL");
    let locator = RedisLocator::new(&redis);
    let began = Instant::now();
    for uid in 1..=1000 {
        let error = locator.bind_gate(uid, "gate-1").expect_err("is not there");
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
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(!redis.stats().is_up);
    assert_eq!(redis.stats().connections, 0);
    let Some(_server) = Server::start_at(port, &[]) else {
        return;
    };
    eventually("the server is found", || {
        locator.bind_gate(7, "gate-1").is_ok()
    });
    assert!(redis.stats().is_up);
    assert!(redis.stats().last_ok.is_some());
}

#[test]
fn a_server_that_hangs_costs_a_call_its_timeout_and_others_wait_no_longer() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = Redis::builder()
        .url(server.url())
        .connections(1)
        .timeout(Duration::from_millis(300))
        .build()
        .expect("is complete");
    let locator = RedisLocator::new(&redis);
    locator.bind_gate(7, "gate-1").expect("binds");
    server.pause();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| locator.locate_gate(7).expect_err("hangs"));
        }
    });
    assert!(!redis.stats().is_up);
    server.resume();
    eventually("it answers again", || locator.locate_gate(7).is_ok());
    assert_eq!(redis.stats().connections, 1);
    assert_eq!(redis.stats().queue, 0);
}

#[test]
fn a_watch_whose_channels_are_refused_is_lost() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut stranger = server.stranger();
    let () = redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "game",
            "on",
            ">right",
            "~*",
            "+@all",
            "resetchannels",
        ])
        .query(&mut stranger)
        .expect("is set");
    let redis = Redis::open(&format!("redis://game:right@127.0.0.1:{}", server.port));
    let redis = redis.expect("is a URL");
    let locator = RedisLocator::new(&redis);
    let watch = locator.watch().expect("watches");
    eventually("the refusal is noticed", || {
        watch.handle().lost_since().is_some()
    });
    let bus = RedisEventBus::new(&redis);
    let error = bus
        .subscribe("login", Box::new(|_| {}))
        .expect_err("is refused");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    // The locator's channels only, without the one by which the thread is woken.
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "game", "&due:locate:locate:cluster:*"])
        .query(&mut stranger)
        .expect("is set");
    eventually("it is found", || watch.handle().lost_since().is_none());
    drop(watch);
    // The same for a bus, whose subscriptions begin later.
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "game", "&due:eventbus:l*"])
        .query(&mut stranger)
        .expect("is set");
    let bus = RedisEventBus::new(&redis);
    eventually("it is let in", || {
        let subscribed = bus.subscribe("login", Box::new(|_| {}));
        subscribed.is_ok()
    });
    for topic in ["lobby", "login", "logout", "loss", "lost", "luck"] {
        let (_subscription, heard) = payloads(&bus, topic);
        bus.publish(topic, "7").expect("is allowed");
        assert_eq!(next(&heard), "7");
    }
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let Some(server) = Server::start(&["--requirepass", "right"]) else {
        return;
    };
    let with = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port);
        RedisLocator::new(&Redis::open(&url).expect("is a URL"))
    };
    let error = with("s3cret").bind_gate(7, "gate-1").expect_err("is wrong");
    let text = error.to_string();
    assert!(
        text.contains("Password") || text.contains("password") || text.contains("WRONGPASS"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    assert!(!format!("{error:?}").contains("s3cret"));
    with("right").bind_gate(7, "gate-1").expect("is right");
}

#[test]
fn calls_go_on_after_the_server_was_started_anew() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let redis = server.open();
    let locator = RedisLocator::new(&redis);
    locator.bind_gate(7, "gate-1").expect("binds");
    server.kill();
    server.restart();
    // Its connections have lain idle for longer than a moment, so they are looked at before they are used.
    std::thread::sleep(Duration::from_millis(1100));
    locator.bind_gate(7, "gate-2").expect("binds");
    assert_eq!(
        locator.locate_gate(7).expect("answers").as_deref(),
        Some("gate-2")
    );
}
