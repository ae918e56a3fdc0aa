//! Clients and nodes of ours with a gate of due, which is a stand-in, over a real etcd and a real Redis.

use epicycle::cluster::State;
use epicycle::cluster::client::Client;
use epicycle::cluster::node::Node;

use crate::due_gate::DueGate;
use crate::interworking::{Backends, soon};
use crate::interworking_ops::{Otherwise, WEDGED, replay, routes};
use crate::rig::{self, Told, Wire, packet};
use crate::util::{LONG, eventually};
use crate::vectors::{hex, rows, unhex};

/// Starts a node of ours with the routes of the recorded one.
fn node(backends: &Backends) -> Node {
    let node = Node::builder().id("node-1").registry(backends.registry());
    let node = routes(node.locator(backends.locator()));
    node.start().expect("starts")
}

/// Starts a gate of due that is registered, and knows the nodes.
fn gate(backends: &Backends) -> DueGate {
    let gate = DueGate::start("gate-1", &backends.redis);
    let record = gate.record().to_string();
    backends
        .etcd
        .ctl(&["put", "/services/gate/gate-1", &record]);
    gate.follow(&backends.etcd);
    gate
}

/// The stand-in is as good as its answers: they are those of a real gate, byte by byte.
#[test]
fn the_gate_of_due_that_stands_in_gives_the_recorded_answers() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let gate = DueGate::start("gate-1", &backends.redis);
    let mut link = Wire::over(std::net::TcpStream::connect(gate.links).expect("connects"));
    // The recorded clients had the numbers 1 and 15, and the second one was the user 8.
    let heartbeat = b"\0\0\0\x01\x80";
    let await_client = |client: &mut Wire| {
        client.send(heartbeat);
        client.expect(heartbeat);
    };
    gate.number_from(14);
    let mut client = gate.client();
    await_client(&mut client);
    link.send(
        unhex("0000001a0002000000000000ffff000000000000000f0000000000000008").expect("is hex"),
    );
    assert!(link.next().is_some());
    let (mut other, mut replayed) = (None, 0);
    for row in rows("drpc_gate") {
        if row.scenario == "disconnect graceful" && other.is_none() {
            gate.number_from(0);
            let mut first = gate.client();
            await_client(&mut first);
            other = Some(first);
        }
        match &*row.dir {
            "c>s" => link.send(row.bytes()),
            _ if row.data.starts_with("NOTHING") => {}
            // It announces more than it has.
            _ if row.scenario.starts_with("publish to a channel without") => {
                let mut answer = [0; 16];
                std::io::Read::read_exact(&mut link.0, &mut answer).expect("is open");
                assert_eq!(hex(&answer), row.data);
            }
            _ => {
                let answer = link.next().expect("is open");
                assert_eq!(hex(&answer), row.data, "{}", row.scenario);
                replayed += 1;
            }
        }
    }
    assert!(replayed > 40 || rows("drpc_gate").is_empty(), "{replayed}");
}

