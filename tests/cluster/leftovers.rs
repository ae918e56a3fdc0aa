//! Gates and nodes that end leave nothing behind in their process.

use std::fs;
use std::time::Duration;

use epicycle::cluster::client::Client;
use epicycle::cluster::gate::Gate;
use epicycle::cluster::locator::Locator;
use epicycle::cluster::node::{Node, RouteFlag};
use epicycle::cluster::registry::Registry;
use epicycle::cluster::{Cluster, Error, Event};
use serde_json::json;

use crate::node::ask;
use crate::node_verbs::with_login;
use crate::util::eventually;
use crate::util::process::{alone, descriptors, pipe_descriptors, timer_descriptors};

/// The gates that are started and stopped, and as many nodes.
const ROUNDS: i64 = 100;

/// Returns the number of threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn start(cluster: &Cluster) -> (Node, Gate) {
    let node = with_login(cluster.node().reactors(2))
        .route(3, |_: &mut (), cx| {
            cx.subscribe("all")?;
            cx.respond("in")
        })
        .route_with(4, RouteFlag::Stateful, |_, cx| {
            cx.unbind_node(cx.uid(), |_: &mut (), cx, unbound| {
                unbound?;
                cx.respond("gone")
            })
        })
        .event(Event::Disconnect, |_, _| Ok::<(), Error>(()));
    let node = node.start().expect("starts");
    let gate = cluster.gate().listen("tcp://127.0.0.1:0");
    (node, gate.start().expect("starts"))
}

/// A client that has a user at a gate, was bound to a node, and is a member of a channel.
fn play(gate: &Gate, uid: i64) -> Client {
    let client = Client::builder().call_timeout(Duration::from_secs(1));
    let client = client.connect(gate.client_addrs()[0].to_string());
    let client = client.expect("connects");
    for (route, answer) in [(2, "ok"), (6, "ok"), (3, "in")] {
        assert_eq!(ask(&client, route, &json!(uid)), answer);
    }
    eventually("the gate knows of the bind", || {
        client
            .request(4, "")
            .is_ok_and(|answer| answer == r#""gone""#)
    });
    client
}

#[test]
fn gates_and_nodes_that_have_ended_leave_nothing_behind_in_their_process() {
    let this = "leftovers::gates_and_nodes_that_have_ended_leave_nothing_behind_in_their_process";
    alone(this, || {
        let cluster = Cluster::embedded();
        // They know all the others.
        let (node, gate) = start(&cluster);
        let stays = play(&gate, 1);
        let round = |number: i64| {
            let (node, gate) = start(&cluster);
            let client = play(&gate, number + 1);
            // It may go to the other node, and get lost with that.
            stays.push(3, "1").expect("is sent");
            match number % 3 {
                0 => drop(client),
                _ => client.push(3, "1").expect("is sent"),
            }
            match number % 2 {
                0 => drop((node, gate)),
                _ => drop((gate, node)),
            }
        };
        round(ROUNDS + 1);
        let left = || {
            let links = [node.stats().links, gate.stats().links];
            let records = ["gate", "node", "mesh"].map(|name| {
                cluster
                    .registry()
                    .services(name)
                    .map_or(0, |list| list.len())
            });
            // Both tell the number of their watches, and forget those that have ended at the next one.
            let watches = (cluster.registry().watch("node"), cluster.locator().watch());
            assert!(watches.0.is_ok() && watches.1.is_ok());
            let tables = format!("{:?} {:?}", cluster.registry(), cluster.locator());
            // A reactor makes the others when it needs them, and keeps them.
            let descriptors = descriptors() - timer_descriptors() - pipe_descriptors();
            ([descriptors, threads()], (links, records, tables))
        };
        let mut before = left();
        eventually("nothing changes any more", || {
            let last = std::mem::replace(&mut before, left());
            before == last && before.1.1 == [1, 1, 0]
        });
        (1..=ROUNDS).for_each(round);
        let mut after = left();
        eventually(&format!("{before:?} is left, and not {after:?}"), || {
            after = left();
            // A thread may have been about to end before.
            let are_no_more = after
                .0
                .iter()
                .zip(before.0)
                .all(|(after, before)| *after <= before);
            are_no_more && after.1 == before.1
        });
        for uid in 2..=ROUNDS + 2 {
            let at = cluster.locator().locate_gate(uid);
            assert_eq!(at.expect("is in memory"), None);
        }
        let stats = gate.stats();
        assert_eq!(
            (stats.connections, stats.users, stats.kept_bytes),
            (1, 1, 0)
        );
        assert_eq!(ask(&stays, 3, &json!(1)), "in");
    });
}
