//! What handlers of a node can do: for their client, for others, and later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::drpc::{Scope, Target};
use epicycle::cluster::gate::{DuplicateLogin, Gate};
use epicycle::cluster::locator::{LocationEvent, Locator, MemoryLocator};
use epicycle::cluster::node::{HandlerError, NodeBuilder, Request, RouteFlag};
use epicycle::cluster::{Cluster, Error, Event, Kind, Watch, WatchSender, watch};
use log::Level;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use crate::node::{Embedded, ask};
use crate::util::logs::logs;
use crate::util::{LONG, eventually};

/// The route of what is pushed in these tests.
pub(crate) const PUSHED: i32 = 50;

/// A client, and where its pushes come.
pub(crate) fn listener(gate: &Gate) -> (Client, Receiver<Json>) {
    let (sender, pushes) = mpsc::channel();
    let client = Client::builder()
        .call_timeout(LONG)
        .route(PUSHED, move |_, packet| {
            let _ = sender.send(serde_json::from_slice(packet.data).expect("is JSON"));
        })
        .connect(gate.client_addrs()[0].to_string())
        .expect("connects");
    (client, pushes)
}

pub(crate) fn next(pushes: &Receiver<Json>) -> Json {
    pushes.recv_timeout(LONG).expect("comes")
}

/// Answers with `ok` or the error.
pub(crate) fn tell(cx: &mut Request<'_>, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Ok(()) => cx.respond("ok"),
        Err(error) => cx.respond(&error.to_string()),
    }
}

/// Adds a route 2 that binds the user of the packet, and a route 6 that binds it to the node.
pub(crate) fn with_login<T: 'static>(node: NodeBuilder<T>) -> NodeBuilder<T> {
    node.route(2, |_, cx| {
        let uid = cx.parse()?;
        cx.bind_gate(uid, |_: &mut T, cx, bound| tell(cx, bound))
    })
    .route(6, |_, cx| {
        cx.bind_node(cx.uid(), |_: &mut T, cx, bound| tell(cx, bound))
    })
}

#[test]
fn a_user_is_bound_when_the_bind_is_answered_and_pushes_reach_it_from_then_on() {
    let world = Embedded::new(|node| {
        with_login(node)
            .route(3, |_, cx| cx.respond(&cx.uid()))
            .route(7, |_, cx| {
                cx.push_to(Target::user(7), PUSHED, "to user 7")?;
                cx.respond("ok")
            })
            .route(8, |_, cx| {
                cx.unbind_gate(7, |_: &mut (), cx, unbound| tell(cx, unbound))
            })
            .route(9, |_, cx| {
                let of_nobody = [Target::user(0), Target::user(-1), Target::conn(0)];
                let told = of_nobody.map(|target| {
                    let pushed = cx.push_to(target, PUSHED, "to nobody");
                    let kicked = cx.kick(target, true);
                    [pushed, kicked].map(|done| done.expect_err("is nobody").to_string())
                });
                cx.respond(&told)
            })
    });
    let other = world
        .cluster
        .gate()
        .id("gate-2")
        .listen("tcp://127.0.0.1:0");
    let other = other.start().expect("starts");
    let (seven, pushes) = listener(&other);
    let client = world.client();
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    let located = world.cluster.locator().locate_gate(7);
    assert_eq!(located.expect("is in memory").as_deref(), Some("gate-2"));
    assert_eq!(ask(&seven, 3, &json!(0)), 7);
    // Another client, of another gate, has something pushed.
    assert_eq!(ask(&client, 7, &json!(0)), "ok");
    assert_eq!(next(&pushes), "to user 7");
    assert_eq!(ask(&client, 8, &json!(0)), "ok");
    assert_eq!(ask(&seven, 3, &json!(0)), 0);
    let gone = ask(&client, 8, &json!(0));
    assert_eq!(gone, "the user 7 is nowhere: not bound, or gone");
    assert_eq!(
        ask(&seven, 2, &json!(-1)),
        "the argument `uid`: -1 is no user; ids are above 0"
    );
    let told = ask(&seven, 9, &json!(0));
    for (told, problem) in [
        (&told[0], "`uid`: 0 is no user"),
        (&told[1], "`uid`: -1 is no user"),
        (&told[2], "`cid`: 0 is no connection"),
    ] {
        for told in told.as_array().expect("is a list") {
            assert!(told.to_string().contains(problem), "{told}");
        }
    }
}

