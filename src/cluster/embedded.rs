//! A whole cluster in one process.

use std::fmt;

use super::Monitor;
use super::admin::{Admin, AdminBuilder};
use super::cache::MemoryCache;
use super::eventbus::MemoryEventBus;
use super::gate::{Gate, GateBuilder};
use super::locator::MemoryLocator;
use super::lock::MemoryLocks;
use super::mesh::{Mesh, MeshBuilder, MeshClient, MeshClientBuilder};
use super::node::{Node, NodeBuilder};
use super::registry::MemoryRegistry;

/// The parts that the servers of a cluster share, all in memory, so that the servers need no other program. They reach each other
/// over the loopback interface.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::Cluster;
/// use epicycle::cluster::client::Client;
///
/// let cluster = Cluster::embedded();
/// let node = cluster.node().route(1, |_, cx| cx.respond("welcome")).start()?;
/// // A gate knows the nodes that were there before it. Of later ones it learns a moment after their start.
/// let gate = cluster.gate().listen("tcp://127.0.0.1:0").start()?;
/// let client = Client::builder().connect(gate.client_addrs()[0].to_string())?;
/// assert_eq!(client.request(1, "")?, r#""welcome""#);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Cluster {
    registry: MemoryRegistry,
    locator: MemoryLocator,
    event_bus: MemoryEventBus,
    locks: MemoryLocks,
    cache: MemoryCache,
    monitor: Monitor,
}

impl Cluster {
    /// Returns a cluster without servers.
    pub fn embedded() -> Self {
        Self::default()
    }

    /// Returns the options of a gate of this cluster.
    pub fn gate(&self) -> GateBuilder {
        Gate::builder()
            .registry(self.registry.clone())
            .locator(self.locator.clone())
            .monitor(&self.monitor)
    }

    /// Returns the options of a node of this cluster.
    pub fn node(&self) -> NodeBuilder {
        Node::builder()
            .registry(self.registry.clone())
            .locator(self.locator.clone())
            .monitor(&self.monitor)
    }

    /// Returns the options of a mesh of this cluster.
    pub fn mesh(&self) -> MeshBuilder {
        Mesh::builder()
            .registry(self.registry.clone())
            .monitor(&self.monitor)
    }

    /// Returns the options of an admin interface of this cluster.
    pub fn admin(&self) -> AdminBuilder {
        Admin::builder()
            .registry(self.registry.clone())
            .locator(self.locator.clone())
            .monitor(&self.monitor)
    }

    /// Returns the options of a client of the meshes of this cluster.
    pub fn mesh_client(&self) -> MeshClientBuilder {
        MeshClient::builder().registry(self.registry.clone())
    }

    /// Returns the options of an HTTP server of this cluster.
    #[cfg(feature = "cluster-http")]
    pub fn http(&self) -> super::http::HttpBuilder {
        super::http::HttpServer::builder()
            .registry(self.registry.clone())
            .locator(self.locator.clone())
            .monitor(&self.monitor)
    }

    /// Returns the list of its servers, whose metrics it has.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Returns the registry.
    pub fn registry(&self) -> &MemoryRegistry {
        &self.registry
    }

    /// Returns the locator.
    pub fn locator(&self) -> &MemoryLocator {
        &self.locator
    }

    /// Returns the event bus.
    pub fn event_bus(&self) -> &MemoryEventBus {
        &self.event_bus
    }

    /// Returns the locks.
    pub fn locks(&self) -> &MemoryLocks {
        &self.locks
    }

    /// Returns the cache.
    pub fn cache(&self) -> &MemoryCache {
        &self.cache
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}
