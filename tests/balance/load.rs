//! Balancers that pick by the requests under way.

use epicycle::balance::{Balancer, HashRing, Least, Nodes, TwoChoices};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{ids, shares, spread, weighted};

/// Sends requests, of which some end in between, and tells how many are under way at each node at the end.
fn load(balancer: &mut dyn Balancer, nodes: &Nodes, ends: &[bool], seed: u64) -> Vec<u32> {
    let mut under_way = Vec::new();
    for (n, end) in ends.iter().enumerate() {
        let node = balancer.pick(nodes, spread(n as u64)).expect("all are up");
        under_way.push(nodes.begin(node).expect("is up"));
        if *end {
            let at = spread(seed ^ n as u64) as usize % under_way.len();
            drop(under_way.swap_remove(at));
        }
    }
    ids(nodes)
        .into_iter()
        .map(|node| nodes.in_flight(node))
        .collect()
}

proptest! {
    #[test]
    fn least_picks_a_node_that_nobody_is_less_loaded_than(weights in vec(1u32..5, 1..6), ends in vec(any::<bool>(), 0..80)) {
        let nodes = weighted(&weights);
        let mut balancer = Least::new();
        let mut under_way = Vec::new();
        for (n, end) in ends.iter().enumerate() {
            let load = |node: &epicycle::balance::Node| f64::from(node.in_flight()) / f64::from(node.weight());
            let least = nodes.iter().map(load).fold(f64::MAX, f64::min);
            let node = balancer.pick(&nodes, 0).expect("all are up");
            prop_assert!(load(nodes.get(node).unwrap()) <= least + 1e-9, "{:?}", nodes);
            under_way.push(nodes.begin(node).expect("is up"));
            if *end {
                drop(under_way.swap_remove(spread(n as u64) as usize % under_way.len()));
            }
        }
    }

    /// `cap = ceil(bound * requests * weight / weights)`, with the request to come counted.
    #[test]
    fn a_bounded_ring_never_goes_beyond_its_bound(
        weights in vec(1u32..4, 1..6), ends in vec(any::<bool>(), 0..120), percent in 100u32..200,
    ) {
        let nodes = weighted(&weights);
        let bound = f64::from(percent) / 100.0;
        let mut ring = HashRing::new().bound(bound);
        let sum = u64::from(weights.iter().sum::<u32>());
        let mut under_way = Vec::new();
        for (n, end) in ends.iter().enumerate() {
            // One key, as hot as can be.
            let node = ring.pick(&nodes, 7).expect("all are up");
            let request = nodes.begin(node).expect("is up");
            under_way.push(request);
            let node = nodes.get(node).unwrap();
            let load = u64::from(percent) * under_way.len() as u64 * u64::from(node.weight());
            let cap = load.div_ceil(100 * sum);
            prop_assert!(u64::from(node.in_flight()) <= cap, "{} > {cap}", node.in_flight());
            if *end {
                drop(under_way.swap_remove(spread(n as u64) as usize % under_way.len()));
            }
        }
    }

    #[test]
    fn two_choices_keep_loads_close(count in 2usize..8, seed: u64) {
        let nodes = weighted(&vec![1; count]);
        let loads = load(&mut TwoChoices::new(seed), &nodes, &vec![false; 100 * count], seed);
        // By chance alone the spread would be about 50.
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        prop_assert!(most - least <= 10, "{:?}", loads);
    }
}

#[test]
fn least_gives_each_node_its_share() {
    let nodes = weighted(&[3, 2, 1]);
    assert_eq!(
        load(&mut Least::new(), &nodes, &[false; 60], 0),
        [30, 20, 10]
    );
}

#[test]
fn idle_nodes_have_their_shares_too() {
    // One request at a time: nothing is ever under way when the next is picked.
    let nodes = weighted(&[3, 2, 1]);
    assert_eq!(shares(&mut Least::new(), &nodes, 60), [30, 20, 10]);
    let shares = shares(&mut TwoChoices::new(1), &nodes, 6000);
    assert!(
        shares[0] > shares[1] && shares[1] > shares[2] && shares[2] > 500,
        "{shares:?}"
    );
}

#[test]
fn two_choices_leave_a_node_that_does_not_answer() {
    let nodes = weighted(&[1, 1, 1]);
    let stuck: Vec<_> = (0..50).map(|_| nodes.begin(ids(&nodes)[1])).collect();
    assert_eq!(shares(&mut TwoChoices::new(3), &nodes, 300)[1], 0);
    assert_eq!(shares(&mut Least::new(), &nodes, 300)[1], 0);
    drop(stuck);
    assert!(shares(&mut TwoChoices::new(3), &nodes, 300)[1] > 50);
}

#[test]
fn without_a_bound_a_hot_key_stays_where_it_is() {
    let nodes = weighted(&[1, 1, 1]);
    let mut ring = HashRing::new();
    let node = ring.pick(&nodes, 7).expect("all are up");
    let _hot: Vec<_> = (0..100).map(|_| nodes.begin(node)).collect();
    assert_eq!(ring.pick(&nodes, 7), Some(node));
    assert_ne!(ring.bound(1.25).pick(&nodes, 7), Some(node));
}
