//! Listening sockets from elsewhere: bound by the caller, inherited, or received from another process.

mod util;

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use epicycle::handover::{Control, Successors};
use epicycle::{AcceptMode, Addr, Error, Listen, Running, Server, handover};
use rustix::io::{FdFlags, fcntl_getfd};
use socket2::{Domain, Socket, Type};

use crate::util::app::{App, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::eventually;
use crate::util::process::{alone, alone_as, descriptors, limit_descriptors};

const MODES: [fn(Server) -> Server; 4] = [
    |server| server.reactors(2),
    |server| server.reactors(2).accept_mode(AcceptMode::ReusePort),
    |server| server.reactors(1),
    |server| server.accept_mode(AcceptMode::SingleLoop),
];

/// Connects a few times to each address, and is answered.
fn is_served(running: &Running<App>) {
    for addr in running.local_addrs() {
        let clients: Vec<_> = (0..8).map(|_| Client::connect(addr)).collect();
        for client in &clients {
            client.round_trip("hello");
        }
    }
}

#[test]
fn sockets_brought_along_are_served_in_every_mode() {
    for mode in MODES {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("binds");
        let path = TempPath::new();
        let unix = UnixListener::bind(&path.0).expect("binds");
        // Bound, and not listening yet.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        bound.bind(&any.into()).expect("binds");
        let expected = [
            Addr::Ip(tcp.local_addr().expect("has an address")),
            Addr::Unix(Some(path.0.as_path().into())),
            Addr::Ip(
                bound
                    .local_addr()
                    .ok()
                    .and_then(|addr| addr.as_socket())
                    .expect("has an address"),
            ),
        ];
        let server = Server::bind(tcp)
            .and(unix)
            .and(Listen::socket(bound))
            .and("tcp://127.0.0.1:0");
        let (running, log) = start(mode(server), |app| app);
        assert_eq!(running.local_addrs()[..3], expected);
        is_served(&running);
        eventually("all close", || log.closed() == 4 * 8);
        running.shutdown();
        assert!(path.0.exists(), "the path is another's");
    }
}

#[test]
fn what_is_no_stream_socket_is_refused() {
    let sockets: [(OwnedFd, &str); 2] = [
        (File::open("/dev/null").expect("opens").into(), "non-socket"),
        (
            UnixDatagram::unbound().expect("a socket").into(),
            "no stream socket",
        ),
    ];
    for (socket, problem) in sockets {
        let server = Server::bind(Listen::socket(socket));
        let error = server.start(|_| epicycle::service(|_, _| epicycle::Action::Close));
        let error = error.expect_err("is refused");
        assert!(matches!(error, Error::Bind { .. }));
        let text = error.to_string();
        assert!(
            text.contains(problem) && text.contains("descriptor"),
            "{text}"
        );
    }
}

/// Runs the body of a test in a process started with a TCP and a Unix listener as descriptors 3 and 4.
fn with_inherited(test: &str, environment: &str, body: impl FnOnce()) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("binds");
    let path = TempPath::new();
    let unix = UnixListener::bind(&path.0).expect("binds");
    let script = format!("exec 3<&0 4<&2 2>/dev/null; {environment} exec \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(env::current_exe().expect("a path"))
        .stdin(Stdio::from(OwnedFd::from(tcp)))
        .stderr(Stdio::from(OwnedFd::from(unix)));
    alone_as(&mut command, test, body);
}

fn serves_what_it_inherits() {
    let inherited = handover::inherited().expect("are open");
    let names: Vec<_> = inherited.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["web", "local"]);
    for one in &inherited {
        let flags = fcntl_getfd(&one.socket).expect("is open");
        assert!(flags.contains(FdFlags::CLOEXEC));
    }
    assert!(handover::inherited().expect("works").is_empty());
    let mut listens = inherited.into_iter().map(|one| Listen::socket(one.socket));
    let first = listens.next().expect("has two");
    let server = listens.fold(Server::bind(first), Server::and);
    let (running, _log) = start(server.reactors(1), |app| app);
    assert_eq!(running.local_addrs().len(), 2);
    is_served(&running);
}

#[test]
fn descriptors_that_systemd_passes_are_served() {
    let environment = "LISTEN_FDS=2 LISTEN_FDNAMES=web:local LISTEN_PID=$$";
    with_inherited(
        "descriptors_that_systemd_passes_are_served",
        environment,
        serves_what_it_inherits,
    );
}

#[test]
fn descriptors_passed_by_a_parent_that_names_no_process_are_served() {
    let environment = "LISTEN_FDS=2 LISTEN_FDNAMES=web:local";
    with_inherited(
        "descriptors_passed_by_a_parent_that_names_no_process_are_served",
        environment,
        serves_what_it_inherits,
    );
}

