//! Connects that fail: each is reported exactly once, and leaks nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use epicycle::{Connect, ConnectError, Connecting, Reactor, Reconnect, Running};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::util::app::{App, Gate, Log, start_client};
use crate::util::client::TempPath;
use crate::util::ports::{DeadPort, MutePort};
use crate::util::process::{
    alone, descriptor_limit, descriptors, limit_descriptors, raise_descriptor_limit,
};
use crate::util::{LONG, eventually, expect_panics};
use crate::{client, is_quiet};

/// Asks for a thousand connections that all fail; tells why.
fn a_thousand_fail(addr: SocketAddr, timeout: Duration) -> Arc<Log> {
    raise_descriptor_limit();
    let (running, log) = start_client(client(2), |app| app);
    // Whatever is made at first use is there from now on.
    is_quiet(&running);
    let before = descriptors();
    for token in 0..1000 {
        let connect = Connect::to(addr).token(token).timeout(timeout);
        running.engine().connect(connect).expect("is taken");
    }
    eventually("all have failed", || log.failures().len() >= 1000);
    is_quiet(&running);
    eventually("no descriptor leaks", || descriptors() == before);
    let total = running.shutdown().stats.total();
    assert_eq!((total.connect_failures, total.connected), (1000, 0));
    assert_eq!((total.closed, total.io_errors, total.timeouts), (0, 0, 0));

    let failures = log.failures();
    let tokens: HashSet<u64> = failures.iter().map(|failed| failed.token).collect();
    assert_eq!((failures.len(), tokens.len()), (1000, 1000));
    assert_eq!(log.opened(), 0);
    for failed in &failures {
        assert_eq!((failed.attempt, failed.retry_in), (1, None));
        assert_eq!(failed.to, addr.into());
    }
    log
}

#[test]
fn a_thousand_connects_to_a_dead_port_are_each_answered_once_and_leave_nothing() {
    let name =
        "failing::a_thousand_connects_to_a_dead_port_are_each_answered_once_and_leave_nothing";
    alone(name, || {
        let dead = DeadPort::new();
        let log = a_thousand_fail(dead.addr, LONG);
        for failed in log.failures() {
            assert!(is_refused(&failed.error), "{}", failed.error);
        }
    });
}

#[test]
fn a_thousand_connects_without_an_answer_time_out_once_each_and_leave_nothing() {
    let name =
        "failing::a_thousand_connects_without_an_answer_time_out_once_each_and_leave_nothing";
    alone(name, || {
        let mute = MutePort::new();
        let log = a_thousand_fail(mute.addr, Duration::from_millis(300));
        for failed in log.failures() {
            let timeout = matches!(failed.error, ConnectError::Timeout);
            assert!(timeout, "{}", failed.error);
        }
    });
}

#[test]
fn a_connect_that_lacks_descriptors_fails_and_succeeds_when_there_are_some() {
    let name = "failing::a_connect_that_lacks_descriptors_fails_and_succeeds_when_there_are_some";
    alone(name, || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("has an address");
        let (running, log) = start_client(client(1), |app| app);
        is_quiet(&running);
        // The next one would be the first that is free.
        let next = File::open("/dev/null").expect("opens").as_raw_fd();
        let limit = descriptor_limit().0;
        limit_descriptors(next as u64);
        let soon = Reconnect::new(Duration::from_millis(5), Duration::from_millis(5));
        connect(&running, Connect::to(addr).reconnect(soon));
        let failed = log.await_failure(2);
        limit_descriptors(limit);
        let ConnectError::Io(error) = &failed.error else {
            panic!("{}", failed.error);
        };
        assert!(error.to_string().contains("Too many open files"), "{error}");
        log.await_open(0);
        assert_eq!(running.engine().connections(), 1);
    });
}

