//! Clusters in which servers of due and of this crate work together, over a real etcd and a real Redis.
//!
//! The servers of due are stand-ins: they register what due registers, say on their links what due says, and write to Redis what due
//! writes, all of it by other means than this crate's backends.
//!
//! | What | Where |
//! |---|---|
//! | a client of due, our gate, our node: TCP, WebSocket, KCP | here, `interworking_node` |
//! | clients of both kinds, a gate of due, our node | `interworking_gate` |
//! | our client, our gate, a node of due | `interworking_node` |
//! | gates and nodes of both kinds: shares, states, users bound by one and pushed to by the other, stateful packets | here |
//! | from node to node | `interworking_gate` (ours to due's), `interworking_node` (due's to ours) |
//! | a node, a gate of due, a gate of ours is killed | here, `interworking_gate`, `interworking_node` |
//! | states | here (those of due at our gate), `interworking_gate` (ours at a gate of due) |
//! | each operation of the recorded node | `interworking_node` (due's at our gate), `interworking_gate` (ours at a gate of due) |
//! | locks, cache, messages | `interworking_redis`, `memcache`, `nats_bus` |
//! | the options of packets | `interworking_node` |
//!
//! Faults of due that change what is expected: it reads the answers to Stat 16 bits off (`due_node`); after a call that nobody answered, a
//! link of its node may never read an answer again (`WEDGED` in `interworking_ops`); it gives answers to Publish that lack 8 bytes
//! (`due_gate`), so its gates are never asked for them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::State;
use epicycle::cluster::backends::Etcd;
use epicycle::cluster::client::Client;
use epicycle::cluster::dispatch::Policy;
use epicycle::cluster::drpc::{Answer, Code, Op, Request as Asked, Target, Value};
use epicycle::cluster::gate::Gate;
use epicycle::cluster::locator::RedisLocator;
use epicycle::cluster::node::{Node, Request, RouteFlag};
use epicycle::cluster::packet::{PacketFrame, PacketOptions};
use epicycle::cluster::registry::EtcdRegistry;
use parking_lot::Mutex;
use redis::{Commands, Connection};
use serde_json::json;

use crate::rig::{self, Link, Told, Wire, conn, frame_of, packet, user};
use crate::util::{LONG, eventually};
use crate::{etcd_server, redis_server};

/// The backends, and a client of Redis as a server of due is one.
pub(crate) struct Backends {
    pub(crate) etcd: etcd_server::Server,
    pub(crate) redis: redis_server::Server,
    due: Connection,
}

impl Backends {
    pub(crate) fn start() -> Option<Self> {
        let (etcd, redis) = (
            etcd_server::Server::start()?,
            redis_server::Server::start(&[])?,
        );
        let due = redis.stranger();
        Some(Self { etcd, redis, due })
    }

    pub(crate) fn gate(&self) -> Gate {
        let gate = Gate::builder().id("our-gate").listen("tcp://127.0.0.1:0");
        let gate = gate.dispatch(Policy::Weighted).registry(self.registry());
        gate.locator(self.locator()).start().expect("starts")
    }

    fn node(&self) -> Node {
        node(self.registry(), self.locator())
    }

    pub(crate) fn registry(&self) -> EtcdRegistry {
        // On a busy machine etcd waits long for its disk.
        let etcd = Etcd::builder().url(self.etcd.url()).timeout(LONG).build();
        EtcdRegistry::new(&etcd.expect("is complete"))
    }

    pub(crate) fn locator(&self) -> RedisLocator {
        RedisLocator::new(&self.redis.open())
    }

    /// Registers a node of due with routes 1 and 3, of which the second is stateful.
    pub(crate) fn register_node(&self, id: &str, endpoint: &str, state: &str, weight: u32) {
        let record = json!({
            "id": id, "name": "node", "kind": "node", "alias": "node", "state": state, "events": [1, 2, 3],
            "routes": [{"i": 1}, {"i": 3, "s": true}], "endpoint": endpoint, "weight": weight,
        });
        let key = format!("/services/node/{id}");
        self.etcd.ctl(&["put", &key, &record.to_string()]);
    }

    fn register_gate(&self, id: &str, addr: SocketAddr) {
        let record = json!({
            "id": id, "name": "gate", "kind": "gate", "alias": "gate", "state": "work",
            "endpoint": format!("drpc://{addr}?is_secure=false"),
        });
        let key = format!("/services/gate/{id}");
        self.etcd.ctl(&["put", &key, &record.to_string()]);
    }

