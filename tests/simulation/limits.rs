//! The number of different limits that a reactor has room for.

use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Link, World};
use epicycle::{
    Action, Conn, ConnInfo, ConnLimits, EventHandler, Listen, Origin, Server, UdpSessions,
};

/// Gives each connection of the first listener limits of its own.
struct Lavish(u64);

impl EventHandler for Lavish {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        if let Origin::Accepted { listener: 0 } = conn.origin() {
            self.0 += 1;
            let own = ConnLimits::new().idle_timeout(Duration::from_secs(1000 + self.0));
            assert_eq!(conn.set_limits(&own).is_ok(), self.0 <= MOST);
        }
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }
}

/// The most different limits beside those of the server.
const MOST: u64 = 65_535;

#[test]
fn connections_for_whose_limits_there_is_no_room_are_counted() {
    const SERVER: [u8; 4] = [192, 168, 0, 1];

    let mut world = World::new(1, Link::calm()).expect("a world");
    let own = ConnLimits::new().idle_timeout(Duration::from_secs(5));
    let server = Server::bind("tcp://:1")
        .and(Listen::on("tcp://:2").limits(own))
        .and(Listen::on("udp://:53").sessions(UdpSessions::new()))
        .max_connections(1 << 20);
    let host = world
        .start(SERVER, server, |_| Lavish(0))
        .expect("a server");
    for n in 0..=MOST {
        world.connect((SERVER, 1));
        if n % 1024 == 0 {
            world.run_for(Duration::from_millis(10));
        }
    }
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.handler(host, 0).0, MOST + 1);
    assert_eq!(
        world.stats(host).limit_sets_lacking,
        0,
        "the handler is told"
    );

    // A stream has the server's limits: it is not closed for being idle.
    world.connect_from(([10, 1, 1, 1], 5000).into(), (SERVER, 2));
    world.run_for(Duration::from_secs(10));
    let stats = world.stats(host);
    assert_eq!((stats.limit_sets_lacking, stats.refused), (1, 0));
    assert_eq!(stats.connections, MOST + 2);

    // A session that would never end is refused.
    let peer = world.bind_udp(([10, 9, 9, 9], 5000));
    world.send_datagram(peer, (SERVER, 53), "hello");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.take_datagram(peer), None);
    let stats = world.stats(host);
    assert_eq!((stats.limit_sets_lacking, stats.refused), (2, 1));
    assert_eq!(stats.datagrams_dropped, 1);
}
