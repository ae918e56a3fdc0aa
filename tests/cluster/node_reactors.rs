//! A node with several reactors.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use epicycle::cluster::drpc::{Code, Request as Asked};
use epicycle::cluster::node::{Node, Request};
use epicycle::cluster::registry::{Instance, Registry};
use epicycle::cluster::{Cluster, Error, Event, Kind};
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

/// The calls of a node's handlers: connection, user and event or data.
type Seen = Arc<Mutex<Vec<(i64, i64, String)>>>;

/// Returns a handler that notes what it is called for, which takes so long before the login.
fn noting(
    seen: &Seen,
    takes: Duration,
) -> impl Fn(&mut (), &mut Request<'_>) -> Result<(), Error> + Clone + Send + Sync + 'static {
    let log = seen.clone();
    move |(), cx| {
        let what = match cx.event() {
            Some(event) => event.to_string(),
            None => {
                // One that did not wait would overtake these.
                thread::sleep(if cx.uid() == 0 { takes } else { Duration::ZERO });
                String::from_utf8_lossy(cx.data()).into_owned()
            }
        };
        log.lock().push((cx.cid(), cx.uid(), what));
        Ok(())
    }
}

fn await_ends(seen: &Seen, count: usize) {
    eventually("all have ended", || {
        let seen = seen.lock();
        let ends = seen.iter().filter(|(_, _, what)| what == "disconnect");
        ends.count() == count
    });
}

fn of_conn(seen: &Seen, cid: i64) -> Vec<(i64, String)> {
    let seen = seen.lock();
    let of_conn = seen.iter().filter(|(of, ..)| *of == cid);
    of_conn.map(|(_, uid, what)| (*uid, what.clone())).collect()
}

fn event(event: u8, cid: i64, uid: i64) -> Asked<'static> {
    Asked::Trigger { event, cid, uid }
}

#[test]
fn packets_keep_their_order_when_a_login_moves_their_connection_to_another_reactor() {
    let seen = Seen::default();
    let note = noting(&seen, Duration::from_micros(500));
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
    await_ends(&seen, 40);
    for cid in cids {
        let got = of_conn(&seen, cid);
        let got: Vec<_> = got.iter().map(|(uid, what)| (*uid, &**what)).collect();
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

/// A gate that is registered, and answers nothing.
struct Mute {
    instance: Instance,
    listener: TcpListener,
}

impl Mute {
    fn new(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let endpoint = format!("drpc://{addr}?is_secure=false");
        let instance = Instance::new(Kind::Gate, "gate-9", endpoint);
        let registered = cluster.registry().register(&instance);
        registered.expect("is in memory");
        Self { instance, listener }
    }

    /// Waits until all reactors of a node have dialled it, so that they know of it.
    fn await_links(&self, count: usize) -> Vec<TcpStream> {
        let links = self.listener.incoming().take(count);
        links.map(|link| link.expect("is dialled")).collect()
    }
}

#[test]
fn a_connection_that_leaves_after_its_link_was_lost_is_not_ended_with_its_gate() {
    let cluster = Cluster::embedded();
    let mute = Mute::new(&cluster);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let log = ended.clone();
    let node = cluster
        .node()
        .reactors(4)
        .route(1, |_, _| Ok::<(), Error>(()))
        .event(Event::Disconnect, move |_, cx| {
            log.lock().push(cx.cid());
            Ok::<(), Error>(())
        });
    let node = node.start().expect("starts");
    let links = mute.await_links(4);
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    for cid in [1, 2] {
        for (event, uid) in [(1, 0), (2, 7)] {
            gate.call(&Asked::Trigger { event, cid, uid });
        }
    }
    drop(gate);
    eventually("the link is lost", || node.stats().links == 0);
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    gate.call(&Asked::Leave { cid: 1 });
    assert!(ended.lock().is_empty(), "the gate is there");
    // Now the gate is lost.
    let removed = cluster.registry().deregister(&mute.instance);
    removed.expect("is in memory");
    drop((gate, mute, links));
    eventually("the other one has ended", || ended.lock().contains(&2));
    // Whatever was told together with it is told by now.
    let mut other = Dialler::dial(&node, Kind::Gate, "gate-8");
    assert_eq!(other.deliver(7, &packet(1, 0, "x")), Code::Done);
    assert_eq!(*ended.lock(), [2]);
}

#[test]
fn packets_keep_their_order_when_a_login_comes_by_the_next_link() {
    const CIDS: std::ops::RangeInclusive<i64> = 1..=40;
    let cluster = Cluster::embedded();
    let mute = Mute::new(&cluster);
    let seen = Seen::default();
    let note = noting(&seen, Duration::from_millis(3));
    let node = cluster
        .node()
        .reactors(4)
        .route(1, note.clone())
        .event(Event::Connect, note.clone())
        .event(Event::Reconnect, note.clone())
        .event(Event::Disconnect, note);
    let node = node.start().expect("starts");
    let _links = mute.await_links(4);
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    let whole = packet(1, 0, "before");
    for cid in CIDS {
        gate.send(0, &event(1, cid, 0));
        for _ in 0..3 {
            let (uid, packet) = (0, &whole);
            gate.send(0, &Asked::Deliver { cid, uid, packet });
        }
    }
    eventually("all is read", || node.stats().packets_in == 3 * 40);
    drop(gate);
    eventually("the link is lost", || node.stats().links == 0);
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    let whole = packet(1, 0, "after");
    for cid in CIDS {
        let (uid, packet) = (100 + cid, &whole);
        gate.send(0, &event(2, cid, uid));
        gate.send(0, &Asked::Deliver { cid, uid, packet });
        gate.send(0, &event(3, cid, uid));
    }
    await_ends(&seen, 40);
    for cid in CIDS {
        let uid = 100 + cid;
        let expected = [
            (0, "connect"),
            (0, "before"),
            (0, "before"),
            (0, "before"),
            (uid, "reconnect"),
            (uid, "after"),
            (uid, "disconnect"),
        ];
        assert_eq!(
            of_conn(&seen, cid),
            expected.map(|(uid, what)| (uid, what.to_owned()))
        );
    }
}
