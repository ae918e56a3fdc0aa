//! The clients of a gate: what they may send, and for how long they may stay.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use epicycle::Addr;
use epicycle::cluster::drpc::{Code, Request, Value};
use epicycle::cluster::gate::{
    ClientListener, Gate, HeartbeatMode, OverRate, RateLimit, RefusedPacket, SlowClient,
};
use epicycle::cluster::packet::PacketOptions;
use log::Level;

use crate::gate::World;
use crate::rig::{Told, Wire, conn, packet};
use crate::util::eventually;
use crate::util::logs::logs;

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";

#[test]
fn input_that_is_no_packet_closes_its_client_and_nobody_else() {
    let world = World::new();
    let (mut other, cid) = world.known_client("other");
    let zeros = [0; 400];
    let bad: [(&str, &[u8]); 5] = [
        ("2 GiB", b"\x80\0\0\0"),
        ("4 GiB", b"\xff\xff\xff\xff"),
        ("5,001 bytes of data", b"\0\0\x13\x8e"),
        ("shorter than its head", b"\0\0\0\x03\0\0\x01"),
        ("size 0, 100 times", &zeros),
    ];
    for (what, bytes) in bad {
        let mut client = world.client();
        client.send(bytes);
        assert!(client.is_over(), "{what}");
    }
    let mut client = world.client();
    client.send(&zeros[..4 * 99]);
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
    other.send(packet(1, 2, "still here"));
    assert_eq!(world.node.await_packet("still here"), (cid, 0));
}

#[test]
fn packets_may_come_in_any_pieces() {
    let world = World::new();
    let (mut client, cid) = world.known_client("first");
    let mut all = packet(1, 2, "second");
    all.extend(HEARTBEAT);
    all.extend(packet(7, 3, "third"));
    for byte in all {
        client.send([byte]);
    }
    client.expect(HEARTBEAT);
    world.node.await_packet("third");
    assert_eq!(world.node.packets(cid), ["first", "second", "third"]);
}

#[test]
fn a_client_that_is_silent_for_two_intervals_is_closed_and_any_packet_is_a_sign_of_life() {
    let interval = Duration::from_millis(500);
    let world = World::with(|gate| gate.heartbeat(HeartbeatMode::Respond, interval));
    let mut silent = world.client();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut lively = world.client();
            while !is_over.load(Ordering::Acquire) {
                // Nobody knows the route.
                lively.send(packet(999, 1, ""));
                thread::sleep(interval / 50);
            }
            lively.send(HEARTBEAT);
            lively.expect(HEARTBEAT);
        });
        assert!(silent.is_over());
        is_over.store(true, Ordering::Release);
    });
    assert_eq!(world.gate.stats().silent, 1);
}

#[test]
fn a_gate_that_ticks_sends_heartbeats_with_its_time_if_it_is_to() {
    let options = PacketOptions::builder()
        .heartbeat_time(true)
        .build()
        .expect("is sound");
    let world = World::with(|gate| {
        let ticks = Duration::from_millis(500);
        gate.packet(options).heartbeat(HeartbeatMode::Tick, ticks)
    });
    let mut client = world.client();
    let mut last = 0;
    for _ in 0..3 {
        let heartbeat = client.next().expect("is open");
        client.send(HEARTBEAT);
        assert_eq!(heartbeat[..5], *b"\0\0\0\x09\x80");
        let time = i64::from_be_bytes(heartbeat[5..].try_into().expect("has 8 bytes"));
        assert!(time > last, "{time} after {last}");
        last = time;
    }
}

#[test]
fn a_client_without_a_user_is_closed_in_time_also_after_an_unbind() {
    let timeout = Duration::from_secs(1);
    let world = World::with(|gate| gate.authorize_timeout(timeout));
    let mut link = world.link();
    let (mut bound, cid) = world.known_client("bound");
    assert_eq!(link.bind(cid, 7), Code::Done);
    let mut stranger = world.client();
    assert!(stranger.is_over());
    let (mut late, _) = world.known_client("late");
    assert!(late.is_over(), "long after the bind of the other");
    bound.send(HEARTBEAT);
    bound.expect(HEARTBEAT);
    assert_eq!(link.call(&Request::Unbind { uid: 7 }), Code::Done);
    assert!(bound.is_over());
    assert_eq!(world.gate.stats().unauthorized, 3);
}

