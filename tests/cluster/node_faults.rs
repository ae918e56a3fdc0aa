//! Faults of an application, and the verbs that any thread has.

use std::fmt;
use std::sync::mpsc::channel;
use std::time::Duration;

use epicycle::cluster::drpc::{Hello, NONCE, Request as Asked, Scope, Target, VERSION};
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::{Next, Request, RouteFlag};
use epicycle::cluster::{Error, Event, Kind};
use serde_json::json;

use crate::node::{Dialler, Embedded, ask};
use crate::node_verbs::{PUSHED, listener, next, with_login};
use crate::rig::packet;
use crate::util::{LONG, eventually, expect_panics};

/// A value that panics when it is dropped, and an error that panics when it is shown.
#[derive(Debug)]
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        // A panic while another one unwinds ends the process.
        assert!(std::thread::panicking(), "on purpose");
    }
}

#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("on purpose")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn an_error_that_cannot_be_shown_and_a_value_that_cannot_be_dropped_cost_their_packet_alone() {
    expect_panics();
    let world = Embedded::new(|node| {
        node.middleware(|_, cx, next: Next<'_, ()>| {
            if cx.route() == 8 {
                cx.set(Mine);
            }
            next.run(&mut (), cx)
        })
        .route(7, |_, _| Err::<(), _>(Unspeakable))
        .route(8, |_, _| Ok::<(), Error>(()))
        .route(9, |_, cx| cx.respond("fine"))
    });
    let client = world.client();
    for route in [7, 8] {
        client.push(route, "").expect("is sent");
    }
    assert_eq!(ask(&client, 9, &json!(0)), "fine");
    let stats = world.node.stats();
    assert_eq!((stats.handler_panics, stats.links), (2, 1));
}

#[test]
fn a_node_counts_what_other_nodes_reject() {
    let world = Embedded::new(|node| {
        node.route(7, |_, cx| {
            // The node may not know the other one yet.
            let sent = cx.deliver_to("node-2", 3, 7, "x").is_ok();
            cx.respond(&sent)
        })
    });
    let other = world.cluster.node().id("node-2").name("other");
    let other = other.route_with(3, RouteFlag::Stateful, |_, _| Ok::<(), Error>(()));
    let other = other.start().expect("starts");
    let client = world.client();
    eventually("the node knows the other one", || {
        ask(&client, 7, &json!(0)) == json!(true)
    });
    eventually("it is counted", || world.node.stats().packets_rejected == 1);
    assert_eq!(other.stats().packets_refused, 1);
}

#[test]
fn any_thread_can_do_what_a_handler_can_do() {
    let (sender, laters) = channel();
    let world = Embedded::new(|node| {
        node.route(7, move |_, cx| {
            let _ = sender.send(cx.later());
            Ok::<(), Error>(())
        })
        .route_with(8, RouteFlag::Internal, |_, cx| {
            let text: String = cx.parse()?;
            cx.push_to(Target::user(cx.uid()), PUSHED, &text)
        })
    });
    let (client, pushes) = listener(&world.gate);
    client.push(7, "").expect("is sent");
    let later = laters.recv_timeout(LONG).expect("comes");
    let bound = later.clone();
    let asked = later.bind_gate(7, move |_: &mut (), _, result: Result<(), Error>| {
        result?;
        bound.push(PUSHED, "bound")
    });
    asked.expect("has room");
    assert_eq!(next(&pushes), "bound");
    let sent = later
        .push_to(Target::user(7), PUSHED, "to the user")
        .and_then(|()| later.multicast(Scope::User, &[7], PUSHED, "to some"))
        .and_then(|()| later.broadcast(Scope::Conn, PUSHED, "to all"))
        .and_then(|()| later.subscribe("news"))
        .and_then(|()| later.publish("news", PUSHED, "to members"))
        .and_then(|()| later.unsubscribe("news"))
        .and_then(|()| later.publish("news", PUSHED, "to nobody"))
        .and_then(|()| later.deliver_to("node-1", 8, 7, "by itself"))
        .and_then(|()| later.deliver(8, 7, "by its route"));
    sent.expect("has room");
    // A packet for all does not wait for the location of one user.
    let mut got: Vec<_> = (0..6).map(|_| next(&pushes).to_string()).collect();
    got.sort_unstable();
    let wanted = [
        r#""by its route""#,
        r#""by itself""#,
        r#""to all""#,
        r#""to members""#,
        r#""to some""#,
        r#""to the user""#,
    ];
    assert_eq!(got, wanted);
    later.disconnect(false).expect("has room");
    eventually("it is closed", || world.gate.stats().connections == 0);
}

