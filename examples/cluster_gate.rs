//! A gate of a cluster. Its nodes are given on the command line. Try it with the example `cluster_node`:
//!
//! ```sh
//! cargo run --features cluster --example cluster_gate -- --node node-1=127.0.0.1:7001
//! cargo run --features cluster --example cluster_node -- --gate gate-1=127.0.0.1:6000
//! epicycle load tcp://127.0.0.1:3553 --protocol cluster
//! ```

mod util;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicycle::cluster::gate::{Gate, HeartbeatMode, RateLimit};
use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry, RouteSpec};
use epicycle::cluster::{Error, Kind};

/// A gate, which passes the packets of clients to nodes
#[derive(Parser)]
struct Flags {
    /// An address for clients: tcp://HOST:PORT, ws://HOST:PORT/PATH or kcp://HOST:PORT (feature kcp); may be repeated
    #[arg(long, value_name = "ADDR", default_value = "tcp://:3553")]
    listen: Vec<String>,
    /// The address for other servers
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:6000")]
    link: String,
    /// The gate's id
    #[arg(long, default_value = "gate-1")]
    id: String,
    /// A node: its id and the address of its links; may be repeated
    #[arg(long, value_name = "ID=HOST:PORT", value_parser = util::server)]
    node: Vec<(String, String)>,
    /// A route of the nodes; may be repeated
    #[arg(long, value_name = "N", default_value = "1")]
    route: Vec<i32>,
    /// The number of reactors
    #[arg(long, value_name = "N", default_value_t = 1)]
    reactors: usize,
    /// The number of clients
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    max_connections: usize,
    /// The time after which clients send a heartbeat; one that is silent for two of them is closed; 0s: none is
    #[arg(long, value_name = "PERIOD", default_value = "10s", value_parser = util::period_or_zero)]
    heartbeat: Duration,
    /// The packets that a client may send in a second, with 256 KiB; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 200)]
    rate: u32,
}

fn start(flags: Flags) -> Result<Gate, Error> {
    let registry = MemoryRegistry::new();
    for (id, address) in flags.node {
        let mut node = Instance::new(Kind::Node, id, format!("drpc://{address}?is_secure=false"));
        node.routes = flags.route.iter().copied().map(RouteSpec::new).collect();
        registry.register(&node)?;
    }
    let mut gate = Gate::builder()
        .id(flags.id)
        .link(flags.link)
        .registry(registry)
        .reactors(flags.reactors)
        .max_connections(flags.max_connections)
        .heartbeat(HeartbeatMode::Respond, flags.heartbeat);
    for listener in flags.listen {
        gate = gate.listen(listener);
    }
    if flags.rate > 0 {
        gate = gate.rate_limit(RateLimit::per_second(flags.rate, 256 << 10));
    }
    gate.start()
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let gate = match start(flags) {
        Ok(gate) => gate,
        Err(error) => return util::fail("cluster_gate", error),
    };
    for addr in gate.client_addrs() {
        println!("cluster_gate listens for clients on {addr}");
    }
    println!(
        "cluster_gate listens for servers on {}; ctrl-c ends it",
        gate.link_addr()
    );
    if let Err(error) = util::await_signal() {
        return util::fail("cluster_gate", error);
    }
    let stats = gate.stats();
    println!(
        "cluster_gate ends: {} packets from clients, {} of them delivered, {} pushed",
        stats.packets_in, stats.delivered, stats.pushed
    );
    ExitCode::SUCCESS
}
