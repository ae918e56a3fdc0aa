//! TLS over the simulated network: records end anywhere, and the data arrives with its end.

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use epicycle::codec::Raw;
use epicycle::testing::{Ending, Link, Peer, Resolution, Simulation, World, each_seed};
use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
use epicycle::{
    Action, Client as ClientEngine, CloseReason, Closed, Conn, ConnInfo, Connect, EventHandler,
    FailedConnect, Listen, Origin, Reactor,
};
use fastrand::Rng;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::world;

/// Both sides' settings, with a certificate that signs itself.
static SETTINGS: LazyLock<(TlsServer, Arc<ClientConfig>, TlsClient)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let server = TlsServer::new(identity.expect("they match")).expect("is set up");
    // The time of a handshake in mid-stream includes that of the output before it, which the network may take long to deliver.
    let server = server.handshake_timeout(Duration::from_secs(1000));
    let mut roots = RootCertStore::empty();
    let root: CertificateDer<'_> = made.cert.der().clone();
    roots.add(root).expect("is a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let roots = Roots::from_pem(made.cert.pem()).expect("a certificate");
    let engine = TlsClient::new(&roots).expect("is set up");
    (server, Arc::new(client), engine)
});

/// Echoes, and counts how connections end.
#[derive(Default)]
struct Echo {
    opened: usize,
    ended: Vec<String>,
}

impl EventHandler for Echo {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        assert!(conn.tls().is_some(), "hands are shaken");
        self.opened += 1;
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        conn.write(bytes).into()
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.ended.push(reason.to_string());
    }
}

struct Client {
    peer: Peer,
    tls: ClientConnection,
    wire: Vec<u8>,
    sent: Vec<u8>,
    got: Vec<u8>,
    /// The server's stream ended as TLS wants it.
    ended: bool,
}

impl Client {
    /// Takes what has arrived, and sends what there is to send.
    fn pump(&mut self, sim: &mut Simulation<Echo>) {
        self.wire.extend(sim.take_received(self.peer));
        let mut wire = &self.wire[..];
        while !wire.is_empty() && !self.ended {
            self.tls.read_tls(&mut wire).expect("there is room");
            self.tls.process_new_packets().expect("valid records");
            match self.tls.reader().read_to_end(&mut self.got) {
                Ok(_) => self.ended = true,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        self.wire.clear();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).expect("memory");
        }
        sim.send(self.peer, records);
    }
}

#[test]
fn records_come_back_and_the_stream_ends_as_it_should() {
    each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (tls, config, _) = &*SETTINGS;
        let server = world::server_on(Listen::on("tcp://:1").tls(tls), &mut rng);
        let link: Link = world::link(&mut rng).resets(0);
        let mut sim =
            Simulation::new(seed, link, server, |_| Echo::default()).expect("a simulation");
        let mut clients: Vec<Client> = (0..rng.usize(1..3))
            .map(|_| {
                let name = "localhost".try_into().expect("a name");
                let peer = sim.connect();
                sim.set_reading(peer, world::reading(&mut rng));
                sim.keep_open(peer);
                Client {
                    peer,
                    tls: ClientConnection::new(config.clone(), name).expect("is set up"),
                    wire: Vec::new(),
                    sent: Vec::new(),
                    got: Vec::new(),
                    ended: false,
                }
            })
            .collect();
        for _ in 0..rng.usize(1..10) {
            for client in &mut clients {
                let mut bytes = vec![0; world::len(&mut rng)];
                rng.fill(&mut bytes);
                // More than it buffers is not taken.
                let taken = client.tls.writer().write(&bytes).expect("some of it");
                client.sent.extend(&bytes[..taken]);
                client.pump(&mut sim);
            }
            sim.run_for(Duration::from_micros(rng.u64(..100_000)));
        }
        for _ in 0..200 {
            clients.iter_mut().for_each(|client| client.pump(&mut sim));
            sim.run_for(Duration::from_secs(2));
        }
        for client in &mut clients {
            assert_eq!(client.got, client.sent);
            client.tls.send_close_notify();
            client.pump(&mut sim);
            sim.shutdown(client.peer);
        }
        sim.run_for(Duration::from_secs(1000));
        for client in &mut clients {
            client.pump(&mut sim);
            assert!(client.ended, "no close_notify");
            assert_eq!(sim.ending(client.peer), Ending::Finished);
        }
        sim.finish();
        let handler = sim.handler();
        assert_eq!(handler.opened, clients.len());
        assert_eq!(handler.ended, vec!["closed by the peer"; clients.len()]);
        assert_eq!(sim.stats().buffered, 0);
    });
}

/// Sends bytes over each connection that it makes, and ends it when they are back.
#[derive(Default)]
struct Caller {
    bytes: Vec<u8>,
    back: Vec<u8>,
    ended: Vec<String>,
    failed: Vec<String>,
}

impl EventHandler for Caller {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
        assert!(conn.tls().is_some(), "hands are shaken");
        conn.write(&self.bytes).ok()
    }

    fn react(&mut self, _: &mut Conn<'_, Self>, (): &mut (), bytes: &[u8]) -> Action {
        self.back.extend(bytes);
        match self.back.len() == self.bytes.len() {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, (): (), reason: CloseReason) {
        self.ended.push(reason.to_string());
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.failed.push(failed.error.to_string());
    }
}

