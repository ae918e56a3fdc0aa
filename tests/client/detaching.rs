//! Connections that leave the engine, with their input and output.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use epicycle::codec::Lines;
use epicycle::{Action, CloseReason, Conn, DetachError, Detached, Running, Server};
use socket2::Socket;

use crate::client;
use crate::util::app::{App, Cut, Log, local, start, start_client};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, expect_panics, noise};

type Detachments = Receiver<Detached>;

/// A server of lines that, asked to "leave", answers with `answer` and lets the connection go.
fn leaver(server: Server, answer: Vec<u8>) -> (Running<App>, Arc<Log>, Detachments) {
    let (send, receive) = channel();
    let send = Mutex::new(send);
    let (running, log) = start(server, move |app| {
        let send = send.lock().expect("no panics").clone();
        let answer = answer.clone();
        app.codec(Cut::Lines(Lines::new()))
            .on_open(|conn| {
                shrink(conn);
                true
            })
            .react(move |conn, _, line| {
                if line != b"leave" {
                    return conn.send(line).into();
                }
                let send = send.clone();
                conn.write(&answer).expect("is taken");
                let hand_out = move |detached| send.send(detached).expect("is awaited");
                conn.detach(hand_out).expect("is let go");
                assert!(conn.write(b"late").is_err(), "a write is taken");
                Action::Continue
            })
    });
    (running, log, receive)
}

/// The socket, for plain blocking use.
fn plain(detached: Detached) -> Client {
    let socket = Socket::from(detached.socket);
    socket.set_nonblocking(false).expect("is set");
    socket.set_read_timeout(Some(LONG)).expect("is set");
    Client(socket)
}

fn leaves_whole(server: Server, answer: usize) {
    let answer = noise(1, answer);
    let (running, log, detachments) = leaver(server, answer.clone());
    let peer = Client::to(&running);
    peer.send("one\nleave\ntwo\nand a half");
    let (closed, reason) = thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(peer.recv(4), b"one\n");
            assert!(peer.recv(answer.len()) == answer, "the answer differs");
        });
        log.await_close(0)
    });
    assert!(matches!(*reason, CloseReason::Detached), "{reason}");
    assert_eq!(closed.bytes_out, 4 + answer.len() as u64);
    assert_eq!((closed.unsent, closed.undecoded), (0, 0));
    let detached = detachments.recv_timeout(LONG).expect("comes");
    eventually("its slot is free", || running.engine().connections() == 0);
    assert_eq!(detached.unread, b"two\nand a half");
    running.shutdown();
    // Nothing of the engine is left, and the connection goes on.
    let own = plain(detached);
    peer.send("more");
    assert_eq!(own.recv(4), b"more");
    own.send("the end");
    drop(own);
    assert_eq!(peer.recv_to_end(), b"the end");
}

#[test]
fn what_is_written_arrives_and_what_is_unread_goes_along() {
    leaves_whole(local(), 10);
    let path = TempPath::new();
    leaves_whole(Server::bind(path.addr()).reactors(1), 10);
}

#[test]
fn output_that_the_kernel_does_not_take_at_once_arrives_before_the_connection_leaves() {
    leaves_whole(local(), 4 << 20);
}

#[test]
fn what_is_unread_goes_along_when_the_frame_is_sent_back_from_where_it_lies() {
    let (send, receive) = channel();
    let send = Mutex::new(send);
    let (running, log) = start(local(), move |app| {
        let send = send.lock().expect("no panics").clone();
        app.codec(Cut::Lines(Lines::with_max(1 << 20)))
            .react(move |conn, _, line| {
                let send = send.clone();
                conn.write(line).expect("is taken");
                conn.detach(move |detached| send.send(detached).expect("is awaited"))
                    .expect("is let go");
                Action::Continue
            })
    });
    // Short enough to leave at the end of the turn, and so long that it leaves right after the callback.
    for len in [100, 20_000, 40_000] {
        let peer = Client::to(&running);
        let mut input = vec![b'x'; len];
        input.extend_from_slice(b"\nthe rest");
        peer.send(&input);
        assert!(peer.recv(len) == input[..len]);
        let detached: Detached = receive.recv_timeout(LONG).expect("comes");
        let mut rest = detached.unread.clone();
        let own = plain(detached);
        while rest.len() < 8 {
            rest.extend(own.recv(1));
        }
        assert_eq!(rest, b"the rest");
    }
    assert_eq!(log.closed(), 3);
}

#[test]
fn a_peer_that_resets_first_gets_its_own_reason_and_nobody_the_socket() {
    let (running, log, detachments) = leaver(local(), noise(1, 4 << 20));
    let peer = Client::with_small_window(&running);
    peer.send("leave\n");
    eventually("it is asked", || log.frames() == 1);
    peer.reset();
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason}");
    running.shutdown();
    assert!(detachments.try_recv().is_err(), "somebody got the socket");
}

