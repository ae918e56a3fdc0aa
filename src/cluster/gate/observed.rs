//! The metrics that a monitor tells of a gate.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::handler::GateReactor;
use super::shared::Shared;
use crate::cluster::monitor::Observed;
use crate::cluster::reactors::glimpse_all;
use crate::cluster::{Kind, State};
use crate::engine::handler::Engine;
use crate::metrics::{Expose, Exposition};

/// A gate, as an observer sees it.
pub(super) struct ObservedGate {
    shared: Arc<Shared>,
    engine: Engine<GateReactor>,
}

impl ObservedGate {
    pub(super) fn new(shared: Arc<Shared>, engine: Engine<GateReactor>) -> Self {
        Self { shared, engine }
    }

    /// Returns the bytes that wait for each node, as far as the reactors tell them in time.
    fn link_queues(&self) -> BTreeMap<String, u64> {
        let told = glimpse_all(&self.engine, |gate, reactor| gate.lanes.queued(reactor));
        let mut queues = BTreeMap::new();
        for (node, bytes) in told.into_iter().flatten() {
            *queues.entry(node).or_default() += bytes;
        }
        queues
    }
}

impl Observed for ObservedGate {
    fn identity(&self) -> (Kind, &str) {
        (Kind::Gate, &self.shared.ours.id)
    }

    fn state(&self) -> Option<State> {
        State::from_code(self.shared.registered.state_code())
    }

    fn taken_by(&self) -> Option<String> {
        self.shared.registered.taken_by()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.shared.stats().expose(labels, to);
        self.shared.routes.expose(labels, to);
        self.shared.registered.expose(labels, to);
        let locator = [labels, &[("role", "locator")]].concat();
        self.shared.locator.expose(&locator, to);
        let help = "Bytes that wait for the reactors now.";
        let queued = self.shared.queued.total() as f64;
        to.gauge("epicycle_gate_queued_bytes", help, labels, queued);
        for (node, bytes) in self.link_queues() {
            let labels = [labels, &[("node", node.as_str())]].concat();
            let help = "Bytes that wait for a node now: for its link, or for it to read.";
            to.gauge(
                "epicycle_gate_link_queue_bytes",
                help,
                &labels,
                bytes as f64,
            );
        }
    }
}
