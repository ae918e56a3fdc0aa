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
