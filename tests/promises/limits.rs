//! Limits that belong to a listener, to an outbound connection or to one connection, and deadlines.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use epicycle::codec::Lines;
use epicycle::{
    Action, CloseReason, Conn, ConnInfo, ConnLimits, Connect, ConnectError, Error, EventHandler,
    Listen, OutboundPolicy, Server, TimeoutKind, UdpSessions, WriteError,
};

use crate::util::app::{App, Cut, Log, local, start};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, eventually};

/// Short, but long against what a busy machine delays things by.
const LIMIT: Duration = Duration::from_millis(300);

fn lines(app: App) -> App {
    app.codec(Cut::Lines(Lines::new()))
        .react(|conn, _, line| conn.send(line).into())
}

fn reason(log: &Log, n: usize) -> Arc<CloseReason> {
    log.await_close(n).1
}

fn idle() -> ConnLimits {
    ConnLimits::new().idle_timeout(LIMIT)
}

#[test]
fn the_limits_of_a_listener_hold_for_its_connections_alone() {
    let server = local()
        .max_frame(1000)
        .and(Listen::on("tcp://127.0.0.1:0").limits(idle().max_frame(50)));
    let (running, log) = start(server, lines);
    let addrs = running.local_addrs();
    let (usual, strict, silent) = (
        Client::connect(&addrs[0]),
        Client::connect(&addrs[1]),
        Client::connect(&addrs[1]),
    );
    let long = "x".repeat(100) + "\n";
    usual.round_trip(&long);
    strict.send("x".repeat(100));
    let _ = strict.recv_to_any_end();
    drop(strict);
    assert!(matches!(*reason(&log, 0), CloseReason::Frame(_)));
    assert_eq!(silent.recv_to_end(), b"");
    drop(silent);
    let timed_out = CloseReason::Timeout(TimeoutKind::Idle);
    assert_eq!(reason(&log, 1).to_string(), timed_out.to_string());
    usual.round_trip(&long);
}

#[test]
fn a_listener_that_is_opened_later_has_its_label_and_its_limits() {
    struct Label;
    impl EventHandler for Label {
        type Codec = Lines;
        type Session = String;

        fn codec(&mut self, info: &ConnInfo<'_>) -> Lines {
            assert_eq!(info.label(), "later");
            Lines::new()
        }

        fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<String> {
            assert_eq!(conn.label(), "later");
            Some(String::new())
        }

        fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut String, line: &[u8]) -> Action {
            conn.send(line).into()
        }
    }
    let running = epicycle::Client::new().start(|_| Label).expect("starts");
    let listen = Listen::on("tcp://127.0.0.1:0")
        .label("later")
        .limits(idle());
    let listening = running.engine().listen(listen).expect("listens");
    let client = Client::connect(&listening.local_addr);
    client.round_trip("hello\n");
    assert_eq!(client.recv_to_end(), b"");
    eventually("it timed out", || {
        running.engine().stats().total().timeouts == 1
    });

    let wrong = Listen::on("tcp://127.0.0.1:0").limits(ConnLimits::new().high_water(0));
    let Err(Error::Option { name, .. }) = running.engine().listen(wrong) else {
        panic!("it is wrong");
    };
    assert_eq!(name, "high_water");
}

