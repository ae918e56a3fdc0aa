//! A node of a cluster, which sends each packet of route 1 back. Its gates are given on the command line: see `cluster_gate`.

mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::cluster::codec::RawRef;
use epicycle::cluster::node::Node;
use epicycle::cluster::registry::{Instance, MemoryRegistry, Registry};
use epicycle::cluster::{Error, Kind};

/// A node, which sends packets back to their clients
#[derive(Parser)]
struct Flags {
    /// The address for other servers
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:7001")]
    link: String,
    /// The node's id
    #[arg(long, default_value = "node-1")]
    id: String,
    /// A gate: its id and the address of its links; may be repeated
    #[arg(long, value_name = "ID=HOST:PORT", value_parser = util::server)]
    gate: Vec<(String, String)>,
}

fn start(flags: Flags) -> Result<Node, Error> {
    let registry = MemoryRegistry::new();
    for (id, address) in flags.gate {
        let endpoint = format!("drpc://{address}?is_secure=false");
        registry.register(&Instance::new(Kind::Gate, id, endpoint))?;
    }
    Node::builder()
        .id(flags.id)
        .link(flags.link)
        .registry(registry)
        .route(1, |_, cx| {
            let data = RawRef(cx.data());
            cx.respond(&data)
        })
        .start()
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let node = match start(flags) {
        Ok(node) => node,
        Err(error) => return util::fail("cluster_node", error),
    };
    println!(
        "cluster_node listens on {}; ctrl-c ends it",
        node.link_addr()
    );
    if let Err(error) = util::await_signal() {
        return util::fail("cluster_node", error);
    }
    let stats = node.stats();
    println!(
        "cluster_node ends: {} packets, {} pushed",
        stats.packets_in, stats.pushed
    );
    ExitCode::SUCCESS
}
