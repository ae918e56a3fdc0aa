//! Shutdown in stages: stop accepting, drain, then force. It reports the number of connections for each.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::{AcceptMode, Action, CloseReason, Handle, Reactor, Server, WriteError};

use crate::util::app::{App, Log, local, start};
use crate::util::client::{Client, TempPath, shrink};
use crate::util::{LONG, eventually, expect_panics, noise};

const MIB: usize = 1 << 20;

/// Answers anything with 1 MiB.
fn generous(app: App) -> App {
    let bytes = bytes::Bytes::from(noise(1, MIB));
    app.react(move |conn, _, _| {
        shrink(conn);
        conn.write_shared(bytes.clone()).into()
    })
}

#[test]
fn shutdown_with_100_clients_mid_transfer_loses_nothing() {
    let modes = [
        Server::bind("tcp://127.0.0.1:0").reactors(3),
        Server::bind("tcp://127.0.0.1:0")
            .reactors(3)
            .accept_mode(AcceptMode::ReusePort),
    ];
    for server in modes {
        let (running, log) = start(server, generous);
        let expected = noise(1, MIB);
        let clients: Vec<_> = (0..100)
            .map(|_| Client::with_small_window(&running))
            .collect();
        for client in &clients {
            client.send("go");
        }
        eventually("all have asked", || log.frames() == 100);
        for client in &clients[..50] {
            assert!(client.recv(1000) == expected[..1000]);
        }
        running.engine().shutdown();
        let report = thread::scope(|scope| {
            scope.spawn(|| {
                for (n, client) in clients.into_iter().enumerate() {
                    let seen = if n < 50 { 1000 } else { 0 };
                    assert!(client.recv_to_end() == expected[seen..], "client {n}");
                }
            });
            running.join()
        });
        assert_eq!((report.drained, report.forced), (100, 0));
        assert_eq!(log.closed(), 100);
        assert_eq!(report.stats.total().connections, 0);
    }
}

#[test]
fn clients_that_do_not_read_are_forced_at_the_deadline() {
    let server = Server::bind("tcp://127.0.0.1:0")
        .reactors(2)
        .drain_deadline(Duration::from_millis(200));
    let (running, log) = start(server, generous);
    let stalled: Vec<_> = (0..10)
        .map(|_| Client::with_small_window(&running))
        .collect();
    for client in &stalled {
        client.send("go");
    }
    eventually("all have asked", || log.frames() == 10);
    let idle: Vec<_> = (0..5).map(|_| Client::to(&running)).collect();
    eventually("all are there", || log.opened() == 15);
    running.engine().shutdown();
    for client in idle {
        assert_eq!(client.recv_to_end(), b"");
    }
    let began = Instant::now();
    let report = running.join();
    assert!(began.elapsed() < LONG);
    assert_eq!((report.drained, report.forced), (5, 10));
    for client in stalled {
        let (_, end) = client.recv_to_any_end();
        assert!(Client::is_reset(&end), "{end:?}");
    }
    assert_eq!(log.closed(), 15);
}

#[test]
fn shutdown_within_sets_another_deadline() {
    let (running, log) = start(local(), generous);
    let stalled = Client::with_small_window(&running);
    stalled.send("go");
    eventually("it has asked", || log.frames() == 1);
    running.engine().shutdown_within(Duration::from_millis(50));
    assert_eq!(running.join().forced, 1);
}

#[test]
fn a_shutdown_can_be_hurried_and_its_report_stays_true() {
    let server = Server::bind("tcp://127.0.0.1:0").reactors(2);
    let (running, log) = start(server, generous);
    let stalled = [(); 4].map(|()| Client::with_small_window(&running));
    for client in &stalled {
        client.send("go");
    }
    eventually("all have asked", || log.frames() == 4);
    let (idle, began) = (Client::to(&running), Instant::now());
    eventually("it is there", || log.opened() == 5);
    running.engine().shutdown_within(2 * LONG);
    assert_eq!(idle.recv_to_end(), b"");
    drop(idle);
    eventually("it is closed", || log.closed() == 1);
    // Later deadlines than the one in force change nothing.
    running.engine().shutdown_within(3 * LONG);
    running.engine().shutdown();
    running.engine().shutdown_within(Duration::from_millis(20));
    running.engine().shutdown_within(2 * LONG);
    let report = running.join();
    assert!(began.elapsed() < LONG);
    assert_eq!((report.drained, report.forced), (1, 4));
    assert_eq!(log.closed(), 5);
}

#[test]
fn a_shutdown_that_is_hurried_to_nothing_ends_at_once() {
    let (running, log) = start(local(), generous);
    let stalled = Client::with_small_window(&running);
    stalled.send("go");
    let idle = Client::to(&running);
    eventually("it has asked", || log.frames() == 1 && log.opened() == 2);
    running.engine().shutdown_within(2 * LONG);
    assert_eq!(idle.recv_to_end(), b"");
    drop(idle);
    let engine = running.engine().clone();
    let began = Instant::now();
    let joining = thread::spawn(move || running.join());
    engine.shutdown_within(Duration::ZERO);
    let report = joining.join().expect("ends");
    assert!(began.elapsed() < LONG);
    assert_eq!((report.drained, report.forced), (1, 1));
    // And once it has ended, nobody minds.
    engine.shutdown_within(Duration::ZERO);
    assert!(Client::is_reset(&stalled.recv_to_any_end().1));
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

#[test]
fn a_handler_whose_drop_panics_loses_no_reactors_count() {
    expect_panics();
    let server = Server::bind("tcp://127.0.0.1:0").reactors(2);
    let (running, _log) = start(server, |app| {
        let bomb = Bomb;
        app.on_drain(move |_, _| {
            let _ = &bomb;
            Action::Continue
        })
    });
    let clients = [(); 6].map(|()| Client::to(&running));
    for client in clients {
        client.round_trip("hello");
        thread::spawn(move || client.recv_to_end());
    }
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (6, 0));
    // One for each handler.
    assert_eq!(report.stats.total().panics, 2);
}

