use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use parking_lot::{Condvar, Mutex};

use super::Instance;
use crate::cluster::Error;

/// The records of this process at a registry that forgets them without a sign of life. The thread that keeps them alive waits here, so
/// that it does not hold the registry.
pub(super) struct Keeper<K> {
    state: Mutex<State<K>>,
    changed: Condvar,
}

/// A registry whose records are kept alive.
pub(super) trait Keep: Send + Sync + 'static {
    /// The record, with what it takes to keep it alive.
    type Kept: Clone + Send + 'static;

    /// The name of the thread.
    const THREAD: &'static str;

    /// The time between two signs of life.
    const INTERVAL: Duration;

    fn keeper(&self) -> &Arc<Keeper<Self::Kept>>;

    /// Keeps a record alive, and writes it again if the registry has none.
    fn keep_one(&self, key: &Key) -> Result<(), Error>;
}

/// The name and the id of an instance.
pub(super) type Key = (String, String);

struct State<K> {
    kept: HashMap<Key, K>,
    is_running: bool,
    is_over: bool,
}

const RETRY: Duration = Duration::from_millis(500);

impl<K: Clone + Send + 'static> Keeper<K> {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            kept: HashMap::new(),
            is_running: false,
            is_over: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub(super) fn get(&self, key: &Key) -> Option<K> {
        self.state.lock().kept.get(key).cloned()
    }

    /// Keeps a record alive from now on. Returns the one that it replaces.
    pub(super) fn insert<O: Keep<Kept = K>>(
        owner: &Arc<O>,
        key: Key,
        kept: K,
    ) -> io::Result<Option<K>> {
        let keeper = owner.keeper();
        let mut state = keeper.state.lock();
        let old = state.kept.insert(key, kept);
        if !state.is_running {
            let (keeper, owner) = (keeper.clone(), Arc::downgrade(owner));
            thread::Builder::new()
                .name(O::THREAD.to_owned())
                .spawn(move || keeper.run(&owner))?;
            state.is_running = true;
        }
        Ok(old)
    }

    /// Replaces a record, unless it was taken out meanwhile.
    #[cfg(feature = "etcd")]
    pub(super) fn replace(&self, key: &Key, kept: K) {
        if let Some(old) = self.state.lock().kept.get_mut(key) {
            *old = kept;
        }
    }

    pub(super) fn remove_if(&self, key: &Key, is_it: impl FnOnce(&K) -> bool) -> Option<K> {
        let mut state = self.state.lock();
        state.kept.get(key).filter(|kept| is_it(kept))?;
        let kept = state.kept.remove(key);
        drop(state);
        self.changed.notify_all();
        kept
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Keeps the records alive until there are none, or the registry is gone.
    fn run<O: Keep<Kept = K>>(&self, owner: &Weak<O>) {
        let mut wait = O::INTERVAL;
        loop {
            let deadline = Instant::now() + wait;
            let mut state = self.state.lock();
            while !state.is_over && !state.kept.is_empty() && Instant::now() < deadline {
                self.changed.wait_until(&mut state, deadline);
            }
            if state.is_over || state.kept.is_empty() {
                state.is_running = false;
                return;
            }
            let due: Vec<_> = state.kept.keys().cloned().collect();
            drop(state);
            let Some(owner) = owner.upgrade() else {
                continue;
            };
            wait = O::INTERVAL;
            for key in due {
                if let Err(error) = owner.keep_one(&key) {
                    log::debug!(target: "epicycle::cluster", "the record of {} is not kept: {error}", key.1);
                    wait = RETRY;
                }
            }
        }
    }
}

pub(super) fn key(instance: &Instance) -> Key {
    (instance.name.clone(), instance.id.clone())
}
