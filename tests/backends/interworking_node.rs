//! Gates of ours between clients and nodes of both kinds, over a real etcd and a real Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use epicycle::cluster::backends::{Etcd, Redis};
use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Code, Request};
use epicycle::cluster::gate::Gate;
use epicycle::cluster::locator::{MemoryLocator, RedisLocator};
use epicycle::cluster::node::{Node, RouteFlag};
use epicycle::cluster::packet::PacketOptions;
use epicycle::cluster::registry::{EtcdRegistry, Instance, MemoryRegistry, Registry, RouteSpec};
use epicycle::cluster::{Error, Kind};
use epicycle::codec::ByteOrder;
use serde_json::json;

use crate::due_node::{App, DueNode};
use crate::interworking::Backends;
use crate::interworking_ops::{Otherwise, WEDGED, replay, routes};
use crate::process::free_port;
use crate::rig::{Link, Wire, conn, packet};
use crate::util::{LONG, eventually};
use crate::vectors::{hex, rows};

/// A gate of ours with listeners for each protocol, and a node of ours with the routes of the recorded one.
fn ours(backends: &Backends) -> (Gate, Node) {
    let node = Node::builder().id("node-1").registry(backends.registry());
    let node = routes(node.locator(backends.locator()));
    let node = node.start().expect("starts");
    let gate = Gate::builder().registry(backends.registry());
    let gate = gate.listen("tcp://127.0.0.1:0").listen("ws://127.0.0.1:0");
    let gate = gate.listen("kcp://127.0.0.1:0").locator(backends.locator());
    let gate = gate.start().expect("starts");
    let client = Client::builder().call_timeout(Duration::from_millis(200));
    let client = client.connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    eventually("the gate knows the node", || {
        client.request(1, "{}").is_ok()
    });
    (gate, node)
}

/// The recordings of real clients, one after the other.
#[test]
fn recorded_clients_of_due_over_websocket_reach_a_node_of_ours() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let (gate, _node) = ours(&backends);
    let addr = gate.client_addrs()[1].as_socket_addr().expect("is of TCP");
    let mut clients: BTreeMap<String, TcpStream> = BTreeMap::new();
    let mut answers = 0;
    for row in rows("ws") {
        let client = clients.entry(row.scenario.clone()).or_insert_with(|| {
            let client = TcpStream::connect(addr).expect("connects");
            client.set_read_timeout(Some(LONG)).expect("is set");
            client
        });
        let bytes = row.bytes();
        if row.dir == "c>s" {
            client.write_all(&bytes).expect("is sent");
        } else if bytes.starts_with(b"HTTP/1.1 101 ") {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("is open");
                head.extend(byte);
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", hex(&head));
        } else {
            let mut answer = vec![0; bytes.len()];
            client.read_exact(&mut answer).expect("is open");
            assert_eq!(hex(&answer), row.data, "{}", row.scenario);
            answers += 1;
        }
    }
    assert!(answers >= 12 || rows("ws").is_empty(), "{answers}");
}

#[test]
fn a_recorded_client_of_due_over_kcp_with_error_correction_reaches_a_node_of_ours() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let (gate, _node) = ours(&backends);
    let addr = gate.client_addrs()[2].as_socket_addr().expect("is of UDP");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let patience = Some(Duration::from_millis(5));
    socket.set_read_timeout(patience).expect("is set");
    socket.connect(addr).expect("is an address");
    let (mut expected, mut got) = (BTreeSet::new(), BTreeSet::new());
    for row in rows("kcp") {
        if row.dir == "c>s" {
            socket.send(&row.bytes()).expect("is sent");
            continue;
        }
        expected.extend(segments(&row.bytes()));
        let until = Instant::now() + LONG;
        while got.len() < expected.len() && Instant::now() < until {
            let mut datagram = [0; 2048];
            if let Ok(len) = socket.recv(&mut datagram) {
                got.extend(segments(&datagram[..len]));
            }
        }
    }
    assert!(
        expected.len() >= 5 || rows("kcp").is_empty(),
        "{expected:?}"
    );
    assert_eq!(got, expected);
}

