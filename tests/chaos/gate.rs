//! A gate of a cluster, with a node behind it, between hostile clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicycle::cluster::Cluster;
use epicycle::cluster::codec::Raw;
use epicycle::cluster::gate::{Gate, GateStats, HeartbeatMode, OverRate, RateLimit, SlowClient};
use epicycle::cluster::packet::PacketOptions;
use epicycle::cluster::registry::Registry;
use epicycle::metrics::ReactorStats;

use super::ledger::Ledger;
use super::server::{End, Started, obey};
use super::services::MAX_PAYLOAD;
use crate::util::process::{descriptor_limit, limit_descriptors};

/// Runs the gate and the node, which sends every packet back. The limits are those of one in production, with times short enough
/// to pass.
pub(crate) fn serve() {
    limit_descriptors(descriptor_limit().1);
    let cluster = Cluster::embedded();
    let packets = PacketOptions::builder().max_data(MAX_PAYLOAD);
    let packets = packets.build().expect("is sound");
    let node = cluster.node().packet(packets).route(1, |_, cx| {
        let data: Raw = cx.parse()?;
        cx.respond(&data)
    });
    let node = node.start().expect("starts");
    let gate = cluster
        .gate()
        .packet(packets)
        .reactors(2)
        .listen("tcp://127.0.0.1:0")
        .heartbeat(HeartbeatMode::Respond, Duration::from_millis(2000))
        .max_connections(10_000)
        .max_connections_per_ip(24)
        .outbound_limit(128 << 10, SlowClient::Close)
        // More than the control group sends, and less than a flood.
        .rate_limit(RateLimit::per_second(400, 512 << 10).policy(OverRate::Close));
    let gate = gate.start().expect("starts");
    let address = gate.client_addrs()[0].as_socket_addr();
    // Taken at the end.
    let gate = Arc::new(Mutex::new(Some(gate)));
    let read = move |gate: &Mutex<Option<Gate>>| {
        let gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.as_ref().map(Gate::stats).unwrap_or_default()
    };
    let (for_stats, for_tables) = (gate.clone(), gate.clone());
    obey(vec![Started {
        name: "packets",
        addresses: vec![address.expect("is TCP").to_string()],
        ledger: Arc::<Ledger>::default(),
        stats: Arc::new(move || counted(&read(&for_stats))),
        under_way: Box::new(move || {
            let stats = read(&for_tables);
            stats.users + stats.kept_bytes
        }),
        shutdown: Box::new(|| ()),
        join: Box::new(move || {
            let taken = gate.lock().unwrap_or_else(PoisonError::into_inner).take();
            let taken = taken.expect("is there until the end");
            let drained = taken.stats().connections;
            taken.shutdown();
            node.shutdown();
            for name in ["gate", "node"] {
                let left = cluster.registry().services(name).expect("is in memory");
                assert!(left.is_empty(), "{left:?} stays registered");
            }
            End {
                stats: ReactorStats::default(),
                drained,
                forced: 0,
            }
        }),
    }]);
}

/// Returns what a gate tells in place of its engine's counters.
fn counted(gate: &GateStats) -> ReactorStats {
    let mut stats = ReactorStats::default();
    stats.connections = gate.connections;
    stats.refused = gate.clients_refused;
    stats
}
