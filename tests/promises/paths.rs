//! The paths and names of Unix sockets: one server at a time, their owner, and their removal.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::{Error, Listen, Running, Server, handover};
use rustix::process::{getegid, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::util::LONG;
use crate::util::app::{App, start};
use crate::util::client::{Client, TempPath};

fn try_start(listen: impl Into<Listen>) -> Result<Running<App>, Error> {
    let server = Server::bind(listen).reactors(1);
    server.start(|_| App::echo(&Arc::default()))
}

fn refusal(listen: impl Into<Listen>) -> String {
    let error = try_start(listen).expect_err("it must not start");
    error.to_string()
}

/// Leaves a socket behind, as a server that was killed does.
fn make_stale(path: &TempPath) {
    drop(UnixListener::bind(&path.0).expect("binds"));
}

#[test]
fn of_two_servers_that_start_at_once_on_a_path_exactly_one_runs() {
    for round in 0..500 {
        let path = TempPath::new();
        if round % 2 == 0 {
            make_stale(&path);
        }
        let (addr, together) = (path.addr(), Barrier::new(2));
        let started = thread::scope(|scope| {
            let start = || {
                together.wait();
                try_start(&addr)
            };
            [scope.spawn(start), scope.spawn(start)].map(|start| start.join().expect("ends"))
        });
        let (running, failed): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        assert_eq!((running.len(), failed.len()), (1, 1), "in round {round}");
        let [Err(error)] = &failed[..] else {
            unreachable!("one has failed");
        };
        let message = error.to_string();
        assert!(
            message.contains("another server answers there"),
            "{message}"
        );
        for running in running.into_iter().flatten() {
            Client::to(&running).round_trip("hello");
        }
        assert!(!path.0.exists(), "in round {round}");
    }
}

#[test]
fn a_socket_that_does_not_listen_yet_is_no_stale_one() {
    let path = TempPath::new();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let addr = SockAddr::unix(&path.0).expect("an address");
    socket.bind(&addr).expect("binds");
    let message = refusal(path.addr());
    assert!(
        message.contains("another server answers there"),
        "{message}"
    );
    socket.listen(1).expect("listens");
    drop(UnixStream::connect(&path.0).expect("it is there still"));
}

#[test]
fn a_start_waits_while_another_one_has_the_directory() {
    let dir = TempPath::new();
    fs::create_dir(&dir.0).expect("makes a directory");
    let lock = File::open(&dir.0).expect("opens");
    lock.lock().expect("locks");
    let addr = format!("{}/socket", dir.addr());
    thread::scope(|scope| {
        let starting = scope.spawn(|| try_start(&addr));
        thread::sleep(Duration::from_millis(50));
        assert!(!starting.is_finished() && !dir.0.join("socket").exists());
        lock.unlock().expect("unlocks");
        let running = starting.join().expect("ends").expect("starts");
        Client::to(&running).round_trip("hello");
    });
    assert!(!dir.0.join("socket").exists());
}

#[test]
fn a_directory_that_somebody_keeps_locked_keeps_no_server_from_starting() {
    let dir = TempPath::new();
    fs::create_dir(&dir.0).expect("makes a directory");
    let lock = File::open(&dir.0).expect("opens");
    lock.lock().expect("locks");
    let addr = format!("{}/socket", dir.addr());
    let running = try_start(&addr).expect("starts");
    Client::to(&running).round_trip("hello");
    drop(running);
    assert!(!dir.0.join("socket").exists());
}

#[test]
fn a_path_has_its_owner_and_mode_before_it_can_be_connected_to() {
    let (mut user, mut group) = (geteuid().as_raw(), getegid().as_raw());
    if user == 0 {
        (user, group) = (54_321, 12_345);
    }
    for mode in [0o600, 0o666].into_iter().cycle().take(600) {
        let path = TempPath::new();
        let early = thread::scope(|scope| {
            let early = scope.spawn(|| {
                // Without a pause, for it is a matter of microseconds.
                let deadline = Instant::now() + LONG;
                while UnixStream::connect(&path.0).is_err() {
                    assert!(Instant::now() < deadline, "it cannot be connected to");
                }
                fs::symlink_metadata(&path.0).expect("is there")
            });
            let listen = Listen::on(path.addr())
                .path_mode(mode)
                .path_owner(Some(user), Some(group));
            let running = try_start(listen).expect("starts");
            let early = early.join().expect("connects");
            Client::to(&running).round_trip("hello");
            early
        });
        assert_eq!(early.mode() & 0o7777, mode);
        assert_eq!((early.uid(), early.gid()), (user, group));
    }
}

#[test]
fn options_of_a_path_that_cannot_work_are_named() {
    let path = TempPath::new();
    let message = refusal(Listen::on(path.addr()).path_mode(660));
    assert!(
        message.contains("path_mode") && message.contains("0o660"),
        "{message}"
    );
    for place in ["tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix://@nowhere"] {
        let message = refusal(Listen::on(place).path_mode(0o600));
        assert!(
            message.contains("path_mode") && message.contains("unix:///"),
            "{message}"
        );
        let message = refusal(Listen::on(place).path_owner(None, Some(1)));
        assert!(message.contains("path_owner"), "{message}");
    }
    if geteuid().as_raw() != 0 {
        let message = refusal(Listen::on(path.addr()).path_owner(Some(0), None));
        assert!(message.contains("option path_owner"), "{message}");
        assert!(!path.0.exists(), "it is left behind");
    }
}

#[test]
fn a_copy_that_nobody_took_over_does_not_keep_the_path() {
    let path = TempPath::new();
    let (running, _) = start(Server::bind(path.addr()), |app| app);
    let copies = running.engine().listeners().expect("copies");
    let (near, far) = UnixStream::pair().expect("a pair");
    drop(far);
    handover::send(&near, &copies).expect_err("nobody receives");
    drop(copies);
    running.shutdown();
    assert!(!path.0.exists(), "it is left behind");
}

#[test]
fn a_path_stays_as_long_as_somebody_has_its_socket() {
    let path = TempPath::new();
    let (old, _) = start(Server::bind(path.addr()), |app| app);
    let mut copies = old.engine().listeners().expect("copies");
    // Not yet listened on by its new owner, when the old one ends.
    old.shutdown();
    assert!(path.0.exists());
    let message = refusal(path.addr());
    assert!(
        message.contains("another server answers there"),
        "{message}"
    );
    let server = Server::bind(Listen::socket(copies.remove(0)));
    let (new, log) = start(server, |app| app);
    Client::to(&new).round_trip("hello");
    // Nobody has looked whether it answers by connecting.
    assert_eq!(log.opened(), 1);
    new.shutdown();
    // A server leaves the path of a socket that it was given; the next one finds that it is stale.
    let (next, _) = start(Server::bind(path.addr()), |app| app);
    Client::to(&next).round_trip("hello");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_listened_on_and_connected_to_without_a_file() {
    use epicycle::{Addr, Endpoint};

    let name = format!("epicycle-test-{}", std::process::id());
    let addr = format!("unix://@{name}");
    let (running, log) = start(Server::bind(&addr).reactors(2), |app| app);
    assert_eq!(
        running.local_addrs(),
        [Addr::UnixAbstract(name.as_bytes().into())]
    );
    assert_eq!(running.local_addrs()[0].to_string(), addr);
    assert!(!fs::exists(format!("@{name}")).expect("can be looked for"));
    Client::to(&running).round_trip("hello");
    // By the engine, too.
    running.engine().connect(&addr).expect("is taken");
    log.await_open(2);
    let message = refusal(&addr);
    assert!(message.contains(&addr), "{message}");
    assert!(
        message.contains("another server answers there"),
        "{message}"
    );
    running.shutdown();
    let (running, _) = start(Server::bind(&addr), |app| app);
    drop(running);

    let parsed: Endpoint = addr.parse().expect("an address");
    assert_eq!(parsed, Endpoint::UnixAbstract(name.into_bytes()));
    let file: Endpoint = "unix://./@file".parse().expect("an address");
    assert_eq!(file, Endpoint::Unix("./@file".into()));
    let message = "unix://@".parse::<Endpoint>().expect_err("no name");
    assert!(message.to_string().contains("unix://@app"), "{message}");
    let long = format!("unix://@{}", "x".repeat(200));
    assert!(refusal(&long).contains(&long));
}

#[test]
fn an_abstract_name_of_any_bytes_is_shown_as_it_is_read() {
    use epicycle::Endpoint;

    let name = b"a\\b\0\xf7\n'\"".to_vec();
    let addr = Endpoint::UnixAbstract(name);
    let shown = addr.to_string();
    assert!(shown.is_ascii() && !shown.contains('\n'), "{shown}");
    assert_eq!(shown.parse::<Endpoint>().expect("an address"), addr);
    for wrong in ["\\", "\\y", "\\x0", "\\x0g", "\\x+1"] {
        let error = format!("unix://@{wrong}").parse::<Endpoint>();
        let error = error.expect_err(wrong).to_string();
        assert!(error.contains("backslash"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_with_an_abstract_name_is_known_by_it() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use epicycle::Addr;

    let path = TempPath::new();
    let (running, log) = start(Server::bind(path.addr()), |app| app);
    let name = format!("epicycle-client-{}", std::process::id());
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let named = SocketAddr::from_abstract_name(&name).expect("an address");
    assert_eq!(named.as_abstract_name(), Some(name.as_bytes()));
    socket
        .bind(&SockAddr::unix(format!("\0{name}")).expect("an address"))
        .expect("binds");
    socket
        .connect(&SockAddr::unix(&path.0).expect("an address"))
        .expect("connects");
    log.await_open(0);
    drop(socket);
    assert_eq!(
        log.await_close(0).0.peer,
        Addr::UnixAbstract(name.as_bytes().into())
    );
    running.shutdown();
}

#[test]
fn a_client_without_a_name_has_none() {
    use epicycle::Addr;

    let path = TempPath::new();
    let (running, log) = start(Server::bind(path.addr()), |app| app);
    let client = Client::to(&running);
    client.round_trip("hello");
    drop(client);
    let peer = log.await_close(0).0.peer;
    assert_eq!(peer, Addr::Unix(None));
    assert_eq!(peer.to_string(), "unix://(unnamed)");
}

#[test]
fn the_process_at_the_other_end_of_a_unix_socket_is_known() {
    let answer = |app: crate::util::app::App| {
        app.react(|conn, _, _| {
            let found = conn.peer_credentials();
            conn.write(format!("{found:?};").as_bytes()).into()
        })
    };
    let path = TempPath::new();
    let (running, _log) = start(Server::bind(path.addr()), answer);
    let client = Client::to(&running);
    client.send("who");
    let mut told = Vec::new();
    while !told.ends_with(b";") {
        told.extend(client.recv(1));
    }
    let told = String::from_utf8_lossy(&told);
    let user = rustix::process::getuid().as_raw();
    assert!(told.contains(&format!("user: {user},")), "{told}");
    if cfg!(target_os = "linux") {
        let process = format!("process: Some({})", std::process::id());
        assert!(told.contains(&process), "{told}");
    }

    let (running, _log) = start(Server::bind("tcp://127.0.0.1:0"), answer);
    let client = Client::to(&running);
    client.send("who");
    let refused = b"Err(Custom { kind: Unsupported";
    assert_eq!(client.recv(refused.len()), refused);
}
