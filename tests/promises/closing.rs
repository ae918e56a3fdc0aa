//! Bytes written before a close arrive; an abort sends RST; half-close works in both directions.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use epicycle::{AcceptMode, Action, CloseReason, Server, TimeoutKind};

use crate::util::app::{App, What, local, start};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, noise};

const MIB: usize = 1 << 20;

/// Answers anything with 16 MiB and closes.
fn farewell(app: App) -> App {
    let bytes = noise(1, 16 * MIB);
    app.react(move |conn, _, frame| {
        let written = match frame[0] {
            b's' => conn.write_shared(bytes.clone()),
            _ => conn.write(&bytes),
        };
        written.expect("taken");
        Action::Close
    })
}

#[test]
fn bytes_written_before_close_arrive() {
    let path = TempPath::new();
    let server = local().and(path.addr());
    let (running, log) = start(server, farewell);
    let expected = noise(1, 16 * MIB);
    for addr in running.local_addrs() {
        for order in ["shared", "copied"] {
            let client = Client::connect(addr);
            client.send(order);
            let mut received = Vec::new();
            let mut chunk = vec![0; 256 << 10];
            // A reader that takes its time.
            loop {
                let n = (&client.0).read(&mut chunk).expect("ends with FIN");
                if n == 0 {
                    break;
                }
                received.extend_from_slice(&chunk[..n]);
                thread::sleep(Duration::from_millis(1));
            }
            assert!(received == expected, "{} bytes of {order}", received.len());
        }
    }
    eventually("all have closed", || log.closed() == 4);
    for n in 0..4 {
        let (closed, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Local), "{reason:?}");
        assert_eq!((closed.bytes_out, closed.unsent), (16 << 20, 0));
    }
}

#[test]
fn bytes_written_before_close_arrive_though_the_peer_keeps_sending() {
    let (running, _log) = start(local(), farewell);
    let client = Client::to(&running);
    client.send("go");
    thread::scope(|scope| {
        let writer = client.clone();
        scope.spawn(move || {
            // Until the other half has seen the end.
            while (&writer.0).write_all(&[0; 10_000]).is_ok() {}
        });
        let mut received = Vec::new();
        let mut chunk = vec![0; 256 << 10];
        let end = loop {
            match (&client.0).read(&mut chunk) {
                Ok(0) => break Ok(()),
                Ok(n) => received.extend_from_slice(&chunk[..n]),
                Err(error) => break Err(error),
            }
            thread::sleep(Duration::from_millis(1));
        };
        client.0.shutdown(std::net::Shutdown::Both).ok();
        assert!(end.is_ok(), "{end:?}");
        assert!(
            received == noise(1, 16 * MIB),
            "{} bytes came",
            received.len()
        );
    });
}

#[test]
fn a_close_of_a_handle_lets_earlier_writes_arrive() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    handle.write(noise(2, 4 * MIB)).unwrap();
    handle.close().unwrap();
    handle.write("too late").unwrap();
    assert!(client.recv_to_end() == noise(2, 4 * MIB));
}

#[test]
fn a_peer_that_never_ends_its_side_is_closed_after_the_fin_timeout() {
    let server = local().fin_timeout(Duration::from_millis(50));
    let (running, log) = start(server, |app| app.react(|_, _, _| Action::Close));
    let client = Client::to(&running);
    client.send("close");
    assert_eq!(client.recv_to_end(), b"");
    // The client still holds its side open.
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason:?}");
    drop(client);
}

#[test]
fn a_close_that_cannot_drain_ends_at_the_deadline() {
    let server = local().drain_deadline(Duration::from_millis(100));
    let (running, log) = start(server, farewell);
    let client = Client::with_small_window(&running);
    client.send("go");
    let (closed, reason) = log.await_close(0);
    let expected = matches!(*reason, CloseReason::Timeout(TimeoutKind::Drain));
    assert!(expected, "{reason:?}");
    assert!(closed.unsent > 0, "{closed:?}");
    let (_, end) = client.recv_to_any_end();
    assert!(
        Client::is_reset(&end),
        "a truncated stream must not end like a whole one: {end:?}"
    );
}

#[test]
fn abort_resets() {
    let (running, log) = start(local(), |app| {
        app.react(|conn, _, frame| {
            if frame == b"pending" {
                shrink(conn);
                conn.write_shared(vec![0; 8 * MIB]).expect("taken");
            }
            conn.abort();
            Action::Continue
        })
    });
    for order in ["at once", "pending"] {
        let client = Client::to(&running);
        client.send(order);
        let (bytes, end) = client.recv_to_any_end();
        assert!(Client::is_reset(&end), "{order}: {end:?}");
        assert!(bytes.len() < 8 * MIB);
    }
    let client = Client::to(&running);
    let handle = running.engine().handle(log.await_open(2)).unwrap();
    handle.abort().unwrap();
    let (_, end) = client.recv_to_any_end();
    assert!(Client::is_reset(&end), "{end:?}");
    for n in 0..3 {
        let (_, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Aborted), "{reason:?}");
    }
}

