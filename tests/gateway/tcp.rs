//! TCP listeners: each connection goes to a node of the pool.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{
    BalanceBy, HashKey, HealthCheck, HealthProbe, ListenerSettings, PoolSettings, ProxyVersion,
};
use epicycle::gateway::{Builder, EndedBy, Gateway, Hooks, NoHooks, Record, Running};

use crate::peers::{Asker, figure};
use crate::rig::metric;
use crate::socks::Target;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::{LONG, eventually};

const ON: &str = "tcp://127.0.0.1:0";

fn builder(pool: PoolSettings) -> Builder {
    Gateway::builder()
        .reactors(1)
        .listen(ListenerSettings::forward_tcp(ON, "app"))
        .pool("app", pool)
}

fn start(pool: PoolSettings) -> Running<NoHooks> {
    let gateway = builder(pool).build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

fn pool(nodes: &[SocketAddr]) -> PoolSettings {
    PoolSettings::of(nodes.iter().map(|node| format!("tcp://{node}")))
}

/// A node that sends a line with its name, and then what `act` sends.
struct Speaker {
    addr: SocketAddr,
}

impl Speaker {
    fn start(name: &'static str, act: impl Fn(&TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let speaker = Self {
            addr: listener.local_addr().expect("an address"),
        };
        let act = Arc::new(act);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let act = act.clone();
                thread::spawn(move || {
                    let _ = stream.write_all(name.as_bytes());
                    act(&stream);
                });
            }
        });
        speaker
    }

    /// Starts a node that sends its name, and then what it gets.
    fn echo(name: &'static str) -> Self {
        Self::start(name, |mut stream| {
            let _ = std::io::copy(&mut &*stream, &mut stream);
        })
    }
}

/// What a test wants to know of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    ended_by: EndedBy,
    timeout: &'static str,
    node: String,
    bytes: (u64, u64),
    tries: u32,
}

/// Keeps records.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<Seen>>>);

impl Keeper {
    fn start(&self, builder: Builder) -> Running<Self> {
        let (gateway, keeper) = (builder.build().expect("it is sound"), self.clone());
        gateway.start(move |_| keeper.clone()).expect("it starts")
    }

    /// Waits for so many records.
    fn records(&self, count: usize) -> Vec<Seen> {
        eventually("the connections are recorded", || {
            self.0.lock().expect("sound").len() >= count
        });
        self.0.lock().expect("sound").clone()
    }
}

impl Hooks for Keeper {
    type Exchange = ();

    fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
        assert_eq!((record.method, record.target), ("TCP", ON));
        self.0.lock().expect("sound").push(Seen {
            status: record.status,
            ended_by: record.ended_by,
            timeout: record.timeout,
            node: record.node.to_owned(),
            bytes: (record.request_bytes, record.response_bytes),
            tries: record.tries,
        });
    }
}

