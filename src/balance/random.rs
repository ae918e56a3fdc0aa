use super::draw::Draw;
use super::{Balancer, NodeId, Nodes};

/// Picks at random, each node as often as its weight implies.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeSpec, Nodes, Random};
///
/// let nodes = Nodes::new([NodeSpec::new("a").weight(3), NodeSpec::new("b")]);
/// let mut balancer = Random::new(7);
/// let a = nodes.iter().next().unwrap().id();
/// let picks = (0..1000).filter(|_| balancer.pick(&nodes, 0) == Some(a)).count();
/// assert!((700..800).contains(&picks));
/// ```
#[derive(Debug)]
pub struct Random {
    draw: Draw,
}

impl Random {
    /// Returns a balancer with a seed: the same seed results in the same picks. Each thread needs a seed of its own.
    pub fn new(seed: u64) -> Self {
        Self {
            draw: Draw::new(seed),
        }
    }
}

impl Balancer for Random {
    fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
        self.update(nodes);
        nodes.by_tier(|tier| Some(self.draw.draw(nodes, tier, None)?.id()))
    }

    fn update(&mut self, nodes: &Nodes) {
        self.draw.update(nodes);
    }
}
