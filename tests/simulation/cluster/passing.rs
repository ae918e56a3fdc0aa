//! Packets of many clients, on their way to nodes and back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use epicycle::cluster::dispatch::Policy;
use epicycle::cluster::gate::{GateBuilder, HeartbeatMode};
use epicycle::testing::{Link, each_seed};
use fastrand::Rng;

use super::field::{Client, Field, GATES, NODES};
use super::node::{ECHO, Told, What};
use crate::world;

/// Clients that send packets whose data is `CLIENT:COUNT`.
#[derive(Default)]
struct Crowd {
    /// With the number of packets that each has sent.
    clients: Vec<(Client, u64)>,
    /// The packets that must come to a node, and those of them that must be sent back.
    wanted: HashSet<String>,
    answers: HashSet<String>,
}

impl Crowd {
    fn join(&mut self, field: &mut Field, clients: usize) {
        for _ in 0..clients {
            let gate = field.rng.usize(..GATES.len());
            self.clients.push((field.connect(gate), 0));
        }
    }

    /// A client sends a packet. If it `counts`, it must arrive.
    fn send(&mut self, field: &mut Field, counts: bool) {
        let number = field.rng.usize(..self.clients.len());
        let (client, sent) = &mut self.clients[number];
        let data = format!("{number}:{sent}");
        *sent += 1;
        let seq = match field.rng.u32(..3) {
            0 => 0,
            _ => *sent as i32,
        };
        assert!(field.send(client, ECHO, seq, &data));
        if counts && seq > 0 {
            self.answers.insert(data.clone());
        }
        if counts {
            self.wanted.insert(data);
        }
    }

    /// Waits until all that counts has come to a node, and back if it was a request.
    fn await_all(&mut self, field: &mut Field) {
        for _ in 0..60_000 {
            let mut back = 0;
            for (client, _) in &mut self.clients {
                back += field.read(client).len();
            }
            let came: usize = (0..NODES.len()).map(|node| field.packet_count(node)).sum();
            let may_be_all = came >= self.wanted.len() && back >= self.answers.len();
            if may_be_all && self.has_all(field) {
                return;
            }
            field.catch_up();
            field.world.run_for(Duration::from_millis(50));
        }
        panic!("a packet or its answer has not come");
    }

    fn has_all(&self, field: &Field) -> bool {
        let came = (0..NODES.len()).flat_map(|node| field.packets(node));
        let came: HashSet<String> = came.collect();
        let read = self.clients.iter().flat_map(|(client, _)| &client.read);
        let back = read.filter_map(|(.., data)| Some(data.split_once('@')?.0.to_owned()));
        let back: HashSet<String> = back.collect();
        self.wanted.is_subset(&came) && self.answers.is_subset(&back)
    }

    /// Ends all clients, and waits until the nodes know it.
    fn leave(&mut self, field: &mut Field) {
        for (client, _) in &self.clients {
            field.world.shutdown(client.peer);
        }
        field.run_until("all clients are gone", |field| {
            field.gates.iter().all(|gate| gate.stats().connections == 0)
        });
    }

    /// Checks that no packet has come twice or out of order, to a node or back. If `whole`, each node has seen each client from its
    /// Connect to its Disconnect.
    fn check(&mut self, field: &Field, whole: bool) {
        let mut came = HashSet::new();
        for ((node, ..), told) in field.told() {
            let packets = told.iter().filter_map(|told| match &told.what {
                What::Packet(data) => Some(&**data),
                _ => None,
            });
            let packets: Vec<&str> = packets.collect();
            in_order(&packets);
            for packet in packets {
                assert!(came.insert(packet.to_owned()), "{packet} came twice");
            }
            if whole {
                life(node, &told);
            }
        }
        for (client, _) in &self.clients {
            let mut by_node: HashMap<&str, Vec<&str>> = HashMap::new();
            let mut all = HashSet::new();
            for (_, seq, data) in &client.read {
                let (packet, node) = data.split_once('@').expect("a node sent it");
                let count: i32 = packet
                    .split_once(':')
                    .expect("a packet")
                    .1
                    .parse()
                    .expect("a count");
                assert_eq!(*seq, count + 1, "the answer has the seq of its request");
                assert!(all.insert(packet), "{packet} came back twice");
                by_node.entry(node).or_default().push(packet);
            }
            by_node.values().for_each(|packets| in_order(packets));
        }
    }
}

/// Checks that packets are of one client, and in its order.
fn in_order(packets: &[&str]) {
    let parts = packets
        .iter()
        .map(|packet| packet.split_once(':').expect("a packet"));
    let parts: Vec<(&str, u64)> = parts
        .map(|(client, count)| (client, count.parse().expect("a count")))
        .collect();
    for pair in parts.windows(2) {
        assert_eq!(
            pair[0].0, pair[1].0,
            "a connection has the packets of two clients"
        );
        assert!(
            pair[0].1 < pair[1].1,
            "{} came before {}",
            pair[0].1,
            pair[1].1
        );
    }
}