fn is_reset(client: &mut Asker) -> bool {
    let mut byte = [0];
    let read = client.stream.read(&mut byte);
    matches!(read, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn connections_go_to_the_nodes_in_turn_and_keep_their_half_closes() {
    let nodes = ["one", "two"].map(Speaker::echo);
    let gateway = start(pool(&nodes.each_ref().map(|node| node.addr)));
    let mut names = Vec::new();
    for _ in 0..4 {
        let mut client = Asker::to(&gateway);
        client.send(b"ping");
        client.end_writes();
        let all = String::from_utf8(client.recv_to_end()).expect("text");
        names.push(all.strip_suffix("ping").expect("it comes back").to_owned());
    }
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"]);
    eventually("nothing is left", || {
        gateway.engine().connections() == 0
            && figure(&gateway, |proxy| proxy.node_connections()) == 0
    });
    let metrics = gateway.control().metrics();
    let listener = format!(
        "epicycle_gateway_listener_connections_total{{listener=\"{ON}\",outcome=\"complete\"}}"
    );
    assert_eq!(metric(&metrics, &listener), Some(4.0), "{metrics}");
    for node in &nodes {
        let labels = format!("{{pool=\"app\",node=\"tcp://{}\"", node.addr);
        let ended = format!("epicycle_gateway_node_tunnels_total{labels},outcome=\"complete\"}}");
        assert_eq!(metric(&metrics, &ended), Some(2.0), "{metrics}");
        let bytes = |way| format!("epicycle_gateway_node_tunnel_bytes_{way}_total{labels}}}");
        assert_eq!(metric(&metrics, &bytes("in")), Some(8.0));
        assert_eq!(metric(&metrics, &bytes("out")), Some(14.0));
    }
    assert_eq!(metric(&metrics, "epicycle_gateway_tunnels"), Some(0.0));
}

/// Starts a gateway whose only place is taken by a client.
fn with_one_place(target: &Target) -> (Running<NoHooks>, Asker) {
    let mut pool = pool(&[target.addr]);
    pool.connections.max_connections = Some(1);
    let gateway = start(pool);
    let mut first = Asker::to(&gateway);
    first.send(b"x");
    assert_eq!(first.recv(1), b"x");
    (gateway, first)
}

#[test]
fn what_a_client_sends_before_it_has_a_node_waits_and_arrives() {
    let target = Target::start();
    let (gateway, first) = with_one_place(&target);
    let mut second = Asker::to(&gateway);
    let sent: Vec<u8> = (0..8_u32 << 20).map(|n| (n / 7) as u8).collect();
    let mut writer = second.stream.get_ref().try_clone().expect("a copy");
    let expected = sent.clone();
    let writes = thread::spawn(move || {
        writer.write_all(&sent).expect("all of it");
        writer.shutdown(Shutdown::Write).expect("is open");
    });
    eventually("it waits for a place", || {
        figure(&gateway, |proxy| proxy.waiting()) == 1
    });
    // It is not read: the kernel holds what it may, and the rest is not sent.
    thread::sleep(Duration::from_millis(20));
    let held = gateway.engine().stats().total().bytes_in;
    assert!(held < 100, "{held}");
    assert!(!writes.is_finished());
    assert_eq!(target.accepted(), 1);
    drop(first);
    assert!(second.recv_to_end() == expected, "other bytes came back");
    writes.join().expect("ends");
}

#[test]
fn a_short_stream_that_has_ended_before_its_node_stands_arrives_whole() {
    let target = Target::start();
    let (gateway, first) = with_one_place(&target);
    let mut second = Asker::to(&gateway);
    second.send(b"all of it");
    second.end_writes();
    eventually("it waits for a place", || {
        figure(&gateway, |proxy| proxy.waiting()) == 1
    });
    drop(first);
    assert_eq!(second.recv_to_end(), b"all of it");
}

#[test]
fn a_node_that_refuses_is_replaced_by_another_and_ejected_in_the_end() {
    let (target, dead) = (Target::start(), DeadPort::new());
    let mut pool = pool(&[dead.addr, target.addr]);
    pool.retries.budget_floor = 100;
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool));
    for _ in 0..20 {
        let mut client = Asker::to(&gateway);
        client.send(b"ping");
        assert_eq!(client.recv(4), b"ping");
    }
    let metrics = gateway.control().metrics();
    let ejected = format!(
        "epicycle_gateway_node_ejected{{pool=\"app\",node=\"tcp://{}\"}}",
        dead.addr
    );
    assert_eq!(metric(&metrics, &ejected), Some(1.0), "{metrics}");
    let retries = metric(
        &metrics,
        "epicycle_gateway_pool_retries_total{pool=\"app\"}",
    );
    assert_eq!(retries, Some(5.0));
    for seen in keeper.records(20) {
        assert_eq!((seen.status, seen.bytes), (200, (4, 4)));
        assert_eq!(seen.node, format!("tcp://{}", target.addr));
    }
}

#[test]
fn a_client_that_gets_no_node_is_reset_and_counted() {
    let dead = [DeadPort::new(), DeadPort::new()];
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool(&[dead[0].addr, dead[1].addr])));
    assert!(is_reset(&mut Asker::to(&gateway)));
    let seen = &keeper.records(1)[0];
    assert_eq!(
        (seen.status, seen.ended_by, seen.tries),
        (502, EndedBy::Node, 0)
    );
    let metrics = gateway.control().metrics();
    let name = format!(
        "epicycle_gateway_listener_connections_total{{listener=\"{ON}\",outcome=\"node\"}}"
    );
    assert_eq!(metric(&metrics, &name), Some(1.0), "{metrics}");
}