#[test]
fn clients_beyond_the_limits_are_closed_and_leave_room_when_they_go() {
    let world = World::with(|gate| gate.max_connections(2));
    let (first, _) = world.known_client("first");
    let _second = world.known_client("second");
    assert!(world.client().is_over());
    assert_eq!(world.gate.stats().clients_refused, 1);
    // Links are not clients.
    assert_eq!(world.link().bind(1, 1), Code::NotFound);
    drop(first);
    eventually("there is room again", || {
        world.gate.stats().connections == 1
    });
    let _third = world.known_client("third");

    let world = World::with(|gate| gate.max_connections_per_ip(1));
    let (first, _) = world.known_client("first");
    assert!(world.client().is_over());
    drop(first);
    eventually("there is room again", || {
        world.gate.stats().connections == 0
    });
    let _third = world.known_client("third");
}

#[test]
fn a_client_that_sends_too_fast_is_slowed_down_dropped_or_closed() {
    let fast = |policy, packets| {
        let rate = RateLimit::per_second(20, 0).policy(policy);
        let rate = rate.burst(Duration::from_millis(500));
        let world = World::with(|gate| gate.rate_limit(rate));
        let mut client = world.client();
        for n in 0..packets {
            client.send(packet(1, n, &n.to_string()));
        }
        (world, client)
    };
    let (world, _client) = fast(OverRate::Delay, 30);
    let (cid, _) = world.node.await_packet("29");
    let all: Vec<String> = (0..30).map(|n: i32| n.to_string()).collect();
    assert_eq!(world.node.packets(cid), all, "none is lost");

    let (world, mut client) = fast(OverRate::Close, 200);
    assert!(client.is_over());
    assert_eq!(world.gate.stats().refused[RefusedPacket::Rate], 1);

    let (world, mut client) = fast(OverRate::Drop, 200);
    eventually("the rest is dropped", || {
        let stats = world.gate.stats();
        stats.delivered + stats.refused[RefusedPacket::Rate] == 200
    });
    assert!(world.gate.stats().refused[RefusedPacket::Rate] > 0);
    eventually("it may send again", || {
        client.send(packet(1, 1, "later"));
        let told = world.node.told();
        let is_later = |told: &Told| matches!(told, Told::Packet { data, .. } if data == "later");
        told.iter().any(is_later)
    });
}

#[test]
fn refused_packets_are_counted_by_reason_and_answered_if_the_application_wants_to() {
    let logs = logs();
    let world = World::with(|gate| {
        gate.on_refused(|packet, reason| {
            (packet.seq != 0).then(|| format!("{reason:?}").into_bytes())
        })
    });
    let (mut client, cid) = world.known_client("me");
    let refused = [
        (999, RefusedPacket::UnknownRoute),
        (3, RefusedPacket::NoUser),
        (4, RefusedPacket::NoUser),
        (5, RefusedPacket::Internal),
    ];
    for (route, reason) in refused {
        client.send(packet(route, 7, ""));
        client.expect(packet(route, 7, &format!("{reason:?}")));
    }
    assert_eq!(world.link().bind(cid, 7), Code::Done);
    client.send(packet(3, 8, ""));
    client.expect(packet(3, 8, "NotLocated"));
    client.send(packet(999, 0, ""));
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
    let line = format!("of route 5 from connection {cid} is refused: internal");
    assert!(logs.have(Level::Debug, &[&line]));
    let stats = world.gate.stats();
    assert_eq!(stats.refused[RefusedPacket::UnknownRoute], 2);
    assert_eq!(stats.refused[RefusedPacket::NoUser], 2);
    assert_eq!(stats.refused[RefusedPacket::NotLocated], 1);
    assert_eq!(world.node.packets(cid), ["me"]);
}

