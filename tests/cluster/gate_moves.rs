//! Users that move from one node to another, and packets that nodes reject.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use epicycle::cluster::drpc::{Code, RejectReason};
use epicycle::cluster::gate::{GateBuilder, RefusedPacket};
use epicycle::cluster::locator::{LocationEvent, Locator};
use epicycle::cluster::registry::{Registry, RouteSpec};

use crate::gate::{World, routes};
use crate::gate_users::Faulty;
use crate::rig::{Node, Wire, packet};
use crate::util::eventually;

const USER: i64 = 7;

/// A gate with two nodes that know the extensions, and a client whose user is at the first.
struct Move {
    world: World,
    second: Node,
    client: Wire,
    cid: i64,
}

impl Move {
    fn new() -> Self {
        Self::with(|gate| gate)
    }

    fn with(options: impl FnOnce(GateBuilder) -> GateBuilder) -> Self {
        let world = World::around(Node::start_extended("node-1", routes()), options);
        let second = Node::start_extended("node-2", Vec::new());
        world.registry.register(&second.instance).expect("is sound");
        second.await_link();
        let (client, cid) = world.known_client("me");
        assert_eq!(world.link().bind(cid, USER), Code::Done);
        let this = Self {
            world,
            second,
            client,
            cid,
        };
        this.bind("node-1");
        this
    }

    fn bind(&self, nid: &str) {
        let bound = self.world.locator.bind_node(USER, "node", nid);
        bound.expect("is in memory");
    }

    fn reject(&self, route: i32, reason: RejectReason) {
        *self.world.node.manner.rejects.lock() = Some((route, reason));
    }

    /// Sends packets with these numbers.
    fn send(&mut self, numbers: impl Iterator<Item = usize>) {
        for n in numbers {
            self.client.send(packet(3, n as i32 + 1, &n.to_string()));
        }
    }

