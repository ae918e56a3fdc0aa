//! Clients over KCP: recorded ones of due, ours, and hostile ones.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::cluster::client::Client;
use epicycle::cluster::config::Config;
use epicycle::cluster::drpc::{Code, Request, Value};
use epicycle::cluster::gate::{ClientListener, GateBuilder, RateLimit, ResumeOptions};
use epicycle::cluster::packet::{Control, PacketOptions};
use epicycle::kcp::{Kcp, KcpOptions};

use crate::gate::{World, routes};
use crate::rig::{Node, Told, conn, packet, user};
use crate::util::{LONG, eventually};
use crate::vectors::{hex, rows};

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";

fn world(options: impl FnOnce(GateBuilder) -> GateBuilder) -> World {
    World::with(|gate| options(gate.listen("kcp://127.0.0.1:0")))
}

fn addr(world: &World) -> SocketAddr {
    let addr = &world.gate.client_addrs()[1];
    addr.as_socket_addr().expect("an address of UDP")
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let patience = Some(Duration::from_millis(5));
    socket.set_read_timeout(patience).expect("is possible");
    socket
}

/// The end of a client.
struct Wire {
    socket: UdpSocket,
    kcp: Kcp,
    read: Vec<u8>,
    /// True if it may get datagrams of an earlier connection.
    skips_strangers: bool,
}

impl Wire {
    fn connect(world: &World) -> Self {
        Self::over(socket(), addr(world), 1)
    }

    fn over(socket: UdpSocket, gate: SocketAddr, conv: u32) -> Self {
        socket.connect(gate).expect("an address");
        let kcp = Kcp::client(conv, &KcpOptions::new(), Instant::now());
        let read = Vec::new();
        Self {
            socket,
            kcp,
            read,
            skips_strangers: false,
        }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.kcp.send(bytes.as_ref()).expect("there is room");
        self.flush();
    }

    fn flush(&mut self) {
        let socket = &self.socket;
        self.kcp.flush(Instant::now(), |datagram| {
            socket.send(datagram).expect("is sent");
        });
    }

    /// Receives what has come within a few milliseconds.
    fn receive(&mut self) {
        let mut datagram = [0; 2048];
        match self.socket.recv(&mut datagram) {
            Ok(len) => {
                let taken = self.kcp.input(&datagram[..len], Instant::now());
                assert!(taken.is_ok() || self.skips_strangers, "{taken:?}");
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock), "{error}"),
        }
        while let Some(bytes) = self.kcp.recv() {
            self.read.extend(bytes);
        }
        self.flush();
    }

    fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let until = Instant::now() + LONG;
        while self.read.len() < bytes.len() && Instant::now() < until {
            self.receive();
        }
        let read: Vec<u8> = self
            .read
            .drain(..bytes.len().min(self.read.len()))
            .collect();
        assert_eq!(hex(&read), hex(bytes));
    }
}

fn push(cid: i64, packet: &[u8], disconnect: bool) -> Request<'_> {
    Request::Push {
        target: conn(cid),
        disconnect,
        packet,
    }
}

#[test]
fn a_client_over_kcp_is_a_client_like_any_other() {
    let world = world(|gate| gate);
    let mut link = world.link();
    let mut client = Wire::connect(&world);
    client.send(packet(1, 1, "hello"));
    let (cid, _) = world.node.await_packet("hello");
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);
    assert_eq!(link.bind(cid, 7), Code::Done);

    // Longer than a datagram, in both directions.
    let long = packet(4, 2, &"x".repeat(5000));
    client.send(&long);
    eventually("all of it has arrived", || {
        client.receive();
        client.kcp.queued() == 0
    });
    world.node.await_packet(&"x".repeat(5000));
    assert_eq!(link.call(&push(cid, &long, false)), Code::Done);
    client.expect(&long);

    // The last packet arrives, and then there is no session any more.
    let last = packet(4, 3, "last");
    assert_eq!(link.call(&push(cid, &last, true)), Code::Done);
    client.expect(&last);
    eventually("the node is told of the end", || {
        client.receive();
        let end = Told::Event {
            event: 3,
            cid,
            uid: 7,
        };
        world.node.told().contains(&end)
    });
    assert_eq!(link.call(&push(cid, &last, false)), Code::NotFound);
}

