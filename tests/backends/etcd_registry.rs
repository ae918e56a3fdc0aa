use std::time::{Duration, Instant};

use epicycle::cluster::backends::Etcd;
use epicycle::cluster::center::{EtcdSource, Mode, Source};
use epicycle::cluster::registry::{EtcdRegistry, Instance, Registry, RouteSpec};
use epicycle::cluster::{Error, Kind, State, Watch};

use crate::etcd_server::Server;
use crate::process::free_port;
use crate::util::logs::logs;
use crate::util::{LONG, eventually};
use crate::vectors::rows;

fn node(id: &str) -> Instance {
    let mut node = Instance::new(Kind::Node, id, "drpc://127.0.0.1:7001?is_secure=false");
    node.routes.push(RouteSpec::new(3).stateful());
    node
}

fn ids(list: &[Instance]) -> Vec<&str> {
    list.iter().map(|instance| &*instance.id).collect()
}

/// Waits for a list that fits.
fn await_list(watch: &mut Watch<Vec<Instance>>, what: &str, fits: impl Fn(&[Instance]) -> bool) {
    let began = Instant::now();
    loop {
        let list = watch.next().expect("is open");
        if fits(&list) {
            return;
        }
        assert!(began.elapsed() < LONG, "{what}: {:?}", ids(&list));
    }
}

#[test]
fn instances_are_found_until_they_are_taken_out() {
    let Some(server) = Server::start() else {
        return;
    };
    let (ours, theirs) = (
        EtcdRegistry::new(&server.open()),
        EtcdRegistry::new(&server.open()),
    );
    assert!(ours.services("node").expect("answers").is_empty());
    ours.register(&node("node-1")).expect("registers");
    theirs.register(&node("node-2")).expect("registers");
    let found = theirs.services("node").expect("answers");
    assert_eq!(found, [node("node-1"), node("node-2")]);
    assert!(ours.services("gate").expect("answers").is_empty());

    let mut busy = node("node-1");
    busy.state = State::Busy;
    ours.register(&busy).expect("registers");
    let found = theirs.services("node").expect("answers");
    assert_eq!(found, [busy.clone(), node("node-2")]);
    // The lease of the old record has gone with it.
    let leases = server.ctl(&["lease", "list"]);
    assert!(leases.contains("found 2 leases"), "{leases}");

    ours.deregister(&busy).expect("answers");
    ours.deregister(&busy).expect("is no error");
    assert_eq!(ids(&theirs.services("node").expect("answers")), ["node-2"]);
}

#[test]
fn records_are_those_of_due() {
    let Some(server) = Server::start() else {
        return;
    };
    let registry = EtcdRegistry::new(&server.open());
    let recorded = rows("registry_etcd");
    let Some(row) = recorded.iter().find(|row| row.data.contains("\"busy\"")) else {
        return;
    };
    let key = &row.scenario;
    let record = Instance::from_json(row.data.as_bytes()).expect("is a record");
    server.ctl(&["put", key, &row.data]);
    assert_eq!(
        registry.services("node").expect("answers"),
        std::slice::from_ref(&record)
    );
    server.ctl(&["del", key]);
    registry.register(&record).expect("registers");
    let found = server.ctl(&["get", key, "--print-value-only"]);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("is JSON");
    assert_eq!(value(&found), value(&row.data));
}

#[test]
fn a_watch_tells_each_change() {
    let Some(server) = Server::start() else {
        return;
    };
    let (ours, theirs) = (
        EtcdRegistry::new(&server.open()),
        EtcdRegistry::new(&server.open()),
    );
    ours.register(&node("node-1")).expect("registers");
    let mut watch = theirs.watch("node").expect("watches");
    assert_eq!(ids(&watch.next().expect("is open")), ["node-1"]);
    ours.register(&node("node-2")).expect("registers");
    await_list(&mut watch, "one more", |list| {
        ids(list) == ["node-1", "node-2"]
    });
    let mut hang = node("node-1");
    hang.state = State::Hang;
    ours.register(&hang).expect("registers");
    await_list(&mut watch, "its state", |list| {
        list.first().is_some_and(|first| first.state == State::Hang)
    });
    // Longer than a turn of the watch.
    std::thread::sleep(Duration::from_secs(6));
    ours.deregister(&hang).expect("answers");
    await_list(&mut watch, "one less", |list| ids(list) == ["node-2"]);
    // What is no record is no instance, and nothing else.
    server.ctl(&["put", "/services/node/node-3", "no JSON"]);
    ours.register(&node("node-4")).expect("registers");
    await_list(&mut watch, "one more", |list| {
        ids(list) == ["node-2", "node-4"]
    });
}

