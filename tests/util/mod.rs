//! What the integration tests share: waiting, clients, and a handler made of closures that keeps a log.

#![allow(dead_code)]

pub(crate) mod app;
pub(crate) mod client;
pub(crate) mod logs;
pub(crate) mod process;
pub(crate) mod strangers;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than anything here takes: reaching it is a failure, not a delay.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `find` finds something.
pub(crate) fn await_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = find();
        found.is_some()
    });
    found.expect("the condition held")
}

/// Bytes without a period that a mistake could hide behind; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Says loudly, past the test harness, that a program is missing, without which something is not tested.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// The same of what no installing would help: this machine, or this user, cannot do it.
pub(crate) fn not_here(why: &str) {
    let _ = writeln!(io::stderr(), "NOT TESTED HERE: {why}");
}

/// Keeps the panics that tests raise on purpose out of the output.
pub(crate) fn expect_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let message = literal.or(payload.downcast_ref::<String>().map(String::as_str));
            let on_purpose = message.is_some_and(|message| message.contains("on purpose"));
            if !on_purpose {
                report(panic);
            }
        }));
    });
}