/// Pushes until the client cannot take more, and returns the number of pushes.
fn flood(world: &World, cid: i64, until: impl Fn() -> bool) -> usize {
    let (mut link, push) = (world.link(), packet(100, 0, &"x".repeat(4000)));
    let target = conn(cid);
    let mut pushes = 0;
    while !until() {
        let push = Request::Push {
            target,
            disconnect: false,
            packet: &push,
        };
        link.call(&push);
        pushes += 1;
        assert!(pushes < 20_000, "it has taken {pushes}");
    }
    pushes
}

#[test]
fn a_client_that_does_not_read_costs_itself_only() {
    let world = World::new();
    let (mut other, other_cid) = world.known_client("other");
    let (_deaf, cid) = world.known_client("deaf");
    flood(&world, cid, || world.gate.stats().slow > 0);
    eventually("it is closed", || world.gate.stats().connections == 1);
    let end = Told::Event {
        event: 3,
        cid,
        uid: 0,
    };
    eventually("its end is told", || world.node.told().contains(&end));
    let hello = packet(100, 0, "hello");
    let push = Request::Push {
        target: conn(other_cid),
        disconnect: false,
        packet: &hello,
    };
    assert_eq!(world.link().call(&push), Code::Done);
    other.expect(&hello);
}

#[test]
fn a_client_that_does_not_read_misses_pushes_if_it_is_to_stay() {
    let world = World::with(|gate| gate.outbound_limit(1 << 20, SlowClient::Drop));
    let (mut deaf, cid) = world.known_client("deaf");
    flood(&world, cid, || world.gate.stats().pushes_dropped > 0);
    // The packets that were taken are whole, and the client goes on when it reads again.
    let pushed = world.gate.stats().pushed;
    for _ in 0..pushed {
        assert_eq!(deaf.next().expect("is open").len(), 9 + 4000);
    }
    deaf.send(packet(1, 2, "awake"));
    world.node.await_packet("awake");
}

#[cfg(feature = "tls")]
#[test]
fn a_listener_with_tls_serves_packets() {
    use std::sync::Arc;

    use epicycle::tls::{Identity, TlsServer};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("signs");
    let identity = Identity::from_pem(issued.cert.pem(), issued.signing_key.serialize_pem());
    let tls = TlsServer::new(identity.expect("is sound")).expect("is sound");
    let listener = ClientListener::at("tcp://127.0.0.1:0").tls(&tls);
    let world = World::with(|gate| gate.listen(listener));

    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).expect("is sound");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config
        .with_safe_default_protocol_versions()
        .expect("has some");
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("is a name");
    let conn = ClientConnection::new(Arc::new(config), name).expect("begins");
    let mut stream = StreamOwned::new(conn, Wire::connect(&world.gate.client_addrs()[1]).0);
    stream.write_all(&packet(1, 1, "secret")).expect("sends");
    stream.write_all(HEARTBEAT).expect("sends");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("answers");
    assert_eq!(answer, HEARTBEAT);
    world.node.await_packet("secret");
}

fn told_address(world: &World, cid: i64) -> (String, Option<Ipv4Addr>) {
    let mut link = world.link();
    let target = conn(cid);
    let text = link.ask(&Request::GetAddr { target }, |answer| match answer.value {
        Value::Addr(addr) => addr.to_owned(),
        value => panic!("{value:?} is no address"),
    });
    let ip = link.ask(&Request::GetIp { target }, |answer| match answer.value {
        Value::Ip(ip) => ip,
        value => panic!("{value:?} is no address"),
    });
    (text, ip)
}

