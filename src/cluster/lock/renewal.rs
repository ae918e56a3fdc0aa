use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::cluster::Error;

/// Renews the locks that a process holds at a backend, on one thread, which ends when there are none.
#[derive(Default)]
pub(super) struct Renewal(Arc<Shared>);

/// A lock at a backend.
pub(super) trait Renew: Send + Sync + 'static {
    /// Returns the time that the backend keeps the lock for without renewal.
    fn ttl(&self) -> Duration;

    /// Makes the backend keep the lock for another [`ttl`](Self::ttl). Returns false if it is somebody else's.
    fn renew(&self) -> Result<bool, Error>;
}

/// A lock that is renewed, for as long as this is not dropped.
pub(super) struct Renewed<L> {
    lock: Arc<L>,
    times: Arc<Mutex<Times>>,
}

struct Times {
    /// The moment after which somebody else may have the lock.
    kept_until: Instant,
    is_lost: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the moment of the next renewal.
    due: BTreeMap<(Instant, u64), Task>,
    last: u64,
    is_running: bool,
}

struct Task {
    lock: Weak<dyn Renew>,
    times: Arc<Mutex<Times>>,
}

/// A lock that is lost, since the backend has lost it, is noticed after this time at the latest.
const LONGEST_PERIOD: Duration = Duration::from_millis(1500);
/// A thread without locks ends after this time.
const IDLE: Duration = Duration::from_secs(5);

impl Renewal {
    /// Renews a lock at each half of its time, and at least each 1.5 seconds. `since` is the moment at which the request for it was sent.
    pub(super) fn start<L: Renew>(&self, lock: L, since: Instant) -> Result<Renewed<L>, Error> {
        let lock = Arc::new(lock);
        let times = Arc::new(Mutex::new(Times {
            kept_until: since + lock.ttl(),
            is_lost: false,
        }));
        let weak: Weak<dyn Renew> = Arc::downgrade(&(lock.clone() as Arc<dyn Renew>));
        let task = Task {
            lock: weak,
            times: times.clone(),
        };
        let mut state = self.0.state.lock();
        state.add(since + period(lock.ttl()), task);
        if !state.is_running {
            let own = self.0.clone();
            thread::Builder::new()
                .name("epicycle-locks".to_owned())
                .spawn(move || own.run())
                .map_err(|error| {
                    Error::backend("locks", format!("no thread to renew them: {error}"))
                })?;
            state.is_running = true;
        }
        drop(state);
        self.0.changed.notify_one();
        Ok(Renewed { lock, times })
    }
}

impl State {
    fn add(&mut self, at: Instant, task: Task) {
        self.last += 1;
        self.due.insert((at, self.last), task);
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(first) = state.due.first_entry() else {
                let timeout = self.changed.wait_for(&mut state, IDLE).timed_out();
                if timeout && state.due.is_empty() {
                    state.is_running = false;
                    return;
                }
                continue;
            };
            let (at, _) = *first.key();
            if Instant::now() < at {
                self.changed.wait_until(&mut state, at);
                continue;
            }
            let task = first.remove();
            drop(state);
            let next = task.renew();
            state = self.state.lock();
            if let Some(at) = next {
                state.add(at, task);
            }
        }
    }
}

impl Task {
    /// Returns the moment of the next renewal, if the lock is still held.
    fn renew(&self) -> Option<Instant> {
        let lock = self.lock.upgrade()?;
        let (began, ttl) = (Instant::now(), lock.ttl());
        let renewed = lock.renew();
        let mut times = self.times.lock();
        match renewed {
            Ok(true) => {
                times.kept_until = began + ttl;
                Some(began + period(ttl))
            }
            Ok(false) => {
                times.is_lost = true;
                None
            }
            // The backend may come back before the time is over.
            Err(_) if Instant::now() < times.kept_until => Some(Instant::now() + period(ttl) / 5),
            Err(_) => {
                times.is_lost = true;
                None
            }
        }
    }
}

fn period(ttl: Duration) -> Duration {
    (ttl / 2).min(LONGEST_PERIOD)
}

impl<L: Renew> Renewed<L> {
    pub(super) fn lock(&self) -> &L {
        &self.lock
    }

    pub(super) fn is_held(&self) -> bool {
        let times = self.times.lock();
        !times.is_lost && Instant::now() < times.kept_until
    }
}
