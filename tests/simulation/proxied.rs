//! PROXY headers over the simulated network: whatever it does, the client's address is known and no byte is lost.

use std::net::SocketAddr;
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Link, Simulation, each_seed};
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnInfo, EventHandler, Listen, ProxyHeader, ProxyProtocol,
    Reactor,
};
use fastrand::Rng;

use super::world;

/// Echoes, and notes the peers that it has served.
#[derive(Default)]
struct Echo(Vec<String>);

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        assert!(conn.via().is_some_and(|via| via != conn.peer_addr()));
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, info: &Closed, (): (), _: CloseReason) {
        self.0.push(info.peer.to_string());
    }
}

#[test]
fn clients_of_a_proxy_are_known_and_others_end_without_a_callback() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let proxies = ProxyProtocol::trust(["0.0.0.0/0", "::/0"]);
        let listen = Listen::on("tcp://:1").proxy_protocol(proxies);
        let server = world::server_on(listen, &mut rng).max_connections_per_ip(1);
        let link: Link = world::link(&mut rng).resets(0);
        let mut sim =
            Simulation::new(seed, link, server, |_| Echo::default()).expect("a simulation");
        let mut clients = Vec::new();
        let mut expected = Vec::new();
        for n in 0..rng.u8(1..5) {
            let client = SocketAddr::from(([192, 0, 2, n], 4000));
            let own = SocketAddr::from(([192, 0, 2, 100], 80));
            let header = match rng.bool() {
                true => ProxyHeader::v1(client, own),
                false => ProxyHeader::v2(client, own),
            };
            let mut bytes = header.as_bytes().to_vec();
            let is_whole = rng.u32(..4) > 0;
            if is_whole {
                expected.push(client.to_string());
            } else if rng.bool() {
                bytes.truncate(rng.usize(..bytes.len()));
            } else {
                bytes[0] ^= 1 << rng.u32(..8);
            }
            let mut payload = vec![0; world::len(&mut rng)];
            rng.fill(&mut payload);
            if is_whole {
                bytes.extend(&payload);
            }
            let peer = sim.connect();
            sim.set_reading(peer, world::reading(&mut rng));
            sim.send(peer, bytes);
            sim.shutdown(peer);
            clients.push((peer, is_whole.then_some(payload)));
        }
        sim.run_for(Duration::from_secs(10_000));
        for (peer, payload) in clients {
            match payload {
                Some(payload) => {
                    assert_eq!(sim.take_received(peer), payload);
                    assert_eq!(sim.ending(peer), Ending::Finished);
                }
                None => {
                    assert!(sim.take_received(peer).is_empty());
                    assert_ne!(sim.ending(peer), Ending::Open);
                }
            }
        }
        sim.finish();
        let mut served = sim.handler().0.clone();
        served.sort();
        assert_eq!(served, expected);
        assert_eq!(sim.stats().refused, 0);
    });
}
