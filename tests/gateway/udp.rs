//! UDP listeners: the datagrams of each client go to a node of the pool.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::gateway::settings::{
    BalanceBy, HashKey, HealthCheck, HealthProbe, ListenerKind, ListenerSettings, PoolSettings,
    ProxyVersion, Settings,
};
use epicycle::gateway::{Builder, EndedBy, Gateway, Hooks, NoHooks, Record, Running};
use rustix::process::Signal;

use crate::peers::figure;
use crate::rig::{Folder, Origin, Program, metric};
use crate::socks::Target;
use crate::util::{LONG, eventually, noise};

const ON: &str = "udp://127.0.0.1:0";

/// A node that sends back each datagram, in front of it its name and a colon if it has one. Its thread ends with the test.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    /// The peers in the order in which their first datagrams came.
    peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Echo {
    pub(crate) fn start(name: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let echo = Self {
            addr: socket.local_addr().expect("bound"),
            peers: Arc::default(),
        };
        let peers = echo.peers.clone();
        thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok((len, peer)) = socket.recv_from(&mut bytes) {
                let mut peers = peers.lock().expect("sound");
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
                drop(peers);
                let answer = match name {
                    "" => bytes[..len].to_vec(),
                    name => [name.as_bytes(), b":", &bytes[..len]].concat(),
                };
                let _ = socket.send_to(&answer, peer);
            }
        });
        echo
    }

    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().expect("sound").clone()
    }

    fn node(&self) -> String {
        format!("udp://{}", self.addr)
    }
}

fn pool(nodes: &[&Echo]) -> PoolSettings {
    PoolSettings::of(nodes.iter().map(|node| node.node()))
}

fn listener() -> ListenerSettings {
    ListenerSettings::forward_udp(ON, "app")
}

fn builder(listener: ListenerSettings, pool: PoolSettings) -> Builder {
    Gateway::builder()
        .reactors(1)
        .listen(listener)
        .pool("app", pool)
}

fn start(listener: ListenerSettings, pool: PoolSettings) -> Running<NoHooks> {
    let gateway = builder(listener, pool).build().expect("it is sound");
    gateway.start_plain().expect("it starts")
}

/// A client.
struct Client(UdpSocket);

impl Client {
    fn to<H: Hooks>(gateway: &Running<H>) -> Self {
        Self::at(
            "127.0.0.1:0",
            gateway.local_addrs()[0]
                .as_socket_addr()
                .expect("an address"),
        )
    }

    fn at(own: &str, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind(own).expect("a port");
        socket.connect(to).expect("has a way");
        socket.set_read_timeout(Some(LONG)).expect("is set");
        Self(socket)
    }

    fn send(&self, datagram: &[u8]) {
        self.0.send(datagram).expect("is sent");
    }

    fn recv(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let len = self.0.recv(&mut bytes).expect("it comes");
        bytes.truncate(len);
        bytes
    }

    fn ask(&self, datagram: &[u8]) -> Vec<u8> {
        self.send(datagram);
        self.recv()
    }

    /// Sends until an answer comes, as clients of UDP do.
    fn insist(&self, datagram: &[u8]) -> Vec<u8> {
        let wait = Some(Duration::from_millis(100));
        self.0.set_read_timeout(wait).expect("is set");
        let mut bytes = vec![0; 1 << 16];
        let mut answer = Vec::new();
        eventually("an answer comes", || {
            // The error may be one that the last datagram has caused.
            let _ = self.0.send(datagram);
            match self.0.recv(&mut bytes) {
                Ok(len) => {
                    answer = bytes[..len].to_vec();
                    true
                }
                Err(_) => false,
            }
        });
        self.0.set_read_timeout(Some(LONG)).expect("is set");
        answer
    }

