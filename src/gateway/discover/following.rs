//! The sources that a gateway follows, and what is known of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{MAX_NODES, Stop};
use crate::gateway::settings::{NodeSettings, Settings, SourceSettings};
use crate::metric_set;
use crate::metrics::{Expose, Exposition};

metric_set! {
    /// The lists of a source up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(in crate::gateway) struct SourceStats("epicycle_gateway_discovery") {
        /// Lists of nodes that the sources told.
        lists: counter,
        /// Lists that changed the nodes of the pool.
        changes: counter,
        /// Times for which a source had no list that can be used.
        failures: counter,
        /// Sources that fail now. Their pools have the last good list.
        failing: gauge,
    }
    /// The counters of a source. Its thread alone writes them.
    #[derive(Debug, Default)]
    pub(in crate::gateway) struct SourceCounters;
}

/// The sources that a gateway follows.
#[derive(Default)]
pub(in crate::gateway) struct Sources(Mutex<State>);

#[derive(Default)]
struct State {
    followed: Vec<Followed>,
    is_ended: bool,
}

/// A source that is followed.
#[derive(Clone)]
pub(in crate::gateway) struct Followed {
    pub(in crate::gateway) pool: String,
    /// Its part of the pool's settings. `None` for a source of the application.
    settings: Option<SourceSettings>,
    pub(in crate::gateway) stop: Stop,
    pub(in crate::gateway) counters: Arc<SourceCounters>,
    /// The last failure, which is not logged again.
    failure: Option<String>,
}

impl Sources {
    /// Adds a source. It is to end at once if the gateway has ended.
    pub(in crate::gateway) fn add(&self, pool: &str, settings: Option<SourceSettings>) -> Followed {
        let mut state = self.0.lock();
        let followed = Followed {
            pool: pool.to_owned(),
            settings,
            stop: Stop::default(),
            counters: Arc::default(),
            failure: None,
        };
        match state.is_ended {
            true => followed.stop.set(),
            false => state.followed.push(followed.clone()),
        }
        followed
    }

    /// Forgets a source that has ended.
    pub(in crate::gateway) fn remove(&self, ended: &Followed) {
        let mut state = self.0.lock();
        let is_other = |other: &Followed| !Arc::ptr_eq(&other.counters, &ended.counters);
        state.followed.retain(is_other);
    }

    /// Ends the sources that other settings have no more, and those of pools that are gone.
    pub(in crate::gateway) fn end_all_but(&self, settings: &Settings) {
        self.0.lock().followed.retain(|followed| {
            let stays = match settings.pools.get(&followed.pool) {
                Some(pool) => followed.settings.is_none() || followed.settings == pool.discover,
                None => false,
            };
            if !stays {
                followed.stop.set();
            }
            stays
        });
    }

    /// Returns true if the source that the settings of a pool describe is followed.
    pub(in crate::gateway) fn has(&self, pool: &str, settings: &SourceSettings) -> bool {
        let state = self.0.lock();
        let mut of_pool = state.followed.iter().filter(|one| one.pool == pool);
        of_pool.any(|followed| followed.settings.as_ref() == Some(settings))
    }

    /// Ends all sources, and each that is added later.
    pub(in crate::gateway) fn end(&self) {
        let mut state = self.0.lock();
        state.is_ended = true;
        for followed in state.followed.drain(..) {
            followed.stop.set();
        }
    }

    /// Adds the counters to an exposition, by pool.
    pub(in crate::gateway) fn expose(&self, to: &mut Exposition) {
        let mut pools = BTreeMap::<String, SourceStats>::new();
        for followed in &self.0.lock().followed {
            *pools.entry(followed.pool.clone()).or_default() += followed.counters.read();
        }
        for (pool, stats) in &pools {
            stats.expose(&[("pool", pool)], to);
        }
    }
}

impl Followed {
    /// Refuses a list that no pool can be served by.
    pub(in crate::gateway) fn check(nodes: &[NodeSettings]) -> Result<(), String> {
        match nodes.len() {
            0 => Err("it tells no node".to_owned()),
            len if len > MAX_NODES => Err(format!("it tells {len} nodes, more than {MAX_NODES}")),
            _ => Ok(()),
        }
    }

    /// Notes a list, and logs what is new.
    pub(in crate::gateway) fn on_list(&mut self, nodes: usize, has_changed: bool) {
        let pool = &self.pool;
        self.counters.lists.add(1);
        self.counters.failing.set(0);
        if self.failure.take().is_some() {
            log::info!(target: "epicycle::gateway::pool", "pool {pool}: its source answers again");
        }
        if has_changed {
            self.counters.changes.add(1);
            log::info!(target: "epicycle::gateway::pool", "pool {pool}: its source tells other nodes, {nodes} in all");
        }
    }

    /// Notes a failure. It is logged unless the last one was the same.
    pub(in crate::gateway) fn on_failure(&mut self, failure: String) {
        let pool = &self.pool;
        self.counters.failures.add(1);
        self.counters.failing.set(1);
        if self.failure.as_ref() != Some(&failure) {
            log::warn!(target: "epicycle::gateway::pool", "pool {pool}: its nodes stay as they are: {failure}");
            self.failure = Some(failure);
        }
    }
}
