//! The end of gates and of nodes, in stages.

use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use epicycle::Addr;
use epicycle::cluster::State;
use epicycle::cluster::drpc::{Code, RejectReason, Request, Scope, Targets};
use epicycle::cluster::gate::{GateBuilder, RefusedPacket};
use epicycle::cluster::locator::{Locator, MemoryLocator};
use epicycle::cluster::registry::{MemoryRegistry, Registry};

use crate::gate::{World, routes};
use crate::rig::{Link, Node, Told, Wire, conn, packet};
use crate::util::{LONG, eventually};

/// A control packet of a later version, with which a client tells that it knows control packets.
const CONTROL: &[u8] = b"\0\0\0\x05\x01\0\x63\0\0";
/// Goodbye: about to stop, again at once.
const GOODBYE: &[u8] = b"\0\0\0\x0a\x01\0\x04\0\0\x01\0\0\0\0";
const BYE: &[u8] = b"\0\0\0\x0a\0\x22\0\0\0\0\0\0\0\0";
const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";

/// A gate that drains on another thread.
struct Draining {
    node: Node,
    registry: MemoryRegistry,
    locator: MemoryLocator,
    addr: Addr,
    end: JoinHandle<()>,
}

impl Draining {
    fn begin(world: World, deadline: Duration) -> Self {
        let World {
            gate,
            node,
            registry,
            locator,
        } = world;
        let addr = gate.client_addrs()[0].clone();
        let end = thread::spawn(move || gate.drain(deadline));
        let this = Self {
            node,
            registry,
            locator,
            addr,
            end,
        };
        eventually("it hangs", || this.states() == [State::Hang]);
        this
    }

    fn states(&self) -> Vec<State> {
        let gates = self.registry.services("gate").expect("is in memory");
        gates.iter().map(|gate| gate.state).collect()
    }

    fn end(self) {
        self.end.join().expect("ends");
        assert!(
            self.registry
                .services("gate")
                .expect("is in memory")
                .is_empty()
        );
    }
}

fn open(client: &mut Wire) {
    client.send(CONTROL);
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
}

#[test]
fn a_gate_that_drains_takes_no_new_clients_serves_the_others_until_they_go_and_ends_then() {
    let world = World::with(|gate| gate.reactors(2));
    let mut link = Link::dial_extended(world.gate.link_addr(), "fake-1");
    let mut clients: Vec<_> = (0..4)
        .map(|n| world.known_client(&format!("client {n}")))
        .collect();
    for (client, _) in &mut clients {
        open(client);
    }
    let draining = Draining::begin(world, LONG);
    eventually("nobody is accepted", || {
        let addr = draining.addr.as_socket_addr().expect("is an IP address");
        TcpStream::connect(addr).is_err()
    });
    let push = packet(100, 0, "push");
    for (n, (client, cid)) in clients.iter_mut().enumerate() {
        client.expect(GOODBYE);
        client.send(packet(1, 2, &format!("late {n}")));
        draining.node.await_packet(&format!("late {n}"));
        let target = conn(*cid);
        let push = Request::Push {
            target,
            disconnect: false,
            packet: &push,
        };
        assert_eq!(link.call(&push), Code::Done);
    }
    for (client, _) in &mut clients {
        client.expect(&push);
    }
    assert_eq!(draining.states(), [State::Hang]);
    drop(clients);
    link.wire.expect(BYE);
    assert!(link.wire.is_over());
    draining.end();
}

#[test]
fn clients_that_are_left_at_the_deadline_are_closed_and_all_is_told_before_the_end() {
    let world = World::new();
    let mut link = Link::dial_extended(world.gate.link_addr(), "fake-1");
    let (mut client, cid) = world.known_client("stays");
    assert_eq!(link.bind(cid, 7), Code::Done);
    let draining = Draining::begin(world, Duration::from_millis(100));
    // It has never sent a control packet.
    assert!(client.is_over());
    link.wire.expect(BYE);
    let gone = Told::Event {
        event: 3,
        cid,
        uid: 7,
    };
    eventually("its end is told", || draining.node.told().contains(&gone));
    let locator = draining.locator.clone();
    draining.end();
    assert_eq!(locator.locate_gate(7).expect("is in memory"), None);
}

