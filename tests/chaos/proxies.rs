//! A gateway that is a proxy, for HTTP and for SOCKS, between hostile clients and their targets. A control group uses it too: by `CONNECT`,
//! in absolute form, by SOCKS and with datagrams.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epicycle::Server;
use epicycle::gateway::settings::{Drain, ListenerKind, ListenerSettings};
use epicycle::gateway::socks::{SocksDatagram, datagram_header};
use epicycle::gateway::{Gateway, NoHooks, Users};
use fastrand::Rng;

use super::control::is_end;
use super::kind::Kind;
use super::ledger::Ledger;
use super::pranks::{PRANKS, Prank, Prankster};
use super::process::Servers;
use super::server::{Started, obey};
use super::services::{Counted, Echo, Http, MAX_PAYLOAD};
use super::storm::{ONE, SHORT, WARM_UP, seconds};
use super::verdict;
use crate::util::eventually;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::process::{descriptor_limit, limit_descriptors};

/// The threads of hostile clients.
const PRANKSTERS: u8 = 8;

/// The members of the control group for each way to a target.
const EACH: usize = 2;

/// The exchanges by each way that a storm has to see.
const ENOUGH: u64 = 20;

/// The time for a step of a member.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shortest time after which the gateway ends a connection in which nothing passes.
const IDLE: Duration = Duration::from_millis(1500);

/// The user of the control group.
const ALICE: &str = "alice:secret";

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Http,
    HttpWithUsers,
    Socks,
    SocksWithUsers,
}

impl Proxy {
    /// In the order of their addresses.
    pub(crate) const ALL: [Self; 4] = [
        Self::Http,
        Self::HttpWithUsers,
        Self::Socks,
        Self::SocksWithUsers,
    ];

    pub(crate) fn is_socks(self) -> bool {
        matches!(self, Self::Socks | Self::SocksWithUsers)
    }

    fn has_users(self) -> bool {
        matches!(self, Self::HttpWithUsers | Self::SocksWithUsers)
    }

    /// Returns all that a client sends for a tunnel. `user` is `NAME:PASSWORD`, for the listeners that ask for it.
    pub(crate) fn handshake(self, user: &str, to: SocketAddr) -> Vec<u8> {
        match self.is_socks() {
            true => {
                let named = &datagram_header(to);
                [
                    &self.greeting(user),
                    &b"\x05\x01\x00"[..],
                    &named.as_slice()[3..],
                ]
                .concat()
            }
            false => self.connect(user, &to.to_string()),
        }
    }

    pub(crate) fn handshake_to_name(self, user: &str, host: &str, port: u16) -> Vec<u8> {
        match self.is_socks() {
            true => {
                let len = u8::try_from(host.len()).expect("is short");
                let (request, name) = ([5, 1, 0, 3, len], host.as_bytes());
                [
                    &self.greeting(user),
                    &request[..],
                    name,
                    &port.to_be_bytes(),
                ]
                .concat()
            }
            false => self.connect(user, &format!("{host}:{port}")),
        }
    }

    fn greeting(self, user: &str) -> Vec<u8> {
        if !self.has_users() {
            return b"\x05\x01\x00".into();
        }
        let (name, password) = user.split_once(':').expect("has a password");
        let mut greeting = b"\x05\x01\x02\x01".to_vec();
        for field in [name, password] {
            greeting.push(u8::try_from(field.len()).expect("is short"));
            greeting.extend(field.as_bytes());
        }
        greeting
    }

    fn connect(self, user: &str, to: &str) -> Vec<u8> {
        let user = match self.has_users() {
            true => format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user)),
            false => String::new(),
        };
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{user}\r\n").into_bytes()
    }

    /// Reads the answer to a handshake that is accepted. Returns the address in it: that of SOCKS.
    fn read_answer(self, from: &mut impl Read) -> io::Result<SocketAddr> {
        let mut answer = Vec::new();
        let is_complete = |answer: &[u8]| match self {
            Self::Http | Self::HttpWithUsers => answer.ends_with(b"\r\n\r\n"),
            Self::Socks => answer.len() == 2 + 10,
            Self::SocksWithUsers => answer.len() == 2 + 2 + 10,
        };
        while !is_complete(&answer) {
            let mut byte = [0];
            from.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        match (self.is_socks(), &answer[answer.len().saturating_sub(10)..]) {
            (false, _) if answer.starts_with(b"HTTP/1.1 200 ") => Ok(none),
            (true, &[5, 0, 0, 1, a, b, c, d, high, low]) => Ok(SocketAddr::from((
                [a, b, c, d],
                u16::from_be_bytes([high, low]),
            ))),
            _ => Err(io::Error::other(format!("the answer {answer:x?}"))),
        }
    }
}