#[test]
fn recorded_clients_of_due_with_error_correction_get_the_recorded_answers() {
    let world = world(|gate| gate);
    let mut link = world.link();
    let socket = socket();
    socket.connect(addr(&world)).expect("an address");
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    let (mut cid, mut asked) = (0, 0);
    for row in rows("kcp") {
        let bytes = row.bytes();
        if row.dir == "s>c" {
            expected.extend(pushes(&bytes));
            let until = Instant::now() + LONG;
            while got.len() < expected.len() && Instant::now() < until {
                let mut datagram = [0; 2048];
                if let Ok(len) = socket.recv(&mut datagram) {
                    assert_ne!(
                        datagram[4], 0xf1,
                        "the gate answers without error correction"
                    );
                    got.extend(pushes(&datagram[..len]));
                    got.dedup();
                }
            }
            continue;
        }
        socket.send(&bytes).expect("is sent");
        let Some(data) = bytes
            .get(8 + 24..)
            .filter(|data| data.len() > 5 && bytes[4] == 0xf1)
        else {
            continue;
        };
        // The node of the recording echoes what comes by route 1, and binds a user by route 2.
        asked += 1;
        let (echo, text) = (
            data[6] == 1,
            String::from_utf8_lossy(&data[9..]).into_owned(),
        );
        cid = world.node.await_packet(&text).0;
        let answer = match echo {
            true => format!(r#"{{"code":0,"echo":{text}}}"#),
            false => {
                assert_eq!(link.bind(cid, 7), Code::Done);
                r#"{"code":0,"err":"<nil>"}"#.to_owned()
            }
        };
        let answer = packet(data[6].into(), data[8].into(), &answer);
        assert_eq!(link.call(&push(cid, &answer, false)), Code::Done);
    }
    assert_eq!(asked, 2);
    assert!(expected.len() >= 5, "{expected:?}");
    assert_eq!(got, expected);
    assert!(link.is_online(conn(cid)));
    assert_eq!(world.gate.stats().connections, 1);
}

/// Returns the numbers and the data of the segments with data.
fn pushes(mut datagram: &[u8]) -> Vec<(u32, String)> {
    let mut pushes = Vec::new();
    while let Some((head, rest)) = datagram.split_at_checked(24) {
        let number = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("are four");
            u32::from_le_bytes(bytes)
        };
        let (data, rest) = rest.split_at(number(20) as usize);
        if head[4] == 81 {
            pushes.push((number(12), hex(data)));
        }
        datagram = rest;
    }
    pushes
}

#[test]
fn only_a_well_formed_first_segment_gets_an_answer_or_a_session() {
    let world = world(|gate| gate);
    let mut stranger = Wire::connect(&world);
    let head = |command: u8, sn: u8, len: u8| {
        let mut head = vec![1, 0, 0, 0, command, 0, 32, 0, 0, 0, 0, 0, sn, 0, 0, 0];
        head.extend_from_slice(&[0, 0, 0, 0, len, 0, 0, 0]);
        head
    };
    let mut datagrams = vec![
        b"hello".to_vec(),
        vec![0; 24],
        vec![0xff; 1400],
        head(81, 0, 0),
        head(82, 0, 0),
        head(83, 0, 0),
        head(84, 0, 0),
        head(81, 0, 9),
        [head(81, 1, 5), HEARTBEAT.to_vec()].concat(),
        [head(81, 0, 5), HEARTBEAT.to_vec(), head(99, 0, 0)].concat(),
        [&[0, 0, 0, 0, 0xf2, 0, 9, 0], &head(81, 0, 0)[..]].concat(),
        [&[0, 0, 0, 0, 0xf1, 0, 0xff, 0xff], &head(81, 0, 0)[..]].concat(),
    ];
    datagrams.push([head(81, 0, 5), HEARTBEAT.to_vec(), vec![0; 9000]].concat());
    for datagram in &datagrams {
        stranger.socket.send(datagram).expect("is sent");
    }
    // The socket is served in order, so it has seen all of that.
    stranger.send(HEARTBEAT);
    stranger.expect(HEARTBEAT);
    assert_eq!(stranger.kcp.queued(), 0, "nothing but that was answered");
    assert_eq!(world.gate.stats().connections, 1);

    let answer = socket();
    for datagram in &datagrams {
        answer.send_to(datagram, addr(&world)).expect("is sent");
    }
    stranger.send(HEARTBEAT);
    stranger.expect(HEARTBEAT);
    answer.recv(&mut [0; 9]).expect_err("nothing is answered");
    assert_eq!(world.gate.stats().connections, 1);
}

