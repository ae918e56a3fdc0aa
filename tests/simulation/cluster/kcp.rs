//! Clients over KCP on a network that loses, repeats and reorders datagrams, and on which others forge their addresses.

use std::time::{Duration, Instant};

use epicycle::cluster::gate::{ClientListener, Gate, SimulatedGate};
use epicycle::cluster::locator::MemoryLocator;
use epicycle::cluster::packet::{Packet, PacketOptions};
use epicycle::cluster::registry::MemoryRegistry;
use epicycle::kcp::{Kcp, KcpOptions};
use epicycle::testing::{Link, UdpPeer, World, each_seed};
use fastrand::Rng;

use super::field::{GATES, NODES};
use super::node::{ECHO, Log};
use super::real::{self, Order};

const PORT: u16 = 3555;
const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";

/// A client, or somebody who forges its address.
struct Client {
    peer: UdpPeer,
    kcp: Kcp,
    /// The moment at which the world began.
    began: Instant,
    /// The datagrams that it has sent, for others to repeat.
    sent: Vec<Vec<u8>>,
    read: Vec<u8>,
}

impl Client {
    fn new(world: &mut World, address: [u8; 4], conv: u32, options: &KcpOptions) -> Self {
        let began = Instant::now();
        Self {
            peer: world.bind_udp((address, 5000)),
            kcp: Kcp::client(conv, options, began + world.now()),
            began,
            sent: Vec::new(),
            read: Vec::new(),
        }
    }

    fn now(&self, world: &World) -> Instant {
        self.began + world.now()
    }

    fn send(&mut self, world: &mut World, bytes: &[u8]) {
        self.kcp.send(bytes).expect("there is room");
        self.turn(world);
    }

    /// Takes what has come, and sends what is due.
    fn turn(&mut self, world: &mut World) {
        let now = self.now(world);
        while let Some((_, datagram)) = world.take_datagram(self.peer) {
            self.kcp.input(&datagram, now).expect("is of the gate");
        }
        self.read
            .extend(std::iter::from_fn(|| self.kcp.recv()).flatten());
        let sent = &mut self.sent;
        self.kcp.flush(now, |datagram| {
            world.send_datagram(self.peer, (GATES[0].1, PORT), datagram);
            sent.push(datagram.to_vec());
        });
    }
}

impl Client {
    /// Returns the data of the answers that have come, one after the other.
    fn answers(&self) -> String {
        let (mut answers, mut rest) = (String::new(), &self.read[..]);
        while let Some((len, behind)) = rest.split_first_chunk()
            && let Some((packet, behind)) =
                behind.split_at_checked(u32::from_be_bytes(*len) as usize)
        {
            rest = behind;
            // Apart from heartbeats.
            if let Some(data) = packet.get(5..) {
                let data = String::from_utf8_lossy(data);
                let data = data.trim_matches('"').strip_suffix("@node-1");
                answers += data.expect("is of the node");
            }
        }
        answers
    }
}

fn gate(world: &mut World, options: KcpOptions, registry: &MemoryRegistry) -> SimulatedGate {
    let listener = ClientListener::at(&format!("kcp://:{PORT}")).kcp(options);
    let gate = Gate::builder()
        .id(GATES[0].0)
        .listen(listener)
        .link("tcp://:6000")
        .heartbeat(Default::default(), Duration::ZERO)
        .max_connections(20_000)
        .registry(registry.clone())
        .locator(MemoryLocator::new());
    let at_once = Duration::ZERO..=Duration::ZERO;
    gate.simulate(world, GATES[0].1, at_once).expect("a gate")
}

fn packet(seq: i32, data: &str) -> Vec<u8> {
    let data = data.as_bytes();
    let packet = PacketOptions::default().encode(&Packet {
        route: ECHO,
        seq,
        data,
    });
    packet.expect("is short").as_bytes().to_vec()
}

fn options(rng: &mut Rng) -> KcpOptions {
    let options = KcpOptions::new()
        .no_delay(rng.bool())
        .interval(Duration::from_millis(rng.u64(10..100)))
        .fast_resend(rng.u32(0..3))
        .congestion_control(rng.bool())
        .ack_no_delay(rng.bool())
        .windows(rng.u16(4..64), rng.u16(4..64))
        .mtu(rng.usize(100..1400));
    match rng.bool() {
        true => options.fec(10, 3),
        false => options,
    }
}

