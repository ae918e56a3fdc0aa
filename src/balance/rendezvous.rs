use twox_hash::XxHash3_64;

use super::{Balancer, NodeId, Nodes};

/// By the key: each node has a score for it, and the highest wins (rendezvous hashing, weighted).
///
/// The result depends on the key, the addresses and the weights only, not on the order of the list, so all that know the
/// same nodes pick the same one. When a node goes, only its keys move, and spread over all others. It keeps no ring,
/// but a pick looks at every node.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeSpec, Nodes, Rendezvous};
///
/// let nodes = Nodes::new(["a", "b", "c"].map(NodeSpec::new));
/// let turned = Nodes::new(["c", "b", "a"].map(NodeSpec::new));
/// let pick = |nodes: &Nodes, key| {
///     let node = Rendezvous::new().pick(nodes, key).expect("all are up");
///     nodes.address(node).map(str::to_owned)
/// };
/// assert!((0..100).all(|key| pick(&nodes, key) == pick(&turned, key)));
/// ```
#[derive(Debug, Default)]
pub struct Rendezvous {
    nodes: Option<Nodes>,
    /// The hashes of the addresses, by the nodes' positions.
    hashes: Vec<u64>,
}

impl Rendezvous {
    /// Picks by scores.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Balancer for Rendezvous {
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId> {
        self.update(nodes);
        nodes.by_tier(|tier| {
            let takers = nodes.iter().zip(&self.hashes);
            let scores = takers
                .filter(|(node, _)| nodes.may_take(node, tier))
                .map(|(node, hash)| (score(*hash, key, node.share()), *hash, node));
            let best = scores
                .max_by(|(a, hash_a, _), (b, hash_b, _)| a.total_cmp(b).then(hash_a.cmp(hash_b)));
            best.map(|(_, _, node)| node.id())
        })
    }

    fn update(&mut self, nodes: &Nodes) {
        if self
            .nodes
            .as_ref()
            .is_some_and(|old| old.is_same_list(nodes))
        {
            return;
        }
        let hash = |node: &super::Node| XxHash3_64::oneshot(node.address().as_bytes());
        self.hashes = nodes.iter().map(hash).collect();
        self.nodes = Some(nodes.clone());
    }
}

/// `-share / ln(u)` with a `u` between 0 and 1 that the key and the node make: the highest of them falls to each node as
/// often as its share says (Schindelhauer and Schomaker, 2005).
fn score(hash: u64, key: u64, share: u64) -> f64 {
    let mixed = XxHash3_64::oneshot_with_seed(hash, &key.to_le_bytes());
    // 53 bits are what a float holds; the half keeps it from 0 and from 1.
    let unit = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(share as f64) / unit.ln()
}