#[test]
fn limits_that_cannot_work_are_named_before_anything_starts() {
    let refused = |limits: ConnLimits, name: &str| {
        let server = local().outbound_limit(1 << 20).low_water(1000);
        let server = server.and(Listen::on("tcp://127.0.0.1:0").limits(limits.clone()));
        match server.start(|_| epicycle::service(|_, _| Action::Continue)) {
            Err(Error::Option { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{limits:?}: {other:?}"),
        }
    };
    refused(
        ConnLimits::new().idle_timeout(Duration::ZERO),
        "idle_timeout",
    );
    refused(ConnLimits::new().max_frame(0), "max_frame");
    refused(ConnLimits::new().high_water(2 << 20), "high_water");
    refused(
        ConnLimits::new().high_water(500).low_water(500),
        "low_water",
    );
    refused(ConnLimits::new().outbound_limit(1), "outbound_limit");

    let (running, _log) = start(local(), lines);
    let connect = Connect::to("tcp://127.0.0.1:1").limits(ConnLimits::new().max_queued_files(0));
    let Err(ConnectError::Option(Error::Option { name, .. })) = running.engine().connect(connect)
    else {
        panic!("it is wrong");
    };
    assert_eq!(name, "max_queued_files");
}

#[test]
fn the_limits_of_an_outbound_connection_hold_for_it_alone() {
    let (server, _) = start(local(), lines);
    let (running, log) = start(local(), lines);
    let addr = server.local_addrs()[0].as_socket_addr().expect("TCP");
    running.engine().connect(addr).expect("is taken");
    log.await_open(0);
    let silent = Connect::to(addr).limits(idle());
    running.engine().connect(silent).expect("is taken");
    log.await_open(1);
    let (closed, reason) = log.await_close(0);
    assert_eq!(closed.id, log.ids()[1]);
    assert!(matches!(*reason, CloseReason::Timeout(TimeoutKind::Idle)));
    eventually("the other one stays", || {
        running.engine().connections() == 1
    });
}

#[test]
fn an_open_connection_changes_its_limits_and_keeps_the_others() {
    let (running, log) = start(local().max_frame(50), |app| {
        app.codec(Cut::Lines(Lines::new())).react(|conn, _, line| {
            match line {
                b"idle" => conn.set_limits(&idle()).expect("can work"),
                b"patient" => {
                    let limits = ConnLimits::new().idle_timeout(Duration::MAX);
                    conn.set_limits(&limits).expect("can work");
                }
                b"wrong" => {
                    let limits = ConnLimits::new().outbound_limit(0);
                    assert!(conn.set_limits(&limits).is_err());
                }
                _ => {}
            }
            conn.send(line).into()
        })
    });
    let (changes, usual) = (Client::to(&running), Client::to(&running));
    changes.round_trip("idle\n");
    changes.round_trip("wrong\n");
    assert_eq!(changes.recv_to_end(), b"");
    drop(changes);
    assert!(matches!(
        *reason(&log, 0),
        CloseReason::Timeout(TimeoutKind::Idle)
    ));
    usual.round_trip("idle\n");
    usual.round_trip("patient\n");
    std::thread::sleep(LIMIT + LIMIT / 2);
    usual.round_trip("still here\n");
    usual.send("x".repeat(60));
    let _ = usual.recv_to_any_end();
    drop(usual);
    assert!(
        matches!(*reason(&log, 1), CloseReason::Frame(_)),
        "as before"
    );
}

#[test]
fn marks_and_the_outbound_limit_are_those_of_the_connection() {
    let (running, _log) = start(local().high_water(1 << 20), |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            let limits = ConnLimits::new()
                .outbound_limit(64 << 10)
                .high_water(1 << 10)
                .outbound_policy(OutboundPolicy::Drop);
            conn.set_limits(&limits).expect("can work");
            assert!(conn.write(&[b'a'; 2 << 10]).is_ok());
            assert!(!conn.has_room(), "it is above the connection's mark");
            // Once the kernel has refused some, the limit holds.
            conn.set_timer(Duration::from_millis(1), 0);
            Action::Continue
        })
        .on_timer(|conn, _, _| {
            match conn.write(&[b'a'; 16 << 10]) {
                Ok(()) => {
                    conn.set_timer(Duration::from_micros(100), 0);
                }
                Err(WriteError::Full { limit, .. }) => {
                    assert_eq!(limit, 64 << 10);
                    conn.abort();
                }
                Err(error) => panic!("{error}"),
            }
            Action::Continue
        })
    });
    let client = Client::with_small_window(&running);
    client.send("go");
    eventually("the limit is met", || {
        running.engine().stats().total().overflows == 1
    });
    eventually("it ends", || running.engine().connections() == 0);
    assert_eq!(running.engine().stats().total().panics, 0);
}

#[test]
fn sessions_of_a_udp_listener_have_its_limits_and_their_own_idle_timeout() {
    let listen = Listen::on("udp://127.0.0.1:0")
        .sessions(UdpSessions::new().idle_timeout(LIMIT))
        .limits(
            ConnLimits::new()
                .idle_timeout(Duration::from_millis(1))
                .lifetime(2 * LIMIT),
        );
    let (running, log) = start(Server::bind(listen).reactors(1), |app| app);
    let addr = running.local_addrs()[0].as_socket_addr().expect("UDP");
    let peer = |port_keeps_busy: bool| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.connect(addr).expect("connects");
        socket.set_read_timeout(Some(LONG)).expect("is set");
        socket.send(b"hello").expect("sends");
        let mut answer = [0; 9];
        assert_eq!(socket.recv(&mut answer).expect("an answer"), 5);
        let began = Instant::now();
        while port_keeps_busy && began.elapsed() < 2 * LIMIT + LIMIT / 2 {
            let _ = socket.send(b"hello");
            std::thread::sleep(LIMIT / 10);
        }
    };
    peer(false);
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Timeout(TimeoutKind::Idle)));
    assert!(closed.open_for >= LIMIT, "not after 1 ms");
    peer(true);
    let (_, reason) = log.await_close(1);
    assert!(
        matches!(*reason, CloseReason::Timeout(TimeoutKind::Lifetime)),
        "{reason:?}"
    );
}

