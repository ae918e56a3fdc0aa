//! Connections that reconnect, and those that must not.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use epicycle::{Action, Connect, Reconnect, Running, Server};

use crate::util::app::{App, Log, start, start_client};
use crate::util::eventually;
use crate::util::ports::DeadPort;
use crate::{address, client, is_quiet};

const SOON: Duration = Duration::from_millis(5);

fn soon() -> Reconnect {
    Reconnect::new(SOON, SOON * 4)
}

#[test]
fn a_connection_is_made_again_when_the_server_restarts() {
    let serve = |addr: String| start(Server::bind(addr).reactors(1), |app| app);
    let (server, _) = serve("tcp://127.0.0.1:0".into());
    let addr = address(&server);
    let (running, log) = start_client(client(1), |app| {
        app.on_open(|conn| conn.write(b"hello").is_ok())
            .react(|_, _, _| Action::Continue)
    });
    let connect = Connect::to(addr).token(3).reconnect(soon());
    running.engine().connect(connect).expect("is taken");
    eventually("it is served", || log.frames() > 0);
    let mut server = Some(server);
    for _ in 0..3 {
        if let Some(server) = server.take() {
            server.shutdown();
        }
        let (failures, frames) = (log.failures().len(), log.frames());
        eventually("it is refused", || log.failures().len() >= failures + 2);
        server = Some(serve(format!("tcp://{addr}")).0);
        eventually("it is served", || log.frames() > frames);
    }
    for (n, failed) in log.failures().iter().enumerate() {
        assert_eq!(failed.token, 3, "failure {n}");
        assert!(failed.retry_in.is_some_and(|delay| delay <= SOON * 4));
    }
}

#[test]
fn a_connection_that_the_peer_resets_is_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(addr).reconnect(soon());
    running.engine().connect(connect).expect("is taken");
    for n in 0..3 {
        let (stream, _) = listener.accept().expect("comes");
        log.await_open(n);
        let stream = socket2::Socket::from(stream);
        stream.set_linger(Some(Duration::ZERO)).expect("lingers");
    }
    assert!(log.failures().is_empty());
}

#[test]
fn attempts_end_at_the_limit() {
    let dead = DeadPort::new();
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(dead.addr).reconnect(soon().limit(3));
    running.engine().connect(connect).expect("is taken");
    for n in 0..3 {
        let failed = log.await_failure(n);
        assert_eq!(failed.attempt as usize, n + 1);
        assert_eq!(failed.retry_in.is_some(), n < 2);
    }
    is_quiet(&running);
    assert_eq!(running.shutdown().stats.total().connect_failures, 3);
    assert_eq!(log.failures().len(), 3);
}

#[test]
fn the_limit_counts_the_attempts_since_the_connection_was_open() {
    let (server, _) = start(Server::bind("tcp://127.0.0.1:0").reactors(1), |app| app);
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(address(&server)).reconnect(soon().limit(1));
    running.engine().connect(connect).expect("is taken");
    log.await_open(0);
    server.shutdown();
    let failed = log.await_failure(0);
    assert_eq!((failed.attempt, failed.retry_in), (1, None));
    is_quiet(&running);
}

/// Opens a connection that would be made again, ends it by `end`, and sees that it is not.
fn is_not_made_again(end: impl FnOnce(&Running<App>, &Log), make: fn(App) -> App) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, log) = start_client(client(1), make);
    let connect = Connect::to(addr).reconnect(soon());
    running.engine().connect(connect).expect("is taken");
    let (mut stream, _) = listener.accept().expect("comes");
    log.await_open(0);
    end(&running, &log);
    // The peer's end comes second.
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);
    log.await_close(0);
    // Whatever would be tried again has a timer; the end of the drain has one too.
    if !running.engine().is_stopping() {
        is_quiet(&running);
    }
    running.shutdown();
    assert_eq!((log.opened(), log.failures().len()), (1, 0));
}

fn handle(running: &Running<App>, log: &Log) -> epicycle::Handle<App> {
    running.engine().handle(log.await_open(0)).expect("is open")
}

#[test]
fn a_connection_closed_on_this_side_is_not_made_again() {
    let close = |running: &Running<App>, log: &Log| handle(running, log).close().expect("taken");
    is_not_made_again(close, |app| app);
}

#[test]
fn a_connection_aborted_on_this_side_is_not_made_again() {
    let abort = |running: &Running<App>, log: &Log| handle(running, log).abort().expect("taken");
    is_not_made_again(abort, |app| app);
}

#[test]
fn a_connection_detached_is_not_made_again() {
    let detach = |running: &Running<App>, log: &Log| {
        let task = |_: &mut App, conn: &mut epicycle::Conn<'_, App>, _: &mut _| {
            conn.detach(drop).expect("is let go");
        };
        handle(running, log).run(task).expect("taken");
    };
    is_not_made_again(detach, |app| app);
}

#[test]
fn a_connection_ended_by_the_shutdown_is_not_made_again() {
    is_not_made_again(|running, _| running.engine().shutdown(), |app| app);
}