#[test]
fn a_client_that_shows_that_it_speaks_control_packets_during_a_drain_is_told_then() {
    let world = World::new();
    let (mut client, _) = world.known_client("a");
    let draining = Draining::begin(world, LONG);
    client.send(CONTROL);
    client.expect(GOODBYE);
    client.send(CONTROL);
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
    drop(client);
    draining.end();
}

#[test]
fn a_node_of_due_is_served_for_a_while_after_the_last_client_has_gone() {
    let world = World::new();
    let mut link = world.link();
    let draining = Draining::begin(world, LONG);
    // It knows no Bye, and asks on.
    for _ in 0..100 {
        assert_eq!(link.total(&Request::Stat { scope: Scope::Conn }), 0);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!draining.end.is_finished(), "it has 2 seconds");
    let multicast = Request::Multicast {
        scope: Scope::Conn,
        targets: Targets::from(&[1, 2]),
        disconnect: false,
        packet: &packet(100, 0, "x"),
    };
    assert_eq!(link.total(&multicast), 0);
    drop(link);
    draining.end();
}

#[test]
fn the_times_at_which_clients_shall_come_again_are_spread() {
    let world = World::with(|gate: GateBuilder| gate.retry_within(Duration::from_secs(1000)));
    let mut clients: Vec<_> = (0..20)
        .map(|n| world.known_client(&n.to_string()))
        .collect();
    for (client, _) in &mut clients {
        open(client);
    }
    let draining = Draining::begin(world, LONG);
    let told = clients.iter_mut().map(|(client, _)| {
        let goodbye = client.next().expect("is told");
        assert_eq!(goodbye[..10], GOODBYE[..10]);
        u32::from_be_bytes(goodbye[10..].try_into().expect("has 4 bytes"))
    });
    let mut told: Vec<u32> = told.collect();
    told.sort_unstable();
    told.dedup();
    assert!(told.len() > 10 && told.iter().all(|ms| *ms <= 1_000_000));
    drop(clients);
    draining.end();
}

#[test]
fn a_node_that_has_said_bye_gets_nothing_more_and_its_users_are_waited_for_where_they_go() {
    let world = World::around(Node::start_extended("node-1", routes()), |gate| gate);
    let second = Node::start_extended("node-2", Vec::new());
    world.registry.register(&second.instance).expect("is sound");
    second.await_link();
    let (mut client, cid) = world.known_client("me");
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    let bind = |nid| world.locator.bind_node(7, "node", nid);
    bind("node-1").expect("is in memory");
    client.send(packet(3, 1, "before"));
    world.node.await_packet("before");
    // Whatever comes late is rejected.
    *world.node.manner.rejects.lock() = Some((3, RejectReason::Draining));
    world.node.notify(&Request::Bye);
    for n in 0..10 {
        client.send(packet(3, 2, &n.to_string()));
    }
    client.send(packet(1, 2, "stateless"));
    bind("node-2").expect("is in memory");
    second.await_packet("9");
    let sent: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(second.packets(cid), sent);
    assert_eq!(world.node.packets(cid), ["me", "before"]);
}

#[test]
fn packets_of_stateless_routes_go_past_a_node_that_has_said_bye_and_is_still_registered() {
    let world = World::around(Node::start_extended("node-1", routes()), |gate| gate);
    // While there is one node only, which is to know it.
    let (mut client, cid) = world.known_client("me");
    let second = Node::start_extended("node-2", routes());
    world.registry.register(&second.instance).expect("is sound");
    second.await_link();
    world.node.notify(&Request::Bye);
    let mut batch = 0;
    eventually("the first one gets nothing more", || {
        batch += 1;
        let before = world.node.packets(cid).len();
        for n in 0..20 {
            client.send(packet(1, 0, &format!("{batch}/{n}")));
        }
        // The last of a batch that arrives, wherever that is.
        client.send(packet(1, 0, &format!("{batch}/end")));
        let end = format!("{batch}/end");
        eventually("the batch has arrived", || {
            [&world.node, &second]
                .iter()
                .any(|node| node.packets(cid).contains(&end))
        });
        world.node.packets(cid).len() == before
    });
    let of_batch = |packet: &String| packet.starts_with(&format!("{batch}/"));
    let arrived = second.packets(cid);
    assert_eq!(arrived.iter().filter(|packet| of_batch(packet)).count(), 21);
    assert_eq!(world.gate.stats().refused[RefusedPacket::Busy], 0);
}