/// A locator that never tells changes, and takes a time to tell what it has found.
#[derive(Clone)]
pub(crate) struct Silent {
    inner: MemoryLocator,
    watches: Arc<Mutex<Vec<WatchSender<LocationEvent>>>>,
    before_it_tells: Arc<dyn Fn(Kind) + Send + Sync>,
}

impl Silent {
    pub(crate) fn new(inner: &MemoryLocator, takes: Duration) -> Self {
        Self::hooked(inner, move |kind| {
            if kind == Kind::Node {
                thread::sleep(takes);
            }
        })
    }

    /// Calls `before_it_tells` with what was found: a gate or a node.
    pub(crate) fn hooked(
        inner: &MemoryLocator,
        before_it_tells: impl Fn(Kind) + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: inner.clone(),
            watches: Arc::default(),
            before_it_tells: Arc::new(before_it_tells),
        }
    }

    /// Tells all watches that changes were missed.
    pub(crate) fn interrupt(&self) {
        for watch in &*self.watches.lock() {
            watch.push(LocationEvent::Interrupted, usize::MAX);
        }
    }
}

impl Locator for Silent {
    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        self.inner.bind_gate(uid, gid)
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        self.inner.unbind_gate(uid, gid)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        self.inner.bind_node(uid, alias, nid)
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        self.inner.unbind_node(uid, alias, nid)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        let found = self.inner.locate_gate(uid);
        (self.before_it_tells)(Kind::Gate);
        found
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        let found = self.inner.locate_node(uid, alias);
        (self.before_it_tells)(Kind::Node);
        found
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        self.inner.locate_nodes(uid)
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        let (sender, watch) = watch();
        self.watches.lock().push(sender);
        Ok(watch)
    }
}

#[test]
fn pushes_reach_a_user_that_was_just_bound_although_no_change_has_been_told_yet() {
    let world = Embedded::with(|cluster| {
        let silent = Silent::new(cluster.locator(), Duration::ZERO);
        with_login(cluster.node().locator(silent)).route(7, |_, cx| {
            let pushed: Result<(), Error> = cx.push_to(Target::user(7), PUSHED, "hi");
            cx.respond(&pushed.is_ok())
        })
    });
    let (seven, pushes) = listener(&world.gate);
    eventually("the node knows that the user is nowhere", || {
        ask(&seven, 7, &json!(0)) == false
    });
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    assert_eq!(ask(&seven, 7, &json!(0)), true);
    assert_eq!(next(&pushes), "hi");
}