/// Checks that a node is told of a connection before its first packet, and of its end after the last.
fn life(node: usize, told: &[Told]) {
    let events: Vec<_> = told
        .iter()
        .map(|told| matches!(told.what, What::Event(_)))
        .collect();
    let count = events.iter().filter(|is_event| **is_event).count();
    assert_eq!(count, 2, "{node} was told {told:?}");
    assert_eq!(told[0].what, What::Event(1));
    assert_eq!(told[told.len() - 1].what, What::Event(3));
}

fn quiet(policy: Policy) -> impl Fn(GateBuilder) -> GateBuilder {
    // Clients and links are slow here, and say nothing for long.
    move |gate| {
        gate.dispatch(policy)
            .heartbeat(HeartbeatMode::Respond, Duration::ZERO)
    }
}

fn policy(rng: &mut Rng) -> Policy {
    let policies = [
        Policy::Random,
        Policy::RoundRobin,
        Policy::Weighted,
        Policy::Hash,
    ];
    policies[rng.usize(..policies.len())]
}

/// Which nodes a field has.
#[derive(Clone, Copy)]
pub(crate) enum Nodes {
    Scripted,
    Real,
}

fn start(nodes: Nodes, seed: u64, clients: Link, links: Link, policy: Policy) -> Field {
    match nodes {
        Nodes::Scripted => Field::start(seed, clients, links, quiet(policy)),
        Nodes::Real => Field::start_real(seed, clients, links, quiet(policy)),
    }
}

/// Servers whose links do not break: some are cut for up to ten seconds, and go on.
pub(crate) fn converse(nodes: Nodes, seed: u64, clients: usize, packets: usize) -> String {
    let mut rng = Rng::with_seed(seed);
    let (client_link, link) = (world::link(&mut rng), world::link(&mut rng));
    let policy = policy(&mut rng);
    let mut field = start(nodes, seed, client_link.resets(0), link.resets(0), policy);
    field.open_links();
    let mut crowd = Crowd::default();
    crowd.join(&mut field, clients);
    let mut cut = None;
    for number in 0..packets {
        crowd.send(&mut field, true);
        if number % clients.div_ceil(20) == 0 {
            field.pass(Duration::from_millis(10));
        }
        match cut {
            None if rng.u32(..20) == 0 => {
                let between = (GATES[rng.usize(..2)].1, NODES[rng.usize(..3)].1);
                field.world.cut(between.0, between.1);
                cut = Some((
                    between,
                    field.world.now() + Duration::from_millis(rng.u64(..10_000)),
                ));
            }
            Some(((gate, node), until)) if field.world.now() >= until || number + 1 == packets => {
                field.world.heal(gate, node);
                cut = None;
            }
            _ => {}
        }
    }
    if let Some(((gate, node), _)) = cut {
        field.world.heal(gate, node);
    }
    crowd.await_all(&mut field);
    crowd.leave(&mut field);
    field.run_until("the nodes know", |field| {
        let ends = field.logs.iter().map(|log| {
            let log = log.lock();
            log.iter()
                .filter(|told| told.what == What::Event(3))
                .count()
        });
        ends.sum::<usize>() == clients * NODES.len()
    });
    crowd.check(&field, true);
    assert_eq!(crowd.wanted.len(), packets);
    for gate in &field.gates {
        let stats = gate.stats();
        assert_eq!(
            (stats.given_up, stats.events_lost, stats.pushes_dropped),
            (0, 0, 0)
        );
    }
    field.finish()
}

#[test]
fn packets_of_clients_come_to_nodes_in_order_and_exactly_once_and_so_do_the_answers() {
    each_seed(0..40, |seed| {
        converse(Nodes::Scripted, seed, 1 + seed as usize % 30, 100);
    });
}

#[test]
fn packets_of_clients_come_to_real_nodes_in_order_and_exactly_once_and_so_do_the_answers() {
    each_seed(0..15, |seed| {
        converse(Nodes::Real, seed, 1 + seed as usize % 30, 100);
    });
}

#[test]
fn packets_of_a_thousand_clients_come_in_order_and_exactly_once() {
    each_seed(0..1, |seed| {
        converse(Nodes::Scripted, seed, 1000, 3000);
    });
}

#[test]
fn packets_of_a_thousand_clients_come_to_real_nodes_in_order_and_exactly_once() {
    each_seed(0..1, |seed| {
        converse(Nodes::Real, seed, 1000, 3000);
    });
}

