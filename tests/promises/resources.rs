//! Descriptors, paths and limits: nothing leaks, nothing is taken from others, and each limit has a default.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use epicycle::codec::Lines;
use epicycle::{AcceptMode, Action, Server};

use crate::util::app::{App, Cut, local, start};
use crate::util::client::{Client, TempPath};
use crate::util::process::{alone, cpu_time, descriptors, limit_descriptors};
use crate::util::{eventually, expect_panics};

/// Keeps what is logged at warnings and above.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.target(), record.args());
            self.0.lock().expect("no panics").push(line);
        }
    }

    fn flush(&self) {}
}

#[test]
fn running_out_of_descriptors_is_logged_backed_off_and_survived_by_the_main_reactor() {
    let name = "resources::running_out_of_descriptors_is_logged_backed_off_and_survived_by_the_main_reactor";
    alone(name, || {
        exhaustion(Server::bind("tcp://127.0.0.1:0").reactors(2));
    });
}

#[test]
fn running_out_of_descriptors_is_logged_backed_off_and_survived_by_a_single_loop() {
    let name =
        "resources::running_out_of_descriptors_is_logged_backed_off_and_survived_by_a_single_loop";
    alone(name, || {
        exhaustion(Server::bind("tcp://127.0.0.1:0").accept_mode(AcceptMode::SingleLoop));
    });
}

fn exhaustion(server: Server) {
    log::set_logger(&WARNINGS).expect("is the first");
    log::set_max_level(log::LevelFilter::Warn);
    let (running, _log) = start(server, |app| app);
    let stats = || running.engine().stats().total();
    // Descriptors are given out from the lowest: those of ten connections, both ends, and one end more.
    limit_descriptors(descriptors() as u64 + 21);
    let mut clients: Vec<_> = (0..10).map(|_| Client::to(&running)).collect();
    for client in &clients {
        client.round_trip("hello");
    }
    let waiting = Client::to(&running);
    waiting.send("patience");
    eventually("accepting fails", || stats().accept_errors > 0);

    let (cpu, turns) = (cpu_time(), stats().turns);
    thread::sleep(Duration::from_millis(500));
    assert!(cpu_time() - cpu < Duration::from_millis(250), "it spins");
    assert!(stats().turns - turns < 100, "it spins");
    assert!(stats().accept_errors < 20, "it does not back off");
    for client in &clients {
        client.round_trip("we are served");
    }
    let warnings = WARNINGS.0.lock().expect("no panics").clone();
    assert!(!warnings.is_empty() && warnings.len() < 20, "{warnings:?}");
    for line in warnings {
        assert!(
            line.starts_with("epicycle::accept") && line.contains("ulimit -n"),
            "{line}"
        );
    }

    clients.pop();
    assert_eq!(waiting.recv(8), b"patience");
    drop(clients);
    eventually("they are gone", || stats().connections == 1);
    for _ in 0..100 {
        Client::to(&running).round_trip("business as usual");
    }
}

#[test]
fn no_descriptor_leaks() {
    alone("resources::no_descriptor_leaks", || {
        expect_panics();
        let before = descriptors();
        let path = TempPath::new();
        let modes = [
            Server::bind("tcp://127.0.0.1:0").reactors(2),
            Server::bind("tcp://127.0.0.1:0")
                .reactors(2)
                .accept_mode(AcceptMode::ReusePort),
            Server::bind("tcp://127.0.0.1:0").accept_mode(AcceptMode::SingleLoop),
        ];
        for server in modes {
            commotion(server.and(path.addr()).max_connections(30));
            assert_eq!(descriptors(), before);
        }
        for bad in [
            "tcp://127.0.0.1:0 ",
            "tcp://203.0.113.1:0",
            "unix:///no/such/dir/x",
        ] {
            let server = Server::bind("tcp://127.0.0.1:0").and(path.addr()).and(bad);
            assert!(server.start(|_| App::echo(&Default::default())).is_err());
            assert_eq!(descriptors(), before);
        }
        let server = local().reactors(3).and(path.addr());
        let panics = server.start(|reactor| {
            assert!(reactor < 2, "on purpose");
            panic!("on purpose");
            #[allow(unreachable_code)]
            App::echo(&Default::default())
        });
        assert!(panics.is_err());
        assert_eq!(descriptors(), before);
    });
}