#[test]
fn an_engine_talks_tls_to_another_and_trusts_no_wrong_name() {
    each_seed(0..100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (tls, _, trusting) = &*SETTINGS;
        let link: Link = world::link(&mut rng).resets(0);
        let mut world = World::new(seed, link).expect("a world");
        let listen = Listen::on("tcp://:443").tls(tls);
        let server = world::server_on(listen, &mut rng);
        let server = world.start([192, 168, 0, 1], server, |_| Echo::default());
        let server = server.expect("a server");
        let bytes: Vec<u8> = (0..rng.usize(1..200_000)).map(|n| n as u8).collect();
        let caller = |_| Caller {
            bytes: bytes.clone(),
            ..Caller::default()
        };
        let caller = world.start([192, 168, 0, 2], ClientEngine::new(), caller);
        let caller = caller.expect("a client");
        world.set_name("localhost", Resolution::to([server]));
        world.set_name("other.test", Resolution::to([server]));
        let engine = world.engine(caller);
        for name in ["localhost", "other.test"] {
            let connect = Connect::to(format!("tcp://{name}:443")).timeout(Duration::MAX);
            engine.connect(connect.tls(trusting)).expect("it runs");
        }
        world.run_for(Duration::from_secs(3000));
        let handler = world.handler(caller, 0);
        assert_eq!(handler.back, bytes);
        assert_eq!(handler.ended.len(), 1, "{:?}", handler.ended);
        assert!(
            matches!(&handler.failed[..], [error] if error.contains("certificate")),
            "{:?}",
            handler.failed
        );
        assert_eq!(world.stats(server).connections, 0);
    });
}

/// Both sides of a protocol that begins without TLS. The server echoes, and TLS begins behind the first `!`.
struct Starter {
    before: Vec<u8>,
    after: Vec<u8>,
    started: usize,
    ended: Vec<String>,
}

impl EventHandler for Starter {
    type Codec = Raw;
    /// The bytes that have come back.
    type Session = Vec<u8>;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Vec<u8>> {
        if let Origin::Connected { .. } = conn.origin() {
            conn.write(&self.before).ok()?;
        }
        Some(Vec::new())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, back: &mut Vec<u8>, bytes: &[u8]) -> Action {
        let (tls, _, trusting) = &*SETTINGS;
        let starts = conn.tls().is_none() && bytes.ends_with(b"!");
        if let Origin::Accepted { .. } = conn.origin() {
            conn.write(bytes).expect("there is room");
            if starts {
                conn.start_tls_server(tls).expect("is plain");
            }
            return Action::Continue;
        }
        back.extend(bytes);
        if starts {
            assert_eq!(*back, self.before);
            conn.start_tls_client(trusting, "localhost")
                .expect("is plain");
        }
        match conn.tls().is_some() && back[self.before.len()..] == self.after {
            true => Action::Close,
            false => Action::Continue,
        }
    }

    fn on_tls(&mut self, conn: &mut Conn<'_, Self>, _: &mut Vec<u8>) -> Action {
        self.started += 1;
        match conn.origin() {
            Origin::Connected { .. } => conn.write(&self.after).into(),
            _ => Action::Continue,
        }
    }

    fn on_close(&mut self, _: &mut Reactor<'_, Self>, _: &Closed, _: Vec<u8>, reason: CloseReason) {
        self.ended.push(reason.to_string());
    }
}

#[test]
fn tls_begins_in_mid_stream_however_the_bytes_arrive() {
    each_seed(0..150, |seed| {
        let mut rng = Rng::with_seed(seed);
        let breaks = rng.bool();
        let link: Link = match breaks {
            true => world::link(&mut rng),
            false => world::link(&mut rng).resets(0),
        };
        let mut world = World::new(seed, link).expect("a world");
        let mut before = vec![b'.'; rng.usize(0..60_000)];
        before.push(b'!');
        let after: Vec<u8> = (0..rng.usize(1..200_000)).map(|n| n as u8).collect();
        let make = |_| Starter {
            before: before.clone(),
            after: after.clone(),
            started: 0,
            ended: Vec::new(),
        };
        let server = world::server_on(Listen::on("tcp://:25"), &mut rng);
        let server = world.start([192, 168, 0, 1], server, make).expect("starts");
        let client = world
            .start([192, 168, 0, 2], ClientEngine::new(), make)
            .expect("starts");
        let connect = Connect::to("tcp://192.168.0.1:25").timeout(Duration::MAX);
        world.engine(client).connect(connect).expect("it runs");
        world.run_for(Duration::from_secs(3000));
        let (near, far) = (world.handler(client, 0), world.handler(server, 0));
        if !breaks {
            assert_eq!((near.started, far.started), (1, 1));
            assert_eq!(near.ended, ["closed by this side"]);
            assert_eq!(far.ended, ["closed by the peer"]);
        }
        assert_eq!(world.stats(server).connections, 0);
        assert_eq!(world.stats(client).connections, 0);
    });
}