fn is_refused(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn connect(running: &Running<App>, connect: Connect) -> Connecting<App> {
    running.engine().connect(connect).expect("is taken")
}

#[test]
fn an_address_that_cannot_be_connected_to_is_refused_at_once() {
    let (running, log) = start_client(client(1), |app| app);
    for (addr, remedy) in [
        ("tcp://127.0.0.1:0", "port 0"),
        ("tcp://:80", "no host"),
        ("udp://127.0.0.1:0", "port 0"),
        ("udp://:80", "no host"),
        ("tpc://127.0.0.1:80", "use tcp://"),
        ("127.0.0.1", "there is no port"),
    ] {
        let error = running.engine().connect(addr).expect_err("is refused");
        assert!(matches!(error, ConnectError::Address(_)));
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let reactor = running.engine().connect_on(1, "127.0.0.1:80");
    assert!(matches!(reactor, Err(ConnectError::NoSuchReactor { .. })));
    running.shutdown();
    assert!(log.failures().is_empty());
}

#[test]
fn an_option_of_a_connect_that_cannot_work_is_refused_at_once() {
    let (running, log) = start_client(client(1), |app| app);
    let pause = Duration::from_millis(1);
    let connect = || Connect::to("tcp://127.0.0.1:9");
    for (connect, name) in [
        (connect().timeout(Duration::ZERO), "timeout"),
        (
            connect().reconnect(Reconnect::new(Duration::ZERO, pause)),
            "reconnect",
        ),
        (
            connect().reconnect(Reconnect::new(pause, Duration::from_micros(999))),
            "reconnect",
        ),
    ] {
        let refused = running.engine().connect(connect).map(|_| ());
        let error = refused.expect_err("it cannot work");
        assert!(matches!(error, ConnectError::Option(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    is_quiet(&running);
    assert!(log.failures().is_empty());
}

#[test]
fn a_full_mailbox_refuses_a_connect() {
    let (running, log) = start_client(client(1).mailbox(2), |app| app);
    let dead = DeadPort::new();
    let (held, hold) = mpsc::channel::<()>();
    let (began, begin) = mpsc::channel();
    let wait = move |_: &mut App, _: &mut Reactor<'_, App>| {
        began.send(()).expect("is awaited");
        let _ = hold.recv();
    };
    running.engine().run_on(0, wait).expect("is taken");
    begin.recv().expect("it waits");
    let results: Vec<_> = (0..4)
        .map(|_| running.engine().connect(dead.addr))
        .collect();
    drop(held);
    assert!(matches!(results[3], Err(ConnectError::MailboxFull)));
    let taken = results.iter().filter(|result| result.is_ok()).count();
    eventually("those taken fail", || log.failures().len() == taken);
}

#[test]
fn a_panic_in_on_connect_failed_costs_nobody_elses_answer() {
    expect_panics();
    let (running, log) = start_client(client(1), |app| {
        app.on_connect_failed(|_, _| panic!("on purpose"))
    });
    let dead = DeadPort::new();
    for _ in 0..10 {
        connect(&running, Connect::to(dead.addr));
    }
    eventually("all are told", || log.failures().len() == 10);
    assert_eq!(running.shutdown().stats.total().panics, 10);
}

#[test]
fn a_panic_in_on_open_ends_the_connection_made() {
    expect_panics();
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, log) = start_client(client(1), |app| app.on_open(|_| panic!("on purpose")));
    connect(&running, Connect::to(addr));
    let (stream, _) = listener.accept().expect("comes");
    eventually("it panics", || log.opened() == 1);
    drop(stream);
    is_quiet(&running);
    assert_eq!((log.closed(), log.failures().len()), (0, 0));
}

#[test]
fn a_connection_that_on_open_refuses_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, log) = start_client(client(1), |app| app.on_open(|_| false));
    connect(&running, Connect::to(addr));
    let (stream, _) = listener.accept().expect("comes");
    let mut rest = Vec::new();
    io::Read::read_to_end(&mut &stream, &mut rest).expect("ends");
    drop(stream);
    is_quiet(&running);
    let total = running.shutdown().stats.total();
    assert_eq!((total.connected, total.refused), (1, 1));
    assert_eq!((log.closed(), log.failures().len()), (0, 0));
}

#[test]
fn a_unix_path_without_a_server_is_told() {
    let (running, log) = start_client(client(1), |app| app);
    let nothing = TempPath::new();
    connect(&running, Connect::to(nothing.addr()));
    let dead = TempPath::new();
    drop(UnixListener::bind(&dead.0).expect("binds"));
    connect(&running, Connect::to(dead.addr()));
    let file = TempPath::new();
    File::create(&file.0).expect("creates");
    connect(&running, Connect::to(file.addr()));
    let kinds: Vec<_> = (0..3)
        .map(|n| match &log.await_failure(n).error {
            ConnectError::Io(error) => error.kind(),
            other => panic!("{other}"),
        })
        .collect();
    use io::ErrorKind::{ConnectionRefused, NotFound};
    assert_eq!(kinds, [NotFound, ConnectionRefused, ConnectionRefused]);
}

/// A Unix listener whose queue is full, and those who fill it.
fn full_unix(path: &TempPath) -> (Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let addr = SockAddr::unix(&path.0).expect("an address");
    listener.bind(&addr).expect("binds");
    listener.listen(1).expect("listens");
    let mut queued = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("is set");
        if socket.connect(&addr).is_err() {
            return (listener, queued);
        }
        queued.push(socket);
    }
}

#[test]
fn a_unix_server_whose_queue_is_full_is_asked_until_it_has_room() {
    let path = TempPath::new();
    let (listener, queued) = full_unix(&path);
    let (running, log) = start_client(client(1), |app| app);
    for _ in 0..3 {
        connect(&running, Connect::to(path.addr()));
    }
    eventually("they wait", || running.engine().stats().total().timers >= 3);
    let mut accepted = Vec::new();
    for _ in 0..queued.len() + 3 {
        accepted.push(listener.accept().expect("comes"));
    }
    log.await_open(2);
    assert!(log.failures().is_empty());
}

#[test]
fn a_unix_server_whose_queue_stays_full_is_given_up() {
    let path = TempPath::new();
    let _full = full_unix(&path);
    let (running, log) = start_client(client(1), |app| app);
    connect(
        &running,
        Connect::to(path.addr()).timeout(Duration::from_millis(100)),
    );
    let failed = log.await_failure(0);
    assert!(matches!(failed.error, ConnectError::Timeout));
    is_quiet(&running);
}

#[test]
#[cfg(target_os = "linux")]
fn the_local_address_is_where_a_connection_comes_from() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let (running, _log) = start_client(client(1), |app| app);
    let local: SocketAddr = ([127, 0, 0, 2], 0).into();
    connect(&running, Connect::to(addr).local_addr(local));
    let (_stream, peer) = listener.accept().expect("comes");
    assert_eq!(peer.ip(), local.ip());
}

