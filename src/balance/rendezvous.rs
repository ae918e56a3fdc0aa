use twox_hash::XxHash3_64;

use super::{Balancer, NodeId, Nodes};

/// Picks by key: each node has a score for the key, and the highest score wins (weighted rendezvous hashing).
///
/// The result depends only on the key, the addresses and the weights, not on the order of the list. All pickers with
/// the same nodes therefore pick the same one. When a node is removed, only its keys move, spread over all other nodes.
/// It stores no ring, but a pick looks at every node.
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
    /// The hashes of the addresses, by the positions of the nodes.
    hashes: Vec<u64>,
}

impl Rendezvous {
    /// Returns a balancer.
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

/// Returns `-share / ln(u)`, where `u` is a number between 0 and 1 made of the key and the node. Each node has the
/// highest score as often as its share implies (Schindelhauer and Schomaker, 2005).
fn score(hash: u64, key: u64, share: u64) -> f64 {
    let mixed = XxHash3_64::oneshot_with_seed(hash, &key.to_le_bytes());
    // A float holds 53 bits. The half keeps the result away from 0 and 1.
    let unit = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(share as f64) / unit.ln()
}
