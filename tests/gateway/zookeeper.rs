//! The children of a node of ZooKeeper as the nodes of a pool: with servers that follow a script, and with the real one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use epicycle::gateway::discover::ZooKeeperSource;
use epicycle::gateway::settings::{
    ChildForm, PoolSettings, RouteSettings, Secret, SourceSettings, ZooKeeperSettings,
};
use epicycle::gateway::{NoHooks, Running};
use log::Level;
use rustix::process::Signal;

use crate::peers::{builder, start};
use crate::rig::{Client, Folder, Origin, Program, metric};
use crate::util::logs::logs;
use crate::util::{LONG, eventually, skipped};

/// A message that is being written.
#[derive(Clone, Default)]
struct Jute(Vec<u8>);

impl Jute {
    fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bytes(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut with_length = self.int(bytes.len() as i32);
        with_length.0.extend(bytes);
        with_length
    }

    fn texts(self, texts: &[&str]) -> Self {
        let with_length = self.int(texts.len() as i32);
        texts.iter().fold(with_length, Self::bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

fn reply(xid: i32, error: i32) -> Jute {
    Jute::default().int(xid).long(1).int(error)
}

fn children(xid: i32, names: &[&str]) -> Jute {
    reply(xid, 0).texts(names).raw(&[0; 68])
}

fn event(kind: i32, path: &str) -> Jute {
    reply(-1, 0).int(kind).int(3).bytes(path)
}

fn session(id: i64, timeout: i32) -> Jute {
    let jute = Jute::default().int(0).int(timeout).long(id);
    jute.bytes([7; 16]).raw(&[0])
}

/// A request, as a server reads it.
#[derive(Debug)]
struct Request {
    xid: i32,
    operation: i32,
    rest: Vec<u8>,
}

const GET_DATA: i32 = 4;
const PING: i32 = 11;
const GET_CHILDREN: i32 = 12;
const EXISTS: i32 = 3;
const AUTH: i32 = 100;

/// The side of a server, or of a client, that the test plays.
struct Peer(TcpStream);

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LONG)).expect("is set");
        stream.set_nodelay(true).expect("is set");
        Self(stream)
    }

    fn recv(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame)?;
        Ok(frame)
    }

    fn send(&mut self, jute: &Jute) {
        // The client may have left.
        let _ = self.0.write_all(&Jute::default().bytes(&jute.0).0);
    }

    /// Reads the client's first message, and returns the number of the session that it asks for.
    fn hello(&mut self) -> i64 {
        let hello = self.recv().expect("says hello");
        i64::from_be_bytes(hello[16..24].try_into().expect("8 bytes"))
    }

    /// Reads the next request but pings, which it answers.
    fn request(&mut self) -> Request {
        loop {
            let frame = self.recv().expect("asks");
            let int =
                |at: usize| i32::from_be_bytes(frame[at..at + 4].try_into().expect("4 bytes"));
            let (xid, operation) = (int(0), int(4));
            if operation == PING {
                self.send(&reply(-2, 0));
                continue;
            }
            let rest = frame[8..].to_vec();
            return Request {
                xid,
                operation,
                rest,
            };
        }
    }

    /// Answers the next request, which must be for the children.
    fn give_children(&mut self, names: &[&str]) {
        let asked = self.request();
        assert_eq!(asked.operation, GET_CHILDREN, "{asked:?}");
        assert_eq!(asked.rest, Jute::default().bytes("/app").raw(&[1]).0);
        self.send(&children(asked.xid, names));
    }

    /// Returns true once the client has closed the connection.
    fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.0.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A server that follows the test's script.
struct Scripted(TcpListener);

impl Scripted {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    fn accept(&self) -> Peer {
        Peer::new(self.0.accept().expect("a client").0)
    }

    /// Accepts a client, and opens a session. Returns the one that the client asked for as well.
    fn serve(&self, timeout: i32) -> (Peer, i64) {
        let mut peer = self.accept();
        let asked = peer.hello();
        peer.send(&session(0x77, timeout));
        (peer, asked)
    }

    fn settings(&self) -> ZooKeeperSettings {
        ZooKeeperSettings::new(format!("{}/app", self.addr()))
    }
}

/// Starts a gateway whose pool has the children of a node.
fn follow(settings: ZooKeeperSettings) -> Running<NoHooks> {
    let running = start(PoolSettings::of(["http://127.0.0.1:1"]));
    let source = ZooKeeperSource::new(settings, false).expect("it is sound");
    let control = running.control();
    control
        .discover("app", source)
        .expect("there is such a pool");
    running
}

