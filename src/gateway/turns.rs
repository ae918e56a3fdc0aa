//! Balancers that take turns, so that the reactors follow one common sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::balance::{Balancer, NodeId, Nodes, Outcome};

/// A balancer that picks in turn, together with those of other reactors.
///
/// If each reactor had a sequence of its own, two smooth ones could still meet: a node of weight 5 beside two of weight 1
/// would get eight requests in a row. So the reactors share a number, the next place in the sequence. A reactor that takes a
/// place goes through those that others have taken, and then picks. That costs an atomic addition, and as many picks as there
/// are reactors.
pub(super) struct InTurn<B> {
    balancer: B,
    next: Arc<AtomicU64>,
    /// The next place in this reactor's sequence.
    place: u64,
}

impl<B: Balancer> InTurn<B> {
    pub(super) fn new(balancer: B, next: Arc<AtomicU64>) -> Self {
        Self {
            balancer,
            next,
            place: 0,
        }
    }
}

impl<B: Balancer> Balancer for InTurn<B> {
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        // The sequence repeats itself after so many places.
        let round = nodes
            .iter()
            .map(|node| u64::from(node.weight()))
            .sum::<u64>()
            .max(1);
        for _ in 0..place.saturating_sub(self.place) % round {
            self.balancer.pick(nodes, key);
        }
        self.place = place + 1;
        self.balancer.pick(nodes, key)
    }

    fn done(&mut self, node: NodeId, outcome: Outcome) {
        self.balancer.done(node, outcome);
    }

    fn update(&mut self, nodes: &Nodes) {
        self.balancer.update(nodes);
    }
}
