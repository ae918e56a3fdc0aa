//! A node over real sockets: its handlers, and gates and clients in the same process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Answer, Code, Request as Asked, Value};
use epicycle::cluster::gate::Gate;
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::{Next, Node, NodeBuilder, Request, RouteFlag};
use epicycle::cluster::registry::{Instance, Registry};
use epicycle::cluster::{Cluster, Error, Event, Kind, State};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use crate::gate_users::Faulty;
use crate::rig::{Link, Wire, packet};
use crate::util::{LONG, eventually, expect_panics};

/// A node and a gate that knows it.
pub(crate) struct Embedded {
    pub(crate) cluster: Cluster,
    pub(crate) gate: Gate,
    pub(crate) node: Node,
}

impl Embedded {
    pub(crate) fn new<T: 'static>(options: impl FnOnce(NodeBuilder) -> NodeBuilder<T>) -> Self {
        Self::with(|cluster| options(cluster.node()))
    }

    pub(crate) fn with<T: 'static>(node: impl FnOnce(&Cluster) -> NodeBuilder<T>) -> Self {
        let cluster = Cluster::embedded();
        let node = node(&cluster).id("node-1").start().expect("starts");
        let gate = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0");
        let gate = gate.start().expect("starts");
        Self {
            cluster,
            gate,
            node,
        }
    }

    pub(crate) fn client(&self) -> Client {
        let addr = self.gate.client_addrs()[0].to_string();
        let builder = Client::builder().call_timeout(LONG);
        builder.connect(addr).expect("connects")
    }
}

/// Sends a request, and returns the answer.
pub(crate) fn ask(client: &Client, route: i32, data: &Json) -> Json {
    let answer = client
        .request(route, data.to_string())
        .expect("is answered");
    serde_json::from_slice(&answer).expect("is JSON")
}

/// A server that has dialled a node.
pub(crate) struct Dialler {
    pub(crate) wire: Wire,
    seq: u64,
}

impl Dialler {
    pub(crate) fn dial(node: &Node, kind: Kind, id: &str) -> Self {
        let mut dialler = Self {
            wire: Wire::connect(node.link_addr()),
            seq: 0,
        };
        let kind = kind.code();
        assert_eq!(dialler.call(&Asked::Handshake { kind, id }).0, Code::Done);
        dialler
    }

    pub(crate) fn send(&mut self, seq: u64, request: &Asked<'_>) {
        let mut frame = Vec::new();
        request.encode_into(seq, &mut frame).expect("is sound");
        self.wire.send(frame);
    }

    /// Sends a request. Returns the code and the state of the answer.
    pub(crate) fn call(&mut self, request: &Asked<'_>) -> (Code, Option<u8>) {
        self.seq += 1;
        self.send(self.seq, request);
        let mut answer = self.wire.next().expect("the link is open");
        let frame = crate::rig::frame_of(&mut answer).expect("is no heartbeat");
        assert_eq!((frame.seq, frame.op), (self.seq, request.op().code()));
        let answer = Answer::decode(&frame).expect("is an answer");
        let state = match answer.value {
            Value::State(state) => Some(state),
            _ => None,
        };
        (answer.code, state)
    }

    pub(crate) fn deliver(&mut self, uid: i64, packet: &[u8]) -> Code {
        self.call(&Asked::Deliver {
            cid: 5,
            uid,
            packet,
        })
        .0
    }
}