/// Returns the nodes of the pool, without their schemes.
fn nodes(running: &Running<NoHooks>) -> Vec<String> {
    let text = running.control().metrics();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("epicycle_gateway_node_up{pool=\"app\",node=\""));
    let nodes = lines.filter_map(|line| line.split_once('"')?.0.split_once("://"));
    nodes.map(|(_, addr)| addr.to_owned()).collect()
}

fn has_nodes(running: &Running<NoHooks>, wanted: &[&str]) {
    eventually(&format!("the nodes are {wanted:?}"), || {
        nodes(running) == wanted
    });
}

fn figure(running: &Running<NoHooks>, name: &str) -> Option<f64> {
    let name = format!("epicycle_gateway_discovery_{name}{{pool=\"app\"}}");
    metric(&running.control().metrics(), &name)
}

#[test]
fn children_name_the_nodes_and_a_watch_tells_their_change() {
    let server = Scripted::new();
    let running = follow(server.settings());
    let (mut peer, asked) = server.serve(10_000);
    assert_eq!(asked, 0);
    peer.give_children(&["10.0.0.2:80,5", "10.0.0.1:80", "http://[::1]:81"]);
    has_nodes(&running, &["[::1]:81", "10.0.0.1:80", "10.0.0.2:80"]);
    let weight = "epicycle_gateway_node_weight{pool=\"app\",node=\"tcp://10.0.0.2:80\"}";
    assert_eq!(metric(&running.control().metrics(), weight), Some(5.0));
    // Events come together. Those of other nodes, and such that nobody asked for, are nothing.
    for _ in 0..1000 {
        peer.send(&event(4, "/app"));
        peer.send(&event(3, "/other"));
        peer.send(&event(3, "/app/unknown"));
    }
    peer.give_children(&["10.0.0.3:80"]);
    has_nodes(&running, &["10.0.0.3:80"]);
    running.shutdown();
    // The session ends with the source, so that the server forgets it. The flood may have cost one more read.
    let last = loop {
        match peer.request().operation {
            GET_CHILDREN => {}
            other => break other,
        }
    };
    assert_eq!(last, -11);
}

#[test]
fn the_data_of_children_names_the_nodes_and_is_read_again_when_it_has_changed() {
    let server = Scripted::new();
    let mut settings = server.settings();
    settings.form = ChildForm::Data;
    let running = follow(settings);
    let (mut peer, _) = server.serve(10_000);
    let give_data = |peer: &mut Peer, name: &str, data: &str| {
        let asked = peer.request();
        assert_eq!(asked.operation, GET_DATA, "{asked:?}");
        let path = format!("/app/{name}");
        assert_eq!(asked.rest, Jute::default().bytes(path).raw(&[1]).0);
        let data = reply(asked.xid, 0).bytes(data).raw(&[0; 68]);
        peer.send(&data);
    };
    peer.give_children(&["b", "a", "c"]);
    give_data(&mut peer, "a", "10.0.0.1:80,2\n");
    give_data(&mut peer, "b", "10.0.0.2:80");
    // It has gone before its data was read.
    let asked = peer.request();
    peer.send(&reply(asked.xid, -101));
    has_nodes(&running, &["10.0.0.1:80", "10.0.0.2:80"]);
    // Only what has changed is read.
    peer.send(&event(3, "/app/b"));
    peer.give_children(&["a", "b"]);
    give_data(&mut peer, "b", "10.0.0.9:80");
    has_nodes(&running, &["10.0.0.1:80", "10.0.0.9:80"]);
    running.shutdown();
}

