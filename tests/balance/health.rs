//! Ejection of failing nodes, and their return.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use epicycle::balance::{Balancer, Change, Ejection, Health, Node, NodeSpec, Outcome};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{all, ids, shares, spread, weighted};

const fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn failures_in_a_row_take_a_node_out_and_a_success_in_between_does_not() {
    let nodes = weighted(&[1, 1]);
    let [first, second_node] = ids(&nodes)[..] else {
        unreachable!("there are two");
    };
    let health = Health::default();
    for _ in 0..10 {
        for _ in 0..4 {
            assert_eq!(
                health.report(&nodes, first, Outcome::Failure, second(1)),
                None
            );
        }
        assert_eq!(
            health.report(&nodes, first, Outcome::Abandoned, second(1)),
            None
        );
        assert_eq!(
            health.report(&nodes, first, Outcome::Success, second(1)),
            None
        );
        // Those of another node are another row.
        health.report(&nodes, second_node, Outcome::Failure, second(1));
        health.report(&nodes, second_node, Outcome::Success, second(1));
    }
    for n in 1..=5 {
        let change = health.report(&nodes, first, Outcome::Failure, second(2));
        assert_eq!(change.is_some(), n == 5, "{n}");
    }
    assert!(nodes.get(first).unwrap().is_ejected());
    for (name, mut balancer) in all() {
        assert_eq!(shares(&mut *balancer, &nodes, 20), [0, 20], "{name}");
    }
    // What comes of requests from before says nothing.
    assert_eq!(
        health.report(&nodes, first, Outcome::Failure, second(3)),
        None
    );
    assert_eq!(
        health.report(&nodes, first, Outcome::Success, second(3)),
        None
    );
    assert!(!nodes.get(first).unwrap().is_up());
}

#[test]
fn each_time_out_is_longer_up_to_a_bound_and_good_behaviour_shortens_it() {
    let nodes = weighted(&[1, 1]);
    let node = ids(&nodes)[0];
    let health = Health::new(Ejection::default().failures(1).max(second(100)));
    let mut now = second(0);
    let fail = |now| health.report(&nodes, node, Outcome::Failure, now);
    for lasts in [30, 60, 90, 100, 100] {
        assert_eq!(
            fail(now),
            Some(Change::Ejected {
                lasts: second(lasts)
            })
        );
        let end = now + second(lasts);
        assert_eq!(
            health.tick(&nodes, end - Duration::from_millis(1)),
            Some(end)
        );
        assert!(!nodes.get(node).unwrap().is_up());
        assert_eq!(health.tick(&nodes, end), None);
        assert!(nodes.get(node).unwrap().is_up());
        now = end;
    }
    assert_eq!(
        health.report(&nodes, node, Outcome::Success, now),
        Some(Change::Returned)
    );
    // Five times out; three stretches of 30 s make three of them good.
    now += second(95);
    assert_eq!(fail(now), Some(Change::Ejected { lasts: second(90) }));
}

#[test]
fn one_request_at_a_time_shows_whether_a_node_is_back() {
    let nodes = weighted(&[1, 1]);
    let node = ids(&nodes)[0];
    let health = Health::new(Ejection::default().failures(1));
    health.report(&nodes, node, Outcome::Failure, second(0));
    health.tick(&nodes, second(30));
    let probe = nodes.begin(node).expect("takes one");
    assert!(nodes.begin(node).is_none());
    for (name, mut balancer) in all() {
        assert_eq!(shares(&mut *balancer, &nodes, 20), [0, 20], "{name}");
    }
    // It was given up: another one has to show it.
    drop(probe);
    let probe = nodes.begin(node).expect("takes one");
    let change = health.report(&nodes, node, Outcome::Failure, second(31));
    assert_eq!(change, Some(Change::Ejected { lasts: second(60) }));
    drop(probe);
    assert!(!nodes.get(node).unwrap().is_up());
    health.tick(&nodes, second(91));
    let probe = nodes.begin(node).expect("takes one");
    let change = health.report(&nodes, node, Outcome::Success, second(92));
    assert_eq!(change, Some(Change::Returned));
    assert!(nodes.begin(node).is_some());
    drop(probe);
    assert!(!nodes.get(node).unwrap().is_ejected());
    assert_eq!(nodes.in_flight(node), 0);
}

#[test]
fn of_many_threads_one_sends_the_request_that_shows_it() {
    let nodes = weighted(&[1, 1]);
    let node = ids(&nodes)[0];
    let health = Health::new(Ejection::default().failures(1).base(second(1)));
    for round in 0..20 {
        health.report(&nodes, node, Outcome::Failure, second(1000 * round));
        health.tick(&nodes, second(1000 * round + 999));
        let (begun, barrier) = (Mutex::new(Vec::new()), Barrier::new(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    let request = nodes.begin(node);
                    begun.lock().unwrap().extend(request);
                });
            }
        });
        assert_eq!(begun.lock().unwrap().len(), 1, "round {round}");
        let change = health.report(&nodes, node, Outcome::Success, second(1000 * round + 999));
        assert_eq!(change, Some(Change::Returned));
    }
}

