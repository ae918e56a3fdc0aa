//! Vectors of expected picks.

use std::fs;
use std::path::Path;

use epicycle::balance::{Balancer, HashRing, KeyHash, NodeSpec, Nodes, Outcome, Place, Weighted};
use serde_json::Value;

use crate::ids;
use crate::util::skipped;

/// The expected picks of one kind; none, and said so, where the file is not at hand.
fn vectors(kind: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/gateway/balance_vectors.json");
    let Ok(text) = fs::read_to_string(&path) else {
        skipped(&format!("there is no {}", path.display()));
        return Vec::new();
    };
    let all: Value = serde_json::from_str(&text).expect("is JSON");
    let vectors = all[kind].as_array().expect("is a list").clone();
    assert!(!vectors.is_empty());
    vectors
}

fn texts(list: &Value) -> Vec<&str> {
    let texts = list.as_array().expect("is a list").iter();
    texts.map(|text| text.as_str().expect("is text")).collect()
}

/// Nodes `s0`, `s1` … of the vector's weights.
fn nodes(vector: &Value) -> Nodes {
    let weights = vector["weights"].as_array().expect("is a list").iter();
    Nodes::new(weights.enumerate().map(|(n, weight)| {
        let weight = weight.as_u64().expect("is a number") as u32;
        NodeSpec::new(format!("s{n}")).weight(weight)
    }))
}

#[test]
fn the_crc_ring_picks_as_expected() {
    let mut picks = 0;
    for vector in vectors("ring_crc32") {
        let nodes = Nodes::new(texts(&vector["nodes"]).into_iter().map(NodeSpec::new));
        let replicas = vector["replicas"].as_u64().expect("is a number") as u32;
        let mut ring = HashRing::new().hash(KeyHash::Crc32).replicas(replicas);
        for (key, expected) in vector["expect"].as_object().expect("is an object") {
            let node = ring.pick(&nodes, KeyHash::Crc32.of(key.as_bytes()));
            let address = node.and_then(|node| nodes.address(node));
            assert_eq!(address, expected.as_str(), "{key} of {replicas} replicas");
            picks += 1;
        }
    }
    assert!(picks == 0 || picks == 192, "{picks}");
}

#[test]
fn smooth_weights_pick_as_expected() {
    for vector in vectors("smooth_weighted") {
        let nodes = nodes(&vector);
        let mut balancer = Weighted::new(Place::ALONE);
        for (n, expected) in texts(&vector["expect"]).into_iter().enumerate() {
            let node = balancer.pick(&nodes, 0).expect("a node is up");
            assert_eq!(nodes.address(node), Some(expected), "pick {n} of {nodes:?}");
        }
    }
}

#[test]
fn smooth_weights_with_failures_pick_as_expected() {
    for vector in vectors("smooth_weighted_with_failures") {
        let nodes = nodes(&vector);
        let mut balancer = Weighted::new(Place::ALONE);
        for (n, step) in vector["picks"]
            .as_array()
            .expect("is a list")
            .iter()
            .enumerate()
        {
            let node = balancer.pick(&nodes, 0).expect("a node is up");
            assert_eq!(nodes.address(node), step[0].as_str(), "pick {n}");
            let outcome = match step[1].as_str() {
                Some("ok") => Outcome::Success,
                Some("fail") => Outcome::Failure,
                other => panic!("{other:?}"),
            };
            balancer.done(node, outcome);
            let weights: Vec<_> = ids(&nodes)
                .into_iter()
                .map(|node| balancer.effective_weight(node))
                .collect();
            let expected = step[2].as_array().expect("is a list").iter();
            let expected: Vec<_> = expected
                .map(|weight| Some(weight.as_u64().unwrap() as u32))
                .collect();
            assert_eq!(weights, expected, "after pick {n}");
        }
    }
}
