//! The connections of gates that a node knows of.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::NodeReactor;
use crate::cluster::Event;
use crate::cluster::node::context::Subject;
use crate::cluster::node::hand_over::Sender;

impl<T: 'static> NodeReactor<T> {
    /// Remembers a connection, if somebody wants to know of its end.
    pub(super) fn know(&mut self, from: &Sender, cid: i64, uid: i64) {
        if cid == 0 || from.is_node || !self.router.follows_connections() {
            return;
        }
        match self.connections.get_mut(&from.id) {
            Some(known) => drop(known.insert(cid, uid)),
            None => {
                let known = FxHashMap::from_iter([(cid, uid)]);
                self.connections.insert(from.id.clone(), known);
            }
        }
    }

    /// Gives up the connections of a gate that is not registered and has no link.
    pub(super) fn check_gate(&mut self, gate: &Arc<str>) {
        if self.core.gates.contains(gate) || self.core.shared.links.lock().contains_key(gate) {
            return;
        }
        let Some(known) = self.connections.remove(gate) else {
            return;
        };
        self.core.counters().gates_lost.add(1);
        log::warn!(target: "epicycle::cluster", "the gate {gate} is lost, with {} connections", known.len());
        let from = Sender {
            id: gate.clone(),
            is_node: false,
        };
        let router = self.router.clone();
        if let Some(handler) = router.gate_lost() {
            self.run(&from, (0, 0), Subject::Own, |state, request| {
                handler(state, request)
            });
        }
        for (cid, uid) in known {
            self.on_event(&from, Event::Disconnect, cid, uid);
        }
    }
}