#[test]
fn a_second_connection_from_the_same_address_replaces_the_first() {
    let world = world(|gate| gate);
    let mut first = Wire::connect(&world);
    first.send(packet(1, 1, "first"));
    let (old, _) = world.node.await_packet("first");
    first.receive();
    let mut second = Wire::over(first.socket, addr(&world), 2);
    second.send(packet(1, 1, "second"));
    // The first datagram ends the old session, and its repetition opens the new one.
    let until = Instant::now() + LONG;
    while world.node.packets(old).len() < 2 && Instant::now() < until {
        second.receive();
        let told = world.node.told();
        let is_new = |told: &Told| matches!(told, Told::Packet { data, .. } if data == "second");
        if told.iter().any(is_new) {
            break;
        }
    }
    let (new, _) = world.node.await_packet("second");
    assert_ne!(new, old);
    let end = Told::Event {
        event: 3,
        cid: old,
        uid: 0,
    };
    assert!(world.node.told().contains(&end));
    assert_eq!(world.gate.stats().connections, 1);
}

#[test]
fn a_client_that_is_delayed_loses_nothing() {
    let rate = RateLimit::per_second(200, 0).burst(Duration::from_millis(20));
    let world = world(|gate| gate.rate_limit(rate));
    let mut client = Wire::connect(&world);
    for n in 0..100 {
        client.send(packet(1, 1, &format!("packet {n}")));
    }
    let until = Instant::now() + LONG;
    while client.kcp.queued() > 0 && Instant::now() < until {
        client.receive();
    }
    let (cid, _) = world.node.await_packet("packet 99");
    let expected: Vec<String> = (0..100).map(|n| format!("packet {n}")).collect();
    assert_eq!(world.node.packets(cid), expected);
}

#[test]
fn what_is_no_packet_ends_the_session_and_so_does_silence() {
    let world = world(|gate| gate.heartbeat(Default::default(), Duration::from_millis(50)));
    let mut silent = Wire::connect(&world);
    silent.send(packet(1, 1, "silent"));
    let (cid, _) = world.node.await_packet("silent");
    eventually("it is given up", || {
        let end = Told::Event {
            event: 3,
            cid,
            uid: 0,
        };
        world.node.told().contains(&end)
    });
    assert_eq!(world.gate.stats().silent, 1);

    let mut wrong = Wire::connect(&world);
    wrong.send(b"\0\0\0\x02\0\0");
    wrong.receive();
    eventually("it is closed", || world.gate.stats().connections == 0);
    assert_eq!(world.gate.stats().silent, 1);
}

