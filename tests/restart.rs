//! The example `graceful_restart`: processes replace each other under load, without a lost request.

mod util;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use crate::util::client::TempPath;
use crate::util::{LONG, eventually};

/// Returns the path of the example, which cargo builds together with the tests.
fn example() -> Option<PathBuf> {
    let this = env::current_exe().ok()?;
    let built = this.parent()?.parent()?.join("examples/graceful_restart");
    built.exists().then_some(built)
}

/// A listening process of the example. It is killed if the test fails.
struct Process {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(example: &PathBuf, control: &TempPath, listen: &str) -> (Self, SocketAddr) {
        let mut child = Command::new(example)
            .args(["--listen", listen, "--drain", "60s", "--control"])
            .arg(&control.0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped"));
        let mut this = Self { child, lines };
        let line = this.line();
        let addr = line.split(' ').nth(3).and_then(|addr| addr.parse().ok());
        (this, addr.unwrap_or_else(|| panic!("no address: {line}")))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("says something");
        line.trim_end().to_owned()
    }

    /// Waits for the end of the process. Returns its last output.
    fn ended(mut self) -> String {
        let replaced = self.line();
        assert!(replaced.ends_with("is replaced"), "{replaced}");
        let last = self.line();
        assert!(self.child.wait().expect("ends").success());
        last
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects, sends a number of requests and closes. Returns the number of the process that has answered.
fn ask(addr: SocketAddr, times: usize) -> u32 {
    let stream = TcpStream::connect(addr).expect("connects");
    stream.set_nodelay(true).expect("is set");
    stream.set_read_timeout(Some(LONG)).expect("is set");
    let mut answers = BufReader::new(&stream);
    let mut by = 0;
    for n in 0..times {
        (&stream)
            .write_all(format!("request {n}\n").as_bytes())
            .expect("sends");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("is answered");
        let (process, echoed) = answer.trim_end().split_once(' ').expect("two parts");
        assert_eq!(echoed, format!("request {n}"));
        by = process.parse().expect("a process number");
        if times > 1 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    by
}

#[test]
fn processes_that_replace_each_other_under_load_lose_no_request() {
    let Some(example) = example() else {
        return util::skipped("the example graceful_restart is not built: cargo build --examples");
    };
    let control = TempPath::new();
    let (mut current, addr) = Process::start(&example, &control, "tcp://127.0.0.1:0");
    let (done, served, long_served) = Default::default();
    let (done, served, long_served): (AtomicBool, AtomicUsize, AtomicUsize) =
        (done, served, long_served);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    ask(addr, 1);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // These clients keep their connections for a while.
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    ask(addr, 50);
                    long_served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            let (few, long) = (&served, &long_served);
            let before = (few.load(Ordering::Relaxed), long.load(Ordering::Relaxed));
            eventually("requests are served", || {
                few.load(Ordering::Relaxed) > before.0 + 50
                    && long.load(Ordering::Relaxed) > before.1 + 1
            });
            let (new, same) = Process::start(&example, &control, "tcp://127.0.0.1:1");
            assert_eq!(same, addr);
            let old = std::mem::replace(&mut current, new);
            let last = old.ended();
            assert!(last.ends_with("0 forced"), "{last}");
            assert_eq!(ask(addr, 1), current.child.id());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_given_as_the_control_socket_is_refused_and_stays() {
    let Some(example) = example() else {
        return util::skipped("the example graceful_restart is not built: cargo build --examples");
    };
    let file = TempPath::new();
    fs::write(&file.0, "precious").expect("writes");
    let mut command = Command::new(example);
    command.args(["--listen", "tcp://127.0.0.1:0", "--control"]);
    let output = command.arg(&file.0).output().expect("starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no socket is there"), "{said}");
    assert!(
        said.contains(&file.0.display().to_string()),
        "it names the path: {said}"
    );
    assert_eq!(fs::read(&file.0).expect("is there"), b"precious");
}

#[test]
fn a_process_that_dies_leaves_its_place_to_the_next() {
    let Some(example) = example() else {
        return util::skipped("the example graceful_restart is not built: cargo build --examples");
    };
    let control = TempPath::new();
    let (first, _) = Process::start(&example, &control, "tcp://127.0.0.1:0");
    // Sends SIGKILL.
    drop(first);
    assert!(control.0.exists());
    let (second, addr) = Process::start(&example, &control, "tcp://127.0.0.1:0");
    assert_eq!(ask(addr, 1), second.child.id());
}

/// Peers of RPC that replace each other when they get SIGUSR2.
#[cfg(all(feature = "rpc", feature = "signals"))]
mod peers {
    use super::*;

    use std::time::Instant;

    use epicycle::Reconnect;
    use epicycle::rpc::{Peer, Session, Status, code};
    use rustix::process::{Pid, Signal, kill_process};

    /// The process that serves now, and the output of all of them. It is killed if the test fails.
    struct Served {
        first: Child,
        current: Pid,
        lines: BufReader<std::process::ChildStdout>,
    }

    impl Served {
        fn start(example: &PathBuf, control: &TempPath) -> (Self, SocketAddr) {
            let mut first = Command::new(example)
                .args(["--listen", "tcp4://127.0.0.1:0", "--push-every", "0"])
                .arg("--control")
                .arg(&control.0)
                .stdout(Stdio::piped())
                .spawn()
                .expect("starts");
            let lines = BufReader::new(first.stdout.take().expect("is piped"));
            let mut this = Self {
                current: Pid::from_child(&first),
                first,
                lines,
            };
            let addr = this.started();
            (this, addr)
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("says something");
            line.trim_end().to_owned()
        }

        /// Waits until a process listens, which is the current one then. Returns its address.
        fn started(&mut self) -> SocketAddr {
            let line = self.line();
            let words: Vec<_> = line.split([' ', ';']).collect();
            let addr = words.get(3).and_then(|addr| addr.parse().ok());
            let process = words.iter().position(|word| *word == "process");
            let process = process.and_then(|at| words.get(at + 1)?.parse().ok());
            self.current = process.and_then(Pid::from_raw).expect("its number");
            addr.unwrap_or_else(|| panic!("no address: {line}"))
        }

        /// Has the process replaced. Returns when the old one has ended.
        fn replace(&mut self, addr: SocketAddr) {
            let old = self.current;
            kill_process(old, Signal::USR2).expect("gets the signal");
            // The new process says that it listens, and the old one says how it ends.
            let mut has_ended = false;
            while !has_ended || self.current == old {
                let line = self.line();
                match line.contains("rpc_server ends") {
                    true => {
                        assert!(line.ends_with("0 forced"), "{line}");
                        has_ended = true;
                    }
                    false => {
                        assert!(line.contains(&addr.to_string()), "{line}");
                        let number = line.split("process ").nth(1).expect("its number");
                        let number = number.split(';').next().expect("its number");
                        self.current = number.parse().ok().and_then(Pid::from_raw).expect("one");
                    }
                }
            }
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            let _ = kill_process(self.current, Signal::KILL);
            let _ = self.first.kill();
            let _ = self.first.wait();
        }
    }

    /// Ends the load, also if the test fails.
    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Calls until the server takes the call. A peer that is shutting down refuses calls, and those have not been carried out.
    fn call(session: &Session, n: i64) -> usize {
        let deadline = Instant::now() + LONG;
        for attempt in 0.. {
            let sum: Result<i64, _> = session.call("/math/add", &[n, 1]).idempotent().wait();
            match sum {
                Ok(sum) => {
                    assert_eq!(sum, n + 1);
                    return attempt;
                }
                Err(Status {
                    code: code::SERVICE_UNAVAILABLE,
                    ..
                }) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                Err(status) => panic!("call {n} is lost: {status}"),
            }
        }
        0
    }

    #[test]
    fn peers_that_replace_each_other_under_load_lose_no_call() {
        let example = super::example().map(|path| path.with_file_name("rpc_server"));
        let Some(example) = example.filter(|path| path.exists()) else {
            return util::skipped("the example rpc_server is not built: cargo build --examples");
        };
        let control = TempPath::new();
        let (mut served, addr) = Served::start(&example, &control);
        let policy = Reconnect::new(Duration::from_millis(1), Duration::from_millis(100));
        let client = Peer::builder().reactors(1).redial(policy);
        let client = client.start().expect("starts");
        let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let sessions: Vec<_> = (0..4)
            .map(|_| client.dial(addr).expect("connects"))
            .collect();
        thread::scope(|scope| {
            let ends = End(&done);
            for session in &sessions {
                let (done, answered) = (&done, &answered);
                scope.spawn(move || {
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        call(session, n);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..3 {
                let before = answered.load(Ordering::Relaxed);
                eventually("calls are answered", || {
                    answered.load(Ordering::Relaxed) > before + 100
                });
                // A call that takes longer than the new process to start ends in the old one.
                let slow = sessions[0].call::<_, ()>("/sleep", &1u64).send();
                served.replace(addr);
                assert_eq!(slow.wait(), Ok(()));
            }
            let before = answered.load(Ordering::Relaxed);
            eventually("calls are answered", || {
                answered.load(Ordering::Relaxed) > before + 100
            });
            drop(ends);
        });
        assert!(client.stats().peer.redials >= 12, "each session moved on");
        let fresh = client.dial(addr).expect("connects");
        assert_eq!(call(&fresh, 1), 0);
        kill_process(served.current, Signal::TERM).expect("gets the signal");
        let last = served.line();
        assert!(last.contains("rpc_server ends"), "{last}");
        eventually("the path is gone", || !control.0.exists());
    }
}
