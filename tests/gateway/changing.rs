//! What a change of the settings does to connections, requests and nodes that it finds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use epicycle::gateway::settings::{
    HealthCheck, HealthProbe, ListenerSettings, PoolSettings, RouteSettings,
};
use epicycle::gateway::{Gateway, NoHooks, Running};
use rustix::process::Signal;

use crate::peers::{
    Asker, Deed, Message, Origin, builder, figure, idle, ok, pool_of, respond, start,
};
use crate::rig::{self, Client, Folder, Program, metric};
use crate::util::eventually;

fn gateway_of(reactors: usize, pool: PoolSettings) -> Gateway {
    let built = builder(pool).reactors(reactors);
    built
        .route(RouteSettings::to("app"))
        .build()
        .expect("it is sound")
}

fn limited<const N: usize>(origins: [&Origin; N]) -> PoolSettings {
    let mut pool = PoolSettings::of(origins.map(Origin::url));
    pool.connections.max_connections = Some(1);
    pool.retries.max = 0;
    pool
}

fn waiting(gateway: &Running<NoHooks>) -> Option<f64> {
    let name = "epicycle_gateway_pool_waiting{pool=\"app\"}";
    metric(&gateway.control().metrics(), name)
}

/// An origin that answers `/hang` never, and else with its name.
fn named(name: &'static str) -> Origin {
    Origin::start(move |_, request| match request.head.contains("/hang") {
        true => Deed::Hang,
        false => ok(name),
    })
}

/// A gateway whose only place at its node is taken, with the client that has it.
fn occupied(reactors: usize, origin: &Origin) -> (Running<NoHooks>, Asker) {
    let gateway = gateway_of(reactors, limited([origin]));
    let gateway = gateway.start_plain().expect("it starts");
    let mut first = Asker::to(&gateway);
    first.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is there", || origin.requests().len() == 1);
    (gateway, first)
}

