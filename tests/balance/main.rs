//! Picks one of several nodes: compared with expected picks and with models.

#[path = "../util/mod.rs"]
mod util;

mod breaker;
mod budget;
mod health;
mod keys;
mod load;
mod nodes;
mod turns;
mod vectors;

use epicycle::balance::{
    Balancer, HashRing, Least, Node, NodeId, NodeSpec, Nodes, Place, Random, Rendezvous,
    RoundRobin, TwoChoices, Weighted,
};

/// Nodes `n0`, `n1` … of these weights.
fn weighted(weights: &[u32]) -> Nodes {
    Nodes::new(specs(weights))
}

fn specs(weights: &[u32]) -> Vec<NodeSpec> {
    let numbered = weights.iter().enumerate();
    numbered
        .map(|(n, weight)| NodeSpec::new(format!("n{n}")).weight(*weight))
        .collect()
}

fn ids(nodes: &Nodes) -> Vec<NodeId> {
    nodes.iter().map(Node::id).collect()
}

/// One of each kind, with its name.
fn all() -> Vec<(&'static str, Box<dyn Balancer>)> {
    vec![
        ("weighted", Box::new(Weighted::new(Place::ALONE))),
        ("round robin", Box::new(RoundRobin::new(Place::ALONE))),
        ("random", Box::new(Random::new(1))),
        ("least", Box::new(Least::new())),
        ("two choices", Box::new(TwoChoices::new(2))),
        ("ring", Box::new(HashRing::new())),
        ("bounded ring", Box::new(HashRing::new().bound(1.25))),
        ("rendezvous", Box::new(Rendezvous::new())),
    ]
}

/// How often each node is picked, by its place in the list.
fn shares(balancer: &mut dyn Balancer, nodes: &Nodes, picks: u64) -> Vec<u64> {
    let ids = ids(nodes);
    let mut shares = vec![0; ids.len()];
    for key in 0..picks {
        let node = balancer.pick(nodes, spread(key)).expect("a node is up");
        let at = ids
            .iter()
            .position(|id| *id == node)
            .expect("is one of the list");
        shares[at] += 1;
    }
    shares
}

/// Keys that lie anywhere (the finaliser of splitmix64).
fn spread(key: u64) -> u64 {
    let mut key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}