    /// Binds a user to a gate or a node, as due does it.
    pub(crate) fn bind(&mut self, uid: i64, to: &str, kind: &str) {
        let key = format!("due:locate:locate:user:{uid}:{kind}");
        let (code, name): (u8, _) = match kind {
            "gate" => {
                let () = self.due.set(key, to).expect("is written");
                (1, "")
            }
            _ => {
                let () = self.due.hset(key, "node", to).expect("is written");
                (2, "node")
            }
        };
        let event =
            json!({"uid": uid, "type": code, "insID": to, "insKind": kind, "insName": name});
        let channel = format!("due:locate:locate:cluster:{kind}:event");
        let () = (self.due.publish(channel, event.to_string())).expect("is published");
    }

    pub(crate) fn located(&mut self, uid: i64) -> Option<String> {
        let key = format!("due:locate:locate:user:{uid}:gate");
        self.due.get(key).expect("answers")
    }
}

/// Starts a node of ours: 1 echoes, 2 binds a user, 3 is stateful, 5 pushes to a user.
fn node(registry: EtcdRegistry, locator: RedisLocator) -> Node {
    let echo = |_: &mut (), cx: &mut Request<'_>| {
        let text: String = cx.parse()?;
        cx.respond(&format!("ours: {text}"))
    };
    let login = |_: &mut (), cx: &mut Request<'_>| {
        let uid: i64 = cx.parse()?;
        cx.bind_gate(uid, |_: &mut (), cx, bound| {
            bound?;
            cx.respond(&"bound")
        })
    };
    let push = |_: &mut (), cx: &mut Request<'_>| {
        let uid: i64 = cx.parse()?;
        cx.push_to(Target::user(uid), 100, &"pushed by ours")
    };
    Node::builder()
        .id("our-node")
        .weight(1)
        .registry(registry)
        .locator(locator)
        .route(1, echo)
        .route(2, login)
        .route_with(3, RouteFlag::Stateful, echo)
        .route(5, push)
        .start()
        .expect("starts")
}

/// A gate of due: it takes links, answers as due does, and keeps the packets that it has to push, with their users.
struct DueGate {
    addr: SocketAddr,
    pushed: Arc<Mutex<Vec<(i64, String)>>>,
}

impl DueGate {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let pushed = Arc::new(Mutex::new(Vec::new()));
        let record = pushed.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (wire, record) = (Wire::over(stream), record.clone());
                thread::spawn(move || serve(wire, &record));
            }
        });
        Self { addr, pushed }
    }
}

fn serve(mut wire: Wire, pushed: &Mutex<Vec<(i64, String)>>) {
    while let Some(mut bytes) = wire.next() {
        let Some(frame) = frame_of(&mut bytes) else {
            continue;
        };
        // A gate of due does not know the extensions, and does not answer them.
        if frame.op >= 32 {
            continue;
        }
        let mut answer = Answer::new(frame.op, Code::Done);
        match Asked::decode(&frame).expect("is sound") {
            Asked::Push { target, packet, .. } => {
                let Ok(PacketFrame::Packet { packet, .. }) =
                    PacketOptions::default().decode_message(packet)
                else {
                    panic!("a node pushes whole packets");
                };
                let data = String::from_utf8_lossy(packet.data).into_owned();
                pushed.lock().push((target.id, data));
            }
            Asked::IsOnline { .. } => answer.value = Value::Online(true),
            Asked::GetState => answer.value = Value::State(1),
            request => assert_eq!(request.op(), Op::Handshake),
        }
        if frame.seq != 0 {
            let mut bytes = Vec::new();
            answer.encode_into(frame.seq, &mut bytes).expect("is sound");
            wire.send(bytes);
        }
    }
}

/// Returns the next packet, if one comes soon.
pub(crate) fn soon(client: &mut Wire) -> Option<Vec<u8>> {
    let is_possible = "is possible";
    let short = Some(Duration::from_millis(100));
    client.0.set_read_timeout(short).expect(is_possible);
    let comes = client.0.peek(&mut [0]).is_ok_and(|len| len > 0);
    client.0.set_read_timeout(Some(LONG)).expect(is_possible);
    comes.then(|| client.next()).flatten()
}

/// Returns the client's number as the node of due was told it.
fn number(due: &rig::Node, data: &str) -> i64 {
    due.await_packet(&json!(data).to_string()).0
}

fn request(client: &Client, route: i32, body: &serde_json::Value) -> serde_json::Value {
    let answer = client
        .request(route, body.to_string())
        .expect("is answered");
    serde_json::from_slice(&answer).expect("is JSON")
}

/// Sends numbered packets of route 1, and returns how many of them each kind of node got.
fn shares(client: &mut Wire, due: &rig::Node, from: i32, count: i32) -> (usize, usize) {
    let before = due.told().len();
    for n in from..from + count {
        client.send(packet(1, n, &json!(format!("packet {n}")).to_string()));
    }
    let theirs = || due.told().len() - before;
    let mut ours = 0;
    eventually("every packet has gone to a node", || {
        while ours + theirs() < count as usize
            && let Some(answer) = soon(client)
        {
            ours += usize::from(String::from_utf8_lossy(&answer).contains("ours: packet"));
        }
        ours + theirs() >= count as usize
    });
    (ours, theirs())
}

