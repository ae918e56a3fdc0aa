use super::{Instance, Registry};
use crate::cluster::guarded::guarded;
use crate::cluster::{Error, Watch};
use crate::metrics::Exposition;

/// A registry whose panics are errors.
pub(in crate::cluster) struct GuardedRegistry<R>(pub(in crate::cluster) R);

impl<R: Registry> GuardedRegistry<R> {
    fn call<T>(&self, call: impl FnOnce(&R) -> Result<T, Error>) -> Result<T, Error> {
        guarded("registry", || call(&self.0))
    }
}

impl<R: Registry> Registry for GuardedRegistry<R> {
    fn kind(&self) -> &str {
        self.0.kind()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        crate::panic::catch("epicycle::cluster", "the metrics of a backend", || {
            self.0.expose(labels, to);
        });
    }

    fn register(&self, instance: &Instance) -> Result<(), Error> {
        self.call(|registry| registry.register(instance))
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        self.call(|registry| registry.deregister(instance))
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        self.call(|registry| registry.services(name))
    }

    fn find(&self, name: &str, id: &str) -> Result<Option<Instance>, Error> {
        self.call(|registry| registry.find(name, id))
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        self.call(|registry| registry.watch(name))
    }
}
