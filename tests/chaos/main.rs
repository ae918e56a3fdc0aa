//! A storm over real sockets: two thousand hostile clients against an echo, a length-field, an HTTP and a TLS server at once,
//! in each reactor mode, while a control group of well-behaved clients makes requests all the time.
//!
//! The servers run in a process of their own, so that their descriptors and memory can be counted. They have the limits of a
//! server in production, with timeouts short enough to fire. At the end, every request of the control group must have a right
//! answer. Every connection must have been opened and closed once, for the reason that its client caused. The process must
//! have as many descriptors and as much memory as before. The shutdown happens during another storm.
//!
//! Another storm is against a gateway, some of whose nodes are hostile too, a third one against the proxies of a gateway, and a
//! fourth one against the gate of a cluster.
//!
//! A short storm is part of the test run. This runs a long one, and prints its summary:
//!
//! ```text
//! EPICYCLE_CHAOS_SECONDS=60 cargo test --release --features full --test chaos -- --nocapture
//! ```
//!
//! A seed decides the clients' actions (`EPICYCLE_SEED=1234` sets it), but not their timing.

#[path = "../util/mod.rs"]
mod util;

#[path = "../tls/pki.rs"]
#[allow(dead_code)]
mod pki;

mod behaviour;
mod client;
mod control;
mod crowd;
#[cfg(feature = "gateway")]
#[path = "../gateway/evil.rs"]
mod evil;
mod garbage;
#[cfg(feature = "cluster")]
mod gate;
#[cfg(feature = "gateway")]
mod gateway;
mod kind;
mod ledger;
#[cfg(feature = "gateway")]
mod pranks;
mod process;
#[cfg(feature = "gateway")]
mod proxies;
mod server;
mod services;
mod storm;
mod summary;
mod tls;
mod verdict;

use std::env;

use crate::server::Mode;

/// The seed of the hostile clients' actions.
const SEED: &str = "EPICYCLE_SEED";

#[test]
fn a_single_loop_weathers_two_thousand_hostile_clients() {
    weather(
        "a_single_loop_weathers_two_thousand_hostile_clients",
        Mode::SingleLoop,
    );
}

#[test]
fn a_main_reactor_and_its_sub_reactors_weather_two_thousand_hostile_clients() {
    weather(
        "a_main_reactor_and_its_sub_reactors_weather_two_thousand_hostile_clients",
        Mode::MainReactor,
    );
}

#[test]
fn a_listener_for_each_reactor_weathers_two_thousand_hostile_clients() {
    weather(
        "a_listener_for_each_reactor_weathers_two_thousand_hostile_clients",
        Mode::ReusePort,
    );
}

#[cfg(feature = "gateway")]
#[test]
fn a_gateway_weathers_hostile_clients_and_hostile_nodes() {
    let test = "a_gateway_weathers_hostile_clients_and_hostile_nodes";
    if server::is_wanted(test) {
        return gateway::serve();
    }
    gateway::weather(test, seed(test));
}

#[cfg(feature = "cluster")]
#[test]
fn a_gate_and_its_node_weather_hostile_clients() {
    let test = "a_gate_and_its_node_weather_hostile_clients";
    if server::is_wanted(test) {
        return gate::serve();
    }
    storm::pass_a_gate(test, seed(test));
}

#[cfg(feature = "gateway")]
#[test]
fn the_proxies_of_a_gateway_weather_hostile_clients() {
    let test = "the_proxies_of_a_gateway_weather_hostile_clients";
    if server::is_wanted(test) {
        return proxies::serve();
    }
    proxies::weather(test, seed(test));
}

/// Runs the storm in the process that cargo has started, and the servers in the process that the storm starts.
fn weather(test: &str, mode: Mode) {
    if server::is_wanted(test) {
        return server::serve(mode);
    }
    storm::pass(test, mode, seed(test));
}

/// Returns the seed, and prints it.
fn seed(test: &str) -> u64 {
    let seed = match env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a whole number"),
        Err(_) => 1,
    };
    eprintln!("{test}: {SEED}={seed}");
    seed
}
