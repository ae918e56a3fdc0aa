use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::config::ServerConfig;
use crate::cluster::registry::{GuardedRegistry, Instance, MemoryRegistry, Registry};
use crate::cluster::{Kind, new_uuid};

/// The part of the options of a gate, a node or a mesh that makes its record, and the registry for it.
pub(in crate::cluster) struct Registration {
    kind: Kind,
    pub(in crate::cluster) id: Option<String>,
    /// The alias.
    pub(in crate::cluster) name: String,
    /// The host, or the host and port, that others dial.
    pub(in crate::cluster) expose: Option<String>,
    pub(in crate::cluster) metadata: BTreeMap<String, String>,
    pub(in crate::cluster) weight: u32,
    pub(in crate::cluster) registry: Arc<dyn Registry>,
}

impl Registration {
    pub(in crate::cluster) fn new(kind: Kind) -> Self {
        Self {
            kind,
            id: None,
            name: kind.to_string(),
            expose: None,
            metadata: BTreeMap::new(),
            weight: 0,
            registry: Arc::new(MemoryRegistry::new()),
        }
    }

    pub(in crate::cluster) fn set_registry(&mut self, registry: impl Registry) {
        self.registry = Arc::new(GuardedRegistry(registry));
    }

    /// Takes the id, the name and the host of a configuration that has them.
    pub(in crate::cluster) fn configure(&mut self, server: &ServerConfig) {
        if let Some(id) = &server.id {
            self.id = Some(id.clone());
        }
        if let Some(name) = &server.name {
            self.name.clone_from(name);
        }
        if let Some(host) = &server.expose {
            self.expose = Some(host.clone());
        }
    }

    /// Returns the id, which is a new one if none was set.
    pub(in crate::cluster) fn take_id(&mut self) -> String {
        self.id.take().unwrap_or_else(new_uuid)
    }

    /// Returns the record of a server with this id and endpoint.
    pub(in crate::cluster) fn record(self, id: &str, endpoint: String) -> Instance {
        let mut record = Instance::new(self.kind, id, endpoint);
        record.alias = self.name;
        record.metadata = self.metadata;
        record.weight = self.weight;
        record
    }
}
