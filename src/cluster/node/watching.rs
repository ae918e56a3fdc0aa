//! The changes that the registry and the locator tell a node.

use std::sync::Arc;

use parking_lot::Mutex;

use super::handler::NodeReactor;
use super::shared::Shared;
use crate::cluster::dispatch::RouteTable;
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::link::peers;
use crate::cluster::locator::Locator;
use crate::cluster::registry::{Instance, Registered, Registry};
use crate::cluster::{Error, Kind};
use crate::engine::handler::Engine;

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

/// Follows the registry and the locator for a node. Returns when the reactors have been given the servers that are registered now.
pub(super) fn watch<T: 'static>(
    followers: &Followers,
    registry: &dyn Registry,
    locator: &dyn Locator,
    shared: &Arc<Shared>,
    own: Instance,
    engine: &Engine<NodeReactor<T>>,
) -> Result<[Follower; 3], Error> {
    let mut gates = registry.watch(Kind::Gate.as_str())?;
    let mut nodes = registry.watch(Kind::Node.as_str())?;
    let mut servers = Servers {
        gates: gates.next().unwrap_or_default(),
        nodes: Vec::new(),
        table: RouteTable::new(shared.options.dispatch),
        own: Arc::new(own),
        own_was_told: false,
        registered: shared.registered.clone(),
        engine: engine.clone(),
    };
    servers.set_nodes(nodes.next().unwrap_or_default());
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
        let others = self.nodes.iter().filter(|node| node.id != self.own.id);
        let all = self.gates.iter().chain(others.map(|node| &**node));
        let peers = peers(all);
        for reactor in 0..self.engine.reactors() {
            let (peers, table) = (peers.clone(), self.table.clone());
            // There is one for each change of the registry, whose watch keeps the latest only.
            self.engine.run_anyway(reactor, move |node, reactor| {
                node.set_servers(peers, table, reactor);
            });
        }
    }
}