/// Returns the numbers and the data of the segments with data.
fn segments(mut datagram: &[u8]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = datagram.split_at_checked(24) {
        let number = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("are four");
            u32::from_le_bytes(bytes)
        };
        let (data, rest) = rest.split_at(number(20) as usize);
        if head[4] == 81 {
            found.push((number(12), hex(data)));
        }
        datagram = rest;
    }
    found
}

/// The differences of a gate of ours from one of due.
const OUR_GATE: [Otherwise; 2] = [
    Otherwise {
        scenario: r#"node op {"op":"multicast_conn","msg":"m","ack":true}"#,
        gets: &[
            r#"{"msg":"m"}"#,
            r#"{"err":"<nil>","op":"multicast_conn","r":1}"#,
        ],
        why: "a target that is twice in the list gets it once",
    },
    Otherwise {
        scenario: r#"node op {"op":"multicast_conn","msg":"m"}"#,
        gets: &[
            r#"{"msg":"m"}"#,
            r#"{"err":"<nil>","op":"multicast_conn","r":0}"#,
        ],
        why: "the same",
    },
];

/// A node of due behind a gate of ours.
fn with_due_node(backends: &Backends) -> (Gate, DueNode) {
    let gate = backends.gate();
    let mut app = App::new(gate.link_addr(), backends.redis.stranger());
    let node = DueNode::start(move |cid, uid, packet| app.deliver(cid, uid, packet));
    let record = json!({
        "id": "due-node", "name": "node", "kind": "node", "alias": "node", "state": "work", "events": [1, 2, 3],
        "routes": [{"i": 2}, {"i": 3, "s": true}, {"i": 5, "n": true}, {"i": 6}, {"i": 1}, {"i": 4, "a": true}, {"i": 9}],
        "endpoint": node.endpoint(), "weight": 3,
    });
    let key = "/services/node/due-node";
    backends.etcd.ctl(&["put", key, &record.to_string()]);
    let client = Client::builder().call_timeout(Duration::from_millis(200));
    let client = client.connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    eventually("the gate knows the node", || {
        client.request(1, "{}").is_ok()
    });
    drop(client);
    eventually("the gate is empty", || gate.stats().connections == 0);
    (gate, node)
}

