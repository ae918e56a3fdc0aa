//! A callback reaches the other connections of its reactor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::{Action, CloseReason, Conn, ConnId, Running, Server, WriteError};

use crate::util::app::{App, Cut, Log, Session, local, start};
use crate::util::client::{Client, shrink};
use crate::util::{LONG, eventually, expect_panics, noise};

/// The connections of a server, in the order in which they opened.
#[derive(Clone, Default)]
struct Opened(Arc<Mutex<Vec<ConnId>>>);

impl Opened {
    fn watch(&self, app: App) -> App {
        let this = self.clone();
        app.on_open(move |conn| {
            this.0.lock().expect("is sound").push(conn.id());
            true
        })
    }

    fn get(&self, n: usize) -> ConnId {
        self.0.lock().expect("is sound")[n]
    }
}

/// Starts a server with `react`, and connects clients to it one after the other.
fn scene<const N: usize>(
    server: Server,
    react: impl Fn(&Opened, &mut Conn<'_, App>, &[u8]) -> Action + Send + Sync + Clone + 'static,
) -> (Running<App>, Arc<Log>, [Client; N]) {
    let opened = Opened::default();
    let (running, log) = start(server, move |app| {
        let (opened, react) = (opened.clone(), react.clone());
        opened
            .watch(app.codec(Cut::Lines(Lines::new())))
            .react(move |conn, _, line| react(&opened, conn, line))
    });
    let clients = std::array::from_fn(|n| {
        let client = Client::to(&running);
        log.await_open(n);
        client
    });
    // The clients come last, so that they hang up before the server shuts down.
    (running, log, clients)
}

#[test]
fn a_callback_writes_to_another_connection_at_once_and_gets_the_result() {
    let (running, _log, [sender, receiver]) = scene(local(), |opened, conn, line| {
        let sent = conn.with(opened.get(1), |other, session: &mut Session| {
            session.number += 1;
            (other.write(line).is_ok(), session.number)
        });
        conn.write(format!("{sent:?}").as_bytes()).into()
    });
    sender.send("one\ntwo\n");
    assert_eq!(receiver.recv(6), b"onetwo");
    let answers = "Some((true, 1))Some((true, 2))";
    assert_eq!(sender.recv(answers.len()), answers.as_bytes());
    // No mailbox, no wake-up: both were sent in the turn that read them.
    let before = running.engine().stats().total().turns;
    sender.send("three\n");
    assert_eq!(receiver.recv(5), b"three");
    assert!(running.engine().stats().total().turns <= before + 2);
}

#[test]
fn a_connection_in_hand_or_gone_or_elsewhere_is_not_reached() {
    let (_running, log, [one, two, gone]) = scene(local(), |opened, conn, _| {
        let [one, two, gone] = [0, 1, 2].map(|n| opened.get(n));
        let itself = conn.with(one, |_, _| ());
        let stale = conn.with(gone, |_, _| ());
        let back_and_forth = conn.with(two, |other, _| {
            let back = other.with(one, |_, _| ()).is_some();
            let again = other.with(two, |_, _| ()).is_some();
            (back, again, other.reactor().with(one, |_, _| ()).is_some())
        });
        let closing = conn.with(two, |other, _| {
            other.close();
            other.is_open()
        });
        let closed = conn.with(two, |_, _| ());
        let results = (itself, stale, back_and_forth, closing, closed);
        conn.write(format!("{results:?}").as_bytes()).into()
    });
    drop(gone);
    log.await_close(0);
    one.send("go\n");
    let expected = "(None, None, Some((false, false, false)), Some(false), None)";
    assert_eq!(one.recv(expected.len()), expected.as_bytes());
    assert_eq!(two.recv_to_end(), b"");

    let server = Server::bind("tcp://127.0.0.1:0").reactors(2);
    let (_running, _log, [one, _two]) = scene(server, |opened, conn, _| {
        let reached = conn.with(opened.get(1), |_, _| ());
        conn.write(format!("{reached:?}").as_bytes()).into()
    });
    one.send("go\n");
    assert_eq!(one.recv(4), b"None");
}

/// Sends `line` to the second connection.
fn tell(opened: &Opened, conn: &mut Conn<'_, App>, line: &str) -> Action {
    let written = conn.with(opened.get(1), |other, _| other.write(line.as_bytes()));
    written.unwrap_or(Err(WriteError::Closed)).into()
}

#[test]
fn every_callback_reaches_other_connections() {
    let opened = Opened::default();
    let (running, log) = start(local().high_water(1 << 10).low_water(0), move |app| {
        let opened = opened.clone();
        let [
            at_open,
            at_frame,
            at_timer,
            at_drain,
            at_end,
            at_close,
            at_task,
        ] = std::array::from_fn(|_| opened.clone());
        opened
            .watch(app)
            .on_open(move |conn| {
                at_open.0.lock().expect("is sound").push(conn.id());
                if at_open.0.lock().expect("is sound").len() == 3 {
                    let _ = tell(&at_open, conn, "opened;");
                }
                true
            })
            .react(move |conn, _, frame| {
                let task = at_task.clone();
                conn.defer(move |_, reactor| {
                    reactor.with(task.get(1), |other, _| other.write(b"deferred;"));
                });
                conn.set_timer(Duration::from_millis(1), 0);
                let _ = conn.write(&vec![b'x'; frame.len() << 12]);
                assert!(!conn.has_room(), "a drain is to follow");
                tell(&at_frame, conn, "reacted;")
            })
            .on_drain(move |conn, _| tell(&at_drain, conn, "drained;"))
            .on_timer(move |conn, _, _| tell(&at_timer, conn, "timed;"))
            .on_peer_shutdown(move |conn, _| {
                let _ = tell(&at_end, conn, "ended;");
                Action::Close
            })
            .on_close(move |reactor, info, _| {
                if info.id == at_close.get(2) {
                    reactor.with(at_close.get(1), |other, _| other.write(b"closed;"));
                }
            })
    });
    let clients = [0, 1].map(|n| {
        let client = Client::to(&running);
        log.await_open(n);
        client
    });
    let third = Client::to(&running);
    let heard = |what: &str| assert_eq!(clients[1].recv(what.len()), what.as_bytes());
    heard("opened;");
    third.send("!");
    heard("reacted;deferred;");
    // The order of these two depends on the peer.
    let later = clients[1].recv(14);
    assert!(
        later == b"timed;drained;" || later == b"drained;timed;",
        "{later:?}"
    );
    assert_eq!(third.recv(1 << 12).len(), 1 << 12);
    third.end_writes();
    heard("ended;closed;");
}

#[test]
fn what_was_done_to_another_connection_is_told_to_its_handler_after_the_callback() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (told, opened) = (order.clone(), Opened::default());
    let (running, log) = start(local(), move |app| {
        let (opened, in_react, in_close) = (opened.clone(), told.clone(), told.clone());
        opened
            .watch(app)
            .react(move |conn, _, _| {
                conn.with(opened.get(1), |other, _| other.abort());
                in_react.lock().expect("is sound").push("react returns");
                Action::Continue
            })
            .on_close(move |_, _, reason| {
                assert!(matches!(reason, CloseReason::Aborted));
                in_close.lock().expect("is sound").push("on_close");
            })
    });
    let clients = [0, 1].map(|n| {
        let client = Client::to(&running);
        log.await_open(n);
        client
    });
    clients[0].send("go");
    assert!(Client::is_reset(&clients[1].recv_to_any_end().1));
    eventually("both are told", || {
        order.lock().expect("is sound").len() == 2
    });
    assert_eq!(
        *order.lock().expect("is sound"),
        ["react returns", "on_close"]
    );
}