/// The differences of a node of ours from one of due.
const OURS: [Otherwise; 9] = [
    Otherwise {
        scenario: r#"node op {"op":"publish","ch":"room:1","msg":"p","ack":true}"#,
        gets: &[r#"{"msg":"p"}"#, r#"{"err":"<nil>","op":"publish","r":0}"#],
        why: "a gate of due is not asked for the number",
    },
    Otherwise {
        scenario: r#"node op {"op":"publish","ch":"room:2","msg":"p","ack":true}"#,
        gets: &[r#"{"msg":"p"}"#, r#"{"err":"<nil>","op":"publish","r":0}"#],
        why: "the same",
    },
    Otherwise {
        scenario: r#"node op {"op":"push_user","uid":999"#,
        gets: &[r#"{"err":"<nil>","op":"push_user","r":null}"#],
        why: "a push does not wait for the look-up",
    },
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
    Otherwise {
        scenario: r#"node op {"op":"multicast_user","msg":"m""#,
        gets: &[
            r#"{"msg":"m"}"#,
            r#"{"err":"<nil>","op":"multicast_user","r":1}"#,
        ],
        why: "a user that is nowhere is no error",
    },
    Otherwise {
        scenario: r#"node op {"op":"stat","kind":1}"#,
        gets: &[r#"{"err":"<nil>","op":"stat","r":1}"#],
        why: "due reads the answer 16 bits off",
    },
    Otherwise {
        scenario: r#"node op {"op":"stat","kind":2}"#,
        gets: &[r#"{"err":"<nil>","op":"stat","r":1}"#],
        why: "the same",
    },
    Otherwise {
        scenario: r#"node op {"op":"online_user","uid":999}"#,
        gets: &[r#"{"err":"<nil>","op":"online_user","r":false}"#],
        why: "a user that is nowhere is offline",
    },
];

#[test]
fn a_client_of_due_reaches_a_node_of_ours_through_a_gate_of_due_with_all_verbs() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let hall = rig::Node::start("hall-1", Vec::new());
    let record = serde_json::json!({
        "id": "hall-1", "name": "node", "kind": "node", "alias": "hall", "state": "work",
        "routes": [{"i": 21}, {"i": 22, "n": true}], "endpoint": hall.instance.endpoint, "weight": 3,
    });
    let key = "/services/node/hall-1";
    backends.etcd.ctl(&["put", key, &record.to_string()]);
    let _node = node(&backends);
    let gate = gate(&backends);
    let mut client = gate.client();
    let otherwise: Vec<_> = OURS.iter().chain(&WEDGED).collect();
    let replayed = replay(&mut client, &otherwise, &[]);
    if replayed == 0 {
        return;
    }
    assert!(replayed >= 39, "{replayed}");
    for other in otherwise {
        assert!(!other.why.is_empty());
    }
    // The node of due got what ours delivered to it, by its id and by the route.
    let told = hall.await_told(2);
    for (told, wanted) in told.iter().zip([21, 22]) {
        let Told::Packet {
            cid,
            uid,
            route,
            data,
            ..
        } = told
        else {
            panic!("{told:?}");
        };
        assert_eq!((*cid, *uid, *route), (0, 7, wanted));
        assert_eq!(data, r#"{"from":"ours"}"#);
    }
}

#[test]
fn a_client_of_ours_reaches_a_node_of_ours_through_a_gate_of_due() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let _node = node(&backends);
    let gate = gate(&backends);
    let client = Client::builder().call_timeout(LONG);
    let client = client.connect(gate.addr()).expect("connects");
    let ask = |route: i32, body: &str| {
        let answer = client.request(route, body.to_owned()).expect("is answered");
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(ask(1, r#"{"a":1}"#), r#"{"code":0,"echo":{"a":1}}"#);
    assert_eq!(ask(2, r#"{"uid":7}"#), r#"{"code":0,"err":"<nil>"}"#);
    assert_eq!(backends.located(7).as_deref(), Some("gate-1"));
    assert_eq!(ask(4, "{}"), r#"{"authorized":true,"uid":7}"#);
    assert_eq!(ask(6, "{}"), r#"{"bindnode":"<nil>"}"#);
    assert_eq!(ask(3, "{}"), r#"{"stateful":true,"uid":7}"#);
    drop(client);
    eventually("the gate of due unbinds it", || {
        backends.located(7).is_none()
    });
}

#[test]
fn a_gate_of_due_obeys_the_states_of_a_node_of_ours() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let node = node(&backends);
    let due = rig::Node::start("due-node", Vec::new());
    let endpoint = due.instance.endpoint.clone();
    backends.register_node("due-node", &endpoint, "work", 1);
    let gate = gate(&backends);
    let mut client = gate.client();
    let mut echoes = |count: i32| {
        let packets = || {
            let told = due.told().into_iter();
            told.filter(|told| matches!(told, Told::Packet { .. }))
                .count()
        };
        let before = packets();
        for n in 0..count {
            client.send(packet(1, n + 1, "1"));
        }
        let mut ours = 0;
        eventually("all have come", || {
            let theirs = packets() - before;
            ours += usize::from(soon(&mut client).is_some());
            ours + theirs == count as usize
        });
        ours
    };
    assert_eq!(echoes(10), 5);
    for state in [State::Hang, State::Shut] {
        node.set_state(state).expect("is registered");
        gate.follow(&backends.etcd);
        assert_eq!(echoes(10), 0, "{state}");
    }
    node.set_state(State::Work).expect("is registered");
    gate.follow(&backends.etcd);
    assert_eq!(echoes(10), 5);
}

#[test]
fn users_of_a_gate_of_due_that_was_killed_are_found_offline() {
    let Some(mut backends) = Backends::start() else {
        return;
    };
    let _node = node(&backends);
    let killed = gate(&backends);
    let mut seven = killed.client();
    seven.send(packet(2, 1, r#"{"uid":7}"#));
    seven.expect(packet(2, 1, r#"{"code":0,"err":"<nil>"}"#));
    let other = backends.gate();
    let mut client = Wire::connect(&other.client_addrs()[0]);
    let mut is_online = || {
        let asked = packet(9, 2, r#"{"op":"online_user","uid":7}"#);
        client.send(&asked);
        let answer = client.next().expect("is open");
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };
    let online = r#"{"err":"<nil>","op":"online_user","r":true}"#;
    assert_eq!(is_online(), online);
    killed.kill();
    // Its lease runs out.
    backends.etcd.ctl(&["del", "/services/gate/gate-1"]);
    assert_eq!(backends.located(7).as_deref(), Some("gate-1"));
    eventually("the user is found offline", || is_online() != online);
    // It comes back at our gate.
    let mut seven = Wire::connect(&other.client_addrs()[0]);
    seven.send(packet(2, 1, r#"{"uid":7}"#));
    seven.expect(packet(2, 1, r#"{"code":0,"err":"<nil>"}"#));
    assert_eq!(backends.located(7).as_deref(), Some("our-gate"));
    eventually("it is online", || is_online() == online);
}

/// due leaves the total out of the answer to a Publish that nobody got, but not out of the answer's size. So whoever asks for it takes the
/// beginning of the next frame for the total.
#[test]
fn a_gate_of_due_is_not_asked_for_the_number_of_members() {
    let Some(backends) = Backends::start() else {
        return;
    };
    let _node = node(&backends);
    let gate = gate(&backends);
    let mut client = gate.client();
    let mut ask = |op: &str, gets: &[&str]| {
        client.send(packet(9, 1, op));
        for data in gets {
            let route = if data.contains("\"op\"") { 9 } else { 100 };
            client.expect(packet(route, i32::from(route == 9), data));
        }
    };
    for _ in 0..3 {
        ask(
            r#"{"op":"publish","ch":"nobody","msg":"p","ack":true}"#,
            &[r#"{"err":"<nil>","op":"publish","r":0}"#],
        );
        ask(
            r#"{"op":"online_conn"}"#,
            &[r#"{"err":"<nil>","op":"online_conn","r":true}"#],
        );
    }
    ask(
        r#"{"op":"subscribe","ch":"room"}"#,
        &[r#"{"err":"<nil>","op":"subscribe","r":null}"#],
    );
    ask(
        r#"{"op":"publish","ch":"room","msg":"p","ack":true}"#,
        &[r#"{"msg":"p"}"#, r#"{"err":"<nil>","op":"publish","r":0}"#],
    );
}