/// The gateway's addresses, and the targets.
pub(crate) struct Scene {
    proxies: [SocketAddr; 4],
    pub(crate) echo: SocketAddr,
    http: SocketAddr,
    pub(crate) udp: SocketAddr,
    pub(crate) dead: DeadPort,
    pub(crate) mute: MutePort,
}

impl Scene {
    pub(crate) fn addr(&self, proxy: Proxy) -> SocketAddr {
        self.proxies[proxy as usize]
    }
}

/// The result of a storm.
struct Storm {
    pranks: BTreeMap<Prank, u64>,
    /// The exchanges of the control group, by way.
    served: BTreeMap<Way, u64>,
    /// Connections that the gateway ended by one of its timeouts, because this machine was busy.
    excused: u64,
}

/// Runs the storm and the targets in this process, and the gateway in one of its own.
pub(crate) fn weather(test: &str, seed: u64) {
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    limit_descriptors(descriptor_limit().1);
    let echo = Server::bind("tcp://127.0.0.1:0").start(|_| Counted::<Echo>::new(Arc::default()));
    let http = Server::bind("tcp://127.0.0.1:0").start(|_| Counted::<Http>::new(Arc::default()));
    let (echo, http) = (echo.expect("starts"), http.expect("starts"));
    let mut gateway = Servers::start(test, "");
    let scene = Scene {
        proxies: gateway.addresses,
        echo: echo.local_addrs()[0].as_socket_addr().expect("is TCP"),
        http: http.local_addrs()[0].as_socket_addr().expect("is TCP"),
        udp: udp_echo(),
        dead: DeadPort::new(),
        mute: MutePort::new(),
    };
    // The right password is remembered before others are tried.
    storm(&scene, seed, 0, SHORT / 8);
    storm(&scene, !seed, PRANKSTERS, WARM_UP);
    let before = gateway.look_when_quiet();
    gateway.forget_the_peak();
    let seen = storm(&scene, seed, PRANKSTERS, seconds());
    let after = gateway.look_when_quiet();
    println!(
        "\npranks: {:?}\nserved: {:?}, excused {}",
        seen.pranks, seen.served, seen.excused
    );
    println!(
        "descriptors {}, then {}; memory {:?}, {} at most, then {:?}; at most {} connections",
        before.descriptors,
        after.descriptors,
        before.memory,
        after.peak_memory,
        after.memory,
        after.peak_connections
    );
    for prank in PRANKS {
        assert!(seen.pranks.contains_key(&prank), "nobody did {prank:?}");
    }
    let all: u64 = seen.served.values().sum();
    assert!(
        seen.excused <= all / 100,
        "{} of {all} are excused",
        seen.excused
    );
    let connections = seen.pranks.values().sum();
    verdict::on_what_is_left_of(&before, &after, connections);
    // The end comes amid another storm.
    let is_over = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        for n in 0..PRANKSTERS {
            let prankster = Prankster::new(&scene, 20 + n, seed ^ u64::from(n));
            scope.spawn(|| prankster.run(&is_over));
        }
        thread::sleep(SHORT / 4);
        let end = gateway.end();
        is_over.store(true, Ordering::Relaxed);
        end
    });
    for none in ["connections", "buffered", "panics", "accept_errors"] {
        assert_eq!(end[0].of(none), 0, "{none}");
    }
    assert!(end[0].of("drained") + end[0].of("forced") > 0);
    echo.shutdown();
    http.shutdown();
}

/// Runs hostile clients beside the control group, for so long at least.
fn storm(scene: &Scene, seed: u64, pranksters: u8, lasting: Duration) -> Storm {
    let is_over = &AtomicBool::new(false);
    let served = &WAYS.map(|_| AtomicU64::new(0));
    thread::scope(|scope| {
        // A failure must not wait for the threads.
        let ended = End(is_over);
        let members: Vec<_> = (0..EACH * WAYS.len())
            .map(|n| {
                let rng = Rng::with_seed(seed ^ (n as u64) << 32);
                let mut member = Member::new(scene, WAYS[n % WAYS.len()], rng);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        member.exchange();
                        served[n % WAYS.len()].fetch_add(1, Ordering::Relaxed);
                    }
                    member.excused
                })
            })
            .collect();
        let pranksters: Vec<_> = (0..pranksters)
            .map(|n| {
                let seed = seed.wrapping_mul(1_000_003) + u64::from(n);
                let prankster = Prankster::new(scene, 20 + n, seed);
                scope.spawn(move || prankster.run(is_over))
            })
            .collect();
        thread::sleep(lasting);
        let count = |served: &AtomicU64| served.load(Ordering::Relaxed);
        eventually("the control group is served, or has failed", || {
            members.iter().any(ScopedJoinHandle::is_finished)
                || served.iter().all(|served| count(served) >= ENOUGH)
        });
        drop(ended);
        let mut storm = Storm {
            pranks: BTreeMap::new(),
            served: WAYS.iter().copied().zip(served.iter().map(count)).collect(),
            excused: 0,
        };
        for member in members {
            storm.excused += member.join().expect("was served");
        }
        for prankster in pranksters {
            for (prank, count) in prankster.join().expect("no panic") {
                *storm.pranks.entry(prank).or_default() += count;
            }
        }
        storm
    })
}