#[test]
fn a_session_goes_on_with_the_next_server_and_another_one_begins_when_it_has_expired() {
    logs();
    let (first, second) = (Scripted::new(), Scripted::new());
    let connect = format!("{},{}/app", first.addr(), second.addr());
    let mut settings = ZooKeeperSettings::new(connect);
    settings.session_timeout = Duration::from_secs(10);
    settings.auth = Some(Secret::new("me:topsecret"));
    assert!(!format!("{settings:?}").contains("topsecret"));
    let running = follow(settings);
    // It begins with one of them.
    first.0.set_nonblocking(true).expect("is set");
    second.0.set_nonblocking(true).expect("is set");
    let mut begun = None;
    eventually("it connects", || {
        let clients = [first.0.accept(), second.0.accept()];
        begun = clients.into_iter().position(|client| client.is_ok());
        // The script goes on with the other one, as this connection is dropped.
        begun.is_some()
    });
    first.0.set_nonblocking(false).expect("is set");
    second.0.set_nonblocking(false).expect("is set");
    let (one, other) = match begun {
        Some(0) => (&second, &first),
        _ => (&first, &second),
    };
    let read = |peer: &mut Peer, names: &[&str]| {
        let auth = peer.request();
        assert_eq!((auth.xid, auth.operation), (-4, AUTH));
        let wanted = Jute::default().int(0).bytes("digest").bytes("me:topsecret");
        assert_eq!(auth.rest, wanted.0);
        peer.send(&reply(-4, 0));
        peer.give_children(names);
    };
    let (mut peer, asked) = one.serve(10_000);
    assert_eq!(asked, 0);
    read(&mut peer, &["10.0.0.1:80"]);
    has_nodes(&running, &["10.0.0.1:80"]);
    drop(peer);
    let (mut peer, asked) = other.serve(10_000);
    assert_eq!(asked, 0x77, "the session goes on");
    read(&mut peer, &["10.0.0.2:80"]);
    has_nodes(&running, &["10.0.0.2:80"]);
    drop(peer);
    let mut peer = one.accept();
    assert_eq!(peer.hello(), 0x77);
    peer.send(&session(0, 0));
    assert!(peer.is_closed());
    let (mut peer, asked) = one.serve(10_000);
    assert_eq!(asked, 0, "another session");
    read(&mut peer, &["10.0.0.3:80"]);
    has_nodes(&running, &["10.0.0.3:80"]);
    assert_eq!(figure(&running, "failures_total"), Some(0.0));
    running.shutdown();
    assert!(logs().with("topsecret").is_empty());
}

#[test]
fn a_server_that_breaks_the_protocol_is_left_and_the_last_list_stays() {
    let server = Scripted::new();
    let running = follow(server.settings());
    // It comes back by itself after each fault.
    let mut good = 0;
    let mut serves_well = || {
        good += 1;
        let node = format!("10.0.0.{good}:80");
        let (mut peer, _) = server.serve(10_000);
        peer.give_children(&[&node]);
        has_nodes(&running, &[&node]);
        peer
    };
    drop(serves_well());
    let frame = |jute: Jute| Jute::default().bytes(jute.0).0;
    // Instead of a session.
    for bad in [
        Jute::default().int(-1).0,
        Jute::default().int(i32::MAX).0,
        frame(Jute::default().int(0)),
        frame(session(0, 10_000)),
        frame(Jute::default().int(0).int(9).long(7).int(i32::MAX)),
        frame(Jute::default().int(0).int(9).long(7).bytes([0; 300])),
    ] {
        let mut peer = server.accept();
        peer.hello();
        peer.0.write_all(&bad).expect("is sent");
        assert!(peer.is_closed(), "{bad:?}");
        drop(serves_well());
    }
    // Instead of the children.
    let bad = |xid: i32| {
        [
            children(xid + 1, &[]),
            children(0, &[]),
            reply(-2, 0),
            reply(xid, 0).int(-2),
            reply(xid, 0).int(i32::MAX),
            reply(xid, 0).int(2).bytes("10.0.1.1:80"),
            reply(xid, 0).int(1).int(i32::MIN),
            reply(xid, 0).int(1).bytes([0xff, 0xfe]),
            reply(-1, 0).int(4),
            reply(-4, -115),
            Jute::default().int(xid),
            Jute::default(),
        ]
    };
    for n in 0..bad(0).len() {
        let before = nodes(&running);
        let (mut peer, _) = server.serve(10_000);
        let asked = peer.request();
        peer.send(&bad(asked.xid)[n]);
        assert!(peer.is_closed(), "{n}");
        eventually("it fails", || figure(&running, "failing") == Some(1.0));
        assert_eq!(nodes(&running), before);
        drop(serves_well());
    }
    let _peer = serves_well();
    // The list is taken before that is noted.
    eventually("it is sound again", || {
        figure(&running, "failing") == Some(0.0)
    });
    running.shutdown();
}

#[test]
fn a_server_that_is_silent_is_left() {
    let server = Scripted::new();
    let mut settings = server.settings();
    settings.session_timeout = Duration::from_secs(1);
    let running = follow(settings);
    // From the beginning.
    let mut peer = server.accept();
    peer.hello();
    assert!(peer.is_closed());
    // Later: it answers no ping.
    let (mut peer, _) = server.serve(1000);
    peer.give_children(&["10.0.0.1:80"]);
    assert!(peer.is_closed());
    has_nodes(&running, &["10.0.0.1:80"]);
    // Pings keep a session that has nothing to say.
    let (mut peer, _) = server.serve(1000);
    peer.give_children(&["10.0.0.2:80"]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let ping = peer.recv().expect("pings");
        assert_eq!(ping, Jute::default().int(-2).int(PING).0);
        peer.send(&reply(-2, 0));
    }
    running.shutdown();
}

