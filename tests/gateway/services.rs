//! The servers that DNS knows of a service as the nodes of a pool, with a name server of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::gateway::discover::{Discover, DnsSource, SrvSource, Stop};
use epicycle::gateway::settings::{DnsSettings, NodeSettings, PoolSettings, SrvSettings};
use epicycle::gateway::{NoHooks, Running};

use crate::peers::start;
use crate::rig::metric;
use crate::util::eventually;

/// Types of records.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// A question, as a name server sees it.
#[derive(Clone, Debug)]
struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// As it came.
    bytes: Vec<u8>,
    over_tcp: bool,
    from_port: u16,
}

impl Question {
    fn parse(message: &[u8], over_tcp: bool, from_port: u16) -> Self {
        let (mut at, mut labels) = (12, Vec::new());
        while message[at] > 0 {
            let end = at + 1 + usize::from(message[at]);
            labels.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
            at = end;
        }
        Self {
            id: [message[0], message[1]],
            name: labels.join("."),
            kind: u16::from_be_bytes([message[at + 1], message[at + 2]]),
            bytes: message[12..at + 5].to_vec(),
            over_tcp,
            from_port,
        }
    }

    /// Returns an answer with these records: types and data.
    fn answer(&self, flags: u16, ttl: u32, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut out = self.id.to_vec();
        out.extend((0x8180 | flags).to_be_bytes());
        for count in [1, records.len() as u16, 0, 0] {
            out.extend(count.to_be_bytes());
        }
        out.extend(&self.bytes);
        for (kind, data) in records {
            // The name is that of the question.
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1]);
            out.extend(ttl.to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        out
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .collect();
    out.push(0);
    out
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> (u16, Vec<u8>) {
    let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
    (SRV, [numbers, wire_name(target)].concat())
}

fn a(ip: &str) -> (u16, Vec<u8>) {
    match ip.parse().expect("is an address") {
        IpAddr::V4(ip) => (A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
    }
}

/// Returns the messages with which a question is answered.
type Script = dyn Fn(&Question) -> Vec<Vec<u8>> + Send + Sync;

/// A name server, over UDP and TCP at the same port.
struct NameServer {
    addr: SocketAddr,
    script: Arc<Mutex<Arc<Script>>>,
    questions: Arc<Mutex<Vec<Question>>>,
}

impl NameServer {
    fn start(script: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
            // The port may be taken for datagrams.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")) {
                break (tcp, udp);
            }
        };
        let server = Self {
            addr: tcp.local_addr().expect("an address"),
            script: Arc::new(Mutex::new(Arc::new(script))),
            questions: Arc::default(),
        };
        let reply = server.replier();
        thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut message) {
                let question = Question::parse(&message[..length], false, from.port());
                for answer in reply(&question) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let reply = server.replier();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("asks");
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut message).expect("asks");
                let from = stream.peer_addr().expect("an address");
                for answer in reply(&Question::parse(&message, true, from.port())) {
                    let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                    let _ = stream.write_all(&answer);
                }
            }
        });
        server
    }

    fn replier(&self) -> impl Fn(&Question) -> Vec<Vec<u8>> + Send + 'static {
        let (script, questions) = (self.script.clone(), self.questions.clone());
        move |question| {
            questions.lock().expect("sound").push(question.clone());
            let script = script.lock().expect("sound").clone();
            script(question)
        }
    }

    fn answers(&self, script: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.script.lock().expect("sound") = Arc::new(script);
    }

    fn questions(&self) -> Vec<Question> {
        self.questions.lock().expect("sound").clone()
    }

    fn source(&self) -> SrvSource {
        let mut settings = SrvSettings::new("http://_http._tcp.app.test");
        settings.server = Some(self.addr);
        SrvSource::new(settings).expect("it is sound")
    }
}

/// Answers for a service with these records, whose hosts have addresses by their names: `h1.test` has `10.0.0.1`.
fn zone(question: &Question, ttl: u32, services: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let number = question
        .name
        .strip_prefix('h')
        .and_then(|rest| rest.strip_suffix(".test"));
    match (question.kind, question.name.as_str(), number) {
        (SRV, "_http._tcp.app.test", _) => question.answer(0, ttl, services),
        (A, _, Some(n)) => question.answer(0, 60, &[a(&format!("10.0.0.{n}"))]),
        (AAAA, _, Some("9")) => question.answer(0, 60, &[a("fd00::9")]),
        (_, _, Some(_)) => question.answer(0, 60, &[]),
        _ => question.answer(3, 60, &[]),
    }
}

