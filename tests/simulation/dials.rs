//! Outbound connections in the simulated network: to scripted peers, to nobody, over cuts, and by names.

use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Host, Link, Peer, Reading, Resolution, World, each_seed};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, EventHandler, FailedConnect,
    Origin, Reactor, Reconnect, Server,
};
use fastrand::Rng;

use super::world;

/// Says hello on each connection that it makes, echoes, and notes what happens.
#[derive(Default)]
struct Caller {
    opened: usize,
    failed: Vec<FailedConnect>,
    closed: Vec<(Closed, String)>,
    received: Vec<u8>,
}

impl Caller {
    fn errors(&self) -> Vec<String> {
        let errors = self.failed.iter().map(|failed| failed.error.to_string());
        errors.collect()
    }
}

impl EventHandler for Caller {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        assert!(matches!(conn.origin(), Origin::Connected { .. }));
        self.opened += 1;
        conn.write(b"hello").ok()
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        self.received.extend(bytes);
        conn.write(bytes).into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), reason: CloseReason) {
        self.closed.push((info.clone(), reason.to_string()));
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.failed.push(failed);
    }
}

const HOME: [u8; 4] = [192, 168, 0, 1];
const PEER: [u8; 4] = [192, 168, 0, 9];

fn start(world: &mut World) -> Host<Caller> {
    let caller = |_| Caller::default();
    world.start(HOME, Client::new(), caller).expect("a client")
}

fn connect(world: &World, caller: Host<Caller>, connect: impl Into<Connect>) {
    let engine = world.engine(caller);
    engine.connect(connect).expect("it is accepted");
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_scripted_server_accepts_reads_writes_and_closes() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = world::link(&mut rng).resets(0);
        let mut world = World::new(seed, link).expect("a world");
        let caller = start(&mut world);
        let listener = world.listen((PEER, 7));
        connect(&world, caller, "tcp://192.168.0.9:7");
        world.run_for(seconds(2));
        let peer = world.accept(listener).expect("it has arrived");
        assert_eq!(world.accept(listener), None);
        assert_eq!(world.received(peer), b"hello");
        let mut bytes = vec![0; world::len(&mut rng)];
        rng.fill(&mut bytes);
        world.send(peer, &bytes);
        world.shutdown(peer);
        world.run_for(seconds(1000));
        assert_eq!(world.received(peer), [b"hello", &bytes[..]].concat());
        assert_eq!(world.ending(peer), Ending::Finished);
        let handler = world.handler(caller, 0);
        assert_eq!((handler.opened, handler.received.len()), (1, bytes.len()));
        assert_eq!(handler.closed.len(), 1);
    });
}

#[test]
fn each_way_to_fail_has_its_error_and_its_time() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let caller = start(&mut world);
    let listener = world.listen((PEER, 7));
    // Nobody listens; no such host; no route for IPv6; an address of another host.
    connect(&world, caller, "tcp://192.168.0.9:8");
    world.run_for(seconds(1));
    connect(&world, caller, "tcp://192.168.0.10:8");
    world.run_for(seconds(1));
    connect(&world, caller, "tcp://[fd00::1]:8");
    world.run_for(seconds(1));
    let foreign = Connect::to("tcp://192.168.0.9:7").local_addr((PEER, 0).into());
    connect(&world, caller, foreign);
    world.run_for(seconds(1));
    let denied = Connect::to("tcp://192.168.0.9:7").allow(|_| false);
    connect(&world, caller, denied);
    world.run_for(seconds(1));
    let errors = world.handler(caller, 0).errors();
    let expected = [
        "connection refused",
        "host unreachable",
        "network unreachable",
        "address not available",
        "not allowed",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
    // SYNs vanish: the connect has its timeout, to the microsecond.
    world.cut(caller, PEER);
    let began = world.now();
    let connect_within = Connect::to("tcp://192.168.0.9:7").timeout(seconds(3));
    connect(&world, caller, connect_within);
    world.run_until(seconds(10), |world| {
        world.handler(caller, 0).failed.len() > expected.len()
    });
    let took = world.now() - began;
    assert!(
        (seconds(3)..seconds(3) + Duration::from_millis(2)).contains(&took),
        "{took:?}"
    );
    // Without one the host gives up after its last SYN, as Linux does.
    connect(
        &world,
        caller,
        Connect::to("tcp://192.168.0.9:7").timeout(Duration::MAX),
    );
    world.run_for(seconds(120));
    assert_eq!(world.handler(caller, 0).failed.len(), 6);
    world.run_for(seconds(10));
    let errors = world.handler(caller, 0).errors();
    assert!(errors[6].contains("timed out"), "{errors:?}");
    assert_eq!(world.accept(listener), None);
    assert_eq!(world.handler(caller, 0).opened, 0);
}