/// Ends a storm on drop.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The ways in which the control group reaches its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Absolute,
    Connect,
    Socks,
    Datagrams,
}

const WAYS: [Way; 4] = [Way::Absolute, Way::Connect, Way::Socks, Way::Datagrams];

/// A member of the control group. It compares each answer.
struct Member<'a> {
    scene: &'a Scene,
    way: Way,
    rng: Rng,
    /// The connection, the number of exchanges left to make on it, and the socket for datagrams with the relay's address.
    open: Option<(TcpStream, usize, Option<UdpSocket>)>,
    /// The time of its last action that the gateway waits for.
    acted: Instant,
    excused: u64,
}

impl<'a> Member<'a> {
    fn new(scene: &'a Scene, way: Way, rng: Rng) -> Self {
        Self {
            scene,
            way,
            rng,
            open: None,
            acted: Instant::now(),
            excused: 0,
        }
    }

    fn exchange(&mut self) {
        let began = Instant::now();
        match self.try_exchange() {
            Ok(()) => {}
            Err(error) if is_end(&error) && self.acted.elapsed() >= IDLE => self.excused += 1,
            Err(error) => {
                let (way, took) = (self.way, began.elapsed());
                panic!("the control group was wronged: {way:?}, after {took:?}: {error}");
            }
        }
        thread::sleep(Duration::from_micros(self.rng.u64(2000..8000)));
    }

