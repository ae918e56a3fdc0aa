//! What a node does when the registry tells a change.

use super::handler::NodeReactor;
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::link::peers;
use crate::cluster::registry::{Instance, Registry};
use crate::cluster::{Error, Kind};
use crate::engine::handler::Engine;

/// Follows the registry for a node. Returns when the reactors have been given the gates that are registered now.
pub(super) fn watch<T: 'static>(
    registry: &dyn Registry,
    engine: &Engine<NodeReactor<T>>,
) -> Result<Follower, Error> {
    let mut gates = registry.watch(Kind::Gate.as_str())?;
    if let Some(first) = gates.next() {
        set_peers(&first, engine);
    }
    let to = engine.clone();
    Followers::default().follow("registry", gates, move |list| {
        // At the end the last gates stay.
        if let Some(list) = list {
            set_peers(&list, &to);
        }
    })
}

fn set_peers<T: 'static>(gates: &[Instance], engine: &Engine<NodeReactor<T>>) {
    let peers = peers(gates);
    for reactor in 0..engine.reactors() {
        let peers = peers.clone();
        // There is one for each change of the registry, whose watch keeps the latest only.
        engine.run_anyway(reactor, move |node, reactor| {
            node.set_peers(&peers, reactor);
        });
    }
}
