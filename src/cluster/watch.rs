use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A source of changes, such as those of the registry or the locator. [`next`](Iterator::next) blocks until there is one.
///
/// It ends when it is closed from another thread ([`WatchHandle::close`]), or when the source is gone. It blocks, so it is for a
/// thread of its own and not for a reactor.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::watch;
///
/// let (sender, mut watch) = watch::<i32>();
/// assert!(sender.push(1, 10));
/// assert_eq!(watch.next(), Some(1));
///
/// let handle = watch.handle();
/// let reader = std::thread::spawn(move || watch.next());
/// handle.close();
/// assert_eq!(reader.join().ok(), Some(None));
/// assert!(sender.is_closed());
/// ```
#[must_use = "dropping it ends the watch"]
pub struct Watch<T>(Arc<Shared<T>>);

/// The other end of a [`Watch`], for those who implement a backend.
pub struct WatchSender<T>(Arc<Shared<T>>);

/// Closes a [`Watch`] from any thread, and tells if its source is lost.
#[derive(Clone)]
pub struct WatchHandle(Weak<dyn Closing + Send + Sync>);

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// The receiver has ended.
    closed: bool,
    /// The sender has ended.
    over: bool,
    lost_since: Option<Instant>,
    on_close: Option<OnClose>,
}

type OnClose = Box<dyn FnOnce() + Send>;

/// Returns the two ends of a watch, for those who implement a backend.
pub fn watch<T>() -> (WatchSender<T>, Watch<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            closed: false,
            over: false,
            lost_since: None,
            on_close: None,
        }),
        changed: Condvar::new(),
    });
    (WatchSender(shared.clone()), Watch(shared))
}

impl<T: Send + 'static> Watch<T> {
    /// Returns a handle that closes this watch from any thread.
    pub fn handle(&self) -> WatchHandle {
        let closing: Arc<dyn Closing + Send + Sync> = self.0.clone();
        WatchHandle(Arc::downgrade(&closing))
    }
}

impl<T> Watch<T> {
    /// Returns what waits, without blocking.
    pub fn try_next(&mut self) -> Option<T> {
        self.0.state.lock().waiting.pop_front()
    }
}

impl<T> Iterator for Watch<T> {
    type Item = T;

    /// Blocks until there is a change. Returns `None` at the end.
    fn next(&mut self) -> Option<T> {
        let mut state = self.0.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                return Some(next);
            }
            if state.over {
                return None;
            }
            self.0.changed.wait(&mut state);
        }
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> WatchSender<T> {
    /// Sends a value in place of all that wait: for a state, of which only the latest matters. Returns false if the watch has ended.
    pub fn replace(&self, value: T) -> bool {
        self.change(|waiting| {
            let old = std::mem::take(waiting);
            waiting.push_back(value);
            (true, old)
        })
    }

    /// Sends a value after those that wait. Returns false, without sending it, if `max` wait or the watch has ended.
    pub fn push(&self, value: T, max: usize) -> bool {
        self.change(|waiting| {
            let fits = waiting.len() < max;
            if fits {
                waiting.push_back(value);
            }
            (fits, VecDeque::new())
        })
    }

    /// Tells that the backend is lost, or found again. The receiver keeps what it has, and can tell how old it is.
    pub fn set_lost(&self, lost: bool) {
        let since = &mut self.0.state.lock().lost_since;
        *since = match (lost, *since) {
            (true, since) => since.or_else(|| Some(Instant::now())),
            (false, _) => None,
        };
    }

    /// Returns true if the watch has ended.
    pub fn is_closed(&self) -> bool {
        self.0.state.lock().closed
    }

    /// Calls `hook` when the watch ends, on the thread that ends it; at once if it has ended.
    pub fn on_close(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        if state.closed {
            drop(state);
            hook();
        } else {
            state.on_close = Some(Box::new(hook));
        }
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<T>) -> (bool, VecDeque<T>)) -> bool {
        let mut state = self.0.state.lock();
        if state.closed {
            return false;
        }
        let (sent, old) = change(&mut state.waiting);
        drop(state);
        self.0.changed.notify_one();
        // Values are dropped without the lock.
        drop(old);
        sent
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl WatchHandle {
    /// Ends the watch. A thread that waits for its next value returns at once.
    pub fn close(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.close();
        }
    }

    /// Returns the moment at which the source was lost, if it is. What was received before may be out of date.
    pub fn lost_since(&self) -> Option<Instant> {
        self.0.upgrade()?.lost_since()
    }
}

trait Closing {
    fn close(&self);
    fn lost_since(&self) -> Option<Instant>;
}

impl<T> Shared<T> {
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        let on_close = state.on_close.take();
        drop(state);
        self.changed.notify_one();
        drop(waiting);
        if let Some(hook) = on_close {
            hook();
        }
    }
}

impl<T> Closing for Shared<T> {
    fn close(&self) {
        Shared::close(self);
    }

    fn lost_since(&self) -> Option<Instant> {
        self.state.lock().lost_since
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for WatchSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchSender").finish_non_exhaustive()
    }
}

impl fmt::Debug for WatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchHandle").finish_non_exhaustive()
    }
}
