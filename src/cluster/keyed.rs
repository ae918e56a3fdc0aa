use std::collections::HashMap;
use std::hash::Hash;
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

use super::Error;

/// Lets one thread at a time work on a key. Others that want the same key wait; other keys are free.
#[derive(Debug)]
pub(super) struct Keyed<K> {
    state: Mutex<State<K>>,
    freed: Condvar,
}

#[derive(Debug)]
struct State<K> {
    /// With the threads that have them.
    taken: HashMap<K, ThreadId>,
    /// Threads, with the keys that they wait for.
    waiting: HashMap<ThreadId, K>,
}

impl<K: Eq + Hash + Clone> Keyed<K> {
    /// Waits until no other thread has the key, and takes it until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] with this name if that would never be: the thread has the key already, or another thread has it
    /// that waits for this one.
    pub(super) fn take(&self, name: &'static str, key: K) -> Result<Taken<'_, K>, Error> {
        let own = thread::current().id();
        let mut state = self.state.lock();
        while state.taken.contains_key(&key) {
            if state.is_held_up_by(own, &key) {
                let problem = "it is asked for by the work on it, which would wait for itself";
                return Err(Error::argument(name, problem));
            }
            state.waiting.insert(own, key.clone());
            self.freed.wait(&mut state);
            state.waiting.remove(&own);
        }
        state.taken.insert(key.clone(), own);
        Ok(Taken { keyed: self, key })
    }
}

impl<K: Eq + Hash> State<K> {
    /// Returns true if a key is free only after a thread has done something: it has the key, or the one that has it waits for it.
    fn is_held_up_by(&self, thread: ThreadId, key: &K) -> bool {
        let mut wanted = Some(key);
        while let Some(holder) = wanted.and_then(|key| self.taken.get(key)) {
            if *holder == thread {
                return true;
            }
            wanted = self.waiting.get(holder);
        }
        false
    }
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        let state = State {
            taken: HashMap::new(),
            waiting: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
            freed: Condvar::new(),
        }
    }
}

/// A key that this thread works on.
pub(super) struct Taken<'k, K: Eq + Hash> {
    keyed: &'k Keyed<K>,
    key: K,
}

impl<K: Eq + Hash> Drop for Taken<'_, K> {
    fn drop(&mut self) {
        self.keyed.state.lock().taken.remove(&self.key);
        self.keyed.freed.notify_all();
    }
}
