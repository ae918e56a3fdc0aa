//! The other servers that a gate knows from the registry.

use std::sync::Arc;

use crate::cluster::dispatch::{Disagreement, Policy, RouteTable};
use crate::cluster::link::{Identity, peers};
use crate::cluster::registry::{Instance, LinkEndpoint, Registry};
use crate::cluster::{Error, Kind, Watch};

pub(super) type Peers = Arc<[(Identity, LinkEndpoint)]>;

/// The knowledge of each reactor of a gate about other servers.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) table: RouteTable,
    pub(super) nodes: Peers,
    /// The other gates, with resume.
    pub(super) gates: Peers,
}

/// The servers that are registered before a gate listens, and the watches that tell all changes.
pub(super) struct Servers {
    pub(super) nodes: Nodes,
    gates: Peers,
    pub(super) of_nodes: Watch<Vec<Instance>>,
    /// For gates with resume, whose users may come from others.
    pub(super) of_gates: Option<Watch<Vec<Instance>>>,
}

/// The nodes of the registry, as far as it has told.
pub(super) struct Nodes {
    pub(super) table: RouteTable,
    pub(super) peers: Peers,
    /// The routes about which they disagree.
    disagreements: Vec<Disagreement>,
}

impl Servers {
    pub(super) fn watch(
        registry: &dyn Registry,
        dispatch: Policy,
        own: &str,
        has_resume: bool,
    ) -> Result<Self, Error> {
        let mut nodes = Nodes {
            table: RouteTable::new(dispatch),
            peers: [].into(),
            disagreements: Vec::new(),
        };
        let mut of_nodes = registry.watch(Kind::Node.as_str())?;
        if let Some(first) = of_nodes.next() {
            nodes.set(first);
        }
        let of_gates = has_resume.then(|| registry.watch(Kind::Gate.as_str()));
        let mut of_gates = of_gates.transpose()?;
        let gates = of_gates.as_mut().and_then(Watch::next);
        Ok(Self {
            nodes,
            gates: others(&gates.unwrap_or_default(), own),
            of_nodes,
            of_gates,
        })
    }

    pub(super) fn known(&self) -> Known {
        Known {
            table: self.nodes.table.clone(),
            nodes: self.nodes.peers.clone(),
            gates: self.gates.clone(),
        }
    }
}

impl Nodes {
    pub(super) fn set(&mut self, list: Vec<Instance>) {
        let list: Vec<Arc<Instance>> = list.into_iter().map(Arc::new).collect();
        let (table, disagreements) = self.table.updated(&list);
        let known = &self.disagreements;
        for new in disagreements.iter().filter(|found| !known.contains(found)) {
            log::warn!(target: "epicycle::cluster", "{new}");
        }
        self.peers = peers(list.iter().map(|node| &**node));
        (self.table, self.disagreements) = (table, disagreements);
    }
}

/// Returns the gates but this one as peers.
pub(super) fn others(gates: &[Instance], own: &str) -> Peers {
    peers(gates.iter().filter(|gate| gate.id != own))
}