    /// Returns true if nothing comes for a while.
    fn hears_nothing(&self) -> bool {
        let wait = Some(Duration::from_millis(40));
        self.0.set_read_timeout(wait).expect("is set");
        let received = self.0.recv(&mut [0; 10]);
        self.0.set_read_timeout(Some(LONG)).expect("is set");
        matches!(received, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

fn sessions<H: Hooks>(gateway: &Running<H>) -> f64 {
    metric(
        &gateway.control().metrics(),
        "epicycle_gateway_udp_sessions",
    )
    .expect("is told")
}

fn dropped<H: Hooks>(gateway: &Running<H>, reason: &str) -> f64 {
    let name = format!("epicycle_gateway_dropped_datagrams_total{{reason=\"{reason}\"}}");
    metric(&gateway.control().metrics(), &name).expect("is told")
}

#[test]
fn a_session_keeps_its_node_and_the_edges_of_datagrams() {
    let nodes = [Echo::start(""), Echo::start("")];
    let gateway = start(listener(), pool(&nodes.each_ref()));
    for _ in 0..4 {
        let client = Client::to(&gateway);
        for len in [0, 1, 1200, 0, 9000, 65_507, 3] {
            let datagram = noise(len as u64, len);
            assert_eq!(client.ask(&datagram), datagram, "{len}");
        }
    }
    for node in &nodes {
        assert_eq!(node.peers().len(), 2);
    }
    assert_eq!(sessions(&gateway), 4.0);
}

#[test]
fn several_datagrams_at_once_wait_for_the_session_with_the_node_and_arrive_in_order() {
    let node = Echo::start("");
    let gateway = start(listener(), pool(&[&node]));
    let client = Client::to(&gateway);
    for n in 0..10 {
        client.send(&[n; 100]);
    }
    for n in 0..10 {
        assert_eq!(client.recv(), [n; 100]);
    }
}

#[test]
fn only_the_node_can_answer() {
    let node = Echo::start("node");
    let gateway = start(listener(), pool(&[&node]));
    let client = Client::to(&gateway);
    assert_eq!(client.ask(b"x"), b"node:x");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for _ in 0..10 {
        stranger
            .send_to(b"forged", node.peers()[0])
            .expect("is sent");
    }
    assert!(client.hears_nothing());
    assert_eq!(client.ask(b"y"), b"node:y");
}

#[test]
fn a_node_where_nobody_listens_is_replaced_and_ejected() {
    let alive = Echo::start("alive");
    let dead = UdpSocket::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let mut settings = pool(&[&alive]);
    settings
        .nodes
        .push(epicycle::gateway::settings::NodeSettings::new(format!(
            "udp://{dead}"
        )));
    settings.ejection = epicycle::balance::Ejection::default().failures(2);
    let gateway = start(listener(), settings);
    for _ in 0..6 {
        assert_eq!(Client::to(&gateway).insist(b"x"), b"alive:x");
    }
    let metrics = gateway.control().metrics();
    let ejected = format!("epicycle_gateway_node_ejected{{pool=\"app\",node=\"udp://{dead}\"}}");
    assert_eq!(metric(&metrics, &ejected), Some(1.0), "{metrics}");
}

#[test]
fn no_node_at_all_costs_datagrams_that_are_counted() {
    let dead = UdpSocket::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let mut settings = PoolSettings::of([format!("udp://{dead}")]);
    settings.fail_open = false;
    let mut check = HealthCheck::new(HealthProbe::Tcp);
    (check.interval, check.down_after) = (Duration::from_millis(20), 1);
    settings.health = Some(check);
    let gateway = start(listener(), settings);
    eventually("it is down", || {
        figure(&gateway, |proxy| proxy.nodes_up()) == 0
    });
    let client = Client::to(&gateway);
    client.send(b"x");
    eventually("it is dropped", || dropped(&gateway, "unreachable") == 1.0);
}

#[test]
fn further_clients_than_max_sessions_get_none_and_cost_the_others_nothing() {
    let node = Echo::start("");
    let mut settings = listener();
    settings.datagrams.max_sessions = 2;
    let gateway = start(settings, pool(&[&node]));
    let clients = [Client::to(&gateway), Client::to(&gateway)];
    for client in &clients {
        client.ask(b"x");
    }
    for _ in 0..200 {
        Client::to(&gateway).send(b"flood");
    }
    eventually("they are refused", || {
        gateway.engine().stats().total().refused >= 200
    });
    for client in &clients {
        assert_eq!(client.ask(b"y"), b"y");
    }
    assert_eq!((sessions(&gateway), node.peers().len()), (2.0, 2));
}

#[test]
fn a_session_ends_when_nothing_passes_and_is_recorded() {
    type Seen = Arc<Mutex<Vec<(String, u16, EndedBy, String, (u64, u64))>>>;

    struct Keeper(Seen);

    impl Hooks for Keeper {
        type Exchange = ();

        fn on_done(&mut self, record: &Record<'_>, (): &mut ()) {
            self.0.lock().expect("sound").push((
                record.method.to_owned(),
                record.status,
                record.ended_by,
                record.node.to_owned(),
                (record.request_bytes, record.response_bytes),
            ));
        }
    }

    let node = Echo::start("n");
    let mut settings = listener();
    settings.datagrams.idle = Duration::from_millis(60);
    let seen = Seen::default();
    let keeper = seen.clone();
    let gateway = builder(settings, pool(&[&node]))
        .build()
        .expect("it is sound");
    let gateway = gateway
        .start(move |_| Keeper(keeper.clone()))
        .expect("it starts");
    let client = Client::to(&gateway);
    assert_eq!(client.ask(b"x"), b"n:x");
    eventually("it is recorded", || seen.lock().expect("sound").len() == 1);
    assert_eq!(
        seen.lock().expect("sound")[0],
        ("UDP".to_owned(), 200, EndedBy::Nobody, node.node(), (1, 3))
    );
    eventually("nothing is left", || {
        sessions(&gateway) == 0.0 && gateway.engine().connections() == 0
    });
    assert_eq!(client.ask(b"y"), b"n:y");
    assert_eq!(node.peers().len(), 2);
}

#[test]
fn a_hash_keeps_an_address_at_its_node() {
    let nodes = ["one", "two", "three"].map(Echo::start);
    let mut settings = pool(&nodes.each_ref());
    settings.balance = BalanceBy::hash(HashKey::Ip);
    let gateway = start(listener(), settings);
    let to = gateway.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    let mut used = BTreeSet::new();
    for ip in 1..20 {
        let own = format!("127.0.0.{ip}:0");
        let answers: BTreeSet<_> = (0..3).map(|_| Client::at(&own, to).ask(b"x")).collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        used.extend(answers);
    }
    assert!(used.len() > 1, "{used:?}");
}

#[test]
fn sessions_outlive_changes_and_leave_a_node_that_is_removed() {
    let (old, new) = (Echo::start("old"), Echo::start("new"));
    let settings = |nodes: &[&Echo]| -> Settings {
        let gateway = builder(listener(), pool(nodes))
            .build()
            .expect("it is sound");
        gateway.settings().clone()
    };
    let gateway = Gateway::new(settings(&[&old]))
        .expect("sound")
        .start_plain()
        .expect("starts");
    let client = Client::to(&gateway);
    assert_eq!(client.ask(b"x"), b"old:x");
    let change = |settings: Settings| {
        let changed = Gateway::new(settings).expect("it is sound");
        gateway.reload(&changed).expect("it is taken over")
    };
    assert!(change(settings(&[&old, &new])).opened.is_empty());
    assert_eq!(client.ask(b"y"), b"old:y");
    assert_eq!(old.peers().len(), 1);
    change(settings(&[&new]));
    assert_eq!(client.ask(b"z"), b"new:z");
    assert_eq!(sessions(&gateway), 1.0);
    // What an open socket cannot change needs a restart, and is told.
    let mut other = settings(&[&new]);
    other.listeners[0].datagrams.max_sessions = 7;
    let reloaded = change(other);
    assert_eq!(
        reloaded.needs_restart,
        ["udp_idle and max_sessions of a UDP listener"]
    );
    assert_eq!(client.ask(b"z"), b"new:z");
}

#[test]
fn clients_whose_address_is_not_allowed_get_no_session() {
    let node = Echo::start("");
    let mut settings = listener();
    settings.access.deny = vec!["127.0.0.2/32".parse().expect("a network")];
    let gateway = start(settings, pool(&[&node]));
    let to = gateway.local_addrs()[0]
        .as_socket_addr()
        .expect("an address");
    Client::at("127.0.0.2:0", to).send(b"x");
    assert_eq!(Client::at("127.0.0.3:0", to).ask(b"y"), b"y");
    assert_eq!(node.peers().len(), 1);
}

#[test]
fn very_many_clients_leave_nothing_behind() {
    let node = Echo::start("");
    let mut settings = listener();
    settings.datagrams.idle = Duration::from_millis(300);
    let gateway = start(settings, pool(&[&node]));
    let clients: Vec<Client> = (0..300).map(|_| Client::to(&gateway)).collect();
    for client in &clients {
        client.insist(b"x");
    }
    eventually("nothing is left", || {
        sessions(&gateway) == 0.0
            && gateway.engine().connections() == 0
            && figure(&gateway, |proxy| proxy.in_flight() as usize) == 0
    });
}

#[test]
fn settings_of_udp_listeners_that_cannot_work_are_told() {
    let problems = |listener: ListenerSettings, pool: PoolSettings| {
        builder(listener, pool)
            .build()
            .expect_err("it cannot work")
            .to_string()
    };
    let udp = || PoolSettings::of(["udp://127.0.0.1:53"]);
    let tcp = || PoolSettings::of(["tcp://127.0.0.1:53"]);
    let proxy = || Some("socks5://10.0.0.1:1080".parse().expect("is a proxy"));
    let mut by_proxy = udp();
    by_proxy.via = proxy();
    let mut relay = ListenerSettings::new("tcp://127.0.0.1:0");
    relay.kind = ListenerKind::Socks5;
    (relay.via, relay.datagrams.associate) = (proxy(), true);
    for (listener, pool, expected) in [
        (
            listener(),
            by_proxy,
            "pools.app.via: datagrams would go past the proxy",
        ),
        (relay, tcp(), "datagrams.associate: datagrams would go past"),
        (
            listener(),
            tcp(),
            "pools.app.nodes[0]: the nodes of a UDP listener take datagrams",
        ),
        (
            ListenerSettings::forward_tcp("tcp://127.0.0.1:0", "app"),
            udp(),
            "only the nodes of UDP listeners are udp://",
        ),
        (
            ListenerSettings::forward_udp("tcp://127.0.0.1:0", "app"),
            udp(),
            "it needs datagrams; use udp://",
        ),
        (
            ListenerSettings::forward_tcp("udp://127.0.0.1:0", "app"),
            tcp(),
            "it needs a stream",
        ),
    ] {
        let text = problems(listener, pool);
        assert!(text.contains(expected), "{text}");
    }
    let mut many = listener();
    many.datagrams.max_sessions = 0;
    many.datagrams.idle = Duration::ZERO;
    let text = problems(many, udp());
    assert!(
        text.contains("max_sessions: use 1 to") && text.contains("idle: zero would"),
        "{text}"
    );
    let mut named = udp();
    named.proxy_protocol = Some(ProxyVersion::V2);
    let text = problems(listener(), named);
    assert!(text.contains("datagrams have no PROXY headers"), "{text}");
}

#[test]
fn another_process_takes_over_a_udp_listener() {
    let (node, origin) = (Echo::start("node"), Origin::start("o"));
    let folder = Folder::new();
    // The addresses must stay.
    let own = UdpSocket::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    folder.write(
        "gateway.toml",
        format!(
            "drain.grace = \"200ms\"\n[[listen]]\non = \"tcp://127.0.0.1:0\"\n[[listen]]\non = \"udp://{own}\"\nkind = \"udp\"\npool = \"u\"\n\
             [[route]]\npool = \"a\"\n[pool.a]\nnodes = [{}]\n[pool.u]\nnodes = [\"{}\"]\n",
            origin.node(),
            node.node()
        ),
    );
    let mut program = Program::start(&folder, 2);
    let client = Client::at("127.0.0.1:0", own);
    assert_eq!(client.ask(b"x"), b"node:x");
    program.signal(Signal::USR2);
    for _ in 0..2 {
        let line = program.line();
        assert!(line.contains("listens on"), "{line}\n{}", program.log());
    }
    assert!(program.line().contains("epicycle gateway ends"));
    let answer = client.insist(b"y");
    let pid = std::process::Command::new("pgrep")
        .args(["-f", &folder.path("gateway.toml").display().to_string()])
        .output()
        .expect("runs");
    for pid in String::from_utf8_lossy(&pid.stdout).lines() {
        let _ = std::process::Command::new("kill").arg(pid).status();
    }
    assert_eq!(answer, b"node:y");
    assert!(program.ended().success());
}

#[test]
fn descriptors_that_run_out_are_no_fault_of_the_nodes_and_cost_new_clients_only() {
    let (target, echo, folder) = (Target::start(), Echo::start("e"), Folder::new());
    folder.write(
        "gateway.toml",
        format!(
            "[[listen]]\non = \"tcp4://127.0.0.1:0\"\nkind = \"metrics\"\n\
             [[listen]]\non = \"tcp://127.0.0.1:0\"\nkind = \"tcp\"\npool = \"t\"\n\
             [[listen]]\non = \"udp://127.0.0.1:0\"\nkind = \"udp\"\npool = \"u\"\nudp_idle = \"1s\"\n\
             [pool.t]\nnodes = [\"tcp://{}\"]\neject = {{ failures = 1, max_percent = 100 }}\n\
             [pool.u]\nnodes = [\"{}\"]\neject = {{ failures = 1, max_percent = 100 }}\n",
            target.addr,
            echo.node()
        ),
    );
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -n 60; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_epicycle"))
        .args(["gateway", "--reactors", "1", "--config"])
        .arg(folder.path("gateway.toml"));
    let program = Program::start_with(&mut command, &folder, 3);
    let mut metrics = crate::rig::Client::to(program.addrs[0]);
    let mut read = || metrics.get("/metrics").expect("is answered").body;
    read();
    let old = Client::at("127.0.0.1:0", program.addrs[2]);
    assert_eq!(old.ask(b"x"), b"e:x");
    let streams: Vec<_> = (0..60)
        .filter_map(|_| TcpStream::connect(program.addrs[1]).ok())
        .collect();
    let clients: Vec<_> = (0..60)
        .map(|_| Client::at("127.0.0.1:0", program.addrs[2]))
        .collect();
    for client in &clients {
        client.send(b"x");
    }
    let dropped = "epicycle_gateway_dropped_datagrams_total{reason=\"unreachable\"}";
    eventually("descriptors run out", || {
        metric(&read(), dropped).is_some_and(|count| count > 0.0)
    });
    for _ in 0..10 {
        assert_eq!(old.ask(b"y"), b"e:y");
    }
    let text = read();
    for node in [
        format!("pool=\"t\",node=\"tcp://{}\"", target.addr),
        format!("pool=\"u\",node=\"{}\"", echo.node()),
    ] {
        let ejected = metric(&text, &format!("epicycle_gateway_node_ejected{{{node}}}"));
        assert_eq!(ejected, Some(0.0), "{node}\n{text}");
    }
    drop(streams);
    drop(clients);
    assert_eq!(
        Client::at("127.0.0.1:0", program.addrs[2]).insist(b"z"),
        b"e:z"
    );
    eventually("clients of TCP are served again", || {
        let Ok(mut stream) = TcpStream::connect(program.addrs[1]) else {
            return false;
        };
        let mut answer = [0; 4];
        stream.write_all(b"ping").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer == *b"ping"
    });
}
