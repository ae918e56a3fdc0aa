//! Datagrams through a gateway: the sessions of its UDP listeners, in virtual time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use epicycle::Server;
use epicycle::gateway::settings::{ListenerSettings, PoolSettings};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::testing::{Host, Link, UdpPeer, World, each_seed};
use fastrand::Rng;

use super::world;

const GATEWAY: [u8; 4] = [192, 168, 0, 2];
const NODES: [[u8; 4]; 2] = [[192, 168, 0, 3], [192, 168, 0, 4]];

struct Rig {
    world: World,
    gateway: Host<Proxy<NoHooks>>,
    nodes: Vec<UdpPeer>,
}

impl Rig {
    fn start(seed: u64, link: Link, rng: &mut Rng, idle: Duration) -> Self {
        let mut world = World::new(seed, link).expect("a world");
        let nodes = NODES.map(|node| world.bind_udp((node, 53)));
        let mut listener = ListenerSettings::forward_udp("udp://:53", "dns");
        listener.datagrams.idle = idle;
        let pool = PoolSettings::of(NODES.map(|[a, b, c, d]| format!("udp://{a}.{b}.{c}.{d}:53")));
        let gateway = Gateway::builder()
            .reactors(rng.usize(1..4))
            .listen(listener)
            .pool("dns", pool)
            .build()
            .expect("the settings are right");
        let gateway = gateway.start_with(
            |_| NoHooks,
            |server: Server, factory| Ok(world.start(GATEWAY, server, factory)?),
        );
        Self {
            gateway: gateway.expect("a gateway"),
            nodes: nodes.into(),
            world,
        }
    }

    fn client(&mut self, number: u8) -> UdpPeer {
        self.world.bind_udp(([10, 0, 0, number + 1], 5000))
    }

    /// Returns the number of sessions that the gateway counts.
    fn sessions(&self) -> u64 {
        let engine = self.world.engine(self.gateway);
        let metrics = self
            .world
            .handler(self.gateway, 0)
            .control(engine)
            .metrics();
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("epicycle_gateway_udp_sessions "));
        count.and_then(|count| count.parse().ok()).expect("is told")
    }

    /// Takes what has come to the nodes, by node.
    fn at_nodes(&mut self) -> Vec<(usize, SocketAddr, Vec<u8>)> {
        let mut taken = Vec::new();
        for (place, node) in self.nodes.iter().enumerate() {
            while let Some((from, bytes)) = self.world.take_datagram(*node) {
                taken.push((place, from, bytes));
            }
        }
        taken
    }

    /// Checks that no session is left, and ends the gateway.
    fn finish(mut self) {
        assert_eq!(self.sessions(), 0);
        let stats = self.world.stats(self.gateway);
        assert_eq!((stats.connections, stats.buffered), (0, 0));
        self.world.finish(self.gateway);
    }
}

/// Returns a datagram that tells whose it is, and that no other client or number has.
fn datagram(client: u8, number: u8, len: usize) -> Vec<u8> {
    let mut datagram = vec![client, number];
    datagram
        .extend((0..len).map(|at| (at * 7 + usize::from(client) * 13 + usize::from(number)) as u8));
    datagram
}

/// Some clients send datagrams, which the nodes send back. Returns how many came back, for each datagram.
fn echoes(seed: u64, link: Link) -> HashMap<Vec<u8>, usize> {
    let mut rng = Rng::with_seed(seed);
    let idle = Duration::from_secs(rng.u64(1..100));
    let mut rig = Rig::start(seed, link, &mut rng, idle);
    let clients: Vec<UdpPeer> = (0..rng.u8(1..5)).map(|number| rig.client(number)).collect();
    let mut counts = HashMap::new();
    let mut places: HashMap<u8, (usize, SocketAddr)> = HashMap::new();
    for number in 0..rng.u8(1..60) {
        let client = rng.usize(..clients.len());
        let sent = datagram(client as u8, number, world::len(&mut rng));
        rig.world
            .send_datagram(clients[client], (GATEWAY, 53), &sent);
        counts.insert(sent, 0);
        for _ in 0..rng.usize(0..3) {
            let pause = rng.u64(..30_000);
            rig.world.run_for(Duration::from_micros(pause));
            for (node, from, bytes) in rig.at_nodes() {
                assert!(counts.contains_key(&bytes), "its edges are others");
                // A session keeps its node, and its address towards that.
                let place = *places.entry(bytes[0]).or_insert((node, from));
                assert_eq!(place, (node, from), "another session's");
                rig.world.send_datagram(rig.nodes[node], from, bytes);
            }
        }
    }
    rig.world.run_for(Duration::from_millis(200));
    for (node, from, bytes) in rig.at_nodes() {
        assert!(counts.contains_key(&bytes), "its edges are others");
        rig.world.send_datagram(rig.nodes[node], from, bytes);
    }
    rig.world.run_for(Duration::from_millis(200));
    for (number, client) in clients.iter().enumerate() {
        while let Some((from, bytes)) = rig.world.take_datagram(*client) {
            assert_eq!(from, SocketAddr::from((GATEWAY, 53)));
            assert_eq!(usize::from(bytes[0]), number, "another client's");
            *counts.get_mut(&bytes).expect("its edges are others") += 1;
        }
    }
    rig.world.run_for(idle + Duration::from_secs(1));
    rig.finish();
    counts
}

