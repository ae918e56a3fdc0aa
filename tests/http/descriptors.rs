//! The example `static_files` with few descriptors, and a client that would have it open more.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epicycle::Addr;

use crate::util::client::{Client, TempPath};
use crate::util::{await_some, eventually, not_here, skipped};

/// The example, which cargo builds together with the tests.
fn example() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let built = this.parent()?.parent()?.join("examples/static_files");
    if !built.exists() {
        skipped("the example static_files is not built: cargo build --examples --all-features");
    }
    built.exists().then_some(built)
}

/// The example with 64 descriptors, which is killed at the end.
struct Example(Child);

impl Example {
    fn start(example: &Path, root: &Path, path: &TempPath) -> Self {
        let child = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"])
            .arg(example)
            .args(["--reactors", "1", "--addr", &path.addr(), "--root"])
            .arg(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("starts"))
    }

    fn descriptors(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.0.id());
        fs::read_dir(dir).expect("lists descriptors").count()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pipeliner_that_does_not_read_takes_no_descriptors_from_others() {
    if !cfg!(target_os = "linux") {
        return not_here("descriptors are counted in /proc");
    }
    let Some(example) = example() else {
        return;
    };
    let root = TempPath::new();
    fs::create_dir(&root.0).expect("is made");
    let small = root.0.join("small");
    fs::write(&small, b"x").expect("is written");
    let path = TempPath::new();
    let server = Example::start(&example, &root.0, &path);
    let addr = Addr::Unix(Some(path.0.clone().into()));
    let greedy = await_some("it listens", || Client::try_connect(&addr).ok());
    let timeout = Some(Duration::from_millis(300));
    greedy.0.set_write_timeout(timeout).expect("is set");
    let request = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..100 {
        match (&greedy.0).write(&request.repeat(100)) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut last = 0;
    eventually("no more are opened", || {
        std::thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, server.descriptors());
        before == last
    });
    let other = Client::connect(&addr);
    other.send(request);
    let answer = other.recv(12);
    assert_eq!(answer, b"HTTP/1.1 200", "{last} descriptors are open");
    fs::remove_file(&small).expect("is there");
}