#[test]
fn nodes_that_a_check_finds_down_get_no_connections() {
    let (target, dead) = (Target::start(), DeadPort::new());
    let mut pool = pool(&[dead.addr]);
    pool.fail_open = false;
    let mut check = HealthCheck::new(HealthProbe::Tcp);
    (check.interval, check.down_after) = (Duration::from_millis(20), 1);
    pool.health = Some(check);
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool));
    eventually("it is down", || {
        figure(&gateway, |proxy| proxy.nodes_up()) == 0
    });
    assert!(is_reset(&mut Asker::to(&gateway)));
    let seen = &keeper.records(1)[0];
    assert_eq!((seen.status, seen.ended_by), (503, EndedBy::Gateway));
    assert_eq!(target.accepted(), 0);
}

#[test]
fn a_client_that_waits_for_a_place_for_too_long_is_reset() {
    let target = Target::start();
    let mut pool = pool(&[target.addr]);
    pool.connections.max_connections = Some(1);
    pool.connections.max_pending = 1;
    pool.connections.pending_timeout = Duration::from_millis(60);
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool));
    let mut first = Asker::to(&gateway);
    first.send(b"x");
    assert_eq!(first.recv(1), b"x");
    let mut waiting = [Asker::to(&gateway), Asker::to(&gateway)];
    for client in &mut waiting {
        assert!(is_reset(client));
    }
    let mut seen = keeper.records(2);
    seen.sort_by_key(|seen| seen.timeout);
    assert_eq!((seen[0].status, seen[0].ended_by), (503, EndedBy::Gateway));
    let last = (seen[1].status, seen[1].ended_by, seen[1].timeout);
    assert_eq!(last, (503, EndedBy::Timeout, "pending_timeout"));
    first.send(b"y");
    assert_eq!(first.recv(1), b"y");
}

#[test]
fn a_client_that_leaves_while_its_node_is_dialled_leaves_nothing_behind() {
    let mute = MutePort::new();
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool(&[mute.addr])));
    let client = Asker::to(&gateway);
    eventually("it is dialled", || {
        figure(&gateway, |proxy| proxy.node_connections()) == 1
    });
    client.reset();
    eventually("the dial has ended", || {
        figure(&gateway, |proxy| proxy.node_connections()) == 0
    });
    eventually("nothing is left", || gateway.engine().connections() == 0);
    let seen = &keeper.records(1)[0];
    assert_eq!((seen.status, seen.ended_by), (499, EndedBy::Client));
}

#[test]
fn a_connect_that_takes_too_long_goes_to_another_node() {
    let (mute, target) = (MutePort::new(), Target::start());
    let mut pool = pool(&[mute.addr, target.addr]);
    pool.timeouts.connect = Duration::from_millis(60);
    let gateway = start(pool);
    for _ in 0..3 {
        let mut client = Asker::to(&gateway);
        client.send(b"ping");
        assert_eq!(client.recv(4), b"ping");
    }
}

#[test]
fn a_tunnel_tells_who_has_ended_it() {
    let resetting = Speaker::start("x", |stream| {
        let _ = (&*stream).read(&mut [0; 4]);
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    });
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(pool(&[resetting.addr])));
    let mut client = Asker::to(&gateway);
    client.send(b"ping");
    assert_eq!(client.recv(1), b"x");
    assert!(is_reset(&mut client));
    assert_eq!(keeper.records(1)[0].ended_by, EndedBy::Node);

    let target = Target::start();
    let keeper = Keeper::default();
    let mut settings = pool(&[target.addr]);
    let gateway = keeper.start(builder(settings.clone()));
    let mut client = Asker::to(&gateway);
    client.send(b"ping");
    assert_eq!(client.recv(4), b"ping");
    client.reset();
    assert_eq!(keeper.records(1)[0].ended_by, EndedBy::Client);
    eventually("the node's connection has ended", || target.ended() == 1);

    settings.timeouts.tunnel_idle = Duration::from_millis(60);
    let keeper = Keeper::default();
    let gateway = keeper.start(builder(settings));
    let mut client = Asker::to(&gateway);
    client.send(b"ping");
    assert_eq!(client.recv_to_end(), b"ping");
    let seen = &keeper.records(1)[0];
    assert_eq!(
        (seen.ended_by, seen.timeout),
        (EndedBy::Timeout, "tunnel_idle")
    );
}

