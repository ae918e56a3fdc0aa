//! The limits and counts of the process, and processes of a test's own.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{env, fs, process, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::SIGPIPE;
use signal_hook::flag::register_conditional_default;

use super::client::TempPath;
use super::not_here;

const ALONE: &str = "EPICYCLE_TEST_ALONE";

/// Runs the body of the test named `test` in its own process, where it can count descriptors and lower limits without
/// disturbing others.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    let mut this = Command::new(env::current_exe().expect("a path"));
    alone_as(&mut this, test, body);
}

/// Runs the body of a test in its own process that looks host names up in `hosts`, and then at a name server on this host.
/// The process has its own files in place of the system's. That needs root or user namespaces, else the test is skipped.
pub(crate) fn alone_with_hosts(test: &str, hosts: &str, body: impl FnOnce()) {
    if env::var(ALONE).is_ok() {
        return alone(test, body);
    }
    let (hosts_file, resolver) = (TempPath::new(), TempPath::new());
    fs::write(&hosts_file.0, hosts).expect("writes");
    fs::write(
        &resolver.0,
        "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n",
    )
    .expect("writes");
    let script = format!(
        "mount --bind {} /etc/hosts && mount --bind {} /etc/resolv.conf && exec \"$@\"",
        hosts_file.0.display(),
        resolver.0.display()
    );
    let with_files = |flags: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", &script, "sh"]);
        command
    };
    let can = |flags: &&str| {
        let tried = with_files(flags).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(can) else {
        return not_here(&format!(
            "{test} needs unshare and mount for host names of its own"
        ));
    };
    let exe = env::current_exe().expect("a path");
    alone_as(with_files(flags).arg(exe), test, body);
}

/// Runs the body of a test in its own process, by a command that runs this program.
pub(crate) fn alone_as(this: &mut Command, test: &str, body: impl FnOnce()) {
    if env::var(ALONE).is_ok_and(|name| name == test) {
        // The parent waits for this process, so it must end even if the test hangs.
        thread::spawn(|| {
            let limit = env::var("EPICYCLE_ALONE_SECONDS").ok();
            let limit = limit.and_then(|limit| limit.parse().ok()).unwrap_or(120);
            thread::sleep(Duration::from_secs(limit));
            eprintln!("out of time");
            process::abort();
        });
        return body();
    }
    let output = this
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, test)
        .output()
        .expect("runs itself");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// A second process of this program in another role. Its test exchanges lines with it.
pub(crate) struct Partner {
    pub(crate) child: Child,
    pub(crate) orders: ChildStdin,
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
}

impl Partner {
    /// Starts the process for the test of that name. The environment sets its role.
    pub(crate) fn start(test: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", test, "--nocapture"])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs itself");
        let orders = child.stdin.take().expect("is piped");
        let output = child.stdout.take().expect("is piped");
        Self {
            child,
            orders,
            lines: BufReader::new(output).lines(),
        }
    }
}

/// Restores the default action of SIGPIPE, which ends the process. Rust ignores the signal at startup.
pub(crate) fn die_of_sigpipe() {
    let always = Arc::new(AtomicBool::new(true));
    register_conditional_default(SIGPIPE, always).expect("is registered");
}

/// Returns the number of open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    let dir = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    // The descriptor that reads the directory is not counted.
    fs::read_dir(dir).expect("lists descriptors").count() - 1
}

/// Returns the number of open descriptors of kernel timers. A reactor opens one when it first needs it, and keeps it.
pub(crate) fn timer_descriptors() -> usize {
    descriptors_of("timerfd")
}

/// Returns the number of open descriptors of pipes. A reactor keeps up to four pipes for the next use.
pub(crate) fn pipe_descriptors() -> usize {
    descriptors_of("pipe:")
}

fn descriptors_of(kind: &str) -> usize {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return 0;
    };
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains(kind))
        .count()
}

/// Returns the current limit on descriptors, and the limit to which it may be raised.
pub(crate) fn descriptor_limit() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    (current, limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the limit on descriptors, for tests that open thousands.
pub(crate) fn raise_descriptor_limit() {
    limit_descriptors(descriptor_limit().1.min(65_536));
}

/// Sets the current limit on descriptors.
pub(crate) fn limit_descriptors(current: u64) {
    let limit = Rlimit {
        current: Some(current),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).expect("is within the hard limit");
}

/// Returns this process's resident memory in bytes, on Linux.
pub(crate) fn resident() -> Option<usize> {
    // This is exact. The counters in `status` are updated with a delay.
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// Returns the processor time that this process has used.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
