//! Balancers that take turns, so that the reactors follow one common sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::balance::{Balancer, NodeId, Nodes, Outcome, Sequence};

/// A balancer that picks in turn, together with those of other reactors.
///
/// If each reactor had a sequence of its own, two smooth ones could still meet: a node of weight 5 beside two of weight 1
/// would get eight requests in a row. So the reactors share a number, the next place in the sequence. A reactor that takes a
/// place goes through those that others have taken, and then picks. That costs an atomic addition, and as many picks as there
/// are reactors.
///
/// The nodes that take requests change, and reactors see that at different places. So each begins the sequence anew with each round
/// of places in which others have a part: all of them are in step again then.
pub(super) struct InTurn<B> {
    balancer: B,
    next: Arc<AtomicU64>,
    /// The place behind the last one of this reactor.
    place: u64,
    /// A hash of the nodes that took requests then.
    takers: Option<u64>,
    /// True if its sequence is the common one.
    is_in_step: bool,
}

/// The most places that a reactor goes through at once. One that was idle for long would hold up its clients otherwise; a sequence
/// that goes on at an earlier place is as smooth.
const MAX_PASSED: u64 = 4096;

impl<B: Sequence> InTurn<B> {
    pub(super) fn new(balancer: B, next: Arc<AtomicU64>) -> Self {
        Self {
            balancer,
            next,
            place: 0,
            takers: None,
            is_in_step: true,
        }
    }

    /// Goes through the places that others have taken, up to this one.
    fn pass_to(&mut self, place: u64, nodes: &Nodes, key: u64) {
        let takers = nodes.takers().fold(0, |hash: u64, node| {
            (hash ^ node.id().number() ^ u64::from(node.weight()) << 32)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        if self
            .takers
            .replace(takers)
            .is_some_and(|before| before != takers)
        {
            self.is_in_step = false;
        }
        if place == self.place {
            return;
        }
        let round = B::round(nodes.takers()).max(1);
        let is_same_round = place / round == self.place.saturating_sub(1) / round;
        let passed = match self.is_in_step && is_same_round {
            true => place.saturating_sub(self.place),
            false => {
                self.balancer.restart();
                place % round
            }
        };
        self.is_in_step = true;
        for _ in 0..passed.min(MAX_PASSED) {
            self.balancer.pick(nodes, key);
        }
    }
}

impl<B: Sequence> Balancer for InTurn<B> {
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId> {
        // A retry has no place.
        if !nodes.are_reduced() {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            self.pass_to(place, nodes, key);
            self.place = place + 1;
        }
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
    use crate::balance::{Node, NodeSpec, Place, RoundRobin, Weighted};

    /// Counts how often it is asked.
    struct Counting(u64);

    impl Balancer for Counting {
        fn pick(&mut self, nodes: &Nodes, _: u64) -> Option<NodeId> {
            self.0 += 1;
            nodes.iter().next().map(Node::id)
        }

        fn done(&mut self, _: NodeId, _: Outcome) {}

        fn update(&mut self, _: &Nodes) {}
    }

    impl Sequence for Counting {
        fn restart(&mut self) {}

        fn round<'a>(takers: impl Iterator<Item = &'a Node>) -> u64 {
            takers.map(|node| u64::from(node.weight())).sum()
        }
    }

    /// Returns the least picks of any node, over its weight, of 42 picks by two reactors in turn. Before that a node was down for
    /// some picks of one of them.
    fn least_after<B: Sequence>(make: impl Fn() -> B, weights: [u32; 3], alone: usize) -> usize {
        let specs = ["a", "b", "c"].into_iter().zip(weights);
        let nodes = Nodes::new(specs.map(|(to, weight)| NodeSpec::new(to).weight(weight)));
        let next = Arc::new(AtomicU64::new(0));
        let mut reactors = [(); 2].map(|()| InTurn::new(make(), next.clone()));
        let first = nodes.iter().next().map(Node::id).expect("is there");
        for turn in 0..7 {
            assert!(reactors[turn % 2].pick(&nodes, 0).is_some());
        }
        nodes.set_down(first, true);
        for _ in 0..alone {
            assert!(reactors[0].pick(&nodes, 0).is_some());
        }
        nodes.set_down(first, false);
        let mut picked: Vec<NodeId> = (0..42)
            .filter_map(|turn| reactors[turn % 2].pick(&nodes, 0))
            .collect();
        picked.sort_unstable();
        let count = |node: &Node| picked.iter().filter(|id| **id == node.id()).count();
        let shares = nodes
            .iter()
            .map(|node| count(node) / node.weight() as usize);
        shares.min().unwrap_or_default()
    }

    #[test]
    fn reactors_are_in_step_again_after_a_node_was_down() {
        for alone in 0..12 {
            let (whole, place) = (
                || Weighted::new(Place::ALONE),
                || RoundRobin::new(Place::ALONE),
            );
            assert!(least_after(whole, [1, 1, 1], alone) >= 12, "{alone}");
            assert!(least_after(whole, [4, 1, 1], alone) >= 5, "{alone}");
            assert!(least_after(whole, [5, 2, 7], alone) >= 2, "{alone}");
            assert!(least_after(place, [1, 1, 1], alone) >= 12, "{alone}");
            assert!(least_after(place, [1, 2, 1], alone) >= 6, "{alone}");
        }
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