    fn try_exchange(&mut self) -> io::Result<()> {
        let (mut stream, left, socket) = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let most = match (self.way, self.rng.u32(..20)) {
            (Way::Datagrams, _) => 1200,
            (_, 0) => MAX_PAYLOAD,
            _ => 500,
        };
        let mut payload = vec![0; self.rng.usize(8..=most)];
        self.rng.fill(&mut payload);
        match &socket {
            Some(socket) => self.exchange_datagrams(socket, &payload)?,
            None => self.exchange_bytes(&mut stream, &payload)?,
        }
        if left > 0 {
            self.open = Some((stream, left - 1, socket));
            return Ok(());
        }
        if matches!(self.way, Way::Connect | Way::Socks) {
            stream.shutdown(Shutdown::Write)?;
            if stream.read(&mut [0; 10])? > 0 {
                return Err(io::Error::other("more came than was sent"));
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> io::Result<(TcpStream, usize, Option<UdpSocket>)> {
        let proxy = match self.way {
            Way::Absolute | Way::Connect => Proxy::HttpWithUsers,
            Way::Socks => Proxy::SocksWithUsers,
            Way::Datagrams => Proxy::Socks,
        };
        self.acted = Instant::now();
        let mut stream = TcpStream::connect(self.scene.addr(proxy))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut socket = None;
        match self.way {
            Way::Absolute => {}
            Way::Connect | Way::Socks => {
                stream.write_all(&proxy.handshake(ALICE, self.scene.echo))?;
                proxy.read_answer(&mut stream)?;
            }
            Way::Datagrams => {
                stream.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")?;
                let relay = proxy.read_answer(&mut stream)?;
                let own = UdpSocket::bind("127.0.0.1:0")?;
                own.connect(relay)?;
                own.set_read_timeout(Some(Duration::from_millis(200)))?;
                socket = Some(own);
            }
        }
        Ok((stream, self.rng.usize(..20), socket))
    }

    fn exchange_bytes(&mut self, stream: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
        let (kind, request) = match self.way {
            Way::Absolute => {
                let (to, len, user) = (self.scene.http, payload.len(), STANDARD.encode(ALICE));
                let head = format!(
                    "POST http://{to}/echo HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: Basic {user}\r\n\
                     Content-Length: {len}\r\n\r\n"
                );
                (Kind::Http, [head.as_bytes(), payload].concat())
            }
            _ => (Kind::Echo, payload.to_vec()),
        };
        self.acted = Instant::now();
        stream.write_all(&request)?;
        let (mut received, mut some) = (Vec::new(), [0; 4096]);
        loop {
            let end = kind.answer(&received, payload).map_err(io::Error::other)?;
            match end {
                Some(end) if end < received.len() => {
                    return Err(io::Error::other("more came than was asked for"));
                }
                Some(_) => return Ok(()),
                None => {}
            }
            match stream.read(&mut some)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => received.extend_from_slice(&some[..n]),
            }
        }
    }

    /// Sends a datagram until its answer comes, as datagrams may be lost.
    fn exchange_datagrams(&mut self, socket: &UdpSocket, payload: &[u8]) -> io::Result<()> {
        let header = datagram_header(self.scene.udp);
        let datagram = [header.as_slice(), payload].concat();
        let (began, mut bytes) = (Instant::now(), vec![0; 2048]);
        while began.elapsed() < PATIENCE {
            self.acted = Instant::now();
            socket.send(&datagram)?;
            // An earlier answer may have been late.
            while let Ok(len) = socket.recv(&mut bytes) {
                if bytes[..len] == datagram {
                    return Ok(());
                }
                let answer = SocksDatagram::parse(&bytes[..len]).map_err(io::Error::other)?;
                if answer.target.to_string() != self.scene.udp.to_string() {
                    return Err(io::Error::other(format!("an answer of {}", answer.target)));
                }
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

/// Starts a socket that sends datagrams back.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let addr = socket.local_addr().expect("has an address");
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        loop {
            // An error is one of the kernel's about an earlier datagram.
            if let Ok((len, peer)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..len], peer);
            }
        }
    });
    addr
}

/// Runs the gateway. Its limits are those of one in production, with timeouts short enough to fire.
pub(crate) fn serve() {
    limit_descriptors(descriptor_limit().1);
    let listener = |proxy: Proxy| {
        // Each needs an address of its own.
        let on = format!("tcp://127.0.0.{}:0", proxy as u8 + 1);
        let mut listener = match proxy.is_socks() {
            true => ListenerSettings::new(on),
            false => ListenerSettings::forward(on),
        };
        if proxy.is_socks() {
            listener.kind = ListenerKind::Socks5;
            listener.datagrams.associate = true;
        } else {
            listener.targets.idle_timeout = Duration::from_millis(300);
        }
        if proxy.has_users() {
            let line = "alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";
            listener.users = Some(Users::parse(line).expect("is sound"));
        }
        listener.egress.allow = ["127.0.0.0/8:*", "*:*"]
            .map(|rule| rule.parse().expect(rule))
            .to_vec();
        listener.timeouts.head = IDLE;
        listener.timeouts.idle = 2 * IDLE;
        listener.timeouts.body_idle = IDLE;
        listener.timeouts.write_stall = IDLE;
        listener.tunnels.handshake = IDLE;
        listener.tunnels.connect = Duration::from_secs(3);
        listener.tunnels.idle = 2 * IDLE;
        listener.datagrams.idle = 2 * IDLE;
        listener.limits.max_head = 8 << 10;
        listener.limits.high_water = 32 << 10;
        listener.limits.max_clients = Some(10_000);
        listener.limits.max_clients_per_ip = Some(24);
        listener
    };
    let mut drain = Drain::default();
    drain.deadline = Duration::from_millis(1000);
    let builder = Gateway::builder().reactors(2).drain(drain);
    let gateway = Proxy::ALL
        .into_iter()
        .fold(builder, |builder, proxy| builder.listen(listener(proxy)));
    // The system's resolver would take longer, and descriptors.
    let resolver = |host: &str| {
        if host.starts_with("hangs") {
            thread::sleep(Duration::from_millis(300));
        }
        Err(io::Error::other("there is no such name"))
    };
    let running = gateway.build().expect("is sound").start_with(
        |_| NoHooks,
        |server, factory| Ok(server.resolver(resolver).start(factory)?),
    );
    let running = running.expect("starts");
    let (engine, (tell, told)) = (running.engine().clone(), channel());
    let for_shutdown = engine.clone();
    let asked = engine.run_on(0, move |proxy, reactor| {
        tell.send(proxy.control(reactor.engine()))
            .expect("is awaited");
    });
    asked.expect("it runs");
    let control = told.recv().expect("it ran");
    let addresses = running.local_addrs().iter();
    obey(vec![Started {
        name: "proxies",
        addresses: addresses
            .map(|addr| addr.as_socket_addr().expect("is TCP").to_string())
            .collect(),
        ledger: Arc::<Ledger>::default(),
        stats: Arc::new(move || engine.stats().total()),
        under_way: Box::new(move || super::gateway::under_way(&control.metrics())),
        shutdown: Box::new(move || for_shutdown.shutdown()),
        join: Box::new(move || running.join().into()),
    }]);
}
