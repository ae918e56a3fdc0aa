//! A world with gates, nodes and clients.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use epicycle::Server;
use epicycle::cluster::Kind;
use epicycle::cluster::gate::{Gate, GateBuilder, SimulatedGate};
use epicycle::cluster::locator::MemoryLocator;
use epicycle::cluster::node::SimulatedNode;
use epicycle::cluster::packet::{Control, Packet, PacketOptions};
use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry, RouteSpec};
use epicycle::testing::{Ending, Host, Link, Peer, World};
use fastrand::Rng;

use super::node::{ECHO, LOGIN, Log, Node, PLAY, TOKEN, Told, What};
use super::real::{self, Game, Order};
use crate::world;

pub(crate) const GATES: [(&str, [u8; 4]); 2] =
    [("gate-1", [10, 0, 0, 1]), ("gate-2", [10, 0, 0, 2])];
pub(crate) const NODES: [(&str, [u8; 4]); 3] = [
    ("node-1", [10, 0, 1, 1]),
    ("node-2", [10, 0, 1, 2]),
    ("node-3", [10, 0, 1, 3]),
];

const CLIENTS: u16 = 3553;
const LINKS: u16 = 6000;
const NODE: u16 = 7000;

/// Gates and nodes in a world.
pub(crate) struct Field {
    pub(crate) world: World,
    pub(crate) registry: MemoryRegistry,
    pub(crate) locator: MemoryLocator,
    pub(crate) gates: Vec<SimulatedGate>,
    /// Scripted ones, or none.
    pub(crate) nodes: Vec<Host<Node>>,
    /// Real ones, or none.
    pub(crate) real: Vec<SimulatedNode<Game>>,
    pub(crate) logs: Vec<Log>,
    pub(crate) order: Order,
    pub(crate) rng: Rng,
    /// The number of all reactors of gates, and of real nodes.
    reactors: usize,
    node_reactors: Vec<usize>,
}

/// A client: a scripted peer that speaks in packets.
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// The number of its gate.
    pub(crate) gate: usize,
    pub(crate) has_left: bool,
    /// Bytes that are no whole packet yet.
    rest: Vec<u8>,
    /// The packets that it has read: route, seq and data.
    pub(crate) read: Vec<(i32, i32, String)>,
    /// The route and the fields of each control packet, and the number of packets before it.
    pub(crate) controls: Vec<(i32, Vec<u8>, usize)>,
}

impl Field {
    /// Starts scripted nodes and gates. `clients` is the network of clients, `links` that between servers.
    pub(crate) fn start(
        seed: u64,
        clients: Link,
        links: Link,
        change: impl Fn(GateBuilder) -> GateBuilder,
    ) -> Self {
        let mut field = Self::gates(seed, clients, change);
        for number in 0..NODES.len() {
            field.start_node(number);
        }
        field.set_links(links);
        field.catch_up();
        field
    }

    /// Starts real nodes, and gates.
    pub(crate) fn start_real(
        seed: u64,
        clients: Link,
        links: Link,
        change: impl Fn(GateBuilder) -> GateBuilder,
    ) -> Self {
        let mut field = Self::gates(seed, clients, change);
        for (id, address) in NODES {
            field.start_real_node(id, address);
        }
        field.set_links(links);
        field.catch_up();
        field
    }

