use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Instance;
use crate::cluster::polled::watch_polled;
use crate::cluster::{Error, Watch};

/// A registry at a backend that forgets a record unless it gets a beat from its server. Clones share it.
pub(super) struct Agents<A>(Arc<Shared<A>>);

/// A backend of this kind.
pub(super) trait Agent: Send + Sync + 'static {
    /// The position of a watch.
    type Position: Default + Send;

    const BACKEND: &'static str;

    /// Writes a record, in place of the one of the same name and id.
    fn put(&self, instance: &Instance) -> Result<(), Error>;

    /// Tells that the server lives. Returns false if the backend has no record of it.
    fn beat(&self, instance: &Instance) -> Result<bool, Error>;

    fn remove(&self, instance: &Instance) -> Result<(), Error>;

    /// Returns the records of a name, at the first call for a position at once, and then when they may have changed or after some
    /// seconds.
    fn poll(&self, name: &str, position: &mut Self::Position) -> Result<Vec<Instance>, Error>;
}

struct Shared<A> {
    agent: A,
    keeper: Arc<Keeper>,
    /// Held while records are written, so that a new state and the repetition of an old one cannot cross.
    writing: Mutex<()>,
}

/// The records of this process. The thread that keeps them alive waits here, so that it does not hold the registry.
#[derive(Default)]
struct Keeper {
    state: Mutex<KeeperState>,
    changed: Condvar,
}

#[derive(Default)]
struct KeeperState {
    kept: HashMap<(String, String), Instance>,
    is_running: bool,
    is_over: bool,
}

const BEAT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);

impl<A: Agent> Agents<A> {
    pub(super) fn new(agent: A) -> Self {
        Self(Arc::new(Shared {
            agent,
            keeper: Arc::default(),
            writing: Mutex::default(),
        }))
    }

    pub(super) fn agent(&self) -> &A {
        &self.0.agent
    }

    pub(super) fn register(&self, instance: &Instance) -> Result<(), Error> {
        instance.check()?;
        let shared = &*self.0;
        let _writing = shared.writing.lock();
        shared.agent.put(instance)?;
        let mut state = shared.keeper.state.lock();
        state.kept.insert(key(instance), instance.clone());
        if !state.is_running {
            let (keeper, weak) = (shared.keeper.clone(), Arc::downgrade(&self.0));
            thread::Builder::new()
                .name("epicycle-beats".to_owned())
                .spawn(move || Shared::keep(&keeper, &weak))
                .map_err(|error| {
                    Error::backend(A::BACKEND, format!("no thread for it: {error}"))
                })?;
            state.is_running = true;
        }
        Ok(())
    }

    pub(super) fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let shared = &*self.0;
        let _writing = shared.writing.lock();
        let kept = shared.keeper.state.lock().kept.remove(&key(instance));
        shared.keeper.changed.notify_all();
        match kept {
            Some(kept) => shared.agent.remove(&kept),
            None => Ok(()),
        }
    }

    pub(super) fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        self.0.agent.poll(name, &mut A::Position::default())
    }

    pub(super) fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let (own, name) = (self.0.clone(), name.to_owned());
        watch_polled(A::BACKEND, move |position| own.agent.poll(&name, position))
    }
}

impl<A: Agent> Shared<A> {
    /// Keeps the records alive until there are none, or the registry is gone.
    fn keep(keeper: &Keeper, shared: &Weak<Self>) {
        let mut wait = BEAT;
        loop {
            let deadline = Instant::now() + wait;
            let mut state = keeper.state.lock();
            while !state.is_over && !state.kept.is_empty() && Instant::now() < deadline {
                keeper.changed.wait_until(&mut state, deadline);
            }
            if state.is_over || state.kept.is_empty() {
                state.is_running = false;
                return;
            }
            let due: Vec<_> = state.kept.keys().cloned().collect();
            drop(state);
            let Some(own) = shared.upgrade() else {
                continue;
            };
            wait = BEAT;
            for key in due {
                if let Err(error) = own.keep_one(&key) {
                    log::debug!(target: "epicycle::cluster", "the record of {} is not kept: {error}", key.1);
                    wait = RETRY;
                }
            }
        }
    }

    /// Keeps a record alive, and writes it again if the backend has none.
    fn keep_one(&self, key: &(String, String)) -> Result<(), Error> {
        let kept = || self.keeper.state.lock().kept.get(key).cloned();
        let Some(instance) = kept() else {
            return Ok(());
        };
        if self.agent.beat(&instance)? {
            return Ok(());
        }
        let _writing = self.writing.lock();
        // It may have a new state, or have been taken out meanwhile.
        if let Some(instance) = kept() {
            log::warn!(target: "epicycle::cluster", "{} has no record of {}, which is registered again", A::BACKEND, key.1);
            self.agent.put(&instance)?;
        }
        Ok(())
    }
}

fn key(instance: &Instance) -> (String, String) {
    (instance.name.clone(), instance.id.clone())
}

impl<A> Drop for Shared<A> {
    fn drop(&mut self) {
        self.keeper.state.lock().is_over = true;
        self.keeper.changed.notify_all();
    }
}

impl<A> Clone for Agents<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Makes a type around [`Agents`] a registry.
macro_rules! registry_of_agents {
    ($name:ident, $kind:literal, $field:ident) => {
        impl super::Registry for $name {
            fn kind(&self) -> &str {
                $kind
            }

            fn register(&self, instance: &super::Instance) -> Result<(), crate::cluster::Error> {
                self.0.register(instance)
            }

            /// If the backend cannot be reached, the record ends by itself.
            fn deregister(&self, instance: &super::Instance) -> Result<(), crate::cluster::Error> {
                self.0.deregister(instance)
            }

            fn services(&self, name: &str) -> Result<Vec<super::Instance>, crate::cluster::Error> {
                self.0.services(name)
            }

            fn watch(
                &self,
                name: &str,
            ) -> Result<crate::cluster::Watch<Vec<super::Instance>>, crate::cluster::Error> {
                self.0.watch(name)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field($kind, &self.0.agent().$field)
                    .finish_non_exhaustive()
            }
        }
    };
}

pub(super) use registry_of_agents;