#[test]
fn a_connect_that_is_given_up_leaves_nothing_at_the_other_end() {
    each_seed(0..200, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = world::link(&mut rng).resets(0);
        let link = link.delay(Duration::ZERO..=seconds(2));
        let mut world = World::new(seed, link).expect("a world");
        let caller = start(&mut world);
        let listener = world.listen((PEER, 7));
        let within = Duration::from_millis(rng.u64(1..2000));
        let to = Connect::to("tcp://192.168.0.9:7").timeout(within);
        connect(&world, caller, to);
        world.run_for(seconds(100));
        let handler = world.handler(caller, 0);
        assert_eq!(handler.opened + handler.failed.len(), 1);
        let failed = handler.opened == 0;
        if let Some(peer) = world.accept(listener)
            && failed
        {
            assert_eq!(world.ending(peer), Ending::Reset);
            assert_eq!(world.received(peer), b"");
        }
        assert_eq!(world.stats(caller).connections == 0, failed);
    });
}

#[test]
fn a_connection_is_made_again_when_a_partition_heals() {
    each_seed(0..200, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = world::link(&mut rng).resets(0);
        let mut world = World::new(seed, link).expect("a world");
        let options = Client::new()
            .idle_timeout(seconds(30))
            .write_stall_timeout(seconds(30));
        let caller = world.start(HOME, options, |_| Caller::default());
        let caller = caller.expect("a client");
        let listener = world.listen((PEER, 7));
        let again = Reconnect::new(Duration::from_millis(100), seconds(5));
        let to = Connect::to("tcp://192.168.0.9:7").timeout(seconds(5));
        connect(&world, caller, to.reconnect(again));
        world.run_for(seconds(2));
        let first = world.accept(listener).expect("it is connected");
        world.cut(caller, PEER);
        world.send(first, "lost for now");
        world.run_for(seconds(rng.u64(60..200)));
        let handler = world.handler(caller, 0);
        assert_eq!((handler.opened, handler.closed.len()), (1, 1));
        assert!(handler.failed.len() >= 3, "{:?}", handler.errors());
        assert_eq!(handler.received, b"", "nothing passes a cut");
        assert_eq!(world.ending(first), Ending::Open, "it cannot know");
        world.heal(caller, PEER);
        world.run_for(seconds(25));
        assert_ne!(world.ending(first), Ending::Open);
        let handler = world.handler(caller, 0);
        assert_eq!(handler.opened, 2, "{:?}", handler.errors());
        // Connects whose SYN had passed before they were given up have left connections that are reset.
        let accepted: Vec<Peer> = std::iter::from_fn(|| world.accept(listener)).collect();
        let is_open = |peer: &&Peer| world.ending(**peer) == Ending::Open;
        let open: Vec<&Peer> = accepted.iter().filter(is_open).collect();
        assert_eq!(open.len(), 1);
        assert_eq!(world.received(*open[0]), b"hello");
    });
}

