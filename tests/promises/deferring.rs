//! Tasks that callbacks leave for the end of the turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use epicycle::codec::Lines;
use epicycle::{Action, Conn, ConnId, ConnInfo, EventHandler, Reactor};

use crate::util::app::{App, Cut, local, start};
use crate::util::client::Client;
use crate::util::{LONG, eventually, expect_panics};

#[test]
fn a_deferred_task_runs_once_the_input_of_the_turn_is_handled() {
    let lines = Arc::new(AtomicUsize::new(0));
    let (running, _log) = start(local(), move |app| {
        let lines = lines.clone();
        app.codec(Cut::Lines(Lines::new()))
            .react(move |conn, _, _| {
                if lines.fetch_add(1, Ordering::Relaxed) == 0 {
                    let (id, lines) = (conn.id(), lines.clone());
                    conn.defer(move |_, reactor| {
                        let count = lines.swap(0, Ordering::Relaxed);
                        reactor.with(id, |conn, _| conn.write(format!("{count};").as_bytes()));
                    });
                }
                Action::Continue
            })
    });
    let client = Client::to(&running);
    client.send("a\nb\nc\nd\n");
    assert_eq!(client.recv(2), b"4;");
    // Its output is sent in the same turn, with what the callbacks wrote: no event has to come first.
    client.send("e\n");
    assert_eq!(client.recv(2), b"1;");
}

/// Defers itself again until it has run so often.
fn again(reactor: &mut Reactor<'_, App>, left: usize, done: mpsc::Sender<usize>) {
    reactor.defer(move |_, reactor| match left {
        0 => done.send(reactor.connections()).expect("is awaited"),
        left => again(reactor, left - 1, done),
    });
}

#[test]
fn a_task_that_a_task_defers_runs_in_the_next_turn_which_begins_at_once() {
    let (running, _log) = start(local(), |app| app);
    let (send, done) = mpsc::channel();
    let before = running.engine().stats().total().turns;
    running
        .engine()
        .run_on(0, move |_, reactor| again(reactor, 1000, send))
        .expect("is taken");
    assert_eq!(done.recv_timeout(LONG).expect("all have run"), 0);
    eventually("each has had its turn", || {
        running.engine().stats().total().turns >= before + 1000
    });
}

#[test]
fn a_panic_in_a_deferred_task_costs_no_other_task() {
    expect_panics();
    let (running, _log) = start(local(), |app| app);
    let (send, done) = mpsc::channel();
    running
        .engine()
        .run_on(0, move |_, reactor| {
            for n in 0..5 {
                let send = send.clone();
                reactor.defer(move |_, _| {
                    assert!(n % 2 == 0, "on purpose");
                    send.send(n).expect("is awaited");
                });
            }
        })
        .expect("is taken");
    let ran: Vec<_> = (0..3)
        .map(|_| done.recv_timeout(LONG).expect("it runs"))
        .collect();
    assert_eq!(ran, [0, 2, 4]);
    eventually("both panics count", || {
        running.engine().stats().total().panics == 2
    });
    Client::to(&running).round_trip("hello");
}

#[test]
fn a_task_that_is_deferred_at_the_shutdown_runs() {
    let (send, done) = mpsc::channel();
    let (running, _log) = start(local(), move |app| {
        let send = send.clone();
        app.on_shutdown(move |reactor| {
            let send = send.clone();
            reactor.defer(move |_, _| send.send(()).expect("is awaited"));
        })
    });
    Client::to(&running).round_trip("hello");
    running.shutdown();
    done.try_recv().expect("it has run");
}

/// Counts the lines of a turn, and answers each with the count at the end of it.
struct Batches {
    waiting: Vec<ConnId>,
    calls: Arc<AtomicUsize>,
}

impl EventHandler for Batches {
    type Codec = Lines;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::new()
    }

    fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), line: &[u8]) -> Action {
        match line {
            b"quiet" => return conn.send("quiet").into(),
            b"deferred" => conn.defer(|this, reactor| {
                this.waiting.clear();
                reactor.request_turn_end();
            }),
            _ => conn.request_turn_end(),
        }
        self.waiting.push(conn.id());
        Action::Continue
    }

    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        let count = self.waiting.len();
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(count != 3, "on purpose: three lines");
        for id in self.waiting.drain(..) {
            reactor.with(id, |conn, ()| conn.send(format!("{count} in {calls}")));
        }
        if calls == 2 {
            // At the end of the next turn.
            reactor.request_turn_end();
        }
    }
}

#[test]
fn on_turn_end_is_called_once_in_a_turn_that_asks_for_it_and_not_in_others() {
    expect_panics();
    let calls = Arc::new(AtomicUsize::new(0));
    let for_handler = Arc::clone(&calls);
    let running = local()
        .start(move |_| Batches {
            waiting: Vec::new(),
            calls: Arc::clone(&for_handler),
        })
        .expect("starts");
    let client = Client::to(&running);
    client.round_trip("quiet\n");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    client.round_trip_with("a\nb\n", "2 in 1\n2 in 1\n");
    client.round_trip_with("c\n", "1 in 2\n");
    eventually("the second call has asked for a third", || {
        calls.load(Ordering::Relaxed) == 3
    });
    client.send("deferred\n");
    eventually("a deferred task asks, too", || {
        calls.load(Ordering::Relaxed) == 4
    });
    // A panic there costs no connection, and no later turn.
    client.send("d\ne\nf\n");
    eventually("it panics", || running.engine().stats().total().panics == 1);
    client.round_trip_with("g\n", &"4 in 6\n".repeat(4));
}