/// Connections that end in every way there is.
fn commotion(server: Server) {
    let (running, log) = start(server, |app| {
        app.codec(Cut::Lines(Lines::with_max(100)))
            .on_open(|conn| {
                assert_ne!(conn.id().as_u64() % 16, 7, "on purpose");
                conn.id().as_u64() % 16 != 8
            })
            .react(|conn, _, line| {
                match line {
                    b"panic" => panic!("on purpose"),
                    b"close" => return Action::Close,
                    b"abort" => conn.abort(),
                    _ => conn.send(line).expect("taken"),
                }
                Action::Continue
            })
    });
    let served = descriptors();
    for addr in running.local_addrs() {
        for n in 0..200 {
            let client = Client::connect(addr);
            let long = [b'x'; 200];
            let order: &[u8] = match n % 6 {
                0 => b"panic\n",
                1 => b"close\n",
                2 => b"abort\n",
                3 => b"hello\n",
                4 => &long,
                _ => b"half a line",
            };
            // A refused client may be gone already.
            let _ = (&client.0).write_all(order);
            // Half of them leave without waiting for what comes of it.
            match n % 12 {
                0 | 1 | 2 | 4 => drop(client.recv_to_any_end()),
                3 => drop(client.try_recv(6)),
                _ => {}
            }
            if n % 2 == 0 {
                client.reset();
            }
        }
    }
    // More at once than are allowed.
    let crowd: Vec<_> = (0..60).map(|_| Client::to(&running)).collect();
    eventually("the rest is refused", || {
        running.engine().stats().total().refused >= 30
    });
    drop(crowd);
    eventually("all are gone", || running.engine().connections() == 0);
    eventually("all are closed", || descriptors() == served);
    let stalled = Client::to(&running);
    stalled.send("hello\n");
    drop(stalled);
    let report = running.shutdown();
    assert_eq!(report.forced, 0);
    assert!(log.closed() > 150, "{}", log.closed());
}

#[test]
fn a_unix_path_is_removed_at_the_end() {
    for server in [
        local().reactors(2),
        local().reactors(2).accept_mode(AcceptMode::ReusePort),
        local().accept_mode(AcceptMode::SingleLoop),
    ] {
        let path = TempPath::new();
        let (running, _log) = start(server.and(path.addr()), |app| app);
        assert!(fs::metadata(&path.0).unwrap().file_type().is_socket());
        Client::connect(&running.local_addrs()[1]).round_trip("hello");
        let _ = running.shutdown();
        assert!(!path.0.exists());
    }
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let path = TempPath::new();
    drop(UnixListener::bind(&path.0).unwrap());
    assert!(path.0.exists(), "the listener is gone, its socket is not");
    let (running, _log) = start(Server::bind(path.addr()), |app| app);
    Client::to(&running).round_trip("hello");
}

#[test]
fn a_unix_socket_that_answers_is_left_alone() {
    let path = TempPath::new();
    let (running, _log) = start(Server::bind(path.addr()), |app| app);
    assert_refused(&path, "another server");
    Client::to(&running).round_trip("hello");
    drop(running);
    let (running, _log) = start(Server::bind(path.addr()), |app| app);
    Client::to(&running).round_trip("hello");
}

#[test]
fn a_file_or_directory_in_the_place_of_a_unix_socket_is_left_alone() {
    let file = TempPath::new();
    fs::write(&file.0, "precious").unwrap();
    assert_refused(&file, "no socket");
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");

    let dir = TempPath::new();
    fs::create_dir(&dir.0).unwrap();
    assert_refused(&dir, "no socket");
    assert!(dir.0.is_dir());

    let (link, target) = (TempPath::new(), TempPath::new());
    drop(UnixListener::bind(&target.0).unwrap());
    std::os::unix::fs::symlink(&target.0, &link.0).unwrap();
    assert_refused(&link, "no socket");
    assert!(link.0.is_symlink() && target.0.exists());
}

#[test]
fn a_unix_path_that_another_server_has_taken_over_is_left_to_it() {
    let path = TempPath::new();
    let (running, _log) = start(Server::bind(path.addr()), |app| app);
    fs::remove_file(&path.0).unwrap();
    let successor = UnixListener::bind(&path.0).unwrap();
    let _ = running.shutdown();
    assert!(path.0.exists());
    drop(successor);
}

#[test]
fn a_failed_start_removes_the_unix_paths_it_made() {
    let (path, file) = (TempPath::new(), TempPath::new());
    fs::write(&file.0, "").unwrap();
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::bind(path.addr()).and(file.addr());
    assert!(server.start(|_| App::echo(&Default::default())).is_err());
    assert!(!path.0.exists() && file.0.exists());
}

/// Asserts that a server cannot start there, and that the error says where and why.
fn assert_refused(path: &TempPath, why: &str) {
    let server = Server::bind(path.addr());
    let error = server
        .start(|_| App::echo(&Default::default()))
        .expect_err("the path is taken");
    let message = error.to_string();
    assert!(
        message.contains(&path.addr()) && message.contains(why),
        "{message}"
    );
}

#[test]
fn every_option_says_what_its_default_is() {
    let source = fs::read_to_string("src/engine/server/options.rs").unwrap();
    let mut doc = String::new();
    let mut options = 0;
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some(option) = line.strip_prefix("pub fn ") {
            let name = option.split('(').next().unwrap_or(option);
            // The other half of `balance`, whose default stands there.
            let exempt = name == "balance_with";
            assert!(
                exempt || doc.contains("Default:"),
                "{name} does not say: {doc}"
            );
            options += 1;
            doc.clear();
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    assert!(options > 30, "only {options} options found");
}
