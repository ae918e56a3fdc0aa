//! The parts of a gateway that its reactors and its controls share.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::access_log::{Logger, Sink};
use super::admin::AdminServer;
use super::discover::Sources;
use super::error::GatewayError;
use super::kept::Kept;
use super::metrics::Registry;
use super::node_lists::NodeLists;
use super::pool::SharedPool;
use super::settings::{ListenerSettings, Settings};
use super::status::{ChangeStatus, Reloaded};
use crate::addr::Addr;
use crate::metrics::{Exposition, Stats};
use crate::workers::WorkerPool;

/// The parts of a gateway that its reactors share with each other and with its controls.
pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) is_draining: AtomicBool,
    /// True while each response tells its client to make another connection.
    pub(super) sends_clients_away: AtomicBool,
    /// The sources of nodes that are followed.
    pub(super) sources: Sources,
    /// The pools that the settings have, for the counters.
    pub(super) live_pools: Mutex<Vec<Arc<SharedPool>>>,
    pub(super) started: Instant,
    /// The number of the configuration in force.
    pub(super) generation: AtomicU64,
    /// The last changes of the configuration.
    pub(super) history: Mutex<VecDeque<ChangeStatus>>,
    pub(super) admin: Mutex<Option<AdminServer>>,
    /// The parts of the control that the program does in its own way.
    pub(super) program: Mutex<Program>,
    pub(super) logger: Mutex<Option<Logger>>,
    pub(super) kept: Kept,
    /// The threads that check passwords, once one is to be checked.
    workers: OnceLock<Option<WorkerPool>>,
    /// Locked while the settings change. No reactor may wait for it, as the change waits for the reactors.
    pub(super) state: Mutex<State>,
}

/// The most changes of the configuration that are remembered.
const MAX_HISTORY: usize = 64;

/// The parts of the control that the program around the gateway may do in its own way.
#[derive(Default)]
pub(super) struct Program {
    pub(super) reload: Option<Reload>,
    pub(super) drain: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Reads the configuration again, and takes it over.
pub(super) type Reload = Arc<dyn Fn() -> Result<Reloaded, GatewayError> + Send + Sync>;

/// The settings in force, and what was made of them.
pub(super) struct State {
    pub(super) settings: Arc<Settings>,
    /// All pools, by their numbers. A pool that is no longer in the settings keeps its number, since exchanges may be under
    /// way there.
    pub(super) pools: Vec<Arc<SharedPool>>,
    pub(super) listeners: Vec<Open>,
    pub(super) lists: NodeLists,
    /// The configuration that was taken over last.
    pub(super) source: Source,
}

/// The place where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) file: Option<PathBuf>,
    /// Its text.
    pub(super) text: Option<Arc<str>>,
}

/// A listener that is open.
pub(super) struct Open {
    pub(super) number: usize,
    pub(super) local_addr: Addr,
    pub(super) settings: ListenerSettings,
}

impl Shared {
    pub(super) fn new(
        settings: &Arc<Settings>,
        source: Source,
        pools: &[Arc<SharedPool>],
    ) -> Result<Arc<Self>, GatewayError> {
        let logger = settings.access_log.as_ref().map(Logger::open);
        // The listeners that a server starts with have the first numbers. The addresses are known once they are open.
        let listeners = settings.listeners.iter().enumerate();
        let listeners = listeners.map(|(number, settings)| Open {
            number,
            local_addr: Addr::Unix(None),
            settings: settings.clone(),
        });
        let mut lists = NodeLists::default();
        lists.configure(settings, &mut (**settings).clone());
        let start = ChangeStatus {
            unix_time: unix_time(),
            generation: 1,
            by: "start",
            changes: Vec::new(),
            error: None,
        };
        Ok(Arc::new(Self {
            started: Instant::now(),
            generation: AtomicU64::new(1),
            history: Mutex::new(VecDeque::from([start])),
            admin: Mutex::new(None),
            program: Mutex::default(),
            registry: Registry::default(),
            is_draining: AtomicBool::new(false),
            sends_clients_away: AtomicBool::new(false),
            sources: Sources::default(),
            live_pools: Mutex::new(pools.to_vec()),
            logger: Mutex::new(logger.transpose().map_err(GatewayError::Log)?),
            kept: Kept::default(),
            workers: OnceLock::new(),
            state: Mutex::new(State {
                settings: settings.clone(),
                pools: pools.to_vec(),
                listeners: listeners.collect(),
                lists,
                source,
            }),
        }))
    }

