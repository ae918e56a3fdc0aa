//! A node with several reactors.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::drpc::{Code, Request as Asked};
use epicycle::cluster::node::{Node, Request};
use epicycle::cluster::{Error, Event, Kind};
use parking_lot::Mutex;
use serde_json::json;

use crate::node::{Dialler, Embedded, ask};
use crate::node_verbs::with_login;
use crate::rig::packet;
use crate::util::eventually;

#[test]
fn a_users_packets_have_one_state_whichever_gate_and_connection_they_come_by() {
    let world = Embedded::new(|node| {
        let node = node.reactors(4).state(|reactor| (reactor, 0));
        with_login(node).route(1, |(reactor, count): &mut (usize, i32), cx| {
            *count += 1;
            cx.respond(&json!([*reactor, *count]))
        })
    });
    let other = world
        .cluster
        .gate()
        .id("gate-2")
        .listen("tcp://127.0.0.1:0");
    let other = other.reactors(2).start().expect("starts");
    let mut used = Vec::new();
    for uid in 1..=12 {
        let (first, _) = crate::node_verbs::listener(&world.gate);
        let (second, _) = crate::node_verbs::listener(&other);
        assert_eq!(ask(&first, 2, &json!(uid)), "ok");
        let state = ask(&first, 1, &json!(0));
        // The second login takes the user, and comes to the same state.
        assert_eq!(ask(&second, 2, &json!(uid)), "ok");
        let next = ask(&second, 1, &json!(0));
        let count = state[1].as_i64().expect("is a number");
        assert_eq!(next, json!([state[0], count + 1]));
        used.push(state[0].to_string());
    }
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "all users are on one reactor");
}

#[test]
fn packets_keep_their_order_when_a_login_moves_their_connection_to_another_reactor() {
    type Seen = Arc<Mutex<Vec<(i64, i64, String)>>>;
    let seen = Seen::default();
    let log = seen.clone();
    let note = move |_: &mut (), cx: &mut Request<'_>| {
        let what = match cx.event() {
            Some(event) => event.to_string(),
            None => {
                // Those before the login are slow, so that one that did not wait would overtake them.
                thread::sleep(Duration::from_micros(if cx.uid() == 0 { 500 } else { 0 }));
                String::from_utf8_lossy(cx.data()).into_owned()
            }
        };
        log.lock().push((cx.cid(), cx.uid(), what));
        Ok::<(), Error>(())
    };
    let node = Node::builder()
        .reactors(4)
        .route(1, note.clone())
        .event(Event::Connect, note.clone())
        .event(Event::Reconnect, note.clone())
        .event(Event::Disconnect, note)
        .start()
        .expect("starts");
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-1");
    let mut send = |request: &Asked<'_>| gate.send(0, request);
    let cids = 1..=40;
    for cid in cids.clone() {
        let (before, after) = (packet(1, 0, "before"), packet(1, 0, "after"));
        send(&Asked::Trigger {
            event: 1,
            cid,
            uid: 0,
        });
        for _ in 0..3 {
            send(&Asked::Deliver {
                cid,
                uid: 0,
                packet: &before,
            });
        }
        // Two logins, one after the other.
        for uid in [100 + cid, 200 + cid] {
            send(&Asked::Trigger { event: 2, cid, uid });
            for _ in 0..3 {
                send(&Asked::Deliver {
                    cid,
                    uid,
                    packet: &after,
                });
            }
        }
        send(&Asked::Trigger {
            event: 3,
            cid,
            uid: 0,
        });
    }
    eventually("all have ended", || {
        let seen = seen.lock();
        seen.iter()
            .filter(|(_, _, what)| what == "disconnect")
            .count()
            == 40
    });
    let seen = seen.lock();
    for cid in cids {
        let of_conn = seen.iter().filter(|(of, ..)| *of == cid);
        let got: Vec<_> = of_conn.map(|(_, uid, what)| (*uid, &**what)).collect();
        let mut expected = vec![(0, "connect")];
        expected.extend([(0, "before"); 3]);
        for uid in [100 + cid, 200 + cid] {
            expected.push((uid, "reconnect"));
            expected.extend([(uid, "after"); 3]);
        }
        expected.push((0, "disconnect"));
        assert_eq!(got, expected, "of connection {cid}");
    }
}

#[test]
fn a_packet_that_is_handled_on_another_reactor_is_answered_on_its_link() {
    let node = Node::builder()
        .reactors(4)
        .route(1, |_, _| Ok::<(), Error>(()))
        .start()
        .expect("starts");
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-1");
    for uid in 0..20 {
        assert_eq!(gate.deliver(uid, &packet(1, 0, "x")), Code::Done);
        assert_eq!(gate.deliver(uid, b"no packet"), Code::Failed);
    }
}
