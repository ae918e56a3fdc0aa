//! The metrics of gates and nodes: what waits in them, how long calls take, how far a drain is.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Code, Hello, NONCE, Request as Asked, Target, VERSION};
use epicycle::cluster::node::{Actor, ActorOptions, ActorRoutes, RouteFlag};
use epicycle::cluster::{Cluster, Error, Kind, Monitor};
use parking_lot::Mutex;
use serde_json::json;

use crate::node::{Dialler, Embedded, ask};
use crate::node_verbs::{PUSHED, Silent, listener, with_login};
use crate::rig::{Link, Wire, packet};
use crate::util::{LONG, eventually};

/// Returns the value of a metric, with its labels but for `id`.
fn value(monitor: &Monitor, id: &str, metric: &str) -> Option<f64> {
    let (name, others) = metric.split_once('{').unwrap_or((metric, "}"));
    let comma = if others == "}" { "" } else { "," };
    let wanted = format!("{name}{{id=\"{id}\"{comma}{others} ");
    let text = monitor.metrics();
    let value = text.lines().find_map(|line| line.strip_prefix(&*wanted));
    value.map(|value| value.parse().expect("is a number"))
}

fn of_node(cluster: &Cluster, metric: &str) -> Option<f64> {
    value(
        cluster.monitor(),
        "node-1",
        &format!("epicycle_node_{metric}"),
    )
}

fn of_gate(cluster: &Cluster, metric: &str) -> Option<f64> {
    value(
        cluster.monitor(),
        "gate-1",
        &format!("epicycle_gate_{metric}"),
    )
}

/// Holds who asks the locator for this kind of server until the sender is dropped.
fn held(cluster: &Cluster, kind: Kind, held: Receiver<()>) -> Silent {
    let held = Mutex::new(held);
    Silent::hooked(cluster.locator(), move |asked| {
        if asked == kind {
            let _ = held.lock().recv_timeout(LONG);
        }
    })
}

struct Idle;

impl Actor for Idle {
    fn routes(_: &mut ActorRoutes<Self>) {}
}

#[test]
fn what_waits_for_the_actors_of_a_stuck_reactor_is_told() {
    let world = Embedded::new(|node| {
        node.route(1, |_, cx| {
            cx.spawn_with(ActorOptions::default().wait(), "room", "red", Idle)?;
            cx.respond("ok")
        })
    });
    assert_eq!(ask(&world.client(), 1, &json!(0)), "ok");
    let blue = world.node.spawn("table", "blue", Idle).expect("has room");
    let (go_on, wait) = channel::<()>();
    let (begun, began) = channel();
    let stuck = blue.invoke(move |_: &mut Idle, _| {
        let _ = begun.send(());
        let _ = wait.recv_timeout(LONG);
        Ok::<(), Error>(())
    });
    stuck.expect("has room");
    began.recv_timeout(LONG).expect("begins");
    let mut waiting = 0;
    while blue.deliver(1, 0, "x").is_ok() {
        waiting += 1;
    }
    assert_eq!(waiting, 4096);
    let told = |metric| of_node(&world.cluster, metric);
    let table = [
        "mailbox_messages{kind=\"table\"}",
        "mailbox_longest{kind=\"table\"}",
    ];
    for metric in table {
        assert_eq!(told(metric), Some(4096.0), "{metric}");
    }
    assert_eq!(told("mailbox_messages{kind=\"room\"}"), Some(0.0));
    assert_eq!(told("messages_refused_total"), Some(1.0));
    assert_eq!(told("actors_awaited"), Some(1.0));
    drop(go_on);
    eventually("they are handled", || told(table[0]) == Some(0.0));
    let (handled, time) = (told("handled_total"), told("handling_seconds_total"));
    assert!(handled >= Some(3.0), "two starts and a call: {handled:?}");
    assert!(time > Some(0.0), "{time:?}");
}

#[test]
fn kinds_of_actors_without_number_are_told_as_one() {
    let world = Embedded::new(|node| node);
    for kind in 0..100 {
        let actor = world.node.spawn(&format!("kind-{kind:02}"), "1", Idle);
        actor.expect("has room");
    }
    let text = world.cluster.monitor().metrics();
    let kinds = text.matches("epicycle_node_mailbox_messages{").count();
    assert_eq!(kinds, 65, "64 and the others");
}

#[test]
fn what_waits_for_the_locator_and_the_calls_to_gates_are_told() {
    let (go_on, wait) = channel();
    let world = Embedded::with(|cluster| {
        let locator = held(cluster, Kind::Gate, wait);
        with_login(cluster.node().locator(locator)).route(7, |_, cx| {
            for n in 0..3 {
                cx.push_to(Target::user(7), PUSHED, &n)?;
            }
            Ok::<(), Error>(())
        })
    });
    let told = |metric| of_node(&world.cluster, metric);
    let (seven, pushes) = listener(&world.gate);
    assert_eq!(told("call_seconds_count"), Some(0.0));
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    assert_eq!(told("call_seconds_count"), Some(1.0));
    assert_eq!(of_gate(&world.cluster, "bind_seconds_count"), Some(1.0));
    seven.push(7, "").expect("is sent");
    eventually("they wait", || told("locating") == Some(3.0));
    drop(go_on);
    for _ in 0..3 {
        pushes.recv_timeout(LONG).expect("comes");
    }
    assert_eq!(told("locating"), Some(0.0));
    // A gate that nobody can reach.
    let mut gate = Dialler::dial(&world.node, Kind::Gate, "gate-9");
    let packet = packet(2, 1, "8");
    let (cid, uid, packet) = (5, 0, &packet);
    gate.send(0, &Asked::Deliver { cid, uid, packet });
    let queue = "link_queue_bytes{peer=\"gate-9\"}";
    eventually("the call waits", || told(queue) > Some(0.0));
    assert_eq!(told("link_queue_bytes{peer=\"gate-1\"}"), Some(0.0));
    eventually("it is given up", || told("calls_failed_total") == Some(1.0));
    assert_eq!(told("call_seconds_count"), Some(1.0));
}

