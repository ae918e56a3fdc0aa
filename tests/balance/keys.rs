//! Balancers that pick by a key.

use std::collections::HashMap;

use epicycle::balance::{Balancer, HashRing, KeyHash, NodeSpec, Nodes, Rendezvous};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::{ids, shares, specs, spread, weighted};

fn kinds() -> Vec<(&'static str, Box<dyn Balancer>)> {
    vec![
        ("xxh3", Box::new(HashRing::new())),
        ("crc32", Box::new(HashRing::new().hash(KeyHash::Crc32))),
        ("rendezvous", Box::new(Rendezvous::new())),
    ]
}

/// The keys of CRC-32 have 32 bits.
fn keys(kind: &str, count: u64) -> impl Iterator<Item = u64> + use<> {
    let mask = if kind == "crc32" {
        u64::from(u32::MAX)
    } else {
        u64::MAX
    };
    (0..count).map(move |n| spread(n) & mask)
}

/// The addresses that keys belong to.
fn owners(kind: &str, balancer: &mut dyn Balancer, nodes: &Nodes) -> HashMap<u64, String> {
    let owner = |key| {
        let node = balancer.pick(nodes, key).expect("a node is up");
        (key, nodes.address(node).expect("is in the list").to_owned())
    };
    keys(kind, 400).map(owner).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Only the keys of a node that goes move, and only to a node that comes.
    #[test]
    fn keys_move_only_when_they_have_to(
        before in btree_set(0u8..20, 1..8), after in btree_set(0u8..20, 1..8), weights in vec(1u32..4, 20),
    ) {
        let spec = |name: &u8| NodeSpec::new(format!("node-{name}")).weight(weights[usize::from(*name)]);
        for (kind, mut balancer) in kinds() {
            let nodes = Nodes::new(before.iter().map(spec));
            let old = owners(kind, &mut *balancer, &nodes);
            let (nodes, _) = nodes.updated(after.iter().map(spec));
            let new = owners(kind, &mut *balancer, &nodes);
            for (key, was) in &old {
                let is = &new[key];
                let stays = after.iter().any(|name| format!("node-{name}") == *was);
                let comes = !before.iter().any(|name| format!("node-{name}") == *is);
                prop_assert!(was == is || !stays || comes, "{}: {} moves from {} to {}", kind, key, was, is);
            }
        }
    }

    /// A node that is down leaves its keys to others, and takes exactly these back.
    #[test]
    fn a_node_that_is_down_takes_its_keys_back(count in 2usize..8, down in any::<prop::sample::Index>()) {
        for (kind, mut balancer) in kinds() {
            let nodes = weighted(&vec![1; count]);
            let before = owners(kind, &mut *balancer, &nodes);
            let down = ids(&nodes)[down.index(count)];
            let address = nodes.address(down).unwrap();
            nodes.set_down(down, true);
            for (key, owner) in owners(kind, &mut *balancer, &nodes) {
                prop_assert!(owner == before[&key] || before[&key] == address);
                prop_assert_ne!(owner, address);
            }
            nodes.set_down(down, false);
            prop_assert_eq!(&owners(kind, &mut *balancer, &nodes), &before);
        }
    }

    #[test]
    fn rendezvous_does_not_depend_on_the_order_of_the_list(
        mut names in vec(any::<u16>(), 1..10), shift in 0usize..10,
    ) {
        names.sort_unstable();
        names.dedup();
        let list = |names: &[u16]| Nodes::new(names.iter().map(|name| NodeSpec::new(name.to_string())));
        let mut balancer = Rendezvous::new();
        let straight = owners("", &mut balancer, &list(&names));
        let shift = shift % names.len();
        names.rotate_left(shift);
        names.reverse();
        prop_assert_eq!(owners("", &mut balancer, &list(&names)), straight);
    }
}

#[test]
fn keys_are_spread_by_the_weights() {
    let weights = [4, 2, 1, 1];
    for (kind, mut balancer) in kinds() {
        let nodes = weighted(&weights);
        if kind == "crc32" {
            // Known to be uneven; every node has something.
            let mut counts = HashMap::new();
            for key in keys(kind, 8000) {
                *counts.entry(balancer.pick(&nodes, key)).or_insert(0) += 1;
            }
            assert!(
                counts.len() == 4 && counts.values().all(|count| *count > 400),
                "{counts:?}"
            );
            continue;
        }
        for (share, weight) in shares(&mut *balancer, &nodes, 80_000)
            .into_iter()
            .zip(weights)
        {
            let due = 10_000.0 * f64::from(weight);
            let error = (share as f64 - due).abs() / due;
            // A ring of 160 points for a node is within some twelve per cent; scores are exact.
            assert!(
                error < if kind == "xxh3" { 0.25 } else { 0.04 },
                "{kind}: {share}, not {due}"
            );
        }
    }
}

#[test]
fn a_key_beyond_all_points_belongs_to_the_first() {
    let nodes = weighted(&[1, 1, 1]);
    let mut ring = HashRing::new();
    assert_eq!(ring.pick(&nodes, u64::MAX), ring.pick(&nodes, 0));
}

#[test]
fn a_ring_has_points_by_weight_and_never_more_than_a_million() {
    let mut ring = HashRing::new();
    ring.update(&weighted(&[1, 2, 0]));
    assert_eq!(ring.points(), 480);
    ring.update(&weighted(&[u32::MAX, u32::MAX / 2, 1]));
    assert!(
        (1 << 19..=(1 << 20) + 3).contains(&ring.points()),
        "{}",
        ring.points()
    );
    let nodes = weighted(&[1 << 20, 1 << 20]);
    let shares = shares(&mut ring, &nodes, 10_000);
    assert!(
        shares.iter().all(|share| (4500..5500).contains(share)),
        "{shares:?}"
    );
    let mut ring = HashRing::new().replicas(0);
    ring.update(&weighted(&[1, 1]));
    assert_eq!(ring.points(), 2);
}

#[test]
fn another_list_is_noticed_without_being_told() {
    let nodes = weighted(&[1, 1]);
    for (kind, mut balancer) in kinds() {
        balancer.pick(&nodes, 0);
        let (other, _) = nodes.updated([NodeSpec::new("other")]);
        assert_eq!(balancer.pick(&other, 0), Some(ids(&other)[0]), "{kind}");
        let (back, _) = other.updated(specs(&[1, 1]));
        assert!(
            ids(&back).contains(&balancer.pick(&back, 0).unwrap()),
            "{kind}"
        );
    }
}

#[test]
fn keys_are_the_hashes_that_others_make() {
    // Of the specifications: https://reveng.sourceforge.io/crc-catalogue (check value), and the tests of xxHash.
    assert_eq!(KeyHash::Crc32.of(b"123456789"), 0xcbf4_3926);
    assert_eq!(KeyHash::Xxh3.of(b""), 0x2d06_8005_38d3_94c2);
}
