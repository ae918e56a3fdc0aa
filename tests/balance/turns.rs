//! Balancers that pick in turn or at random: the shares of the nodes.

use std::sync::Mutex;
use std::thread;

use epicycle::balance::{
    Balancer, NodeSpec, Outcome, Place, Random, RoundRobin, TwoChoices, Weighted,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{ids, shares, specs, weighted};

proptest! {
    /// Any stretch of picks has every node as often as its weight says, to within one pick of each other node's.
    #[test]
    fn smooth_weights_are_exact_over_a_round_and_even_within_it(
        weights in vec(1u32..9, 1..6), place in (0usize..5, 1usize..5),
    ) {
        let nodes = weighted(&weights);
        let round: u32 = weights.iter().sum();
        let mut balancer = Weighted::new(Place::new(place.0, place.1));
        for _ in 0..2 {
            let shares = shares(&mut balancer, &nodes, round.into());
            let expected: Vec<_> = weights.iter().map(|weight| u64::from(*weight)).collect();
            prop_assert_eq!(shares, expected);
        }
        let mut counts = vec![0.0; weights.len()];
        for n in 1..=round {
            let node = balancer.pick(&nodes, 0).expect("all are up");
            counts[ids(&nodes).iter().position(|id| *id == node).unwrap()] += 1.0;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(n * weight) / f64::from(round);
                let tolerance = weights.len() as f64;
                prop_assert!((count - due).abs() <= tolerance, "{counts:?} after {n} of {weights:?}");
            }
        }
    }

    #[test]
    fn round_robin_is_even_whatever_the_weights(count in 1usize..9, place in (0usize..9, 1usize..9), picks in 1u64..50) {
        let nodes = weighted(&vec![3; count]);
        let shares = shares(&mut RoundRobin::new(Place::new(place.0, place.1)), &nodes, picks);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{shares:?}");
    }

    #[test]
    fn chance_has_each_node_as_often_as_its_weight_says(weights in vec(1u32..6, 1..5), seed: u64) {
        let nodes = weighted(&weights);
        let sum: u32 = weights.iter().sum();
        let balancers: [Box<dyn Balancer>; 1] = [Box::new(Random::new(seed))];
        for mut balancer in balancers {
            const PICKS: u64 = 4000;
            for (share, weight) in shares(&mut *balancer, &nodes, PICKS).into_iter().zip(&weights) {
                let due = PICKS as f64 * f64::from(*weight) / f64::from(sum);
                // Six standard deviations.
                let tolerance = 6.0 * due.sqrt() + 1.0;
                prop_assert!((share as f64 - due).abs() < tolerance, "{share}, not {due}");
            }
        }
    }
}

#[test]
fn balancers_of_several_threads_begin_at_different_places() {
    let nodes = weighted(&[1, 1, 1, 1]);
    let first = |n| RoundRobin::new(Place::new(n, 4)).pick(&nodes, 0);
    let picks: Vec<_> = (0..4).filter_map(first).collect();
    assert_eq!(picks, ids(&nodes));
    // Together they are as smooth as one: each node has its share of every pick of all of them.
    let nodes = weighted(&[2, 1, 1]);
    let mut threads: Vec<_> = (0..4).map(|n| Weighted::new(Place::new(n, 4))).collect();
    for _ in 0..8 {
        let picks: Vec<_> = threads
            .iter_mut()
            .filter_map(|thread| thread.pick(&nodes, 0))
            .collect();
        let of = |n: usize| picks.iter().filter(|node| **node == ids(&nodes)[n]).count();
        assert_eq!([of(0), of(1), of(2)], [2, 1, 1]);
    }
}

#[test]
fn a_round_that_is_too_long_to_go_into_costs_no_time() {
    let nodes = weighted(&[u32::MAX, u32::MAX - 1, 7]);
    let mut balancer = Weighted::new(Place::new(7, 8));
    let shares = shares(&mut balancer, &nodes, 1000);
    assert!(shares[0] > 480 && shares[1] > 480, "{shares:?}");
    // Equal weights are a short round, however large they are.
    let nodes = weighted(&[1 << 30, 1 << 30]);
    let pick = |n| Weighted::new(Place::new(n, 2)).pick(&nodes, 0);
    assert_ne!(pick(0), pick(1));
}