#[test]
fn trusted_proxies_tell_the_clients_address_and_limits_count_it() {
    let world = World::with(|gate| {
        let socket = ClientListener::at("ws://127.0.0.1:0/play");
        gate.max_connections_per_ip(1)
            .listen(socket.trusted_proxies(["127.0.0.1", "10.0.0.0/8"]))
    });
    let open = |told: &str| {
        Socket::open(
            &world.gate.client_addrs()[1],
            "/play",
            &format!("X-Forwarded-For: {told}\r\n"),
        )
    };
    let mut sockets = Vec::new();
    // The client writes what it likes in front of what its proxy appends.
    for (told, client) in [
        ("8.8.8.8, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("203.0.113.8", "203.0.113.8"),
        ("nonsense, 2001:db8::1", "2001:db8::1"),
        ("203.0.113.9, nonsense", "127.0.0.1"),
    ] {
        let mut socket = open(told).expect("opens");
        socket.send(2, &packet(1, 2, told));
        let (cid, _) = world.node.await_packet(told);
        let (text, ip) = told_address(&world, cid);
        let is_peer = client == "127.0.0.1";
        assert!(
            text == client || is_peer && text.starts_with("127.0.0.1:"),
            "{text}"
        );
        assert_eq!(ip, client.parse().ok());
        sockets.push(socket);
    }
    assert_eq!(open("203.0.113.7").err().as_deref(), Some("429"));
    assert_eq!(world.gate.stats().clients_refused, 1);
    drop(sockets);
    eventually("all have gone", || world.gate.stats().connections == 0);
    open("203.0.113.7").expect("there is room again");
}

#[test]
fn peers_that_are_no_trusted_proxies_are_not_believed() {
    let world = World::with(|gate| {
        let socket = ClientListener::at("ws://127.0.0.1:0/play");
        gate.listen(socket.trusted_proxies(["10.0.0.0/8"]))
    });
    let told = "X-Forwarded-For: 203.0.113.7\r\n";
    let mut socket = Socket::open(&world.gate.client_addrs()[1], "/play", told).expect("opens");
    socket.send(2, &packet(1, 2, "a"));
    let (cid, _) = world.node.await_packet("a");
    assert_eq!(told_address(&world, cid).1, Some(Ipv4Addr::LOCALHOST));
    let wrong = ClientListener::at("ws://127.0.0.1:0/").trusted_proxies(["10.0.0.0/99"]);
    let error = Gate::builder().listen(wrong).start().expect_err("is wrong");
    assert!(error.to_string().contains("10.0.0.0/99"), "{error}");
    let wrong = ClientListener::at("tcp://127.0.0.1:0").trusted_proxies(["10.0.0.0/8"]);
    let error = Gate::builder().listen(wrong).start().expect_err("is wrong");
    assert!(error.to_string().contains("ws://"), "{error}");
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn a_proxy_header_tells_the_clients_address_over_tcp() {
    use epicycle::ProxyProtocol;

    let world = World::with(|gate| {
        let listener = ClientListener::at("tcp://127.0.0.1:0");
        gate.max_connections_per_ip(1)
            .listen(listener.proxy_protocol(ProxyProtocol::trust(["127.0.0.1"])))
    });
    let open = |name: &str| {
        let mut client = Wire::connect(&world.gate.client_addrs()[1]);
        client.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 80\r\n");
        client.send(packet(1, 1, name));
        client
    };
    let client = open("first");
    let (cid, _) = world.node.await_packet("first");
    let (text, ip) = told_address(&world, cid);
    assert_eq!(text, "203.0.113.7:4000");
    assert_eq!(ip, Some(Ipv4Addr::new(203, 0, 113, 7)));
    assert!(open("second").is_over(), "there is one already");
    drop(client);
}

/// A client over WebSocket.
pub(crate) struct Socket(pub(crate) Wire);

impl Socket {
    pub(crate) fn open(addr: &Addr, path: &str, origin: &str) -> Result<Self, String> {
        let mut wire = Wire::connect(addr);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{origin}\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.send(request);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            wire.0.read_exact(&mut byte).expect("answers");
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("is text");
        match head.starts_with("HTTP/1.1 101 ") {
            true => Ok(Self(wire)),
            false => Err(head[9..12].to_owned()),
        }
    }

    pub(crate) fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend(payload);
        self.0.0.write_all(&frame).expect("sends");
    }

    /// Returns the opcode and the payload of the next message, which is short.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.0.read_exact(&mut head).expect("is open");
        let mut payload = vec![0; head[1].into()];
        self.0.0.read_exact(&mut payload).expect("is open");
        (head[0], payload)
    }
}

