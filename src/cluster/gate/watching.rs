//! The changes that the registry and the locator tell a gate.

use std::sync::Arc;

use super::binding::{on_bound_elsewhere, on_interrupted};
use super::handler::GateReactor;
use super::servers::{Nodes, Servers, others};
use super::shared::Shared;
use crate::cluster::Error;
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::locator::LocationEvent;
use crate::cluster::registry::Instance;
use crate::engine::handler::Engine;

/// Follows the registry and the locator for a gate.
pub(super) fn start(
    followers: &Followers,
    servers: Servers,
    shared: &Arc<Shared>,
    engine: &Engine<GateReactor>,
) -> Result<Vec<Follower>, Error> {
    let mut nodes = servers.nodes;
    let to = engine.clone();
    let routes = followers.follow("registry", servers.of_nodes, move |list| {
        // At the end the last nodes stay.
        if let Some(list) = list {
            nodes.set(list);
            set_nodes(&nodes, &to);
        }
    })?;
    let mut following = vec![routes];
    if let Some(gates) = servers.of_gates {
        let (to, ours) = (engine.clone(), shared.clone());
        following.push(followers.follow("gates", gates, move |list| {
            if let Some(list) = list {
                ours.registered.check_list(&list);
                set_gates(&ours, &list, &to);
            }
        })?);
    }
    let changes = shared.locator.watch()?;
    let (shared, engine) = (shared.clone(), engine.clone());
    following.push(
        followers.follow("locator", changes, move |change| match change {
            Some(LocationEvent::GateBound { uid, gid }) if gid != shared.ours.id => {
                on_bound_elsewhere(&shared, &engine, uid);
            }
            Some(LocationEvent::Interrupted) => on_interrupted(&shared, &engine),
            _ => {}
        })?,
    );
    Ok(following)
}

/// Tells all reactors the other gates that are registered, from which clients can come by a resume.
fn set_gates(shared: &Shared, gates: &[Instance], engine: &Engine<GateReactor>) {
    let peers = others(gates, &shared.ours.id);
    for reactor in 0..engine.reactors() {
        let peers = peers.clone();
        // As for nodes.
        engine.run_anyway(reactor, move |gate, reactor| gate.set_gates(peers, reactor));
    }
}

/// Gives all reactors the nodes that are registered.
fn set_nodes(nodes: &Nodes, engine: &Engine<GateReactor>) {
    for reactor in 0..engine.reactors() {
        let (table, peers) = (nodes.table.clone(), nodes.peers.clone());
        // There is one for each change of the registry, whose watch keeps the latest only.
        engine.run_anyway(reactor, move |gate, reactor| {
            gate.set_nodes(table, peers, reactor);
        });
    }
}
