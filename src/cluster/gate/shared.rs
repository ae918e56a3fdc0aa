use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::by_route::AllRoutes;
use super::listener::Door;
use super::options::Options;
use super::resume::SharedResume;
use super::stats::{GateCounters, GateStats};
use crate::cluster::link::Identity;
use crate::cluster::locator::{LocationCache, Locator};
use crate::cluster::reactors::QueuedBytes;
use crate::cluster::registry::{Directory, Registered};
use crate::cluster::session::Users;
use crate::engine::listen::admission::{Admission, Entrance, Prefix};
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
    /// A [`DrainStage`].
    drain: AtomicU8,
    /// Counts the clients.
    pub(super) admission: Arc<Admission>,
    /// The clients and links that have not passed the steps before they open.
    entrances: Entrances,
    /// `None` if clients cannot resume.
    pub(super) resume: Option<SharedResume>,
}

/// A stage of the end of a gate.
#[derive(Clone, Copy)]
pub(super) enum DrainStage {
    /// Clients are to go.
    Waits = 1,
    /// Those that are left are closed.
    Closes = 2,
    /// Nothing new is taken.
    Leaves = 3,
}

/// The limits of the listeners.
pub(super) struct Entrances {
    clients: Arc<Admission>,
    of_clients: Vec<Arc<Entrance>>,
    of_links: Arc<Entrance>,
}

impl Entrances {
    pub(super) fn new(options: &Options) -> Self {
        let (max, max_per_ip) = (options.max_connections, options.max_connections_per_ip);
        let links = Admission::new(options.max_links, usize::MAX, Prefix::HOST);
        Self {
            clients: Arc::new(Admission::new(max, max_per_ip, Prefix::HOST)),
            of_clients: Vec::new(),
            of_links: Arc::new(Entrance::new(Arc::new(links), false)),
        }
    }

    /// Returns the entrance of a listener.
    pub(super) fn of(&mut self, door: &Door) -> Arc<Entrance> {
        let counts_peers = match door {
            Door::Links => return self.of_links.clone(),
            Door::Packets => true,
            #[cfg(feature = "kcp")]
            Door::Kcp(_) => true,
            // A proxy tells its clients when it asks for a WebSocket.
            Door::Sockets(upgrade) => upgrade.proxies.is_empty(),
        };
        let entrance = Arc::new(Entrance::new(self.clients.clone(), counts_peers));
        self.of_clients.push(entrance.clone());
        entrance
    }
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
        (doors, entrances): (Vec<Door>, Entrances),
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
            drain: AtomicU8::default(),
            admission: entrances.clients.clone(),
            entrances,
            resume: None,
        }
    }

    /// Returns the limit of the links that other servers dial.
    pub(super) fn links(&self) -> &Admission {
        self.entrances.of_links.admission()
    }

    /// Returns the number of sessions over KCP on one reactor whose peers may be of forged addresses.
    #[cfg(feature = "kcp")]
    pub(super) fn most_unproved(&self) -> usize {
        let is_kcp = |door: &&Door| matches!(door, Door::Kcp(_));
        let listeners = self.doors.iter().filter(is_kcp).count().max(1);
        self.options.max_connections / 2 / listeners
    }

    /// Returns the metrics.
    pub(super) fn stats(&self) -> GateStats {
        let mut stats = GateStats::default();
        for counters in &self.counters {
            stats += counters.read();
        }
        let refused = self.entrances.of_clients.iter();
        stats.clients_refused += refused.map(|entrance| entrance.refused()).sum::<u64>();
        stats.links_refused += self.entrances.of_links.refused();
        stats.state = self.registered.state_code().into();
        let resume = self.resume.as_ref();
        stats.resume_bytes = resume.map_or(0, |resume| resume.room.bytes() as u64);
        stats.drain_stage = self.drain.load(Ordering::Relaxed).into();
        stats
    }

    /// Notes how far the end of the gate is.
    pub(super) fn enter(&self, stage: DrainStage) {
        self.drain.store(stage as u8, Ordering::Relaxed);
    }

    /// Returns true once those who are left are closed.
    pub(super) fn is_closing(&self) -> bool {
        self.drain.load(Ordering::Relaxed) >= DrainStage::Closes as u8
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