#[test]
fn what_is_no_record_is_told_once_for_each_change() {
    let Some(server) = Server::start() else {
        return;
    };
    let logs = logs();
    let registry = EtcdRegistry::new(&server.open());
    let told = || logs.with("/services/node/told is no record").len();
    for (count, value) in ["{", "[", "7"].iter().enumerate() {
        server.ctl(&["put", "/services/node/told", value]);
        for _ in 0..3 {
            assert!(registry.services("node").expect("answers").is_empty());
            let found = registry.find("node", "told").expect("answers");
            assert_eq!(found, None);
        }
        assert_eq!(told(), count + 1);
    }
}

#[test]
fn a_record_ends_when_its_server_dies_and_stays_while_it_lives() {
    let Some(server) = Server::start() else {
        return;
    };
    let living = EtcdRegistry::new(&server.open());
    living.register(&node("living")).expect("registers");
    // Dropped without a word, as in a process that is killed.
    let dying = EtcdRegistry::new(&server.open());
    dying.register(&node("dying")).expect("registers");
    drop(dying);
    let began = Instant::now();
    eventually("the dead one is gone", || {
        let found = living.services("node").expect("answers");
        assert!(ids(&found).contains(&"living"));
        !ids(&found).contains(&"dying")
    });
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "it was taken out, not forgotten"
    );
}

#[test]
fn a_record_that_etcd_has_forgotten_is_written_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let registry = EtcdRegistry::new(&server.open());
    registry.register(&node("node-1")).expect("registers");
    let leases = server.ctl(&["lease", "list"]);
    let lease = leases.lines().nth(1).expect("there is one").trim();
    server.ctl(&["lease", "revoke", lease]);
    assert!(registry.services("node").expect("answers").is_empty());
    eventually("it is there again", || {
        ids(&registry.services("node").expect("answers")) == ["node-1"]
    });
}

#[test]
fn a_record_that_somebody_has_taken_out_is_written_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let registry = EtcdRegistry::new(&server.open());
    registry.register(&node("node-1")).expect("registers");
    server.ctl(&["del", "/services/node/node-1"]);
    assert!(registry.services("node").expect("answers").is_empty());
    eventually("it is there again", || {
        ids(&registry.services("node").expect("answers")) == ["node-1"]
    });
    eventually("the lease without a record is gone", || {
        server.ctl(&["lease", "list"]).contains("found 1 leases")
    });
}

#[test]
fn a_record_that_another_server_has_by_now_is_left_to_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let (before, after) = (
        EtcdRegistry::new(&server.open()),
        EtcdRegistry::new(&server.open()),
    );
    before.register(&node("node-1")).expect("registers");
    let leases = server.ctl(&["lease", "list"]);
    let lease = leases.lines().nth(1).expect("there is one").trim();
    let mut new = node("node-1");
    new.endpoint = "drpc://127.0.0.1:7002?is_secure=false".to_owned();
    after.register(&new).expect("registers");
    // As if the first one had been stopped for so long that its lease has ended.
    server.ctl(&["lease", "revoke", lease]);
    // It looks after its records each 3.7 s.
    std::thread::sleep(Duration::from_secs(5));
    drop(before);
    assert_eq!(after.services("node").expect("answers"), [new]);
}

#[test]
fn the_last_list_stays_while_etcd_is_lost() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let etcd = server.open();
    let registry = EtcdRegistry::new(&etcd);
    registry.register(&node("node-1")).expect("registers");
    let mut watch = registry.watch("node").expect("watches");
    let handle = watch.handle();
    assert_eq!(ids(&watch.next().expect("is open")), ["node-1"]);
    server.kill();
    eventually("the loss is noticed", || handle.lost_since().is_some());
    assert!(watch.try_next().is_none());
    let error = registry.register(&node("node-2")).expect_err("is lost");
    assert!(
        matches!(
            error,
            Error::Backend {
                backend: "etcd",
                ..
            }
        ),
        "{error}"
    );
    assert!(!etcd.stats().is_up);
    server.restart();
    eventually("it is found again", || handle.lost_since().is_none());
    eventually("others can register", || {
        registry.register(&node("node-2")).is_ok()
    });
    await_list(&mut watch, "one more", |list| {
        ids(list) == ["node-1", "node-2"]
    });
    assert!(etcd.stats().is_up);
}

