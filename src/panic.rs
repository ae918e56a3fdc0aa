//! Catches and logs panics of the application's code.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `code` and logs its panic under `target`. Returns true if it panicked.
pub(crate) fn catch(target: &str, what: &str, code: impl FnOnce()) -> bool {
    let caught = catch_unwind(AssertUnwindSafe(code));
    caught
        .map_err(|payload| report(target, what, payload))
        .is_err()
}

/// Logs a panic under `target` and drops its payload.
pub(crate) fn report(target: &str, what: &str, payload: Box<dyn Any + Send>) {
    // The logger and the payload's drop are the application's code too, and may panic as well.
    let logged = catch_unwind(AssertUnwindSafe(|| {
        log::error!(target: target, "{what} panicked: {}", message(&*payload));
    }));
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    for panic in [logged, dropped] {
        panic.unwrap_or_else(mem::forget);
    }
}

/// Returns the message of a panic.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref().map(String::as_str))
        .unwrap_or("(no message)")
}
