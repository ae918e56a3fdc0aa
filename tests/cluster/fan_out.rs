//! Packets to many clients, and many packets to one link, when some of those who should read do not.

use std::fs;
use std::sync::mpsc;

use epicycle::cluster::drpc::{Request, Scope};
use epicycle::cluster::gate::SlowClient;
use parking_lot::Mutex;
use serde_json::json;

use crate::gate::World;
use crate::node::{Embedded, ask};
use crate::rig::{Wire, conn, packet};
use crate::util::{LONG, eventually};

fn broadcast(packet: &[u8]) -> Request<'_> {
    Request::Broadcast {
        scope: Scope::Conn,
        disconnect: false,
        packet,
    }
}

/// Returns the most bytes that the kernel may hold of a connection: in the buffers of both ends.
fn held_by_kernel() -> usize {
    let longest = |name| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        let text = fs::read_to_string(path).expect("is Linux");
        let longest = text.split_whitespace().last().expect("has three numbers");
        longest.parse::<usize>().expect("is a number")
    };
    longest("tcp_rmem") + longest("tcp_wmem")
}

fn data(number: usize) -> String {
    format!("{number:08}{}", "x".repeat(4900))
}

#[test]
fn a_broadcast_keeps_no_more_for_a_client_that_does_not_read_than_its_limit_and_delays_no_other() {
    const LIMIT: usize = 256 << 10;
    const DEAF: usize = 3;
    let world = World::with(|gate| gate.outbound_limit(LIMIT, SlowClient::Drop));
    let mut deaf: Vec<Wire> = (0..DEAF).map(|_| world.client()).collect();
    let mut reader = world.client();
    let connected = || world.gate.stats().connections == DEAF as u64 + 1;
    eventually("all are there", connected);
    let mut link = world.link();
    let size = packet(100, 0, &data(0)).len();
    let most = (held_by_kernel() + LIMIT) / size + 1;
    for number in 0..most + 100 {
        let news = packet(100, 0, &data(number));
        assert!(link.total(&broadcast(&news)) <= DEAF as u64 + 1);
        reader.expect(&news);
    }
    assert!(connected());
    let dropped = world.gate.stats().pushes_dropped;
    assert!(dropped >= 100 * DEAF as u64, "{dropped} were dropped");
    for wire in &mut deaf {
        // The packets that were taken are whole and in order. The last one is told by what follows it.
        wire.send(b"\0\0\0\x01\x80");
        let mut numbers = Vec::new();
        loop {
            let bytes = wire.next().expect("is open");
            if bytes.len() < size {
                break;
            }
            let number = String::from_utf8_lossy(&bytes[9..17]).into_owned();
            numbers.push(number.parse::<usize>().expect("is a number"));
        }
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!(
            numbers.len() <= most,
            "{} are more than {most}",
            numbers.len()
        );
    }
}

#[test]
fn pushes_and_broadcasts_of_one_turn_keep_their_order_also_behind_what_the_kernel_has_refused() {
    const NUMBERS: usize = 400;
    let world = World::with(|gate| gate.outbound_limit(64 << 20, SlowClient::Close));
    let (mut client, cid) = world.known_client("me");
    let mut link = world.link();
    for round in 0..20 {
        let mut frames = Vec::new();
        for number in 0..NUMBERS {
            let packet = packet(100, 0, &data(round * NUMBERS + number));
            let push = Request::Push {
                target: conn(cid),
                disconnect: false,
                packet: &packet,
            };
            let request = if number % 3 == 0 {
                push
            } else {
                broadcast(&packet)
            };
            request.encode_into(0, &mut frames).expect("is sound");
        }
        link.wire.send(frames);
    }
    let pushed = || world.gate.stats().pushed == 20 * NUMBERS as u64;
    eventually("all are taken", pushed);
    for number in 0..20 * NUMBERS {
        client.expect(packet(100, 0, &data(number)));
    }
}

#[test]
fn what_a_node_has_to_send_leaves_before_its_turn_ends_if_it_is_long() {
    const PUSHES: usize = 100;
    let (has_come, came) = mpsc::channel();
    let came = Mutex::new(came);
    let world = Embedded::new(|node| {
        node.route(1, |(), cx| {
            (0..PUSHES).try_for_each(|number| cx.push(50, &data(number)))
        })
        .route(2, |(), cx| cx.respond("linked"))
        .route(3, move |(), cx| {
            let is_in_time = came.lock().recv_timeout(LONG).is_ok();
            cx.respond(&is_in_time)
        })
    });
    assert_eq!(ask(&world.client(), 2, &json!(null)), "linked");
    let mut client = Wire::connect(&world.gate.client_addrs()[0]);
    // The node gets both in one turn, since they come in one write.
    client.send([packet(1, 0, "null"), packet(3, 7, "null")].concat());
    for number in 0..PUSHES {
        let pushed = client.next().expect("is open");
        assert_eq!(pushed[10..18], data(number).as_bytes()[..8]);
        if number == 0 {
            has_come.send(()).expect("the node is there");
        }
    }
    client.expect(packet(3, 7, "true"));
}
