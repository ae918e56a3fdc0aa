//! Tunnels through a gateway: SOCKS5, CONNECT and forwarded connections, at every cut and with every end.

use std::net::SocketAddr;
use std::time::Duration;

use epicycle::Server;
use epicycle::gateway::settings::{ListenerKind, ListenerSettings, PoolSettings};
use epicycle::gateway::{Gateway, NoHooks, Proxy};
use epicycle::testing::{Ending, Host, Link, Peer, PeerListener, Reading, World, each_seed};
use fastrand::Rng;

use super::world::{self, Farewell};

const GATEWAY: [u8; 4] = [192, 168, 0, 2];
const TARGET: [u8; 4] = [192, 168, 0, 3];

/// The most tunnels at a time. Each has a target, and a listener for connections, of its own.
const MOST: u16 = 4;

/// Longer than what passes slowly takes.
const LONG: Duration = Duration::from_secs(10_000);

/// The way in which a client reaches its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Socks,
    Connect,
    /// A listener that forwards connections.
    Tcp,
}

const WAYS: [Way; 3] = [Way::Socks, Way::Connect, Way::Tcp];

impl Way {
    /// Returns the port of the gateway for the tunnel with that number.
    fn port(self, number: u16) -> u16 {
        match self {
            Way::Socks => 1080,
            Way::Connect => 3128,
            Way::Tcp => 5000 + number,
        }
    }

    /// Returns the bytes with which a client asks for the target with that number.
    fn handshake(self, number: u16) -> Vec<u8> {
        let target = target(number);
        match self {
            Way::Socks => {
                let mut handshake = b"\x05\x01\x00\x05\x01\x00\x01".to_vec();
                handshake.extend(TARGET);
                handshake.extend(target.port().to_be_bytes());
                handshake
            }
            Way::Connect => {
                format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes()
            }
            Way::Tcp => Vec::new(),
        }
    }

    /// Splits off the answer to the handshake from what a client has received. Returns `None` if it is not complete, and what
    /// the target has sent otherwise.
    fn payload(self, received: &[u8]) -> Option<&[u8]> {
        match self {
            Way::Socks => {
                let begin = b"\x05\x00\x05\x00\x00\x01";
                let known = received.len().min(begin.len());
                assert_eq!(received[..known], begin[..known], "it is refused");
                received.get(begin.len() + 6..)
            }
            Way::Connect => {
                let begin = b"HTTP/1.1 200 ";
                let known = received.len().min(begin.len());
                assert_eq!(received[..known], begin[..known], "it is refused");
                let end = received.windows(4).position(|part| part == b"\r\n\r\n")?;
                Some(&received[end + 4..])
            }
            Way::Tcp => Some(received),
        }
    }
}

fn target(number: u16) -> SocketAddr {
    SocketAddr::from((TARGET, 7000 + number))
}

/// The gateway, and the listeners of its targets.
struct Rig {
    world: World,
    gateway: Host<Proxy<NoHooks>>,
    targets: Vec<PeerListener>,
}

impl Rig {
    fn start(seed: u64, link: Link, rng: &mut Rng) -> Self {
        let mut world = World::new(seed, link).expect("a world");
        let targets = (0..MOST)
            .map(|number| world.listen(target(number)))
            .collect();
        let listener = |mut listener: ListenerSettings| {
            listener.limits.high_water = 64 << 10;
            listener.timeouts.head = LONG;
            listener.timeouts.write_stall = LONG;
            if listener.kind != ListenerKind::Tcp {
                listener.egress.allow = vec!["192.168.0.3:*".parse().expect("a rule")];
                listener.tunnels.handshake = LONG;
                listener.tunnels.connect = LONG;
                listener.tunnels.idle = LONG;
            }
            listener
        };
        let mut socks = ListenerSettings::new("tcp://:1080");
        socks.kind = ListenerKind::Socks5;
        let mut gateway = Gateway::builder()
            .reactors(rng.usize(1..4))
            .listen(listener(socks))
            .listen(listener(ListenerSettings::forward("tcp://:3128")));
        for number in 0..MOST {
            let pool = format!("target{number}");
            let on = format!("tcp://:{}", Way::Tcp.port(number));
            let mut nodes = PoolSettings::of([format!("tcp://{}", target(number))]);
            nodes.timeouts.connect = LONG;
            nodes.timeouts.tunnel_idle = LONG;
            gateway = gateway
                .listen(listener(ListenerSettings::forward_tcp(on, &pool)))
                .pool(pool, nodes);
        }
        let gateway = gateway.build().expect("the settings are right");
        let budget = rng.usize(1..64 << 10);
        let gateway = gateway.start_with(
            |_| NoHooks,
            |server: Server, factory| {
                let server = server.read_budget(budget).drain_deadline(LONG / 10);
                Ok(world.start(GATEWAY, server, factory)?)
            },
        );
        Self {
            gateway: gateway.expect("a gateway"),
            world,
            targets,
        }
    }

