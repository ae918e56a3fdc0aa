//! The end of TLS connections: close_notify, truncation, protocol errors, panics, shutdown.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use epicycle::{Action, CloseReason};

use crate::peer::Peer;
use crate::pki::{local, server_tls};
use crate::util::app::{What, start};
use crate::util::client::shrink;
use crate::util::{eventually, expect_panics, noise};

const MIB: usize = 1 << 20;

#[test]
fn close_notify_is_a_clean_end() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    peer.send("last words");
    peer.close_notify();
    // The answer, and close_notify behind it.
    assert_eq!(peer.recv_to_end().expect("ends well"), b"last words");
    // And FIN behind that.
    let mut rest = Vec::new();
    (&peer.client.0).read_to_end(&mut rest).expect("ends");
    assert_eq!(rest, b"");
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason}");
    assert_eq!(
        (closed.bytes_in, closed.bytes_out, closed.unsent),
        (10, 10, 0)
    );
    assert_eq!(log.count(|what| matches!(what, What::PeerShutdown)), 1);
}

#[test]
fn an_end_without_close_notify_is_told_apart() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    peer.send("cut sh");
    peer.client.end_writes();
    // What was written is still sent, and properly ended.
    assert_eq!(peer.recv_to_end().expect("ends well"), b"cut sh");
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Truncated), "{reason}");
    assert_eq!(log.count(|what| matches!(what, What::PeerShutdown)), 0);
}

#[test]
fn a_record_cut_in_half_is_a_truncation() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    (&peer.client.0)
        .write_all(&[23, 3, 3, 0, 100, 1, 2, 3])
        .expect("sends");
    peer.client.end_writes();
    peer.recv_to_end().expect("ends well");
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Truncated), "{reason}");
    assert_eq!((closed.bytes_in, log.frames()), (0, 0));
}

#[test]
fn what_arrived_before_a_reset_is_handed_out() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.on_open(|conn| {
            shrink(conn);
            conn.write_shared(vec![0; 8 * MIB]).expect("is taken");
            true
        })
        .react(|_, _, _| Action::Continue)
    });
    let peer = Peer::to(&running);
    log.await_open(0);
    peer.send(noise(13, 40_000));
    let linger = Some(Duration::ZERO);
    peer.client.0.set_linger(linger).expect("lingers");
    drop(peer);
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason}");
    assert_eq!(closed.bytes_in, 40_000);
}

#[test]
fn half_close_works_both_ways() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.react(|conn, session, frame| {
            session.number += frame.len() as u64;
            if session.number == 5 {
                conn.write(b"no more from here").expect("taken");
                conn.shutdown_write();
            }
            Action::Continue
        })
        .on_peer_shutdown(|conn, _| {
            assert!(conn.write(b"too late").is_err());
            Action::Close
        })
    });
    let peer = Peer::to(&running);
    peer.send("hello");
    assert_eq!(peer.recv_to_end().expect("ends well"), b"no more from here");
    // The other direction is still open.
    peer.send("and on");
    peer.close_notify();
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason}");
    assert_eq!(closed.bytes_in, 11);
}

#[test]
fn a_peer_that_has_ended_is_still_answered() {
    let answer = noise(1, 3 * MIB);
    let expected = answer.clone();
    let (running, log) = start(local(&server_tls()), move |app| {
        let answer = answer.clone();
        app.react(|_, _, _| Action::Continue)
            .on_peer_shutdown(move |conn, _| {
                conn.write(&answer).expect("taken");
                Action::Close
            })
    });
    let peer = Peer::to(&running);
    peer.send("question");
    peer.close_notify();
    assert!(peer.recv_to_end().expect("ends well") == expected);
    let (closed, _) = log.await_close(0);
    assert_eq!((closed.bytes_out, closed.unsent), (3 * MIB as u64, 0));
}

#[test]
fn close_drains_what_was_written() {
    let answer = noise(2, 5 * MIB);
    let expected = answer.clone();
    let (running, log) = start(local(&server_tls()), move |app| {
        let answer = answer.clone();
        app.on_open(|conn| {
            shrink(conn);
            true
        })
        .react(move |conn, _, _| {
            conn.write(&answer).expect("taken");
            Action::Close
        })
    });
    let peer = Peer::to(&running);
    peer.send("question");
    assert!(peer.recv_to_end().expect("ends well") == expected);
    peer.close_notify();
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
    assert_eq!((closed.bytes_out, closed.unsent), (5 * MIB as u64, 0));
}