#[test]
fn one_alias_is_served_by_nodes_of_both_kinds_by_weight_and_by_state() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let due = rig::Node::start("due-node", Vec::new());
    let endpoint = due.instance.endpoint.clone();
    backends.register_node("due-node", &endpoint, "work", 3);
    let (_node, gate) = (backends.node(), backends.gate());
    due.await_link();
    let mut client = Wire::connect(&gate.client_addrs()[0]);
    eventually("the node of due is told of the connection", || {
        !due.told().is_empty()
    });
    eventually("both serve the route", || {
        let (ours, theirs) = shares(&mut client, &due, 1, 4);
        ours == 1 && theirs == 3
    });
    assert_eq!(shares(&mut client, &due, 100, 40), (10, 30));

    // The records of due for a node that hangs, and for one that is shut, are obeyed.
    for state in ["hang", "shut"] {
        backends.register_node("due-node", &endpoint, state, 3);
        eventually("the gate has noticed it", || {
            shares(&mut client, &due, 200, 4) == (4, 0)
        });
        assert_eq!(shares(&mut client, &due, 300, 40), (40, 0), "{state}");
        backends.register_node("due-node", &endpoint, "work", 3);
        eventually("it works again", || {
            shares(&mut client, &due, 400, 4) == (1, 3)
        });
    }
    // A busy one gets nothing as long as another works.
    backends.register_node("due-node", &endpoint, "busy", 3);
    eventually("the gate has noticed it", || {
        shares(&mut client, &due, 500, 4) == (4, 0)
    });
    assert_eq!(shares(&mut client, &due, 600, 20), (20, 0));
}

#[test]
fn our_states_are_in_the_records_that_gates_of_due_read() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let node = backends.node();
    for (state, name) in [
        (State::Busy, "busy"),
        (State::Hang, "hang"),
        (State::Shut, "shut"),
        (State::Work, "work"),
    ] {
        node.set_state(state).expect("is registered");
        let record = backends
            .etcd
            .ctl(&["get", "--print-value-only", "/services/node/our-node"]);
        let record: serde_json::Value = serde_json::from_str(&record).expect("is JSON");
        assert_eq!(record["state"], name);
        assert_eq!(record["alias"], "node");
        let stateful = json!({"i": 3, "s": true});
        let routes = record["routes"].as_array().expect("has some");
        assert!(routes.contains(&stateful), "{record}");
    }
}

#[test]
fn users_bound_by_one_kind_are_pushed_to_by_the_other() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let due = rig::Node::start("due-node", Vec::new());
    let (_node, gate) = (backends.node(), backends.gate());
    let mut link = Link::dial(gate.link_addr(), "due-node");
    let mut client = Wire::connect(&gate.client_addrs()[0]);

    // Bound by ours, pushed to by due.
    let login = || packet(2, 1, "7");
    eventually("our node serves the login", || {
        client.send(login());
        soon(&mut client).is_some()
    });
    assert_eq!(backends.located(7).as_deref(), Some("our-gate"));
    assert!(link.is_online(user(7)));
    let pushed = packet(100, 0, "pushed by due");
    let push = Asked::Push {
        target: user(7),
        disconnect: false,
        packet: &pushed,
    };
    assert_eq!(link.call(&push), Code::Done);
    while client.next().expect("is pushed") != pushed {}

    // Bound by due, pushed to by ours.
    backends.register_node(
        "due-node",
        &due.instance.endpoint.clone(),
        "work",
        1_000_000,
    );
    due.await_link();
    let mut other = Wire::connect(&gate.client_addrs()[0]);
    let cid = rig_number(&mut other, &due);
    assert_eq!(link.bind(cid, 8), Code::Done);
    assert_eq!(backends.located(8).as_deref(), Some("our-gate"));
    client.send(packet(5, 2, "8"));
    other.expect(packet(100, 0, "\"pushed by ours\""));

    // Bound to a gate of due: our node dials that gate.
    let due_gate = DueGate::start();
    backends.register_gate("due-gate", due_gate.addr);
    backends.bind(9, "due-gate", "gate");
    eventually("our node pushes over the gate of due", || {
        client.send(packet(5, 3, "9"));
        thread::sleep(Duration::from_millis(20));
        let pushed = due_gate.pushed.lock();
        pushed.contains(&(9, "\"pushed by ours\"".to_owned()))
    });

    // Unbound by due: the locator forgets, and nobody is there any more.
    assert_eq!(link.call(&Asked::Unbind { uid: 8 }), Code::Done);
    assert_eq!(backends.located(8), None);
    assert!(!link.is_online(user(8)));
    assert!(link.is_online(conn(cid)));
}