    fn client(&mut self, way: Way, number: u16) -> Peer {
        let client = self.world.connect((self.gateway, way.port(number)));
        self.world.keep_open(client);
        client
    }

    /// Takes the connection of the gateway to the target with that number.
    fn accept(&mut self, number: u16) -> Option<Peer> {
        let target = self.world.accept(self.targets[usize::from(number)])?;
        self.world.keep_open(target);
        Some(target)
    }

    /// Checks that nothing is left of the tunnels, and ends the gateway.
    fn finish(mut self) {
        let engine = self.world.engine(self.gateway);
        let metrics = self
            .world
            .handler(self.gateway, 0)
            .control(engine)
            .metrics();
        assert!(
            metrics.contains("epicycle_gateway_tunnels 0\n"),
            "{metrics}"
        );
        for reactor in 0..engine.reactors() {
            let proxy = self.world.handler(self.gateway, reactor);
            assert_eq!((proxy.target_dials(), proxy.waiting()), (0, 0));
            assert_eq!((proxy.in_flight(), proxy.node_connections()), (0, 0));
            assert_eq!(proxy.upstream_connections(), 0);
        }
        let stats = self.world.stats(self.gateway);
        assert_eq!((stats.connections, stats.buffered), (0, 0));
        self.world.finish(self.gateway);
    }
}

#[test]
fn a_tunnel_is_the_same_wherever_its_handshake_and_first_bytes_are_cut() {
    for way in WAYS {
        let mut rig = Rig::start(1, Link::calm(), &mut Rng::with_seed(1));
        let handshake = way.handshake(0);
        let whole = [&*handshake, b"early bytes"].concat();
        let each_byte: Vec<usize> = (1..whole.len()).collect();
        let single = (0..=whole.len()).map(|cut| vec![cut]);
        for cuts in single.chain([each_byte]) {
            let client = rig.client(way, 0);
            let mut at = 0;
            for cut in cuts.iter().copied().chain([whole.len()]) {
                rig.world.send(client, &whole[at..cut]);
                at = cut;
                // Until it was read, and answered if it is complete.
                rig.world.run_for(Duration::from_millis(1));
                let received = rig.world.received(client);
                let is_asked = cut >= handshake.len();
                assert_eq!(
                    way.payload(received).is_some(),
                    is_asked || way == Way::Tcp,
                    "{way:?} cut at {cuts:?}"
                );
            }
            let target = rig.accept(0).expect("the gateway has connected");
            assert_eq!(
                rig.world.received(target),
                b"early bytes",
                "{way:?} {cuts:?}"
            );
            rig.world.send(target, "an answer");
            rig.world.shutdown(target);
            rig.world.run_for(Duration::from_millis(1));
            let answer = way.payload(rig.world.received(client));
            assert_eq!(answer, Some(&b"an answer"[..]));
            assert_eq!(rig.world.ending(client), Ending::Finished);
            // Its own way is open still.
            rig.world.send(client, ", and late ones");
            rig.world.shutdown(client);
            rig.world.run_for(Duration::from_millis(1));
            let received = rig.world.received(target);
            assert_eq!(received, b"early bytes, and late ones");
            assert_eq!(rig.world.ending(target), Ending::Finished);
            assert!(rig.accept(0).is_none());
        }
        rig.finish();
    }
}

