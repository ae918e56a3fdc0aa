//! Output that is full, because the other side does not read.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;

use epicycle::rpc::wire::{Kind, Raw};
use epicycle::rpc::{Peer, PeerBuilder, Receiver, Responder, Router, Session};
use parking_lot::Mutex;

use crate::ends::start;
use crate::streams::ByHand;
use crate::util::{LONG, eventually};

/// A peer with this limit of output, its session, and the other side, which reads only what it is told to.
fn stuck(limit: usize, builder: PeerBuilder) -> (Peer, Session, ByHand) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let client = start(builder.server(move |server| {
        server
            .outbound_limit(limit)
            .high_water(1 << 20)
            .low_water(1 << 10)
    }));
    let addr = format!("tcp://{}", listener.local_addr().expect("is bound"));
    let session = client.dial(&*addr).expect("connects");
    let peer = ByHand::of(listener.accept().expect("accepts").0);
    (client, session, peer)
}

/// Waits until everything that was sent so far is in the output. Returns the bytes that wait there.
fn waiting(session: &Session) -> usize {
    let (tell, told) = mpsc::channel();
    session
        .with_conn(move |conn| tell.send(conn.bytes_waiting).expect("is heard"))
        .expect("is open");
    told.recv_timeout(LONG).expect("is told")
}

/// Sends pushes of this length until `enough` is true.
fn flood(session: &Session, len: usize, mut enough: impl FnMut() -> bool) {
    let block = Raw(vec![b'x'; len].into());
    for _ in 0..100_000 {
        session.push("/b", &block).expect("is sent");
        // The kernel has been offered them then.
        waiting(session);
        if enough() {
            return;
        }
    }
    panic!("the output is never full");
}

/// Fills the output until not even an empty push has room.
fn fill(client: &Peer, session: &Session) {
    let dropped = || client.stats().peer.dropped_pushes;
    flood(session, 64 << 10, || dropped() > 0);
    let before = dropped();
    flood(session, 0, || dropped() > before);
}

#[test]
fn what_ends_calls_and_streams_is_sent_when_full_output_has_room_again() {
    let streams = Arc::new(Mutex::new(Vec::new()));
    let mut routes = Router::new();
    let kept = streams.clone();
    routes.stream(
        "/takes",
        move |_ctx, _: u64, ends: (Receiver<u64>, Responder<u64>)| kept.lock().push(ends),
    );
    let (client, session, mut peer) = stuck(2 << 20, Peer::builder().routes(routes));
    let call = session.call::<_, u64>("/slow", &1).send();
    let rx: Receiver<u64> = session.stream("/unwanted", &1).receive();
    let mut wanted: Receiver<u64> = session.stream("/wanted", &1).credit(2).receive();
    peer.hears(&[
        "CALL /slow X-Timeout=30000 1",
        "CALL /unwanted X-Stream=64 1",
        "CALL /wanted X-Stream=2 1",
    ]);
    peer.say(Kind::Reply, "1", "", "X-Stream=0", "");
    peer.say(Kind::Reply, "2", "", "X-Stream=0", "");
    peer.open("/takes", "2", "1");
    peer.hears(&["REPLY  X-Stream=64 "]);
    fill(&client, &session);

    call.cancel();
    drop(rx);
    for _ in 0..2 {
        let meta = "X-Stream-Id=2&X-Stream-By=acceptor";
        peer.say(Kind::Push, "", "/_/item", meta, "7");
    }
    for _ in 0..2 {
        assert_eq!(wanted.wait_next(), Some(Ok(7)));
    }
    peer.push("/_/credit", "opener", "0");
    eventually("the fault is seen", || {
        client.stats().peer.stream_violations == 1
    });
    waiting(&session);

    let mut expected = vec![
        "PUSH /_/cancel  0",
        "PUSH /_/cancel  1",
        "PUSH /_/credit X-Stream-Id=2&X-Stream-By=opener 2",
    ];
    let end = "PUSH /_/end X-Stream-Id=s&X-Stream-By=acceptor&X-Reply-Error=";
    let mut has_end = false;
    while !(expected.is_empty() && has_end) {
        let heard = peer.hear();
        expected.retain(|expected| heard != *expected);
        has_end |= heard.starts_with(end) && heard.contains("400");
    }
    // The session goes on.
    let again = session.call::<_, u64>("/again", &1).send();
    let heard = loop {
        let heard = peer.hear();
        if !heard.starts_with("PUSH /b") {
            break heard;
        }
    };
    assert_eq!(heard, "CALL /again X-Timeout=30000 1");
    drop(again);
}