#[test]
fn descriptors_meant_for_another_process_are_left_alone() {
    let environment = "LISTEN_FDS=2 LISTEN_PID=1";
    with_inherited(
        "descriptors_meant_for_another_process_are_left_alone",
        environment,
        || assert!(handover::inherited().expect("works").is_empty()),
    );
}

#[test]
fn an_announced_descriptor_that_is_not_open_is_an_error() {
    let environment = "LISTEN_FDS=1000000";
    with_inherited(
        "an_announced_descriptor_that_is_not_open_is_an_error",
        environment,
        || {
            let error = handover::inherited().expect_err("they are not open");
            assert!(error.to_string().contains("LISTEN_FDS"), "{error}");
        },
    );
}

#[test]
fn without_the_variables_nothing_is_inherited() {
    alone("without_the_variables_nothing_is_inherited", || {
        assert!(handover::inherited().expect("works").is_empty());
    });
}

#[test]
fn systemds_own_tool_starts_a_server_at_the_first_connection() {
    const NAME: &str = "systemds_own_tool_starts_a_server_at_the_first_connection";
    // The server, in the process that the tool starts.
    if env::var_os("LISTEN_FDS").is_some() {
        let inherited = handover::inherited().expect("are open").remove(0);
        let server = Server::bind(Listen::socket(inherited.socket)).reactors(1);
        let (running, log) = start(server, |app| app);
        eventually("it is asked", || log.closed() == 1);
        drop(running);
        return;
    }
    let path = TempPath::new();
    let tool = Command::new("systemd-socket-activate")
        .arg("-l")
        .arg(&path.0)
        .arg(env::current_exe().expect("a path"))
        .args(["--exact", NAME])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut tool) = tool else {
        return util::skipped("systemd-socket-activate is not installed");
    };
    let addr = Addr::Unix(Some(path.0.as_path().into()));
    eventually("it listens", || path.0.exists());
    let client = util::await_some("it connects", || Client::try_connect(&addr).ok());
    client.round_trip("hello");
    drop(client);
    assert!(tool.wait().expect("ends").success());
}

#[test]
fn sockets_are_sent_and_received_in_order() {
    let (near, far) = UnixStream::pair().expect("a pair");
    for count in [0, 1, 64, 65, 200] {
        let sockets: Vec<_> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("binds"))
            .collect();
        let received = thread::scope(|scope| {
            scope.spawn(|| handover::send(&near, &sockets).expect("sends"));
            handover::receive(&far).expect("receives")
        });
        assert_eq!(received.len(), count);
        for (sent, received) in sockets.iter().zip(received) {
            let flags = fcntl_getfd(&received).expect("is open");
            assert!(flags.contains(FdFlags::CLOEXEC));
            let received = TcpListener::from(received);
            assert_eq!(
                sent.local_addr().expect("has an address"),
                received.local_addr().expect("has an address")
            );
        }
    }
}

#[test]
fn a_sender_that_ends_first_is_an_error() {
    let unexpected_end = |sent: &[u8]| {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        near.write_all(sent).expect("sends");
        drop(near);
        let error = handover::receive(&far).expect_err("too little came");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    };
    unexpected_end(&[]);
    unexpected_end(&[0, 0, 0]);
    unexpected_end(&[0, 0, 0, 3]);
    // A byte that no socket comes with.
    unexpected_end(&[0, 0, 0, 3, b'.', b'.']);
}

#[test]
fn a_receiver_that_has_ended_is_an_error() {
    let (near, far) = UnixStream::pair().expect("a pair");
    drop(far);
    let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
    let error = handover::send(&near, &[socket]).expect_err("nobody receives");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
}

#[test]
fn sockets_beyond_the_limit_on_descriptors_are_an_error_and_leak_nothing() {
    let name = "sockets_beyond_the_limit_on_descriptors_are_an_error_and_leak_nothing";
    alone(name, || {
        let (near, far) = UnixStream::pair().expect("a pair");
        let sockets: Vec<_> = (0..70)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("binds"))
            .collect();
        handover::send(&near, &sockets).expect("sends");
        let before = descriptors();
        limit_descriptors(before as u64 + 10);
        let error = handover::receive(&far).expect_err("there is no room");
        assert!(error.to_string().contains("ulimit"), "{error}");
        limit_descriptors(before as u64 + 100);
        assert_eq!(descriptors(), before);
    });
}