#[test]
fn an_etcd_that_hangs_for_longer_than_a_lease_has_the_records_afterwards() {
    let Some(server) = Server::start() else {
        return;
    };
    let registry = EtcdRegistry::new(&server.open());
    registry.register(&node("node-1")).expect("registers");
    let watch = registry.watch("node").expect("watches");
    let handle = watch.handle();
    server.pause();
    eventually("the loss is noticed", || handle.lost_since().is_some());
    std::thread::sleep(Duration::from_secs(12));
    server.resume();
    eventually("it is found again", || handle.lost_since().is_none());
    eventually("the record is there", || {
        let found = registry.services("node");
        found.is_ok_and(|found| ids(&found) == ["node-1"])
    });
}

#[test]
fn a_server_started_anew_under_the_same_id_takes_the_record_over() {
    let Some(server) = Server::start() else {
        return;
    };
    let (before, after) = (
        EtcdRegistry::new(&server.open()),
        EtcdRegistry::new(&server.open()),
    );
    before.register(&node("node-1")).expect("registers");
    let mut new = node("node-1");
    new.endpoint = "drpc://127.0.0.1:7002?is_secure=false".to_owned();
    after.register(&new).expect("registers");
    // The late end of the life before takes out nothing.
    before.deregister(&node("node-1")).expect("answers");
    assert_eq!(after.services("node").expect("answers"), [new]);
}

#[test]
fn users_and_passwords_are_checked() {
    let Some(server) = Server::start() else {
        return;
    };
    for args in [
        &["user", "add", "root:right"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        server.ctl(args);
    }
    let with = |password: &str| {
        let etcd = Etcd::builder().url(server.url()).user("root", password);
        EtcdRegistry::new(&etcd.build().expect("is complete"))
    };
    let error = with("s3cret").services("node").expect_err("is wrong");
    assert!(
        error.to_string().contains("authentication failed"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("s3cret"));
    let error = EtcdRegistry::new(&server.open())
        .services("node")
        .expect_err("is nobody");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let registry = with("right");
    registry.register(&node("node-1")).expect("registers");
    assert_eq!(
        ids(&registry.services("node").expect("answers")),
        ["node-1"]
    );
}

#[test]
fn the_next_server_is_asked_if_one_does_not_answer() {
    let Some(server) = Server::start() else {
        return;
    };
    let etcd = Etcd::builder()
        .url(format!("http://127.0.0.1:{}", free_port()))
        .url(server.url())
        .build()
        .expect("is complete");
    let registry = EtcdRegistry::new(&etcd);
    registry.register(&node("node-1")).expect("registers");
    assert!(etcd.stats().is_up);
}

#[test]
fn an_etcd_that_is_not_there_is_found_when_it_comes() {
    let port = free_port();
    let etcd = Etcd::open(&format!("http://127.0.0.1:{port}")).expect("is a URL");
    let registry = EtcdRegistry::new(&etcd);
    assert!(registry.register(&node("node-1")).is_err());
    let error = registry.watch("node").expect_err("is not there");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    let Some(_server) = Server::start_at(port) else {
        return;
    };
    let mut watch = registry.watch("node").expect("watches");
    assert!(watch.next().expect("is open").is_empty());
    registry.register(&node("node-1")).expect("registers");
    await_list(&mut watch, "one more", |list| ids(list) == ["node-1"]);
}

#[test]
fn a_thousand_instances_are_listed_at_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let registry = EtcdRegistry::new(&server.open());
    // Records without leases, as a busy machine may not keep a thousand of them alive.
    let records = EtcdSource::with_path(&server.open(), "services/node").mode(Mode::WriteOnly);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let records = &records;
            scope.spawn(move || {
                for number in (part..1000).step_by(4) {
                    let id = format!("node-{number}");
                    let record = node(&id).to_json().expect("is JSON");
                    records.store(&id, record.as_bytes()).expect("is stored");
                }
            });
        }
    });
    assert_eq!(registry.services("node").expect("answers").len(), 1000);
    let mut watch = registry.watch("node").expect("watches");
    assert_eq!(watch.next().expect("is open").len(), 1000);
}

#[test]
fn urls_that_are_none_are_refused() {
    for url in [
        "",
        "127.0.0.1:2379",
        "etcd://127.0.0.1",
        "http://u:s3cret@127.0.0.1",
    ] {
        let error = Etcd::open(url).expect_err("is none");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains("http://"), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
