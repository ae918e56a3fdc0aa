//! The registry: which gates, nodes and meshes there are, their states, routes and addresses.
//!
//! ```
//! use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry};
//! use epicycle::cluster::{Kind, State};
//!
//! let registry = MemoryRegistry::new();
//! let mut watch = registry.watch("node")?;
//! assert_eq!(watch.next(), Some(Vec::new()));
//!
//! let mut node = Instance::new(Kind::Node, "node-1", "drpc://127.0.0.1:7001?is_secure=false");
//! registry.register(&node)?;
//! assert_eq!(watch.next(), Some(vec![node.clone()]));
//!
//! node.state = State::Busy;
//! registry.register(&node)?;
//! assert_eq!(registry.services("node")?[0].state, State::Busy);
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

#[cfg(any(feature = "consul", feature = "nacos"))]
mod agents;
#[cfg(feature = "consul")]
mod consul;
mod directory;
mod endpoint;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
mod faulty;
mod guarded;
mod instance;
#[cfg(any(feature = "consul", feature = "etcd", feature = "nacos"))]
mod keeper;
mod memory;
#[cfg(feature = "nacos")]
mod nacos;
mod registered;

use std::sync::Arc;

use super::{Error, Watch};
use crate::metrics::Exposition;

#[cfg(feature = "consul")]
pub use self::consul::ConsulRegistry;
pub use self::directory::Directory;
pub use self::endpoint::{LinkEndpoint, ServiceEndpoint};
#[cfg(feature = "etcd")]
pub use self::etcd::EtcdRegistry;
pub(super) use self::guarded::GuardedRegistry;
pub use self::instance::{Instance, RouteSpec};
pub use self::memory::MemoryRegistry;
#[cfg(feature = "nacos")]
pub use self::nacos::NacosRegistry;
pub(super) use self::registered::{OwnerWatch, Registered};

/// A registry. Its calls may block, so they belong on a worker pool and not on a reactor.
pub trait Registry: Send + Sync + 'static {
    /// Returns the kind of the registry, for the banner of a process: `memory`, for example.
    fn kind(&self) -> &str {
        "custom"
    }

    /// Adds the metrics of the registry's backend, for the monitor of the server that uses it. Default: none.
    fn expose(&self, _labels: &[(&str, &str)], _to: &mut Exposition) {}

    /// Registers an instance, or replaces the record of the same name and id: with a new state, for example.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the instance is not [allowed](Instance::check), and [`Error::Backend`] if the
    /// backend cannot be reached.
    fn register(&self, instance: &Instance) -> Result<(), Error>;

    /// Removes the record of this name and id, but leaves one with another endpoint: another server has taken the id over. It is no
    /// error if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Backend`] if the backend cannot be reached.
    fn deregister(&self, instance: &Instance) -> Result<(), Error>;

    /// Returns all instances of a name, in any order. Gates, nodes and meshes are registered under the name of their kind: `gate`,
    /// `node` or `mesh`. What the builders call `name` is [`Instance::alias`], so a list of nodes has those of all aliases.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Backend`] if the backend cannot be reached.
    fn services(&self, name: &str) -> Result<Vec<Instance>, Error>;

    /// Returns the record of this name and id. The default looks through all [`services`](Self::services) of the name.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Backend`] if the backend cannot be reached.
    fn find(&self, name: &str, id: &str) -> Result<Option<Instance>, Error> {
        let all = self.services(name)?;
        Ok(all.into_iter().find(|instance| instance.id == id))
    }

    /// Watches the instances of a name. Each value is the full list. The first is the current one, and comes at once. A reader
    /// that is slow gets the latest list and not those between.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Backend`] if the backend cannot be reached, and [`Error::Busy`] if there are too many watches.
    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error>;
}

impl<R: Registry + ?Sized> Registry for Arc<R> {
    fn kind(&self) -> &str {
        (**self).kind()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        (**self).expose(labels, to);
    }

    fn register(&self, instance: &Instance) -> Result<(), Error> {
        (**self).register(instance)
    }

    fn deregister(&self, instance: &Instance) -> Result<(), Error> {
        (**self).deregister(instance)
    }

    fn services(&self, name: &str) -> Result<Vec<Instance>, Error> {
        (**self).services(name)
    }

    fn find(&self, name: &str, id: &str) -> Result<Option<Instance>, Error> {
        (**self).find(name, id)
    }

    fn watch(&self, name: &str) -> Result<Watch<Vec<Instance>>, Error> {
        (**self).watch(name)
    }
}
