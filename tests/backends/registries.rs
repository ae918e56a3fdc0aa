//! The promises of every registry that needs a beat, against servers that stand in for theirs.

use std::time::{Duration, Instant};

use epicycle::cluster::registry::{Instance, Registry, RouteSpec};
use epicycle::cluster::{Error, Kind, State, Watch};

use crate::standin::Standin;
use crate::util::{LONG, eventually};

pub(crate) fn node(id: &str) -> Instance {
    let port = 7000 + id.bytes().map(u16::from).sum::<u16>();
    let endpoint = format!("drpc://127.0.0.1:{port}?is_secure=false");
    let mut node = Instance::new(Kind::Node, id, endpoint);
    node.alias = "hall".to_owned();
    node.weight = 3;
    node.events = vec![1, 3];
    node.services = vec!["Shop".to_owned(), "Mail".to_owned()];
    node.metadata.insert("zone".to_owned(), "a b".to_owned());
    for id in -2..120 {
        let mut route = RouteSpec::new(id);
        route.internal = id % 2 == 0;
        route.stateful = id % 3 == 0;
        route.authorized = id % 5 == 0;
        node.routes.push(route);
    }
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

pub(crate) fn instances_are_found_until_they_are_taken_out(
    ours: impl Registry,
    theirs: impl Registry,
) {
    assert!(ours.services("node").expect("answers").is_empty());
    ours.register(&node("node-1")).expect("registers");
    theirs.register(&node("node-2")).expect("registers");
    let found = theirs.services("node").expect("answers");
    assert_eq!(found, [node("node-1"), node("node-2")]);
    assert!(ours.services("gate").expect("answers").is_empty());

    let mut watch = theirs.watch("node").expect("watches");
    assert_eq!(watch.next().expect("is open").len(), 2);
    let mut busy = node("node-1");
    busy.state = State::Busy;
    ours.register(&busy).expect("registers");
    await_list(&mut watch, "its state", |list| list[0].state == State::Busy);
    ours.deregister(&busy).expect("answers");
    ours.deregister(&busy).expect("is no error");
    await_list(&mut watch, "one less", |list| ids(list) == ["node-2"]);

    let nowhere = Instance::new(Kind::Node, "node-3", "nowhere");
    let error = ours.register(&nowhere).expect_err("has no address");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

/// Both servers are in one process.
pub(crate) fn a_record_that_another_server_has_by_now_is_left_to_it(registry: impl Registry) {
    let (old, mut new) = (node("node-1"), node("node-1"));
    new.endpoint = "drpc://127.0.0.1:7999?is_secure=false".to_owned();
    registry.register(&old).expect("registers");
    registry.register(&new).expect("registers");
    registry.deregister(&old).expect("is no error");
    let left = registry.services("node").expect("answers");
    assert!(left.contains(&new), "{left:?}");
    registry.deregister(&new).expect("answers");
    let left = registry.services("node").expect("answers");
    assert!(!left.contains(&new), "{left:?}");
}

/// Each has a registry of its own, as in two processes. One of them has the record.
pub(crate) fn a_record_of_another_process_is_left_to_it(
    ours: &impl Registry,
    theirs: &impl Registry,
) {
    let (old, mut new) = (node("node-1"), node("node-1"));
    new.endpoint = "drpc://127.0.0.1:7999?is_secure=false".to_owned();
    ours.register(&old).expect("registers");
    theirs.register(&new).expect("registers");
    ours.deregister(&old).expect("is no error");
    assert_eq!(ours.services("node").expect("answers"), [new.clone()]);
    theirs.deregister(&new).expect("answers");
    assert!(ours.services("node").expect("answers").is_empty());
}

/// `forget` has the server forget everything.
pub(crate) fn a_record_that_is_forgotten_is_written_again(
    registry: impl Registry,
    forget: impl Fn(),
) {
    registry.register(&node("node-1")).expect("registers");
    forget();
    assert!(registry.services("node").expect("answers").is_empty());
    eventually("it is registered again", || {
        registry
            .services("node")
            .is_ok_and(|list| list == [node("node-1")])
    });
    registry.deregister(&node("node-1")).expect("answers");
    forget();
    // Longer than the time between two beats.
    std::thread::sleep(Duration::from_secs(6));
    assert!(registry.services("node").expect("answers").is_empty());
}

/// The last list stays while the server is lost. `is_up` tells what the backend says of itself. Returns the watch.
pub(crate) fn a_server_that_is_lost_is_found_again(
    server: &mut Standin,
    registry: &impl Registry,
    is_up: impl Fn() -> bool,
) -> Watch<Vec<Instance>> {
    registry.register(&node("node-1")).expect("registers");
    assert!(is_up());
    let mut watch = registry.watch("node").expect("watches");
    let handle = watch.handle();
    assert_eq!(ids(&watch.next().expect("is open")), ["node-1"]);

    server.kill();
    eventually("the watch notices", || handle.lost_since().is_some());
    assert!(registry.services("node").is_err() && !is_up());
    let error = registry.register(&node("node-2")).expect_err("is lost");
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    server.restart();
    eventually("the watch goes on", || handle.lost_since().is_none());
    registry.register(&node("node-2")).expect("registers");
    await_list(&mut watch, "one more", |list| {
        ids(list) == ["node-1", "node-2"]
    });
    watch
}
