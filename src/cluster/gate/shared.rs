use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::by_route::AllRoutes;
use super::listener::Door;
use super::options::Options;
use super::stats::GateCounters;
use crate::cluster::link::Identity;
use crate::cluster::locator::{LocationCache, Locator};
use crate::cluster::reactors::QueuedBytes;
use crate::cluster::registry::{Directory, Registered};
use crate::cluster::session::Users;
use crate::engine::listen::admission::{Admission, Prefix};
use crate::workers::WorkerPool;

/// The state that the reactors of a gate share.
pub(super) struct Shared {
    pub(super) ours: Identity,
    pub(super) options: Options,
    /// The listeners, in their order.
    pub(super) doors: Vec<Door>,
    pub(super) users: Users,
    pub(super) all_channels: Arc<AtomicUsize>,
    /// The gate's start in microseconds since 1970.
    pub(super) began: u64,
    /// Asks the locator and the registry, which may block.
    pub(super) pool: WorkerPool,
    pub(super) locator: Arc<dyn Locator>,
    pub(super) locations: LocationCache,
    pub(super) directory: Arc<Directory>,
    pub(super) registered: Arc<Registered>,
    /// By reactor.
    pub(super) counters: Box<[GateCounters]>,
    pub(super) routes: Arc<AllRoutes>,
    pub(super) queued: QueuedBytes,
    pub(super) admission: Admission,
}

/// The registry and the locator, and the threads that ask them.
pub(super) struct Backends {
    pub(super) registered: Arc<Registered>,
    pub(super) directory: Arc<Directory>,
    pub(super) locator: Arc<dyn Locator>,
    pub(super) locations: LocationCache,
    pub(super) pool: WorkerPool,
}

/// The number of jobs that may wait for the locator. Binds take up to half of it, so that users who leave find room.
pub(super) const POOL_QUEUE: usize = 65_536;

impl Shared {
    pub(super) fn new(
        ours: Identity,
        options: Options,
        doors: Vec<Door>,
        reactors: usize,
        began: u64,
        backends: Backends,
    ) -> Self {
        let Backends {
            registered,
            directory,
            locator,
            locations,
            pool,
        } = backends;
        let (max, max_per_ip) = (options.max_connections, options.max_connections_per_ip);
        let admission = Admission::new(max, max_per_ip, Prefix::HOST);
        Self {
            ours,
            options,
            doors,
            users: Users::new(),
            all_channels: Arc::default(),
            began,
            pool,
            locator,
            locations,
            directory,
            registered,
            counters: (0..reactors).map(|_| GateCounters::default()).collect(),
            routes: Arc::default(),
            queued: QueuedBytes::new(reactors),
            admission,
        }
    }

    /// Returns the number of connections, or of users.
    pub(super) fn total(&self, users: bool) -> u64 {
        let gauges = self.counters.iter().map(|counters| match users {
            true => counters.users.get(),
            false => counters.connections.get(),
        });
        gauges.sum()
    }
}
