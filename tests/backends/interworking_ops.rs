//! The operations of route 9 of the recorded node: what a client sent to it, and what came back. They are replayed in clusters of both
//! kinds: with a node of ours behind a gate of due, and with a node of due behind a gate of ours.

use std::time::Duration;

use epicycle::cluster::drpc::{Scope, Target};
use epicycle::cluster::node::{NodeBuilder, Request, RouteFlag};
use epicycle::cluster::{Error, Event};
use serde_json::{Value as Json, json};

use crate::rig::{Wire, packet};
use crate::util::{LONG, eventually};
use crate::vectors::{Row, hex, rows};

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";
/// The head of an answer to a packet with the number 99.
const PROBED: [u8; 9] = *b"\0\0\0\x1e\0\0\x03\0\x63";

/// The answers to the client of a scenario where the recording has something else.
pub(crate) struct Otherwise {
    /// The beginning of the scenario.
    pub(crate) scenario: &'static str,
    /// Messages on route 100, and the answer on route 9.
    pub(crate) gets: &'static [&'static str],
    pub(crate) why: &'static str,
}

/// Faults of due that changed the recording. No side has them here: after the first call that nobody answered, a link of due's node never
/// read an answer again.
pub(crate) const WEDGED: [Otherwise; 6] = [
    Otherwise {
        scenario: r#"node op {"op":"subscribe","ch":"room:1"}"#,
        gets: &[r#"{"err":"<nil>","op":"subscribe","r":null}"#],
        why: "a link of due was wedged",
    },
    Otherwise {
        scenario: r#"node op {"op":"publish","ch":"room:1","msg":"p","ack":true}"#,
        gets: &[r#"{"msg":"p"}"#, r#"{"err":"<nil>","op":"publish","r":1}"#],
        why: "it begins with the late answer to that",
    },
    Otherwise {
        scenario: r#"node op {"op":"unsubscribe","ch":"room:1"}"#,
        gets: &[r#"{"err":"<nil>","op":"unsubscribe","r":null}"#],
        why: "a link of due was wedged",
    },
    Otherwise {
        scenario: r#"node op {"op":"getip"}"#,
        gets: &[r#"{"err":"<nil>","op":"getip","r":"127.0.0.1"}"#],
        why: "it begins with the late answer to that",
    },
    Otherwise {
        scenario: r#"node op {"op":"online_conn"}"#,
        gets: &[r#"{"err":"<nil>","op":"online_conn","r":true}"#],
        why: "a link of due was wedged",
    },
    Otherwise {
        scenario: r#"node op {"op":"deliver_nid","nid":"hall-1"}"#,
        gets: &[r#"{"err":"<nil>","op":"deliver_nid","r":null}"#],
        why: "it begins with the late answer to that",
    },
];

/// Has a client say what the recorded one said, up to the end of the operations, and compares what it gets. Returns the number of
/// scenarios.
pub(crate) fn replay(client: &mut Wire, otherwise: &[&Otherwise], left_out: &[&str]) -> usize {
    let recorded = rows("client");
    let mut replayed = 0;
    let mut at = 0;
    while at < recorded.len() && !recorded[at].scenario.starts_with("second connection") {
        let asked = &recorded[at];
        let answers = recorded[at + 1..].iter().take_while(|row| row.dir != "c>s");
        let answers: Vec<&Row> = answers.collect();
        at += 1 + answers.len();
        let scenario = &asked.scenario;
        if left_out.iter().any(|begin| scenario.starts_with(begin)) {
            continue;
        }
        if scenario == "stateful route 3, bound" {
            await_node(client);
        }
        client.send(asked.bytes());
        let mut others = otherwise.iter();
        let expected: Vec<String> = match others.find(|other| scenario.starts_with(other.scenario))
        {
            Some(other) => {
                let packets = other.gets.iter().map(|data| match data.contains("\"op\"") {
                    true => hex(&packet(9, 20, data)),
                    false => hex(&packet(100, 0, data)),
                });
                packets.collect()
            }
            None => answers.iter().map(|row| row.data.clone()).collect(),
        };
        for message in expected {
            if message.starts_with("NOTHING") {
                client.send(HEARTBEAT);
                client.expect(HEARTBEAT);
                continue;
            }
            let mut got = client.next().expect("is open");
            while got.starts_with(&PROBED) {
                got = client.next().expect("is open");
            }
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&crate::vectors::unhex(&message).expect("is hex")),
                "{scenario}"
            );
        }
        replayed += 1;
    }
    replayed
}

/// Sends packets on route 3 until the gate knows the node of the user. Their answers have the number 99.
fn await_node(client: &mut Wire) {
    eventually("the gate knows the node of the user", || {
        client.send(packet(3, 99, "{}"));
        let patience = Some(Duration::from_millis(50));
        client.0.set_read_timeout(patience).expect("is set");
        let answers = client.0.peek(&mut [0]).is_ok_and(|len| len > 0);
        client.0.set_read_timeout(Some(LONG)).expect("is set");
        answers
    });
}

fn answer(cx: &mut Request<'_>, op: &str, result: Result<Json, Error>) -> Result<(), Error> {
    let (err, r) = match result {
        Ok(r) => ("<nil>".to_owned(), r),
        Err(error) => (error.to_string(), Json::Null),
    };
    cx.respond(&json!({"err": err, "op": op, "r": r}))
}

/// Adds the routes of the recorded node.
pub(crate) fn routes(node: NodeBuilder<()>) -> NodeBuilder<()> {
    node.route(1, |(), cx| {
        let body: Json = cx.parse()?;
        cx.respond(&json!({"code": 0, "echo": body}))
    })
    .route(2, |(), cx| {
        let body: Json = cx.parse()?;
        let uid = body["uid"].as_i64().unwrap_or_default();
        cx.bind_gate(uid, |(), cx, bound| {
            bound?;
            cx.respond(&json!({"code": 0, "err": "<nil>"}))
        })
    })
    .route_with(3, RouteFlag::Stateful, |(), cx| {
        cx.respond(&json!({"stateful": true, "uid": cx.uid()}))
    })
    .route_with(4, RouteFlag::Authorized, |(), cx| {
        cx.respond(&json!({"authorized": true, "uid": cx.uid()}))
    })
    .route_with(5, RouteFlag::Internal, |(), cx| cx.respond(&"internal"))
    .route(6, |(), cx| {
        cx.bind_node(cx.uid(), |(), cx, bound| {
            bound?;
            cx.respond(&json!({"bindnode": "<nil>"}))
        })
    })
    .route(9, |(), cx| operate(cx))
    .event(Event::Connect, |(), _| Ok::<(), Error>(()))
    .event(Event::Reconnect, |(), _| Ok::<(), Error>(()))
    .event(Event::Disconnect, |(), _| Ok::<(), Error>(()))
}

/// Does what route 9 asks, by the verbs of a node of ours.
fn operate(cx: &mut Request<'_>) -> Result<(), Error> {
    let body: Json = cx.parse()?;
    let op = body["op"].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| body[name].as_i64().unwrap_or_default();
    let channel = body["ch"].as_str().unwrap_or_default();
    let message = json!({"msg": body["msg"]});
    let (cid, counted) = (cx.cid(), body["ack"] == true);
    let scope = match number("kind") {
        2 => Scope::User,
        _ => Scope::Conn,
    };
    let name = op.clone();
    let total = move |(): &mut (), cx: &mut Request<'_>, total: Result<u64, Error>| {
        answer(cx, &name, total.map(|total| json!(total)))
    };
    let name = op.clone();
    let online = move |(): &mut (), cx: &mut Request<'_>, online: Result<bool, Error>| {
        answer(cx, &name, online.map(|online| json!(online)))
    };
    match &*op {
        "push_conn" => cx.push_to(Target::conn(cid), 100, &message)?,
        "push_user" => cx.push_to(Target::user(number("uid")), 100, &message)?,
        "multicast_conn" if counted => {
            let targets = [cid, cid, 2, 999];
            return cx.multicast_counted(Scope::Conn, &targets, 100, &message, total);
        }
        "multicast_conn" => {
            cx.multicast(Scope::Conn, &[cid, cid, 2, 999], 100, &message)?;
            return answer(cx, &op, Ok(json!(0)));
        }
        "multicast_user" | "multicast_user_gid" => {
            return cx.multicast_counted(Scope::User, &[7, 999], 100, &message, total);
        }
        "broadcast" if counted => return cx.broadcast_counted(scope, 100, &message, total),
        "broadcast" => {
            cx.broadcast(scope, 100, &message)?;
            return answer(cx, &op, Ok(json!(0)));
        }
        "publish" if counted => return cx.publish_counted(channel, 100, &message, total),
        "publish" => {
            cx.publish(channel, 100, &message)?;
            return answer(cx, &op, Ok(json!(0)));
        }
        // A user is subscribed by its connection.
        "subscribe" | "subscribe_user" => cx.subscribe(channel)?,
        "unsubscribe" => cx.unsubscribe(channel)?,
        "getip" => {
            return cx.addr(move |(): &mut (), cx, addr| {
                // A gate of due tells no port.
                let ip = addr.map(|addr| json!(addr.split(':').next()));
                answer(cx, &op, ip)
            });
        }
        "stat" => return cx.stat(scope, total),
        "online_user" => return cx.is_online(Target::user(number("uid")), online),
        "online_conn" => return cx.is_online(Target::conn(cid), online),
        "deliver_nid" => {
            let nid = body["nid"].as_str().unwrap_or_default();
            cx.deliver_to(nid, 21, cx.uid(), &json!({"from": "ours"}))?;
        }
        "deliver_route" => cx.deliver(22, cx.uid(), &json!({"from": "ours"}))?,
        "busy" | "work" => {}
        "unbind" => {
            return cx.unbind_gate(cx.uid(), |(): &mut (), cx, unbound| {
                answer(cx, "unbind", unbound.map(|()| Json::Null))
            });
        }
        "disconnect" => return cx.disconnect(body["force"] == true),
        op => panic!("{op} is not known"),
    }
    answer(cx, &op, Ok(Json::Null))
}