#[test]
fn a_slow_receiver_pushes_back_on_the_sender() {
    let piece = 64 << 10;
    let opened = Opened::default();
    let (full, is_full) = mpsc::channel();
    let server = local()
        .outbound_limit(256 << 10)
        .high_water(128 << 10)
        .low_water(0);
    let (running, log) = start(server, move |app| {
        let (opened, full, at_drain) = (opened.clone(), full.clone(), opened.clone());
        opened
            .clone()
            .watch(app)
            .react(move |conn, _, frame| {
                let target = opened.get(1);
                let has_room = conn.with(target, |other, _| {
                    shrink(other);
                    let _ = other.write(frame);
                    other.has_room()
                });
                if has_room == Some(false) {
                    conn.pause_reads();
                    let _ = full.send(());
                }
                Action::Continue
            })
            .on_drain(move |conn, _| {
                conn.with(at_drain.get(0), |sender, _| sender.resume_reads());
                Action::Continue
            })
    });
    let sender = Client::to(&running);
    log.await_open(0);
    let receiver = Client::with_small_window(&running);
    log.await_open(1);
    let sent = noise(3, 40 * piece);
    let (to_send, writer) = (sent.clone(), sender.clone());
    let thread = std::thread::spawn(move || writer.send(&to_send));
    is_full.recv_timeout(LONG).expect("the sender is paused");
    assert_eq!(receiver.recv(sent.len()), sent);
    thread.join().expect("all is sent");
}

#[test]
fn a_panic_with_another_connection_in_hand_closes_both() {
    expect_panics();
    let (running, log, [one, two, three]) = scene(local(), |opened, conn, _| {
        conn.with(opened.get(1), |other, _| {
            let _ = other.write(b"before");
            panic!("on purpose");
        });
        Action::Continue
    });
    one.send("go\n");
    assert_eq!(two.recv_to_any_end().0, b"before");
    let _ = one.recv_to_any_end();
    drop((one, two));
    for n in 0..2 {
        let (_, reason) = log.await_close(n);
        assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
    }
    assert_eq!(running.engine().stats().total().panics, 1);
    eventually("the other is left", || {
        running.engine().stats().total().connections == 1
    });
    drop(three);
}

#[test]
fn a_panic_that_the_handler_catches_closes_the_inner_connection_alone() {
    expect_panics();
    let (running, log, [one, two]) = scene(local(), |opened, conn, _| {
        let id = opened.get(1);
        let panics = || conn.with(id, |_, _| panic!("on purpose"));
        let caught = catch_unwind(AssertUnwindSafe(panics)).is_err();
        let closed = conn.with(id, |_, _| ()).is_none();
        conn.write(format!("{caught} {closed}").as_bytes()).into()
    });
    one.send("go\n");
    assert_eq!(one.recv(9), b"true true");
    let _ = two.recv_to_any_end();
    drop(two);
    let (closed, reason) = log.await_close(0);
    assert_eq!(closed.id, log.ids()[1]);
    assert!(matches!(*reason, CloseReason::Panic), "{reason:?}");
    one.send("go\n");
    one.recv(4);
    eventually("the other is left", || {
        running.engine().stats().total().connections == 1
    });
}

#[test]
fn a_broadcast_from_a_callback_reaches_all_others() {
    let (_running, _log, [one, two, three]) = scene(local(), |_, conn, line| {
        let reached = conn.reactor().broadcast(line.to_vec());
        conn.write(format!("reached {reached}").as_bytes()).into()
    });
    one.send("news\n");
    assert_eq!(one.recv(9), b"reached 2");
    assert_eq!(two.recv(4), b"news");
    assert_eq!(three.recv(4), b"news");
}
