use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Instance;
use super::keeper::{Keep, Keeper, Key, key};
use crate::cluster::ending::Ending;
use crate::cluster::error::spelled;
use crate::cluster::polled::watch_polled;
use crate::cluster::{Error, Watch};

/// A registry at a backend that forgets a record unless it gets a beat from its server. Clones share it.
pub(super) struct Agents<A: Agent>(Arc<Shared<A>>);

/// A backend of this kind.
pub(super) trait Agent: Send + Sync + 'static {
    /// The position of a watch.
    type Position: Default + Send;

    const BACKEND: &'static str;

    /// Writes a record, in place of the one of the same name and id.
    fn put(&self, instance: &Instance) -> Result<(), Error>;

    /// Tells that the server lives. Returns false if the backend has no record of it.
    fn beat(&self, instance: &Instance) -> Result<bool, Error>;

    /// Returns the endpoint of another server that has the record, at a backend where there is one record of an id.
    fn taken_by(&self, _instance: &Instance) -> Result<Option<String>, Error> {
        Ok(None)
    }

    fn remove(&self, instance: &Instance) -> Result<(), Error>;

    /// Returns the records of a name, at the first call for a position at once, and then when they may have changed or after some
    /// time.
    fn poll(
        &self,
        name: &str,
        position: &mut Self::Position,
        ending: &Ending,
    ) -> Result<Vec<Instance>, Error>;
}

struct Shared<A: Agent> {
    agent: A,
    keeper: Arc<Keeper<Instance>>,
    /// Held while records are written, so that a new state and the repetition of an old one cannot cross.
    writing: Mutex<()>,
}

impl<A: Agent> Agents<A> {
    pub(super) fn new(agent: A) -> Self {
        Self(Arc::new(Shared {
            agent,
            keeper: Keeper::new(),
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
        Keeper::insert(&self.0, key(instance), instance.clone())
            .map_err(|error| Error::backend(A::BACKEND, format!("no thread for it: {error}")))?;
        Ok(())
    }

    pub(super) fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        let shared = &*self.0;
        let _writing = shared.writing.lock();
        let is_it = |kept: &Instance| kept.endpoint == instance.endpoint;
        match shared.keeper.remove_if(&key(instance), is_it) {
            Some(kept) if shared.agent.taken_by(&kept)?.is_none() => shared.agent.remove(&kept),
            _ => Ok(()),
        }
    }

    pub(super) fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        let (mut position, ending) = (A::Position::default(), Ending::default());
        self.0.agent.poll(name, &mut position, &ending)
    }

    pub(super) fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        let (own, name) = (self.0.clone(), name.to_owned());
        watch_polled(A::BACKEND, move |position, ending| {
            own.agent.poll(&name, position, ending)
        })
    }
}

impl<A: Agent> Keep for Shared<A> {
    type Kept = Instance;

    const THREAD: &'static str = "epicycle-beats";

    const INTERVAL: Duration = Duration::from_secs(5);

    fn keeper(&self) -> &Arc<Keeper<Instance>> {
        &self.keeper
    }

    fn keep_one(&self, key: &Key) -> Result<(), Error> {
        let Some(instance) = self.keeper.get(key) else {
            return Ok(());
        };
        let has_record = self.agent.beat(&instance)?;
        if has_record && self.agent.taken_by(&instance)?.is_none() {
            return Ok(());
        }
        let _writing = self.writing.lock();
        if has_record {
            return self.leave(key);
        }
        // It may have a new state, or have been taken out meanwhile.
        if let Some(instance) = self.keeper.get(key) {
            let backend = spelled(A::BACKEND);
            log::warn!(target: "epicycle::cluster", "{backend} has no record of {}, which is registered again", key.1);
            self.agent.put(&instance)?;
        }
        Ok(())
    }
}

impl<A: Agent> Shared<A> {
    /// Keeps a record no longer that another server has.
    fn leave(&self, key: &Key) -> Result<(), Error> {
        if let Some(instance) = self.keeper.get(key)
            && let Some(other) = self.agent.taken_by(&instance)?
        {
            let (backend, id) = (spelled(A::BACKEND), &key.1);
            log::warn!(target: "epicycle::cluster", "{backend}: another server, at {other}, has the record of {id}, which is left to it; give each server an id of its own");
            self.keeper.remove_if(key, |_| true);
        }
        Ok(())
    }
}

impl<A: Agent> Drop for Shared<A> {
    fn drop(&mut self) {
        self.keeper.end();
    }
}

impl<A: Agent> Clone for Agents<A> {
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

            fn expose(&self, labels: &[(&str, &str)], to: &mut crate::metrics::Exposition) {
                crate::metrics::Expose::expose(&self.0.agent().$field, labels, to);
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
