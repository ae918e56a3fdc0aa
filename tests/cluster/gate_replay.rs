//! A client of due, and the application that stood behind the recorded gate, on either side of a gate.

use std::collections::BTreeMap;
use std::net::Shutdown;

use epicycle::cluster::drpc::{Code, Request, Scope, Targets};
use epicycle::cluster::gate::DuplicateLogin;
use epicycle::cluster::locator::Locator;
use serde_json::{Value, json};

use crate::gate::World;
use crate::rig::{Link, Told, Wire, conn, packet, user};
use crate::util::eventually;
use crate::vectors::{Row, hex, rows};

const HEARTBEAT: &[u8] = b"\0\0\0\x01\x80";

/// The application of the recordings.
struct App<'w> {
    world: &'w World,
    link: Link,
    /// The number of things that it has been told and has done.
    done: usize,
}

impl App<'_> {
    /// Waits for the next packet, and does what it asks.
    fn serve(&mut self) {
        loop {
            let told = self.world.node.await_told(self.done + 1);
            let next = told[self.done].clone();
            self.done += 1;
            let Told::Packet {
                cid,
                uid,
                route,
                seq,
                data,
            } = next
            else {
                continue;
            };
            let answer = self.answer(cid, uid, route, &data);
            if let Some(answer) = answer {
                let packet = packet(route, seq, &answer.to_string());
                self.send(&Request::Push {
                    target: conn(cid),
                    disconnect: false,
                    packet: &packet,
                });
            }
            return;
        }
    }

    fn answer(&mut self, cid: i64, uid: i64, route: i32, data: &str) -> Option<Value> {
        let body: Value = serde_json::from_str(data).unwrap_or_else(|_| json!({}));
        let number = |name| body[name].as_i64().unwrap_or_default();
        Some(match route {
            1 => json!({"code": 0, "echo": body}),
            2 => {
                assert_eq!(self.link.bind(cid, number("uid")), Code::Done);
                json!({"code": 0, "err": "<nil>"})
            }
            3 => json!({"stateful": true, "uid": uid}),
            4 => json!({"authorized": true, "uid": uid}),
            6 => {
                let bound = self.world.locator.bind_node(uid, "node", "node-1");
                bound.expect("is in memory");
                json!({"bindnode": "<nil>"})
            }
            _ => return self.operate(cid, uid, &body),
        })
    }

    /// Does what route 9 asks.
    fn operate(&mut self, cid: i64, uid: i64, body: &Value) -> Option<Value> {
        let op = body["op"].as_str().expect("has one");
        let number = |name| body[name].as_i64().unwrap_or_default();
        let pushed = packet(100, 0, &json!({"msg": body["msg"]}).to_string());
        let (disconnect, packet) = (false, &pushed[..]);
        let acked = body["ack"] == true;
        let scope = match number("kind") {
            2 => Scope::User,
            _ => Scope::Conn,
        };
        let channel = body["ch"].as_str().unwrap_or_default();
        let mut ask = |request: Request<'_>| match acked {
            true => json!(self.link.total(&request)),
            false => {
                self.link.send(0, &request);
                json!(0)
            }
        };
        let located = |uid| {
            let found = self.world.locator.locate_gate(uid);
            found.expect("is in memory").is_some()
        };
        let lost = "not found user's location";
        let (mut err, mut r) = ("<nil>", Value::Null);
        match op {
            "push_user" if !located(number("uid")) => err = lost,
            "push_conn" | "push_user" => {
                let target = match op {
                    "push_conn" => conn(cid),
                    _ => user(number("uid")),
                };
                self.push(
                    acked,
                    &Request::Push {
                        target,
                        disconnect,
                        packet,
                    },
                );
            }
            "multicast_conn" => {
                let targets = [cid, cid, 2, 999];
                let targets = Targets::from(&targets);
                let scope = Scope::Conn;
                r = ask(Request::Multicast {
                    scope,
                    targets,
                    disconnect,
                    packet,
                });
            }
            "multicast_user_gid" => {
                let targets = Targets::from(&[7, 999]);
                let scope = Scope::User;
                r = ask(Request::Multicast {
                    scope,
                    targets,
                    disconnect,
                    packet,
                });
            }
            "broadcast" => {
                r = ask(Request::Broadcast {
                    scope,
                    disconnect,
                    packet,
                });
            }
            "publish" => {
                r = ask(Request::Publish {
                    channel,
                    disconnect,
                    packet,
                });
            }
            "subscribe_user" => {
                let targets = Targets::from(&[7]);
                let scope = Scope::User;
                let subscribe = Request::Subscribe {
                    scope,
                    targets,
                    channel,
                };
                assert_eq!(self.link.call(&subscribe), Code::Done);
            }
            "online_user" => {
                let uid = number("uid");
                r = json!(located(uid) && self.link.is_online(user(uid)));
                err = if located(uid) { err } else { lost };
            }
            "unbind" => assert_eq!(self.link.call(&Request::Unbind { uid }), Code::Done),
            "disconnect" => {
                let (target, force) = (conn(cid), body["force"] == true);
                let disconnect = Request::Disconnect { target, force };
                assert_eq!(self.link.call(&disconnect), Code::Done);
                return None;
            }
            "busy" | "work" => {}
            op => panic!("{op} is not replayed"),
        }
        Some(json!({"err": err, "op": op, "r": r}))
    }

    fn push(&mut self, acked: bool, request: &Request<'_>) {
        match acked {
            true => assert_eq!(self.link.call(request), Code::Done),
            false => self.send(request),
        }
    }

    fn send(&mut self, request: &Request<'_>) {
        self.link.send(0, request);
    }
}