#[test]
fn the_proxy_protocol_tells_the_client_and_the_hash_keeps_it_at_its_node() {
    let nodes = ["one", "two", "three"].map(|name| {
        Speaker::start(name, |mut stream| {
            let _ = std::io::copy(&mut &*stream, &mut stream);
        })
    });
    let mut pool = pool(&nodes.each_ref().map(|node| node.addr));
    pool.balance = BalanceBy::hash(HashKey::Ip);
    pool.proxy_protocol = Some(ProxyVersion::V1);
    let mut listener = ListenerSettings::forward_tcp(ON, "app");
    listener.proxy_protocol = vec!["127.0.0.0/8".parse().expect("a network")];
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool)
        .build()
        .expect("it is sound")
        .start_plain()
        .expect("it starts");
    let mut used = std::collections::BTreeSet::new();
    for client in 1..=12 {
        let mut names = std::collections::BTreeSet::new();
        for port in [1000, 2000, 3000] {
            let header = format!("PROXY TCP4 10.0.0.{client} 192.0.2.1 {port} 80\r\n");
            let mut asker = Asker::to(&gateway);
            asker.send(format!("{header}ping"));
            asker.end_writes();
            let all = String::from_utf8(asker.recv_to_end()).expect("text");
            let (name, told) = all.split_once("PROXY ").expect("a header");
            // The address that the client has connected to is the gateway's.
            let to = gateway.local_addrs()[0]
                .as_socket_addr()
                .expect("an address");
            assert_eq!(
                told,
                format!(
                    "TCP4 10.0.0.{client} 127.0.0.1 {port} {}\r\nping",
                    to.port()
                )
            );
            names.insert(name.to_owned());
        }
        assert_eq!(names.len(), 1, "{names:?}");
        used.extend(names);
    }
    assert!(used.len() > 1, "{used:?}");
}

#[test]
fn tunnels_outlive_changes_and_end_some_time_after_their_node_was_removed() {
    let (old, new) = (Target::start(), Target::start());
    let mut settings = builder(pool(&[old.addr]))
        .build()
        .expect("sound")
        .settings()
        .clone();
    let gateway = Gateway::new(settings.clone())
        .expect("sound")
        .start_plain()
        .expect("starts");
    let reload = |settings: &epicycle::gateway::settings::Settings| {
        let changed = Gateway::new(settings.clone()).expect("it is sound");
        gateway.reload(&changed).expect("it is taken over");
    };
    let mut client = Asker::to(&gateway);
    let ping = |client: &mut Asker| {
        client.send(b"ping");
        assert_eq!(client.recv(4), b"ping");
    };
    ping(&mut client);
    // The node stays.
    settings
        .pools
        .insert("app".to_owned(), pool(&[old.addr, new.addr]));
    reload(&settings);
    ping(&mut client);
    // It goes, and has time to end its connections.
    settings.pools.insert("app".to_owned(), pool(&[new.addr]));
    reload(&settings);
    ping(&mut client);
    let mut another = Asker::to(&gateway);
    ping(&mut another);
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
    // Its time is over.
    settings.drain.node_timeout = Duration::from_millis(40);
    reload(&settings);
    assert_eq!(client.recv_to_end(), b"");
    eventually("the node's connection has ended", || old.ended() == 1);
    ping(&mut another);
}

#[test]
fn a_gateway_that_ends_lets_tunnels_end_until_its_deadline() {
    let target = Target::start();
    let mut settings = builder(pool(&[target.addr]))
        .build()
        .expect("sound")
        .settings()
        .clone();
    settings.drain.deadline = LONG;
    let running = Gateway::new(settings.clone())
        .expect("sound")
        .start_plain()
        .expect("starts");
    let mut client = Asker::to(&running);
    client.send(b"ping");
    assert_eq!(client.recv(4), b"ping");
    let end = thread::spawn(move || running.shutdown());
    for _ in 0..3 {
        client.send(b"ping");
        assert_eq!(client.recv(4), b"ping");
        thread::sleep(Duration::from_millis(5));
    }
    client.end_writes();
    assert_eq!(client.recv_to_end(), b"");
    assert_eq!(end.join().expect("ends").forced, 0);

    settings.drain.deadline = Duration::from_millis(60);
    let running = Gateway::new(settings)
        .expect("sound")
        .start_plain()
        .expect("starts");
    let mut client = Asker::to(&running);
    client.send(b"ping");
    assert_eq!(client.recv(4), b"ping");
    running.shutdown();
    assert_eq!(client.recv_to_end(), b"");
    eventually("the node's connections have ended", || target.ended() == 2);
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let target = Target::start();
    let mut pool = pool(&[target.addr]);
    pool.connections.max_connections = Some(3);
    let gateway = builder(pool)
        .reactors(2)
        .build()
        .expect("sound")
        .start_plain()
        .expect("starts");
    for n in 0..300 {
        let mut client = Asker::to(&gateway);
        match n % 4 {
            0 => client.reset(),
            1 => drop(client),
            2 => {
                client.send(b"ping");
                client.reset();
            }
            _ => {
                client.send(b"ping");
                client.end_writes();
                assert_eq!(client.recv_to_end(), b"ping", "client {n}");
            }
        }
    }
    eventually("nothing is left", || {
        gateway.engine().connections() == 0
            && figure(&gateway, |proxy| proxy.node_connections() + proxy.waiting()) == 0
    });
    let metrics = gateway.control().metrics();
    assert_eq!(
        metric(&metrics, "epicycle_gateway_tunnels"),
        Some(0.0),
        "{metrics}"
    );
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("epicycle_gateway_listener_connections_total"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    // One that is reset before it is accepted is never seen.
    assert!((150.0..=300.0).contains(&counts.sum::<f64>()), "{metrics}");
}

#[test]
fn clients_whose_address_is_not_allowed_get_no_node() {
    let target = Target::start();
    let mut listener = ListenerSettings::forward_tcp(ON, "app");
    listener.access.deny = vec!["127.0.0.0/8".parse().expect("a network")];
    let gateway = Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool(&[target.addr]));
    let gateway = gateway
        .build()
        .expect("it is sound")
        .start_plain()
        .expect("it starts");
    let mut client = Asker::to(&gateway);
    client.send(b"ping");
    assert_eq!(client.recv_to_end(), b"");
    assert_eq!(target.accepted(), 0);
}