    fn gates(seed: u64, clients: Link, change: impl Fn(GateBuilder) -> GateBuilder) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed, clients).expect("a world");
        let (registry, locator) = (MemoryRegistry::new(), MemoryLocator::new());
        let (mut gates, mut reactors) = (Vec::new(), 0);
        for (id, address) in GATES {
            let own = rng.usize(1..=3);
            reactors += own;
            let gate = Gate::builder()
                .id(id)
                .listen(format!("tcp://:{CLIENTS}"))
                .link(format!("tcp://:{LINKS}"))
                .reactors(own)
                .registry(registry.clone())
                .locator(locator.clone());
            let takes = Duration::from_micros(10)..=Duration::from_millis(rng.u64(1..50));
            let gate = change(gate).simulate(&mut world, address, takes);
            gates.push(gate.expect("a gate"));
        }
        Self {
            world,
            registry,
            locator,
            gates,
            nodes: Vec::new(),
            real: Vec::new(),
            logs: Vec::new(),
            order: Order::default(),
            rng,
            reactors,
            node_reactors: Vec::new(),
        }
    }

    /// Starts one more real node.
    pub(crate) fn start_real_node(&mut self, id: &str, address: [u8; 4]) {
        let (log, reactors) = (Log::default(), self.rng.usize(1..=3));
        self.node_reactors.push(reactors);
        let takes = Duration::from_micros(10)..=Duration::from_millis(self.rng.u64(1..50));
        let node = real::builder(id, (&log, &self.order), &self.registry, &self.locator)
            .link(format!("tcp://:{NODE}"))
            .reactors(reactors)
            .simulate(&mut self.world, address, takes);
        self.real.push(node.expect("a node"));
        self.logs.push(log);
    }

    /// Kills a real node and starts it again under its id, when the others have noticed it. It has forgotten all, but its log goes on.
    pub(crate) fn replace_real_node(&mut self, number: usize) {
        let node = self.real.remove(number);
        node.kill(&mut self.world);
        self.pass(Duration::from_millis(200));
        let takes = Duration::from_micros(10)..=Duration::from_millis(self.rng.u64(1..50));
        let known = (&self.logs[number], &self.order);
        let builder = real::builder(node.id(), known, &self.registry, &self.locator)
            .link(format!("tcp://:{NODE}"))
            .reactors(self.node_reactors[number]);
        let node = node.restart(builder, &mut self.world, takes);
        self.real.insert(number, node.expect("a node"));
    }

    fn start_node(&mut self, number: usize) {
        let (id, address) = NODES[number];
        let log = Log::default();
        let server = world::server_on(format!("tcp://:{NODE}"), &mut self.rng);
        // The links of gates are not read any slower than they are written.
        let server = Server::high_water(server, 16 << 20).low_water(8 << 20);
        let node = node(number, &log);
        let host = self.world.start(address, server, node);
        self.nodes.push(host.expect("a node"));
        self.logs.push(log);
        let address = SocketAddr::from((address, NODE));
        let endpoint = format!("drpc://{address}?is_secure=false");
        let mut instance = Instance::new(Kind::Node, id, endpoint);
        instance.routes = vec![
            RouteSpec::new(ECHO),
            RouteSpec::new(LOGIN),
            RouteSpec::new(TOKEN),
            RouteSpec::new(PLAY).stateful(),
        ];
        instance.events = vec![1, 2, 3];
        self.registry.register(&instance).expect("is in memory");
    }

    /// Starts a node that was killed again. It has forgotten all, but its log goes on.
    pub(crate) fn restart_node(&mut self, number: usize) {
        let server = world::server_on(format!("tcp://:{NODE}"), &mut self.rng);
        let node = node(number, &self.logs[number]);
        let restarted = self.world.restart(self.nodes[number], server, node);
        restarted.expect("a node");
    }

    /// Sets the network between servers.
    pub(crate) fn set_links(&mut self, link: Link) {
        for (_, gate) in GATES {
            for (_, node) in NODES {
                self.world.set_link_from(gate, node, link.clone());
                self.world.set_link_from(node, gate, link.clone());
            }
        }
    }

    /// Lets the gates and real nodes notice what registry and locator have changed.
    pub(crate) fn catch_up(&self) {
        self.gates.iter().for_each(SimulatedGate::catch_up);
        self.real.iter().for_each(SimulatedNode::catch_up);
    }

    /// Lets time pass, up to `most`. Sometimes a server then notices what registry and locator have changed.
    pub(crate) fn pass(&mut self, most: Duration) {
        let micros = self.rng.u64(..most.as_micros() as u64);
        self.world.run_for(Duration::from_micros(micros));
        for gate in &self.gates {
            if self.rng.bool() {
                gate.catch_up();
            }
        }
        for node in &self.real {
            if self.rng.bool() {
                node.catch_up();
            }
        }
    }

    /// Lets time pass until `done` returns true, for 10 minutes at most. The gates notice everything.
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..60_000 {
            self.catch_up();
            if done(self) {
                return;
            }
            self.world.run_for(Duration::from_millis(10));
        }
        panic!("{what} has not happened");
    }

    /// Lets time pass until the links of all servers are open.
    pub(crate) fn open_links(&mut self) {
        self.run_until("the servers are linked", |field| {
            let world = &field.world;
            let links = field.gates.iter().map(|gate| gate.stats().links);
            let scripted = field.nodes.iter().map(|node| world.stats(*node));
            let real = field.real.iter().map(|node| node.engine_stats(world));
            let of_nodes = scripted.chain(real).map(|stats| stats.connections);
            // Each reactor dials each server of the other kind.
            let of_real: usize = field.node_reactors.iter().sum();
            let dialling = field.nodes.len() + of_real;
            let dialled = (GATES.len() * dialling) as u64;
            let lanes = field.reactors * (field.nodes.len() + field.real.len());
            links.sum::<u64>() == dialled && of_nodes.sum::<u64>() == dialled + lanes as u64
        });
    }

    pub(crate) fn connect(&mut self, gate: usize) -> Client {
        let peer = self.world.connect((GATES[gate].1, CLIENTS));
        Client {
            peer,
            gate,
            has_left: false,
            rest: Vec::new(),
            read: Vec::new(),
            controls: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, client: &Client, route: i32, seq: i32, data: &str) -> bool {
        let data = data.as_bytes();
        let packet = PacketOptions::default().encode(&Packet { route, seq, data });
        self.world
            .send(client.peer, packet.expect("is short").as_bytes())
    }

    /// Sends a control packet.
    pub(crate) fn control(&mut self, client: &Client, control: &Control<'_>) -> bool {
        let packet = PacketOptions::default().encode_control(control);
        self.world
            .send(client.peer, packet.expect("is short").as_bytes())
    }

    /// Takes the packets that have come to a client.
    pub(crate) fn read<'c>(&mut self, client: &'c mut Client) -> &'c [(i32, i32, String)] {
        client.rest.extend(self.world.take_received(client.peer));
        let mut at = 0;
        let rest = &client.rest;
        let number = |at: usize, len: usize| {
            let bytes = &rest[at..at + len];
            bytes
                .iter()
                .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        while rest.len() >= at + 4 && rest.len() >= at + 4 + number(at, 4) {
            let end = at + 4 + number(at, 4);
            let (route, seq) = (number(at + 5, 2) as i32, number(at + 7, 2) as i32);
            let data = &rest[at + 9..end];
            if rest[at + 4] == 1 {
                let before = client.read.len();
                client.controls.push((route, data.to_vec(), before));
            } else {
                // A real node answers in JSON.
                let data = String::from_utf8_lossy(data);
                let data = data.trim_matches('"').to_owned();
                client.read.push((route, seq, data));
            }
            at = end;
        }
        client.rest.drain(..at);
        &client.read
    }

    pub(crate) fn is_open(&self, client: &Client) -> bool {
        !client.has_left
            && self.world.ending(client.peer) == Ending::Open
            && !self.world.is_closed(client.peer)
    }

    /// Returns what has happened so far. A seed always gives the same.
    pub(crate) fn trace(&self) -> String {
        let logs: Vec<_> = self.logs.iter().map(|log| log.lock().clone()).collect();
        let order = self.order.lock();
        format!("{} {logs:?} {order:?}", self.world.fingerprint())
    }

    /// Ends everything. Checks that nothing is left behind. Returns the trace.
    pub(crate) fn finish(mut self) -> String {
        let trace = self.trace();
        for gate in self.gates.drain(..) {
            gate.finish(&mut self.world);
        }
        for node in self.nodes {
            self.world.finish(node);
        }
        for node in self.real {
            node.finish(&mut self.world);
        }
        trace
    }

    /// Returns what all nodes were told, by node and by connection.
    pub(crate) fn told(&self) -> HashMap<(usize, String, i64), Vec<Told>> {
        let mut by_conn: HashMap<_, Vec<Told>> = HashMap::new();
        for (node, log) in self.logs.iter().enumerate() {
            for told in log.lock().iter() {
                let conn = (node, told.gate.clone(), told.cid);
                by_conn.entry(conn).or_default().push(told.clone());
            }
        }
        by_conn
    }

    /// Returns the number of packets that a node was told.
    pub(crate) fn packet_count(&self, node: usize) -> usize {
        let log = self.logs[node].lock();
        let packets = log
            .iter()
            .filter(|told| matches!(told.what, What::Packet(_)));
        packets.count()
    }

    /// Returns the data of the packets that a node was told, in order.
    pub(crate) fn packets(&self, node: usize) -> Vec<String> {
        let log = self.logs[node].lock();
        let packets = log.iter().filter_map(|told| match &told.what {
            What::Packet(data) => Some(data.clone()),
            _ => None,
        });
        packets.collect()
    }
}

fn node(number: usize, log: &Log) -> impl Fn(usize) -> Node {
    let log = log.clone();
    move |_| {
        let gates = GATES.map(|(id, address)| (id, SocketAddr::from((address, LINKS))));
        Node::new(NODES[number].0, log.clone(), &gates)
    }
}