/// Scenarios that are not replayed, and why.
const LEFT_OUT: [(&str, &str); 10] = [
    (
        r#"node op {"op":"multicast_user","#,
        "what is recorded is the choice of due's proxy between gates",
    ),
    (
        r#"node op {"op":"subscribe","#,
        "the recorded answer is that a link of due was wedged",
    ),
    (
        r#"node op {"op":"publish","ch":"room:1""#,
        "it begins with the late answer to that",
    ),
    (r#"node op {"op":"unsubscribe""#, "as subscribe"),
    (
        r#"node op {"op":"getip""#,
        "it begins with the late answer to that",
    ),
    (
        r#"node op {"op":"stat""#,
        "due misreads the answer; drpc_gate has it",
    ),
    (r#"node op {"op":"online_conn""#, "as subscribe"),
    (r#"node op {"op":"deliver"#, "it is between nodes"),
    (
        "first connection after the duplicate login: stat",
        "due misreads the answer",
    ),
    ("push with Disconnect flag", "due's proxy drops the flag"),
];

/// Compares what a client gets with the recording.
fn expect(client: &mut Wire, row: &Row, next: Option<&Row>) {
    if row.data.starts_with("NOTHING") {
        client.send(HEARTBEAT);
        client.expect(HEARTBEAT);
    } else if row.data == "FIN" {
        assert!(client.is_over(), "{}", row.scenario);
    } else if row.scenario.contains("multicast_conn")
        && next.is_some_and(|next| next.data == row.data)
    {
        // due sends it twice to the one that is twice in the list.
    } else {
        let expected = match row.scenario.contains(r#""multicast_conn","msg":"m","ack""#) {
            true => row.data.replace(&hex(br#""r":2}"#), &hex(br#""r":1}"#)),
            false => row.data.clone(),
        };
        let got = client.next().expect("is open");
        assert_eq!(hex(&got), expected, "{}", row.scenario);
    }
}

/// Returns the number of the client that a scenario is about.
fn client_of(scenario: &str) -> usize {
    match scenario {
        "second connection logs in as the same uid 7 (duplicate login)"
        | "unbind, then authorized route"
        | "server-side graceful disconnect" => 1,
        "server-side forced disconnect" => 2,
        _ => 0,
    }
}

#[test]
fn a_recorded_client_of_due_gets_the_recorded_answers_and_the_node_the_recorded_frames() {
    // As due has it: the first connection stays.
    let world = World::with(|gate| gate.duplicate_login(DuplicateLogin::Unbind));
    let mut app = App {
        world: &world,
        link: world.link(),
        done: 0,
    };
    let recorded = rows("client");
    let mut clients: BTreeMap<usize, Wire> = BTreeMap::new();
    let mut replayed = 0;
    for (at, row) in recorded.iter().enumerate() {
        if row.scenario.starts_with("multicast with Disconnect flag") {
            break;
        }
        let mut left_out = LEFT_OUT.iter();
        if left_out.any(|(scenario, _why)| row.scenario.starts_with(scenario)) {
            continue;
        }
        let number = client_of(&row.scenario);
        let client = clients.entry(number).or_insert_with(|| world.client());
        let next = recorded.get(at + 1);
        if row.dir != "c>s" {
            expect(client, row, next);
            replayed += 1;
            continue;
        }
        if row
            .scenario
            .starts_with("first connection after the duplicate login")
        {
            eventually("it has lost the user", || world.gate.stats().replaced == 1);
        }
        let is_heartbeat = row.bytes()[4] == 0x80;
        if is_heartbeat || next.is_some_and(|next| next.data.starts_with("NOTHING")) {
            client.send(row.bytes());
            continue;
        }
        // A bind to a node is known to the gate when the locator's watch has told it: until then it is refused.
        eventually("the packet is delivered", || {
            let before = world.gate.stats();
            client.send(row.bytes());
            eventually("the packet is dispatched", || {
                let after = world.gate.stats();
                after.delivered > before.delivered || after.refused != before.refused
            });
            world.gate.stats().delivered > before.delivered
        });
        app.serve();
    }
    if recorded.is_empty() {
        return;
    }
    assert!(replayed > 40, "{replayed}");

    // The first connection, which had the number 1.
    let Some(Told::Event { cid, .. }) = world.node.told().first().cloned() else {
        panic!("the first thing told is a connection");
    };
    let (number, cid) = (hex(&1_i64.to_be_bytes()), hex(&cid.to_be_bytes()));
    let frames = world.node.frames();
    let ours = frames.iter().map(|frame| hex(frame));
    let ours: Vec<String> = ours
        .filter(|frame| frame.contains(&cid))
        .map(|frame| frame.replace(&cid, &number))
        .collect();
    assert!(ours.len() > 15, "{}", ours.len());
    let links = rows("link");
    let mut theirs = links.iter().filter(|row| {
        let of = &row.scenario;
        of.starts_with("gate-1->node-1") && (of.ends_with("deliver") || of.ends_with("trigger"))
    });
    for frame in ours {
        assert!(
            theirs.any(|row| row.data == frame),
            "due does not send {frame}"
        );
    }
}

/// Input that due accepts or ignores, and that closes the client here.
const CLOSES: [&str; 3] = [
    "header with unknown extcode bits 0x01, route 1",
    "size 3: shorter than a head",
    "data of 5001 bytes (over bufferBytes)",
];

#[test]
fn recorded_bad_input_has_the_recorded_answers_or_closes_the_client() {
    let world = World::new();
    let mut app = App {
        world: &world,
        link: world.link(),
        done: 0,
    };
    let recorded = rows("client_bad");
    let mut client = world.client();
    for (at, row) in recorded.iter().enumerate() {
        let closes = CLOSES.contains(&&*row.scenario);
        if row.dir == "c>s" {
            client = world.client();
            client.send(row.bytes());
            if row.scenario == "truncated packet then FIN" {
                client.0.shutdown(Shutdown::Write).expect("is open");
            }
            let of_it = recorded[at..]
                .iter()
                .take_while(|next| next.scenario == row.scenario);
            let answers = of_it.filter(|next| next.data.starts_with("000000"));
            let answers = answers.count() - usize::from(row.data.starts_with("000000"));
            for _ in 0..if closes { 0 } else { answers } {
                app.serve();
            }
        } else if closes {
            assert!(client.is_over(), "{}", row.scenario);
        } else {
            expect(&mut client, row, None);
        }
    }
}