/// Returns what a source tells first.
fn first(mut source: impl Discover) -> Result<Vec<NodeSettings>, String> {
    let told = source.next(&Stop::default());
    told.map(Option::unwrap_or_default)
        .map_err(|error| error.to_string())
}

/// Returns nodes in the form `10.0.0.1:80,5` with a `+` for backups.
fn short(nodes: &[NodeSettings]) -> Vec<String> {
    let short = |node: &NodeSettings| {
        let (_, addr) = node.to.split_once("://").expect("has a scheme");
        let backup = if node.backup { "+" } else { "" };
        format!("{addr},{}{backup}", node.weight)
    };
    nodes.iter().map(short).collect()
}

fn follow(server: &NameServer) -> Running<NoHooks> {
    let running = start(PoolSettings::of(["http://127.0.0.1:1"]));
    let control = running.control();
    control
        .discover("app", server.source())
        .expect("there is such a pool");
    running
}

fn has_node(running: &Running<NoHooks>, node: &str) -> bool {
    let name = format!("epicycle_gateway_node_up{{pool=\"app\",node=\"http://{node}\"}}");
    metric(&running.control().metrics(), &name).is_some()
}

fn figure(running: &Running<NoHooks>, name: &str) -> f64 {
    let name = format!("epicycle_gateway_discovery_{name}{{pool=\"app\"}}");
    metric(&running.control().metrics(), &name).unwrap_or(0.0)
}

#[test]
fn the_servers_of_a_service_are_nodes_by_priority_and_weight_until_the_answer_changes() {
    let server = NameServer::start(|question| {
        let services = [
            srv(20, 1, 80, "h3.test"),
            srv(10, 5, 8080, "h1.test"),
            srv(10, 7, 80, "H9.test"),
            srv(10, 1, 80, "missing.test"),
            srv(10, 1, 0, "h2.test"),
        ];
        vec![zone(question, 1, &services)]
    });
    let nodes = first(server.source()).expect("there are some");
    assert_eq!(
        short(&nodes),
        [
            "10.0.0.1:8080,5",
            "10.0.0.3:80,1+",
            "10.0.0.9:80,7",
            "[fd00::9]:80,7"
        ]
    );
    assert_eq!(nodes[2].name.as_deref(), Some("h9.test"));
    assert!(nodes[0].to.starts_with("http://"));

    let running = follow(&server);
    eventually("the nodes are there", || {
        has_node(&running, "10.0.0.1:8080")
    });
    let began = Instant::now();
    server.answers(|question| {
        let services = [srv(1, 0, 80, "h4.test"), srv(1, 2, 80, "h5.test")];
        vec![zone(question, 3600, &services)]
    });
    eventually("the others are there", || has_node(&running, "10.0.0.4:80"));
    assert!(!has_node(&running, "10.0.0.1:8080"));
    assert!(began.elapsed() < Duration::from_secs(30));
    let nodes = first(server.source()).expect("there are some");
    assert_eq!(short(&nodes), ["10.0.0.4:80,1", "10.0.0.5:80,20"]);
    running.shutdown();

    // Each question has a port and a number of its own.
    let asked = server.questions();
    let numbers = asked.windows(2).filter(|two| two[0].id != two[1].id);
    let ports = asked
        .windows(2)
        .filter(|two| two[0].from_port != two[1].from_port);
    assert!(numbers.count() > asked.len() / 2 && ports.count() > asked.len() / 2);
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let server = NameServer::start(|question| {
        let lie = [srv(1, 1, 80, "h6.test"), a("10.0.0.6")];
        let mut other_number = question.clone();
        other_number.id[0] ^= 1;
        let mut other_name = question.clone();
        other_name.bytes[1] ^= 1;
        let mut no_answer = question.answer(0, 60, &lie);
        no_answer[2] &= 0x7f;
        let cut = question.answer(0, 60, &lie);
        vec![
            other_number.answer(0, 60, &lie),
            other_name.answer(0, 60, &lie),
            no_answer,
            cut[..cut.len() - 3].to_vec(),
            Vec::new(),
            zone(question, 60, &[srv(1, 1, 80, "h1.test")]),
            question.answer(0, 60, &lie),
        ]
    });
    assert_eq!(
        first(server.source()).map(|nodes| short(&nodes)),
        Ok(vec!["10.0.0.1:80,1".to_owned()])
    );
    // A name server that does nothing but lie is as good as none.
    let server = NameServer::start(|question| {
        let mut other = question.clone();
        other.id[1] ^= 1;
        vec![other.answer(0, 60, &[a("10.0.0.6")]); 200]
    });
    let error = first(server.source()).expect_err("there is no answer");
    assert!(error.contains("no name server tells"), "{error}");
}

