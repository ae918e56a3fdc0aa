//! The nodes that may be picked: up, down, backups, weights of 0, lists that change.

use epicycle::balance::{Changes, NodeSpec, Nodes};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{all, ids, shares, specs, spread, weighted};

#[test]
fn nobody_picks_from_nothing() {
    let nodes = Nodes::new([]);
    for (name, mut balancer) in all() {
        assert_eq!(balancer.pick(&nodes, 7), None, "{name}");
    }
}

#[test]
fn a_node_of_weight_0_takes_nothing_unless_all_have_it() {
    for (name, mut balancer) in all() {
        let nodes = weighted(&[0, 1]);
        assert_eq!(shares(&mut *balancer, &nodes, 50)[0], 0, "{name}");
        // Not even when it is the only one that is up.
        nodes.set_down(ids(&nodes)[1], true);
        assert_eq!(
            balancer.pick(&nodes, 0),
            Some(ids(&nodes)[1]),
            "{name} fails open"
        );
        let nodes = weighted(&[0, 0]);
        assert!(
            shares(&mut *balancer, &nodes, 200)
                .iter()
                .all(|share| *share > 50),
            "{name}"
        );
    }
}

#[test]
fn backups_stand_in_only_when_none_of_the_others_is_up() {
    for (name, mut balancer) in all() {
        let nodes = Nodes::new([
            NodeSpec::new("a"),
            NodeSpec::new("b"),
            NodeSpec::new("backup").backup(),
        ]);
        let [a, b, _] = ids(&nodes)[..] else {
            unreachable!("there are three");
        };
        assert_eq!(shares(&mut *balancer, &nodes, 50)[2], 0, "{name}");
        nodes.set_down(a, true);
        assert_eq!(shares(&mut *balancer, &nodes, 50), [0, 50, 0], "{name}");
        nodes.set_down(b, true);
        assert_eq!(shares(&mut *balancer, &nodes, 50), [0, 0, 50], "{name}");
        nodes.set_down(a, false);
        assert_eq!(shares(&mut *balancer, &nodes, 50), [50, 0, 0], "{name}");
    }
}

#[test]
fn when_none_is_up_all_are_tried_or_none() {
    for (name, mut balancer) in all() {
        let open = weighted(&[1, 1, 1]);
        let closed = weighted(&[1, 1, 1]).fail_open(false);
        for nodes in [&open, &closed] {
            ids(nodes)
                .into_iter()
                .for_each(|node| nodes.set_down(node, true));
        }
        let all = shares(&mut *balancer, &open, 90);
        assert!(all.iter().all(|share| *share > 10), "{name}: {all:?}");
        assert_eq!(balancer.pick(&closed, 0), None, "{name}");
    }
}

#[test]
fn another_try_goes_to_another_node_that_is_up() {
    for (name, mut balancer) in all() {
        let nodes = weighted(&[3, 1, 1]);
        for key in (0..50).map(spread) {
            let first = balancer.pick(&nodes, key).expect("three are up");
            let second = balancer
                .pick(&nodes.without(&[first]), key)
                .expect("two are up");
            assert_ne!(first, second, "{name}");
            let third = balancer.pick(&nodes.without(&[first, second]), key);
            let mut tried = [first, second, third.expect("one is up")];
            tried.sort_unstable();
            assert_eq!(tried[..], ids(&nodes), "{name}");
            // All have been tried. That is no reason to try one again, or to try one that is down.
            assert_eq!(balancer.pick(&nodes.without(&tried), key), None, "{name}");
        }
        let down = ids(&nodes)[0];
        nodes.set_down(down, true);
        assert_eq!(
            balancer.pick(&nodes.without(&ids(&nodes)[1..]), 0),
            None,
            "{name}"
        );
    }
}

#[test]
fn a_list_that_changes_keeps_the_nodes_that_stay() {
    let old = weighted(&[1, 1, 1]);
    let [n0, n1, n2] = ids(&old)[..] else {
        unreachable!("there are three");
    };
    let request = old.begin(n1).expect("is up");
    old.set_down(n2, true);
    let list = ["n1", "n3", "n2", "n3"].map(|name| NodeSpec::new(name).weight(4));
    let (new, changes) = old.updated(list);
    let [one, two, three] = ids(&new)[..] else {
        panic!("an address that is there twice counts once: {new:?}");
    };
    assert_eq!((one, three), (n1, n2));
    assert_eq!(
        changes,
        Changes {
            added: vec![two],
            removed: vec![n0]
        }
    );
    assert_eq!((new.in_flight(n1), new.get(n1).unwrap().weight()), (1, 4));
    assert!(new.get(n2).unwrap().is_down());
    assert_eq!(new.address(n0), None);
    assert!(new.begin(n0).is_none());
    // Both are the same nodes.
    drop(request);
    assert_eq!(new.in_flight(n1), 0);
    // One that comes back is another one.
    let (again, changes) = new.updated(specs(&[1]));
    assert_eq!(changes.removed, [n1, n2, two]);
    assert!(!ids(&again).contains(&n0));
    let (none, _) = again.updated([]);
    assert!(none.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens to the list and to its nodes, only a node that takes requests is picked, and one is picked if
    /// there is any.
    #[test]
    fn only_a_node_that_takes_requests_is_picked(
        lists in vec(vec((0u8..8, 0u32..4, any::<bool>(), any::<bool>()), 0..6), 1..5), fail_open: bool,
    ) {
        let mut balancers = all();
        let mut nodes = Nodes::new([]).fail_open(fail_open);
        for list in lists {
            let specs = list.iter().map(|(name, weight, backup, _)| {
                let spec = NodeSpec::new(name.to_string()).weight(*weight);
                if *backup { spec.backup() } else { spec }
            });
            nodes = nodes.updated(specs).0;
            for (name, _, _, down) in &list {
                let node = nodes.iter().find(|node| node.address() == name.to_string());
                nodes.set_down(node.expect("is in the list").id(), *down);
            }
            let up = |backup| nodes.iter().any(|node| node.is_up() && node.weight() > 0 && node.is_backup() == backup);
            for (name, balancer) in &mut balancers {
                for key in (0..20).map(spread) {
                    let picked = balancer.pick(&nodes, key).map(|node| nodes.get(node).expect("is in the list"));
                    let expected = match picked {
                        Some(_) if !up(false) && !up(true) => fail_open,
                        Some(node) => node.is_up() && node.is_backup() != up(false),
                        None => !up(false) && !up(true) && (!fail_open || nodes.is_empty()),
                    };
                    prop_assert!(expected, "{} picks {:?} of {:?}", name, picked, nodes);
                    prop_assert!(picked.is_none_or(|node| node.weight() > 0));
                }
            }
        }
    }
}