#[test]
fn settings_of_tcp_listeners_that_cannot_work_are_told() {
    let problems = |builder: Builder| builder.build().expect_err("it cannot work").to_string();
    let node = || pool(&["127.0.0.1:1".parse().expect("an address")]);
    let mut listener = ListenerSettings::forward_tcp(ON, "app");
    listener.pool = None;
    let text = problems(Gateway::builder().listen(listener));
    assert!(
        text.contains("listeners[0].pool: a TCP or UDP listener needs `pool`"),
        "{text}"
    );
    let text = problems(Gateway::builder().listen(ListenerSettings::forward_tcp(ON, "nope")));
    assert!(text.contains("there is no pool \"nope\""), "{text}");
    let mut hashing = node();
    hashing.balance = BalanceBy::hash(HashKey::Path);
    let text = problems(builder(hashing));
    assert!(text.contains("use `hash = \"ip\"`"), "{text}");
    let mut listener = ListenerSettings::new(ON);
    listener.pool = Some("app".to_owned());
    let text = problems(Gateway::builder().listen(listener).pool("app", node()));
    assert!(
        text.contains("only a TCP or UDP listener has a pool"),
        "{text}"
    );
}

#[test]
fn an_explanation_tells_the_way_of_a_connection() {
    let mut pool = PoolSettings::of(["tcp://10.0.0.1:5432", "tcp://10.0.0.2:5432"]);
    pool.proxy_protocol = Some(ProxyVersion::V2);
    let gateway = Gateway::builder()
        .listen(ListenerSettings::forward_tcp("tcp://127.0.0.1:5432", "app"))
        .pool("app", pool)
        .build()
        .expect("it is sound");
    let explained = gateway
        .explain("tcp://127.0.0.1:5432")
        .expect("is an address")
        .to_string();
    assert_eq!(
        explained,
        "listener  tcp://127.0.0.1:5432\n\
         pool      app: 2 nodes, in turn by weight\n\
         node      tcp://10.0.0.1:5432 first\n\
         sends     a header of the PROXY protocol, V2; the bytes of the client as they are"
    );
    let none = gateway
        .explain("tcp://127.0.0.1:1")
        .expect("is an address")
        .to_string();
    assert!(
        none.contains("no listener forwards TCP on port 1"),
        "{none}"
    );
    assert!(gateway.explain("tcp://x").is_err());
    let gateway = Gateway::builder()
        .listen(ListenerSettings::forward_udp("udp://127.0.0.1:53", "app"))
        .pool("app", PoolSettings::of(["udp://10.0.0.1:53"]))
        .build()
        .expect("it is sound");
    let explained = gateway
        .explain("udp://127.0.0.1:53")
        .expect("is an address");
    assert!(
        explained
            .to_string()
            .contains("node      udp://10.0.0.1:53\n"),
        "{explained}"
    );
}

#[cfg(feature = "tls")]
mod tls {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;

