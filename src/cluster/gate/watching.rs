//! The threads that follow the registry and the locator for a gate.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::binding::{on_bound_elsewhere, on_interrupted};
use super::handler::GateReactor;
use super::shared::Shared;
use crate::cluster::dispatch::RouteTable;
use crate::cluster::link::Identity;
use crate::cluster::locator::{LocationEvent, Locator};
use crate::cluster::registry::{Instance, LinkEndpoint, Registry};
use crate::cluster::{Error, Kind, State, WatchHandle};
use crate::engine::handler::Engine;

/// The watches of a gate. They end when it is dropped.
pub(super) struct Watching {
    watches: Vec<WatchHandle>,
    threads: Vec<JoinHandle<()>>,
}

impl Watching {
    /// Starts the threads. Returns when the reactors have been given the nodes that are registered now.
    pub(super) fn start(
        registry: &dyn Registry,
        locator: &dyn Locator,
        table: RouteTable,
        shared: &Arc<Shared>,
        engine: &Engine<GateReactor>,
    ) -> Result<Self, Error> {
        let mut watching = Self {
            watches: Vec::new(),
            threads: Vec::new(),
        };
        let (mut nodes, mut table) = (registry.watch(Kind::Node.as_str())?, table);
        watching.watches.push(nodes.handle());
        if let Some(first) = nodes.next() {
            table = set_nodes(&table, first, engine);
        }
        let follower = engine.clone();
        watching.spawn("epicycle-routes", move || {
            for list in nodes {
                table = set_nodes(&table, list, &follower);
            }
        })?;

        let logins = locator.watch()?;
        watching.watches.push(logins.handle());
        let (shared, engine) = (shared.clone(), engine.clone());
        watching.spawn("epicycle-logins", move || {
            for change in logins {
                match change {
                    LocationEvent::GateBound { uid, gid } if gid != shared.ours.id => {
                        on_bound_elsewhere(&shared, &engine, uid);
                    }
                    LocationEvent::Interrupted => on_interrupted(&shared, &engine),
                    _ => {}
                }
            }
        })?;
        Ok(watching)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Backend {
            backend: "gate",
            problem: format!("no thread for a watch: {error}"),
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.close();
        }
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                crate::panic::report("epicycle::cluster", "a watch of a gate", panic);
            }
        }
    }
}

/// Gives all reactors the nodes that are registered. Returns their table.
fn set_nodes(table: &RouteTable, nodes: Vec<Instance>, engine: &Engine<GateReactor>) -> RouteTable {
    let nodes: Vec<Arc<Instance>> = nodes.into_iter().map(Arc::new).collect();
    let (table, disagreements) = table.updated(&nodes);
    for disagreement in disagreements {
        log::warn!(target: "epicycle::cluster", "{disagreement}");
    }
    let peers = nodes.iter().filter(|node| node.state != State::Shut);
    let peers: Arc<[(Identity, LinkEndpoint)]> = peers.filter_map(|node| peer(node)).collect();
    for reactor in 0..engine.reactors() {
        let (table, peers) = (table.clone(), peers.clone());
        // There is one for each change of the registry, whose watch keeps the latest only.
        engine.run_anyway(reactor, move |gate, reactor| {
            gate.set_nodes(table, &peers, reactor);
        });
    }
    table
}

fn peer(node: &Instance) -> Option<(Identity, LinkEndpoint)> {
    match node.endpoint.parse() {
        Ok(endpoint) => Some((Identity::new(Kind::Node, &*node.id), endpoint)),
        Err(error) => {
            log::warn!(target: "epicycle::cluster", "no link to {}: {error}", node.id);
            None
        }
    }
}
