//! A gate between clients that send too much and nodes that take too little.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::Secret;
use epicycle::cluster::gate::{Gate, HeartbeatMode, OverRate, RateLimit, RefusedPacket};
use epicycle::cluster::link::LaneOptions;
use epicycle::cluster::registry::{Instance, Registry, RouteSpec};
use epicycle::cluster::{Cluster, Kind};
use parking_lot::Mutex;

use crate::gate::{World, routes};
use crate::rig::{Node, packet};
use crate::util::eventually;

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";
const ECHO: i32 = 1;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes()).expect("is long enough")
}

fn node(cluster: &Cluster, id: &str, text: &str) -> epicycle::cluster::node::Node {
    let node = cluster.node().id(id).secret(secret(text));
    let node = node.route(ECHO, |_, cx| {
        let text: String = cx.parse()?;
        cx.respond(&text)
    });
    node.start().expect("starts")
}

/// A client whose requests do not wait for long.
fn client(gate: &Gate) -> Client {
    let patience = Duration::from_millis(500);
    let client = Client::builder().call_timeout(patience);
    let client = client.connect(gate.client_addrs()[0].to_string());
    client.expect("connects")
}

fn echoes(client: &Client) -> bool {
    client.request(ECHO, r#""hi""#).is_ok()
}

#[test]
fn a_node_with_another_secret_gets_no_packets_and_costs_none() {
    let cluster = Cluster::embedded();
    let stranger = node(&cluster, "node-1", "the secret of another cluster");
    let gate = cluster.gate().secret(secret("the secret of this cluster"));
    let gate = gate.on_refused(|_, reason| Some(format!("{reason:?}").into_bytes()));
    let gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let client = client(&gate);
    // Nobody else has the route, and whoever asks is told.
    eventually("the link is refused", || {
        client
            .request(ECHO, r#""hi""#)
            .is_ok_and(|reply| reply == "Unreachable")
    });
    assert!(gate.stats().refused[RefusedPacket::Unreachable] > 0);
    let _node = node(&cluster, "node-2", "the secret of this cluster");
    let is_served = || {
        client
            .request(ECHO, r#""hi""#)
            .is_ok_and(|reply| reply == r#""hi""#)
    };
    eventually("the other one takes them", is_served);
    for _ in 0..100 {
        assert!(is_served());
    }
    assert_eq!(stranger.stats().packets_in, 0);
}

#[test]
fn a_node_that_cannot_be_reached_is_passed_over_if_there_is_another_one() {
    let cluster = Cluster::embedded();
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = closed.local_addr().expect("is bound");
    drop(closed);
    let mut dead = Instance::new(Kind::Node, "node-1", format!("drpc://{addr}"));
    dead.alias = "node".to_owned();
    dead.routes = vec![RouteSpec::new(ECHO)];
    cluster.registry().register(&dead).expect("has room");
    let text = "the secret of this cluster";
    let node = node(&cluster, "node-2", text);
    let gate = cluster.gate().secret(secret(text));
    let gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let client = client(&gate);
    eventually("it is known", || (0..10).all(|_| echoes(&client)));
    let before = gate.stats();
    for _ in 0..100 {
        assert!(echoes(&client));
    }
    // It is asked again when there is nobody else.
    drop(node);
    let delivered = || gate.stats().delivered - before.delivered;
    eventually("packets wait for it", || {
        let sent = delivered();
        let _ = echoes(&client);
        delivered() > sent
    });
}

#[test]
fn everything_that_a_client_sends_counts_for_its_rate_and_its_bytes() {
    let floods: [(u32, u32, Vec<u8>); 4] = [
        (20, 0, HEARTBEAT.repeat(100)),
        (20, 0, vec![0; 4 * 60]),
        // Whatever follows in a heartbeat is ignored, but it is there.
        (
            0,
            10_000,
            [&b"\0\0\x0f\xa1\x80"[..], &[0; 4000]].concat().repeat(20),
        ),
        // A control packet that nobody knows.
        (
            0,
            10_000,
            [&b"\0\0\x0f\xa5\x01\0\x63\0\0"[..], &[0; 4000]]
                .concat()
                .repeat(20),
        ),
    ];
    for (packets, bytes, flood) in floods {
        let rate = RateLimit::per_second(packets, bytes).policy(OverRate::Close);
        let world = World::with(|gate| gate.rate_limit(rate));
        let mut client = world.client();
        client.send(&flood);
        assert!(client.is_over());
        assert_eq!(world.gate.stats().refused[RefusedPacket::Rate], 1);
    }
}

#[test]
fn a_client_whose_heartbeats_are_unread_is_not_taken_for_silent() {
    let (sender, receiver) = channel::<()>();
    let receiver = Mutex::new(receiver);
    let interval = Duration::from_millis(500);
    let world = World::with(|gate| {
        let gate = gate.reactors(1).heartbeat(HeartbeatMode::Respond, interval);
        gate.on_refused(move |_, _| {
            let _ = receiver.lock().recv();
            None
        })
    });
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = world.client();
        client.send(HEARTBEAT);
        client.expect(HEARTBEAT);
        clients.push(client);
    }
    // The gate is kept busy for much longer than it waits for heartbeats.
    let mut busy = world.client();
    busy.send(packet(999, 1, ""));
    for _ in 0..8 {
        thread::sleep(interval / 2);
        clients.iter_mut().for_each(|client| client.send(HEARTBEAT));
    }
    sender.send(()).expect("it waits");
    for client in &mut clients {
        for _ in 0..8 {
            client.expect(HEARTBEAT);
        }
    }
}

#[test]
fn a_client_that_floods_a_slow_node_leaves_room_for_the_others() {
    let mut lanes = LaneOptions::default();
    lanes.max_backlog = 1 << 20;
    let node = Node::start_extended("node-1", routes());
    let world = World::around(node, |gate| gate.reactors(1).lanes(lanes));
    let (mut other, cid) = world.known_client("other");
    let (mut flooding, flooder) = world.known_client("flooder");
    world.node.manner.sleeps.store(true, Ordering::Release);
    let count = 6000;
    let flood = thread::spawn(move || {
        let text = "x".repeat(4900);
        for n in 0..count {
            flooding.send(packet(1, n, &text));
        }
        flooding
    });
    eventually("the flood is held up", || world.gate.stats().held_up > 3);
    for n in 0..100 {
        other.send(packet(1, n, &n.to_string()));
    }
    let passed = || world.gate.stats().packets_in;
    let before = passed();
    eventually("the gate has read the others", || {
        let last = packet(999, 1, "");
        other.send(last);
        passed() > before + 100
    });
    world.node.manner.sleeps.store(false, Ordering::Release);
    let flooding = flood.join().expect("sends all");
    world.node.await_packet("99");
    let all = || world.node.packets(flooder).len() == count as usize + 1;
    eventually("all of the flood comes", all);
    assert_eq!(world.node.packets(cid).len(), 101);
    assert_eq!(world.gate.stats().refused[RefusedPacket::Busy], 0);
    drop(flooding);
}

#[test]
fn a_node_that_hangs_keeps_nobody_from_the_others() {
    let mut lanes = LaneOptions::default();
    lanes.max_backlog = 1 << 20;
    let hanging = Node::start_extended("node-1", vec![RouteSpec::new(1)]);
    let world = World::around(hanging, |gate| gate.reactors(1).lanes(lanes));
    let lively = Node::start_extended("node-2", vec![RouteSpec::new(20)]);
    let mut instance = lively.instance.clone();
    instance.alias = "lively".to_owned();
    world.registry.register(&instance).expect("has room");
    lively.await_link();
    let mut client = world.client();
    world.node.manner.sleeps.store(true, Ordering::Release);
    let text = "x".repeat(4900);
    eventually("its link is full", || {
        for n in 0..100 {
            client.send(packet(1, n, &text));
        }
        client.send(packet(20, 1, "through"));
        world.gate.stats().held_up > 2
    });
    client.send(packet(20, 2, "the last"));
    lively.await_packet("the last");
    world.node.manner.sleeps.store(false, Ordering::Release);
}
