//! Engines that are killed, crash and start again, and links that are cut or slow, while others talk to them.

use std::time::Duration;

use epicycle::codec::{Codec, Decoded, Encode, Fixed, FrameError, Raw};
use epicycle::testing::{Ending, Host, Link, Peer, World, each_seed};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, EventHandler, Outbox, Reactor,
    Reconnect, Server, service,
};
use fastrand::Rng;

use super::world;

const NODE: [u8; 4] = [192, 168, 0, 1];
const GATE: [u8; 4] = [192, 168, 0, 2];

/// A node: it acknowledges numbered records, and remembers all that it has seen, as a disk would.
struct Node {
    seen: std::rc::Rc<std::cell::RefCell<Vec<u64>>>,
}

impl EventHandler for Node {
    type Codec = Fixed;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Fixed {
        // Not lines: the end of the stream ends a line, and it may come early when the peer is killed.
        Fixed::new(8).expect("a size")
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), record: &[u8]) -> Action {
        let number = parse(record);
        let mut seen = self.seen.borrow_mut();
        // A gate repeats from the last acknowledged record on.
        if seen.last().is_none_or(|last| number > *last) {
            assert_eq!(number, seen.len() as u64, "a record is lost");
            seen.push(number);
        }
        conn.send(record).into()
    }
}

/// A gate: it sends numbered records to its node, and again what was not acknowledged when the connection ended.
struct Gate {
    acknowledged: u64,
    ends: Vec<String>,
    opened: usize,
}

const RECORDS: u64 = 200;

/// The time between two records.
const PACE: Duration = Duration::from_millis(100);

impl EventHandler for Gate {
    type Codec = Fixed;
    type Session = u64;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Fixed {
        // Not lines: the end of the stream ends a line, and it may come early when the peer is killed.
        Fixed::new(8).expect("a size")
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<u64> {
        self.opened += 1;
        conn.set_interval(PACE, 0);
        Some(self.acknowledged)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut u64, record: &[u8]) -> Action {
        assert_eq!(parse(record), self.acknowledged, "out of order");
        self.acknowledged += 1;
        if self.acknowledged == RECORDS {
            conn.close();
        }
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, next: &mut u64, _: u64) -> Action {
        if *next < RECORDS {
            *next += 1;
            return conn.send(format!("{:08}", *next - 1).as_bytes()).into();
        }
        Action::Continue
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: u64, reason: CloseReason) {
        self.ends.push(reason.to_string());
    }
}

fn parse(record: &[u8]) -> u64 {
    let text = std::str::from_utf8(record).expect("digits");
    text.parse().expect("a number")
}

fn gate(world: &mut World) -> Host<Gate> {
    let options = Client::new()
        .idle_timeout(Duration::from_secs(5))
        .write_stall_timeout(Duration::from_secs(5));
    let make = |_| Gate {
        acknowledged: 0,
        ends: Vec::new(),
        opened: 0,
    };
    let gate = world.start(GATE, options, make).expect("a gate");
    let again = Reconnect::new(Duration::from_millis(50), Duration::from_secs(2));
    let connect = Connect::to("tcp://192.168.0.1:9000").timeout(Duration::from_secs(3));
    let engine = world.engine(gate);
    engine.connect(connect.reconnect(again)).expect("it runs");
    gate
}

#[test]
fn records_arrive_once_and_in_order_though_nodes_die_and_links_are_cut() {
    let mut reconnects = 0;
    each_seed(0..150, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = Link::hostile().resets(rng.u32(..50));
        let mut world = World::new(seed, link).expect("a world");
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let server = || Server::bind("tcp://:9000").idle_timeout(Duration::from_secs(20));
        let make = |_| Node { seen: seen.clone() };
        let node = world.start(NODE, server(), make).expect("a node");
        let gate = gate(&mut world);
        for _ in 0..rng.usize(1..6) {
            world.run_for(Duration::from_millis(rng.u64(..5000)));
            let pause = Duration::from_millis(rng.u64(..8000));
            match rng.u32(..4) {
                0 => world.kill(node),
                1 => world.crash(node),
                2 => world.cut(node, gate),
                _ => world.cut_from(node, gate),
            }
            world.run_for(pause);
            world.heal(node, gate);
            if !world.is_running(node) {
                world.restart(node, server(), make).expect("a node again");
            }
        }
        let done = world.run_until(Duration::from_secs(300), |world| {
            world.handler(gate, 0).acknowledged == RECORDS
        });
        let handler = world.handler(gate, 0);
        assert!(done, "{} records; {:?}", handler.acknowledged, handler.ends);
        assert!(seen.borrow().iter().copied().eq(0..RECORDS));
        reconnects += handler.opened - 1;
        world.finish(gate);
        world.finish(node);
    });
    assert!(reconnects > 0);
}