#[test]
fn our_clients_lose_nothing_on_a_network_that_loses_repeats_and_reorders() {
    let node = Node::start("node-1", routes());
    let quick = KcpOptions::new()
        .no_delay(true)
        .interval(Duration::from_millis(10))
        .fast_resend(2);
    let listener = ClientListener::at("kcp://127.0.0.1:0").kcp(quick.clone());
    let world = World::around(node, |gate| gate.listen(listener));
    let network = Network::start(addr(&world));
    let client = Client::builder().kcp(quick.fec(10, 3)).call_timeout(LONG);
    let client = client
        .connect(format!("kcp://{}", network.addr))
        .expect("connects");
    let mut link = world.link();
    for n in 0..100 {
        let data = format!("{n}{}", ".".repeat(30 * n));
        let (sender, answers) = std::sync::mpsc::channel();
        let asked = client.request_then(1, data.clone(), move |_, reply| {
            let _ = sender.send(reply.map(<[u8]>::to_vec));
        });
        asked.expect("is sent");
        let (cid, _) = world.node.await_packet(&data);
        let seq = world.node.told().iter().rev().find_map(|told| match told {
            Told::Packet { data: its, seq, .. } if *its == data => Some(*seq),
            _ => None,
        });
        let answer = packet(1, seq.expect("it has come"), &data);
        assert_eq!(link.call(&push(cid, &answer, false)), Code::Done);
        let reply = answers.recv_timeout(LONG).expect("comes");
        assert_eq!(reply.expect("is an answer"), data.as_bytes());
    }
    assert!(
        network.dropped() > 20,
        "{} datagrams lost",
        network.dropped()
    );
}