#[test]
fn a_node_can_have_the_number_of_clients_that_got_a_packet() {
    let world = Embedded::new(|node| {
        with_login(node).route(7, |_, cx| {
            let cid = cx.cid();
            cx.subscribe("news")?;
            cx.multicast_counted(
                Scope::User,
                &[7, 8, 9, 7],
                PUSHED,
                &1,
                |_: &mut (), cx, n| cx.push(PUSHED, &format!("{} users", n?)),
            )?;
            cx.multicast_counted(Scope::Conn, &[cid, -1], PUSHED, &2, |_: &mut (), cx, n| {
                cx.push(PUSHED, &format!("{} connections", n?))
            })?;
            cx.broadcast_counted(Scope::Conn, PUSHED, &3, |_: &mut (), cx, n| {
                cx.push(PUSHED, &format!("{} of all", n?))
            })?;
            cx.publish_counted("news", PUSHED, &4, |_: &mut (), cx, n| {
                cx.push(PUSHED, &format!("{} members", n?))
            })
        })
    });
    let (seven, pushes) = listener(&world.gate);
    let eight = world.client();
    assert_eq!(ask(&seven, 2, &json!(7)), "ok");
    assert_eq!(ask(&eight, 2, &json!(8)), "ok");
    seven.push(7, "").expect("is sent");
    let mut got: Vec<String> = (0..8).map(|_| next(&pushes).to_string()).collect();
    got.sort_unstable();
    let wanted = [
        r#""1 connections""#,
        r#""1 members""#,
        r#""2 of all""#,
        r#""2 users""#,
        "1",
        "2",
        "3",
        "4",
    ];
    assert_eq!(got, wanted);
}

#[test]
fn a_drain_waits_for_the_jobs_of_packets_that_came_after_bye() {
    let (sender, done) = channel();
    let world = Embedded::new(|node| {
        node.route(7, move |_, cx| {
            let sender = sender.clone();
            // Longer than the time in which nothing comes at the end.
            let job = || std::thread::sleep(Duration::from_secs(3));
            cx.spawn_blocking(job, move |_: &mut (), _, ()| {
                let _ = sender.send(());
                Ok::<(), Error>(())
            })
        })
    });
    let Embedded {
        cluster,
        gate,
        node,
    } = world;
    drop(gate);
    let mut gate = Dialler::dial(&node, Kind::Gate, "gate-9");
    let (version, features, nonce) = (VERSION, 0, [1; NONCE]);
    gate.call(&Asked::Hello(Hello {
        version,
        features,
        nonce,
    }));
    let draining = std::thread::spawn(move || node.drain(Duration::from_secs(20)));
    let bye = gate.wire.next();
    let mut bye = bye.expect("is told");
    let frame = crate::rig::frame_of(&mut bye).expect("is no heartbeat");
    assert_eq!(frame.op, Asked::Bye.op().code());
    let packet = packet(7, 0, "x");
    let (cid, uid, packet) = (1, 0, &packet);
    gate.send(0, &Asked::Deliver { cid, uid, packet });
    draining.join().expect("ends");
    assert_eq!(done.try_recv(), Ok(()), "its result was told");
    drop(cluster);
}

