//! Listeners that come and go while the engine runs.

use std::net::SocketAddr;
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Link, World, each_seed};
use epicycle::{
    AcceptMode, Action, Client, Conn, ConnInfo, Error, EventHandler, Listen, Origin, Server,
    UdpSessions, service,
};
use fastrand::Rng;

use super::world;

const HOST: [u8; 4] = [192, 168, 0, 1];

/// Tells each peer the number of its listener, and echoes. A peer that asks with `?` gets the port of a listener of its own.
struct Teller;

impl EventHandler for Teller {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        let Origin::Accepted { listener } = conn.origin() else {
            return None;
        };
        conn.write(&[listener as u8]).ok()
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        if bytes != b"?" {
            return conn.write(bytes).into();
        }
        let listening = conn.engine().listen("tcp://:0").expect("it listens");
        let addr = listening.local_addr.as_socket_addr().expect("is IP");
        conn.write(&addr.port().to_be_bytes()).into()
    }
}

/// Returns an engine that may listen from the start, and the number of its first listener.
fn engine(rng: &mut Rng) -> (Server, usize) {
    let reactors = rng.usize(1..4);
    match rng.u32(..3) {
        0 => (Client::new().reactors(reactors).into(), 0),
        1 => (world::server(rng).reactors(reactors), 1),
        _ => {
            let server = world::server(rng).reactors(reactors);
            (server.accept_mode(AcceptMode::ReusePort), 1)
        }
    }
}

#[test]
fn listeners_come_and_go_and_their_connections_stay() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let link = world::link(&mut rng).resets(0);
        let mut world = World::new(seed, link).expect("a world");
        let (server, mut next) = engine(&mut rng);
        let host = world.start(HOST, server, |_| Teller).expect("an engine");
        let mut open: Vec<(usize, SocketAddr)> = (0..next).map(|n| (n, (HOST, 1).into())).collect();
        let mut closed: Vec<SocketAddr> = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..rng.usize(1..40) {
            match rng.u32(..5) {
                0 => {
                    // A port that was in use may be again.
                    let again = closed.pop().filter(|_| rng.bool());
                    let port = again.map_or(0, |addr| addr.port());
                    let listen = format!("tcp://:{port}");
                    let listening = world.engine(host).listen(listen).expect("it listens");
                    let addr = listening.local_addr.as_socket_addr().expect("is IP");
                    assert_eq!(listening.listener, next);
                    open.push((next, addr));
                    next += 1;
                }
                1 if !open.is_empty() => {
                    let (listener, addr) = open.swap_remove(rng.usize(..open.len()));
                    assert!(world.engine(host).unlisten(listener));
                    assert!(!world.engine(host).unlisten(listener));
                    closed.push(addr);
                }
                _ if !open.is_empty() => {
                    let (listener, addr) = open[rng.usize(..open.len())];
                    peers.push((world.connect(addr), listener));
                }
                _ => {}
            }
            assert_eq!(world.engine(host).is_accepting(), !open.is_empty());
            if let Some(addr) = closed.last() {
                let peer = world.connect(*addr);
                assert_eq!(world.ending(peer), Ending::Reset);
            }
            world.run_for(Duration::from_micros(rng.u64(..20_000)));
        }
        for (peer, _) in &peers {
            world.send(*peer, "hello");
        }
        world.run_for(Duration::from_secs(1000));
        for (peer, listener) in peers {
            let expected = [&[listener as u8][..], b"hello"].concat();
            assert_eq!(world.received(peer), expected);
            assert_eq!(world.ending(peer), Ending::Open);
        }
        assert_eq!(world.finish(host).forced, 0);
        for (_, addr) in open {
            let peer = world.connect(addr);
            assert_eq!(world.ending(peer), Ending::Reset);
        }
        let refused = world.engine(host).listen("tcp://:0");
        assert!(matches!(refused, Err(Error::Stopped)));
    });
}

#[test]
fn an_address_in_use_is_refused_and_free_once_its_listener_closes() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    let server = Server::bind("tcp://:1");
    let host = world.start(HOST, server, |_| Teller).expect("a server");
    let engine = world.engine(host);
    for taken in ["tcp://:1", "tcp://192.168.0.9:1"] {
        let error = engine.listen(taken).expect_err("it is not free");
        assert!(matches!(error, Error::Bind { .. }), "{error}");
    }
    assert!(engine.unlisten(0));
    let listening = engine.listen("tcp://:1").expect("it is free");
    let peer = world.connect((HOST, 1));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.received(peer), [listening.listener as u8]);
}

#[test]
fn a_callback_opens_a_listener_for_its_client() {
    each_seed(0..100, |seed| {
        let mut world = World::new(seed, Link::hostile()).expect("a world");
        let server = Server::bind("tcp://:21").reactors(2);
        let host = world.start(HOST, server, |_| Teller).expect("a server");
        let control = world.connect((HOST, 21));
        world.send(control, "?");
        world.run_for(Duration::from_secs(1000));
        let &[0, high, low] = world.received(control) else {
            panic!("{:?}", world.received(control));
        };
        let data = world.connect((host, u16::from_be_bytes([high, low])));
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.received(data), [1]);
    });
}

#[test]
fn a_udp_listener_opened_later_has_its_socket_on_each_reactor_until_it_closes() {
    each_seed(0..50, |seed| {
        let link = Link::hostile().loss(0).interference(0).duplicates(0);
        let mut world = World::new(seed, link).expect("a world");
        let server = Server::bind("tcp://:1")
            .reactors(3)
            .accept_mode(AcceptMode::ReusePort);
        let echo = |_| service(|conn, bytes| conn.write(bytes).into());
        let host = world.start(HOST, server, echo).expect("a server");
        let sessions = UdpSessions::new().idle_timeout(Duration::from_secs(60));
        let listen = || Listen::on("udp://:53").sessions(sessions.clone());
        let listening = world.engine(host).listen(listen()).expect("it listens");
        let peers: Vec<_> = (0..30)
            .map(|n| world.bind_udp(([10, 0, 0, n + 1], 5000)))
            .collect();
        let (known, new) = peers.split_at(15);
        let ask = |world: &mut World, peers: &[_]| -> usize {
            for peer in peers {
                world.send_datagram(*peer, (HOST, 53), "hello");
            }
            world.run_for(Duration::from_secs(1));
            let mut answers = peers.iter().filter_map(|peer| world.take_datagram(*peer));
            answers.by_ref().count()
        };
        assert_eq!(ask(&mut world, known), 15);
        let stats = world.engine(host).stats();
        assert!(stats.reactors.iter().all(|reactor| reactor.connections > 0));
        assert!(world.engine(host).unlisten(listening.listener));
        world.run_for(Duration::from_secs(1));
        assert_eq!(ask(&mut world, known), 15);
        assert_eq!(ask(&mut world, new), 0);
        let error = world.engine(host).listen(listen()).expect_err("in use");
        assert!(matches!(error, Error::Bind { .. }), "{error}");
        // The last session takes the socket along.
        world.run_for(Duration::from_secs(100));
        assert_eq!(world.stats(host).connections, 0);
        world.engine(host).listen(listen()).expect("it listens");
        assert_eq!(ask(&mut world, new), 15);
    });
}
