//! TLS connections joined with plain ones, and with each other.

use std::sync::Arc;
use std::thread;

use epicycle::{CloseReason, Listen, Server};

use crate::peer::Peer;
use crate::pki::server_tls;
use crate::util::app::{App, Log, start};
use crate::util::client::Client;
use crate::util::{await_some, noise};

/// A server with a TLS port and a plain one that joins each connection with the one before.
fn pairs() -> (epicycle::Running<App>, Arc<Log>) {
    let tls = server_tls();
    let server = Server::bind(Listen::on("tcp://127.0.0.1:0").tls(&tls)).and("tcp://127.0.0.1:0");
    start(server.reactors(1), |app| {
        let mut first = None;
        app.on_open(move |conn| {
            match first.take() {
                None => first = Some(conn.id()),
                Some(other) => conn.pipe(other).expect("joins"),
            }
            true
        })
    })
}

fn plain(running: &epicycle::Running<App>) -> Client {
    Client::connect(&running.local_addrs()[1])
}

/// Why the connections ended, in the order they were opened.
fn reasons(log: &Log) -> Vec<Arc<CloseReason>> {
    let ends = [0, 1].map(|n| log.await_close(n));
    let of = |id| ends.iter().find(|(closed, _)| closed.id == id);
    let ids = log.ids();
    ids.iter()
        .filter_map(|id| of(*id).map(|(_, reason)| reason.clone()))
        .collect()
}

#[test]
fn a_tls_connection_and_a_plain_one_are_joined() {
    let (running, log) = pairs();
    let one = Peer::to(&running);
    log.await_open(0);
    let other = plain(&running);
    log.await_open(1);
    let (there, back) = (noise(1, 8 << 20), noise(2, 8 << 20));
    thread::scope(|scope| {
        scope.spawn(|| one.send(&there));
        scope.spawn(|| other.send(&back));
        scope.spawn(|| assert!(other.recv(there.len()) == there, "differs on the way there"));
        assert!(one.recv(back.len()) == back, "differs on the way back");
    });
    // Each end is passed on in the other's way.
    one.close_notify();
    one.client.end_writes();
    assert_eq!(other.recv_to_end(), b"");
    other.send("more");
    other.end_writes();
    assert_eq!(one.recv_to_end().expect("ends properly"), b"more");
    for reason in reasons(&log) {
        assert!(matches!(*reason, CloseReason::Peer), "{reason}");
    }
}

#[test]
fn two_tls_connections_are_joined() {
    let (running, log) = pairs();
    let one = Peer::to(&running);
    log.await_open(0);
    let other = Peer::to(&running);
    log.await_open(1);
    let (there, back) = (noise(3, 4 << 20), noise(4, 4 << 20));
    thread::scope(|scope| {
        scope.spawn(|| one.send(&there));
        scope.spawn(|| other.send(&back));
        scope.spawn(|| assert!(other.recv(there.len()) == there, "differs on the way there"));
        assert!(one.recv(back.len()) == back, "differs on the way back");
    });
}

#[test]
fn a_tls_stream_that_is_cut_short_is_not_passed_on_as_a_whole_one() {
    let (running, log) = pairs();
    let one = Peer::to(&running);
    log.await_open(0);
    let other = plain(&running);
    log.await_open(1);
    one.send("half a sent");
    assert_eq!(other.recv(11), b"half a sent");
    one.client.end_writes();
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    drop(one);
    let reasons = reasons(&log);
    assert!(matches!(*reasons[0], CloseReason::Truncated), "{reasons:?}");
    assert!(matches!(*reasons[1], CloseReason::Pipe), "{reasons:?}");
}

#[test]
fn a_slow_tls_end_is_waited_for() {
    let (running, log) = pairs();
    let one = Peer::to(&running);
    log.await_open(0);
    let other = plain(&running);
    log.await_open(1);
    let bytes = noise(5, 16 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            other.send(&bytes);
            other.end_writes();
        });
        let total = || running.engine().stats().total();
        let mut last = 0;
        await_some("nothing moves", || {
            let before = std::mem::replace(&mut last, total().bytes_in);
            thread::sleep(std::time::Duration::from_millis(20));
            (before > 0 && before == total().bytes_in).then_some(())
        });
        assert!(total().buffered <= 1 << 20);
        assert!(one.recv(bytes.len()) == bytes, "differs");
        assert_eq!(one.recv_to_end().expect("ends properly"), b"");
    });
}