#[test]
fn names_resolve_late_to_several_addresses_or_never() {
    each_seed(0..100, |seed| {
        let mut world = World::new(seed, Link::hostile()).expect("a world");
        let options = Client::new().lookup_threads(2);
        let caller = world.start(HOME, options, |_| Caller::default());
        let caller = caller.expect("a client");
        let listener = world.listen((PEER, 7));
        // The first address has no host, and nobody listens at the second.
        world.listen(([192, 168, 0, 8], 1));
        let several = [[192, 168, 0, 7], [192, 168, 0, 8], PEER];
        let late = Resolution::to(several).after(seconds(2)..=seconds(3));
        world.set_name("late.test", late);
        world.set_name("gone.test", Resolution::failure("NXDOMAIN"));
        world.set_name("silent.test", Resolution::never());
        let to = |name: &str| Connect::to(format!("tcp://{name}:7")).timeout(seconds(8));
        connect(&world, caller, to("late.test"));
        connect(&world, caller, to("gone.test"));
        world.run_for(seconds(1));
        assert!(world.accept(listener).is_none());
        let errors = world.handler(caller, 0).errors();
        assert!(
            matches!(&errors[..], [error] if error.contains("NXDOMAIN")),
            "{errors:?}"
        );
        world.run_for(seconds(5));
        let peer = world.accept(listener).expect("the last of its addresses");
        assert_eq!(world.received(peer), b"hello");
        // Two that are never answered hold both threads, and the third one waits for its own timeout.
        world.set_name("silent.too", Resolution::never());
        connect(&world, caller, to("silent.test"));
        connect(&world, caller, to("silent.too"));
        world.run_for(seconds(1));
        connect(&world, caller, to("gone.test"));
        world.run_for(seconds(20));
        let errors = world.handler(caller, 0).errors();
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors[1..].iter().all(|error| error.contains("timeout")));
        assert_eq!(world.engine(caller).stats().lookups.running, 2);
        assert_eq!(world.handler(caller, 0).opened, 1);
    });
}

#[test]
fn cached_addresses_expire_in_virtual_time() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let options = Client::new().lookup_ttl(seconds(60));
    let caller = world.start(HOME, options, |_| Caller::default());
    let caller = caller.expect("a client");
    let listener = world.listen((PEER, 7));
    world.set_name("peer.test", Resolution::to([PEER]));
    let look = |world: &mut World, count: u64| {
        connect(world, caller, "tcp://peer.test:7");
        world.run_for(seconds(1));
        assert!(world.accept(listener).is_some());
        let stats = world.engine(caller).stats().lookups;
        assert_eq!(stats.completed, count);
    };
    look(&mut world, 1);
    world.run_for(seconds(58));
    look(&mut world, 1);
    look(&mut world, 2);
}

#[test]
fn a_resolver_of_the_engines_own_is_asked_in_its_place() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let own = |host: &str| match host {
        "own.test" => Ok(vec![(PEER, 0).into()]),
        _ => Err(std::io::Error::other("unknown")),
    };
    let options = Client::new().resolver(own);
    let caller = world.start(HOME, options, |_| Caller::default());
    let caller = caller.expect("a client");
    let listener = world.listen((PEER, 7));
    connect(&world, caller, "tcp://own.test:7");
    world.run_for(seconds(1));
    assert!(world.accept(listener).is_some());
}

#[test]
fn a_peer_that_takes_nothing_stops_the_writer_at_its_limit() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let caller = start(&mut world);
    let listener = world.listen((PEER, 7));
    connect(&world, caller, "tcp://192.168.0.9:7");
    world.run_for(seconds(1));
    let peer = world.accept(listener).expect("it is connected");
    world.set_reading(peer, Reading::Never);
    world.send(peer, vec![1; 1 << 20]);
    world.run_for(seconds(1));
    // The echo fills the socket's buffer of 256 KiB, and the rest waits in the engine.
    let stats = world.stats(caller);
    assert_eq!(stats.bytes_in, 1 << 20);
    assert!(stats.bytes_out <= (256 << 10) + 5, "{}", stats.bytes_out);
    world.set_reading(peer, Reading::Freely);
    world.run_for(seconds(10));
    assert_eq!(world.received(peer).len(), (1 << 20) + 5);
}

#[test]
fn unix_sockets_connect_within_a_host() {
    let mut world = World::new(1, Link::hostile()).expect("a world");
    let server = Server::bind("unix:///run/app.sock").and("unix://@abstract");
    let echo = |_| epicycle::service(|conn, bytes| conn.write(bytes).into());
    let server = world.start(PEER, server, echo).expect("a server");
    let peer = world.connect_unix(server, "/run/app.sock");
    world.send(peer, "ping");
    world.run_for(seconds(1));
    assert_eq!(world.received(peer), b"ping");
    // Another host has other files.
    let caller = start(&mut world);
    connect(&world, caller, "unix:///run/app.sock");
    world.run_for(seconds(1));
    let errors = world.handler(caller, 0).errors();
    assert!(
        matches!(&errors[..], [error] if error.contains("not found")),
        "{errors:?}"
    );
}