#[test]
fn a_node_that_is_missing_or_has_no_sound_children_leaves_the_last_list() {
    logs();
    let server = Scripted::new();
    let running = follow(server.settings());
    let (mut peer, _) = server.serve(10_000);
    // A child that names no node costs only itself.
    peer.give_children(&[
        "10.0.0.1:80",
        "zookeeper-garbage",
        "10.0.0.2:80,heavy",
        "unix://run",
    ]);
    has_nodes(&running, &["10.0.0.1:80"]);
    let told = "3 of the children name no node";
    eventually("it is told", || logs().have(Level::Warn, &[told]));
    let fails = |peer: &mut Peer, text: &str| {
        eventually(text, || logs().have(Level::Warn, &["pool app", text]));
        peer.send(&event(4, "/app"));
    };
    peer.send(&event(4, "/app"));
    peer.give_children(&[]);
    fails(&mut peer, "it tells no node");
    let many: Vec<_> = (0..1025)
        .map(|n| format!("10.1.{}.{}:80", n / 256, n % 256))
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    peer.give_children(&many);
    fails(&mut peer, "the node has 1025 children, more than 1024");
    // Without the node, it is watched whether it comes to be.
    let asked = peer.request();
    peer.send(&reply(asked.xid, -101));
    let asked = peer.request();
    assert_eq!(asked.operation, EXISTS);
    peer.send(&reply(asked.xid, -101));
    eventually("it is told", || {
        logs().have(Level::Warn, &["ZooKeeper has no node \"/app\""])
    });
    assert_eq!(nodes(&running), ["10.0.0.1:80"]);
    peer.send(&event(1, "/app"));
    peer.give_children(&many[..1024]);
    eventually("all are there", || nodes(&running).len() == 1024);
    running.shutdown();
}

/// The real server, on a port of its own.
struct ZooKeeper {
    server: Child,
    addr: SocketAddr,
}

const JAR: &str = "/usr/share/java/zookeeper.jar";

impl ZooKeeper {
    /// Starts it with the data of a folder. Returns `None`, loudly, if it is not installed.
    fn start(folder: &Folder, addr: Option<SocketAddr>) -> Option<Self> {
        if !Path::new(JAR).exists() {
            skipped("ZooKeeper is not installed: run .ci/install zookeeper");
            return None;
        }
        let addr = addr.unwrap_or_else(|| Scripted::new().addr());
        let data = folder.path("data");
        folder.write(
            "zoo.cfg",
            format!(
                "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
                data.display(),
                addr.port()
            ),
        );
        let log = File::create(folder.path("zookeeper.log")).expect("is made");
        let mut command = Command::new("java");
        let flags = [
            "-Xmx64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            JAR,
        ];
        command.args(flags);
        command.arg("org.apache.zookeeper.server.ZooKeeperServerMain");
        command.arg(folder.path("zoo.cfg")).stdin(Stdio::null());
        command
            .stderr(log.try_clone().expect("is copied"))
            .stdout(log);
        let server = command.spawn().expect("java starts");
        let zookeeper = Self { server, addr };
        eventually("it serves", || ZooKeeperUser::try_new(addr).is_some());
        Some(zookeeper)
    }

    fn kill(mut self) -> SocketAddr {
        self.end();
        self.addr
    }