fn sockets(listener: impl FnOnce(ClientListener) -> ClientListener) -> World {
    let socket = listener(ClientListener::at("ws://127.0.0.1:0/play"));
    World::with(|gate| gate.listen(socket))
}

#[test]
fn a_websocket_message_is_one_packet_and_others_close_with_their_code() {
    let world = sockets(|listener| listener);
    let mut socket = Socket::open(
        &world.gate.client_addrs()[1],
        "/play?x=1",
        "Origin: https://any\r\n",
    )
    .expect("opens");
    socket.send(2, HEARTBEAT);
    assert_eq!(socket.next(), (0x82, HEARTBEAT.to_vec()));
    socket.send(2, b"\0\0\0\0");
    socket.send(2, &packet(1, 2, "hi"));
    let (cid, _) = world.node.await_packet("hi");
    let push = packet(1, 2, "hello");
    let request = Request::Push {
        target: conn(cid),
        disconnect: true,
        packet: &push,
    };
    assert_eq!(world.link().call(&request), Code::Done);
    assert_eq!(socket.next(), (0x82, push));
    assert_eq!(socket.next().0, 0x88, "it was asked to be disconnected");

    let two = [packet(1, 2, "a"), packet(1, 3, "b")].concat();
    let bad: [(u8, &[u8], u16); 4] = [
        (2, &two, 1002),
        (2, b"\0\0\0\x03\0\0\x01", 1002),
        (1, b"text", 1003),
        (2, b"\0\0\0", 1002),
    ];
    for (opcode, payload, code) in bad {
        let mut socket = Socket::open(&world.gate.client_addrs()[1], "/play", "").expect("opens");
        socket.send(opcode, payload);
        let (opcode, payload) = socket.next();
        assert_eq!((opcode, &payload[..2]), (0x88, &code.to_be_bytes()[..]));
    }
    let is_connect = |told: &&Told| matches!(told, Told::Event { event: 1, .. });
    eventually("each that was opened is told", || {
        world.node.told().iter().filter(is_connect).count() == 5
    });
}

#[test]
fn a_request_for_a_websocket_needs_the_path_the_origin_and_the_consent_of_the_application() {
    let world = sockets(|listener| {
        let listener = listener.origins(["https://game.example"]);
        listener.check(|request| request.query() != Some("banned"))
    });
    let open = |path, origin| Socket::open(&world.gate.client_addrs()[1], path, origin).map(drop);
    let game = "Origin: https://game.example\r\n";
    assert_eq!(open("/play", game), Ok(()));
    assert_eq!(open("/play", ""), Ok(()));
    assert_eq!(
        open("/play", "Origin: https://evil.example\r\n"),
        Err("403".to_owned())
    );
    assert_eq!(open("/play?banned", game), Err("403".to_owned()));
    assert_eq!(open("/other", game), Err("404".to_owned()));
}

