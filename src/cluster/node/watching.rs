//! The changes that the registry and the locator tell a node.

use std::sync::Arc;

use parking_lot::Mutex;

use super::handler::NodeReactor;
use super::shared::Shared;
use crate::cluster::dispatch::{Policy, RouteTable};
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::link::{Identity, peers};
use crate::cluster::locator::Locator;
use crate::cluster::registry::{Instance, LinkEndpoint, Registered, Registry};
use crate::cluster::{Error, Kind, Watch};
use crate::engine::handler::Engine;

type Peers = Arc<[(Identity, LinkEndpoint)]>;

/// The servers that are registered before a node listens, and the watches that tell all changes.
pub(super) struct Found {
    gates: Vec<Instance>,
    nodes: Vec<Instance>,
    of_gates: Watch<Vec<Instance>>,
    of_nodes: Watch<Vec<Instance>>,
}

/// The servers that are registered, as far as the registry has told.
struct Servers<T: 'static> {
    gates: Vec<Instance>,
    nodes: Vec<Arc<Instance>>,
    table: RouteTable,
    own: Arc<Instance>,
    /// The registry has told of this node too. Until then it counts as registered.
    own_was_told: bool,
    registered: Arc<Registered>,
    engine: Engine<NodeReactor<T>>,
}

impl Found {
    pub(super) fn watch(registry: &dyn Registry) -> Result<Self, Error> {
        let mut of_gates = registry.watch(Kind::Gate.as_str())?;
        let mut of_nodes = registry.watch(Kind::Node.as_str())?;
        Ok(Self {
            gates: of_gates.next().unwrap_or_default(),
            nodes: of_nodes.next().unwrap_or_default(),
            of_gates,
            of_nodes,
        })
    }

    /// Returns what each reactor knows of the others, of which gates may come as soon as it listens.
    pub(super) fn known(&self, own: &str, dispatch: Policy) -> (Peers, RouteTable) {
        let nodes: Vec<_> = self.nodes.iter().cloned().map(Arc::new).collect();
        let table = RouteTable::new(dispatch).updated(&nodes).0;
        (others(&self.gates, &nodes, own), table)
    }
}

/// Follows the registry and the locator for a node, which reactors know from now on as well.
pub(super) fn start<T: 'static>(
    followers: &Followers,
    found: Found,
    locator: &dyn Locator,
    shared: &Arc<Shared>,
    own: Instance,
    engine: &Engine<NodeReactor<T>>,
) -> Result<[Follower; 3], Error> {
    let (gates, nodes) = (found.of_gates, found.of_nodes);
    let mut servers = Servers {
        gates: found.gates,
        nodes: Vec::new(),
        table: RouteTable::new(shared.options.dispatch),
        own: Arc::new(own),
        own_was_told: false,
        registered: shared.registered.clone(),
        engine: engine.clone(),
    };
    servers.set_nodes(found.nodes);
    servers.tell();
    let servers = Arc::new(Mutex::new(servers));
    let of_gates = servers.clone();
    // At the end the last servers stay.
    let gates = followers.follow("registry", gates, move |list| {
        if let Some(list) = list {
            let mut servers = of_gates.lock();
            servers.gates = list;
            servers.tell();
        }
    })?;
    let nodes = followers.follow("registry", nodes, move |list| {
        if let Some(list) = list {
            let mut servers = servers.lock();
            servers.registered.check_list(&list);
            servers.set_nodes(list);
            servers.tell();
        }
    })?;
    let shared = shared.clone();
    let users = followers.follow("locator", locator.watch()?, move |change| {
        if let Some(change) = change {
            shared.note(&change);
        }
    })?;
    Ok([gates, nodes, users])
}

impl<T: 'static> Servers<T> {
    fn set_nodes(&mut self, list: Vec<Instance>) {
        self.nodes = list.into_iter().map(Arc::new).collect();
        self.own_was_told |= self.nodes.iter().any(|node| node.id == self.own.id);
        if !self.own_was_told {
            self.nodes.push(self.own.clone());
        }
        // Gates tell what the nodes disagree about.
        self.table = self.table.updated(&self.nodes).0;
    }

    fn tell(&self) {
        let peers = others(&self.gates, &self.nodes, &self.own.id);
        for reactor in 0..self.engine.reactors() {
            let (peers, table) = (peers.clone(), self.table.clone());
            // There is one for each change of the registry, whose watch keeps the latest only.
            self.engine.run_anyway(reactor, move |node, reactor| {
                node.set_servers(peers, table, reactor);
            });
        }
    }
}

fn others(gates: &[Instance], nodes: &[Arc<Instance>], own: &str) -> Peers {
    let nodes = nodes.iter().filter(|node| node.id != own);
    peers(gates.iter().chain(nodes.map(|node| &**node)))
}
