//! Connects that are cancelled in each stage.

use std::net::TcpListener;
use std::time::Duration;

use epicycle::{Action, CloseReason, Connect, ConnectError, Reconnect};

use crate::util::app::{Log, start, start_client};
use crate::util::client::TempPath;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::{LONG, eventually};
use crate::{address, client, is_quiet};

/// Waits for the one and only failure, the cancellation.
fn is_cancelled(log: &Log, n: usize) {
    let last = log.await_failure(n);
    assert!(
        matches!(last.error, ConnectError::Cancelled),
        "{}",
        last.error
    );
    assert_eq!(last.retry_in, None);
}

#[test]
fn a_connect_without_an_answer_is_cancelled() {
    let mute = MutePort::new();
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(mute.addr).timeout(LONG).token(5);
    let connecting = running.engine().connect(connect).expect("is taken");
    let connections = || running.engine().connections();
    eventually("it connects", || connections() == 1);
    connecting.cancel().expect("is taken");
    connecting.cancel().expect("is taken");
    is_cancelled(&log, 0);
    assert_eq!(log.failures()[0].token, 5);
    is_quiet(&running);
    assert_eq!(running.shutdown().stats.total().connect_failures, 1);
    assert_eq!(log.failures().len(), 1);
}

#[test]
fn a_connect_is_cancelled_at_once() {
    let mute = MutePort::new();
    let (running, log) = start_client(client(1), |app| app);
    for n in 0..100 {
        let connecting = running.engine().connect(mute.addr).expect("is taken");
        connecting.cancel().expect("is taken");
        is_cancelled(&log, n);
    }
    is_quiet(&running);
    assert_eq!(log.failures().len(), 100);
}

#[test]
fn a_connect_that_waits_for_its_next_attempt_is_cancelled() {
    let dead = DeadPort::new();
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(dead.addr).reconnect(Reconnect::new(LONG, LONG));
    let connecting = running.engine().connect(connect).expect("is taken");
    assert!(log.await_failure(0).retry_in.is_some());
    connecting.cancel().expect("is taken");
    is_cancelled(&log, 1);
    is_quiet(&running);
    running.shutdown();
    assert_eq!(log.failures().len(), 2);
}

#[test]
fn a_connect_to_a_full_unix_server_is_cancelled() {
    let path = TempPath::new();
    let listener = std::os::unix::net::UnixListener::bind(&path.0).expect("binds");
    socket2::SockRef::from(&listener)
        .listen(0)
        .expect("listens");
    let _queued = std::os::unix::net::UnixStream::connect(&path.0).expect("connects");
    let (running, log) = start_client(client(1), |app| app);
    let connect = Connect::to(path.addr()).timeout(LONG);
    let connecting = running.engine().connect(connect).expect("is taken");
    eventually("it waits", || running.engine().stats().total().timers == 1);
    connecting.cancel().expect("is taken");
    is_cancelled(&log, 0);
    is_quiet(&running);
    assert_eq!(log.failures().len(), 1);
}

#[test]
fn a_connection_that_is_open_outlives_the_cancellation_and_is_not_made_again() {
    let (server, served) = start(
        epicycle::Server::bind("tcp://127.0.0.1:0").reactors(1),
        |app| app,
    );
    let (running, log) = start_client(client(1), |app| app.react(|_, _, _| Action::Continue));
    let soon = Reconnect::new(Duration::from_millis(1), Duration::from_millis(1));
    let connect = Connect::to(address(&server)).reconnect(soon);
    let connecting = running.engine().connect(connect).expect("is taken");
    let id = log.await_open(0);
    connecting.cancel().expect("is taken");
    let handle = running.engine().handle(id).expect("is open");
    handle.write("hello").expect("is taken");
    eventually("it is served", || served.frames() == 1);
    let peer = server.engine().handle(served.await_open(0));
    peer.expect("is open").close().expect("is taken");
    log.await_close(0);
    running.shutdown();
    assert_eq!((log.opened(), log.failures().len()), (1, 0));
}

#[test]
fn a_connection_that_opens_as_it_is_cancelled_stays_open() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, log) = start_client(client(1), |app| app);
    let engine = running.engine().clone();
    // The connect begins in one turn, is cancelled in the next, and has succeeded by then.
    let begin = move |_: &mut _, reactor: &mut epicycle::Reactor<'_, _>| {
        let soon = Reconnect::new(Duration::from_millis(1), Duration::from_millis(1));
        let connecting = reactor
            .connect(Connect::to(addr).reconnect(soon))
            .expect("is taken");
        let cancel = move |_: &mut _, _: &mut epicycle::Reactor<'_, _>| {
            connecting.cancel().expect("is taken");
            // By the next turn the handshake is over.
            std::thread::sleep(Duration::from_millis(50));
        };
        engine.run_on(0, cancel).expect("is taken");
    };
    running.engine().run_on(0, begin).expect("is taken");
    let (stream, _) = listener.accept().expect("comes");
    let id = log.await_open(0);
    let handle = running.engine().handle(id).expect("stays open");
    std::io::Write::write_all(&mut &stream, b"hello").expect("sends");
    eventually("it is served", || log.frames() == 1);
    handle.close().expect("is taken");
    drop(stream);
    let (_, reason) = log.await_close(0);
    assert!(!matches!(*reason, CloseReason::Aborted), "{reason}");
    running.shutdown();
    assert_eq!((log.opened(), log.failures().len()), (1, 0));
}

#[test]
fn a_connect_of_a_callback_is_cancelled_in_the_same_callback() {
    let mute = MutePort::new();
    let addr = mute.addr;
    let (running, log) = start_client(client(1), move |app| {
        app.on_boot(move |reactor| {
            let connecting = reactor.connect(addr).expect("is taken");
            connecting.cancel().expect("is taken");
        })
    });
    is_cancelled(&log, 0);
    is_quiet(&running);
    assert_eq!(log.failures().len(), 1);
}
