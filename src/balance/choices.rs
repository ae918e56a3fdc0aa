use super::draw::Draw;
use super::least::is_less_loaded;
use super::{Balancer, NodeId, Nodes};

/// Picks the better of two random nodes: the one with fewer requests in flight for its weight. Each node is drawn as
/// often as its weight implies.
///
/// It comes close to [`Least`](super::Least) without looking at every node. Many pickers that see the same counts do
/// not all choose the same node (Mitzenmacher, 2001).
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeSpec, Nodes, TwoChoices};
///
/// let nodes = Nodes::new(["a", "b"].map(NodeSpec::new));
/// let mut balancer = TwoChoices::new(7);
/// let busy = balancer.pick(&nodes, 0).expect("both are up");
/// let _request = nodes.begin(busy);
/// assert_ne!(balancer.pick(&nodes, 0), Some(busy));
/// ```
#[derive(Debug)]
pub struct TwoChoices {
    draw: Draw,
}

impl TwoChoices {
    /// Returns a balancer with a seed. Each thread needs a seed of its own.
    pub fn new(seed: u64) -> Self {
        Self {
            draw: Draw::new(seed),
        }
    }
}

impl Balancer for TwoChoices {
    fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
        self.update(nodes);
        nodes.by_tier(|tier| {
            let one = self.draw.draw(nodes, tier, None)?;
            let better = match self.draw.draw(nodes, tier, Some(one.id())) {
                Some(other) if is_less_loaded(other, one) => other,
                _ => one,
            };
            Some(better.id())
        })
    }

    fn update(&mut self, nodes: &Nodes) {
        self.draw.update(nodes);
    }
}