#[test]
fn a_panic_anywhere_in_an_application_costs_what_it_was_called_for_alone() {
    type Done = Result<(), Error>;
    expect_panics();
    let world = Embedded::new(|node| {
        with_login(node)
            .group(|group| {
                let middleware = |(): &mut (), _: &mut Request<'_>, _: Next<'_, ()>| -> Done {
                    panic!("on purpose in a middleware")
                };
                group.middleware(middleware).route(20, |_, _| Done::Ok(()))
            })
            .group(|group| {
                let before = |_: &mut (), _: &mut Request<'_>| -> Done {
                    panic!("on purpose in a hook before")
                };
                group.before(before).route(21, |_, _| Done::Ok(()))
            })
            .group(|group| {
                group
                    .after(|_, _, _| panic!("on purpose in a hook behind"))
                    .route(22, |_, _| Done::Ok(()))
            })
            .route(23, |_, cx| {
                cx.defer(|_: &mut (), _| -> Done { panic!("on purpose at the end of a turn") })
            })
            .route(24, |_, cx| {
                let late =
                    |_: &mut (), _: &mut Request<'_>| -> Done { panic!("on purpose in a timer") };
                cx.after(Duration::ZERO, late)
            })
            .route(25, |_, cx| {
                let then = |_: &mut (), _: &mut Request<'_>, ()| -> Done {
                    panic!("on purpose after a job")
                };
                cx.spawn_blocking(|| (), then)
            })
            .route(26, |_, cx| {
                let then = |_: &mut (), _: &mut Request<'_>, _| -> Done {
                    panic!("on purpose after a bind")
                };
                cx.bind_gate(7, then)
            })
            .route(27, |_, cx| {
                cx.later()
                    .run(|_| -> Done { panic!("on purpose by another thread") })
            })
            .route(28, |_, cx| {
                let job = || -> () { panic!("on purpose in a job") };
                cx.spawn_blocking(job, |_: &mut (), _, ()| -> Done {
                    panic!("nobody calls it")
                })
            })
            .event(Event::Connect, |_, _| -> Done {
                panic!("on purpose in an event")
            })
            .on_handover(|_, _| -> Done { panic!("on purpose at the end") })
            .route(9, |_, cx| cx.respond("fine"))
    });
    let client = world.client();
    for route in 20..=28 {
        client.push(route, "").expect("is sent");
    }
    eventually("all have panicked", || {
        world.node.stats().handler_panics == 9
    });
    assert_eq!(ask(&client, 9, &json!(0)), "fine");
    assert_eq!(world.node.stats().links, 1);
    assert_eq!(ask(&client, 6, &json!(0)), "ok");
    // It waits neither for the job nor for the user.
    let Embedded {
        cluster,
        gate,
        node,
    } = world;
    node.drain(Duration::from_secs(3600));
    let located = cluster.locator().locate_node(7, "node");
    assert_eq!(located.expect("is in memory"), None);
    drop(gate);
}

#[test]
fn ten_thousand_targets_of_a_multicast_are_reached_once_each() {
    let world = Embedded::new(|node| {
        with_login(node).route(7, |_, cx| {
            let users: Vec<i64> = (1..=10_000).collect();
            cx.multicast(Scope::User, &users, PUSHED, "news")?;
            let then = |_: &mut (), cx: &mut Request<'_>, count| cx.respond(&count?);
            cx.multicast_counted(Scope::User, &users, PUSHED, "more", then)
        })
    });
    let clients = [1, 5_000, 10_000, 10_001].map(|uid| {
        let (client, pushes) = listener(&world.gate);
        assert_eq!(ask(&client, 2, &json!(uid)), "ok");
        (client, pushes)
    });
    let [.., (stranger, _)] = &clients;
    assert_eq!(ask(stranger, 7, &json!(0)), 3);
    for (_, pushes) in &clients[..3] {
        assert_eq!((next(pushes), next(pushes)), (json!("news"), json!("more")));
    }
    for (client, pushes) in clients {
        drop(client);
        assert!(pushes.iter().next().is_none(), "a packet comes twice");
    }
}
