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

/// The most places that a reactor goes through at once. One that was idle for long would hold up its clients otherwise; a sequence
/// that goes on at an earlier place is as smooth.
const MAX_PASSED: u64 = 4096;

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
        let passed = place.saturating_sub(self.place) % round;
        for _ in 0..passed.min(MAX_PASSED) {
            self.balancer.pick(nodes, key);
        }
        self.place = place + 1;
        self.balancer.pick(nodes, key)
    }

    fn done(&mut self, node: NodeId, outcome: Outcome) {
        self.balancer.done(node, outcome);
    }

    fn effective_weight(&self, node: NodeId) -> Option<u32> {
        self.balancer.effective_weight(node)
    }

    fn update(&mut self, nodes: &Nodes) {
        self.balancer.update(nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::NodeSpec;

    /// Counts how often it is asked.
    struct Counting(u64);

    impl Balancer for Counting {
        fn pick(&mut self, nodes: &Nodes, _: u64) -> Option<NodeId> {
            self.0 += 1;
            nodes.iter().next().map(crate::balance::Node::id)
        }

        fn done(&mut self, _: NodeId, _: Outcome) {}

        fn update(&mut self, _: &Nodes) {}
    }

    #[test]
    fn a_reactor_that_was_idle_for_long_catches_up_at_little_cost() {
        let nodes = Nodes::new(
            [("a", u32::MAX), ("b", 1)].map(|(to, weight)| NodeSpec::new(to).weight(weight)),
        );
        let next = Arc::new(AtomicU64::new(0));
        let mut balancer = InTurn::new(Counting(0), next.clone());
        assert!(balancer.pick(&nodes, 0).is_some());
        next.store(1_000_000_000, Ordering::Relaxed);
        assert!(balancer.pick(&nodes, 0).is_some());
        assert_eq!(balancer.balancer.0, 1 + MAX_PASSED + 1);
        // It has caught up.
        assert!(balancer.pick(&nodes, 0).is_some());
        assert_eq!(balancer.balancer.0, 1 + MAX_PASSED + 2);
    }
}