/// A network between a client and a gate: every fifth datagram is lost, every seventh comes twice, and every third late.
struct Network {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    dropped: Arc<std::sync::atomic::AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Network {
    fn start(gate: SocketAddr) -> Self {
        let (near, far) = (socket(), socket());
        far.connect(gate).expect("an address");
        let short = Some(Duration::from_millis(1));
        for socket in [&near, &far] {
            socket.set_read_timeout(short).expect("is possible");
        }
        let addr = near.local_addr().expect("has one");
        let stop = Arc::new(AtomicBool::new(false));
        let dropped = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (ends, lost) = (stop.clone(), dropped.clone());
        let thread = thread::spawn(move || {
            let (mut client, mut count) = (None, 0_usize);
            let mut late: Vec<(bool, Vec<u8>)> = Vec::new();
            let mut datagram = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                let mut passed = std::mem::take(&mut late);
                for is_up in [true, false] {
                    let received = match is_up {
                        true => near.recv_from(&mut datagram).map(|(len, from)| {
                            client = Some(from);
                            len
                        }),
                        false => far.recv(&mut datagram),
                    };
                    let Ok(len) = received else {
                        continue;
                    };
                    count += 1;
                    let copy = (is_up, datagram[..len].to_vec());
                    match count {
                        n if n % 5 == 0 => drop(lost.fetch_add(1, Ordering::Relaxed)),
                        n if n % 3 == 0 => late.push(copy),
                        n if n % 7 == 0 => passed.extend([copy.clone(), copy]),
                        _ => passed.insert(0, copy),
                    }
                }
                for (is_up, datagram) in passed {
                    let _ = match (is_up, client) {
                        (true, _) => far.send(&datagram),
                        (false, Some(client)) => near.send_to(&datagram, client),
                        (false, None) => Ok(0),
                    };
                }
            }
        });
        let thread = Some(thread);
        Self {
            addr,
            stop,
            dropped,
            thread,
        }
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn ten_thousand_sessions_of_one_socket_are_told_apart() {
    const CLIENTS: u32 = 10_000;
    let none = Duration::ZERO;
    let world = world(|gate| {
        gate.heartbeat(Default::default(), none)
            .max_connections(2 * CLIENTS as usize + 2)
    });
    let mut kept = Wire::connect(&world);
    kept.send(HEARTBEAT);
    kept.expect(HEARTBEAT);
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    for n in 0..CLIENTS {
        let socket = UdpSocket::bind((Ipv4Addr::from(first + n), 0)).expect("a port");
        socket.set_read_timeout(Some(LONG)).expect("is possible");
        let mut client = Wire::over(socket, addr(&world), n + 1);
        client.send(HEARTBEAT);
        client.expect(HEARTBEAT);
    }
    assert_eq!(world.gate.stats().connections, u64::from(CLIENTS) + 1);
    kept.send(HEARTBEAT);
    kept.expect(HEARTBEAT);
}

#[test]
fn forged_addresses_take_no_place_of_clients_that_are_there() {
    const FORGED: u64 = 100;
    let none = Duration::ZERO;
    let world = world(|gate| gate.heartbeat(Default::default(), none).max_connections(40));
    let mut there: Vec<Wire> = (0..10).map(|_| Wire::connect(&world)).collect();
    let mut greet = |client: &mut Wire| {
        client.send(HEARTBEAT);
        client.expect(HEARTBEAT);
        eventually("it has acknowledged", || {
            client.receive();
            client.kcp.check().is_none()
        });
    };
    there.iter_mut().for_each(&mut greet);
    let mut first = Vec::new();
    let mut kcp = Kcp::client(1, &KcpOptions::new(), Instant::now());
    kcp.send(HEARTBEAT).expect("there is room");
    kcp.flush(Instant::now(), |datagram| first.extend(datagram));
    let forged: Vec<UdpSocket> = (0..FORGED).map(|_| socket()).collect();
    for (n, socket) in forged.iter().enumerate() {
        socket.send_to(&first, addr(&world)).expect("is sent");
        // Those that end make room at the end of a turn.
        eventually("it has come", || {
            let stats = world.gate.stats();
            stats.connections + stats.unproved == 11 + n as u64
        });
    }
    assert_eq!(world.gate.stats().unproved, FORGED - 20);
    // Those that are there lose nothing, and others come in.
    there.push(Wire::connect(&world));
    there.iter_mut().for_each(&mut greet);
    let stats = world.gate.stats();
    assert_eq!((stats.unproved, stats.clients_refused), (FORGED - 19, 0));
    assert_eq!(stats.connections, 11 + 19);

    // One that proves its address is none of them any more.
    let mut late = Wire::over(
        forged.into_iter().next_back().expect("some"),
        addr(&world),
        1,
    );
    late.kcp = kcp;
    late.expect(HEARTBEAT);
    eventually("it has acknowledged", || {
        late.receive();
        late.kcp.check().is_none()
    });
    for _ in 0..3 {
        socket().send_to(&first, addr(&world)).expect("is sent");
    }
    eventually("one more has ended", || {
        world.gate.stats().unproved == FORGED - 18
    });
    there.push(late);
    for client in &mut there {
        client.send(HEARTBEAT);
        client.expect(HEARTBEAT);
    }
}

#[test]
fn a_client_stays_when_a_stranger_opens_a_connection_in_its_gates_name() {
    let gate = socket();
    gate.set_read_timeout(Some(LONG)).expect("is possible");
    let to = format!("kcp://{}", gate.local_addr().expect("has one"));
    let client = Client::builder().call_timeout(LONG).connect(to);
    let client = client.expect("connects");
    let (sender, answers) = std::sync::mpsc::channel();
    let asked = client.request_then(1, "hello", move |_, reply| {
        let _ = sender.send(reply.map(<[u8]>::to_vec));
    });
    asked.expect("is sent");
    let mut datagram = [0; 2048];
    let (len, peer) = gate.recv_from(&mut datagram).expect("its request");
    let conv = Kcp::opening(&datagram[..len]).expect("is the first");
    let now = Instant::now();
    let answer = |mut end: Kcp| {
        end.send(&packet(1, 1, "answer")).expect("there is room");
        end.flush(now, |datagram| {
            gate.send_to(datagram, peer).expect("is sent");
        });
    };
    answer(Kcp::client(conv ^ 1, &KcpOptions::new(), now));
    let mut own = Kcp::server(conv, &KcpOptions::new(), now, 7);
    own.input(&datagram[..len], now).expect("a datagram");
    answer(own);
    let reply = answers.recv_timeout(LONG).expect("comes");
    assert_eq!(reply.expect("is an answer"), b"answer");
}

#[cfg(feature = "tls")]
#[test]
fn tls_over_kcp_is_refused() {
    use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};

    let cert = crate::gate_tls::issued();
    let identity = Identity::from_pem(cert.cert.pem(), cert.signing_key.serialize_pem());
    let server = TlsServer::new(identity.expect("is sound")).expect("is sound");
    let listener = ClientListener::at("kcp://127.0.0.1:0").tls(&server);
    let started = epicycle::cluster::gate::Gate::builder()
        .listen(listener)
        .start();
    let error = started.expect_err("cannot work").to_string();
    assert!(error.contains("TLS does not go over KCP"), "{error}");

