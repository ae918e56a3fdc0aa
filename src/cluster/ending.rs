//! The end of a watch, as the thread sees it that asks a backend for changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::WatchSender;
use crate::fetch::Abort;
#[cfg(any(feature = "consul", feature = "etcd"))]
use crate::fetch::Request;

/// Interrupts what the thread of a watch waits for, when the watch ends. The default belongs to no watch, and never comes.
#[derive(Clone, Default)]
pub(super) struct Ending(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    is_over: bool,
    /// The request that was begun last.
    abort: Option<Abort>,
}

impl Ending {
    pub(super) fn of<T>(sender: &WatchSender<T>) -> Self {
        let ending = Self::default();
        let own = ending.clone();
        sender.on_close(move || own.end());
        ending
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.state.lock().is_over
    }

    /// Waits for a time, or until the end.
    pub(super) fn wait(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut state = self.0.state.lock();
        while !state.is_over && !self.0.ended.wait_until(&mut state, deadline).timed_out() {}
    }

    /// Has the end abort a request.
    #[cfg(any(feature = "consul", feature = "etcd"))]
    pub(super) fn interrupt(&self, request: Request) -> Request {
        let own = self.clone();
        request.on_start(move |abort| {
            let mut state = own.0.state.lock();
            if state.is_over {
                drop(state);
                abort.abort();
            } else {
                state.abort = Some(abort);
            }
        })
    }

    fn end(&self) {
        let mut state = self.0.state.lock();
        state.is_over = true;
        let abort = state.abort.take();
        drop(state);
        self.0.ended.notify_all();
        if let Some(abort) = abort {
            abort.abort();
        }
    }
}
