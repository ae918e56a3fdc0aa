//! The end of a node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Hello, NONCE, Op, RejectReason, Request as Asked, VERSION};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::{Node, RouteFlag, Stage};
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Cluster, Error, Kind, State};
use log::Level;
use parking_lot::Mutex;
use serde_json::json;

use crate::node::{Dialler, Embedded, ask};
use crate::node_verbs::{Silent, with_login};
use crate::rig::{frame_of, packet};
use crate::util::logs::logs;
use crate::util::{LONG, eventually};

/// The counts of the users of a node.
type Counts = HashMap<i64, u64>;

/// The route by which a node gives a user to another.
const TAKE: i32 = 20;

/// Starts a node that counts the requests of each user, and gives its users to another node when it stops.
fn counting_node(cluster: &Cluster, id: &str, reactors: usize) -> Node {
    let registry = cluster.registry().clone();
    let node = cluster.node().id(id).reactors(reactors);
    with_login(node.state(|_| Counts::new()))
        .route(1, |_, cx| cx.respond(&json!({})))
        .route_with(3, RouteFlag::Stateful, |counts: &mut Counts, cx| {
            let count = counts.entry(cx.uid()).or_default();
            *count += 1;
            cx.respond(count)
        })
        .route_with(TAKE, RouteFlag::Internal, |counts: &mut Counts, cx| {
            counts.insert(cx.uid(), cx.parse()?);
            cx.bind_node(cx.uid(), |_: &mut Counts, _, bound| bound)
        })
        .on_handover(move |counts: &mut Counts, cx| {
            let nodes = registry.services("node")?;
            let (uid, count) = (cx.uid(), counts.remove(&cx.uid()).unwrap_or_default());
            // This node may not have been told of the newest one yet.
            let mut others = nodes.iter().filter(|node| node.state == State::Work);
            let taken = others.any(|other| cx.deliver_to(&other.id, TAKE, uid, &count).is_ok());
            assert!(taken, "another one is in work");
            Ok::<(), Error>(())
        })
        .start()
        .expect("starts")
}

#[test]
fn all_nodes_are_replaced_under_load_and_each_request_is_answered_once() {
    let cluster = Cluster::embedded();
    let mut nodes: Vec<Node> = ["a-1", "b-1", "c-1"]
        .into_iter()
        .map(|id| counting_node(&cluster, id, 2))
        .collect();
    let gates: Vec<_> = (0..2)
        .map(|_| {
            let gate = cluster.gate().listen("tcp://127.0.0.1:0");
            gate.start().expect("starts")
        })
        .collect();
    let has_ended = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (1..=12_i64)
        .map(|uid| {
            let gate = &gates[uid as usize % gates.len()];
            let client = Client::builder().call_timeout(LONG);
            let client = client.connect(gate.client_addrs()[0].to_string());
            let client = client.expect("connects");
            assert_eq!(ask(&client, 2, &json!(uid)), "ok");
            assert_eq!(ask(&client, 6, &json!(0)), "ok");
            eventually("the gate knows the user's node", || {
                let locator = cluster.locator();
                let located = locator.locate_node(uid, "node").expect("is in memory");
                located.is_some()
            });
            let (has_ended, answered) = (has_ended.clone(), answered.clone());
            thread::spawn(move || {
                // The gate may know it a moment after the node.
                let mut count = 0;
                while count == 0 {
                    let (answer, answers) = mpsc::channel();
                    let asked = client.request_then(3, "", move |_, reply| {
                        let _ = answer.send(reply.map(<[u8]>::to_vec));
                    });
                    asked.expect("is sent");
                    if answers.recv_timeout(Duration::from_millis(500)).is_ok() {
                        count = 1;
                    }
                }
                while !has_ended.load(Ordering::Acquire) {
                    count += 1;
                    assert_eq!(ask(&client, 3, &json!(0)), count, "of user {uid}");
                    assert_eq!(ask(&client, 1, &json!(0)), json!({}));
                    answered.fetch_add(2, Ordering::AcqRel);
                }
            })
        })
        .collect();
    let progress = || {
        let before = answered.load(Ordering::Acquire);
        eventually("requests are answered", || {
            clients.iter().any(thread::JoinHandle::is_finished)
                || answered.load(Ordering::Acquire) > before + 100
        });
    };
    progress();
    for at in 0..3 {
        let id = format!("{}-2", ["a", "b", "c"][at]);
        let new = counting_node(&cluster, &id, 2);
        let old = std::mem::replace(&mut nodes[at], new);
        old.drain(Duration::from_secs(10));
        progress();
    }
    has_ended.store(true, Ordering::Release);
    for client in clients {
        client.join().expect("each request is answered once");
    }
    let nodes = cluster.registry().services("node").expect("is in memory");
    assert_eq!(nodes.len(), 3);
}