/// Sets a deadline for each line: in how many ms, or none. Counts those that are over.
struct Hurried {
    over: mpsc::Sender<Instant>,
    /// True if it panics when one is over.
    panics: bool,
}

impl EventHandler for Hurried {
    type Codec = Lines;
    /// True if a deadline closes it.
    type Session = bool;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<bool> {
        Some(false)
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, closes: &mut bool, line: &[u8]) -> Action {
        let line = std::str::from_utf8(line).expect("text");
        match line.strip_prefix("close ") {
            Some(_) => *closes = true,
            None => *closes = false,
        }
        let after = line.trim_start_matches("close ").parse().ok();
        conn.set_deadline(after.map(Duration::from_millis));
        conn.send(line).into()
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>, closes: &mut bool) -> Action {
        let _ = self.over.send(conn.now());
        if *closes {
            return Action::Close;
        }
        assert!(!self.panics, "as it should");
        conn.send("over").into()
    }
}

#[test]
fn a_deadline_is_told_once_never_early_and_replaced_or_taken_back() {
    let (over, overs) = mpsc::channel();
    let running = local()
        .start(move |_| Hurried {
            over: over.clone(),
            panics: false,
        })
        .expect("starts");
    let client = Client::to(&running);
    let began = Instant::now();
    client.round_trip_with("50\n", "50\n");
    assert_eq!(client.recv(5), b"over\n");
    assert!(overs.recv_timeout(LONG).expect("it is over") >= began + Duration::from_millis(50));
    // Replaced by a later one, then by none, then by an earlier one.
    client.round_trip("30\n");
    client.round_trip("300\n");
    client.round_trip("none\n");
    std::thread::sleep(Duration::from_millis(400));
    assert!(overs.try_recv().is_err(), "it was taken back");
    client.round_trip("100000\n");
    client.round_trip_with("20\n", "20\n");
    assert_eq!(client.recv(5), b"over\n");
    overs.recv_timeout(LONG).expect("it is over");
    // It closes the connection if the handler says so, as by default.
    client.send("close 10\n");
    assert_eq!(client.recv_to_end(), b"close 10\n");
    assert!(overs.recv_timeout(LONG).is_ok());
    assert!(overs.try_recv().is_err(), "once");
    drop(client);
    eventually("it counts", || {
        running.engine().stats().total().timeouts == 1
    });
}

#[test]
fn a_panic_at_a_deadline_closes_the_connection() {
    let (over, _overs) = mpsc::channel();
    let running = local().start(move |_| Hurried {
        over: over.clone(),
        panics: true,
    });
    let running = running.expect("starts");
    let (client, other) = (Client::to(&running), Client::to(&running));
    other.round_trip("none\n");
    client.round_trip("20\n");
    eventually("it is closed", || running.engine().connections() == 1);
    other.round_trip("none\n");
    assert_eq!(running.engine().stats().total().panics, 1);
}

#[test]
fn input_that_waits_for_a_slow_reader_is_read_once_the_limits_allow_it() {
    let (running, _log) = start(local().high_water(1 << 10), |app| {
        app.react(|conn, _, order| match order {
            b"much" => {
                shrink(conn);
                conn.write(&vec![b'a'; 4 << 20]).into()
            }
            b"change" => {
                let limits = ConnLimits::new().outbound_policy(OutboundPolicy::Drop);
                let change = |other: &mut Conn<'_, _>| other.set_limits(&limits).expect("can work");
                conn.reactor().for_each(|other, _| change(other));
                Action::Continue
            }
            _ => Action::Continue,
        })
    });
    let frames = || running.engine().stats().total().frames;
    let slow = Client::with_small_window(&running);
    slow.send("much");
    assert_eq!(slow.recv(1), b"a");
    slow.send("waits");
    let other = Client::to(&running);
    other.send("anything");
    eventually("the other one is served", || frames() == 2);
    other.send("change");
    eventually("the input is read", || frames() == 4);
}
