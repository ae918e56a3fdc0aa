//! Joining: the order of earlier output, and connections that cannot be joined.

use std::net::UdpSocket;

use epicycle::codec::Lines;
use epicycle::{Action, CloseReason, ConnId, DetachError, Listen, PipeError, Running, UdpSessions};

use crate::util::app::{App, Cut, Log, local, start};
use crate::util::client::Client;
use crate::util::eventually;
use crate::{end_of, join, joined, with};

#[test]
fn what_was_written_goes_first_then_what_was_received_and_not_decoded() {
    let (running, log) = start(local(), |app| {
        let mut first = None;
        app.codec(Cut::Lines(Lines::new()))
            .react(move |conn, _, line| {
                conn.send(line).expect("is taken");
                match (line, first) {
                    (b"join", Some(other)) => {
                        conn.write(b"written before\n").expect("is taken");
                        conn.pipe(other).expect("joins");
                        assert!(conn.write(b"too late").is_err());
                        assert_eq!(conn.pipe(other), Err(PipeError::Piped(conn.id())));
                    }
                    _ => first = Some(conn.id()),
                }
                Action::Continue
            })
    });
    let one = Client::to(&running);
    one.send("wait\n");
    assert_eq!(one.recv(5), b"wait\n");
    one.send("a line's beginning");
    let other = Client::to(&running);
    eventually("it is received", || {
        running.engine().stats().total().bytes_in == 23
    });
    other.send("join\nthis is\nnot for the handler");
    assert_eq!(one.recv(27), b"this is\nnot for the handler");
    assert_eq!(other.recv(38), b"join\nwritten before\na line's beginning");
    one.send(" and its end\n");
    assert_eq!(other.recv(13), b" and its end\n");
    assert_eq!(log.frames(), 2);
}

#[test]
fn a_connection_can_be_joined_when_it_opens_and_paused_ones_are_read_again() {
    let (running, log) = start(local(), |app| {
        let mut first = None;
        app.on_open(move |conn| {
            match first.take() {
                None => {
                    conn.pause_reads();
                    first = Some(conn.id());
                }
                Some(other) => conn.pipe(other).expect("joins"),
            }
            true
        })
    });
    let one = Client::to(&running);
    one.send("early");
    log.await_open(0);
    let other = Client::to(&running);
    assert_eq!(other.recv(5), b"early");
    other.send("late");
    assert_eq!(one.recv(4), b"late");
}

#[test]
fn one_that_is_joined_cannot_be_detached_and_its_write_side_not_be_shut() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, _) = joined(&running, &log);
    let refused = with(&running, a, |conn| {
        conn.shutdown_write();
        conn.detach(|_| ())
    });
    assert_eq!(refused, Err(DetachError::Piped));
    other.send("still open");
    assert_eq!(one.recv(10), b"still open");
}

#[test]
fn what_cannot_be_joined_is_told() {
    let (running, log) = start(local().reactors(2), |app| app);
    let clients: Vec<_> = (0..5).map(|_| Client::to(&running)).collect();
    log.await_open(4);
    let ids = log.ids();
    let on = |reactor| {
        ids.iter()
            .copied()
            .filter(move |id| id.reactor() == reactor)
    };
    let here: Vec<_> = on(0).collect();
    let there = on(1).next().expect("they are dealt round");
    assert!(here.len() >= 2);
    assert_eq!(join(&running, here[0], here[0]), Err(PipeError::Itself));
    let other_reactor = join(&running, here[0], there);
    assert_eq!(other_reactor, Err(PipeError::OtherReactor(there)));

    let closing = here[1];
    let handle = running.engine().handle(closing).expect("is open");
    handle.close().expect("is asked");
    assert_eq!(
        join(&running, here[0], closing),
        Err(PipeError::NotOpen(closing))
    );
    drop(clients);
    eventually("all are gone", || log.closed() == 5);
    let gone = join(&running, here[0], closing);
    assert_eq!(gone, Err(PipeError::NotOpen(here[0])));

    let (_one, _other, a, b) = joined_on_one_reactor(&running, &log);
    assert_eq!(join(&running, a, b), Err(PipeError::Piped(a)));
    let third = Client::to(&running);
    third.round_trip("not disturbed");
    for error in [
        PipeError::Itself,
        PipeError::OtherReactor(a),
        PipeError::NotOpen(a),
        PipeError::Piped(a),
        PipeError::NoStream(a),
    ] {
        assert!(!error.to_string().is_empty());
    }
}

/// Two joined clients of a server with two reactors.
fn joined_on_one_reactor(running: &Running<App>, log: &Log) -> (Client, Client, ConnId, ConnId) {
    let before = log.opened();
    let one = Client::to(running);
    let a = log.await_open(before);
    for n in 1.. {
        let other = Client::to(running);
        let b = log.await_open(before + n);
        if b.reactor() == a.reactor() {
            join(running, a, b).expect("joins");
            return (one, other, a, b);
        }
    }
    unreachable!("the reactors take turns")
}

#[test]
fn a_udp_session_cannot_be_joined() {
    let udp = Listen::on("udp://127.0.0.1:0").sessions(UdpSessions::new());
    let (running, log) = start(local().and(udp), |app| app);
    let stream = Client::to(&running);
    let a = log.await_open(0);
    let server = running.local_addrs()[1].as_socket_addr();
    let session = UdpSocket::bind("127.0.0.1:0").expect("binds");
    session
        .send_to(b"hello", server.expect("an IP address"))
        .expect("sends");
    let b = log.await_open(1);
    assert_eq!(join(&running, a, b), Err(PipeError::NoStream(b)));
    assert_eq!(join(&running, b, a), Err(PipeError::NoStream(b)));
    stream.round_trip("not disturbed");
    let told = with(&running, b, move |conn| conn.pipe(a));
    assert_eq!(told, Err(PipeError::NoStream(b)));
}

#[test]
fn one_whose_partner_is_closing_by_the_end_of_the_callback_closes() {
    let (running, log) = start(local(), |app| {
        let mut first = None;
        app.react(move |conn, _, frame| {
            match (frame, first) {
                (b"join", Some(other)) => conn.pipe(other).expect("seems to be open"),
                _ => {
                    first = Some(conn.id());
                    return Action::Close;
                }
            }
            Action::Continue
        })
    });
    let one = Client::to(&running);
    let a = log.await_open(0);
    one.send("close");
    // It waits for the client's FIN now.
    assert_eq!(one.recv_to_end(), b"");
    let other = Client::to(&running);
    let b = log.await_open(1);
    other.send("join");
    assert_eq!(other.recv_to_end(), b"");
    drop((one, other));
    assert!(matches!(*end_of(&log, a).1, CloseReason::Local));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Pipe));
}

#[test]
fn one_that_closes_in_the_callback_that_joins_leaves_the_other_alone() {
    let (running, log) = start(local(), |app| {
        let mut first = None;
        app.react(move |conn, _, frame| {
            if let (b"join", Some(other)) = (frame, first) {
                conn.pipe(other).expect("joins");
                return Action::Close;
            }
            first = Some(conn.id());
            conn.write(frame).into()
        })
    });
    let one = Client::to(&running);
    one.round_trip("first");
    let other = Client::to(&running);
    other.send("join");
    assert_eq!(other.recv_to_end(), b"");
    drop(other);
    assert!(matches!(*log.await_close(0).1, CloseReason::Local));
    one.round_trip("not joined");
}