#[test]
fn pushes_to_a_user_that_must_be_located_keep_their_order() {
    let world = Embedded::new(|node| {
        with_login(node).route(7, |_, cx| {
            for n in 0..200 {
                cx.push_to(Target::user(7), PUSHED, &n)?;
                if n == 0 {
                    // The locator has answered by the second push.
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Ok::<(), Error>(())
        })
    });
    let (seven, pushes) = listener(&world.gate);
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    world.client().push(7, "").expect("is sent");
    for n in 0..200 {
        assert_eq!(next(&pushes), n);
    }
}

#[test]
fn many_are_reached_by_user_by_connection_by_channel_and_all() {
    let world = Embedded::new(|node| {
        with_login(node)
            .route(10, |_, cx| {
                let cid = cx.cid();
                cx.multicast(Scope::Conn, &[cid, cid, 999], PUSHED, "by connection")?;
                cx.multicast(Scope::User, &[7, 8, 7, 999], PUSHED, "by user")?;
                cx.broadcast(Scope::Conn, PUSHED, "all")?;
                cx.publish("news", PUSHED, "news")?;
                cx.push(PUSHED, "last")
            })
            .route(11, |_, cx| {
                cx.subscribe("news")?;
                cx.respond("ok")
            })
            .route(12, |_, cx| {
                cx.unsubscribe("news")?;
                cx.respond("ok")
            })
            .route(13, |_, cx| {
                cx.stat(Scope::Conn, |_: &mut (), cx, total| cx.respond(&total?))
            })
            .route(14, |_, cx| {
                cx.stat(Scope::User, |_: &mut (), cx, total| cx.respond(&total?))
            })
    });
    let other = world
        .cluster
        .gate()
        .id("gate-2")
        .listen("tcp://127.0.0.1:0");
    let other = other.start().expect("starts");
    let (seven, of_seven) = listener(&world.gate);
    let (eight, of_eight) = listener(&other);
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    assert_eq!(ask(&eight, 2, &json!(8)), "ok");
    assert_eq!(ask(&seven, 13, &json!(0)), 2);
    assert_eq!(ask(&seven, 14, &json!(0)), 2);
    assert_eq!(ask(&eight, 11, &json!(0)), "ok");
    assert_eq!(ask(&seven, 11, &json!(0)), "ok");
    assert_eq!(ask(&seven, 12, &json!(0)), "ok");
    seven.push(10, "").expect("is sent");
    for expected in ["by connection", "by user", "all", "last"] {
        assert_eq!(next(&of_seven), expected);
    }
    for expected in ["by user", "all", "news"] {
        assert_eq!(next(&of_eight), expected);
    }
}

#[test]
fn clients_are_looked_up_and_disconnected() {
    let world = Embedded::new(|node| {
        with_login(node)
            .route(3, |_, cx| {
                cx.addr(|_: &mut (), cx, addr| cx.respond(&addr?))
            })
            .route(4, |_, cx| {
                cx.is_online(Target::user(7), |_: &mut (), cx, online| {
                    cx.respond(&online?)
                })
            })
            .route(5, |_, cx| cx.kick(Target::user(7), false))
            .route(9, |_, cx| {
                cx.push(PUSHED, "bye")?;
                cx.disconnect(false)
            })
    });
    let client = world.client();
    let addr = ask(&client, 3, &json!(0));
    let addr = addr.as_str().expect("is text").to_owned();
    assert!(addr.starts_with("127.0.0.1:"), "{addr}");
    assert_eq!(ask(&client, 4, &json!(0)), false);
    let (seven, pushes) = listener(&world.gate);
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    assert_eq!(ask(&client, 4, &json!(0)), true);
    client.push(5, "").expect("is sent");
    eventually("it is disconnected", || world.gate.stats().connections < 2);
    drop(seven);
    assert!(pushes.recv().is_err(), "nothing was pushed");
    let (last, pushes) = listener(&world.gate);
    last.push(9, "").expect("is sent");
    assert_eq!(next(&pushes), "bye");
}

#[test]
fn stateful_packets_come_to_the_node_of_their_user_and_others_are_refused() {
    let world = Embedded::new(|node| {
        with_login(node)
            .route_with(3, RouteFlag::Stateful, |_, cx| cx.respond(cx.nid()))
            .route(7, |_, cx| {
                cx.unbind_node(cx.uid(), |_: &mut (), cx, unbound| tell(cx, unbound))
            })
    });
    let client = world.client();
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
    assert_eq!(ask(&client, 6, &json!(0)), "ok");
    // The gate learns of it a moment later.
    eventually("the gate knows it", || {
        client.request(3, "").is_ok_and(|answer| answer == "\"\"")
    });
    assert_eq!(ask(&client, 7, &json!(0)), "ok");
    let located = world.cluster.locator().locate_node(7, "node");
    assert_eq!(located.expect("is in memory"), None);
}

#[test]
fn jobs_of_a_user_run_in_order_off_the_reactor_and_their_results_come_back() {
    let world = Embedded::new(|node| {
        node.state(|_| Vec::<u64>::new()).route(1, |_, cx| {
            let n: u64 = cx.parse()?;
            let reactor = thread::current().id();
            cx.spawn_blocking(
                move || {
                    assert_ne!(thread::current().id(), reactor);
                    // Earlier ones take longer.
                    thread::sleep(Duration::from_millis(20 - 2 * n));
                    n
                },
                |seen: &mut Vec<u64>, cx, n| {
                    seen.push(n);
                    cx.respond(seen)
                },
            )
        })
    });
    let client = world.client();
    let (answer, answers) = mpsc::channel();
    for n in 0..10 {
        let answer = answer.clone();
        let asked = client.request_then(1, n.to_string(), move |_, reply| {
            let _ = answer.send(reply.map(<[u8]>::to_vec));
        });
        asked.expect("is sent");
    }
    let mut last = Vec::new();
    for _ in 0..10 {
        last = answers.recv_timeout(LONG).expect("comes").expect("is one");
    }
    assert_eq!(last, b"[0,1,2,3,4,5,6,7,8,9]");
}

#[test]
fn later_calls_run_in_their_order_and_with_the_state() {
    let world = Embedded::new(|node| {
        node.state(|_| Vec::<String>::new())
            .route(1, |log: &mut Vec<String>, cx| {
                cx.defer(|log: &mut Vec<String>, cx| {
                    log.push(format!("deferred {}", cx.route()));
                    Ok::<(), Error>(())
                })?;
                cx.after(Duration::from_millis(1), |log: &mut Vec<String>, cx| {
                    log.push("after".to_owned());
                    cx.respond(&log)
                })?;
                log.push("handler".to_owned());
                Ok::<(), Error>(())
            })
            .route(2, |_, cx| {
                let later = cx.later();
                thread::spawn(move || later.respond("from a thread"));
                Ok::<(), Error>(())
            })
            .route(3, |_, cx| {
                let wrong = cx.defer(|_: &mut String, _| Ok::<(), Error>(()));
                cx.respond(&wrong.expect_err("is refused").to_string())
            })
    });
    let client = world.client();
    let log = ask(&client, 1, &json!(0));
    assert_eq!(log, json!(["handler", "deferred 1", "after"]));
    assert_eq!(world.node.stats().timers, 0);
    assert_eq!(ask(&client, 2, &json!(0)), "from a thread");
    let refused = ask(&client, 3, &json!(0));
    let refused = refused.as_str().expect("is text");
    assert!(refused.contains("String is not the state"), "{refused}");
    // Without any client.
    let (_client, pushes) = listener(&world.gate);
    let later = world.node.later();
    eventually("the client is there", || {
        world.gate.stats().connections == 2
    });
    let called = later.run(|cx| cx.broadcast(Scope::Conn, PUSHED, "to all"));
    called.expect("is running");
    assert_eq!(next(&pushes), "to all");
    let called = later.run_with(|log: &mut Vec<String>, cx| {
        log.push("own".to_owned());
        let no_client: Result<(), Error> = cx.respond("?");
        assert!(no_client.is_err());
        Ok::<(), Error>(())
    });
    called.expect("is running");
    eventually("it has run", || {
        let log = ask(&client, 1, &json!(0));
        log.as_array()
            .is_some_and(|log| log.contains(&json!("own")))
    });
}

#[test]
fn what_a_node_delivers_to_one_without_the_route_is_counted_and_told_by_both() {
    let logs = logs();
    let seen = Arc::new(AtomicU64::new(0));
    let world = Embedded::new(|node| {
        node.route(1, |_, cx| {
            let to: String = cx.parse()?;
            let delivered = cx.deliver_to(&to, 77, 9, "").is_ok();
            cx.respond(&json!(delivered))
        })
    });
    let start = |id: &str| world.cluster.node().id(id).name("hall");
    let bare = start("node-without").route(21, |_: &mut (), _| Ok::<(), Error>(()));
    let bare = bare.start().expect("starts");
    let counter = seen.clone();
    let open = start("node-with").default_route(move |_: &mut (), _| {
        counter.fetch_add(1, Ordering::AcqRel);
        Ok::<(), Error>(())
    });
    let _open = open.start().expect("starts");
    let client = world.client();
    for to in ["node-without", "node-with"] {
        eventually("the node knows the other one", || {
            ask(&client, 1, &json!(to)) == json!(true)
        });
    }
    eventually("both have come", || {
        let unknown = bare.stats().unknown_routes;
        seen.load(Ordering::Acquire) == 1 && unknown == 1
    });
    eventually("it is told", || world.node.stats().packets_rejected == 1);
    let told = logs.with("the node node-without has no route 77");
    assert!(matches!(told[..], [(Level::Warn, _)]), "{told:?}");
    assert_eq!(logs.with("the node node-with has no route"), []);
}

#[test]
fn nodes_deliver_to_a_route_to_a_node_and_to_themselves() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let world = Embedded::new(|node| {
        node.route(1, |_, cx| {
            // The node may not know the other one yet.
            let by_route = cx.deliver(21, 0, "by route").is_ok();
            let by_id = cx.deliver_to("node-2", 21, 9, "by id").is_ok();
            cx.deliver(22, 0, "to itself")?;
            cx.deliver_here(22, 5, "here")?;
            let unknown: Result<(), Error> = cx.deliver(99, 0, "");
            let nobody: Result<(), Error> = cx.deliver_to("node-9", 21, 0, "");
            cx.respond(&json!([by_route, by_id, unknown.is_err(), nobody.is_err()]))
        })
        .route_with(22, RouteFlag::Internal, move |_, cx| {
            let text: String = cx.parse()?;
            log.lock().push((cx.nid().to_owned(), cx.uid(), text));
            Ok::<(), Error>(())
        })
    });
    let log = seen.clone();
    let hall = world.cluster.node().id("node-2").name("hall");
    let hall = hall.route_with(21, RouteFlag::Internal, move |_, cx| {
        let text: String = cx.parse()?;
        log.lock().push((cx.nid().to_owned(), cx.uid(), text));
        // There is no client to answer.
        assert!(cx.respond("").is_err());
        Ok::<(), Error>(())
    });
    let _hall = hall.start().expect("starts");
    let client = world.client();
    eventually("the node knows the other one", || {
        ask(&client, 1, &json!(0)) == json!([true, true, true, true]) && !seen.lock().is_empty()
    });
    let count = |wanted: (&str, i64, &str)| {
        let seen = seen.lock();
        let matching = seen
            .iter()
            .filter(|(nid, uid, text)| (&**nid, *uid, &**text) == wanted);
        matching.count()
    };
    eventually("all have come", || {
        count(("node-1", 0, "by route")) > 0
            && count(("node-1", 9, "by id")) > 0
            && count(("node-1", 0, "to itself")) > 0
            && count(("node-1", 5, "here")) > 0
    });
}

#[test]
fn hooks_and_values_go_along_with_a_packet() {
    struct Name(&'static str);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let world = Embedded::new(|node| {
        node.before(|_, cx| {
            cx.set(Name("first"));
            cx.set(Name("second"));
            match cx.data() {
                b"\"no\"" => Err("not this one"),
                _ => Ok(()),
            }
        })
        .after(move |_, cx, result| {
            log.lock().push((cx.route(), result.is_ok()));
        })
        .route(1, |_, cx| {
            let name = cx.get().map(|Name(name)| *name);
            assert!(cx.get::<i32>().is_none());
            cx.respond(&name)
        })
        .route(2, |_, _| Err::<(), HandlerError>("a failure".into()))
    });
    let client = world.client();
    client.push(2, "").expect("is sent");
    client.push(1, "\"no\"").expect("is sent");
    assert_eq!(ask(&client, 1, &json!(0)), "second");
    // A packet that a hook before has stopped does not come to the hook after it.
    assert_eq!(*seen.lock(), [(2, false), (1, true)]);
}

