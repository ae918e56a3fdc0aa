//! A gate over real sockets: its clients, and other servers as scripted stand-ins.

use epicycle::cluster::drpc::{Answer, Code, Request, Scope, Targets, Value};
use epicycle::cluster::gate::{Gate, GateBuilder};
use epicycle::cluster::locator::{Locator, MemoryLocator};
use epicycle::cluster::registry::{MemoryRegistry, Registry, RouteSpec};

use crate::rig::{Link, Node, Told, Wire, conn, packet, user};
use crate::util::eventually;
use crate::vectors::{hex, rows, unhex};

/// A gate with a node that serves the routes of the recordings.
pub(crate) struct World {
    pub(crate) gate: Gate,
    pub(crate) node: Node,
    pub(crate) registry: MemoryRegistry,
    pub(crate) locator: MemoryLocator,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|gate| gate)
    }

    pub(crate) fn with(options: impl FnOnce(GateBuilder) -> GateBuilder) -> Self {
        Self::around(Node::start("node-1", routes()), options)
    }

    /// Starts a gate with this node.
    pub(crate) fn around(node: Node, options: impl FnOnce(GateBuilder) -> GateBuilder) -> Self {
        let (registry, locator) = (MemoryRegistry::new(), MemoryLocator::new());
        registry.register(&node.instance).expect("is sound");
        let gate = Gate::builder()
            .id("gate-1")
            .listen("tcp://127.0.0.1:0")
            .registry(registry.clone())
            .locator(locator.clone());
        let gate = options(gate).start().expect("starts");
        node.await_link();
        Self {
            gate,
            node,
            registry,
            locator,
        }
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::connect(&self.gate.client_addrs()[0])
    }

    /// Connects a client, and returns its number too.
    pub(crate) fn known_client(&self, name: &str) -> (Wire, i64) {
        let mut client = self.client();
        client.send(packet(1, 1, name));
        let (cid, _) = self.node.await_packet(name);
        (client, cid)
    }

    pub(crate) fn link(&self) -> Link {
        Link::dial(self.gate.link_addr(), "fake-1")
    }
}

/// The routes of the nodes of the recordings.
pub(crate) fn routes() -> Vec<RouteSpec> {
    let mut routes = [1, 2, 6, 7, 9].map(RouteSpec::new).to_vec();
    routes.push(RouteSpec::new(3).stateful());
    routes.push(RouteSpec::new(4).authorized());
    routes.push(RouteSpec::new(5).internal());
    routes
}

/// Answers of due that are not given here: the scenario, and what is given.
const OTHERWISE: [(&str, &str); 1] = [(
    "publish to a channel without members: due announces 20 bytes and writes 12",
    "00000014000b000000000000002b00000000000000000000",
)];

