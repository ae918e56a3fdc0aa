use super::{Balancer, NodeId, Nodes, Outcome, Place};
#[cfg(feature = "gateway")]
use super::{Node, Sequence};

/// Smooth weighted round-robin: each node gets its share of any sequence of picks, and the picks of a heavy node are
/// spread among those of the others. The algorithm is that of nginx.
///
/// A failure halves a node's effective weight, down to 1 at least. Each success adds 1. A pick looks at every node.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeSpec, Nodes, Place, Weighted};
///
/// let nodes = Nodes::new([("a", 5), ("b", 1), ("c", 1)].map(|(name, weight)| NodeSpec::new(name).weight(weight)));
/// let mut balancer = Weighted::new(Place::ALONE);
/// let picks: String = (0..7)
///     .filter_map(|_| balancer.pick(&nodes, 0))
///     .filter_map(|node| nodes.address(node))
///     .collect();
/// assert_eq!(picks, "aabacaa");
/// ```
#[derive(Debug)]
pub struct Weighted {
    place: Place,
    smooth: Smooth,
}

impl Weighted {
    /// Returns the balancer of one of several threads: it starts at a different point in a round of picks.
    ///
    /// A round has as many picks as the sum of all weights. If finding the starting point would take more than a
    /// million steps, it starts at an earlier point.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            smooth: Smooth::default(),
        }
    }

    /// Returns the weight that remains to a node after failures.
    pub fn effective_weight(&self, node: NodeId) -> Option<u32> {
        let at = self.smooth.nodes.as_ref()?.position(node)?;
        Some(self.smooth.turns[at].effective)
    }
}

impl Balancer for Weighted {
    fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
        self.update(nodes);
        let smooth = &mut self.smooth;
        nodes.by_tier(|tier| {
            let takers = (0..nodes.len()).filter(|at| nodes.may_take(nodes.at(*at), tier));
            smooth.pick(nodes, takers)
        })
    }

    fn done(&mut self, node: NodeId, outcome: Outcome) {
        self.smooth.done(node, outcome);
    }

    fn effective_weight(&self, node: NodeId) -> Option<u32> {
        Weighted::effective_weight(self, node)
    }

    fn update(&mut self, nodes: &Nodes) {
        let is_first = self.smooth.nodes.is_none();
        self.smooth.update(nodes);
        if is_first {
            self.smooth.advance(nodes, self.place);
        }
    }
}

#[cfg(feature = "gateway")]
impl Sequence for Weighted {
    fn restart(&mut self) {
        for turn in &mut self.smooth.turns {
            turn.current = 0;
        }
    }

    fn round<'a>(takers: impl Iterator<Item = &'a Node>) -> u64 {
        takers.map(|node| u64::from(node.weight())).sum()
    }
}

/// Smooth turns among nodes of different weights.
#[derive(Debug, Default)]
pub(super) struct Smooth {
    nodes: Option<Nodes>,
    /// By the positions of the nodes.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The credit of the node, in thousandths of a weight.
    current: i64,
    effective: u32,
}

/// The maximum number of nodes to look at in order to find the starting point.
const MAX_STEPS: u64 = 1_000_000;

impl Smooth {
    /// Picks the node with the highest credit among these positions; the first of equals.
    pub(super) fn pick(
        &mut self,
        nodes: &Nodes,
        takers: impl Iterator<Item = usize>,
    ) -> Option<NodeId> {
        let mut sum = 0;
        let mut best: Option<usize> = None;
        for at in takers {
            let turn = &mut self.turns[at];
            let share = i64::from(turn.effective) * i64::from(nodes.at(at).ramp());
            turn.current += share;
            sum += share;
            if best.is_none_or(|best| self.turns[at].current > self.turns[best].current) {
                best = Some(at);
            }
        }
        let best = best?;
        self.turns[best].current -= sum;
        Some(nodes.at(best).id())
    }

    pub(super) fn done(&mut self, node: NodeId, outcome: Outcome) {
        let Some(nodes) = &self.nodes else {
            return;
        };
        let Some(at) = nodes.position(node) else {
            return;
        };
        let effective = &mut self.turns[at].effective;
        match outcome {
            Outcome::Success => *effective = nodes.at(at).weight().min(effective.saturating_add(1)),
            Outcome::Failure => *effective = (*effective / 2).max(1),
            Outcome::Abandoned => {}
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
        let turn = |node: &super::Node| {
            let weight = node.weight();
            let old = self.nodes.as_ref().and_then(|old| old.position(node.id()));
            match old {
                // A full weight stays full. A weight that failures have reduced keeps its value.
                Some(at) => {
                    let turn = self.turns[at];
                    let was_whole = self
                        .nodes
                        .as_ref()
                        .is_some_and(|old| old.at(at).weight() == turn.effective);
                    Turn {
                        current: turn.current,
                        effective: if was_whole {
                            weight
                        } else {
                            turn.effective.min(weight)
                        },
                    }
                }
                None => Turn {
                    current: 0,
                    effective: weight,
                },
            }
        };
        self.turns = nodes.iter().map(turn).collect();
        self.nodes = Some(nodes.clone());
    }

    /// Advances to the starting point that `place` gives.
    fn advance(&mut self, nodes: &Nodes, place: Place) {
        let weights = || nodes.iter().map(|node| u64::from(node.weight()));
        let divisor = weights().fold(0, greatest_common_divisor).max(1);
        let round = weights().sum::<u64>() / divisor;
        let steps = place
            .start(round)
            .min(MAX_STEPS / nodes.len().max(1) as u64);
        for _ in 0..steps {
            let takers = (0..nodes.len()).filter(|at| nodes.at(*at).weight() > 0);
            self.pick(nodes, takers);
        }
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}
