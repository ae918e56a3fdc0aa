//! SIGINT and SIGTERM: a graceful shutdown. Each test runs in its own process.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::thread;
use std::time::Duration;

use epicycle::{Action, Addr, Connect, Server};
use rustix::process::{Pid, Signal, kill_process};

use crate::util::app::start;
use crate::util::client::{Client, TempPath, shrink};
use crate::util::process::Partner;
use crate::util::{LONG, await_some, eventually, noise};

/// Where the server of this process listens, if it is a test's partner.
const LISTEN: &str = "EPICYCLE_TEST_SIGNALS";

const MIB: usize = 1 << 20;

/// A server in a process of its own.
struct Process {
    partner: Partner,
    path: TempPath,
}

impl Process {
    /// Runs `body` with an address to listen on, in a process of its own; in that process, ends with `body`.
    fn start(test: &str, body: impl FnOnce(&str)) -> Option<Self> {
        if let Ok(addr) = env::var(LISTEN) {
            // It has to end even if nobody is left to end it.
            thread::spawn(|| {
                thread::sleep(3 * LONG);
                process::abort();
            });
            body(&addr);
            return None;
        }
        let path = TempPath::new();
        let partner = Partner::start(test, &[(LISTEN, &path.addr())]);
        Some(Self { partner, path })
    }

    fn client(&self) -> Client {
        let addr = Addr::Unix(Some(self.path.0.as_path().into()));
        await_some("it listens", || Client::try_connect(&addr).ok())
    }

