//! The place where a caller's thread or task waits for the reply to one call.

use std::mem;
use std::task::{Poll, Waker};
use std::time::Instant;

use self::sync::{Condvar, Mutex};
use crate::panic;

/// A value that one thread puts in once and another one takes out.
pub(super) struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

enum State<T> {
    /// The waker is that of the task that waits, if any.
    Empty(Option<Waker>),
    Filled(T),
    Taken,
}

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::Empty(None)),
            filled: Condvar::new(),
        }
    }

    /// Puts the value in and wakes whoever waits. A second value is dropped.
    pub(super) fn fill(&self, value: T) {
        let mut state = self.state.lock();
        let State::Empty(waker) = &mut *state else {
            return;
        };
        let waker = waker.take();
        *state = State::Filled(value);
        drop(state);
        self.filled.notify_one();
        if let Some(waker) = waker {
            // It is the application's, and this is the reactor's thread.
            panic::catch("epicycle::rpc", "a waker", || waker.wake());
        }
    }

    /// Takes the value out, if it is there.
    pub(super) fn take(&self) -> Option<T> {
        take(&mut self.state.lock())
    }

    /// Waits for the value and takes it out.
    pub(super) fn wait(&self) -> T {
        let mut state = self.state.lock();
        loop {
            if let Some(value) = take(&mut state) {
                return value;
            }
            state = self.filled.wait(state);
        }
    }

    /// Waits for the value and takes it out. Returns `None` at the deadline.
    pub(super) fn wait_until(&self, deadline: Instant) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(value) = take(&mut state) {
                return Some(value);
            }
            let expired;
            (state, expired) = self.filled.wait_until(state, deadline);
            if expired {
                return take(&mut state);
            }
        }
    }

    /// Takes the value out, or has the task woken once it is there.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<T> {
        let mut state = self.state.lock();
        if let Some(value) = take(&mut state) {
            return Poll::Ready(value);
        }
        if let State::Empty(waiting) = &mut *state {
            match waiting {
                Some(waiting) => waiting.clone_from(waker),
                None => *waiting = Some(waker.clone()),
            }
        }
        Poll::Pending
    }
}

fn take<T>(state: &mut State<T>) -> Option<T> {
    match mem::replace(state, State::Taken) {
        State::Filled(value) => Some(value),
        other => {
            *state = other;
            None
        }
    }
}

#[cfg(not(all(test, loom)))]
mod sync {
    use std::time::Instant;

    pub(super) use parking_lot::{Mutex, MutexGuard};

    pub(super) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(super) fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        pub(super) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(super) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }

        /// Waits until it is notified. Returns true at the deadline.
        pub(super) fn wait_until<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            deadline: Instant,
        ) -> (MutexGuard<'a, T>, bool) {
            let expired = self.0.wait_until(&mut guard, deadline).timed_out();
            (guard, expired)
        }
    }
}

/// The replacements by loom, which tries every interleaving.
#[cfg(all(test, loom))]
mod sync {
    use std::time::Instant;

    pub(super) use crate::engine::mailbox::sync::{Mutex, MutexGuard};

    pub(super) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(super) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(super) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(super) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap()
        }

        /// Waits until it is notified. There is no time in loom.
        pub(super) fn wait_until<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _deadline: Instant,
        ) -> (MutexGuard<'a, T>, bool) {
            (self.wait(guard), false)
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc as StdArc;
    use std::task::Wake;

    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn a_thread_that_waits_gets_the_value() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let filler = thread::spawn({
                let slot = slot.clone();
                move || slot.fill(7)
            });
            assert_eq!(slot.wait(), 7);
            filler.join().unwrap();
            assert_eq!(slot.take(), None);
        });
    }

    #[test]
    fn of_two_values_exactly_one_is_kept() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let fillers = [1, 2].map(|value| {
                let slot = slot.clone();
                thread::spawn(move || slot.fill(value))
            });
            assert!(matches!(slot.wait(), 1 | 2));
            for filler in fillers {
                filler.join().unwrap();
            }
            assert_eq!(slot.take(), None);
        });
    }

    /// A waker that notifies a thread.
    struct Notice {
        woken: loom::sync::Mutex<bool>,
        changed: loom::sync::Condvar,
    }

    impl Wake for Notice {
        fn wake(self: StdArc<Self>) {
            *self.woken.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    #[test]
    fn a_task_that_polls_is_woken_or_finds_the_value() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let filler = thread::spawn({
                let slot = slot.clone();
                move || slot.fill(7)
            });
            let notice = StdArc::new(Notice {
                woken: loom::sync::Mutex::new(false),
                changed: loom::sync::Condvar::new(),
            });
            let waker = Waker::from(notice.clone());
            let value = loop {
                match slot.poll(&waker) {
                    Poll::Ready(value) => break value,
                    Poll::Pending => {
                        let mut woken = notice.woken.lock().unwrap();
                        while !*woken {
                            woken = notice.changed.wait(woken).unwrap();
                        }
                        *woken = false;
                    }
                }
            };
            assert_eq!(value, 7);
            filler.join().unwrap();
        });
    }
}
