//! Actions of a peer before this side has noticed that the connection is open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use epicycle::{Connect, ConnectError, Reactor, Running};

use crate::client;
use crate::util::app::{App, start_client};
use crate::util::client::TempPath;

/// Begins to connect, and keeps the reactor busy until `meanwhile` has happened.
fn connect_while(running: &Running<App>, connect: Connect, meanwhile: impl FnOnce()) {
    let (done, wait) = channel::<()>();
    let begin = move |_: &mut App, reactor: &mut Reactor<'_, App>| {
        reactor.connect(connect).expect("is taken");
        // This comes behind the beginning of the connect, in the same turn.
        reactor.defer(move |_, _| {
            let _ = wait.recv();
        });
    };
    running.engine().run_on(0, begin).expect("is taken");
    meanwhile();
    drop(done);
}

#[test]
fn a_banner_that_comes_before_the_connection_is_noticed_is_handled() {
    let (running, log) = start_client(client(1), |app| app);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let mut kept = None;
    connect_while(&running, Connect::to(addr), || {
        let (mut stream, _) = listener.accept().expect("comes");
        stream.write_all(b"welcome").expect("sends");
        kept = Some(stream);
        thread::sleep(Duration::from_millis(20));
    });
    // Its echo comes back.
    let mut back = [0; 7];
    let stream = kept.as_mut().expect("was accepted");
    stream.read_exact(&mut back).expect("receives");
    assert_eq!((&back, log.frames()), (b"welcome", 1));
}

#[test]
fn a_unix_banner_that_comes_before_the_connection_is_noticed_is_handled() {
    let (running, _log) = start_client(client(1), |app| app);
    let path = TempPath::new();
    let listener = UnixListener::bind(&path.0).expect("binds");
    let mut kept = None;
    connect_while(&running, Connect::to(path.addr()), || {
        let (mut stream, _) = listener.accept().expect("comes");
        stream.write_all(b"welcome").expect("sends");
        kept = Some(stream);
    });
    let mut back = [0; 7];
    let stream = kept.as_mut().expect("was accepted");
    stream.read_exact(&mut back).expect("receives");
    assert_eq!(&back, b"welcome");
}

#[test]
fn a_peer_that_ends_before_the_connection_is_noticed_is_heard_to_the_end() {
    let (running, log) = start_client(client(1), |app| app);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    connect_while(&running, Connect::to(addr), || {
        let (mut stream, _) = listener.accept().expect("comes");
        stream.write_all(b"welcome").expect("sends");
        stream.shutdown(Shutdown::Write).expect("ends");
        thread::sleep(Duration::from_millis(20));
    });
    let (closed, _) = log.await_close(0);
    assert_eq!(closed.bytes_in, 7);
    assert!(log.failures().is_empty());
}

#[test]
fn a_peer_that_resets_before_the_connection_is_noticed_makes_the_connect_fail() {
    let (running, log) = start_client(client(1), |app| app);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    connect_while(&running, Connect::to(addr), || {
        let (stream, _) = listener.accept().expect("comes");
        let stream = socket2::Socket::from(stream);
        stream.set_linger(Some(Duration::ZERO)).expect("lingers");
        drop(stream);
        thread::sleep(Duration::from_millis(20));
    });
    let failed = log.await_failure(0);
    let ConnectError::Io(error) = &failed.error else {
        panic!("{}", failed.error);
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!((log.opened(), log.closed()), (0, 0));
}
