//! The flag that a caller no longer waits.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::panic;

/// Tells a handler that its caller no longer waits.
#[derive(Default)]
pub(super) struct Cancellation {
    is_cancelled: AtomicBool,
    callbacks: Mutex<Vec<Callback>>,
}

type Callback = Box<dyn FnOnce() + Send>;

impl Cancellation {
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Calls `callback` at the cancellation: on the thread that cancels, or at once if that has happened.
    pub(super) fn on_cancel(&self, callback: Callback) {
        let mut callbacks = self.callbacks.lock();
        if !self.is_cancelled() {
            return callbacks.push(callback);
        }
        drop(callbacks);
        Callbacks(vec![callback]).run();
    }

    pub(super) fn cancel(&self) {
        self.mark().run();
    }

    /// Sets the flag. Returns the callbacks, for a caller that holds a lock now.
    #[must_use]
    pub(super) fn mark(&self) -> Callbacks {
        let mut callbacks = self.callbacks.lock();
        self.is_cancelled.store(true, Ordering::Release);
        Callbacks(std::mem::take(&mut *callbacks))
    }
}

/// The callbacks of a cancellation that has happened.
#[derive(Default)]
pub(super) struct Callbacks(Vec<Callback>);

impl Callbacks {
    pub(super) fn run(self) {
        for callback in self.0 {
            panic::catch("epicycle::rpc", "the callback of a cancellation", callback);
        }
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancellation")
            .field(&self.is_cancelled())
            .finish()
    }
}