#[test]
fn addresses_and_options_that_cannot_work_are_refused_with_a_remedy() {
    let start = |listener: ClientListener| {
        let started = Gate::builder().listen(listener).start();
        started.expect_err("cannot work").to_string()
    };
    #[cfg(not(feature = "kcp"))]
    assert!(start("kcp://:0".into()).contains("feature `kcp`"));
    assert!(start("wss://:0/".into()).contains("ws://"));
    assert!(start("127.0.0.1:0".into()).contains("tcp://HOST:PORT"));
    assert!(start(ClientListener::at("tcp://:0").origins(["a"])).contains("ws://"));
    assert!(start("tcp://127.0.0.1".into()).contains("no port"));
    let without = Gate::builder().start().expect_err("has no listener");
    assert!(without.to_string().contains("add a listener"));
    let gate = || Gate::builder().listen("tcp://127.0.0.1:0");
    let everywhere = gate().link("tcp://0.0.0.0:0").start().expect_err("where?");
    assert!(everywhere.to_string().contains("give the host"));
    let full = gate().max_connections(0).start().expect_err("has no room");
    assert!(full.to_string().contains("`max_connections`: 0 would"));
    for bytes in [1, 8192, 1 << 30] {
        let narrow = gate().outbound_limit(bytes, SlowClient::Close).start();
        let error = narrow.expect_err("cannot work").to_string();
        assert!(error.contains("`outbound_limit`"), "{error}");
    }
    let gate = gate().link("tcp://0.0.0.0:0").expose("127.0.0.1").start();
    drop(gate.expect("starts"));
}

#[test]
fn the_address_of_a_client_is_told_as_number_and_as_text() {
    let world = World::with(|gate| gate.listen("tcp://[::1]:0"));
    let mut link = world.link();
    let (client, cid) = world.known_client("v4");
    let mut v6 = Wire::connect(&world.gate.client_addrs()[1]);
    v6.send(packet(1, 1, "v6"));
    let (v6_cid, _) = world.node.await_packet("v6");
    for (client, cid, ip) in [(&client, cid, true), (&v6, v6_cid, false)] {
        let target = conn(cid);
        let told = link.ask(
            &Request::GetIp { target },
            |answer| matches!(answer.value, Value::Ip(Some(ip)) if ip.is_loopback()),
        );
        assert_eq!(told, ip);
        let addr = client.0.local_addr().expect("has one").to_string();
        let told = link.ask(&Request::GetAddr { target }, |answer| {
            answer.value == Value::Addr(&addr)
        });
        assert!(told, "{addr}");
    }
}

#[test]
fn frames_that_bring_no_packet_count_for_the_rate_and_are_signs_of_life() {
    let rate = RateLimit::per_second(20, 0).policy(OverRate::Close);
    let socket = ClientListener::at("ws://127.0.0.1:0/play");
    let world = World::with(|gate| gate.listen(socket).rate_limit(rate));
    // A ping, a pong, the beginning of a message, an empty packet.
    let floods: [&[(u8, &[u8])]; 4] = [
        &[(9, b"?")],
        &[(10, b"!")],
        &[(2, b""), (0, b"")],
        &[(2, &[0; 4])],
    ];
    for (done, flood) in floods.into_iter().enumerate() {
        let mut socket = Socket::open(&world.gate.client_addrs()[1], "/play", "").expect("opens");
        let mut frames = Vec::new();
        for n in 0..60 {
            let (opcode, payload) = flood[n.min(flood.len() - 1)];
            let fin = if flood.len() == 2 { 0 } else { 0x80 };
            frames.extend([fin | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
            frames.extend(payload);
        }
        socket.0.send(frames);
        assert!(socket.0.is_over());
        assert_eq!(
            world.gate.stats().refused[RefusedPacket::Rate],
            done as u64 + 1
        );
    }

    let interval = Duration::from_millis(200);
    let socket = ClientListener::at("ws://127.0.0.1:0/play");
    let world = World::with(|gate| {
        gate.listen(socket)
            .heartbeat(HeartbeatMode::Respond, interval)
    });
    let mut lively = Socket::open(&world.gate.client_addrs()[1], "/play", "").expect("opens");
    let mut silent = Socket::open(&world.gate.client_addrs()[1], "/play", "").expect("opens");
    let over = thread::spawn(move || silent.0.is_over());
    while !over.is_finished() {
        lively.send(9, b"?");
        assert_eq!(lively.next(), (0x8a, b"?".to_vec()));
        thread::sleep(interval / 4);
    }
    lively.send(2, HEARTBEAT);
    assert_eq!(lively.next(), (0x82, HEARTBEAT.to_vec()));
}