#[test]
fn datagrams_keep_their_edges_their_client_and_their_node() {
    each_seed(0..200, |seed| {
        for (datagram, count) in echoes(seed, Link::calm()) {
            assert_eq!(count, 1, "{datagram:?}");
        }
    });
}

#[test]
fn datagrams_that_the_network_loses_doubles_and_reorders_keep_their_edges_and_their_client() {
    each_seed(0..200, |seed| {
        for (datagram, count) in echoes(seed, Link::hostile().slow_turns(Duration::ZERO)) {
            // Each of the four ways may double it.
            assert!(count <= 16, "{datagram:?} came {count} times");
        }
    });
}

#[test]
fn datagrams_of_any_length_pass_whole() {
    let idle = Duration::from_secs(60);
    let mut rig = Rig::start(1, Link::calm(), &mut Rng::with_seed(1), idle);
    let client = rig.client(0);
    for len in [0, 1, 1500, 65_507] {
        let sent = vec![7; len];
        rig.world.send_datagram(client, (GATEWAY, 53), &sent);
        rig.world.run_for(Duration::from_millis(1));
        let [(node, from, bytes)] = &rig.at_nodes()[..] else {
            panic!("one datagram");
        };
        assert_eq!(*bytes, sent);
        rig.world.send_datagram(rig.nodes[*node], *from, bytes);
        rig.world.run_for(Duration::from_millis(1));
        let answer = rig.world.take_datagram(client).expect("an answer");
        assert_eq!(answer, ((GATEWAY, 53).into(), sent));
    }
    rig.world.run_for(idle * 2);
    rig.finish();
}

#[test]
fn a_session_ends_so_long_after_its_last_datagram_whoever_has_sent_that() {
    each_seed(0..100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let idle = Duration::from_millis(rng.u64(1000..100_000));
        let mut rig = Rig::start(seed, Link::calm(), &mut rng, idle);
        let client = rig.client(0);
        let moment = Duration::from_millis(100);
        rig.world.send_datagram(client, (GATEWAY, 53), "first");
        rig.world.run_for(moment);
        let (node, session, _) = rig.at_nodes().pop().expect("it has come");
        // A datagram of either side prolongs it.
        for _ in 0..rng.usize(0..6) {
            rig.world.run_for(idle * rng.u32(1..9) / 10 - moment);
            let (answers, from) = (rng.bool(), rig.nodes[node]);
            match answers {
                true => rig.world.send_datagram(from, session, "answer"),
                false => rig.world.send_datagram(client, (GATEWAY, 53), "again"),
            }
            rig.world.run_for(moment);
            match answers {
                true => assert!(rig.world.take_datagram(client).is_some()),
                false => assert_eq!(rig.at_nodes(), [(node, session, b"again".to_vec())]),
            }
            assert_eq!(rig.sessions(), 1);
        }
        rig.world.run_for(idle - moment * 2);
        assert_eq!(rig.sessions(), 1, "it has ended early");
        assert_eq!(rig.world.stats(rig.gateway).connections, 2);
        rig.world.run_for(moment * 2);
        assert_eq!(rig.sessions(), 0, "it has not ended");
        assert_eq!(rig.world.stats(rig.gateway).connections, 0);
        // A late answer reaches nobody, and the next datagram begins another session.
        rig.world.send_datagram(rig.nodes[node], session, "late");
        rig.world.run_for(moment);
        assert_eq!(rig.world.take_datagram(client), None);
        rig.world.send_datagram(client, (GATEWAY, 53), "next");
        rig.world.run_for(moment);
        let next = rig.at_nodes();
        assert!(matches!(&next[..], [(_, from, bytes)] if *from != session && bytes == b"next"));
        assert_eq!(rig.sessions(), 1);
        rig.world.run_for(idle * 2);
        rig.finish();
    });
}