#[test]
fn packets_over_kcp_arrive_once_and_in_order_whatever_the_network_and_forgers_do() {
    const CLIENTS: usize = 3;
    let (mut repaired, mut forged) = (0, 0);
    each_seed(0..20, |seed| {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed, Link::hostile()).expect("a world");
        let (registry, log, order) = (MemoryRegistry::new(), Log::default(), Order::default());
        let gate = gate(&mut world, options(&mut rng), &registry);
        let locator = MemoryLocator::new();
        let node = real::builder(NODES[0].0, (&log, &order), &registry, &locator)
            .link("tcp://:7000")
            .simulate(&mut world, NODES[0].1, Duration::ZERO..=Duration::ZERO)
            .expect("a node");
        for (from, to) in [(GATES[0].1, NODES[0].1), (NODES[0].1, GATES[0].1)] {
            world.set_link_from(from, to, Link::calm());
        }
        world.run_until(Duration::from_secs(60), |_| {
            gate.catch_up();
            node.catch_up();
            gate.stats().links > 0
        });
        let mut clients: Vec<Client> = (0..CLIENTS)
            .map(|n| {
                let own = options(&mut rng);
                Client::new(&mut world, [10, 1, 0, n as u8], rng.u32(..), &own)
            })
            .collect();
        // Its peers never answer.
        let strangers: Vec<UdpPeer> = (0..3)
            .map(|n| world.bind_udp(([10, 2, 0, n], 5000)))
            .collect();
        let (mut to_gate, mut to_strangers) = (0, 0);
        let mut expected = vec![String::new(); CLIENTS];
        let mut count = 0;
        for _ in 0..4000 {
            if count < 60 && rng.u8(..3) == 0 {
                let n = rng.usize(..CLIENTS);
                let data = format!("{n}:{count}{}", "x".repeat(rng.usize(..2000)));
                count += 1;
                expected[n] += &data;
                clients[n].send(&mut world, &packet(1, &data));
            }
            // Datagrams of a client come again, from its address and from others, and so do invented ones.
            let n = rng.usize(..CLIENTS);
            let old = (!clients[n].sent.is_empty()).then(|| rng.choice(&clients[n].sent));
            if let Some(old) = old.flatten().cloned() {
                let mut made_up = old.clone();
                made_up.truncate(rng.usize(..=old.len()));
                match rng.u8(..8) {
                    0 => world.send_datagram(clients[n].peer, (GATES[0].1, PORT), &old),
                    1 => world.send_datagram(clients[n].peer, (GATES[0].1, PORT), &made_up),
                    2 => {
                        let stranger = strangers[rng.usize(..3)];
                        to_gate += old.len();
                        world.send_datagram(stranger, (GATES[0].1, PORT), &old);
                    }
                    _ => {}
                }
            }
            let pause = if count < 60 { 20_000 } else { 200_000 };
            world.run_for(Duration::from_micros(rng.u64(..pause)));
            clients
                .iter_mut()
                .for_each(|client| client.turn(&mut world));
            for stranger in &strangers {
                while let Some((_, datagram)) = world.take_datagram(*stranger) {
                    to_strangers += datagram.len();
                }
            }
            let mut both = clients.iter().zip(&expected);
            let is_done =
                |(client, expected): (&Client, &String)| client.answers().len() >= expected.len();
            if count == 60 && both.all(is_done) {
                break;
            }
            // Until its address is proved, the gate sends no more than it gets three times.
            if count == 60 && clients[n].kcp.queued() == 0 {
                clients[n].send(&mut world, HEARTBEAT);
            }
        }
        for (n, client) in clients.iter().enumerate() {
            assert!(client.answers() == expected[n], "client {n}");
            repaired += client.kcp.repaired();
        }
        // A datagram may come twice.
        assert!(
            to_strangers <= 2 * 3 * 2 * to_gate,
            "{to_strangers} bytes for {to_gate}"
        );
        forged += to_gate;
        node.finish(&mut world);
        gate.finish(&mut world);
    });
    assert!(repaired > 0 && forged > 0, "{repaired} {forged}");
}

#[test]
fn ten_thousand_idle_sessions_over_kcp_take_no_turns() {
    const CLIENTS: u32 = 10_000;
    let mut world = World::new(1, Link::calm()).expect("a world");
    let gate = gate(&mut world, KcpOptions::new(), &MemoryRegistry::new());
    // A gate has timers of its own, a few for all sessions.
    let long = Duration::from_secs(1000);
    world.run_for(long);
    let alone = gate.engine_stats(&world).turns;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let [_, a, b, c] = n.to_be_bytes();
        let mut client = Client::new(&mut world, [11, a, b, c], n, &KcpOptions::new());
        client.send(&mut world, HEARTBEAT);
        clients.push(client);
        if n % 100 == 99 {
            world.run_for(Duration::from_millis(100));
        }
    }
    // So many at once overflow a buffer, and send again.
    for _ in 0..10 {
        world.run_for(Duration::from_secs(1));
        clients
            .iter_mut()
            .for_each(|client| client.turn(&mut world));
    }
    for client in &clients {
        assert_eq!((&*client.read, client.kcp.check()), (HEARTBEAT, None));
    }
    // The timers of what was acknowledged in time are not taken back.
    world.run_for(long);
    let before = gate.engine_stats(&world).turns;
    world.run_for(long);
    let turns = gate.engine_stats(&world).turns - before;
    assert!(turns <= alone, "{turns} turns, {alone} without sessions");
    assert_eq!(gate.stats().connections, u64::from(CLIENTS));
    clients[7].send(&mut world, HEARTBEAT);
    world.run_for(Duration::from_secs(1));
    gate.finish(&mut world);
}
