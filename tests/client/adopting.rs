//! Sockets that the application has connected and the engine adopts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use epicycle::{Action, ConnectError, Origin};
use socket2::{Domain, Socket, Type};

use crate::util::app::{App, start_client};
use crate::util::process::{alone, descriptors};
use crate::util::{LONG, eventually, noise};
use crate::{client, copy_back};

/// Two ends of a TCP connection.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let near = TcpStream::connect(addr).expect("connects");
    (near, listener.accept().expect("comes").0)
}

/// Has the engine echo on `near`, and exchanges a little and a lot over `far`.
fn is_served(near: impl Into<OwnedFd>, far: impl Read + Write + Into<OwnedFd>) {
    let origins = Arc::<Mutex<Vec<Origin>>>::default();
    let seen = origins.clone();
    let (running, log) = start_client(client(2), move |app| {
        let seen = seen.clone();
        app.on_open(move |conn| {
            seen.lock().expect("no panics").push(conn.origin());
            true
        })
    });
    running.engine().adopt(near, 9).expect("is adopted");
    let far = Socket::from(far.into());
    far.set_read_timeout(Some(LONG)).expect("is set");
    let far = crate::util::client::Client(far);
    far.round_trip("hello");
    far.echo_all(&noise(1, 1 << 20));
    far.end_writes();
    assert!(far.recv_to_end().is_empty());
    log.await_close(0);
    assert_eq!(
        *origins.lock().expect("no panics"),
        [Origin::Adopted { token: 9 }]
    );
    eventually("none is left", || running.engine().connections() == 0);
    let total = running.shutdown().stats.total();
    assert_eq!((total.accepted, total.connected, total.closed), (0, 0, 1));
}

#[test]
fn an_adopted_tcp_connection_is_served() {
    let (near, far) = tcp_pair();
    is_served(near, far);
}

#[test]
fn an_adopted_unix_connection_is_served() {
    let (near, far) = UnixStream::pair().expect("a pair");
    is_served(near, far);
}

#[test]
fn what_has_arrived_before_the_adoption_is_handled() {
    let (near, mut far) = tcp_pair();
    far.write_all(b"hello").expect("sends");
    far.shutdown(Shutdown::Write).expect("ends");
    let (running, log) = start_client(client(1), |app| app);
    running.engine().adopt(near, 0).expect("is adopted");
    let mut back = String::new();
    far.read_to_string(&mut back).expect("receives");
    assert_eq!(back, "hello");
    assert_eq!(log.await_close(0).0.bytes_in, 5);
}

#[test]
fn an_adopted_connection_speaks_first() {
    let (near, far) = tcp_pair();
    let (running, _log) = start_client(client(1), |app| {
        app.on_open(|conn| conn.write(b"welcome").is_ok())
            .react(|_, _, _| Action::Close)
    });
    let echo = std::thread::spawn(move || copy_back(&far, &far));
    running.engine().adopt(near, 0).expect("is adopted");
    echo.join().expect("ends");
}

#[test]
fn what_is_no_connected_stream_socket_is_not_adopted_and_closed() {
    let name = "adopting::what_is_no_connected_stream_socket_is_not_adopted_and_closed";
    alone(name, || {
        let (running, log) = start_client(client(1), |app| app);
        let before = descriptors();
        let adopt = |fd: OwnedFd| match running.engine().adopt(fd, 0) {
            Err(ConnectError::Io(error)) => error,
            other => panic!("{other:?}"),
        };
        let error = adopt(File::open("/dev/null").expect("opens").into());
        assert!(error.to_string().contains("non-socket"), "{error}");
        let error = adopt(UdpSocket::bind("127.0.0.1:0").expect("binds").into());
        assert!(error.to_string().contains("no stream socket"), "{error}");
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert_eq!(
            adopt(unconnected.into()).kind(),
            io::ErrorKind::NotConnected
        );
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        assert_eq!(adopt(listener.into()).kind(), io::ErrorKind::NotConnected);
        assert_eq!(descriptors(), before);
        assert_eq!(running.engine().connections(), 0);
        assert_eq!(log.opened(), 0);
    });
}

#[test]
fn a_socket_that_comes_too_late_is_closed() {
    let (running, log) = start_client(client(1), |app| app);
    let engine = running.engine().clone();
    running.shutdown();
    let (near, mut far) = tcp_pair();
    let refused = engine.adopt(near, 0);
    assert!(matches!(refused, Err(ConnectError::Stopped)));
    assert_eq!(far.read(&mut [0]).expect("ends"), 0);
    assert_eq!((engine.connections(), log.opened()), (0, 0));
}

#[test]
fn a_copy_that_the_application_keeps_disturbs_nobody() {
    let (running, log) = start_client(client(1), |app: App| app);
    let mut kept = Vec::new();
    for n in 0..20 {
        let (near, mut far) = tcp_pair();
        // The engine's watch outlives its own descriptor then.
        kept.push(near.try_clone().expect("clones"));
        running.engine().adopt(near, n).expect("is adopted");
        let id = log.await_open(n as usize);
        far.write_all(b"hello").expect("sends");
        far.read_exact(&mut [0; 5]).expect("is served");
        let handle = running.engine().handle(id).expect("is open");
        handle.close().expect("is taken");
        drop(far);
        log.await_close(n as usize);
    }
    assert_eq!(running.engine().connections(), 0);
}

#[test]
fn a_socket_is_adopted_on_the_reactor_that_was_chosen() {
    let (running, log) = start_client(client(3), |app| app);
    let mut far_ends = Vec::new();
    for (n, reactor) in [2, 0, 2, 1].into_iter().enumerate() {
        let (near, far) = UnixStream::pair().expect("two ends");
        running
            .engine()
            .adopt_on(reactor, near, 9)
            .expect("is adopted");
        log.await_open(n);
        assert_eq!(
            running.engine().stats().reactors[reactor].connections as usize,
            [1, 1, 2, 1][n]
        );
        far_ends.push(far);
    }
    let (near, mut far) = UnixStream::pair().expect("two ends");
    let refused = running.engine().adopt_on(3, near, 9);
    assert!(matches!(
        refused,
        Err(ConnectError::NoSuchReactor {
            reactor: 3,
            reactors: 3,
            ..
        })
    ));
    assert_eq!(far.read(&mut [0; 1]).expect("it is closed"), 0);
}
