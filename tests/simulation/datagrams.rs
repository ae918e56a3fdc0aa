//! UDP over a network that loses, duplicates and reorders datagrams.

use std::collections::HashMap;
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Host, Link, World, each_seed};
use epicycle::{
    Action, Client, CloseReason, Closed, Conn, ConnInfo, Connect, Datagram, EventHandler, Listen,
    Reactor, Server, Udp, UdpSessions, service,
};

const SERVER: [u8; 4] = [192, 168, 0, 1];
const CLIENT: [u8; 4] = [192, 168, 0, 2];

#[test]
fn each_datagram_of_a_session_is_echoed_as_often_as_it_arrives() {
    each_seed(0..200, |seed| {
        let mut world = World::new(seed, Link::hostile()).expect("a world");
        let listen = Listen::on("udp://:53").sessions(UdpSessions::new());
        let server = Server::bind(listen).reactors(2);
        let echo = |_| service(|conn, bytes| conn.write(bytes).into());
        let server = world.start(SERVER, server, echo).expect("a server");
        let peers: Vec<_> = (0..3)
            .map(|n| world.bind_udp(([10, 0, 0, n + 1], 5000)))
            .collect();
        for n in 0..50u8 {
            for (place, peer) in peers.iter().enumerate() {
                world.send_datagram(*peer, (server, 53), [place as u8, n]);
            }
            world.run_for(Duration::from_millis(1));
        }
        world.run_for(Duration::from_secs(1));
        let (mut echoes, mut reordered, mut doubled) = (0, 0, 0);
        for (place, peer) in peers.iter().enumerate() {
            let mut seen: HashMap<u8, usize> = HashMap::new();
            let mut last = 0;
            while let Some((from, bytes)) = world.take_datagram(*peer) {
                assert_eq!(from, (server, 53).into());
                assert_eq!((bytes.len(), bytes[0]), (2, place as u8));
                echoes += 1;
                reordered += usize::from(bytes[1] < last);
                last = bytes[1];
                let times = seen.entry(bytes[1]).or_default();
                *times += 1;
                doubled += usize::from(*times == 2);
                assert!(*times <= 4, "twice each way");
            }
        }
        let stats = world.stats(server);
        assert!(echoes > 50, "{echoes}");
        assert_eq!(stats.datagrams_in, stats.datagrams_out);
        assert!(reordered > 0 && doubled > 0 && stats.datagrams_in < 150 * 2);
        assert_eq!(stats.connections, 3);
    });
}

/// Asks until it is answered, as every protocol over UDP has to.
#[derive(Default)]
struct Asker {
    asked: usize,
    answer: Option<Vec<u8>>,
    ended: Vec<String>,
}

impl EventHandler for Asker {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        conn.set_interval(Duration::from_secs(1), 0);
        self.asked += 1;
        conn.write(b"?").ok()
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        self.answer = Some(bytes.to_vec());
        Action::Close
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), _: u64) -> Action {
        self.asked += 1;
        conn.write(b"?").into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.ended.push(reason.to_string());
    }
}

/// Answers each datagram, without a session.
struct Answerer;

impl EventHandler for Answerer {
    type Codec = Raw;
    type Session = ();
    const HANDLES_DATAGRAMS: bool = true;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        None
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), _: &[u8]) -> Action {
        Action::Close
    }

    fn on_datagram(&mut self, udp: &mut Udp<'_, Self>, datagram: Datagram<'_>) -> Action {
        assert_eq!(datagram.data, b"?");
        udp.reply(b"!").into()
    }
}

fn ask(world: &mut World) -> Host<Asker> {
    let asker = |_| Asker::default();
    let asker = world.start(CLIENT, Client::new(), asker).expect("a client");
    let connect = Connect::to("udp://192.168.0.1:53");
    world.engine(asker).connect(connect).expect("it runs");
    asker
}

#[test]
fn an_engine_that_asks_again_is_answered_by_another_over_a_link_that_loses_most() {
    each_seed(0..200, |seed| {
        let link = Link::hostile().loss(60);
        let mut world = World::new(seed, link).expect("a world");
        let server = Server::bind("udp://:53");
        let server = world.start(SERVER, server, |_| Answerer);
        server.expect("a server");
        let asker = ask(&mut world);
        world.run_for(Duration::from_secs(100));
        let handler = world.handler(asker, 0);
        assert_eq!(handler.answer.as_deref(), Some(&b"!"[..]), "seed {seed}");
        assert_eq!(handler.ended.len(), 1);
        assert_eq!(world.stats(asker).connections, 0);
    });
}

#[test]
fn a_cut_loses_datagrams_and_a_closed_port_ends_the_session() {
    let mut world = World::new(1, Link::calm()).expect("a world");
    world.bind_udp((SERVER, 54));
    world.cut(SERVER, CLIENT);
    let asker = ask(&mut world);
    world.run_for(Duration::from_secs(10));
    assert!(world.handler(asker, 0).asked >= 10, "nobody tells");
    assert!(world.handler(asker, 0).ended.is_empty());
    world.heal(SERVER, CLIENT);
    world.run_for(Duration::from_secs(2));
    let ended = &world.handler(asker, 0).ended;
    assert!(
        matches!(&ended[..], [reason] if reason.contains("refused")),
        "{ended:?}"
    );
}
