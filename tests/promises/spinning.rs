//! Loops that spin before they sleep.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use epicycle::{Action, Client as Dialler};

use crate::util::app::{local, start, start_client};
use crate::util::client::Client;
use crate::util::process::{alone, cpu_time};
use crate::util::{LONG, eventually};

#[test]
fn a_loop_that_never_sleeps_does_all_that_another_one_does() {
    let server = local().reactors(2).spin(Duration::MAX);
    let (running, log) = start(server, |app| {
        app.react(|conn, _, frame| {
            // Due while nothing else is.
            conn.set_timer(Duration::from_millis(20), 7);
            conn.write(frame).into()
        })
        .on_timer(|conn, _, token| {
            assert_eq!(token, 7);
            conn.write(b"ring").into()
        })
    });
    for n in 0..4 {
        let client = Client::to(&running);
        let sent = Instant::now();
        client.round_trip("at once");
        assert_eq!(client.recv(4), b"ring");
        assert!(sent.elapsed() >= Duration::from_millis(20), "early");
        let handle = running.engine().handle(log.await_open(n)).unwrap();
        let (sender, results) = mpsc::channel();
        let done = move |result| sender.send(result).expect("the test waits");
        handle.write_flushed("from outside", done).unwrap();
        assert!(results.recv_timeout(LONG).unwrap().is_ok());
        handle.close().unwrap();
        assert_eq!(client.recv_to_end(), b"from outside");
    }
    assert_eq!(running.shutdown().forced, 0);
}

#[test]
fn a_client_can_spin() {
    let (server, _log) = start(local(), |app| app);
    let client = Dialler::new().spin(Duration::from_micros(50));
    let (running, log) = start_client(client, |app| {
        app.on_open(|conn| conn.write(b"hello").is_ok())
            .react(|_, _, _| Action::Shutdown)
    });
    running
        .engine()
        .connect(server.local_addrs()[0].as_socket_addr().unwrap())
        .unwrap();
    running.join();
    assert_eq!(log.frames(), 1);
}

#[test]
fn a_spin_takes_a_core_and_is_not_counted_as_work() {
    alone(
        "spinning::a_spin_takes_a_core_and_is_not_counted_as_work",
        || {
            let (running, _log) = start(local().spin(Duration::MAX), |app| app);
            let client = Client::to(&running);
            client.round_trip("hello");
            let stats = || running.engine().stats().total();
            let spin = |time| {
                let spent = cpu_time();
                eventually("it spins", || cpu_time() - spent > time);
            };
            // Until the turn with the answer is over.
            spin(Duration::from_millis(20));
            let before = stats();
            spin(Duration::from_millis(200));
            let after = stats();
            assert_eq!(after.turns, before.turns);
            assert_eq!(after.busy, before.busy);
            client.round_trip("hello again");
        },
    );
}

#[test]
fn a_loop_sleeps_after_its_spin() {
    alone("spinning::a_loop_sleeps_after_its_spin", || {
        let (running, _log) = start(local().spin(Duration::from_millis(1)), |app| app);
        let client = Client::to(&running);
        for _ in 0..3 {
            client.round_trip("hello");
            // A loop that never slept would use all of each tenth of a second, unless others have its core.
            eventually("it sleeps", || {
                let spent = cpu_time();
                thread::sleep(Duration::from_millis(100));
                cpu_time() - spent < Duration::from_millis(20)
            });
        }
    });
}