    let roots = Roots::from_pem(cert.cert.pem()).expect("is sound");
    let tls = TlsClient::new(&roots).expect("is sound");
    let client = Client::builder().tls(&tls).connect("kcp://127.0.0.1:9");
    let error = client.expect_err("cannot work").to_string();
    assert!(error.contains("TLS does not go over KCP"), "{error}");
}

#[test]
fn options_that_cannot_work_are_told_at_the_start() {
    let start = |listener: ClientListener| {
        let started = epicycle::cluster::gate::Gate::builder()
            .listen(listener)
            .start();
        started.expect_err("cannot work").to_string()
    };
    let zero = KcpOptions::new().windows(0, 0);
    let listener = ClientListener::at("kcp://127.0.0.1:0").kcp(zero.clone());
    assert!(start(listener).contains("windows"));
    let listener = ClientListener::at("tcp://127.0.0.1:0").kcp(KcpOptions::new());
    assert!(start(listener).contains("kcp://"));
    let client = Client::builder().kcp(zero).connect("kcp://127.0.0.1:9");
    assert!(
        client
            .expect_err("cannot work")
            .to_string()
            .contains("windows")
    );
}

#[test]
fn a_configuration_has_the_keys_of_due_for_kcp() {
    let flags = [
        "addr=127.0.0.1:0",
        "mtu=1200",
        "noDelay=1,10,2,1",
        "ackNoDelay=true",
        "windowSize=64,128",
    ];
    let flags = flags.map(|flag| format!("--network.kcp.server.{flag}"));
    let config = Config::read([], flags).expect("is sound");
    assert_eq!(config.warnings(), [""; 0]);
    let kcp = &config.kcp;
    assert_eq!((kcp.mtu, kcp.no_delay), (Some(1200), Some([1, 10, 2, 1])));
    assert_eq!(
        (kcp.ack_no_delay, kcp.window_size),
        (Some(true), Some([64, 128]))
    );
    let world = World::with(|gate| gate.config(&config).expect("is sound"));
    let mut client = Wire::connect(&world);
    client.send(HEARTBEAT);
    client.expect(HEARTBEAT);

    for (flag, problem) in [
        ("noDelay=1,2", "2 numbers are not 4"),
        ("windowSize=a,b", "windowSize"),
    ] {
        let flags = [format!("--network.kcp.server.{flag}")];
        let error = Config::read([], flags).expect_err("cannot work");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_client_that_begins_another_connection_from_its_address_takes_its_user_back() {
    let world = world(|gate| gate.resume(ResumeOptions::new()));
    let mut link = world.link();
    let mut old = Wire::connect(&world);
    old.send(packet(1, 1, "hello"));
    let (cid, _) = world.node.await_packet("hello");
    assert_eq!(link.bind(cid, 7), Code::Done);
    let target = conn(cid);
    let token = link.ask(&Request::GetToken { target }, |answer| match answer.value {
        Value::Token(token) => token.to_owned(),
        value => panic!("{value:?} is no token"),
    });
    let mut push = |text| {
        let pushed = link.call(&Request::Push {
            target: user(7),
            disconnect: false,
            packet: &packet(5, 0, text),
        });
        assert_eq!(pushed, Code::Done);
    };
    push("seen");
    old.expect(packet(5, 0, "seen"));
    push("missed");
    let mut new = Wire::over(old.socket, addr(&world), 2);
    let control = |control| {
        let packet = PacketOptions::default().encode_control(&control);
        packet.expect("is short").as_bytes().to_vec()
    };
    let token = &*token;
    new.send(control(Control::Resume { token, last: 1 }));
    // Datagrams of the old connection may still come.
    new.skips_strangers = true;
    new.expect(control(Control::Resumed { count: 1 }));
    new.expect(packet(5, 0, "missed"));
    push("after");
    new.expect(packet(5, 0, "after"));
    let ends = world.node.told();
    let ends = ends
        .iter()
        .filter(|told| matches!(told, Told::Event { event: 3, .. }));
    assert_eq!(ends.count(), 0);
}