/// Starts an echo, and a peer that has got something back.
fn echo(world: &mut World) -> (Host<epicycle::Service>, Peer) {
    let server = Server::bind("tcp://:9000");
    let echo = |_| service(|conn, bytes| conn.write(bytes).into());
    let host = world.start(NODE, server, echo).expect("an echo");
    let peer = world.connect((host, 9000));
    world.send(peer, "one");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.received(peer), b"one");
    (host, peer)
}

fn restart(world: &mut World, host: Host<epicycle::Service>) {
    let server = Server::bind("tcp://:9000");
    let echo = |_| service(|conn, bytes| conn.write(bytes).into());
    world.restart(host, server, echo).expect("it starts again");
}

#[test]
fn a_killed_engine_closes_its_connections_and_refuses_until_it_is_restarted() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let (host, peer) = echo(&mut world);
    let engine = world.engine(host).clone();
    world.kill(host);
    world.run_for(Duration::from_secs(1));
    assert!(!world.is_running(host));
    assert_eq!(world.ending(peer), Ending::Finished);
    assert!(engine.broadcast("nobody is there").is_err());
    let refused = world.connect((host, 9000));
    assert_eq!(world.ending(refused), Ending::Reset);
    restart(&mut world, host);
    let peer = world.connect((host, 9000));
    world.send(peer, "two");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.received(peer), b"two");
    assert_eq!(world.stats(host).connections, 1);
}

#[test]
fn a_crashed_host_is_silent_and_resets_its_old_connections_when_it_is_back() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let (host, peer) = echo(&mut world);
    world.crash(host);
    assert!(world.send(peer, "lost"));
    let waiting = world.connect((host, 9000));
    world.send(waiting, "patient");
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.ending(peer), Ending::Open, "it cannot know");
    assert_eq!(world.ending(waiting), Ending::Open);
    restart(&mut world, host);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.ending(peer), Ending::Reset);
    assert_eq!(
        world.received(waiting),
        b"patient",
        "its SYN was sent again"
    );
}

#[test]
fn a_restarted_engine_begins_its_time_anew_and_the_time_of_the_world_goes_on() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let (host, _) = echo(&mut world);
    world.run_for(Duration::from_secs(1000));
    world.kill(host);
    let server = Server::bind("tcp://:9000").idle_timeout(Duration::from_secs(10));
    let echo = |_| service(|conn, bytes| conn.write(bytes).into());
    world.restart(host, server, echo).expect("it starts again");
    let peer = world.connect((host, 9000));
    world.send(peer, "two");
    world.run_for(Duration::from_secs(9));
    assert_eq!(world.ending(peer), Ending::Open);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.ending(peer), Ending::Finished);
    assert_eq!(world.now(), Duration::from_secs(1012));
}

