//! The packets that a node sends and handles while the locator is slow, wrong or out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use epicycle::cluster::drpc::{Code, Request as Asked, Scope, Target};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::RouteFlag;
use epicycle::cluster::{Cluster, Error, Event, Kind};
use parking_lot::Mutex;
use serde_json::json;

use crate::node::{Dialler, Embedded, ask};
use crate::node_verbs::{PUSHED, Silent, listener, next, tell, with_login};
use crate::rig::packet;
use crate::util::{LONG, eventually, expect_panics};

/// Waits until the test lets it go on. It does not wait for ever.
fn hold(held: &Mutex<Receiver<()>>) {
    let _ = held.lock().recv_timeout(LONG);
}

#[test]
fn what_follows_a_push_to_a_user_that_must_be_located_comes_after_it() {
    let (go, held) = channel();
    let held = Mutex::new(held);
    let world = Embedded::with(|cluster| {
        let locator = Silent::hooked(cluster.locator(), move |kind| {
            if kind == Kind::Gate {
                hold(&held);
            }
        });
        with_login(cluster.node().locator(locator)).route(7, |_, cx| {
            let uid = cx.uid();
            cx.push_to(Target::user(uid), PUSHED, &1)?;
            cx.push(PUSHED, &2)?;
            cx.multicast(Scope::User, &[uid], PUSHED, &3)?;
            cx.push(PUSHED, &4)?;
            let conn = Target::conn(cx.cid());
            cx.push_to(conn, PUSHED, &5)?;
            cx.multicast(Scope::Conn, &[conn.id, -1], PUSHED, &6)?;
            cx.kick(conn, false)
        })
    });
    let (seven, pushes) = listener(&world.gate);
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    seven.push(7, "").expect("is sent");
    // A packet that would overtake comes at once.
    let early = pushes.recv_timeout(Duration::from_millis(100));
    go.send(()).expect("is awaited");
    assert!(early.is_err(), "{early:?} came first");
    for n in 1..=6 {
        assert_eq!(next(&pushes), n);
    }
    eventually("it is disconnected", || world.gate.stats().connections == 0);
}

#[test]
fn an_answer_of_the_locator_from_before_a_bind_is_not_used_after_it() {
    let (go, held) = channel();
    let held = Mutex::new(held);
    let is_first = Arc::new(AtomicBool::new(true));
    let asked = is_first.clone();
    let world = Embedded::with(|cluster| {
        let locator = Silent::hooked(cluster.locator(), move |kind| {
            if kind == Kind::Gate && is_first.swap(false, Ordering::Relaxed) {
                hold(&held);
            }
        });
        cluster
            .node()
            .locator(locator)
            .route(7, |_, cx| cx.push_to(Target::user(7), PUSHED, &"too early"))
            .route(2, |_, cx| {
                cx.bind_gate(7, |_: &mut (), cx, bound| {
                    bound?;
                    cx.push_to(Target::user(7), PUSHED, &"in time")?;
                    cx.push(PUSHED, &"after it")
                })
            })
    });
    let (seven, pushes) = listener(&world.gate);
    seven.push(7, "").expect("is sent");
    eventually("the locator has found the user nowhere", || {
        !asked.load(Ordering::Relaxed)
    });
    seven.push(2, "").expect("is sent");
    eventually("the user is bound", || {
        let found = world.cluster.locator().locate_gate(7);
        found.is_ok_and(|found| found.is_some())
    });
    assert!(pushes.recv_timeout(Duration::from_millis(100)).is_err());
    go.send(()).expect("is awaited");
    assert_eq!(next(&pushes), "in time");
    assert_eq!(next(&pushes), "after it");
    assert_eq!(world.node.stats().lost, 1);
}

