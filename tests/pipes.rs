//! Two connections joined: what one receives the other sends.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, DetachError, Listen, PipeError, Reactor, Running,
    Server, TimeoutKind, UdpSessions,
};
use util::app::{App, Cut, Log, What, local, start};
use util::client::{Client, TempPath};
use util::process::{alone, descriptors};
use util::{LONG, eventually, expect_panics, noise};

/// Asks the reactor to join two connections.
fn join(running: &Running<App>, one: ConnId, other: ConnId) -> Result<(), PipeError> {
    let (answer, answers) = mpsc::channel();
    let task = move |_: &mut App, reactor: &mut Reactor<'_, App>| {
        answer.send(reactor.pipe(one, other)).expect("is awaited");
    };
    running.engine().run_on(one.reactor(), task).expect("runs");
    answers.recv_timeout(LONG).expect("answers")
}

/// Two clients whose connections are joined.
fn joined(running: &Running<App>, log: &Log) -> (Client, Client, ConnId, ConnId) {
    let before = log.opened();
    let one = Client::to(running);
    let a = log.await_open(before);
    let other = Client::to(running);
    let b = log.await_open(before + 1);
    join(running, a, b).expect("joins");
    (one, other, a, b)
}

/// How a connection ended.
fn end_of(log: &Log, id: ConnId) -> (Closed, Arc<CloseReason>) {
    util::await_some("it closes", || {
        log.entries()
            .into_iter()
            .find_map(|entry| match entry.what {
                What::Close(closed, reason) if entry.id == id => Some((closed, reason)),
                _ => None,
            })
    })
}

/// Sends `bytes` in pieces of random size, then the end of the stream.
fn send_in_pieces(client: &Client, bytes: &[u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = 1 << random.u32(0..20);
        let (piece, behind) = rest.split_at(random.usize(1..=most).min(rest.len()));
        client.send(piece);
        rest = behind;
    }
    client.end_writes();
}

#[test]
fn both_directions_arrive_byte_by_byte_and_are_counted() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let (there, back) = (noise(1, 64 << 20), noise(2, 64 << 20));
    thread::scope(|scope| {
        scope.spawn(|| send_in_pieces(&one, &there, 3));
        scope.spawn(|| send_in_pieces(&other, &back, 4));
        scope.spawn(|| assert!(one.recv_to_end() == back, "it differs on the way back"));
        assert!(other.recv_to_end() == there, "it differs on the way there");
    });
    for (id, received, sent) in [(a, &there, &back), (b, &back, &there)] {
        let (closed, reason) = end_of(&log, id);
        assert!(matches!(*reason, CloseReason::Peer), "{reason}");
        let counted = (closed.bytes_in, closed.bytes_out, closed.unsent);
        assert_eq!(counted, (received.len() as u64, sent.len() as u64, 0));
    }
    assert_eq!(log.frames(), 0);
    let told = |what: &What| matches!(what, What::PeerShutdown | What::Drain);
    assert_eq!(log.count(told), 0);
}

#[test]
fn small_messages_go_to_and_fro() {
    let (running, log) = start(local(), |app| app);
    let (one, other, ..) = joined(&running, &log);
    for n in 0..1000_u32 {
        one.send(n.to_be_bytes());
        assert_eq!(other.recv(4), n.to_be_bytes());
        other.send(n.to_le_bytes());
        assert_eq!(one.recv(4), n.to_le_bytes());
    }
}

#[test]
fn many_pairs_share_a_reactor() {
    let (running, log) = start(local(), |app| app);
    let pairs: Vec<_> = (0..50).map(|_| joined(&running, &log)).collect();
    thread::scope(|scope| {
        for (seed, (one, other, ..)) in pairs.iter().enumerate() {
            let bytes = noise(seed as u64, 1 << 20);
            let sent = bytes.clone();
            scope.spawn(move || send_in_pieces(one, &sent, seed as u64));
            scope.spawn(move || assert!(other.recv_to_end() == bytes, "it differs"));
        }
    });
}