    fn end(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client that writes nodes.
struct ZooKeeperUser {
    peer: Peer,
    xid: i32,
}

impl ZooKeeperUser {
    fn try_new(addr: SocketAddr) -> Option<Self> {
        let mut peer = Peer::new(TcpStream::connect(addr).ok()?);
        let hello = Jute::default().int(0).long(0).int(5000).long(0);
        peer.send(&hello.bytes([0; 16]).raw(&[0]));
        // A connection that comes while it starts is never answered.
        peer.0.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        peer.recv().ok()?;
        peer.0.set_read_timeout(Some(LONG)).ok()?;
        Some(Self { peer, xid: 0 })
    }

    fn new(addr: SocketAddr) -> Self {
        Self::try_new(addr).expect("it serves")
    }

    fn ask(&mut self, operation: i32, body: impl FnOnce(Jute) -> Jute) {
        self.xid += 1;
        let head = Jute::default().int(self.xid).int(operation);
        self.peer.send(&body(head));
        let answer = loop {
            let answer = self.peer.recv().expect("answers");
            if answer[..4] == self.xid.to_be_bytes() {
                break answer;
            }
        };
        assert_eq!(answer[12..16], [0; 4], "the server refuses it");
    }

    /// Makes a node that everybody may read, or only those who have shown who they are.
    fn create(&mut self, path: &str, data: &str, is_private: bool) {
        let (scheme, id) = if is_private {
            ("auth", "")
        } else {
            ("world", "anyone")
        };
        self.ask(1, |head| {
            let acl = head.bytes(path).bytes(data).int(1).int(31);
            acl.bytes(scheme).bytes(id).int(0)
        });
    }

    fn set(&mut self, path: &str, data: &str) {
        self.ask(5, |head| head.bytes(path).bytes(data).int(-1));
    }

    fn delete(&mut self, path: &str) {
        self.ask(2, |head| head.bytes(path).int(-1));
    }

    fn show(&mut self, user: &str) {
        let auth = Jute::default().int(-4).int(AUTH).int(0);
        self.peer.send(&auth.bytes("digest").bytes(user));
        self.peer.recv().expect("answers");
    }
}

#[test]
fn the_real_server_tells_changes_and_may_be_killed_and_started_again() {
    let folder = Folder::new();
    let Some(server) = ZooKeeper::start(&folder, None) else {
        return;
    };
    let mut user = ZooKeeperUser::new(server.addr);
    let mut settings = ZooKeeperSettings::new(format!("{}/services/app", server.addr));
    settings.form = ChildForm::Data;
    settings.auth = Some(Secret::new("me:secret"));
    settings.session_timeout = Duration::from_secs(5);
    let mut pool = PoolSettings::default();
    pool.discover = Some(SourceSettings::ZooKeeper(settings));
    let gateway = builder(pool).route(RouteSettings::to("app")).build();
    let running = gateway
        .expect("it is sound")
        .start_plain()
        .expect("it starts");
    // There is no such node yet.
    eventually("it fails", || figure(&running, "failing") == Some(1.0));
    user.show("me:secret");
    user.create("/services", "", false);
    user.create("/services/app", "", true);
    user.create("/services/app/one", "10.0.0.1:80,3", true);
    has_nodes(&running, &["10.0.0.1:80"]);
    user.create("/services/app/two", "10.0.0.2:80", true);
    has_nodes(&running, &["10.0.0.1:80", "10.0.0.2:80"]);
    user.set("/services/app/one", "10.0.0.9:80");
    has_nodes(&running, &["10.0.0.2:80", "10.0.0.9:80"]);
    user.delete("/services/app/two");
    has_nodes(&running, &["10.0.0.9:80"]);

    let addr = server.kill();
    eventually("it fails", || figure(&running, "failing") == Some(1.0));
    assert_eq!(nodes(&running), ["10.0.0.9:80"]);
    let server = ZooKeeper::start(&folder, Some(addr)).expect("it is installed");
    eventually("it answers again", || {
        figure(&running, "failing") == Some(0.0)
    });
    let mut user = ZooKeeperUser::new(server.addr);
    user.show("me:secret");
    user.create("/services/app/three", "10.0.0.3:80", true);
    has_nodes(&running, &["10.0.0.3:80", "10.0.0.9:80"]);
    running.shutdown();
}

#[test]
fn a_program_whose_session_has_expired_while_it_was_stopped_begins_another_one() {
    let folder = Folder::new();
    let Some(server) = ZooKeeper::start(&folder, None) else {
        return;
    };
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let mut user = ZooKeeperUser::new(server.addr);
    user.create("/app", "", false);
    user.create(&format!("/app/{},1", first.addr), "", false);
    folder.write(
        "gateway.toml",
        format!(
            "listen = [{{ on = \"tcp://127.0.0.1:0\" }}]\nroute = [{{ pool = \"app\" }}]\n\
             pool.app.discover = {{ zk = \"{}/app\", session_timeout = \"1s\" }}\n",
            server.addr
        ),
    );
    let program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    let mut is_served_by = |name: &str| {
        eventually(name, || {
            client.get("/").is_ok_and(|answer| answer.body == name)
        });
    };
    is_served_by("first");
    program.signal(Signal::STOP);
    // A session that was silent for its timeout ends with the next tick.
    std::thread::sleep(Duration::from_secs(3));
    user.create(&format!("/app/{},1", second.addr), "", false);
    user.delete(&format!("/app/{},1", first.addr));
    program.signal(Signal::CONT);
    is_served_by("second");
    assert!(
        program.log().contains("the session has expired"),
        "{}",
        program.log()
    );
    // Its watches are set again.
    user.create(&format!("/app/{},1", first.addr), "", false);
    user.delete(&format!("/app/{},1", second.addr));
    is_served_by("first");
}
