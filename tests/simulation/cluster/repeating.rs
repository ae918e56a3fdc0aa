//! A seed always gives the same, so that what it finds can be found again.

use epicycle::cluster::gate::DuplicateLogin;

use super::passing::Nodes;
use super::{binding, mixed, moving, passing, resume};

/// Runs each of some seeds twice.
fn repeats(run: impl Fn(u64) -> String) {
    for seed in 0..6 {
        let (first, second) = (run(seed), run(seed));
        let differs = first.bytes().zip(second.bytes()).position(|(a, b)| a != b);
        assert!(first == second, "seed {seed} differs at {differs:?}");
    }
}

#[test]
fn packets_in_a_world_repeat_themselves() {
    for nodes in [Nodes::Scripted, Nodes::Real] {
        repeats(|seed| passing::converse(nodes, seed, 20, 60));
        repeats(|seed| passing::lose_links(nodes, seed));
    }
}

#[test]
fn users_that_move_and_nodes_that_come_back_in_a_world_repeat_themselves() {
    repeats(moving::wander);
    repeats(moving::replace);
    repeats(passing::replace_one);
}

#[test]
fn logins_in_a_world_repeat_themselves() {
    for policy in [DuplicateLogin::Replace, DuplicateLogin::Unbind] {
        repeats(|seed| binding::race(seed, policy));
    }
}

#[test]
fn users_that_come_back_in_a_world_repeat_themselves() {
    repeats(resume::come_and_go);
}

#[test]
fn everything_at_once_in_a_world_repeats_itself() {
    repeats(mixed::mix);
}
