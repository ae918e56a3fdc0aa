//! The changes that the registry and the locator tell a gate.

use std::sync::Arc;

use super::binding::{on_bound_elsewhere, on_interrupted};
use super::handler::GateReactor;
use super::shared::Shared;
use crate::cluster::dispatch::{Disagreement, RouteTable};
use crate::cluster::follower::{Follower, Followers};
use crate::cluster::link::peers;
use crate::cluster::locator::LocationEvent;
use crate::cluster::registry::{Instance, Registry};
use crate::cluster::{Error, Kind};
use crate::engine::handler::Engine;

/// Follows the registry and the locator for a gate. Returns when the reactors have been given the nodes that are registered now.
pub(super) fn start(
    followers: &Followers,
    registry: &dyn Registry,
    table: RouteTable,
    shared: &Arc<Shared>,
    engine: &Engine<GateReactor>,
) -> Result<Vec<Follower>, Error> {
    let (mut nodes, mut table) = (registry.watch(Kind::Node.as_str())?, table);
    let mut told = Vec::new();
    if let Some(first) = nodes.next() {
        table = set_nodes(&table, first, &mut told, engine);
    }
    let to = engine.clone();
    let routes = followers.follow("registry", nodes, move |list| {
        // At the end the last nodes stay.
        if let Some(list) = list {
            table = set_nodes(&table, list, &mut told, &to);
        }
    })?;
    let mut following = vec![routes];
    if shared.resume.is_some() {
        let mut gates = registry.watch(Kind::Gate.as_str())?;
        if let Some(first) = gates.next() {
            set_gates(shared, &first, engine);
        }
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
    let peers = peers(gates.iter().filter(|gate| gate.id != shared.ours.id));
    for reactor in 0..engine.reactors() {
        let peers = peers.clone();
        // As for nodes.
        engine.run_anyway(reactor, move |gate, reactor| gate.set_gates(peers, reactor));
    }
}

/// Gives all reactors the nodes that are registered. Returns their table. `told` is what they disagreed about before.
fn set_nodes(
    table: &RouteTable,
    nodes: Vec<Instance>,
    told: &mut Vec<Disagreement>,
    engine: &Engine<GateReactor>,
) -> RouteTable {
    let nodes: Vec<Arc<Instance>> = nodes.into_iter().map(Arc::new).collect();
    let (table, disagreements) = table.updated(&nodes);
    for new in disagreements.iter().filter(|found| !told.contains(found)) {
        log::warn!(target: "epicycle::cluster", "{new}");
    }
    *told = disagreements;
    let peers = peers(nodes.iter().map(|node| &**node));
    for reactor in 0..engine.reactors() {
        let (table, peers) = (table.clone(), peers.clone());
        // There is one for each change of the registry, whose watch keeps the latest only.
        engine.run_anyway(reactor, move |gate, reactor| {
            gate.set_nodes(table, peers, reactor);
        });
    }
    table
}
