use super::{LocationEvent, Locator};
use crate::cluster::guarded::guarded;
use crate::cluster::{Error, Watch};
use crate::metrics::Exposition;

/// A locator whose panics are errors.
pub(in crate::cluster) struct GuardedLocator<L>(pub(in crate::cluster) L);

impl<L: Locator> GuardedLocator<L> {
    fn call<R>(&self, call: impl FnOnce(&L) -> Result<R, Error>) -> Result<R, Error> {
        guarded("locator", || call(&self.0))
    }
}

impl<L: Locator> Locator for GuardedLocator<L> {
    fn kind(&self) -> &str {
        self.0.kind()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        crate::panic::catch("epicycle::cluster", "the metrics of a backend", || {
            self.0.expose(labels, to);
        });
    }

    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        self.call(|locator| locator.bind_gate(uid, gid))
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        self.call(|locator| locator.unbind_gate(uid, gid))
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        self.call(|locator| locator.bind_node(uid, alias, nid))
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        self.call(|locator| locator.unbind_node(uid, alias, nid))
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        self.call(|locator| locator.locate_gate(uid))
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        self.call(|locator| locator.locate_node(uid, alias))
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        self.call(|locator| locator.locate_nodes(uid))
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        self.call(L::watch)
    }
}