/// Sends packets until one has reached the node of due, and returns the client's number.
fn rig_number(client: &mut Wire, due: &rig::Node) -> i64 {
    let mut n = 0;
    eventually("the node of due gets a packet", || {
        n += 1;
        client.send(packet(1, n, "\"who am I\""));
        thread::sleep(Duration::from_millis(5));
        due.told()
            .iter()
            .any(|told| matches!(told, Told::Packet { .. }))
    });
    let cid = number(due, "who am I");
    // The answers of ours, if some came first.
    while soon(client).is_some() {}
    cid
}

#[test]
fn stateful_packets_follow_the_user_from_one_kind_of_node_to_the_other() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let due = rig::Node::start("due-node", Vec::new());
    backends.register_node("due-node", &due.instance.endpoint.clone(), "work", 1);
    let (_node, gate) = (backends.node(), backends.gate());
    due.await_link();
    let client = Client::builder().call_timeout(LONG);
    let client = client
        .connect(gate.client_addrs()[0].to_string())
        .expect("connects");
    eventually("our node serves the login", || {
        client.request(2, "7").is_ok()
    });

    let theirs = |data: &str| {
        let data = json!(data).to_string();
        client.push(3, data.clone()).expect("is sent");
        let (_, uid) = due.await_packet(&data);
        assert_eq!(uid, 7);
    };
    let ours = |data: &str| {
        let answer = request(&client, 3, &json!(data));
        assert_eq!(answer, json!(format!("ours: {data}")));
    };
    backends.bind(7, "due-node", "node");
    theirs("first");
    for round in 0..3 {
        backends.bind(7, "our-node", "node");
        eventually("the gate has heard of the move", || {
            let before = due.told().len();
            let asked = client.request_then(3, "\"probe\"", |_, _| {});
            asked.expect("is sent");
            thread::sleep(Duration::from_millis(20));
            due.told().len() == before
        });
        ours(&format!("ours {round}"));
        backends.bind(7, "due-node", "node");
        eventually("the gate has heard of the move back", || {
            let before = due.told().len();
            client.push(3, "\"probe\"").expect("is sent");
            thread::sleep(Duration::from_millis(20));
            due.told().len() > before
        });
        theirs(&format!("theirs {round}"));
    }
}

/// Our node in a process of its own, for a test that kills it. It ends with its parent's pipe.
#[test]
#[ignore = "a test that kills it starts it"]
fn a_node_to_be_killed() {
    let backend = |name| std::env::var(name).expect("is set by the test");
    let etcd = Etcd::open(&backend("TEST_ETCD")).expect("is a URL");
    let redis = epicycle::cluster::backends::Redis::open(&backend("TEST_REDIS")).expect("is a URL");
    let node = node(EtcdRegistry::new(&etcd), RedisLocator::new(&redis));
    let mut rest = String::new();
    let _ = std::io::stdin().read_line(&mut rest);
    drop(node);
}

/// The process of [`a_node_to_be_killed`].
struct NodeProcess(Child);

impl NodeProcess {
    fn start(backends: &Backends) -> Self {
        let program = std::env::current_exe().expect("has a path");
        let child = Command::new(program)
            .args(["interworking::a_node_to_be_killed", "--exact", "--ignored"])
            .env("TEST_ETCD", backends.etcd.url())
            .env("TEST_REDIS", backends.redis.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("is killed");
        self.0.wait().expect("has ended");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(stdin) = &mut self.0.stdin {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_packets_of_a_node_that_was_killed_go_to_a_node_of_due() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let due = rig::Node::start("due-node", Vec::new());
    backends.register_node("due-node", &due.instance.endpoint.clone(), "work", 1);
    let mut process = NodeProcess::start(&backends);
    let gate = backends.gate();
    due.await_link();
    let mut client = Wire::connect(&gate.client_addrs()[0]);
    eventually("both serve the route", || {
        shares(&mut client, &due, 1, 4) == (2, 2)
    });
    process.kill();
    // Its lease runs out after 11 s. What the gate sends to it until then is lost, as at a gate of due.
    eventually("the registry has forgotten it", || {
        let keys = backends
            .etcd
            .ctl(&["get", "--prefix", "--keys-only", "/services/node/"]);
        !keys.contains("our-node")
    });
    let before = due.told().len();
    let mut sent = 0;
    eventually("all packets go to the node of due", || {
        let begin = due.told().len();
        for _ in 0..10 {
            sent += 1;
            client.send(packet(1, sent, "\"after the end\""));
        }
        thread::sleep(Duration::from_millis(50));
        due.told().len() - begin == 10
    });
    assert!(due.told().len() - before <= sent as usize);
}