#[test]
fn shares_are_exact_when_threads_share_a_balancer() {
    let nodes = weighted(&[5, 2, 1]);
    let balancer = Mutex::new(Weighted::new(Place::ALONE));
    let shares: Vec<_> = thread::scope(|scope| {
        let pick = || {
            let picks = (0..1000).filter_map(|_| balancer.lock().unwrap().pick(&nodes, 0));
            picks.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(pick)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let of = |n: usize| {
        shares
            .iter()
            .filter(|node| **node == ids(&nodes)[n])
            .count()
    };
    assert_eq!([of(0), of(1), of(2)], [5000, 2000, 1000]);
}

#[test]
fn failures_take_a_node_down_to_a_weight_of_1_and_successes_bring_it_back() {
    let nodes = weighted(&[5, 8]);
    let first = ids(&nodes)[0];
    let mut balancer = Weighted::new(Place::ALONE);
    balancer.update(&nodes);
    // Half of an odd weight is rounded down.
    balancer.done(first, Outcome::Failure);
    assert_eq!(balancer.effective_weight(first), Some(2));

    let nodes = weighted(&[8, 8]);
    let first = ids(&nodes)[0];
    let mut balancer = Weighted::new(Place::ALONE);
    balancer.update(&nodes);
    for expected in [4, 2, 1, 1] {
        balancer.done(first, Outcome::Failure);
        assert_eq!(balancer.effective_weight(first), Some(expected));
    }
    balancer.done(first, Outcome::Abandoned);
    assert_eq!(balancer.effective_weight(first), Some(1));
    assert_eq!(shares(&mut balancer, &nodes, 9), [1, 8]);
    for _ in 0..10 {
        balancer.done(first, Outcome::Success);
    }
    assert_eq!(balancer.effective_weight(first), Some(8));
}

#[test]
fn another_list_keeps_whose_turn_it_is_and_what_failures_have_left() {
    let nodes = weighted(&[4, 1, 1]);
    let mut balancer = Weighted::new(Place::ALONE);
    let before: Vec<_> = (0..2).filter_map(|_| balancer.pick(&nodes, 0)).collect();
    let failed = ids(&nodes)[0];
    balancer.done(failed, Outcome::Failure);
    let mut list = specs(&[4, 1, 1]);
    list.push(NodeSpec::new("new").weight(1));
    let (more, _) = nodes.updated(list);
    balancer.update(&more);
    assert_eq!(balancer.effective_weight(failed), Some(2));
    assert_eq!(before, [failed, failed]);
    // A balancer that began anew would pick the heaviest again.
    let picks: Vec<_> = (0..3).filter_map(|_| balancer.pick(&more, 0)).collect();
    assert_eq!(picks, ids(&more)[1..]);
    // A weight that is set higher is whole at once, unless failures have lowered it.
    let (heavier, _) = more.updated(specs(&[8, 8]));
    balancer.update(&heavier);
    assert_eq!(balancer.effective_weight(failed), Some(2));
    assert_eq!(balancer.effective_weight(ids(&heavier)[1]), Some(8));

    let mut turns = RoundRobin::new(Place::ALONE);
    assert_eq!(turns.pick(&nodes, 0), Some(ids(&nodes)[0]));
    // The next is gone, so it is the turn of the one behind it.
    let (fewer, _) = nodes.updated([NodeSpec::new("x"), NodeSpec::new("n2"), NodeSpec::new("n0")]);
    assert_eq!(turns.pick(&fewer, 0), Some(ids(&nodes)[2]));
}

#[test]
fn the_same_seed_picks_the_same_nodes() {
    let nodes = weighted(&[1, 2, 3]);
    let picks = |mut balancer: Box<dyn Balancer>| -> Vec<_> {
        (0..50).filter_map(|_| balancer.pick(&nodes, 0)).collect()
    };
    assert_eq!(
        picks(Box::new(Random::new(5))),
        picks(Box::new(Random::new(5)))
    );
    assert_ne!(
        picks(Box::new(Random::new(5))),
        picks(Box::new(Random::new(6)))
    );
    assert_eq!(
        picks(Box::new(TwoChoices::new(5))),
        picks(Box::new(TwoChoices::new(5)))
    );
}