#[test]
fn a_packet_passes_gate_and_node_and_its_answer_comes_back() {
    let world = Embedded::new(|node| {
        node.state(|_| 0)
            .route(1, |count: &mut i32, cx| {
                *count += 1;
                let body: Json = cx.parse()?;
                cx.respond(&json!({"n": *count, "echo": body, "gid": cx.gid(), "uid": cx.uid()}))
            })
            .route(2, |_, cx| {
                cx.push(50, "pushed")?;
                cx.respond("answered")
            })
    });
    let (pushed, pushes) = mpsc::channel();
    let addr = world.gate.client_addrs()[0].to_string();
    let client = Client::builder()
        .route(50, move |_, packet| {
            let _ = pushed.send(packet.data.to_vec());
        })
        .connect(addr)
        .expect("connects");
    for n in 1..=3 {
        let answer = ask(&client, 1, &json!({"a": n}));
        let echo = json!({"a": n});
        assert_eq!(
            answer,
            json!({"n": n, "echo": echo, "gid": "gate-1", "uid": 0})
        );
    }
    assert_eq!(ask(&client, 2, &json!(null)), "answered");
    assert_eq!(
        pushes.recv().expect("comes before the answer"),
        br#""pushed""#
    );
}

#[test]
fn ten_thousand_packets_of_a_client_are_handled_once_and_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let world = Embedded::new(|node| {
        node.route(1, move |_, cx| {
            let n: u32 = cx.parse()?;
            log.lock().push(n);
            Ok::<(), Error>(())
        })
    });
    let client = world.client();
    for n in 0..10_000 {
        client.push(1, n.to_string()).expect("is sent");
    }
    eventually("all are handled", || seen.lock().len() >= 10_000);
    assert!(seen.lock().iter().copied().eq(0..10_000));
}

#[test]
fn events_come_in_order_around_the_packets_of_their_connection() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let note = move |_: &mut (), cx: &mut Request<'_>| {
        log.lock().push((cx.event(), cx.route(), cx.cid()));
        Ok::<(), Error>(())
    };
    let world = Embedded::new(|node| {
        node.route(1, note.clone())
            .event(Event::Connect, note.clone())
            .event(Event::Disconnect, note)
    });
    let record = &world
        .cluster
        .registry()
        .services("node")
        .expect("is in memory")[0];
    assert_eq!(record.events, [1, 3]);
    let client = world.client();
    client.push(1, "").expect("is sent");
    eventually("the packet comes", || seen.lock().len() == 2);
    drop(client);
    eventually("the end comes", || seen.lock().len() == 3);
    let seen = seen.lock();
    let cid = seen[0].2;
    assert!(cid > 0);
    let expected = [
        (Some(Event::Connect), 0, cid),
        (None, 1, cid),
        (Some(Event::Disconnect), 0, cid),
    ];
    assert_eq!(**seen, expected);
}

#[test]
fn an_error_or_a_panic_of_a_handler_costs_its_packet_alone() {
    expect_panics();
    let world = Embedded::new(|node| {
        node.route(1, |_, cx| cx.respond("fine"))
            .route(2, |_, _| Err::<(), _>("not today"))
            .route(3, |_, _| -> Result<(), Error> { panic!("on purpose") })
            .event(Event::Connect, |_, _| -> Result<(), Error> {
                panic!("on purpose, too")
            })
    });
    let client = world.client();
    client.push(2, "").expect("is sent");
    client.push(3, "").expect("is sent");
    assert_eq!(ask(&client, 1, &json!(null)), "fine");
    let stats = world.node.stats();
    assert_eq!((stats.handler_errors, stats.handler_panics), (1, 2));
}

#[test]
fn middleware_sees_the_packets_of_its_group_and_may_stop_them() {
    type Log = Vec<String>;
    fn note(
        name: &'static str,
    ) -> impl Fn(
        &mut Log,
        &mut Request<'_>,
        Next<'_, Log>,
    ) -> Result<(), epicycle::cluster::node::HandlerError> {
        move |log, cx, next| {
            log.push(name.to_owned());
            next.run(log, cx)
        }
    }
    let world = Embedded::new(|node| {
        node.state(|_| Log::new())
            .middleware(note("all"))
            .route(1, |log: &mut Log, cx| cx.respond(&std::mem::take(log)))
            .group(|group| {
                group
                    .route(2, |log: &mut Log, cx| cx.respond(&std::mem::take(log)))
                    .middleware(note("outer"))
                    .group(|group| {
                        group
                            .middleware(|log, cx, next| match cx.data() {
                                b"1" => next.run(log, cx),
                                _ => cx.respond("stopped").map_err(Into::into),
                            })
                            .route(3, |log: &mut Log, cx| cx.respond(&std::mem::take(log)))
                    })
            })
    });
    let client = world.client();
    assert_eq!(ask(&client, 1, &json!(1)), json!(["all"]));
    assert_eq!(ask(&client, 2, &json!(1)), json!(["all", "outer"]));
    assert_eq!(ask(&client, 3, &json!(1)), json!(["all", "outer"]));
    assert_eq!(ask(&client, 3, &json!(2)), "stopped");
    // The handler of the stopped packet would have taken the log.
    assert_eq!(ask(&client, 1, &json!(1)), json!(["all", "outer", "all"]));
}