    use epicycle::gateway::settings::{ListenerSettings, PoolSettings};
    use epicycle::gateway::{Gateway, NoHooks, Running};
    use epicycle::tls::{TlsClient, TlsServer};
    use epicycle::{Listen, Server, service};
    use rustls::{ClientConnection, StreamOwned};

    use super::ON;
    use crate::pki::{TRUSTED, client_config};
    use crate::rig::Folder;
    use crate::util::LONG;

    /// Returns what comes back for `ping` on a connection with TLS, from a client that speaks a protocol of its own.
    fn ping(gateway: &Running<NoHooks>) -> Vec<u8> {
        let addr = gateway.local_addrs()[0]
            .as_socket_addr()
            .expect("an address");
        let mut config = client_config();
        config.alpn_protocols = vec![b"another/1".to_vec()];
        let name = "localhost".try_into().expect("is a name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("is set up");
        let stream = TcpStream::connect(addr).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("is set");
        let mut stream = StreamOwned::new(tls, stream);
        stream.write_all(b"ping").expect("is sent");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("it comes");
        answer.to_vec()
    }

    fn start(listener: ListenerSettings, pool: PoolSettings) -> Running<NoHooks> {
        let gateway = Gateway::builder()
            .reactors(1)
            .listen(listener)
            .pool("app", pool);
        gateway
            .build()
            .expect("it is sound")
            .start_plain()
            .expect("it starts")
    }

    #[test]
    fn tls_ends_at_the_gateway_or_begins_there_or_passes_through() {
        let issued = TRUSTED.issue(&["localhost"]);
        let server = TlsServer::new(issued.identity()).expect("is set up");
        let node = Server::bind(Listen::on("tcp://127.0.0.1:0").tls(&server))
            .start(|_| service(|conn, bytes| conn.write(bytes).into()))
            .expect("it starts");
        let node = node.local_addrs()[0].as_socket_addr().expect("an address");
        let mut with_tls = PoolSettings::of([format!("tcp://127.0.0.1:{}", node.port())]);
        let client = TlsClient::new(&TRUSTED.roots()).expect("is set up");
        with_tls.tls = Some(client.server_name("localhost").expect("is a name"));
        let plain = crate::socks::Target::start();
        let plain_pool = PoolSettings::of([format!("tcp://{}", plain.addr)]);
        let mut listener = ListenerSettings::forward_tcp(ON, "app");
        listener.tls = Some(server);

        // Both sides.
        assert_eq!(ping(&start(listener.clone(), with_tls.clone())), b"ping");
        // Towards the client.
        assert_eq!(ping(&start(listener, plain_pool)), b"ping");
        // Neither: the node speaks it with the client.
        let through = PoolSettings::of([format!("tcp://127.0.0.1:{}", node.port())]);
        assert_eq!(
            ping(&start(ListenerSettings::forward_tcp(ON, "app"), through)),
            b"ping"
        );
        // Towards the node.
        let gateway = start(ListenerSettings::forward_tcp(ON, "app"), with_tls);
        let mut client = crate::peers::Asker::to(&gateway);
        client.send(b"ping");
        assert_eq!(client.recv(4), b"ping");
    }

    #[test]
    fn a_file_makes_a_tcp_listener_with_tls_on_both_sides_for_any_protocol() {
        let issued = TRUSTED.issue(&["localhost"]);
        // It takes no client that offers another protocol only.
        let server = TlsServer::new(issued.identity())
            .expect("is set up")
            .alpn(&["another/1"]);
        let node = Server::bind(Listen::on("tcp://127.0.0.1:0").tls(&server))
            .start(|_| service(|conn, bytes| conn.write(bytes).into()))
            .expect("it starts");
        let folder = Folder::new();
        folder.write("ca.pem", TRUSTED.pem());
        folder.write("cert.pem", &issued.certificate);
        folder.write("key.pem", &issued.key);
        folder.write(
            "gateway.toml",
            format!(
                "reactors = 1\n[[listen]]\non = \"{ON}\"\nkind = \"tcp\"\npool = \"a\"\n\
                 tls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n\
                 [pool.a]\nnodes = [\"tcp://{}\"]\ntls = {{ ca = \"ca.pem\", name = \"localhost\" }}\n",
                node.local_addrs()[0]
            ),
        );
        let gateway = Gateway::from_file(folder.path("gateway.toml")).expect("it is sound");
        assert_eq!(ping(&gateway.start_plain().expect("it starts")), b"ping");
    }
}