#[test]
fn the_end_of_each_direction_is_passed_on_by_itself() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("question");
    one.end_writes();
    assert_eq!(other.recv_to_end(), b"question");
    other.send("answer");
    assert_eq!(one.recv(6), b"answer");
    assert_eq!(log.closed(), 0);
    other.end_writes();
    assert_eq!(one.recv_to_end(), b"");
    for id in [a, b] {
        assert!(matches!(*end_of(&log, id).1, CloseReason::Peer));
    }
}

#[test]
fn an_end_that_came_before_the_joining_is_passed_on() {
    let (running, log) = start(local(), |app| app.on_peer_shutdown(|_, _| Action::Continue));
    let one = Client::to(&running);
    let a = log.await_open(0);
    one.end_writes();
    eventually("the end is seen", || {
        log.count(|what| matches!(what, What::PeerShutdown)) == 1
    });
    let other = Client::to(&running);
    let b = log.await_open(1);
    join(&running, a, b).expect("joins");
    assert_eq!(other.recv_to_end(), b"");
    other.send("still here");
    other.end_writes();
    assert_eq!(one.recv_to_end(), b"still here");
}

#[test]
fn a_reset_is_passed_on() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("hello");
    assert_eq!(other.recv(5), b"hello");
    one.reset();
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    assert!(matches!(*end_of(&log, a).1, CloseReason::Reset(_)));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Pipe));
}

#[test]
fn a_reset_is_passed_on_while_the_other_end_is_stuck() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    fill(&one);
    one.reset();
    assert!(matches!(*end_of(&log, a).1, CloseReason::Reset(_)));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Pipe));
    assert!(Client::is_reset(&other.recv_to_any_end().1));
}

#[test]
fn aborting_one_resets_both() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let handle = running.engine().handle(b).expect("is open");
    handle.abort().expect("is asked");
    assert!(Client::is_reset(&one.recv_to_any_end().1));
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    assert!(matches!(*end_of(&log, a).1, CloseReason::Pipe));
    assert!(matches!(*end_of(&log, b).1, CloseReason::Aborted));
}

#[test]
fn closing_one_sends_what_waits_and_closes_both() {
    let (running, log) = start(local(), |app| app.on_open(open_small));
    let (one, other, a, b) = joined(&running, &log);
    let sent = fill(&one);
    let handle = running.engine().handle(a).expect("is open");
    handle.close().expect("is asked");
    assert_eq!(one.recv_to_end(), b"");
    drop(one);
    // What the reactor had received by then arrives; what it had not read is dropped.
    let arrived = other.recv_to_end().len();
    drop(other);
    let (closed, reason) = end_of(&log, a);
    assert!(matches!(*reason, CloseReason::Local), "{reason}");
    assert!(arrived > 0 && arrived <= sent, "{arrived} of {sent}");
    let (end, reason) = end_of(&log, b);
    assert!(matches!(*reason, CloseReason::Pipe), "{reason}");
    assert_eq!((end.bytes_out, end.unsent), (arrived as u64, 0));
    assert!(closed.bytes_in >= arrived as u64);
}

#[test]
fn a_timeout_of_one_closes_both() {
    let server = local().idle_timeout(Duration::from_millis(200));
    let (running, log) = start(server, |app| app);
    let (one, other, a, b) = joined(&running, &log);
    // Whatever goes through counts for both.
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(50));
        one.send("tick");
        assert_eq!(other.recv(4), b"tick");
    }
    assert_eq!(log.closed(), 0);
    drop((one.recv_to_end(), other.recv_to_end()));
    drop((one, other));
    let reasons = [end_of(&log, a).1, end_of(&log, b).1];
    let timed_out =
        |reason: &CloseReason| matches!(reason, CloseReason::Timeout(TimeoutKind::Idle));
    assert!(reasons.iter().any(|reason| timed_out(reason)));
    let expected = |reason: &CloseReason| timed_out(reason) || matches!(reason, CloseReason::Pipe);
    assert!(reasons.iter().all(|reason| expected(reason)), "{reasons:?}");
}