#[test]
fn every_operation_of_a_node_of_due_has_the_recorded_answer_at_a_gate_of_ours() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let (gate, _node) = with_due_node(&backends);
    let mut client = Wire::connect(&gate.client_addrs()[0]);
    let otherwise: Vec<_> = OUR_GATE.iter().chain(&WEDGED).collect();
    assert!(otherwise.iter().all(|other| !other.why.is_empty()));
    // Packets between nodes are in another test.
    let replayed = replay(&mut client, &otherwise, &[r#"node op {"op":"deliver"#]);
    assert!(replayed >= 37 || replayed == 0, "{replayed}");
}

#[test]
fn a_client_of_ours_reaches_a_node_of_due_through_a_gate_of_ours() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let (gate, _node) = with_due_node(&backends);
    let client = Client::builder().call_timeout(LONG);
    let client = client.connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    let ask = |route: i32, body: &str| {
        let answer = client.request(route, body.to_owned()).expect("is answered");
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(ask(1, r#"{"a":1}"#), r#"{"code":0,"echo":{"a":1}}"#);
    assert_eq!(ask(2, r#"{"uid":7}"#), r#"{"code":0,"err":"<nil>"}"#);
    assert_eq!(backends.located(7).as_deref(), Some("our-gate"));
    assert_eq!(ask(4, "{}"), r#"{"authorized":true,"uid":7}"#);
    assert_eq!(ask(6, "{}"), r#"{"bindnode":"<nil>"}"#);
    let impatient = Duration::from_millis(200);
    eventually("the gate has heard of the node of the user", || {
        let (sender, receiver) = channel();
        let asked = client.request_then(3, "{}", move |_, answer| {
            let _ = sender.send(answer.map(<[u8]>::to_vec).ok());
        });
        asked.expect("is sent");
        let answer = receiver.recv_timeout(impatient).ok().flatten();
        answer.is_some_and(|answer| answer == br#"{"stateful":true,"uid":7}"#)
    });
}

#[test]
fn a_node_of_due_delivers_to_a_node_of_ours() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let (sender, receiver) = channel();
    let node = Node::builder().id("node-1").registry(backends.registry());
    let node = node.locator(backends.locator());
    let node = node.route_with(21, RouteFlag::Internal, move |_: &mut (), cx| {
        let data = String::from_utf8_lossy(cx.data()).into_owned();
        let _ = sender.send((cx.nid().to_owned(), cx.cid(), cx.uid(), cx.seq(), data));
        Ok::<(), Error>(())
    });
    let node = node.start().expect("starts");
    // As the recorded node `hall-1` does it.
    let mut hall = Link::dial(node.link_addr(), "hall-1");
    let mut recorded = rows("link").into_iter().filter(|row| {
        row.scenario.starts_with("hall-1->node-1") && row.scenario.ends_with("deliver")
    });
    let Some(row) = recorded.next() else {
        return;
    };
    hall.wire.send(row.bytes());
    let (nid, cid, uid, seq, data) = receiver.recv_timeout(LONG).expect("comes");
    assert_eq!((&*nid, cid, uid, seq), ("hall-1", 0, 7, 5));
    assert!(data.starts_with(r#"{"cid""#), "{data}");
    // The link goes on.
    let deliver = Request::Deliver {
        cid: 0,
        uid: 8,
        packet: &packet(21, 1, "{}"),
    };
    assert_eq!(hall.call(&deliver), Code::Done);
    assert_eq!(receiver.recv_timeout(LONG).expect("comes").2, 8);
}

/// Our gate in a process of its own, for a test that kills it. It ends with its parent's pipe.
#[test]
#[ignore = "a test that kills it starts it"]
fn a_gate_to_be_killed() {
    let given = |name| std::env::var(name).expect("is set by the test");
    let etcd = Etcd::open(&given("TEST_ETCD")).expect("is a URL");
    let redis = Redis::open(&given("TEST_REDIS")).expect("is a URL");
    let gate = Gate::builder().id("killed").listen(given("TEST_LISTEN"));
    let gate = gate.registry(EtcdRegistry::new(&etcd));
    let gate = gate.locator(RedisLocator::new(&redis)).start();
    let gate = gate.expect("starts");
    let mut rest = String::new();
    let _ = std::io::stdin().read_line(&mut rest);
    drop(gate);
}

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn users_of_a_gate_of_ours_that_was_killed_are_found_offline() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let (other, _node) = ours(&backends);
    let port = free_port();
    let program = std::env::current_exe().expect("has a path");
    let child = Command::new(program)
        .args([
            "interworking_node::a_gate_to_be_killed",
            "--exact",
            "--ignored",
        ])
        .env("TEST_ETCD", backends.etcd.url())
        .env("TEST_REDIS", backends.redis.url())
        .env("TEST_LISTEN", format!("tcp://127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut killed = Killed(child.expect("starts"));
    let mut seven = None;
    eventually("the gate serves a client", || {
        let client = Client::builder().call_timeout(Duration::from_millis(500));
        let client = client.connect(format!("tcp://127.0.0.1:{port}"));
        seven = client
            .ok()
            .filter(|client| client.request(2, r#"{"uid":7}"#).is_ok());
        seven.is_some()
    });
    let client = Client::builder().call_timeout(LONG);
    let client = client.connect(other.client_addrs()[0].to_string());
    let client = client.expect("connects");
    let is_online = || {
        let asked = client.request(9, r#"{"op":"online_user","uid":7}"#);
        String::from_utf8_lossy(&asked.expect("is answered")).contains(r#""r":true"#)
    };
    assert!(is_online());
    killed.0.kill().expect("is killed");
    // Nobody has unbound the user.
    assert_eq!(backends.located(7).as_deref(), Some("killed"));
    // The lease runs out after 11 s. Until then a call ends with the loss of the link.
    eventually("the user is found offline", || !is_online());
    eventually("the registry has forgotten the gate", || {
        let keys = ["get", "--prefix", "--keys-only", "/services/gate/killed"];
        backends.etcd.ctl(&keys).trim().is_empty()
    });
    assert!(!is_online());
    assert_eq!(
        client.request(2, r#"{"uid":7}"#).expect("is answered"),
        br#"{"code":0,"err":"<nil>"}"#[..]
    );
    assert!(is_online());
}

/// The options of the recorded packets, with the packets.
fn by_options() -> BTreeMap<String, Vec<(i32, Vec<u8>)>> {
    let mut by_options: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows("packet") {
        let Some((options, _)) = row.scenario.split_once(':') else {
            continue;
        };
        if let Some(route) = row.number("route")
            && options != "default"
        {
            let packets = by_options.entry(options.to_owned()).or_default();
            packets.push((route, row.bytes()));
        }
    }
    by_options
}

#[test]
fn packets_of_all_options_pass_unchanged_between_clients_and_nodes_of_both_kinds() {
    let mut sets = 0;
    for (name, packets) in by_options() {
        let parts: Vec<&str> = name.split('/').collect();
        let digit = |text: &str| text[text.len() - 1..].parse::<usize>().expect("is a digit");
        let order = match parts[0] {
            "be" => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let options = PacketOptions::builder().byte_order(order);
        let options = options
            .route_bytes(digit(parts[1]))
            .seq_bytes(digit(parts[2]));
        let options = options.build().expect("is supported by due too");
        let (registry, locator) = (MemoryRegistry::new(), MemoryLocator::new());
        let node = Node::builder().registry(registry.clone()).packet(options);
        let node = node.locator(locator.clone()).route(100, |_: &mut (), cx| {
            let text: String = cx.parse()?;
            cx.respond(&text)
        });
        let _node = node.start().expect("starts");
        let gate = Gate::builder().listen("tcp://127.0.0.1:0").packet(options);
        let gate = gate.registry(registry.clone()).locator(locator).start();
        let gate = gate.expect("starts");

        // A node of due that sends back what comes.
        let mut link = Link::dial(gate.link_addr(), "due-node");
        let due = DueNode::start(move |cid, _, packet| {
            let (target, disconnect) = (conn(cid), false);
            link.send(
                0,
                &Request::Push {
                    target,
                    disconnect,
                    packet,
                },
            );
        });
        let mut instance = Instance::new(Kind::Node, "due-node", due.endpoint());
        let routes: BTreeSet<i32> = packets.iter().map(|(route, _)| *route).collect();
        instance.routes = routes.into_iter().map(RouteSpec::new).collect();
        registry.register(&instance).expect("is sound");

        let client = Client::builder().packets(options).call_timeout(LONG);
        let client = client.connect(gate.client_addrs()[0].to_string());
        let client = client.expect("connects");
        if digit(parts[2]) > 0 {
            let answer = client.request(100, "\"hi\"").expect("is answered");
            assert_eq!(answer, b"\"hi\""[..], "{name}");
        }
        eventually("the gate knows the node of due", || {
            let mut probe = Wire::connect(&gate.client_addrs()[0]);
            probe.send(&packets[0].1);
            let patience = Some(Duration::from_millis(100));
            probe.0.set_read_timeout(patience).expect("is set");
            probe.0.peek(&mut [0]).is_ok_and(|len| len > 0)
        });
        let mut wire = Wire::connect(&gate.client_addrs()[0]);
        for (_, packet) in &packets {
            wire.send(packet);
            let same = match order {
                ByteOrder::Big => wire.next(),
                // Its size is not read here.
                _ => {
                    let mut got = vec![0; packet.len()];
                    wire.0.read_exact(&mut got).expect("is open");
                    Some(got)
                }
            };
            assert_eq!(same.map(|got| hex(&got)), Some(hex(packet)), "{name}");
        }
        sets += 1;
    }
    assert!(sets == 24 || sets == 0, "{sets}");
}