#[test]
fn a_drain_waits_for_jobs_and_timers_serves_meanwhile_and_calls_the_hooks() {
    let logs = logs();
    let stages = Arc::new(Mutex::new(Vec::new()));
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(Some(released));
    let world = Embedded::new(|node| {
        let mut node = node
            .route_with(3, RouteFlag::Stateful, |_, cx| cx.respond("served"))
            .route(4, move |_, cx| {
                let released = released.lock().take();
                cx.after(
                    Duration::from_millis(1),
                    |_: &mut (), _| Ok::<(), Error>(()),
                )?;
                cx.spawn_blocking(
                    move || released.is_some_and(|released| released.recv().is_ok()),
                    |_: &mut (), cx, was_released| {
                        // What comes of it is waited for as well.
                        cx.after(Duration::from_millis(50), move |_: &mut (), cx| {
                            cx.respond(&was_released)
                        })
                    },
                )
            });
        for stage in [Stage::Destroy, Stage::Start, Stage::Close, Stage::Init] {
            let stages = stages.clone();
            node = node.hook(stage, move || stages.lock().push(stage));
        }
        with_login(node)
    });
    assert_eq!(*stages.lock(), [Stage::Init, Stage::Start]);
    let client = world.client();
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
    assert_eq!(ask(&client, 6, &json!(0)), "ok");
    let (answer, answers) = mpsc::channel();
    let asked = client.request_then(4, "", move |_, reply| {
        let _ = answer.send(reply.map(<[u8]>::to_vec));
    });
    asked.expect("is sent");
    eventually("the gate knows the user's node", || {
        client
            .request(3, "")
            .is_ok_and(|answer| answer == "\"served\"")
    });
    let Embedded {
        cluster,
        gate,
        node,
    } = world;
    let draining = thread::spawn(move || node.drain(LONG));
    let state = || {
        let nodes = cluster.registry().services("node").expect("is in memory");
        nodes.first().map(|node| node.state)
    };
    eventually("it hangs", || state() == Some(State::Hang));
    assert_eq!(ask(&client, 3, &json!(0)), "served");
    assert!(!draining.is_finished());
    release.send(()).expect("is awaited");
    let answer = answers.recv_timeout(LONG).expect("comes");
    assert_eq!(answer.expect("is an answer"), b"true");
    draining.join().expect("ends");
    assert_eq!(state(), None);
    assert_eq!(stages.lock()[2..], [Stage::Close, Stage::Destroy]);
    // Nobody has taken the user.
    let line = "the node node-1 stops, and nobody has taken 1 of its users";
    assert!(logs.have(Level::Warn, &[line]));
    let located = cluster.locator().locate_node(7, "node");
    assert_eq!(located.expect("is in memory"), None);
    drop(gate);
}

#[test]
fn a_ping_is_answered_behind_what_came_before_it() {
    let cluster = Cluster::embedded();
    let silent = Silent::new(cluster.locator(), Duration::from_millis(50));
    let node = cluster.node().reactors(3).locator(silent);
    let node = node.route_with(3, RouteFlag::Stateful, |_, _| Ok::<(), Error>(()));
    let node = node.start().expect("starts");
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-1");
    let (version, features, nonce) = (VERSION, 0, [1; NONCE]);
    let hello = Hello {
        version,
        features,
        nonce,
    };
    gate.call(&Asked::Hello(hello));
    let packet = packet(3, 5, "x");
    let mut ops = Vec::new();
    for round in 0..2 {
        // The first ones must be located. Later ones are known to be elsewhere.
        for uid in 1..=4 {
            let cid = uid;
            let packet = &packet;
            gate.send(0, &Asked::Deliver { cid, uid, packet });
        }
        gate.send(100 + round, &Asked::Ping);
    }
    for _ in 0..10 {
        let mut frame = gate.wire.next().expect("is open");
        let frame = frame_of(&mut frame).expect("is no heartbeat");
        if let Ok(Asked::Reject { route, reason, .. }) = Asked::decode(&frame) {
            assert_eq!((route, reason), (3, RejectReason::Moved));
        }
        ops.push(frame.op);
    }
    let (reject, ping) = (Op::Reject.code(), Op::Ping.code());
    assert_eq!(ops.iter().filter(|op| **op == reject).count(), 8);
    let first = ops.iter().position(|op| *op == ping).expect("is answered");
    assert!(first >= 4, "{ops:?}");
    assert_eq!(ops.last(), Some(&ping), "{ops:?}");
}