#[test]
fn routes_are_registered_with_their_flags_and_twice_is_an_error() {
    let world = Embedded::new(|node| {
        node.name("chess")
            .weight(3)
            .route_with(3, RouteFlag::Stateful, |_, cx| cx.respond(""))
            .group(|group| {
                let flags = [RouteFlag::Authorized, RouteFlag::Internal];
                group.route_with(1, flags, |_, cx| cx.respond(""))
            })
    });
    let record = &world
        .cluster
        .registry()
        .services("node")
        .expect("is in memory")[0];
    assert_eq!((&*record.alias, record.weight), ("chess", 3));
    let flags = record.routes.iter().map(|route| {
        let flags = (route.stateful, route.authorized, route.internal);
        (route.id, flags)
    });
    let expected = [(1, (false, true, true)), (3, (true, false, false))];
    assert!(flags.eq(expected));

    let twice = Node::builder()
        .route(1, |_, cx| cx.respond(""))
        .group(|group| group.route(1, |_, cx| cx.respond("")))
        .start();
    let error = twice.expect_err("is refused").to_string();
    assert!(error.contains("1 is registered twice"), "{error}");
    let event = |_: &mut (), _: &mut Request<'_>| Ok::<(), Error>(());
    let twice = Node::builder()
        .event(Event::Connect, event)
        .event(Event::Connect, event)
        .start();
    let error = twice.expect_err("is refused").to_string();
    assert!(error.contains("connect has two handlers"), "{error}");
    let too_large = Node::builder().route(40_000, |_, cx| cx.respond(""));
    let error = too_large.start().expect_err("fits into no packet");
    assert!(
        matches!(
            error,
            Error::RouteOverflow {
                route: 40_000,
                bytes: 2
            }
        ),
        "{error}"
    );
    let late = Node::builder().event(Event::Connect, event).state(|_| 1);
    let error = late.start().expect_err("is refused").to_string();
    assert!(error.contains("set it before"), "{error}");
}

#[test]
fn what_other_servers_deliver_is_answered_as_by_due() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let node = Node::builder()
        .route(1, |_, _| Ok::<(), Error>(()))
        .route_with(3, RouteFlag::Stateful, |_, _| Ok::<(), Error>(()))
        .default_route(move |_, cx| {
            log.lock()
                .push((cx.route(), cx.nid().to_owned(), cx.gid().to_owned()));
            Ok::<(), Error>(())
        })
        .start()
        .expect("starts");
    let mut other = Dialler::dial(&node, Kind::Node, "node-2");
    assert_eq!(other.deliver(0, &packet(1, 0, "x")), Code::Done);
    assert_eq!(other.deliver(0, &packet(3, 0, "x")), Code::Failed);
    assert_eq!(other.deliver(0, b"\x01\x02\x03"), Code::Failed);
    assert_eq!(other.deliver(0, &packet(99, 0, "x")), Code::Done);
    assert_eq!(*seen.lock(), [(99, "node-2".to_owned(), String::new())]);
    let bind = Asked::Bind { cid: 1, uid: 2 };
    assert_eq!(other.call(&bind).0, Code::Failed, "it is for gates");
    assert_eq!(node.stats().packets_refused, 2);
}