/// The disturbances of a run.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// The percentage of connections that break.
    resets: u32,
    /// True if ends may close or reset their connections, or leave them open.
    leave: bool,
    /// True if the gateway is told to end amid the tunnels.
    drain: bool,
}

/// An end of a tunnel, and what it has done.
struct Side {
    peer: Peer,
    sent: Vec<u8>,
    farewell: Option<Farewell>,
    /// The things that it has yet to do.
    left: usize,
}

impl Side {
    fn new(peer: Peer, rng: &mut Rng) -> Self {
        Self {
            peer,
            sent: Vec::new(),
            farewell: None,
            left: rng.usize(0..6),
        }
    }

    /// Returns the end of a target, which was connected some time ago.
    fn of_target(peer: Peer, world: &World, rng: &mut Rng) -> Self {
        Self {
            // Nobody told it yet to keep its stream open.
            farewell: (world.ending(peer) == Ending::Finished).then_some(Farewell::Shutdown),
            ..Self::new(peer, rng)
        }
    }

    /// Does the next thing. Returns false if nothing is left.
    fn act(&mut self, world: &mut World, rng: &mut Rng, trouble: Trouble) -> bool {
        if self.farewell.is_some() {
            return false;
        }
        if self.left == 0 {
            // It reads on, or its end would never come.
            world.set_reading(self.peer, Reading::Freely);
            let farewell = match trouble.leave {
                true => world::farewell(rng),
                false => Farewell::Shutdown,
            };
            match farewell {
                Farewell::Shutdown => world.shutdown(self.peer),
                Farewell::Close => world.close(self.peer),
                Farewell::Reset => world.reset(self.peer),
                Farewell::None => {}
            }
            self.farewell = Some(farewell);
            return true;
        }
        self.left -= 1;
        match rng.u32(..4) {
            0 => {
                let reading = match rng.bool() {
                    true => Reading::Never,
                    false => world::reading(rng),
                };
                world.set_reading(self.peer, reading);
            }
            _ => {
                let mut bytes = vec![0; world::len(rng) * rng.usize(1..4)];
                rng.fill(&mut bytes);
                if world.send(self.peer, &bytes) {
                    self.sent.extend(bytes);
                }
            }
        }
        true
    }

    /// Returns true if all that it has sent was meant to arrive, with the end of its stream.
    fn has_ended(&self) -> bool {
        matches!(self.farewell, Some(Farewell::Shutdown | Farewell::Close))
    }
}

struct Tunnel {
    way: Way,
    number: u16,
    client: Side,
    target: Option<Side>,
}

/// Some clients use tunnels through the gateway. Returns a number that tells runs apart.
fn tunnels(seed: u64, trouble: Trouble) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let link = world::link(&mut rng).resets(trouble.resets);
    let mut rig = Rig::start(seed, link, &mut rng);
    let mut tunnels: Vec<Tunnel> = (0..rng.u16(1..=MOST))
        .map(|number| {
            let way = WAYS[rng.usize(..WAYS.len())];
            let client = rig.client(way, number);
            rig.world.send(client, way.handshake(number));
            let mut client = Side::new(client, &mut rng);
            if trouble.leave && rng.u32(..4) == 0 {
                // It may have left before its target is connected.
                while client.act(&mut rig.world, &mut rng, trouble) {}
                let pause = rng.u64(..50_000);
                rig.world.run_for(Duration::from_micros(pause));
            }
            Tunnel {
                way,
                number,
                client,
                target: None,
            }
        })
        .collect();
    let mut drains_in = trouble.drain.then(|| rng.u32(..60));
    for _ in 0..200 {
        let tunnel = rng.usize(..tunnels.len());
        let tunnel = &mut tunnels[tunnel];
        if let Some(target) = rig.accept(tunnel.number) {
            tunnel.target = Some(Side::of_target(target, &rig.world, &mut rng));
        }
        let side = match &mut tunnel.target {
            Some(target) if rng.bool() => target,
            _ => &mut tunnel.client,
        };
        let has_acted = side.act(&mut rig.world, &mut rng, trouble);
        if has_acted && rng.bool() {
            let pause = rng.u64(..50_000);
            rig.world.run_for(Duration::from_micros(pause));
        }
        if let Some(left) = &mut drains_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                rig.world.engine(rig.gateway).shutdown();
                drains_in = None;
            }
        }
    }
    for tunnel in &mut tunnels {
        // Whoever comes late has nothing to say.
        rig.world.run_for(Duration::from_secs(1));
        while let Some(target) = rig.accept(tunnel.number) {
            tunnel.target = Some(Side::of_target(target, &rig.world, &mut rng));
        }
        for side in [&mut tunnel.client].into_iter().chain(&mut tunnel.target) {
            while side.act(&mut rig.world, &mut rng, trouble) {}
        }
    }
    rig.world.run_for(LONG * 3);
    for tunnel in &tunnels {
        check(&rig.world, tunnel, trouble);
    }
    let fingerprint = rig.world.fingerprint();
    rig.finish();
    fingerprint
}