/// Links break. Returns the trace.
pub(crate) fn lose_links(nodes: Nodes, seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let (client_link, link) = (world::link(&mut rng), world::link(&mut rng));
    let policy = policy(&mut rng);
    let link = link.resets(70);
    let mut field = start(nodes, seed, client_link.resets(0), link, policy);
    let mut crowd = Crowd::default();
    crowd.join(&mut field, 1 + seed as usize % 20);
    for _ in 0..100 {
        crowd.send(&mut field, false);
        field.pass(Duration::from_millis(100));
    }
    field.set_links(Link::calm());
    field.world.run_for(Duration::from_secs(10));
    field.open_links();
    for _ in 0..50 {
        crowd.send(&mut field, true);
        field.pass(Duration::from_millis(10));
    }
    crowd.await_all(&mut field);
    crowd.leave(&mut field);
    crowd.check(&field, false);
    field.finish()
}

#[test]
fn links_that_break_lose_packets_but_never_repeat_or_reorder_them_and_the_next_ones_are_whole() {
    each_seed(0..40, |seed| drop(lose_links(Nodes::Scripted, seed)));
}

#[test]
fn links_of_real_nodes_that_break_never_repeat_or_reorder_and_the_next_packets_are_whole() {
    each_seed(0..15, |seed| drop(lose_links(Nodes::Real, seed)));
}

/// A real node is killed and comes back. Returns the trace.
pub(crate) fn replace_one(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let (client_link, policy) = (world::link(&mut rng), policy(&mut rng));
    let links = Link::calm();
    let mut field = start(Nodes::Real, seed, client_link.resets(0), links, policy);
    field.open_links();
    let mut crowd = Crowd::default();
    crowd.join(&mut field, 1 + seed as usize % 20);
    for _ in 0..3 {
        for _ in 0..30 {
            crowd.send(&mut field, true);
            field.pass(Duration::from_millis(10));
        }
        crowd.await_all(&mut field);
        let number = rng.usize(..NODES.len());
        field.replace_real_node(number);
        field.open_links();
    }
    for _ in 0..30 {
        crowd.send(&mut field, true);
        field.pass(Duration::from_millis(10));
    }
    crowd.await_all(&mut field);
    crowd.leave(&mut field);
    crowd.check(&field, false);
    field.finish()
}

#[test]
fn a_node_that_was_killed_comes_back_under_its_id_and_serves_again() {
    each_seed(0..15, |seed| drop(replace_one(seed)));
}

#[test]
fn packets_for_a_node_that_is_away_for_a_moment_wait_and_come_in_order() {
    each_seed(0..40, |seed| {
        let mut rng = Rng::with_seed(seed);
        let policy = policy(&mut rng);
        let mut field = Field::start(seed, Link::calm(), Link::calm(), quiet(policy));
        field.open_links();
        let mut crowd = Crowd::default();
        crowd.join(&mut field, 20);
        for _ in 0..50 {
            crowd.send(&mut field, true);
            field.pass(Duration::from_millis(5));
        }
        crowd.await_all(&mut field);
        let number = rng.usize(..NODES.len());
        field.world.kill(field.nodes[number]);
        // The gates have noticed it then.
        field.world.run_for(Duration::from_millis(20));
        for _ in 0..50 {
            crowd.send(&mut field, true);
            field.pass(Duration::from_millis(10));
        }
        field.restart_node(number);
        for _ in 0..50 {
            crowd.send(&mut field, true);
            field.pass(Duration::from_millis(10));
        }
        crowd.await_all(&mut field);
        crowd.leave(&mut field);
        crowd.check(&field, false);
        for gate in &field.gates {
            let stats = gate.stats();
            assert_eq!((stats.given_up, stats.events_lost), (0, 0));
        }
        field.finish();
    });
}

#[test]
fn what_waits_too_long_for_a_node_is_given_up_and_counted() {
    each_seed(0..10, |seed| {
        let mut field = Field::start(seed, Link::calm(), Link::calm(), quiet(Policy::RoundRobin));
        field.open_links();
        let mut crowd = Crowd::default();
        crowd.join(&mut field, 10);
        field.world.run_for(Duration::from_millis(20));
        let number = field.rng.usize(..NODES.len());
        field.world.kill(field.nodes[number]);
        field.world.run_for(Duration::from_millis(20));
        for _ in 0..60 {
            crowd.send(&mut field, false);
        }
        field.world.run_for(Duration::from_secs(10));
        let came: usize = (0..NODES.len()).map(|node| field.packets(node).len()).sum();
        let given_up: u64 = field.gates.iter().map(|gate| gate.stats().given_up).sum();
        assert_eq!(came as u64 + given_up, 60, "{came} and {given_up}");
        assert!((10..30).contains(&given_up), "{given_up}");
        field.restart_node(number);
        field.world.run_for(Duration::from_secs(10));
        for _ in 0..60 {
            crowd.send(&mut field, true);
        }
        crowd.await_all(&mut field);
        crowd.check(&field, false);
        field.finish();
    });
}