#[test]
fn packets_that_wait_for_the_locator_are_told_by_node_and_gate() {
    let (go_on, wait) = channel();
    let world = Embedded::with(|cluster| {
        let locator = held(cluster, Kind::Node, wait);
        let node = cluster.node().locator(locator);
        with_login(node).route_with(3, RouteFlag::Stateful, |_, cx| cx.respond("ok"))
    });
    let cluster = &world.cluster;
    let mut gate = Dialler::dial(&world.node, Kind::Gate, "gate-9");
    let packet = packet(3, 0, "x");
    for uid in [8, 8, 9] {
        let (cid, packet) = (uid, &packet);
        gate.send(0, &Asked::Deliver { cid, uid, packet });
    }
    eventually("they are held", || of_node(cluster, "held") == Some(3.0));
    assert!(of_node(cluster, "queued_bytes") > Some(0.0));
    drop(go_on);
    eventually("none is held", || of_node(cluster, "held") == Some(0.0));
    assert_eq!(of_node(cluster, "queued_bytes"), Some(0.0));

    let (go_on, wait) = channel();
    let locator = held(cluster, Kind::Node, wait);
    let gate = cluster.gate().id("gate-2").locator(locator);
    let gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let clients = [7, 8].map(|uid| {
        let client = Client::builder().call_timeout(LONG);
        let client = client.connect(gate.client_addrs()[0].to_string());
        let client = client.expect("connects");
        assert_eq!(ask(&client, 2, &json!(uid)), "ok");
        client.push(3, "").expect("is sent");
        client
    });
    let waiting = || value(cluster.monitor(), "gate-2", "epicycle_gate_waiting");
    eventually("both wait", || waiting() == Some(2.0));
    let mut link = Link::dial(gate.link_addr(), "fake-1");
    let (target, force) = (Target::user(7), true);
    let closed = link.call(&Asked::Disconnect { target, force });
    assert_eq!(closed, Code::Done);
    eventually("one has gone", || waiting() == Some(1.0));
    drop(go_on);
    eventually("none waits", || waiting() == Some(0.0));
    drop(clients);
}

#[test]
fn the_stage_of_a_drain_is_told() {
    let (release, released) = channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let world = Embedded::new(|node| {
        with_login(node)
            .route(4, move |_, cx| {
                let released = released.clone();
                cx.spawn_blocking(
                    move || released.lock().recv_timeout(LONG).is_ok(),
                    |_: &mut (), _, _| Ok::<(), Error>(()),
                )
            })
            // Nobody takes the user.
            .on_handover(|_, _| Ok::<(), Error>(()))
    });
    let client = world.client();
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
    assert_eq!(ask(&client, 6, &json!(0)), "ok");
    let mut dialler = Dialler::dial(&world.node, Kind::Gate, "gate-9");
    let (version, features, nonce) = (VERSION, 0, [1; NONCE]);
    dialler.call(&Asked::Hello(Hello {
        version,
        features,
        nonce,
    }));
    client.push(4, "").expect("is sent");
    let cluster = world.cluster.clone();
    let stage = || of_node(&cluster, "drain_stage");
    eventually("it has a job", || of_node(&cluster, "jobs") == Some(1.0));
    assert_eq!(stage(), Some(0.0));
    let node = world.node;
    let draining = thread::spawn(move || node.drain(LONG));
    eventually("jobs are awaited", || stage() == Some(1.0));
    release.send(()).expect("is awaited");
    eventually("users are handed over", || stage() == Some(2.0));
    let packet = packet(4, 0, "x");
    let (cid, uid, packet) = (5, 0, &packet);
    eventually("it has said Bye", || stage() == Some(3.0));
    dialler.send(0, &Asked::Deliver { cid, uid, packet });
    release.send(()).expect("is awaited");
    draining.join().expect("ends");
    assert_eq!(stage(), None, "it is on the list no more");

    let stage = || of_gate(&cluster, "drain_stage");
    // A client that stays after the end of what it reads, and a server of due, which does not know Bye.
    let stays = Wire::connect(&world.gate.client_addrs()[0]);
    let of_due = Link::dial(world.gate.link_addr(), "node-9");
    assert_eq!(stage(), Some(0.0));
    let gate = world.gate;
    let draining = thread::spawn(move || gate.drain(Duration::from_millis(500)));
    for (number, what) in [(1.0, "are to go"), (2.0, "are closed"), (3.0, "are gone")] {
        eventually(what, || stage() == Some(number));
    }
    drop((stays, of_due));
    draining.join().expect("ends");
    assert_eq!(stage(), None, "it is on the list no more");
}