    /// Returns the numbers of the packets that a node has taken.
    fn taken(&self, node: &Node) -> Vec<usize> {
        let packets = node.packets(self.cid);
        let numbers = packets.iter().filter_map(|data| data.parse().ok());
        numbers.collect()
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<usize> {
    range.collect()
}

#[test]
fn packets_that_come_too_late_follow_their_user_in_order_and_none_is_taken_twice() {
    let mut m = Move::new();
    m.send(0..10);
    eventually("they are taken", || m.taken(&m.world.node).len() == 10);
    // The user moves, and the gate has not heard of it when the next packets come.
    m.world.node.manner.sleeps.store(true, Ordering::Release);
    m.send(10..60);
    eventually("they are on their way", || {
        m.world.gate.stats().delivered > 60
    });
    m.reject(3, RejectReason::Moved);
    m.bind("node-2");
    m.send(60..70);
    m.world.node.manner.sleeps.store(false, Ordering::Release);
    m.send(70..100);
    eventually("all are taken", || m.taken(&m.second).len() == 90);
    assert_eq!(m.taken(&m.world.node), numbers(0..10));
    assert_eq!(m.taken(&m.second), numbers(10..100));
    let stats = m.world.gate.stats();
    // At least those that were on their way when the user moved.
    assert!(stats.rejected >= 50, "{}", stats.rejected);
    assert_eq!(stats.rejected, stats.redelivered);
    assert_eq!(stats.refused.iter().map(|(_, n)| *n).sum::<u64>(), 0);
    eventually("nothing is kept", || m.world.gate.stats().kept_bytes == 0);
}

#[test]
fn packets_for_the_new_node_wait_until_the_old_one_has_taken_those_before() {
    let mut m = Move::new();
    let (mut other, cid) = m.world.known_client("other");
    assert_eq!(m.world.link().bind(cid, 8), Code::Done);
    let bound = m.world.locator.bind_node(8, "node", "node-2");
    bound.expect("is in memory");
    m.world.node.manner.sleeps.store(true, Ordering::Release);
    m.send(0..5);
    let stats = || m.world.gate.stats();
    eventually("they are on their way", || stats().delivered == 5 + 2);
    m.bind("node-2");
    let mut sent = 5;
    while stats().delivered == sent as u64 + 2 {
        let read = stats().packets_in;
        m.client.send(packet(3, sent as i32 + 1, &sent.to_string()));
        sent += 1;
        eventually("it is read", || stats().packets_in > read);
        other.send(b"\0\0\0\x01\x80");
        other.expect(b"\0\0\0\x01\x80");
    }
    // Others go on meanwhile, and would come after what does not wait.
    other.send(packet(3, 1, "passes"));
    m.second.await_packet("passes");
    assert!(m.taken(&m.second).is_empty());
    m.world.node.manner.sleeps.store(false, Ordering::Release);
    m.send(sent..sent + 5);
    eventually("all are taken", || m.taken(&m.second).len() == 6);
    assert_eq!(m.taken(&m.world.node), numbers(0..sent - 1));
    assert_eq!(m.taken(&m.second), numbers(sent - 1..sent + 5));
}

#[test]
fn a_packet_is_tried_again_while_the_locator_does_not_know_of_the_move() {
    let mut m = Move::new();
    m.reject(3, RejectReason::Moved);
    m.send(0..3);
    // Each try counts.
    eventually("they are rejected", || m.world.gate.stats().rejected >= 3);
    m.bind("node-2");
    eventually("they are taken", || m.taken(&m.second) == numbers(0..3));
}

#[test]
fn a_packet_whose_user_has_left_for_nowhere_is_refused() {
    let mut m = Move::with(|gate| {
        gate.on_refused(|packet, reason| {
            let text = format!("{}: {reason:?}", String::from_utf8_lossy(packet.data));
            Some(text.into_bytes())
        })
    });
    m.reject(3, RejectReason::Moved);
    let unbound = m.world.locator.unbind_node(USER, "node", "node-1");
    m.world.node.manner.sleeps.store(true, Ordering::Release);
    m.bind("node-1");
    m.send(0..1);
    eventually("it is on its way", || m.world.gate.stats().delivered > 1);
    assert!(unbound.expect("is in memory"));
    let unbound = m.world.locator.unbind_node(USER, "node", "node-1");
    assert!(unbound.expect("is in memory"));
    m.world.node.manner.sleeps.store(false, Ordering::Release);
    m.client.expect(packet(3, 1, "0: NotLocated"));
    // One that the locator leaves where it is not taken is refused, too.
    m.bind("node-1");
    m.send(1..2);
    m.client.expect(packet(3, 2, "1: NotLocated"));
    let refused = m.world.gate.stats().refused;
    assert_eq!(refused[RefusedPacket::NotLocated], 2);
}

#[test]
fn a_packet_that_a_node_does_not_take_is_counted_and_may_be_answered() {
    for (reason, told) in [
        (RejectReason::UnknownRoute, "UnknownRoute"),
        (RejectReason::Overload, "Busy"),
        (RejectReason::Draining, "Busy"),
    ] {
        let mut m = Move::with(|gate| {
            gate.on_refused(|_, reason| Some(format!("{reason:?}").into_bytes()))
        });
        m.reject(1, reason);
        m.client.send(packet(1, 9, "x"));
        m.client.expect(packet(1, 9, told));
        assert_eq!(m.world.gate.stats().rejected, 1);
    }
}

#[test]
fn what_a_node_rejects_of_a_client_that_is_gone_is_only_counted() {
    let mut m = Move::new();
    m.reject(3, RejectReason::Moved);
    m.world.node.manner.sleeps.store(true, Ordering::Release);
    m.send(0..3);
    eventually("they are on their way", || {
        m.world.gate.stats().delivered > 3
    });
    let Move { world, client, .. } = m;
    drop(client);
    eventually("it is gone", || world.gate.stats().connections == 0);
    world.node.manner.sleeps.store(false, Ordering::Release);
    eventually("they are rejected", || world.gate.stats().rejected == 3);
    let (_other, _) = world.known_client("others are served");
}

/// A gate with a third node, and a locator whose answers and changes are told when the test wants it.
struct Three {
    m: Move,
    third: Node,
    locator: Faulty,
}

impl Three {
    fn new(mut third: Node, alias: &str) -> Self {
        let locator = Faulty {
            watches: Some(Arc::default()),
            ..Faulty::default()
        };
        let m = Move::with(|gate| gate.locator(locator.clone()));
        third.instance.alias = alias.to_owned();
        m.world
            .registry
            .register(&third.instance)
            .expect("is sound");
        third.await_link();
        let this = Self { m, third, locator };
        this.bind("node", "node-1");
        this
    }

    /// Moves the user. Returns when the gate has heard of it.
    fn bind(&self, alias: &str, nid: &str) {
        let bound = self.locator.inner.bind_node(USER, alias, nid);
        bound.expect("is in memory");
        let change = || LocationEvent::NodeBound {
            uid: USER,
            alias: alias.to_owned(),
            nid: nid.to_owned(),
        };
        for watch in &*self.locator.watches.as_ref().expect("are there").lock() {
            // Whoever has taken the second has done with the first.
            for _ in 0..3 {
                eventually("it is taken", || watch.push(change(), 1));
            }
        }
    }

    /// Gives so many answers more, and keeps back those after them.
    fn give(&self, answers: usize) {
        let given = self.asked();
        let mut gives = self.locator.gives.lock();
        *gives = Some(gives.unwrap_or(given) + answers);
    }

    fn asked(&self) -> usize {
        self.locator.answers.load(Ordering::Acquire)
    }

    fn await_asked(&self, times: usize) {
        eventually("the locator is asked", || self.asked() >= times);
    }
}

#[test]
fn packets_of_a_user_that_moves_twice_at_once_keep_their_order() {
    let mut t = Three::new(Node::start_extended("node-3", Vec::new()), "node");
    t.m.reject(3, RejectReason::Moved);
    *t.m.second.manner.rejects.lock() = Some((3, RejectReason::Moved));
    t.m.world.node.manner.sleeps.store(true, Ordering::Release);
    t.m.send(0..2);
    eventually("they are on their way", || {
        t.m.world.gate.stats().delivered == 3
    });
    let asked = t.asked();
    t.give(0);
    t.bind("node", "node-2");
    t.m.world.node.manner.sleeps.store(false, Ordering::Release);
    // The gate is about to hear of the second node when the user has moved on to the third.
    t.await_asked(asked + 1);
    t.bind("node", "node-3");
    t.give(1);
    // The first packet goes to the second node, which rejects it while the other one waits for the locator.
    t.await_asked(asked + 2);
    eventually("it is rejected", || t.m.world.gate.stats().rejected == 3);
    *t.locator.gives.lock() = None;
    eventually("both are taken", || t.m.taken(&t.third).len() == 2);
    assert_eq!(t.m.taken(&t.third), numbers(0..2));
}

#[test]
fn a_packet_that_waits_goes_out_with_the_user_that_it_was_read_with() {
    let mut t = Three::new(Node::start_extended("node-3", Vec::new()), "node");
    let asked = t.asked();
    t.give(0);
    t.m.send(0..1);
    t.await_asked(asked + 1);
    assert_eq!(t.m.world.link().bind(t.m.cid, 8), Code::Done);
    *t.locator.gives.lock() = None;
    assert_eq!(t.m.world.node.await_packet("0"), (t.m.cid, USER));
    t.m.client.send(packet(4, 1, "later"));
    assert_eq!(t.m.world.node.await_packet("later"), (t.m.cid, 8));
}

#[test]
fn of_two_kinds_of_nodes_that_reject_a_packet_each_the_one_that_the_locator_names_is_tried_again() {
    const OTHER: i32 = 12;
    let routes = vec![RouteSpec::new(OTHER).stateful()];
    let mut t = Three::new(Node::start_extended("node-3", routes), "other");
    t.bind("other", "node-3");
    t.m.reject(3, RejectReason::Moved);
    *t.third.manner.rejects.lock() = Some((OTHER, RejectReason::Moved));
    for node in [&t.m.world.node, &t.third] {
        node.manner.sleeps.store(true, Ordering::Release);
    }
    t.m.send(0..1);
    t.m.client.send(packet(OTHER, 2, "other"));
    let stats = |t: &Three| t.m.world.gate.stats();
    eventually("they are on their way", || stats(&t).delivered == 3);
    for (n, node) in [&t.m.world.node, &t.third].into_iter().enumerate() {
        node.manner.sleeps.store(false, Ordering::Release);
        eventually("it is rejected", || stats(&t).rejected == n as u64 + 1);
    }
    let asked = t.asked();
    t.await_asked(asked + 3);
    t.bind("node", "node-2");
    eventually("one is taken", || t.m.taken(&t.m.second) == numbers(0..1));
    let refused = |t: &Three| stats(t).refused[RefusedPacket::NotLocated];
    eventually("the other one is refused", || refused(&t) == 1);
    assert!(t.m.taken(&t.m.world.node).is_empty());
    // Once at each, and again at the one that the locator still names, but not for ever.
    let rejected = stats(&t).rejected;
    assert!((3..10).contains(&rejected), "{rejected}");
}