    fn await_line(&mut self, expected: &str) {
        let mut lines = self.partner.lines.by_ref().map_while(Result::ok);
        let found = lines.any(|line| line.ends_with(expected));
        assert!(found, "it never said {expected:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.partner.child);
        kill_process(pid, signal).expect("it runs");
    }

    fn ended(&mut self) -> ExitStatus {
        await_some("it ends", || {
            self.partner.child.try_wait().expect("is a child")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.partner.child.kill();
        let _ = self.partner.child.wait();
    }
}

/// A server that writes 1 MiB to whoever sends something, until a signal comes; prints its report.
fn generous(addr: &str) {
    let server = Server::bind(addr).reactors(1).stop_on_signals();
    let (running, _log) = start(server.drain_deadline(LONG), |app| {
        app.react(|conn, _, _| {
            shrink(conn);
            conn.write(&noise(1, MIB)).into()
        })
        .on_shutdown(|_| println!("shuts down"))
    });
    let report = running.join();
    println!("{} drained, {} forced", report.drained, report.forced);
}

#[test]
fn sigterm_drains_the_connections_and_removes_the_unix_path() {
    const NAME: &str = "signals::sigterm_drains_the_connections_and_removes_the_unix_path";
    for signal in [Signal::TERM, Signal::INT] {
        let Some(mut process) = Process::start(NAME, generous) else {
            return;
        };
        let client = process.client();
        client.send("go");
        let expected = noise(1, MIB);
        assert!(client.recv(1000) == expected[..1000]);
        process.signal(signal);
        process.await_line("shuts down");
        assert!(client.recv_to_end() == expected[1000..]);
        process.await_line("1 drained, 0 forced");
        assert!(process.ended().success());
        assert!(!process.path.0.exists(), "the path is left behind");
    }
}

#[test]
fn a_second_signal_ends_the_draining() {
    const NAME: &str = "signals::a_second_signal_ends_the_draining";
    let Some(mut process) = Process::start(NAME, generous) else {
        return;
    };
    let client = process.client();
    client.send("go");
    assert!(client.recv(1000) == noise(1, MIB)[..1000]);
    process.signal(Signal::TERM);
    process.await_line("shuts down");
    // Sooner, it would count as the first one.
    thread::sleep(Duration::from_millis(600));
    process.signal(Signal::INT);
    process.await_line("0 drained, 1 forced");
    assert!(process.ended().success());
    assert!(!process.path.0.exists(), "the path is left behind");
}

#[test]
fn a_third_signal_ends_a_process_whose_callback_hangs() {
    const NAME: &str = "signals::a_third_signal_ends_a_process_whose_callback_hangs";
    let hangs = |addr: &str| {
        let server = Server::bind(addr).reactors(1).stop_on_signals();
        let (running, _log) = start(server, |app| {
            app.react(|_, _, _| {
                println!("hangs");
                thread::sleep(2 * LONG);
                Action::Continue
            })
        });
        running.join();
    };
    let Some(mut process) = Process::start(NAME, hangs) else {
        return;
    };
    let client = process.client();
    client.send("go");
    process.await_line("hangs");
    // Signals that come close together count as one.
    eventually("it ends", || {
        let ended = process.partner.child.try_wait().expect("is a child");
        if ended.is_none() {
            process.signal(Signal::TERM);
        }
        ended.is_some_and(|status| status.signal() == Some(Signal::TERM.as_raw()))
    });
}

#[test]
fn a_signal_stops_every_engine_and_the_next_one_ends_the_process() {
    const NAME: &str = "signals::a_signal_stops_every_engine_and_the_next_one_ends_the_process";
    let several = |addr: &str| {
        let server = Server::bind(addr).reactors(1).stop_on_signals();
        let (first, _log) = start(server, |app| app);
        let server = Server::bind("tcp://127.0.0.1:0").stop_on_signals();
        let (second, _log) = start(server, |app| app);
        let client = epicycle::Client::new().stop_on_signals();
        let client = client
            .start(|_| epicycle::service(|_, _| Action::Continue))
            .expect("starts");
        let to = second.local_addrs()[0].as_socket_addr().expect("is TCP");
        client
            .engine()
            .connect(Connect::to(to))
            .expect("the engine runs");
        eventually("it connects", || second.engine().connections() == 1);
        println!("runs");
        for running in [first, second] {
            running.join();
        }
        client.join();
        println!("all have ended");
        thread::sleep(2 * LONG);
    };
    let Some(mut process) = Process::start(NAME, several) else {
        return;
    };
    process.await_line("runs");
    process.signal(Signal::TERM);
    process.await_line("all have ended");
    process.signal(Signal::INT);
    assert_eq!(process.ended().signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn serve_stops_on_signals() {
    const NAME: &str = "signals::serve_stops_on_signals";
    let echo = |addr: &str| {
        epicycle::serve(addr, |conn, bytes| conn.write(bytes).into()).expect("serves");
        println!("has ended");
    };
    let Some(mut process) = Process::start(NAME, echo) else {
        return;
    };
    let client = process.client();
    client.round_trip("hello");
    process.signal(Signal::TERM);
    assert_eq!(client.recv_to_end(), b"");
    process.await_line("has ended");
    assert!(process.ended().success());
    assert!(!process.path.0.exists(), "the path is left behind");
}

#[test]
fn without_the_option_signals_are_left_to_the_program() {
    const NAME: &str = "signals::without_the_option_signals_are_left_to_the_program";
    let plain = |addr: &str| {
        let (running, _log) = start(Server::bind(addr).reactors(1), |app| app);
        running.join();
    };
    let Some(mut process) = Process::start(NAME, plain) else {
        return;
    };
    process.client().round_trip("hello");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_start_that_fails_leaves_the_signals_as_they_were() {
    const NAME: &str = "signals::a_start_that_fails_leaves_the_signals_as_they_were";
    let fails = |_: &str| {
        let server = Server::bind("unix:///nonexistent/server.sock").stop_on_signals();
        let failed = server.start(|_| epicycle::service(|_, _| Action::Continue));
        assert!(failed.is_err());
        println!("has failed");
        thread::sleep(2 * LONG);
    };
    let Some(mut process) = Process::start(NAME, fails) else {
        return;
    };
    process.await_line("has failed");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().signal(), Some(Signal::TERM.as_raw()));
}
