use super::weighted::Smooth;
use super::{Balancer, Node, NodeId, Nodes};

/// Picks the node with the fewest requests in flight for its weight. Equal nodes take smooth weighted turns.
///
/// The count includes the requests of all threads, as [`Nodes::begin`] keeps it. A pick looks at every node.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, Least, NodeSpec, Nodes};
///
/// let nodes = Nodes::new(["a", "b"].map(NodeSpec::new));
/// let mut balancer = Least::new();
/// let busy = balancer.pick(&nodes, 0).expect("both are up");
/// let _request = nodes.begin(busy);
/// assert_ne!(balancer.pick(&nodes, 0), Some(busy));
/// ```
#[derive(Debug, Default)]
pub struct Least {
    smooth: Smooth,
    /// The positions of the nodes that are equally good.
    equals: Vec<usize>,
}

impl Least {
    /// Returns a balancer.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for Least {
    fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
        self.update(nodes);
        nodes.by_tier(|tier| {
            self.equals.clear();
            for at in 0..nodes.len() {
                let node = nodes.at(at);
                if !nodes.may_take(node, tier) {
                    continue;
                }
                if let Some(&best) = self.equals.first() {
                    if is_less_loaded(nodes.at(best), node) {
                        continue;
                    }
                    if is_less_loaded(node, nodes.at(best)) {
                        self.equals.clear();
                    }
                }
                self.equals.push(at);
            }
            self.smooth.pick(nodes, self.equals.iter().copied())
        })
    }

    fn update(&mut self, nodes: &Nodes) {
        self.smooth.update(nodes);
    }
}

/// Returns true if a node has fewer requests in flight for its weight than another one.
pub(super) fn is_less_loaded(node: &Node, than: &Node) -> bool {
    // Products instead of quotients, which would be rounded.
    let load = |one: &Node, other: &Node| u128::from(one.in_flight()) * u128::from(other.share());
    load(node, than) < load(than, node)
}
