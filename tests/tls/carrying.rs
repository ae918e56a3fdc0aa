//! Files and other connections as output, over TLS.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::thread;

use epicycle::{Action, CloseReason, ConnId, Running};

use crate::peer::Peer;
use crate::pki::{local, server_tls};
use crate::util::app::{App, Log, start};
use crate::util::client::{TempPath, shrink};
use crate::util::noise;

const MIB: usize = 1 << 20;

#[test]
fn a_file_goes_out_in_order_with_other_writes() {
    let content = noise(1, 6 * MIB);
    let path = TempPath::new();
    std::fs::write(&path.0, &content).expect("is written");
    let file = Arc::new(File::open(&path.0).expect("is there"));
    let (running, log) = start(local(&server_tls()), move |app| {
        let file = file.clone();
        app.on_open(|conn| {
            shrink(conn);
            true
        })
        .react(move |conn, _, _| {
            conn.write(b"head").expect("taken");
            conn.send_file(file.clone(), 5..5 * MIB as u64)
                .expect("taken");
            conn.write(b"middle").expect("taken");
            conn.send_file(file.clone(), ..10).expect("taken");
            conn.write(b"tail").expect("taken");
            Action::Close
        })
    });
    let peer = Peer::to(&running);
    peer.send("get");
    let expected = [
        b"head",
        &content[5..5 * MIB],
        b"middle",
        &content[..10],
        b"tail",
    ]
    .concat();
    assert!(peer.recv_to_end().expect("ends well") == expected);
    peer.close_notify();
    let (closed, _) = log.await_close(0);
    assert_eq!(
        (closed.bytes_out as usize, closed.unsent),
        (expected.len(), 0)
    );
}

/// A server that joins every second connection with the one before it.
fn joining() -> (Running<App>, Arc<Log>) {
    let waiting = Arc::<Mutex<Option<ConnId>>>::default();
    start(local(&server_tls()), move |app| {
        let waiting = waiting.clone();
        app.on_open(move |conn| {
            let mut waiting = waiting.lock().expect("no panics");
            match waiting.take() {
                Some(other) => conn.pipe(other).expect("both are open"),
                None => *waiting = Some(conn.id()),
            }
            true
        })
    })
}

#[test]
fn two_tls_connections_are_joined() {
    let (running, log) = joining();
    let (one, other) = (Peer::to(&running), Peer::to(&running));
    let (there, back) = (noise(2, 4 * MIB), noise(3, 3 * MIB));
    thread::scope(|scope| {
        scope.spawn(|| {
            one.send(&there);
            one.close_notify();
        });
        scope.spawn(|| other.send(&back));
        scope.spawn(|| assert!(one.recv(back.len()) == back));
        // The clean end is passed on as one, the other direction stays.
        assert!(other.recv_to_end().expect("ends well") == there);
    });
    other.send("still open");
    assert_eq!(one.recv(10), b"still open");
    other.close_notify();
    assert_eq!(one.recv_to_end().expect("ends well"), b"");
    for n in 0..2 {
        let (_, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Peer), "{reason}");
    }
}

#[test]
fn a_stream_cut_short_is_not_passed_on_as_whole() {
    let (running, log) = joining();
    let (one, other) = (Peer::to(&running), Peer::to(&running));
    one.send("only the beg");
    assert_eq!(other.recv(12), b"only the beg");
    one.client.end_writes();
    other.recv_to_end().expect_err("is no clean end");
    drop(one);
    let (_, reason) = log.await_close(0);
    let (_, reason_too) = log.await_close(1);
    let truncated = |reason: &CloseReason| matches!(reason, CloseReason::Truncated);
    assert!(
        truncated(&reason) != truncated(&reason_too),
        "{reason}, {reason_too}"
    );
}