    /// Runs the check of a password on a thread for that. Returns false if there is no room.
    pub(super) fn check_password(&self, check: impl FnOnce() + Send + 'static) -> bool {
        let workers = self.workers.get_or_init(|| {
            let workers = WorkerPool::builder().threads(2).name("password").build();
            let failed = |error| log::warn!(target: "epicycle::gateway", "passwords cannot be checked: {error}");
            workers.map_err(failed).ok()
        });
        let workers = workers.as_ref();
        workers.is_some_and(|workers| workers.submit(check).is_ok())
    }

    /// Notes a change of the configuration, or the refusal of one.
    pub(super) fn note(&self, by: &'static str, changes: Vec<String>, error: Option<String>) {
        let mut history = self.history.lock();
        if history.len() == MAX_HISTORY {
            history.pop_front();
        }
        history.push_back(ChangeStatus {
            unix_time: unix_time(),
            generation: self.generation.load(Ordering::Relaxed),
            by,
            changes,
            error,
        });
    }

    /// Returns a reactor's part of the access log.
    pub(super) fn sink(&self) -> Option<Sink> {
        self.logger.lock().as_ref().map(Logger::sink)
    }

    /// Returns true while each response tells its client to make another connection.
    pub(super) fn sends_clients_away(&self) -> bool {
        self.sends_clients_away.load(Ordering::Acquire)
    }

    /// Returns true while the gateway is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Returns all counters as text.
    pub(super) fn metrics(&self, engine: &Stats) -> String {
        let mut exposition = Exposition::new();
        exposition.add(&[], engine);
        if let Some(logger) = &*self.logger.lock() {
            let (written, dropped) = (logger.written() as f64, logger.dropped() as f64);
            let name = "epicycle_gateway_log_lines_total";
            exposition.counter(name, "Lines of the access log.", &[], written);
            let name = "epicycle_gateway_log_dropped_total";
            exposition.counter(name, "Lines of the access log that are lost.", &[], dropped);
        }
        let pools = self.live_pools.lock().clone();
        let nodes = pools.iter().map(|pool| (&*pool.name, &pool.nodes));
        self.registry.expose(nodes, &mut exposition);
        self.sources.expose(&mut exposition);
        for pool in &pools {
            for node in pool.nodes.iter() {
                let taken = pool
                    .places
                    .get(&node.id())
                    .map_or(0, |places| places.taken());
                let labels = [("pool", &*pool.name), ("node", node.address())];
                let name = "epicycle_gateway_node_connections";
                let help = "Connections to the node now, with those that are being made.";
                exposition.gauge(name, help, &labels, taken as f64);
            }
        }
        let (keys, forgotten) = self.kept.limiters.count();
        let name = "epicycle_gateway_limit_keys";
        exposition.gauge(
            name,
            "Buckets of the limits of rates now.",
            &[],
            keys as f64,
        );
        let name = "epicycle_gateway_limit_forgotten_total";
        let help = "Buckets that were forgotten while they were in use, since there were too many.";
        exposition.counter(name, help, &[], forgotten as f64);
        for (route, under_way) in self.kept.mirrors.under_way() {
            let name = "epicycle_gateway_route_mirrors";
            let help = "Copies of requests that are under way to a mirror.";
            let labels = [("route", &*route)];
            exposition.gauge(name, help, &labels, f64::from(under_way));
        }
        let draining = f64::from(u8::from(self.is_draining()));
        let name = "epicycle_gateway_draining";
        exposition.gauge(name, "1 if the gateway is about to end.", &[], draining);
        let mut text = String::new();
        exposition.write(&mut text);
        text
    }
}

/// Returns the time of day in whole seconds since 1970.
fn unix_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl State {
    /// Returns the pools that the settings have.
    pub(super) fn live_pools(&self) -> Vec<Arc<SharedPool>> {
        let mut pools = self.pools.clone();
        pools.retain(|pool| self.settings.has_pool(&pool.name));
        pools
    }
}

/// New settings, as a reactor takes them over.
pub(super) struct Change {
    pub(super) settings: Arc<Settings>,
    /// All pools, by their numbers.
    pub(super) pools: Arc<[Arc<SharedPool>]>,
    /// The numbers of listeners whose clients take no further request, since the listeners are gone or serve others. `None`
    /// if the settings are those in force with listeners that are about to open, of which no client is told.
    pub(super) left: Option<Arc<[usize]>>,
    /// The reactor's part of another access log, if that changes.
    pub(super) sink: Option<Option<Sink>>,
}