/// Hands the listeners of `old` to a new server.
fn succeed(old: &Running<App>, mode: fn(Server) -> Server) -> Running<App> {
    let (near, far) = UnixStream::pair().expect("a pair");
    let sockets = old.engine().listeners().expect("copies");
    thread::scope(|scope| {
        scope.spawn(|| handover::send(&near, &sockets).expect("sends"));
        let received = handover::receive(&far).expect("receives");
        let mut listens = received.into_iter().map(Listen::socket);
        let first = listens.next().expect("has listeners");
        let server = listens.fold(Server::bind(first), Server::and);
        start(mode(server), |app| app).0
    })
}

/// Lets a server serve whom it has, and no more.
fn begin_drain(old: &Running<App>) {
    old.engine().stop_accepting();
    eventually("it accepts no more", || !old.engine().is_accepting());
    assert!(old.engine().listeners().expect("copies").is_empty());
}

#[test]
fn a_server_that_stops_accepting_serves_on_and_its_successor_gets_the_others() {
    for mode in MODES {
        let path = TempPath::new();
        let server = Server::bind("tcp://127.0.0.1:0").and(path.addr());
        let (old, _) = start(mode(server), |app| app);
        let addrs = old.local_addrs().to_vec();
        let early: Vec<_> = addrs.iter().map(Client::connect).collect();
        for client in &early {
            client.round_trip("hello");
        }
        let new = succeed(&old, mode);
        for addr in &addrs {
            assert!(new.local_addrs().contains(addr));
        }
        begin_drain(&old);
        let late: Vec<_> = addrs.iter().map(Client::connect).collect();
        for client in &late {
            client.round_trip("hello");
        }
        for client in &early {
            client.round_trip("still here");
        }
        assert_eq!(old.engine().connections(), 2);
        assert_eq!(new.engine().connections(), 2);
        drop(early);
        eventually("the old one is done", || old.engine().connections() == 0);
        assert_eq!(old.shutdown().stats.total().accepted, 2);
        // The path is the new one's by now.
        is_served(&new);
    }
}

#[test]
fn a_server_that_stops_accepting_without_a_successor_refuses() {
    for mode in MODES {
        let path = TempPath::new();
        let server = Server::bind("tcp://127.0.0.1:0").and(path.addr());
        let (running, _) = start(mode(server), |app| app);
        assert!(running.engine().is_accepting());
        let addrs = running.local_addrs().to_vec();
        let client = Client::connect(&addrs[0]);
        client.round_trip("hello");
        begin_drain(&running);
        for addr in &addrs {
            // A process that another test is just starting may have a copy still.
            eventually("it refuses", || Client::try_connect(addr).is_err());
        }
        assert!(!path.0.exists(), "the path is left behind");
        client.round_trip("still here");
    }
}

#[test]
fn an_engine_without_listeners_accepts_nothing() {
    let (running, _) = util::app::start_client(epicycle::Client::new(), |app| app);
    assert!(!running.engine().is_accepting());
    assert!(running.engine().listeners().expect("copies").is_empty());
    running.engine().stop_accepting();
}