#[test]
fn the_shutdown_ends_a_connection_that_has_not_left_yet() {
    let (running, log, detachments) = leaver(local(), noise(1, 4 << 20));
    let peer = Client::with_small_window(&running);
    peer.send("leave\n");
    eventually("it is asked", || log.frames() == 1);
    running.engine().shutdown();
    assert!(peer.recv_to_end() == noise(1, 4 << 20));
    drop(peer);
    assert_eq!(running.join().forced, 0);
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Shutdown), "{reason}");
    assert!(detachments.try_recv().is_err(), "somebody got the socket");
}

/// Adopts one end of a connection whose `on_open` does this.
fn opened(
    on_open: impl FnMut(&mut Conn<'_, App>) -> bool + Send + Clone + 'static,
) -> (Running<App>, Arc<Log>, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair");
    let on_open = Mutex::new(on_open);
    let (running, log) = start_client(client(1), move |app| {
        app.on_open(on_open.lock().expect("no panics").clone())
    });
    running.engine().adopt(near, 0).expect("is adopted");
    (running, log, far)
}

#[test]
fn a_connection_may_leave_as_soon_as_it_is_open() {
    let (send, receive) = channel();
    let (_running, log, mut far) = opened(move |conn| {
        let send = send.clone();
        conn.write(b"welcome").expect("is taken");
        conn.detach(move |detached| send.send(detached).expect("is awaited"))
            .is_ok()
    });
    log.await_close(0);
    let own = plain(receive.recv_timeout(LONG).expect("comes"));
    own.send(" and goodbye");
    drop(own);
    let mut all = String::new();
    far.read_to_string(&mut all).expect("receives");
    assert_eq!(all, "welcome and goodbye");
}

#[test]
fn a_connection_leaves_once() {
    let (send, receive) = channel();
    let (_running, _log, _far) = opened(move |conn| {
        let again = send.clone();
        let send = send.clone();
        conn.detach(move |_| send.send(1).expect("is awaited"))
            .expect("is let go");
        conn.detach(move |_| again.send(2).expect("is awaited")) == Err(DetachError::Closed)
    });
    assert_eq!(receive.recv_timeout(LONG), Ok(1));
}

#[test]
fn a_connection_that_is_closing_cannot_leave() {
    let (_running, log, _far) = opened(|conn| {
        conn.close();
        conn.detach(drop) == Err(DetachError::Closed)
    });
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
}

#[test]
fn fin_is_sent_before_the_connection_leaves_when_it_was_asked_for() {
    let (send, receive) = channel();
    let (_running, _log, mut far) = opened(move |conn| {
        let send = send.clone();
        conn.write(b"last words").expect("is taken");
        conn.shutdown_write();
        conn.detach(move |detached| send.send(detached).expect("is awaited"))
            .is_ok()
    });
    let own = plain(receive.recv_timeout(LONG).expect("comes"));
    let mut all = String::new();
    far.read_to_string(&mut all).expect("receives");
    assert_eq!(all, "last words");
    far.write_all(b"heard").expect("sends");
    assert_eq!(own.recv(5), b"heard");
}

#[test]
fn a_panic_of_whoever_gets_the_socket_concerns_no_other_connection() {
    expect_panics();
    let (running, log) = start_client(client(1), |app| {
        app.codec(Cut::Lines(Lines::new())).react(|conn, _, line| {
            if line != b"leave" {
                return conn.send(line).into();
            }
            // Who comes meanwhile gets the slot that becomes free.
            let engine = conn.engine().clone();
            let panics = move |detached: Detached| {
                engine.adopt(detached.socket, 1).expect("is adopted");
                panic!("on purpose")
            };
            conn.detach(panics).expect("is let go");
            Action::Continue
        })
    });
    for round in 0..10 {
        let (near, far) = UnixStream::pair().expect("a pair");
        running.engine().adopt(near, 0).expect("is adopted");
        let far = Client(far.into());
        far.0.set_read_timeout(Some(LONG)).expect("is set");
        far.send("leave\n");
        log.await_close(2 * round);
        far.round_trip("hello\n");
        far.end_writes();
        assert!(far.recv_to_end().is_empty());
        log.await_close(2 * round + 1);
    }
    eventually("none is left", || running.engine().connections() == 0);
    assert_eq!(running.shutdown().stats.total().panics, 10);
}

#[test]
fn a_detached_connection_can_be_adopted_by_another_engine() {
    let (other, _) = start_client(client(1), |app| app);
    let engine = other.engine().clone();
    let (running, log) = start(local(), move |app| {
        let engine = engine.clone();
        app.react(move |conn, _, _| {
            let engine = engine.clone();
            let over = move |detached: Detached| {
                engine.adopt(detached.socket, 4).expect("is adopted");
            };
            conn.detach(over).expect("is let go");
            Action::Continue
        })
    });
    let peer = Client::to(&running);
    peer.send("over you go");
    log.await_close(0);
    peer.round_trip("hello");
    running.shutdown();
    peer.round_trip("still there");
}
