//! The mark of a thread that runs a reactor. A call that blocks is refused there.

use std::cell::Cell;

thread_local! {
    static RUNS_REACTOR: Cell<bool> = const { Cell::new(false) };
}

/// Marks the current thread until it is dropped.
#[derive(Debug)]
pub(crate) struct Mark {
    before: bool,
}

/// Marks the current thread as one that runs a reactor.
#[must_use]
pub(crate) fn mark() -> Mark {
    Mark {
        before: RUNS_REACTOR.replace(true),
    }
}

/// Returns true if the current thread runs a reactor.
#[cfg(any(feature = "http", feature = "rpc"))]
pub(crate) fn is_current() -> bool {
    RUNS_REACTOR.get()
}

impl Drop for Mark {
    fn drop(&mut self) {
        RUNS_REACTOR.set(self.before);
    }
}
