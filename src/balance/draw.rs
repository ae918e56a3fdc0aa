use fastrand::Rng;

use super::{Node, NodeId, Nodes, Tier};

/// Draws nodes at random, each as often as its weight implies.
#[derive(Debug)]
pub(super) struct Draw {
    random: Rng,
    nodes: Option<Nodes>,
    /// The cumulative sums of the weights.
    sums: Vec<u64>,
}

/// The number of draws before the nodes are tried one by one.
const ATTEMPTS: usize = 4;

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            nodes: None,
            sums: Vec::new(),
        }
    }

    pub(super) fn update(&mut self, nodes: &Nodes) {
        if self
            .nodes
            .as_ref()
            .is_some_and(|old| old.is_same_list(nodes))
        {
            return;
        }
        let sums = nodes.iter().scan(0, |sum, node| {
            *sum += u64::from(node.weight());
            Some(*sum)
        });
        self.sums = sums.collect();
        self.nodes = Some(nodes.clone());
    }

    /// Draws one of the nodes of a tier, other than `not`.
    pub(super) fn draw<'n>(
        &mut self,
        nodes: &'n Nodes,
        tier: Tier,
        not: Option<NodeId>,
    ) -> Option<&'n Node> {
        let may_take = |node: &Node| Some(node.id()) != not && nodes.may_take(node, tier);
        let sum = *self.sums.last()?;
        for _ in 0..ATTEMPTS {
            let drawn = self.random.u64(..sum);
            let node = nodes.at(self.sums.partition_point(|sum| *sum <= drawn));
            // A node in its slow start is skipped in proportion.
            if may_take(node) && (node.ramp() >= 1000 || self.random.u16(..1000) < node.ramp()) {
                return Some(node);
            }
        }
        let takers = || nodes.iter().filter(|node| may_take(node));
        let sum: u64 = takers().map(Node::share).sum();
        if sum == 0 {
            return None;
        }
        let mut drawn = self.random.u64(..sum);
        takers().find(|node| match drawn.checked_sub(node.share()) {
            Some(rest) => {
                drawn = rest;
                false
            }
            None => true,
        })
    }
}