#[test]
fn a_shortened_answer_is_asked_for_over_tcp() {
    const TRUNCATED: u16 = 0x0200;
    let server = NameServer::start(|question| {
        let services: Vec<_> = (1..=60)
            .map(|n| srv(1, 1, 80, &format!("h{n}.test")))
            .collect();
        match (question.kind, question.over_tcp) {
            (SRV, false) => vec![question.answer(TRUNCATED, 60, &services[..5])],
            _ => vec![zone(question, 60, &services)],
        }
    });
    assert_eq!(first(server.source()).map(|nodes| nodes.len()), Ok(61));
    server.answers(|question| vec![question.answer(TRUNCATED, 60, &[])]);
    let error = first(server.source()).expect_err("it is cut");
    assert!(error.contains("its answer is cut over TCP"), "{error}");
    // More hosts than are looked up.
    server.answers(|question| {
        let services: Vec<_> = (1..=65)
            .map(|n| srv(1, 1, 80, &format!("h{n}.test")))
            .collect();
        match question.over_tcp || question.kind != SRV {
            true => vec![zone(question, 60, &services)],
            false => vec![question.answer(TRUNCATED, 60, &[])],
        }
    });
    let error = first(server.source()).expect_err("there are too many");
    assert!(error.contains("more than 64 hosts"), "{error}");
}

#[test]
fn a_name_server_that_is_silent_or_fails_leaves_the_last_list() {
    let good = |question: &Question| vec![zone(question, 1, &[srv(1, 1, 80, "h1.test")])];
    let server = NameServer::start(good);
    let running = follow(&server);
    eventually("the node is there", || has_node(&running, "10.0.0.1:80"));
    type Failing = fn(&Question) -> Vec<Vec<u8>>;
    let failing: [Failing; 5] = [
        |question| vec![question.answer(2, 60, &[])],
        |question| vec![question.answer(3, 60, &[])],
        |question| vec![zone(question, 1, &[])],
        |question| vec![zone(question, 1, &[srv(0, 0, 80, "")])],
        |_| Vec::new(),
    ];
    for fails in failing {
        let failures = figure(&running, "failures_total");
        server.answers(fails);
        eventually("it fails", || figure(&running, "failures_total") > failures);
        assert!(has_node(&running, "10.0.0.1:80"));
        eventually("that is told", || figure(&running, "failing") == 1.0);
        server.answers(good);
        eventually("it answers again", || figure(&running, "failing") == 0.0);
    }
    running.shutdown();
    // A datagram that is lost is sent again.
    let lost = Mutex::new(0);
    server.answers(move |question| {
        let mut lost = lost.lock().expect("sound");
        *lost += 1;
        if *lost == 1 {
            Vec::new()
        } else {
            good(question)
        }
    });
    assert_eq!(first(server.source()).map(|nodes| nodes.len()), Ok(1));
}

#[test]
fn a_name_may_be_asked_of_a_name_server() {
    let server = NameServer::start(|question| {
        let mut records = vec![(CNAME, wire_name("other.test"))];
        // Records of a name that nobody asked for.
        records.push(a("10.0.0.66"));
        match question.name.as_str() {
            "h9.test" => vec![zone(question, 60, &[])],
            _ => vec![question.answer(0, 60, &records)],
        }
    });
    let source = |name: &str| {
        let mut settings = DnsSettings::new(name);
        settings.server = Some(server.addr);
        DnsSource::new(settings, false).expect("it is sound")
    };
    let nodes = first(source("https://h9.test:8443")).expect("there are some");
    assert_eq!(short(&nodes), ["10.0.0.9:8443,1", "[fd00::9]:8443,1"]);
    assert_eq!(nodes[0].name.as_deref(), Some("h9.test"));
    let nodes = first(source("tcp6://h9.test:8443")).expect("there is one");
    assert_eq!(short(&nodes), ["[fd00::9]:8443,1"]);
    // The records belong to the alias, and this answer has none of it.
    let error = first(source("alias.test:80")).expect_err("there is none");
    assert!(error.contains("does not exist"), "{error}");
}