#[test]
fn a_locator_that_panics_holds_nothing_up() {
    expect_panics();
    let is_first = AtomicBool::new(true);
    let cluster = Cluster::embedded();
    let locator = Silent::hooked(cluster.locator(), move |_| {
        assert!(!is_first.swap(false, Ordering::Relaxed), "on purpose");
    });
    cluster
        .locator()
        .bind_node(7, "node", "node-1")
        .expect("is in memory");
    let node = cluster.node().id("node-1").locator(locator);
    let node = node.route_with(3, RouteFlag::Stateful, |_, _| Ok::<(), Error>(()));
    let node = node.start().expect("starts");
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-1");
    let packet = packet(3, 5, "x");
    assert_eq!(gate.deliver(7, &packet), Code::Failed);
    assert_eq!(gate.deliver(7, &packet), Code::Done);
}

#[test]
fn a_lost_gates_connections_end_behind_their_packets() {
    let (go, held) = channel();
    let held = Mutex::new(held);
    let cluster = Cluster::embedded();
    let locator = Silent::hooked(cluster.locator(), move |_| hold(&held));
    cluster
        .locator()
        .bind_node(7, "node", "node-1")
        .expect("is in memory");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (of_packets, of_ends, of_gates) = (seen.clone(), seen.clone(), seen.clone());
    let node = cluster
        .node()
        .id("node-1")
        .locator(locator)
        .route_with(3, RouteFlag::Stateful, move |(), _| {
            of_packets.lock().push("packet");
            Ok::<(), Error>(())
        })
        .event(Event::Disconnect, move |(), _| {
            of_ends.lock().push("end");
            Ok::<(), Error>(())
        })
        .on_gate_lost(move |(), _| {
            of_gates.lock().push("gate");
            Ok::<(), Error>(())
        })
        .start()
        .expect("starts");
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    let packet = packet(3, 5, "x");
    let (cid, uid) = (1, 7);
    let packet = &packet;
    gate.send(0, &Asked::Deliver { cid, uid, packet });
    eventually("it is there", || node.stats().packets_in == 1);
    drop(gate);
    eventually("the gate is lost", || !seen.lock().is_empty());
    // A change of the registry has all gates looked at again.
    let other = cluster.gate().listen("tcp://127.0.0.1:0").start();
    drop(other.expect("starts"));
    go.send(()).expect("is awaited");
    eventually("all is told", || seen.lock().contains(&"end"));
    assert_eq!(*seen.lock(), ["gate", "packet", "end"]);
}

#[test]
fn a_drain_hands_nobody_over_who_went_elsewhere_while_changes_were_missed() {
    let cluster = Cluster::embedded();
    let locator = Silent::new(cluster.locator(), Duration::ZERO);
    let handed = Arc::new(Mutex::new(Vec::new()));
    let log = handed.clone();
    let node = cluster.node().id("node-1").locator(locator.clone());
    let node = with_login(node)
        .route(9, |_, cx| {
            let uid = cx.parse()?;
            cx.bind_node(uid, |_: &mut (), cx, bound| tell(cx, bound))
        })
        .on_handover(move |(), cx| {
            log.lock().push(cx.uid());
            Ok::<(), Error>(())
        })
        .start()
        .expect("starts");
    let gate = cluster.gate().listen("tcp://127.0.0.1:0");
    let gate = gate.start().expect("starts");
    let (client, _) = listener(&gate);
    for uid in [7, 8] {
        assert_eq!(ask(&client, 9, &json!(uid)), "ok");
    }
    let other = cluster
        .node()
        .id("node-2")
        .name("other")
        .start()
        .expect("starts");
    cluster
        .locator()
        .bind_node(8, "node", "node-2")
        .expect("is in memory");
    locator.interrupt();
    // The watch tells it on a thread.
    eventually("it was told", || {
        node.later().run(|_| Ok::<(), Error>(())).expect("has room");
        std::thread::sleep(Duration::from_millis(20));
        true
    });
    node.drain(Duration::from_secs(5));
    assert_eq!(*handed.lock(), [7]);
    let located = |uid| {
        cluster
            .locator()
            .locate_node(uid, "node")
            .expect("is in memory")
    };
    assert_eq!((located(7), located(8).as_deref()), (None, Some("node-2")));
    drop((other, gate));
}