#[test]
fn a_local_address_that_is_not_ours_is_told() {
    let dead = DeadPort::new();
    let (running, log) = start_client(client(1), |app| app);
    let foreign: SocketAddr = ([203, 0, 113, 1], 0).into();
    connect(&running, Connect::to(dead.addr).local_addr(foreign));
    let failed = log.await_failure(0);
    let ConnectError::Io(error) = &failed.error else {
        panic!("{}", failed.error);
    };
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn a_handler_may_connect_from_every_callback() {
    let dead = DeadPort::new();
    let addr = dead.addr;
    let rounds = Arc::new(AtomicUsize::new(0));
    let count = rounds.clone();
    let (running, log) = start_client(client(1), move |app| {
        let count = count.clone();
        app.on_boot(move |reactor| {
            reactor.connect(addr).expect("is taken");
        })
        .on_connect_failed(move |reactor, failed| {
            if count.fetch_add(1, Ordering::Relaxed) < 9 {
                let next = Connect::to(addr).token(failed.token + 1);
                reactor.connect(next).expect("is taken");
            }
        })
    });
    assert_eq!(log.await_failure(9).token, 9);
    running.shutdown();
    assert_eq!(log.failures().len(), 10);
}

#[test]
fn connects_of_a_callback_need_no_room_in_the_mailbox_and_begin_in_order() {
    let (running, log) = start_client(client(1).mailbox(1), |app| app);
    let dead = DeadPort::new();
    let addr = dead.addr;
    let (tell, told) = mpsc::channel();
    let ask = move |_: &mut App, reactor: &mut Reactor<'_, App>| {
        for token in 0..200 {
            let connect = Connect::to(addr).token(token);
            reactor.connect(connect).expect("is taken");
        }
        tell.send(()).expect("is awaited");
    };
    running.engine().run_on(0, ask).expect("is taken");
    told.recv().expect("has asked");
    eventually("all are told", || log.failures().len() == 200);
    let tokens: Vec<u64> = log.failures().iter().map(|failed| failed.token).collect();
    assert_eq!(tokens, (0..200).collect::<Vec<_>>());
    is_quiet(&running);
}