#[test]
fn a_slow_direction_is_shared_and_the_other_one_stays_fast() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let (host, _) = echo(&mut world);
    let slow = Link::calm().bandwidth(50_000);
    let from: [[u8; 4]; 1] = [[10, 0, 0, 9]];
    world.set_link_from(host, from[0], slow);
    let peers = [1, 2].map(|port| world.connect_from((from[0], port).into(), (host, 9000)));
    for peer in peers {
        world.send(peer, vec![1; 500_000]);
    }
    world.run_for(Duration::from_secs(1));
    for peer in peers {
        let unread = world.unread(peer);
        assert_eq!(unread, 0, "what it sends arrives at once");
    }
    world.run_for(Duration::from_secs(9));
    let received = peers.map(|peer| world.received(peer).len());
    let both: usize = received.iter().sum();
    assert!((495_000..=505_000).contains(&both), "{received:?}");
    assert!(received.iter().all(|received| *received > 200_000));
    world.run_for(Duration::from_secs(11));
    assert_eq!(peers.map(|peer| world.received(peer).len()), [500_000; 2]);
}

#[test]
fn a_host_with_both_ip_versions_dials_with_the_one_of_its_target() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let mut rng = Rng::with_seed(1);
    let server = world::server_on("tcp://:9000", &mut rng);
    let whoami = |_| {
        service(|conn, _| {
            let addr = conn.peer_addr().to_string();
            conn.write(addr.as_bytes()).into()
        })
    };
    let server = world.start(NODE, server, whoami).expect("a server");
    world.add_address(server, [0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    let relay = |_| super::relay::Relay::to("tcp://[fd00::1]:9000");
    let proxy = Server::bind("tcp://:8080");
    let proxy = world.start(GATE, proxy, relay).expect("a proxy");
    world.add_address(proxy, [0xfd00, 0, 0, 0, 0, 0, 0, 2]);
    let peer = world.connect((proxy, 8080));
    world.send(peer, "?");
    world.run_for(Duration::from_secs(1));
    let seen = String::from_utf8_lossy(world.received(peer)).into_owned();
    assert!(seen.starts_with("[fd00::2]:"), "{seen}");
}

/// Compares the time of day in each callback with the clock of the loop.
struct Clockwork {
    /// The time of day and the time of the loop, when the reactor has booted.
    booted: Option<(u64, std::time::Instant)>,
}

/// The time of day at which every simulation begins.
const BEGINNING: u64 = 1_767_225_600;

impl EventHandler for Clockwork {
    type Codec = Telling;
    type Session = ();

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.booted = Some((reactor.unix_time(), reactor.now()));
    }

    fn codec(&mut self, _: &ConnInfo<'_>) -> Telling {
        Telling
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action {
        let (day, start) = self.booted.expect("it has booted");
        // Each is rounded down to seconds by itself.
        let since = (conn.now() - start).as_secs();
        assert!((day + since..=day + since + 1).contains(&conn.unix_time()));
        assert_eq!(conn.reactor().unix_time(), conn.unix_time());
        let told = conn.unix_time();
        conn.send(told).into()
    }
}

/// Writes the time that the handler knows and the time that the codec knows.
struct Telling;

impl Codec for Telling {
    type Frame<'a> = &'a [u8];

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<&'a [u8]>, FrameError> {
        Raw.decode(src)
    }
}

impl Encode<u64> for Telling {
    fn encode(&mut self, handlers: u64, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let codecs = dst.unix_time();
        dst.put(format!("{handlers} {codecs}\n").as_bytes());
        Ok(())
    }
}

#[test]
fn handlers_and_codecs_have_the_same_time_of_day_which_is_the_worlds() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    world.run_for(Duration::from_secs(5000));
    let clockwork = |_| Clockwork { booted: None };
    let host = world.start(NODE, Server::bind("tcp://:9000"), clockwork);
    let host = host.expect("a server");
    let (day, _) = world.handler(host, 0).booted.expect("it has booted");
    assert_eq!(day, BEGINNING + 5000);
    let peer = world.connect((host, 9000));
    for _ in 0..3 {
        world.run_for(Duration::from_millis(98_765));
        world.send(peer, "?");
        let sent = BEGINNING + world.now().as_secs();
        world.run_for(Duration::from_millis(10));
        let told = String::from_utf8(world.take_received(peer)).expect("text");
        assert_eq!(told, format!("{sent} {sent}\n"));
    }
}
