use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::listener::Door;
use super::options::Options;
use super::stats::GateCounters;
use crate::cluster::link::Identity;
use crate::cluster::locator::{LocationCache, Locator};
use crate::cluster::registry::{Directory, Instance, Registry};
use crate::cluster::session::Users;
use crate::cluster::{Error, State};
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
    /// The number of the state, which may be one that nobody knows: other servers can set it.
    pub(super) state: AtomicU8,
    record: Mutex<Option<Instance>>,
    registry: Arc<dyn Registry>,
    /// By reactor.
    pub(super) counters: Box<[GateCounters]>,
    /// The bytes of tasks that wait for each reactor.
    queued: Box<[AtomicUsize]>,
    pub(super) admission: Admission,
}

/// The registry and the locator, and the threads that ask them.
pub(super) struct Backends {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) directory: Arc<Directory>,
    pub(super) locator: Arc<dyn Locator>,
    pub(super) locations: LocationCache,
    pub(super) pool: WorkerPool,
}

/// The maximum number of bytes of tasks that wait for one reactor.
const MAX_QUEUED: usize = 64 << 20;

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
            registry,
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
            state: AtomicU8::new(State::Work.code()),
            record: Mutex::new(None),
            registry,
            counters: (0..reactors).map(|_| GateCounters::default()).collect(),
            queued: (0..reactors).map(|_| AtomicUsize::new(0)).collect(),
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

    /// Counts a task that is about to wait for a reactor, unless too many bytes wait already.
    pub(super) fn enqueue(&self, reactor: usize, weight: usize) -> bool {
        let queued = &self.queued[reactor];
        if queued.load(Ordering::Relaxed) > MAX_QUEUED {
            return false;
        }
        queued.fetch_add(weight, Ordering::Relaxed);
        true
    }

    /// Counts a task that is bounded in another way.
    pub(super) fn enqueue_anyway(&self, reactor: usize, weight: usize) {
        self.queued[reactor].fetch_add(weight, Ordering::Relaxed);
    }

    /// Counts a task that was done.
    pub(super) fn dequeue(&self, reactor: usize, weight: usize) {
        self.queued[reactor].fetch_sub(weight, Ordering::Relaxed);
    }

    /// Registers the gate.
    pub(super) fn register(&self, instance: Instance) -> Result<(), Error> {
        let mut record = self.record.lock();
        self.registry.register(&instance)?;
        *record = Some(instance);
        Ok(())
    }

    /// Takes the gate from the registry. It is not registered again.
    pub(super) fn deregister(&self) {
        let mut record = self.record.lock();
        if let Some(instance) = record.take()
            && let Err(error) = self.registry.deregister(&instance)
        {
            log::warn!(target: "epicycle::cluster", "the gate {} stays registered: {error}", self.ours.id);
        }
    }

    /// Registers the gate with another state. It may block.
    pub(super) fn set_state(&self, state: State) -> Result<(), Error> {
        let mut record = self.record.lock();
        self.state.store(state.code(), Ordering::Release);
        let Some(instance) = record.as_mut() else {
            return Ok(());
        };
        instance.state = state;
        self.registry.register(instance)
    }
}