#[test]
fn of_many_threads_one_takes_a_node_out() {
    let nodes = weighted(&[1, 1]);
    let health = Health::default();
    let ejected = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..8 {
            let (nodes, health, ejected) = (&nodes, &health, &ejected);
            scope.spawn(move || {
                for _ in 0..100 {
                    let node = ids(nodes)[n % 2];
                    if health
                        .report(nodes, node, Outcome::Failure, second(1))
                        .is_some()
                    {
                        ejected.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    // Half of two is one.
    assert_eq!(ejected.into_inner(), 1);
    assert_eq!(nodes.iter().filter(|node| node.is_ejected()).count(), 1);
}

#[test]
fn a_single_node_is_never_taken_out() {
    let nodes = weighted(&[1]);
    let health = Health::new(Ejection::default().failures(1));
    assert_eq!(
        health.report(&nodes, ids(&nodes)[0], Outcome::Failure, second(1)),
        None
    );
    assert!(nodes.iter().all(Node::is_up));
    let nodes = weighted(&[1, 1, 1, 1]);
    let off = Health::new(Ejection::default().failures(0));
    for _ in 0..100 {
        assert_eq!(
            off.report(&nodes, ids(&nodes)[0], Outcome::Failure, second(1)),
            None
        );
    }
}

#[test]
fn a_node_that_returns_or_is_new_comes_to_its_weight_slowly() {
    let nodes = weighted(&[1, 1]);
    let [node, _] = ids(&nodes)[..] else {
        unreachable!("there are two");
    };
    let health = Health::new(Ejection::default().failures(1)).slow_start(second(10));
    let ramp = || nodes.get(node).unwrap().ramp();
    health.report(&nodes, node, Outcome::Failure, second(0));
    health.tick(&nodes, second(30));
    health.report(&nodes, node, Outcome::Success, second(30));
    assert_eq!(ramp(), 100);
    let next = health.tick(&nodes, second(30)).expect("goes on");
    assert!(next > second(30) && next < second(31));
    health.tick(&nodes, second(35));
    assert_eq!(ramp(), 500);
    for (name, mut balancer) in all() {
        let shares = shares(&mut *balancer, &nodes, 3000);
        if name == "two choices" {
            // Of two nodes both are looked at, and they are equal.
            assert!(shares[0] > 500, "{shares:?}");
            continue;
        }
        let due = 1000;
        assert!(shares[0].abs_diff(due) < 300, "{name}: {shares:?}");
    }
    assert_eq!(health.tick(&nodes, second(40)), None);
    assert_eq!(ramp(), 1000);

    // Down and up again.
    health.set_down(&nodes, node, true, second(50));
    health.set_down(&nodes, node, true, second(51));
    assert_eq!(ramp(), 1000);
    health.set_down(&nodes, node, false, second(52));
    assert_eq!(ramp(), 100);
    health.set_down(&nodes, node, false, second(57));
    health.tick(&nodes, second(60));
    assert_eq!(ramp(), 800);

    let (more, changes) = nodes.updated(["n0", "n1", "new"].map(NodeSpec::new));
    health.added(&more, &changes.added, second(100));
    assert_eq!(
        more.iter().map(Node::ramp).collect::<Vec<_>>(),
        [800, 1000, 100]
    );
}

#[test]
fn a_key_that_has_come_back_stays() {
    let nodes = weighted(&[1, 1, 1]);
    let node = ids(&nodes)[0];
    let health = Health::default().slow_start(second(100));
    health.set_down(&nodes, node, true, second(0));
    health.set_down(&nodes, node, false, second(0));
    let mut ring = epicycle::balance::HashRing::new();
    let mut back = Vec::new();
    for at in [20, 40, 60, 80, 100] {
        health.tick(&nodes, second(at));
        let now: Vec<_> = (0..2000)
            .map(spread)
            .filter(|key| ring.pick(&nodes, *key) == Some(node))
            .collect();
        assert!(back.iter().all(|key| now.contains(key)));
        assert!(now.len() > back.len(), "{} after {}", now.len(), back.len());
        back = now;
    }
}

proptest! {
    /// Whatever is reported, no more than half is out, and what is out comes back in time.
    #[test]
    fn at_most_half_of_the_nodes_are_out(
        count in 1usize..9, reports in vec((any::<prop::sample::Index>(), 0u8..4, 0u64..40), 0..200),
    ) {
        let nodes = weighted(&vec![1; count]);
        let health = Health::new(Ejection::default().failures(2));
        let mut now = second(0);
        let mut out = 0;
        for (node, outcome, passed) in reports {
            let id = ids(&nodes)[node.index(count)];
            now += second(passed);
            health.tick(&nodes, now);
            let outcome = [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Abandoned][usize::from(outcome)];
            let was_ejected = nodes.get(id).unwrap().is_ejected();
            match health.report(&nodes, id, outcome, now) {
                Some(Change::Ejected { lasts }) => {
                    prop_assert!(lasts >= second(30) && lasts <= second(300));
                    prop_assert!(nodes.get(id).unwrap().is_ejected());
                    out += usize::from(!was_ejected);
                }
                Some(Change::Returned) => out -= 1,
                None => {}
            }
            prop_assert_eq!(nodes.iter().filter(|node| node.is_ejected()).count(), out);
            prop_assert!(out <= count / 2);
        }
        health.tick(&nodes, now + second(300));
        prop_assert!(nodes.iter().all(Node::is_up));
    }
}