#[test]
fn the_state_can_be_set_by_its_owner_and_by_other_servers() {
    let world = Embedded::new(|node| node);
    let registered = || {
        let nodes = world.cluster.registry().services("node");
        nodes.expect("is in memory")[0].state
    };
    world.node.set_state(State::Busy).expect("is in memory");
    assert_eq!(registered(), State::Busy);
    let mut gate = Dialler::dial(&world.node, Kind::Gate, "gate-9");
    assert_eq!(gate.call(&Asked::GetState), (Code::Done, Some(2)));
    let state = State::Hang.code();
    assert_eq!(gate.call(&Asked::SetState { state }).0, Code::Done);
    assert_eq!(gate.call(&Asked::GetState), (Code::Done, Some(3)));
    eventually("it is registered", || registered() == State::Hang);
    let registry = world.cluster.registry().clone();
    world.node.shutdown();
    assert!(registry.services("node").expect("is in memory").is_empty());
}

#[test]
fn what_is_sent_to_a_gate_that_the_registry_has_not_told_of_yet_waits_for_it() {
    let world = Embedded::new(|node| node.route(1, |_, cx| cx.respond("welcome")));
    // Another gate, whose record comes late.
    let late = world
        .cluster
        .gate()
        .id("gate-2")
        .listen("tcp://127.0.0.1:0");
    let late = late.start().expect("starts");
    let registry = world.cluster.registry();
    let gates = registry.services("gate").expect("is in memory");
    let record = gates
        .iter()
        .find(|gate| gate.id == "gate-2")
        .expect("is there");
    registry.deregister(record).expect("is in memory");
    let addr = late.client_addrs()[0].to_string();
    let client = Client::builder().connect(addr).expect("connects");
    let (answer, answers) = mpsc::channel();
    let asked = client.request_then(1, "", move |_, reply| {
        let _ = answer.send(reply.map(<[u8]>::to_vec));
    });
    asked.expect("is sent");
    eventually("the node has answered", || world.node.stats().pushed == 1);
    registry.register(record).expect("is in memory");
    let answer = answers.recv().expect("comes").expect("is an answer");
    assert_eq!(answer, br#""welcome""#);
}

#[test]
fn a_node_that_has_not_heard_of_a_move_asks_the_locator_before_it_rejects() {
    let (cluster, ran) = (Cluster::embedded(), Arc::new(AtomicUsize::new(0)));
    // The changes are not told.
    let locator = Faulty {
        watches: Some(Arc::default()),
        ..Faulty::default()
    };
    let node = cluster.node().id("node-1").locator(locator.clone());
    let counted = ran.clone();
    let node = node.route_with(3, RouteFlag::Stateful, move |_, _| {
        counted.fetch_add(1, Ordering::AcqRel);
        Ok::<(), Error>(())
    });
    let node = node.start().expect("starts");
    let other = Instance::new(Kind::Node, "node-2", "drpc://127.0.0.1:1");
    cluster.registry().register(&other).expect("is sound");
    let bind = |nid: &str| {
        locator
            .inner
            .bind_node(7, "node", nid)
            .expect("is in memory");
    };
    let mut link = Link::dial(node.link_addr(), "fake-1");
    let packet = packet(3, 1, "");
    let mut deliver = || {
        let packet = &packet;
        link.call(&Asked::Deliver {
            cid: 0,
            uid: 7,
            packet,
        })
    };
    bind("node-2");
    assert_eq!(deliver(), Code::Failed);
    bind("node-1");
    assert_eq!(deliver(), Code::Done);
    assert_eq!(ran.load(Ordering::Acquire), 1);
}

#[test]
fn servers_clients_and_handles_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<epicycle::cluster::gate::Gate>();
    shared::<epicycle::cluster::node::Node>();
    shared::<epicycle::cluster::node::Later>();
    shared::<epicycle::cluster::node::ActorRef>();
    shared::<epicycle::cluster::mesh::Mesh>();
    shared::<epicycle::cluster::mesh::MeshClient>();
    shared::<epicycle::cluster::client::Client>();
    shared::<epicycle::cluster::admin::Admin>();
}