/// Checks that the bytes of both directions have arrived complete and in order, or that the stream was visibly cut.
fn check(world: &World, tunnel: &Tunnel, trouble: Trouble) {
    let Tunnel {
        way,
        client,
        target,
        ..
    } = tunnel;
    let received = world.received(client.peer);
    let is_calm = trouble.resets == 0 && !trouble.leave && !trouble.drain;
    if !is_calm && is_refused(*way, received) {
        return;
    }
    let answer = way.payload(received);
    let Some(target) = target else {
        assert!(!is_calm, "{way:?} leads nowhere");
        assert!(answer.is_none_or(<[u8]>::is_empty));
        return;
    };
    let may_break = trouble.resets > 0
        || trouble.drain
        || [client, target]
            .iter()
            .any(|side| side.farewell != Some(Farewell::Shutdown));
    for (from, to, received) in [
        (client, target, Some(world.received(target.peer))),
        (target, client, answer),
    ] {
        let received = received.unwrap_or_default();
        assert!(
            from.sent.starts_with(received),
            "{way:?}: something else came through"
        );
        let ending = world.ending(to.peer);
        if ending == Ending::Finished {
            assert_eq!(
                received.len(),
                from.sent.len(),
                "{way:?}: a loss looks like an end"
            );
            // One that stays has its tunnel ended once nothing has passed for long.
            assert!(
                from.has_ended() || from.farewell == Some(Farewell::None) || trouble.drain,
                "{way:?}: an end that nobody has sent"
            );
        }
        if !may_break {
            assert_eq!(ending, Ending::Finished, "{way:?}");
        }
    }
}

/// Returns true if a client was told that there is no way to its target.
fn is_refused(way: Way, received: &[u8]) -> bool {
    match way {
        Way::Socks => received.get(3).is_some_and(|code| *code != 0),
        Way::Connect => received.starts_with(b"HTTP/1.1 50"),
        Way::Tcp => false,
    }
}

#[test]
fn a_tunnel_carries_all_bytes_in_order_and_each_end_by_itself() {
    each_seed(0..200, |seed| {
        tunnels(seed, Trouble::default());
    });
}

#[test]
fn ends_of_a_tunnel_that_leave_are_seen_at_the_other_side_and_leave_nothing_behind() {
    each_seed(0..200, |seed| {
        let trouble = Trouble {
            leave: true,
            ..Trouble::default()
        };
        tunnels(seed, trouble);
    });
}

#[test]
fn whatever_breaks_at_a_tunnel_no_stream_that_lost_bytes_looks_complete() {
    each_seed(0..200, |seed| {
        let trouble = Trouble {
            resets: 25,
            leave: seed % 2 == 0,
            drain: seed % 5 == 0,
        };
        // A seed has one outcome.
        assert_eq!(tunnels(seed, trouble), tunnels(seed, trouble));
    });
}
