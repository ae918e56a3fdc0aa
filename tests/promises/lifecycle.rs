//! `on_open`, then `react`, then `on_close` exactly once, all on the owning reactor's thread.

use std::collections::HashMap;
use std::thread::{self, ThreadId};

use epicycle::{AcceptMode, Action, CloseReason, Conn, ConnId, Server};

use crate::util::app::{App, Entry, Session, What, local, start};
use crate::util::client::Client;
use crate::util::eventually;

/// Does as the client says; several orders at once come to a single end.
fn obey(conn: &mut Conn<'_, App>, _session: &mut Session, frame: &[u8]) -> Action {
    match frame {
        b"close" => Action::Close,
        b"close, close" => {
            conn.close();
            conn.close();
            Action::Close
        }
        b"abort" => {
            conn.abort();
            Action::Continue
        }
        b"close, abort" => {
            conn.close();
            conn.abort();
            Action::Close
        }
        b"handle" => {
            let handle = conn.handle();
            handle.close().expect("taken");
            handle.abort().expect("taken");
            handle.close().expect("taken");
            Action::Continue
        }
        _ => conn.write(frame).into(),
    }
}

#[test]
fn on_close_runs_exactly_once_on_the_owning_thread() {
    for server in [
        Server::bind("tcp://127.0.0.1:0").reactors(2),
        Server::bind("tcp://127.0.0.1:0")
            .reactors(2)
            .accept_mode(AcceptMode::ReusePort),
        Server::bind("tcp://127.0.0.1:0").accept_mode(AcceptMode::SingleLoop),
    ] {
        let (running, log) = start(server, |app| app.react(obey));
        let mut opened = 0;
        for _ in 0..10 {
            for order in ["close", "close, close", "abort", "close, abort", "handle"] {
                let client = Client::to(&running);
                client.round_trip("hello");
                client.send(order);
                let _ = client.recv_to_any_end();
                opened += 1;
            }
            let client = Client::to(&running);
            client.round_trip("hello");
            client.reset();
            drop(Client::to(&running));
            opened += 2;
        }
        eventually("all have closed", || log.closed() == opened);
        let _ = running.shutdown();
        check_lives(&log.entries(), opened);
    }
}

fn check_lives(log: &[Entry], opened: usize) {
    let mut lives: HashMap<ConnId, Vec<&Entry>> = HashMap::new();
    for entry in log {
        lives.entry(entry.id).or_default().push(entry);
    }
    assert_eq!(lives.len(), opened);
    let mut threads: HashMap<usize, ThreadId> = HashMap::new();
    for (id, life) in lives {
        assert!(matches!(life[0].what, What::Open), "{life:?}");
        assert!(
            matches!(life[life.len() - 1].what, What::Close(..)),
            "{life:?}"
        );
        let inner = &life[1..life.len() - 1];
        let ends = |entry: &&&Entry| matches!(entry.what, What::Open | What::Close(..));
        assert_eq!(inner.iter().filter(ends).count(), 0, "{life:?}");
        let owner = *threads.entry(id.reactor()).or_insert(life[0].thread);
        assert!(life.iter().all(|entry| entry.thread == owner), "{life:?}");
        assert_ne!(owner, thread::current().id());
    }
}

#[test]
fn on_close_tells_how_it_ended_and_what_went_over_the_wire() {
    let (running, log) = start(local(), |app| app.react(obey));
    let client = Client::to(&running);
    client.round_trip("hello");
    client.send("close");
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    let (closed, reason) = log.await_close(0);
    assert!(matches!(*reason, CloseReason::Local), "{reason:?}");
    assert_eq!((closed.bytes_in, closed.bytes_out), (10, 5));
    assert_eq!((closed.unsent, closed.undecoded), (0, 0));
    assert!(closed.peer.ip().is_some_and(|ip| ip.is_loopback()));

    drop(Client::to(&running));
    let (_, reason) = log.await_close(1);
    assert!(matches!(*reason, CloseReason::Peer), "{reason:?}");

    let client = Client::to(&running);
    client.round_trip("hello");
    client.reset();
    let (_, reason) = log.await_close(2);
    assert!(matches!(*reason, CloseReason::Reset(_)), "{reason:?}");

    let client = Client::to(&running);
    client.send("abort");
    let (_, end) = client.recv_to_any_end();
    assert!(Client::is_reset(&end), "{end:?}");
    let (_, reason) = log.await_close(3);
    assert!(matches!(*reason, CloseReason::Aborted), "{reason:?}");

    let client = Client::to(&running);
    log.await_open(4);
    running.engine().shutdown();
    assert_eq!(client.recv_to_end(), b"");
    drop(client);
    let _ = running.join();
    let (_, reason) = log.await_close(4);
    assert!(matches!(*reason, CloseReason::Shutdown), "{reason:?}");
}

#[test]
fn a_refused_connection_gets_its_farewell_and_no_other_callback() {
    let (running, log) = start(local(), |app| {
        app.on_open(|conn| {
            conn.write(b"not you").expect("taken");
            false
        })
    });
    let client = Client::to(&running);
    client.send("let me in");
    assert_eq!(client.recv_to_end(), b"not you");
    drop(client);
    eventually("it is gone", || running.engine().connections() == 0);
    assert_eq!(running.engine().stats().total().refused, 1);
    let _ = running.shutdown();
    assert_eq!(log.entries().len(), 1, "{:?}", log.entries());
}
