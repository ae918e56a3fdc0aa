//! The metrics that a monitor tells of a gate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::handler::GateReactor;
use super::shared::Shared;
use crate::cluster::monitor::Observed;
use crate::cluster::{Kind, State};
use crate::engine::handler::Engine;
use crate::metrics::{Expose, Exposition};

/// A gate, as an observer sees it.
pub(super) struct ObservedGate {
    shared: Arc<Shared>,
    engine: Engine<GateReactor>,
}

/// The longest wait for what the reactors tell.
const PATIENCE: Duration = Duration::from_secs(1);

impl ObservedGate {
    pub(super) fn new(shared: Arc<Shared>, engine: Engine<GateReactor>) -> Self {
        Self { shared, engine }
    }

    /// Returns the bytes that wait for each node, as far as the reactors tell them in time.
    fn link_queues(&self) -> BTreeMap<String, u64> {
        let reactors = self.engine.reactors();
        let (sender, receiver) = sync_channel(reactors);
        for reactor in 0..reactors {
            let sender = sender.clone();
            // One that is too busy to take it is left out.
            let _ = self.engine.run_on(reactor, move |gate, reactor| {
                let _ = sender.try_send(gate.lanes.queued(reactor));
            });
        }
        drop(sender);
        let mut queues = BTreeMap::new();
        while let Ok(told) = receiver.recv_timeout(PATIENCE) {
            for (node, bytes) in told {
                *queues.entry(node).or_default() += bytes;
            }
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

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.shared.stats().expose(labels, to);
        self.shared.routes.expose(labels, to);
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