#[test]
fn requests_that_wait_for_a_node_that_is_removed_go_to_another_one() {
    let (one, two) = (named("one"), named("two"));
    let (gateway, mut first) = occupied(2, &one);
    let mut others: Vec<_> = (0..30).map(|_| Asker::to(&gateway)).collect();
    for client in &mut others {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("they wait", || waiting(&gateway) == Some(30.0));
    gateway
        .reload(&gateway_of(2, limited([&two])))
        .expect("is taken over");
    // It is no retry: the budget would not be enough, and none is allowed.
    for client in &mut others {
        let response = client.response().expect("an answer");
        assert_eq!((response.status(), response.text()), (200, "two"));
    }
    let retries = "epicycle_gateway_pool_retries_total{pool=\"app\"}";
    assert_eq!(metric(&gateway.control().metrics(), retries), Some(0.0));
    // What was sent to the node stays there.
    assert_eq!(one.ended(), 0);
    first.send("x");
}

#[test]
fn a_node_that_comes_back_has_no_more_connections_than_it_may() {
    let (one, two) = (named("one"), named("two"));
    let (gateway, first) = occupied(2, &one);
    for nodes in [limited([&two]), limited([&one])] {
        gateway
            .reload(&gateway_of(2, nodes))
            .expect("is taken over");
    }
    let mut others: Vec<_> = (0..4).map(|_| Asker::to(&gateway)).collect();
    for client in &mut others {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("they wait", || waiting(&gateway) == Some(4.0));
    assert_eq!(one.accepted(), 1);
    // The place of the old connection is theirs when it ends.
    first.reset();
    for client in &mut others {
        assert_eq!(client.response().expect("an answer").text(), "one");
    }
}

#[test]
fn pools_that_come_and_go_take_the_places_of_those_that_have_ended() {
    let (one, two) = (named("one"), named("two"));
    let version = |n: usize| {
        let (name, origin) = (format!("v{n}"), [&one, &two][n % 2]);
        let built = Gateway::builder().reactors(2).listen("tcp://127.0.0.1:0");
        let built = built
            .pool(&*name, pool_of(origin))
            .route(RouteSettings::to(&*name));
        built.build().expect("it is sound")
    };
    let gateway = version(0).start_plain().expect("it starts");
    let mut early = Asker::to(&gateway);
    early.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    eventually("it is under way", || one.accepted() == 1);
    let mut client = Asker::to(&gateway);
    for n in 1..=20 {
        gateway.reload(&version(n)).expect("is taken over");
        assert_eq!(client.get("/").text(), ["one", "two"][n % 2]);
        if n == 10 {
            early.send("cd");
            assert_eq!(early.response().expect("an answer").text(), "one");
        }
        if n > 1 {
            let before = format!("epicycle_gateway_pool_connections{{pool=\"v{}\"}}", n - 1);
            eventually("the connections of the last pool have closed", || {
                metric(&gateway.control().metrics(), &before).unwrap_or_default() == 0.0
            });
        }
    }
    let metrics = gateway.control().metrics();
    let pools = metrics.matches("epicycle_gateway_pool_hits_total{").count();
    // This one, the last one, and the one that was in use for long.
    assert!(pools <= 3, "{pools}");
}

/// A pool with a node that fails its checks and serves well, and one that does neither fail.
fn checked(origins: [&Origin; 2], interval: Duration) -> PoolSettings {
    let mut pool = PoolSettings::of(origins.map(Origin::url));
    let mut health = HealthCheck::new(HealthProbe::http("/healthz"));
    health.interval = interval;
    pool.health = Some(health);
    pool
}

fn sick() -> Origin {
    Origin::start(|_, request| match is_check(request) {
        true => respond("503 Service Unavailable", ""),
        false => ok("sick"),
    })
}

fn is_check(request: &Message) -> bool {
    request.first_line().contains("/healthz")
}

fn nodes_up(gateway: &Running<NoHooks>) -> usize {
    figure(gateway, |proxy| proxy.nodes_up())
}

#[test]
fn a_node_that_is_checked_no_more_is_up() {
    let (bad, good) = (sick(), named("good"));
    let often = Duration::from_millis(10);
    let gateway = start(checked([&bad, &good], often));
    eventually("it is down", || nodes_up(&gateway) == 1);
    let without = PoolSettings::of([&bad, &good].map(Origin::url));
    gateway
        .reload(&gateway_of(1, without))
        .expect("is taken over");
    assert_eq!(nodes_up(&gateway), 2);
    let mut client = Asker::to(&gateway);
    eventually("it serves", || client.get("/").text() == "sick");
    // The checks begin anew.
    let again = checked([&bad, &good], often);
    gateway
        .reload(&gateway_of(1, again))
        .expect("is taken over");
    eventually("it is down again", || nodes_up(&gateway) == 1);
}

#[test]
fn other_rules_for_checks_hold_at_once() {
    let (bad, good) = (sick(), named("good"));
    let seldom = checked([&bad, &good], Duration::from_secs(3600));
    let gateway = start(seldom);
    eventually("a check was made", || bad.requests().iter().any(is_check));
    assert_eq!(nodes_up(&gateway), 2);
    let often = checked([&bad, &good], Duration::from_millis(10));
    gateway
        .reload(&gateway_of(1, often))
        .expect("is taken over");
    eventually("it is down", || nodes_up(&gateway) == 1);
}

#[cfg(feature = "tls")]
mod tls {
    use epicycle::tls::{TlsClient, TlsServer};

    use super::*;
    use crate::pki::{Authority, TRUSTED};
    use crate::secure::node;

    #[test]
    fn connections_that_other_tls_rules_made_serve_no_further_request() {
        let issued = TRUSTED.issue(&["127.0.0.1"]);
        let (_node, port) = node(&TlsServer::new(issued.identity()).expect("is set up"));
        let pool = |authority: &Authority| {
            let mut pool = PoolSettings::of([format!("https://127.0.0.1:{port}")]);
            pool.tls = Some(TlsClient::new(&authority.roots()).expect("is set up"));
            pool.retries.max = 0;
            pool
        };
        let gateway = start(pool(&TRUSTED));
        let mut client = Asker::to(&gateway);
        assert_eq!(client.get("/").status(), 200);
        // The same rules, read again, keep the connections.
        gateway
            .reload(&gateway_of(1, pool(&TRUSTED)))
            .expect("is taken over");
        assert_eq!(idle(&gateway), 1);
        let stranger = Authority::new("stranger");
        gateway
            .reload(&gateway_of(1, pool(&stranger)))
            .expect("is taken over");
        assert_eq!(idle(&gateway), 0);
        assert_eq!(client.get("/").status(), 502);
        gateway
            .reload(&gateway_of(1, pool(&TRUSTED)))
            .expect("is taken over");
        assert_eq!(client.get("/").status(), 200);
    }

    #[test]
    fn clients_from_before_tls_are_not_told_as_its_clients_and_are_sent_away() {
        let origin = named("one");
        let gateway = start(pool_of(&origin));
        let mut client = Asker::to(&gateway);
        assert_eq!(client.get("/").field("connection"), None);
        let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
        let identity = TRUSTED.issue(&["127.0.0.1"]).identity();
        listener.tls = Some(TlsServer::new(identity).expect("is set up"));
        let with_tls = Gateway::builder().reactors(1).listen(listener);
        let with_tls = with_tls
            .pool("app", pool_of(&origin))
            .route(RouteSettings::to("app"));
        let with_tls = with_tls.build().expect("is sound");
        // Once more changes nothing for them.
        for _ in 0..2 {
            gateway.reload(&with_tls).expect("is taken over");
        }
        assert_eq!(client.get("/").field("connection"), Some("close"));
        let request = origin.requests().pop().expect("it came");
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    }
}

#[test]
fn clients_of_a_listener_that_is_gone_are_sent_away_with_their_next_answer() {
    let origin = named("one");
    let gateway = start(pool_of(&origin));
    let mut client = Asker::to(&gateway);
    assert_eq!(client.get("/").field("connection"), None);
    let other = Gateway::builder().reactors(1).listen("tcp://127.0.0.2:0");
    let other = other
        .pool("app", pool_of(&origin))
        .route(RouteSettings::to("app"));
    gateway
        .reload(&other.build().expect("is sound"))
        .expect("is taken over");
    let response = client.get("/");
    assert_eq!(
        (response.status(), response.field("connection")),
        (200, Some("close"))
    );
    assert_eq!(client.recv_to_end(), b"");
}

fn config(origin: &rig::Origin, more: &str) -> String {
    let node = origin.node();
    format!(
        "{more}\n[[listen]]\non = \"tcp://127.0.0.1:0\"\n[[route]]\npool = \"a\"\n[pool.a]\nnodes = [{node}]\n"
    )
}

#[test]
fn a_term_during_a_hand_over_still_lets_exchanges_end() {
    let (origin, folder) = (rig::Origin::start("one"), Folder::new());
    folder.write("gateway.toml", config(&origin, "drain.grace = \"2s\""));
    let mut program = Program::start(&folder, 1);
    let mut client = Client::to(program.addrs[0]);
    assert_eq!(client.get("/").expect("is answered").body, "one");
    program.signal(Signal::USR2);
    assert!(program.line().contains("listens on"));
    eventually("it is replaced", || {
        program.log().contains("another process has taken over")
    });
    program.signal(Signal::TERM);
    program.signal(Signal::HUP);
    eventually("the signals have come", || {
        program.log().contains("the configuration stays as it is")
    });
    let answer = client.get("/slow");
    // The new process is no child of this one.
    let pids = Command::new("pgrep")
        .args(["-f", &folder.path("gateway.toml").display().to_string()])
        .output();
    let own = program.pid().to_string();
    for pid in String::from_utf8_lossy(&pids.expect("runs").stdout)
        .lines()
        .filter(|pid| *pid != own)
    {
        let _ = Command::new("kill").arg(pid).status();
    }
    assert_eq!(answer.expect("is answered").body, "one");
    assert!(program.ended().success());
}

fn pipe(folder: &Folder) -> std::path::PathBuf {
    let pipe = folder.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("runs").success());
    pipe
}

#[test]
fn an_access_log_that_is_a_pipe_without_a_reader_is_told_and_holds_nothing_up() {
    let (origin, folder) = (rig::Origin::start("one"), Folder::new());
    folder.write("gateway.toml", config(&origin, ""));
    let program = Program::start(&folder, 1);
    pipe(&folder);
    folder.write("gateway.toml", config(&origin, "log.access.to = \"pipe\""));
    program.signal(Signal::HUP);
    eventually("it is told", || {
        program.log().contains("nobody reads the pipe")
    });
    assert_eq!(
        Client::to(program.addrs[0])
            .get("/")
            .expect("is answered")
            .body,
        "one"
    );
    program.signal(Signal::INT);
    assert!(program.ended().success());
}

#[test]
fn the_end_waits_only_so_long_for_a_log_that_takes_no_lines() {
    let (origin, folder) = (rig::Origin::start("one"), Folder::new());
    let pipe = pipe(&folder);
    let config = config(&origin, "log.access.to = \"pipe\"");
    folder.write("gateway.toml", config);
    // It is open, and nobody reads.
    let stuck = Command::new("sh")
        .args(["-c", "exec sleep 60 < \"$0\""])
        .arg(&pipe)
        .spawn();
    let mut stuck = stuck.expect("runs");
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .open(&pipe)
        .expect("has a reader");
    let program = Program::start(&folder, 1);
    drop(writer);
    let mut client = Client::to(program.addrs[0]);
    for _ in 0..100 {
        let path = format!("/{}", "x".repeat(2000));
        assert_eq!(client.get(&path).expect("is answered").status, 200);
    }
    program.signal(Signal::INT);
    eventually("it is told", || {
        program.log().contains("its target takes none")
    });
    let status = program.ended();
    let _ = stuck.kill();
    let _ = stuck.wait();
    assert!(status.success());
}

#[test]
fn a_proxy_that_names_no_client_is_not_believed() {
    let origin = named("one");
    let mut listener = ListenerSettings::new("tcp://127.0.0.1:0");
    let local = "127.0.0.0/8".parse().expect("a network");
    listener.proxy_protocol = vec![local];
    listener.forwarding.trusted = vec![local];
    let gateway = Gateway::builder().reactors(1).listen(listener);
    let gateway = gateway
        .pool("app", pool_of(&origin))
        .route(RouteSettings::to("app"));
    let gateway = gateway
        .build()
        .expect("is sound")
        .start_plain()
        .expect("it starts");
    let unix = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".as_slice(),
        &[b'/'; 216],
    ]
    .concat();
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec();
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    let named = b"PROXY TCP4 127.0.0.7 127.0.0.1 1 2\r\n".to_vec();
    for (header, is_believed) in [
        (unix, false),
        (unspecified, false),
        (unknown, false),
        (named, true),
    ] {
        let addr = gateway.local_addrs()[0]
            .as_socket_addr()
            .expect("an address");
        let mut stream = TcpStream::connect(addr).expect("it listens");
        stream.write_all(&header).expect("is sent");
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("is answered");
        let request = origin.requests().pop().expect("it came");
        let real = if is_believed { "1.1.1.1" } else { "127.0.0.1" };
        assert_eq!(request.field("x-real-ip"), Some(real), "{header:?}");
        let proto = if is_believed { "https" } else { "http" };
        assert_eq!(
            request.field("x-forwarded-proto"),
            Some(proto),
            "{header:?}"
        );
    }
}
