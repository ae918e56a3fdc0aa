//! Other implementations as the other end, which `.ci/strangers` installs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::skipped;

/// Returns a Python for scripts that use its standard library only. The test is skipped without it.
pub(crate) fn python_alone() -> Option<Command> {
    found(python(), ["-c", ""], "Python")
}

/// Returns a Python with the package `websockets`. The test is skipped without it.
pub(crate) fn python_websockets() -> Option<Command> {
    found(
        python(),
        ["-c", "import websockets"],
        "websockets for Python",
    )
}

/// Returns a Python with the package `prometheus_client`. The test is skipped without it.
pub(crate) fn python_prometheus() -> Option<Command> {
    found(
        python(),
        ["-c", "import prometheus_client.parser"],
        "prometheus_client for Python",
    )
}

/// Returns the number of metrics in a text for Prometheus, as its own library for Python reads it. The test is skipped without it.
pub(crate) fn prometheus_families(text: &str) -> Option<usize> {
    let script = "import sys; from prometheus_client.parser import text_string_to_metric_families as f; print(len(list(f(sys.stdin.read()))))";
    let mut parser = python_prometheus()?
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = parser.stdin.take().expect("is piped");
    input.write_all(text.as_bytes()).expect("is read");
    drop(input);
    let said = parser.wait_with_output().expect("ends");
    assert!(said.status.success(), "{text}");
    let families = String::from_utf8_lossy(&said.stdout).trim().parse();
    Some(families.expect("is a number"))
}

/// Returns a Python with the package `PySocks`. The test is skipped without it.
pub(crate) fn python_socks() -> Option<Command> {
    found(python(), ["-c", "import socks"], "PySocks for Python")
}

/// Returns a Python with the package `cryptography`. The test is skipped without it.
pub(crate) fn python_cryptography() -> Option<Command> {
    found(
        python(),
        ["-c", "import cryptography"],
        "cryptography for Python",
    )
}

/// Returns a Python with the package `grpcio`. The test is skipped without it.
pub(crate) fn python_grpc() -> Option<Command> {
    found(python(), ["-c", "import grpc"], "grpcio for Python")
}

fn python() -> Command {
    let mut python = Command::new("python3");
    // Compiled files would end up in the work tree.
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python.env("PYTHONPATH", installed("python"));
    python
}

/// Returns a node with the package `ws`. The test is skipped without it.
pub(crate) fn node_ws() -> Option<Command> {
    let mut node = Command::new("node");
    node.env("NODE_PATH", installed("node").join("node_modules"));
    found(node, ["-e", "require('ws')"], "ws for node")
}

/// Returns a headless Chromium with a new profile in an empty directory. The test is skipped without it.
///
/// It makes no connections of its own: it looks for no updates and sends no reports.
pub(crate) fn chromium(profile: &Path) -> Option<Command> {
    let chromium = Command::new("chromium");
    let mut chromium = found(chromium, ["--version"], "chromium")?;
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    let mut flag = OsStr::new("--user-data-dir=").to_owned();
    flag.push(profile);
    chromium.arg(flag);
    Some(chromium)
}

/// Starts a program that says `port N` once it serves. Returns the process and the port.
pub(crate) fn spawn_serving(command: &mut Command) -> (Child, u16) {
    let mut program = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    let stdout = program.stdout.take().expect("is piped");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("it speaks");
    let port = (line.trim().strip_prefix("port ")).and_then(|port| port.parse().ok());
    (program, port.unwrap_or_else(|| panic!("it says {line:?}")))
}

/// Returns a copy of the command without arguments, if the command succeeds with these arguments.
fn found<const N: usize>(mut command: Command, probe: [&str; N], what: &str) -> Option<Command> {
    let mut copy = Command::new(command.get_program());
    copy.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    command.args(probe).stdin(Stdio::null());
    let tried = command.output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(copy);
    }
    skipped(&format!("{what} is not installed: run .ci/strangers"));
    None
}

/// Returns the directory where `.ci/strangers` installs packages of that language.
fn installed(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/strangers")
        .join(language)
}