#[test]
fn a_shutdown_drains_both() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    one.send("last words");
    assert_eq!(other.recv(10), b"last words");
    running.engine().shutdown();
    assert_eq!(one.recv_to_end(), b"");
    assert_eq!(other.recv_to_end(), b"");
    drop((one, other));
    let report = running.join();
    assert_eq!((report.drained, report.forced), (2, 0));
    for id in [a, b] {
        assert!(matches!(*end_of(&log, id).1, CloseReason::Shutdown));
    }
}

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
                        assert_eq!(conn.pipe(other), Err(PipeError::Joined(conn.id())));
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
fn only_the_applications_own_bytes_are_shown_before_they_are_sent() {
    static SHOWN: AtomicUsize = AtomicUsize::new(0);
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            conn.write(b"welcome").expect("is taken");
            true
        })
        .pre_write(|_, bytes| {
            SHOWN.fetch_add(bytes.len(), Ordering::Relaxed);
        })
    });
    let (one, other, ..) = joined(&running, &log);
    one.send(noise(5, 1 << 20));
    one.end_writes();
    assert_eq!(other.recv_to_end().len(), 7 + (1 << 20));
    assert_eq!(SHOWN.load(Ordering::Relaxed), 14);
}

#[test]
fn one_that_is_joined_cannot_be_detached_and_its_write_side_not_be_shut() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, _) = joined(&running, &log);
    let refused = with(&running, a, |conn| {
        conn.shutdown_write();
        conn.detach(|_| ())
    });
    assert_eq!(refused, Err(DetachError::Joined));
    other.send("still open");
    assert_eq!(one.recv(10), b"still open");
}

#[test]
fn one_that_is_paused_holds_its_direction_up() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, _) = joined(&running, &log);
    with(&running, a, |conn| {
        conn.pause_reads();
    });
    one.send("wait");
    other.send("go");
    assert_eq!(one.recv(2), b"go");
    assert_eq!(running.engine().stats().total().bytes_in, 2);
    with(&running, a, |conn| {
        conn.resume_reads();
    });
    assert_eq!(other.recv(4), b"wait");
}

/// Does something with a connection, and waits until it is done.
fn with<T: Send + 'static>(
    running: &Running<App>,
    id: ConnId,
    task: impl FnOnce(&mut Conn<'_, App>) -> T + Send + 'static,
) -> T {
    let (answer, answers) = mpsc::channel();
    let handle = running.engine().handle(id).expect("is open");
    let task = move |_: &mut App, conn: &mut Conn<'_, App>, _: &mut _| {
        answer.send(task(conn)).expect("is awaited");
    };
    handle.run(task).expect("runs");
    answers.recv_timeout(LONG).expect("answers")
}

/// Little fits into the server's sockets, so that much waits in between.
fn open_small(conn: &mut Conn<'_, App>) -> bool {
    util::client::shrink(conn);
    true
}

