use super::stats::NodeCounters;
use crate::cluster::codec::Codec;
use crate::cluster::drpc::Secret;
use crate::cluster::link::{Identity, LaneOptions};
use crate::cluster::packet::PacketOptions;
use crate::cluster::registry::Registered;
use crate::workers::WorkerPool;

/// The state that the reactors of a node share.
pub(super) struct Shared {
    pub(super) ours: Identity,
    pub(super) options: Options,
    pub(super) registered: Registered,
    /// Asks the registry and the locator, which may block.
    pub(super) pool: WorkerPool,
    /// By reactor.
    pub(super) counters: Box<[NodeCounters]>,
}

/// The options that the reactors need.
pub(super) struct Options {
    pub(super) packet: PacketOptions,
    pub(super) codec: Codec,
    pub(super) max_links: usize,
    pub(super) secret: Option<Secret>,
    pub(super) lanes: LaneOptions,
}
