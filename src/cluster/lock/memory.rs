use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Held, LockGuard, Locks, held_by_others};
use crate::cluster::Error;

/// Locks in memory, for servers that are in one process, and for tests. Clones share them.
///
/// They need no renewal and end with the process, so `ttl` is ignored. Up to 65,536 are held at a time.
#[derive(Clone, Default)]
pub struct MemoryLocks(Arc<Table>);

#[derive(Default)]
struct Table {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    held: HashSet<Arc<str>>,
    /// The last fencing token. One counter serves all names, so that names need not be kept.
    token: u64,
}

/// The maximum number of locks that are held.
const MAX: usize = 65_536;

impl MemoryLocks {
    /// Returns locks of which none is held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of locks that are held.
    pub fn held(&self) -> usize {
        self.0.state.lock().held.len()
    }

    /// Takes the lock if it is free.
    fn take(&self, state: &mut State, name: &str) -> Result<Option<LockGuard>, Error> {
        super::check(name)?;
        if state.held.contains(name) {
            return Ok(None);
        }
        if state.held.len() == MAX {
            return Err(Error::Busy {
                what: "table of locks",
            });
        }
        let shared: Arc<str> = name.into();
        state.held.insert(shared.clone());
        state.token += 1;
        let holder = Holder {
            table: self.0.clone(),
            name: shared,
            token: state.token,
        };
        Ok(Some(LockGuard::new(name, holder)))
    }
}

impl Locks for MemoryLocks {
    fn acquire(&self, name: &str, wait: Duration) -> Result<LockGuard, Error> {
        let began = Instant::now();
        let mut state = self.0.state.lock();
        loop {
            if let Some(guard) = self.take(&mut state, name)? {
                return Ok(guard);
            }
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(held_by_others(name, wait));
            }
            self.0.freed.wait_for(&mut state, left);
        }
    }

    fn try_acquire(&self, name: &str, _ttl: Duration) -> Result<Option<LockGuard>, Error> {
        self.take(&mut self.0.state.lock(), name)
    }
}

struct Holder {
    table: Arc<Table>,
    name: Arc<str>,
    token: u64,
}

impl Held for Holder {
    fn is_held(&self) -> bool {
        true
    }

    fn token(&self) -> Option<u64> {
        Some(self.token)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.table.state.lock().held.remove(&self.name);
        self.table.freed.notify_all();
    }
}

impl fmt::Debug for MemoryLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLocks")
            .field("held", &self.held())
            .finish()
    }
}