#[test]
fn when_a_gate_is_lost_its_connections_end() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let lost = seen.clone();
    let world = Embedded::new(|node| {
        with_login(node)
            .event(Event::Disconnect, move |_, cx| {
                log.lock().push((cx.gid().to_owned(), cx.uid()));
                Ok::<(), Error>(())
            })
            .on_gate_lost(move |_, cx| {
                lost.lock().push((cx.gid().to_owned(), -1));
                Ok::<(), Error>(())
            })
    });
    // A gate of due, which dies without a word.
    let mut gate = crate::node::Dialler::dial(&world.node, epicycle::cluster::Kind::Gate, "gate-9");
    for cid in 1..=3 {
        let connect = epicycle::cluster::drpc::Request::Trigger {
            event: 1,
            cid,
            uid: 0,
        };
        gate.call(&connect);
    }
    for (event, cid, uid) in [(2, 2, 8), (3, 3, 0)] {
        gate.call(&epicycle::cluster::drpc::Request::Trigger { event, cid, uid });
    }
    assert_eq!(*seen.lock(), [("gate-9".to_owned(), 0)]);
    let client = world.client();
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
    drop(gate);
    eventually("all have ended", || seen.lock().len() == 4);
    let mut seen = seen.lock().clone();
    assert_eq!(seen[1], ("gate-9".to_owned(), -1), "it is told first");
    seen[2..].sort_unstable();
    let of = |uid| ("gate-9".to_owned(), uid);
    assert_eq!(seen[2..], [of(0), of(8)]);
    assert_eq!(world.node.stats().gates_lost, 1);
    assert_eq!(ask(&client, 2, &json!(7)), "ok");
}

#[test]
fn a_bind_that_a_gate_refuses_tells_the_user_the_gate_and_what_to_do() {
    let cluster = Cluster::embedded();
    let node = cluster.node().route(1, |_, cx| {
        cx.bind_gate(7, |_: &mut (), cx, bound| {
            let told = bound.map_or_else(|error| error.to_string(), |()| "bound".to_owned());
            cx.respond(&told)
        })
    });
    let _node = node.start().expect("starts");
    let gate = cluster.gate().id("gate-of-one");
    let gate = gate.duplicate_login(DuplicateLogin::Refuse);
    let gate = gate.listen("tcp://127.0.0.1:0").start().expect("starts");
    let addr = gate.client_addrs()[0].to_string();
    let login = || {
        let client = Client::builder().connect(&addr).expect("connects");
        let told = client.request(1, "").expect("is answered");
        (client, String::from_utf8(told.to_vec()).expect("is text"))
    };
    let (_first, bound) = login();
    assert_eq!(bound, "\"bound\"");
    let (_second, refused) = login();
    for part in ["user 7", "gate-of-one", "DuplicateLogin::Refuse", "its log"] {
        assert!(refused.contains(part), "{refused}");
    }
}