#[test]
fn a_peer_that_has_shut_down_gets_all_its_answers() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    let sent = noise(3, 4 * MIB);
    thread::scope(|scope| {
        scope.spawn(|| {
            client.send(&sent);
            client.end_writes();
        });
        assert!(client.recv_to_end() == sent);
    });
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason:?}");
    assert_eq!(log.count(|what| matches!(what, What::PeerShutdown)), 1);
}

#[test]
fn a_handler_may_go_on_writing_to_a_peer_that_has_shut_down() {
    let (running, log) = start(local(), |app| app.on_peer_shutdown(|_, _| Action::Continue));
    let client = Client::to(&running);
    client.send("question");
    client.end_writes();
    assert_eq!(client.recv(8), b"question");
    let id = log.await_open(0);
    eventually("the end is seen", || {
        log.count(|what| matches!(what, What::PeerShutdown)) == 1
    });
    let handle = running.engine().handle(id).unwrap();
    handle.write("answer").unwrap();
    assert_eq!(client.recv(6), b"answer");
    handle.write("the end").unwrap();
    handle.close().unwrap();
    assert_eq!(client.recv_to_end(), b"the end");
    log.await_close(0);
}

#[test]
fn a_reset_is_noticed_behind_a_half_close() {
    let (running, log) = start(local(), |app| app.on_peer_shutdown(|_, _| Action::Continue));
    let client = Client::to(&running);
    client.round_trip("hello");
    client.end_writes();
    eventually("the end is seen", || {
        log.count(|what| matches!(what, What::PeerShutdown)) == 1
    });
    // Unread input makes the kernel reset rather than end the connection.
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    handle.write("unread").unwrap();
    eventually("it is in the kernel", || {
        running.engine().stats().total().bytes_out == 11
    });
    client.reset();
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
}

#[test]
fn a_server_that_has_shut_down_its_side_still_reads() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            conn.write(b"greeting").expect("taken");
            conn.shutdown_write();
            assert!(conn.write(b"too late").is_err());
            true
        })
        .react(|conn, _, _| {
            assert!(conn.write(b"too late").is_err());
            Action::Continue
        })
    });
    let client = Client::to(&running);
    assert_eq!(client.recv_to_end(), b"greeting");
    for n in 1..=3 {
        client.send("still here");
        eventually("it is read", || log.frames() == n);
    }
    assert_eq!(log.closed(), 0);
    drop(client);
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Peer), "{reason:?}");
    assert_eq!(closed.bytes_in, 30);
}

#[test]
fn a_peer_that_resets_amid_a_write_ends_only_itself() {
    let (running, log) = start(local(), |app| {
        app.react(|conn, _, _| conn.write_shared(vec![1; 8 * MIB]).into())
    });
    let bystander = Client::to(&running);
    let client = Client::with_small_window(&running);
    client.send("go");
    client.recv(1);
    client.reset();
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");
    assert!(closed.unsent > 0);
    bystander.send("go");
    bystander.recv(8 * MIB);
}

#[test]
fn an_unread_frame_does_not_turn_a_close_into_a_reset() {
    // The client's second message lies unread in the kernel when the server closes.
    let server = Server::bind("tcp://127.0.0.1:0").accept_mode(AcceptMode::SingleLoop);
    let (running, _log) = start(server, |app| {
        app.react(|conn, _, _| {
            conn.pause_reads();
            conn.set_timer(Duration::from_millis(20), 0);
            conn.write(b"bye").into()
        })
        .on_timer(|_, _, _| Action::Close)
    });
    let client = Client::to(&running);
    client.send("first");
    assert_eq!(client.recv(3), b"bye");
    client.send(noise(4, 100_000));
    assert_eq!(client.recv_to_end(), b"");
}

#[test]
fn input_that_lay_unread_does_not_hold_up_a_close() {
    // The peer has sent everything, its end included, while reads were paused: no event tells of it again.
    let (running, log) = start(local().fin_timeout(10 * LONG), |app| {
        app.react(|conn, _, _| {
            conn.pause_reads();
            conn.write(b"paused").into()
        })
    });
    let client = Client::to(&running);
    client.send("first");
    assert_eq!(client.recv(6), b"paused");
    client.send(noise(5, 100_000));
    client.end_writes();
    let handle = running.engine().handle(log.await_open(0)).unwrap();
    // Several turns, so that the events have been seen.
    for _ in 0..10 {
        handle.write(".").unwrap();
        assert_eq!(client.recv(1), b".");
    }
    handle.write("bye").unwrap();
    handle.close().unwrap();
    assert_eq!(client.recv_to_end(), b"bye");
    log.await_close(0);
}
