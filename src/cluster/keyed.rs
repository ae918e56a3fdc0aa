use std::collections::HashSet;
use std::hash::Hash;

use parking_lot::{Condvar, Mutex};

/// Lets one thread at a time work on a key. Others that want the same key wait; other keys are free.
#[derive(Debug)]
pub(super) struct Keyed<K> {
    taken: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K: Eq + Hash + Clone> Keyed<K> {
    /// Waits until no other thread has the key, and takes it until the returned value is dropped.
    pub(super) fn take(&self, key: K) -> Taken<'_, K> {
        let mut taken = self.taken.lock();
        while taken.contains(&key) {
            self.freed.wait(&mut taken);
        }
        taken.insert(key.clone());
        Taken { keyed: self, key }
    }
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
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
        self.keyed.taken.lock().remove(&self.key);
        self.keyed.freed.notify_all();
    }
}