#[test]
fn a_recorded_conversation_with_a_gate_of_due_has_the_same_answers_here() {
    let world = World::with(|gate| gate.reactors(2));
    let (mut client, cid) = world.known_client("me");
    let mut link = Wire::connect(world.gate.link_addr());
    let number = |n: i64| hex(&n.to_be_bytes());
    // The recorded client had the number 15 and the user 8.
    let ours = |data: &str| data.replace(&number(15), &number(cid));
    assert_eq!(world.link().bind(cid, 8), Code::Done);
    let (mut other, other_cid) = (None, 0);
    let mut other_cid = other_cid;
    let mut replayed = 0;
    for row in rows("drpc_gate") {
        if row.scenario == "disconnect graceful" && other.is_none() {
            let (wire, cid) = world.known_client("other");
            (other, other_cid) = (Some(wire), cid);
        }
        let mut data = ours(&row.data);
        if row.scenario == "disconnect graceful" {
            data = data.replace(
                &format!("01{}", number(1)),
                &format!("01{}", number(other_cid)),
            );
        }
        match &*row.dir {
            "c>s" => link.send(unhex(&data).expect("is hex")),
            // Whatever came would be taken for the next answer.
            _ if data.starts_with("NOTHING") => {}
            _ => {
                let here = OTHERWISE
                    .iter()
                    .find(|(scenario, _)| *scenario == row.scenario);
                let expected = here.map_or(&*data, |(_, here)| here);
                let answer = link.next().expect("the link is open");
                assert_eq!(hex(&answer), expected, "{}", row.scenario);
                replayed += 1;
            }
        }
    }
    if let Some(mut other) = other {
        assert!(replayed > 40, "{replayed}");
        assert!(other.is_over(), "it was disconnected");
        // push conn (twice), push user, multicast, broadcast (twice), publish.
        for _ in 0..7 {
            client.expect(packet(100, 0, r#"{"msg":"x"}"#));
        }
    }
}

/// Requests that due does not answer, and that are answered here with code 2.
const REFUSED: [(&str, u8, u64); 4] = [
    ("unknown op 99", 99, 2),
    ("trigger at a gate", 14, 3),
    ("bind too short", 2, 4),
    ("bind too long", 2, 5),
];

#[test]
fn bad_requests_are_refused_and_cost_only_their_link() {
    let world = World::new();
    let (_client, _) = world.known_client("me");
    let mut wire = None;
    let mut replayed = 0;
    for row in rows("drpc_gate_bad") {
        let (scenario, is_then) = match row.scenario.strip_suffix(": and then stat") {
            Some(scenario) => (scenario, true),
            None => (&*row.scenario, false),
        };
        let closes = scenario.starts_with("size");
        if row.dir == "c>s" {
            if !is_then {
                let mut fresh = Wire::connect(world.gate.link_addr());
                if scenario != "stat before handshake" {
                    fresh = world.link().wire;
                }
                wire = Some(fresh);
            }
            let wire = wire.as_mut().expect("begins with a request");
            if !(is_then && closes) {
                wire.send(row.bytes());
            }
            continue;
        }
        let wire = wire.as_mut().expect("begins with a request");
        replayed += 1;
        if closes {
            assert!(wire.is_over(), "{scenario}");
            continue;
        }
        let mut expected = Vec::new();
        let refused = REFUSED.iter().find(|(refused, ..)| *refused == scenario);
        match refused.filter(|_| !is_then) {
            Some((_, op, seq)) => Answer::new(*op, Code::Failed).encode_into(*seq, &mut expected),
            None => {
                let stat = Answer {
                    value: Value::Total(1),
                    ..Answer::new(5, Code::Done)
                };
                stat.encode_into(if is_then { 9 } else { 2 }, &mut expected)
            }
        }
        .expect("is sound");
        wire.expect(expected);
    }
    if replayed > 0 {
        assert_eq!(replayed, 14);
        drop(wire);
        eventually("all are counted", || {
            world.gate.stats().requests_refused >= 4
        });
    }
}

#[test]
fn requests_reach_clients_of_all_reactors_and_each_counts_once() {
    let world = World::with(|gate| gate.reactors(3));
    let mut link = world.link();
    let mut clients: Vec<_> = (0..30)
        .map(|n| world.known_client(&format!("client {n}")))
        .collect();
    let cids: Vec<i64> = clients.iter().map(|(_, cid)| *cid).collect();
    for (n, cid) in cids.iter().enumerate().take(10) {
        assert_eq!(link.bind(*cid, 100 + n as i64), Code::Done);
    }
    let push = packet(100, 0, "x");
    let twice: Vec<i64> = cids.iter().chain(&cids).copied().collect();
    let multicast = Request::Multicast {
        scope: Scope::Conn,
        targets: Targets::from(&twice[..]),
        disconnect: false,
        packet: &push,
    };
    assert_eq!(link.total(&multicast), 30);
    let subscribe = Request::Subscribe {
        scope: Scope::User,
        targets: Targets::from(&[100, 101, 102, 999]),
        channel: "room",
    };
    assert_eq!(link.call(&subscribe), Code::Done);
    for (scope, count) in [(Scope::Conn, 30), (Scope::User, 10)] {
        assert_eq!(link.total(&Request::Stat { scope }), count);
        let broadcast = Request::Broadcast {
            scope,
            disconnect: false,
            packet: &push,
        };
        assert_eq!(link.total(&broadcast), count);
    }
    let publish = Request::Publish {
        channel: "room",
        disconnect: false,
        packet: &push,
    };
    assert_eq!(link.total(&publish), 3);
    for (n, (client, _)) in clients.iter_mut().enumerate() {
        let count = [n < 30, n < 30, n < 10, n < 3];
        for _ in count.iter().filter(|gets| **gets) {
            client.expect(&push);
        }
    }
    // Whatever came twice would come before this.
    let last = packet(101, 0, "last");
    for (client, cid) in &mut clients {
        let push = Request::Push {
            target: conn(*cid),
            disconnect: true,
            packet: &last,
        };
        assert_eq!(link.call(&push), Code::Done);
        client.expect(&last);
        assert!(client.is_over(), "it was asked to be disconnected");
    }
    eventually("all have left", || world.gate.stats().connections == 0);
    assert_eq!(link.total(&publish), 0);
    assert!(!link.is_online(user(100)));
    eventually("the locator forgets them", || {
        world
            .locator
            .locate_gate(100)
            .expect("is in memory")
            .is_none()
    });
}

#[test]
fn a_broadcast_to_more_clients_than_a_turn_has_room_for_reaches_all_before_what_was_sent_later() {
    const CLIENTS: usize = 1500;
    let world = World::new();
    let mut link = world.link();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| world.client()).collect();
    eventually("all are there", || {
        world.gate.stats().connections == CLIENTS as u64
    });
    let (first, last) = (packet(100, 0, "first"), packet(100, 0, "last"));
    let told = world.node.await_told(CLIENTS);
    let broadcast = |packet| Request::Broadcast {
        scope: Scope::Conn,
        disconnect: false,
        packet,
    };
    // In one write, so that the pushes come while the broadcast is under way.
    let mut frames = Vec::new();
    broadcast(&first[..])
        .encode_into(50, &mut frames)
        .expect("is sound");
    for told in &told {
        let Told::Event { cid, .. } = told else {
            panic!("{told:?} is no event");
        };
        let push = Request::Push {
            target: conn(*cid),
            disconnect: false,
            packet: &last,
        };
        push.encode_into(0, &mut frames).expect("is sound");
    }
    link.wire.send(frames);
    let mut expected = Vec::new();
    let all = Answer {
        value: Value::Total(CLIENTS as u64),
        ..Answer::new(10, Code::Done)
    };
    all.encode_into(50, &mut expected).expect("is sound");
    link.wire.expect(expected);
    for client in &mut clients {
        client.expect(&first);
        client.expect(&last);
    }
}
