//! Helpers that the integration tests share: waiting, clients, and a handler made of closures that keeps a log.

#![allow(dead_code)]

pub(crate) mod app;
pub(crate) mod client;
pub(crate) mod logs;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod strangers;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

/// A timeout that is far longer than any step of a test, so a timeout is a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `find` returns a value, and returns it.
pub(crate) fn await_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = find();
        found.is_some()
    });
    found.expect("the condition held")
}

/// Returns bytes that depend only on the seed. They have no period, so that misplaced bytes are found.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Reports, past the test harness, that a test was skipped because a program is missing.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// Reports that a test was skipped because this machine or this user cannot run it.
pub(crate) fn not_here(why: &str) {
    let _ = writeln!(io::stderr(), "NOT TESTED HERE: {why}");
}

/// Keeps deliberate panics of tests out of the output.
pub(crate) fn expect_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let message = literal.or(payload.downcast_ref::<String>().map(String::as_str));
            // A recorded server panics with `boom: `.
            let on_purpose = message.is_some_and(|message| {
                message.contains("on purpose") || message.starts_with("boom: ")
            });
            if !on_purpose {
                report(panic);
            }
        }));
    });
}