#[test]
fn a_late_request_whose_drop_panics_costs_no_other_its_completion() {
    expect_panics();
    let (told, completions) = mpsc::channel();
    let handles = Arc::<Mutex<Vec<Handle<App>>>>::default();
    let (running, log) = start(local(), move |app| {
        let (told, opened, open) = (told.clone(), handles.clone(), handles.clone());
        app.on_open(move |conn| {
            opened.lock().expect("is sound").push(conn.handle());
            true
        })
        .on_shutdown(|reactor| reactor.for_each(|conn, _| conn.abort()))
        // The first to close asks for the other, in the last turn there is: nobody will carry it out.
        .on_close(move |_, _, _| {
            let open = open.lock().expect("is sound");
            if let Some(other) = open.iter().find(|handle| handle.is_open()) {
                let (told, bomb) = (told.clone(), Bomb);
                let task = move |_: &mut App, _: &mut Reactor<'_, App>| drop(bomb);
                other.engine().run_on(0, task).expect("is taken");
                let done = move |result| told.send(result).expect("the test waits");
                other.write_accepted("x", done).expect("is taken");
            }
        })
    });
    let clients = [Client::to(&running), Client::to(&running)];
    eventually("both are open", || log.opened() == 2);
    running.shutdown();
    drop(clients);
    let completion = completions.recv_timeout(LONG).expect("it is called");
    assert!(matches!(completion, Err(WriteError::Closed)));
}

#[test]
fn a_peer_that_has_everything_but_keeps_its_side_open_is_not_reset() {
    let server = local().drain_deadline(Duration::from_millis(100));
    let (running, log) = start(server, |app| {
        app.on_shutdown(|reactor| {
            reactor.broadcast("last words");
        })
    });
    let client = Client::to(&running);
    client.round_trip("hello");
    let report = running.shutdown();
    assert_eq!((report.drained, report.forced), (1, 0));
    assert_eq!(client.recv_to_end(), b"last words");
    let (_, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Shutdown), "{reason:?}");
}

#[test]
fn a_connection_that_was_closing_does_not_hold_up_the_shutdown() {
    // Far longer than the wait for FIN may last once the server shuts down.
    let server = local().fin_timeout(10 * LONG).drain_deadline(10 * LONG);
    let (running, _log) = start(server, |app| app.react(|_, _, _| Action::Close));
    let client = Client::to(&running);
    client.send("close");
    assert_eq!(client.recv_to_end(), b"");
    let report = running.shutdown();
    assert_eq!(report.forced, 0);
    drop(client);
}

#[test]
fn nobody_gets_in_during_the_shutdown() {
    let path = TempPath::new();
    let server = Server::bind("tcp://127.0.0.1:0")
        .and(path.addr())
        .reactors(2);
    let (running, log) = start(server, generous);
    let stalled = Client::with_small_window(&running);
    stalled.send("go");
    eventually("it has asked", || log.frames() == 1);
    let addrs = running.local_addrs().to_vec();
    running.engine().shutdown();
    eventually("tcp refuses", || Client::try_connect(&addrs[0]).is_err());
    eventually("unix refuses", || Client::try_connect(&addrs[1]).is_err());
    assert_eq!(stalled.recv_to_end().len(), MIB);
    drop(stalled);
    let report = running.join();
    assert_eq!((report.drained, report.forced), (1, 0));
    assert_eq!(log.opened(), 1);
}

#[test]
fn run_returns_when_a_callback_asks_for_the_shutdown() {
    let (sender, ports) = mpsc::channel();
    let server = thread::spawn(move || {
        local().reactors(2).run(move |_| {
            let sender = sender.clone();
            App::echo(&Arc::<Log>::default())
                .on_boot(move |reactor| {
                    let addr = reactor.engine().local_addrs()[0].clone();
                    sender.send(addr).expect("the test waits");
                })
                .react(|conn, _, _| {
                    conn.write(b"as you wish").expect("taken");
                    Action::Shutdown
                })
        })
    });
    let addr = ports.recv_timeout(LONG).unwrap();
    let bystander = Client::connect(&addr);
    let client = Client::connect(&addr);
    client.send("stop");
    assert_eq!(client.recv_to_end(), b"as you wish");
    assert_eq!(bystander.recv_to_end(), b"");
    drop((client, bystander));
    let report = server.join().unwrap().unwrap();
    assert_eq!(report.forced, 0);
}

#[test]
fn a_dropped_server_has_ended() {
    let (running, log) = start(local(), |app| app);
    let client = Client::to(&running);
    client.round_trip("hello");
    let addr = running.local_addrs()[0].clone();
    let engine = running.engine().clone();
    let reader = thread::spawn(move || client.recv_to_end());
    drop(running);
    assert_eq!(log.closed(), 1);
    assert!(engine.is_stopping());
    assert!(engine.run_on(0, |_, _| ()).is_err());
    assert!(Client::try_connect(&addr).is_err());
    assert_eq!(reader.join().unwrap(), b"");
}
