use super::{Balancer, NodeId, Nodes, Outcome, Place};

/// Smooth weighted turns: each node has its share of any stretch of picks, and the picks of a heavy node are spread
/// among those of the others. The algorithm is nginx's.
///
/// A failure halves a node's effective weight, not below 1; each success gives 1 back. A pick looks at every node.
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
    /// The balancer of one of several threads: it begins that far into a round of picks.
    ///
    /// A round has as many picks as all weights make. Where these are so large that the beginning of one would cost more
    /// than a million steps, it begins earlier.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            smooth: Smooth::default(),
        }
    }

    /// The weight that failures have left a node.
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

    fn update(&mut self, nodes: &Nodes) {
        let is_first = self.smooth.nodes.is_none();
        self.smooth.update(nodes);
        if is_first {
            self.smooth.advance(nodes, self.place);
        }
    }
}

/// Whose turn it is, among nodes of different weights.
#[derive(Debug, Default)]
pub(super) struct Smooth {
    nodes: Option<Nodes>,
    /// By the nodes' positions.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// How much is owed to the node, in thousandths of a weight.
    current: i64,
    effective: u32,
}

/// How many nodes may be looked at to begin further on.
const MAX_STEPS: u64 = 1_000_000;

impl Smooth {
    /// Picks the one of these nodes, by their positions, that the most is owed to; the first of equals.
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
                // A weight that was whole stays so; one that failures have lowered keeps what it has.
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

    /// Goes on by the share of a round that the place says.
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