#[test]
fn connects_of_the_last_callbacks_are_answered() {
    let dead = DeadPort::new();
    let addr = dead.addr;
    // Each failure makes another connect, until none is taken any more.
    let (running, log) = start_client(client(1), move |app| {
        app.on_connect_failed(move |reactor, _| drop(reactor.connect(addr)))
    });
    connect(&running, Connect::to(addr));
    eventually("some fail", || log.failures().len() > 20);
    running.shutdown();
    let last = log.failures().pop().expect("there are some");
    assert!(
        matches!(last.error, ConnectError::Stopped),
        "{}",
        last.error
    );
}

#[test]
fn many_connects_of_a_callback_stop_nobody_and_each_can_be_cancelled() {
    let (running, log) = start_client(client(1), |app| app);
    let dead = TempPath::new().addr();
    let (tell, told) = mpsc::channel();
    let failed = log.clone();
    let ask = move |_: &mut App, reactor: &mut Reactor<'_, App>| {
        let mut last = None;
        for token in 0..3000 {
            let connect = Connect::to(dead.as_str()).token(token);
            last = Some(reactor.connect(connect).expect("is taken"));
        }
        last.expect("there is one").cancel().expect("is taken");
        reactor.defer(move |_, _| {
            tell.send(failed.failures().len()).expect("is awaited");
        });
    };
    running.engine().run_on(0, ask).expect("is taken");
    assert_eq!(told.recv().expect("is told"), 1024, "in the first turn");
    eventually("all are told", || log.failures().len() == 3000);
    let failures = log.failures();
    let cancelled: Vec<u64> = failures
        .iter()
        .filter(|failed| matches!(failed.error, ConnectError::Cancelled))
        .map(|failed| failed.token)
        .collect();
    assert_eq!(cancelled, [2999]);
    let mut tokens: Vec<u64> = failures.iter().map(|failed| failed.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..3000).collect::<Vec<_>>());
    is_quiet(&running);
}

#[test]
fn a_reactor_that_has_stopped_takes_no_connects_although_another_has_not() {
    let dead = DeadPort::new();
    let addr = dead.addr;
    let (tell, told) = mpsc::channel();
    let (running, _log) = start_client(client(2), move |app| {
        let tell = tell.clone();
        app.on_connect_failed(move |reactor, failed| {
            let again = reactor.connect(addr);
            let has_stopped = matches!(failed.error, ConnectError::Stopped);
            if has_stopped || again.is_err() {
                let _ = tell.send(matches!(again, Err(ConnectError::Stopped)));
            }
        })
    });
    let gate = Gate::before(running.engine(), 0);
    running.engine().connect_on(1, addr).expect("is taken");
    running.engine().shutdown_within(Duration::ZERO);
    assert!(told.recv_timeout(LONG).expect("is told"));
    drop(gate);
    running.join();
}