#[test]
fn write_then_tells_when_the_kernel_has_it() {
    let (told, tells) = mpsc::channel();
    let (running, log) = start(local(&server_tls()), move |app| {
        let told = told.clone();
        app.on_open(|conn| {
            shrink(conn);
            true
        })
        .react(move |conn, _, frame| {
            let told = told.clone();
            let len = if frame == b"much" { 8 * MIB } else { 10 };
            conn.write_then(vec![7; len], move |result| {
                told.send(result.is_ok()).expect("is awaited");
            })
            .into()
        })
    });
    let peer = Peer::to(&running);
    peer.send("little");
    assert_eq!(tells.recv(), Ok(true));
    peer.recv(10);
    peer.send("much");
    tells
        .recv_timeout(Duration::from_millis(100))
        .expect_err("nobody reads it yet");
    peer.recv(8 * MIB);
    assert_eq!(tells.recv(), Ok(true));
    // And that it never will.
    peer.send("much");
    eventually("some of it is on its way", || {
        running.engine().stats().total().bytes_out > 8 * MIB as u64 + 10
    });
    peer.client.reset();
    assert_eq!(tells.recv(), Ok(false));
    let (closed, _) = log.await_close(0);
    assert_eq!(closed.bytes_out as usize + closed.unsent, 16 * MIB + 10);
}

#[test]
fn a_breach_of_the_protocol_gets_an_alert() {
    let (running, log) = start(local(&server_tls()), |app| app);
    let peer = Peer::to(&running);
    peer.round_trip("good so far");
    let mut forged = vec![23, 3, 3, 0, 50];
    forged.extend([0; 50]);
    // What follows must not turn the answer into a reset.
    forged.extend(vec![9; 200_000]);
    (&peer.client.0).write_all(&forged).expect("sends");
    let error = peer.recv_to_end().expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    drop(peer);
    let (_, reason) = log.await_close(0);
    let CloseReason::Tls(error) = &*reason else {
        panic!("{reason}");
    };
    assert!(error.to_string().contains("decrypt"), "{error}");
    assert_eq!(running.engine().stats().total().tls_errors, 1);
}

#[test]
fn a_panic_closes_its_connection_alone() {
    expect_panics();
    let (running, log) = start(local(&server_tls()), |app| {
        app.react(|conn, _, frame| {
            conn.write(frame).expect("taken");
            assert!(frame != b"panic", "on purpose");
            Action::Continue
        })
    });
    let (bystander, peer) = (Peer::to(&running), Peer::to(&running));
    peer.send("panic");
    assert_eq!(peer.recv_to_end().expect("ends well"), b"panic");
    drop(peer);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Panic), "{reason}");
    bystander.round_trip("unharmed");
}

#[test]
fn a_panic_in_on_open_closes_its_connection_alone() {
    expect_panics();
    let (running, _) = start(local(&server_tls()), |app| {
        let mut opened = 0;
        app.on_open(move |_| {
            opened += 1;
            assert!(opened != 1, "on purpose");
            true
        })
    });
    let peer = Peer::to(&running);
    assert_eq!(peer.recv_to_end().expect("ends well"), b"");
    drop(peer);
    Peer::to(&running).round_trip("unharmed");
    eventually("it is gone", || running.engine().connections() == 0);
}

#[test]
fn an_abort_is_a_reset() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.react(|conn, _, _| {
            conn.abort();
            Action::Continue
        })
    });
    let peer = Peer::to(&running);
    peer.send("x");
    let error = peer.recv_to_end().expect_err("is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(matches!(*log.await_close(0).1, CloseReason::Aborted));
}

#[test]
fn shutdown_drains() {
    let (running, log) = start(local(&server_tls()), |app| {
        app.on_open(|conn| {
            shrink(conn);
            true
        })
    });
    let peer = Peer::to(&running);
    let sent = noise(3, 2 * MIB);
    let report = std::thread::scope(|scope| {
        peer.send(&sent[..MIB]);
        eventually("it has all arrived", || {
            running.engine().stats().total().bytes_in == MIB as u64
        });
        running.engine().shutdown();
        let received = scope.spawn(|| peer.recv_to_end().expect("ends well"));
        assert!(received.join().expect("no panic") == sent[..MIB]);
        peer.close_notify();
        running.join()
    });
    assert_eq!((report.drained, report.forced), (1, 0));
    assert!(matches!(*log.await_close(0).1, CloseReason::Shutdown));
}