#[test]
fn servers_that_replace_each_other_under_load_lose_no_request() {
    for mode in MODES {
        let path = TempPath::new();
        let server = Server::bind("tcp://127.0.0.1:0").and(path.addr());
        let (mut current, _) = start(mode(server), |app| app);
        let addrs = current.local_addrs().to_vec();
        let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for addr in addrs.iter().cycle().take(4) {
                let (done, served) = (&done, &served);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        Client::connect(addr).round_trip("hello");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..10 {
                let before = served.load(Ordering::Relaxed);
                eventually("requests are served", || {
                    served.load(Ordering::Relaxed) > before + 20
                });
                let new = succeed(&current, mode);
                begin_drain(&current);
                let old = std::mem::replace(&mut current, new);
                // At once, for whoever was accepted counts by now.
                eventually("the old one is done", || old.engine().connections() == 0);
                assert_eq!(old.shutdown().forced, 0);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(fs::symlink_metadata(&path.0).is_ok());
    }
}

/// An echo server that listens for successors at a path, until it has one.
fn replaceable(control: &Control) -> (Running<App>, Arc<Successors>, JoinHandle<bool>) {
    let (running, _log) = start(local(), |app| app);
    let successors = Arc::new(control.listen().expect("listens"));
    let (engine, waiting) = (running.engine().clone(), successors.clone());
    let replaced = thread::spawn(move || {
        while let Some(successor) = waiting.accept().expect("accepts") {
            let sockets = engine.listeners().expect("are copied");
            if let Ok(successor) = successor.hand_over(&sockets) {
                engine.stop_accepting();
                waiting.close();
                drop(successor);
                return true;
            }
        }
        false
    });
    (running, successors, replaced)
}

/// Takes the place of a server.
fn take_over(control: &Control) -> Running<App> {
    let mut old = control
        .predecessor()
        .expect("answers")
        .expect("there is one");
    let socket = old.receive().expect("gets listeners").remove(0);
    let (running, _log) = start(Server::bind(Listen::socket(socket)), |app| app);
    old.relieve().expect("is told");
    running
}

#[test]
fn a_process_takes_over_at_a_control_socket_and_frees_its_path() {
    let path = TempPath::new();
    let control = Control::at(&path.0);
    assert!(control.predecessor().expect("works").is_none());
    let (old, _, replaced) = replaceable(&control);
    assert!(control.listen().is_err(), "another one listens there");
    let mode = fs::metadata(&path.0).expect("is there").mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = Client::to(&old);
    client.round_trip("served");
    let new = take_over(&control);
    assert!(replaced.join().expect("does not panic"));
    assert!(!path.0.exists(), "the path is free for the next one");
    assert_eq!(new.local_addrs(), old.local_addrs());
    let _next = control.listen().expect("listens");
    client.round_trip("still served");
    eventually("it accepts no more", || !old.engine().is_accepting());
    Client::to(&old).round_trip("served by the other");
    assert_eq!(new.engine().stats().total().accepted, 1);
}

#[test]
fn one_who_asks_for_nothing_or_is_silent_keeps_nobody_from_taking_over() {
    let path = TempPath::new();
    let control = Control::at(&path.0).deadline(Duration::from_millis(300));
    let (old, _, replaced) = replaceable(&control);
    // One says nothing, one something else, one asks and then goes on without the listeners.
    let silent = UnixStream::connect(&path.0).expect("connects");
    let mut nonsense = UnixStream::connect(&path.0).expect("connects");
    nonsense
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sends");
    let patient = Control::at(&path.0);
    let mut absent = patient
        .predecessor()
        .expect("answers")
        .expect("there is one");
    assert_eq!(absent.receive().expect("gets listeners").len(), 1);
    let new = take_over(&patient);
    assert!(replaced.join().expect("does not panic"));
    drop((silent, nonsense, absent));
    eventually("it accepts no more", || !old.engine().is_accepting());
    Client::to(&old).round_trip("served by the other");
    assert_eq!(new.engine().stats().total().accepted, 1);
}

#[test]
fn nothing_but_a_socket_is_taken_for_a_control_socket() {
    let path = TempPath::new();
    fs::write(&path.0, "precious").expect("writes");
    let control = Control::at(&path.0);
    let error = control.predecessor().expect_err("is a file");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
    let error = control.listen().expect_err("is a file");
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(fs::read(&path.0).expect("is there"), b"precious");
    fs::remove_file(&path.0).expect("is there");
    // The socket that a dead process has left behind is replaced.
    drop(UnixListener::bind(&path.0).expect("binds"));
    assert!(control.predecessor().expect("works").is_none());
    drop(control.listen().expect("listens"));
    assert!(!path.0.exists(), "the path is left behind");
}

#[test]
fn closing_ends_the_wait_for_successors_and_removes_the_path() {
    let path = TempPath::new();
    let (_old, successors, replaced) = replaceable(&Control::at(&path.0));
    successors.close();
    assert!(!replaced.join().expect("does not panic"));
    assert!(!path.0.exists());
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn processes_of_other_users_neither_get_listeners_nor_are_asked() {
    const NAME: &str = "processes_of_other_users_neither_get_listeners_nor_are_asked";
    const OTHER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return util::not_here("to be another user takes root");
    }
    // Threads have credentials of their own, which nothing else here must see.
    alone(NAME, || {
        let as_other = |task: &(dyn Fn() + Sync)| {
            let other = || {
                let other = rustix::process::Uid::from_raw(OTHER);
                rustix::thread::set_thread_uid(other).expect("root may");
                task();
            };
            thread::scope(|scope| scope.spawn(other).join()).expect("does not panic");
        };
        let path = TempPath::new();
        let strict = Control::at(&path.0).allow_user(OTHER + 1);
        let (_old, successors, replaced) = replaceable(&strict);
        as_other(&|| {
            let error = strict.predecessor().expect_err("is root's");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            // One who does not mind whom it asks.
            let trusting = strict.clone().allow_user(0).predecessor();
            let mut old = trusting.expect("answers").expect("there is one");
            old.receive().expect_err("it is hung up on");
        });
        successors.close();
        assert!(!replaced.join().expect("does not panic"));

        let lenient = Control::at(&path.0).allow_user(OTHER).allow_user(0);
        let (_old, _, replaced) = replaceable(&lenient);
        as_other(&|| drop(take_over(&lenient)));
        assert!(replaced.join().expect("does not panic"));
    });
}