/// Sends until nothing more is taken; says how much was.
fn fill(client: &Client) -> usize {
    client.0.set_nonblocking(true).expect("is set");
    let chunk = noise(6, 64 << 10);
    let mut sent = 0;
    let mut refused = 0;
    while refused < 100 {
        match (&client.0).write(&chunk[sent % chunk.len()..]) {
            Ok(n) => {
                sent += n;
                refused = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    client.0.set_nonblocking(false).expect("is set");
    sent
}

#[test]
fn a_slow_end_is_waited_for_in_little_memory_and_delays_nobody_else() {
    let (running, log) = start(local(), |app| app);
    let (one, other, a, b) = joined(&running, &log);
    let bystander = Client::to(&running);
    bystander.round_trip("before");
    let sent = fill(&one);
    let waits = |id| with(&running, id, |conn| conn.buffered_out());
    assert!(waits(b) > 0 && waits(b) <= 1 << 20, "{}", waits(b));
    assert_eq!(waits(a), 0);
    assert!(running.engine().stats().total().buffered <= 1 << 20);
    for _ in 0..100 {
        bystander.round_trip("meanwhile");
    }
    // The other direction is not stuck.
    other.send("hello");
    assert_eq!(one.recv(5), b"hello");
    let mut chunk = vec![0; 64 << 10];
    let expected = noise(6, 64 << 10);
    let mut received = 0;
    while received < sent {
        let n = (&other.0).read(&mut chunk).expect("receives");
        assert!(n > 0, "it ends after {received} of {sent}");
        for (at, byte) in chunk[..n].iter().enumerate() {
            assert_eq!(*byte, expected[(received + at) % expected.len()]);
        }
        received += n;
    }
    one.end_writes();
    assert_eq!(other.recv_to_end(), b"");
}

#[test]
fn more_slow_ends_than_there_are_kernel_pipes_all_get_their_bytes() {
    let (running, log) = start(local(), |app| app);
    let pairs: Vec<_> = (0..40).map(|_| joined(&running, &log)).collect();
    let bytes = noise(7, 8 << 20);
    thread::scope(|scope| {
        for (one, ..) in &pairs {
            scope.spawn(|| {
                one.send(&bytes);
                one.end_writes();
            });
        }
        // All are stuck before the first is read.
        let total = || running.engine().stats().total().bytes_in;
        let mut last = 0;
        eventually("nothing moves", || {
            let before = std::mem::replace(&mut last, total());
            thread::sleep(Duration::from_millis(20));
            before > 0 && before == total()
        });
        for (_, other, ..) in &pairs {
            assert!(other.recv_to_end() == bytes, "it differs");
        }
    });
}

#[test]
fn a_unix_socket_and_a_tcp_one_can_be_joined() {
    let path = TempPath::new();
    let (running, log) = start(local().and(path.addr()), |app| app);
    let one = Client::to(&running);
    let a = log.await_open(0);
    let other = Client::connect(&running.local_addrs()[1]);
    let b = log.await_open(1);
    join(&running, a, b).expect("joins");
    let (there, back) = (noise(8, 16 << 20), noise(9, 16 << 20));
    thread::scope(|scope| {
        scope.spawn(|| send_in_pieces(&one, &there, 10));
        scope.spawn(|| send_in_pieces(&other, &back, 11));
        scope.spawn(|| assert!(one.recv_to_end() == back, "it differs on the way back"));
        assert!(other.recv_to_end() == there, "it differs on the way there");
    });
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
    assert_eq!(join(&running, a, b), Err(PipeError::Joined(a)));
    let third = Client::to(&running);
    third.round_trip("not disturbed");
    for error in [
        PipeError::Itself,
        PipeError::OtherReactor(a),
        PipeError::NotOpen(a),
        PipeError::Joined(a),
        PipeError::NoStream(a),
    ] {
        assert!(!error.to_string().is_empty());
    }
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

#[test]
fn a_panic_at_the_end_of_one_does_not_keep_the_other() {
    expect_panics();
    let (running, log) = start(local(), |app| app.on_close(|_, _| panic!("on purpose")));
    let (one, other, ..) = joined(&running, &log);
    one.reset();
    assert!(Client::is_reset(&other.recv_to_any_end().1));
    eventually("both are gone", || running.engine().connections() == 0);
    Client::to(&running).round_trip("business as usual");
}

#[test]
fn descriptors_do_not_leak() {
    alone("descriptors_do_not_leak", || {
        let before = descriptors();
        let server = Server::bind("tcp://127.0.0.1:0").reactors(1);
        let (running, log) = start(server, |app| app.on_open(open_small));
        for n in 0..30 {
            let (one, other, a, _) = joined(&running, &log);
            match n % 4 {
                0 => {
                    one.send(noise(1, 1 << 20));
                    one.end_writes();
                    other.end_writes();
                    assert_eq!(other.recv_to_end().len(), 1 << 20);
                }
                // What is stuck in the kernel's pipe goes with the connection.
                1 => {
                    fill(&one);
                    one.reset();
                }
                2 => {
                    fill(&one);
                    let handle = running.engine().handle(a).expect("is open");
                    handle.abort().expect("is asked");
                }
                _ => drop((one, other)),
            }
        }
        eventually("all are gone", || running.engine().connections() == 0);
        running.engine().shutdown();
        drop(running.join());
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn a_joined_pair_costs_no_turns_while_nothing_moves() {
    let (running, log) = start(local(), |app| app);
    let (one, other, ..) = joined(&running, &log);
    let stuck = joined(&running, &log);
    fill(&stuck.0);
    one.send("hello");
    assert_eq!(other.recv(5), b"hello");
    let turns = || running.engine().stats().total().turns;
    let last = AtomicU64::new(0);
    eventually("it is quiet", || {
        let before = last.swap(turns(), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
        turns() - before < 5
    });
}
