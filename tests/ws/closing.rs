//! Every way to end a WebSocket.

use epicycle::{CloseReason, TimeoutKind};

use crate::peer::{Peer, frame, header};
use crate::service::{SOON, Setup, What, local, start};
use crate::util::{eventually, expect_panics};

#[test]
fn the_peers_close_is_answered_and_the_server_ends_the_connection() {
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x88, b"\x0F\xA0so long");
    peer.expect_end(4000);
    assert_eq!(log.await_closed(), (Some(4000), "so long".to_owned()));
    drop(peer);
    assert!(matches!(*log.await_gone(), CloseReason::Local));
}

#[test]
fn the_servers_close_waits_for_the_peers() {
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x81, b"close");
    assert_eq!(peer.recv(), (0x88, b"\x03\xF0as told".to_vec()));
    // What the peer had sent before it saw the Close still comes.
    peer.send(0x81, b"quiet");
    peer.send(0x88, b"\x03\xF0");
    assert_eq!(peer.0.recv_to_end(), b"");
    assert_eq!(log.await_closed(), (Some(1008), String::new()));
    let all = log.all().into_iter();
    let lengths = all.filter_map(|what| match what {
        What::Message(len) => Some(len),
        _ => None,
    });
    assert!(lengths.eq(["close".len(), "quiet".len()]));
}

#[test]
fn a_close_that_is_not_answered_is_not_waited_for_for_ever() {
    let (server, log) = start(local().fin_timeout(SOON), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x81, b"close");
    assert_eq!(peer.recv().0, 0x88);
    assert_eq!(peer.0.recv_to_end(), b"");
    assert!(matches!(
        *log.await_gone(),
        CloseReason::Timeout(TimeoutKind::Close)
    ));
}

#[test]
fn nothing_follows_the_servers_close() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.0.send(
        [
            frame(0x81, b"close twice"),
            frame(0x89, b"?"),
            frame(0x88, b""),
        ]
        .concat(),
    );
    assert_eq!(peer.0.recv_to_end(), b"\x88\x02\x03\xE8");
}

#[test]
fn a_handler_that_hangs_up_says_goodbye() {
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x81, b"hang up");
    peer.expect_end(1000);
    drop(peer);
    assert!(matches!(*log.await_gone(), CloseReason::Local));
}

#[test]
fn a_panic_is_told() {
    expect_panics();
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.send(0x81, b"panic");
    peer.expect_end(1011);
    drop(peer);
    assert!(matches!(*log.await_gone(), CloseReason::Panic));
}

#[test]
fn a_shutdown_is_told() {
    let (server, log) = start(local(), Setup::default());
    let peers = [Peer::to(&server), Peer::to(&server)];
    server.engine().shutdown();
    for peer in peers {
        peer.expect_end(1001);
    }
    server.join();
    assert!(matches!(*log.await_gone(), CloseReason::Shutdown));
}

#[test]
fn an_idle_connection_is_told_why_it_ends() {
    let (server, log) = start(local().idle_timeout(SOON), Setup::default());
    let peer = Peer::to(&server);
    peer.expect_end(1001);
    drop(peer);
    assert!(matches!(
        *log.await_gone(),
        CloseReason::Timeout(TimeoutKind::Idle)
    ));
}

#[test]
fn a_message_that_does_not_go_on_is_not_waited_for_for_ever() {
    for beginning in [
        frame(0x01, b"once upon"),
        frame(0x82, &[0; 100])[..50].to_vec(),
        header(0x81, 70_000),
    ] {
        let (server, log) = start(local().read_timeout(SOON), Setup::default());
        let peer = Peer::to(&server);
        peer.0.send(beginning);
        peer.expect_end(1001);
        drop(peer);
        assert!(matches!(
            *log.await_gone(),
            CloseReason::Timeout(TimeoutKind::Read)
        ));
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_which_way() {
    let (server, log) = start(local(), Setup::default());
    let cases = [
        (vec![0x91], 1002),
        (vec![0x83], 1002),
        (vec![0x81, 0x05], 1002),
        (frame(0x80, b"of nothing"), 1002),
        (frame(0x88, b"\x03"), 1002),
        (frame(0x88, b"\x03\xEE"), 1002),
        (frame(0x81, b"\xFF"), 1007),
        (frame(0x88, b"\x03\xE8\xFF"), 1007),
        (header(0x82, (1 << 20) + 1), 1009),
    ];
    for (n, (bytes, code)) in cases.into_iter().enumerate() {
        let peer = Peer::to(&server);
        // What comes before is answered, what comes behind is not.
        peer.send(0x81, b"fine");
        peer.0.send([bytes, vec![0; 30]].concat());
        assert_eq!(peer.recv(), (0x81, b"fine".to_vec()));
        peer.expect_end(code);
        drop(peer);
        eventually("it is gone", || {
            let all = log.all();
            let gone = all.iter().filter(|what| matches!(what, What::Gone(reason) if matches!(**reason, CloseReason::Frame(_))));
            gone.count() == n + 1
        });
    }
}

#[test]
fn a_text_is_refused_before_its_frame_is_complete() {
    let (server, _log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    let bytes = frame(0x81, b"fine so far \xC0 and never to be complete");
    peer.0.send(&bytes[..30]);
    peer.expect_end(1007);
}

#[test]
fn an_end_without_a_close_is_one_too() {
    let (server, log) = start(local(), Setup::default());
    let peer = Peer::to(&server);
    peer.0.send(&frame(0x81, b"unfinished")[..9]);
    peer.0.end_writes();
    assert_eq!(peer.0.recv_to_end(), b"");
    drop(peer);
    assert!(matches!(*log.await_gone(), CloseReason::Peer));
}
