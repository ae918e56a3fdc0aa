//! The state of a gateway that runs, as its controls tell it.
//!
//! Counters and the state of nodes are atomics that any thread reads. What only a reactor knows, it tells when it is asked, in
//! a message of its own. One that is too busy to answer in time is left out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::hooks::Hooks;
use super::metrics::{NodeStats, Totals};
use super::pool::SharedPool;
use super::proxy::{MAX_LONGEST, Proxy};
use super::running::Control;
use super::settings::{NodeSettings, NodeState, Settings};
use super::status::{
    ChangeStatus, ClassCount, ConnectionsStatus, HealthStatus, HealthVerdict, ListenerStatus,
    NodeCondition, NodeStatus, PoolConnections, PoolHealth, PoolStatus,
};
use crate::balance::{Node, NodeId};
use crate::engine::handler::Reactor;
use crate::metrics::Label;

/// The time for all reactors to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Weights of nodes, as balancers see them, by pool and node: the sum, and the number of reactors.
type Weights = BTreeMap<(String, NodeId), (f64, u32)>;

impl<H: Hooks> Control<H> {
    /// Returns the settings in force, with the nodes that the pools have now.
    pub fn settings(&self) -> Settings {
        (*self.shared.state.lock().settings).clone()
    }

    /// Returns the pools, in the order of their names.
    ///
    /// Asks the reactors, and waits up to a second for them. So do not call it in a hook.
    pub fn pools(&self) -> Vec<PoolStatus> {
        let pools = self.shared.live_pools.lock().clone();
        let (totals, weights) = (self.shared.registry.totals(), self.weights());
        let mut pools: Vec<_> = pools
            .iter()
            .map(|pool| pool_status(pool, &totals, &weights))
            .collect();
        pools.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        pools
    }

    /// Returns a pool, if there is one of that name. It waits as [`pools`](Self::pools) does.
    pub fn pool(&self, name: &str) -> Option<PoolStatus> {
        let pools = self.shared.live_pools.lock().clone();
        let pool = pools.iter().find(|pool| *pool.name == *name)?;
        Some(pool_status(
            pool,
            &self.shared.registry.totals(),
            &self.weights(),
        ))
    }

    /// Returns the health of the gateway as a whole. It asks no reactor.
    pub fn health(&self) -> HealthStatus {
        let pools = self.shared.live_pools.lock().clone();
        let totals = self.shared.registry.totals();
        let mut pools: Vec<_> = pools
            .iter()
            .map(|pool| PoolHealth {
                name: pool.name.to_string(),
                nodes: pool.nodes.len(),
                up: pool
                    .nodes
                    .iter()
                    .filter(|node| takes_requests(node))
                    .count(),
            })
            .collect();
        pools.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut requests = BTreeMap::<&str, u64>::new();
        for stats in totals.routes.values() {
            for (class, number) in stats.requests.iter() {
                *requests.entry(class.value()).or_default() += number;
            }
        }
        let requests = requests.into_iter();
        HealthStatus {
            status: match self.shared.is_draining() {
                true => "draining",
                false if pools.iter().any(|pool| pool.up == 0) => "degraded",
                false => "ok",
            },
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.shared.started.elapsed().as_secs(),
            generation: self.shared.generation.load(Ordering::Relaxed),
            reactors: self.engine.reactors(),
            in_flight: totals.all.in_flight,
            tunnels: totals.all.tunnels,
            requests: requests
                .map(|(class, requests)| ClassCount { class, requests })
                .collect(),
            pools,
        }
    }

    /// Returns the connections, and the exchanges that have been under way for longest.
    ///
    /// Each reactor looks at all its connections for it. Waits up to a second for them. So do not call it in a hook, nor often if
    /// there are very many.
    pub fn connections(&self) -> ConnectionsStatus {
        let (told, silent) = self.gather(|proxy, reactor| proxy.connections_here(reactor));
        let mut all = ConnectionsStatus {
            silent_reactors: silent,
            ..ConnectionsStatus::default()
        };
        let mut listeners = BTreeMap::<String, ListenerStatus>::new();
        let mut pools = BTreeMap::<String, PoolConnections>::new();
        for mut here in told {
            all.total += here.total;
            all.targets += here.targets;
            all.checks += here.checks;
            all.longest.append(&mut here.longest);
            for listener in here.listeners {
                let sum = listeners.entry(listener.on.clone()).or_default();
                sum.connections += listener.connections;
                sum.busy += listener.busy;
                sum.tunnels += listener.tunnels;
                (sum.on, sum.kind) = (listener.on, listener.kind);
            }
            for pool in here.pools {
                let sum = pools.entry(pool.name.clone()).or_default();
                sum.connections += pool.connections;
                sum.busy += pool.busy;
                sum.name = pool.name;
            }
        }
        all.listeners = listeners.into_values().collect();
        all.pools = pools.into_values().collect();
        let age = |one: &super::status::ExchangeStatus| std::cmp::Reverse(one.age_ms);
        all.longest.sort_by_key(age);
        all.longest.truncate(MAX_LONGEST);
        all
    }

    /// Returns the last changes of the configuration, at most 64. The newest is the last.
    pub fn history(&self) -> Vec<ChangeStatus> {
        self.shared.history.lock().iter().cloned().collect()
    }

    /// Asks all reactors for something. Returns what they told, and the numbers of those that did not in time.
    fn gather<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut Proxy<H>, &mut Reactor<'_, Proxy<H>>) -> T + Clone + Send + 'static,
    ) -> (Vec<T>, Vec<usize>) {
        let (tell, told) = mpsc::channel();
        let mut silent: Vec<usize> = (0..self.engine.reactors()).collect();
        // A simulation has one thread, which is this one.
        if !self.engine.is_simulated() {
            for number in &silent {
                let (ask, tell, number) = (ask.clone(), tell.clone(), *number);
                // One whose mailbox is full is too busy.
                let _ = self.engine.run_on(number, move |proxy, reactor| {
                    let _ = tell.send((number, ask(proxy, reactor)));
                });
            }
        }
        drop(tell);
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while let Ok((number, answer)) =
            told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            silent.retain(|other| *other != number);
            all.push(answer);
        }
        (all, silent)
    }

    /// Returns the weights that failures have left to nodes.
    fn weights(&self) -> Weights {
        let (told, _) = self.gather(|proxy, _| proxy.weights());
        let mut weights = Weights::new();
        for (pool, node, weight) in told.into_iter().flatten() {
            let sum = weights.entry((pool, node)).or_default();
            sum.0 += f64::from(weight);
            sum.1 += 1;
        }
        weights
    }
}

/// Returns true if a node takes requests.
fn takes_requests(node: &Node) -> bool {
    node.is_up() && !node.is_disabled()
}

fn pool_status(pool: &SharedPool, totals: &Totals, weights: &Weights) -> PoolStatus {
    let name = pool.name.to_string();
    let stats = totals.pools.get(&name);
    let of = |node: &Node| totals.nodes.get(&(name.clone(), node.address().to_owned()));
    let requests = |node: &Node| of(node).map_or(0, requests);
    let total: u64 = pool.nodes.iter().map(requests).sum();
    let settings: BTreeMap<&str, &NodeSettings> = pool
        .settings
        .nodes
        .iter()
        .rev()
        .map(|node| (&*node.to, node))
        .collect();
    let nodes = pool.nodes.iter().map(|node| {
        let address = node.address().to_owned();
        let key = (name.clone(), address);
        let settings = settings.get(node.address());
        let set = settings.map_or(NodeState::Up, |settings| settings.state);
        let known = weights.get(&(name.clone(), node.id()));
        let weight = known.map_or(f64::from(node.weight()), |(sum, number)| {
            sum / f64::from(*number)
        });
        let effective = match takes_requests(node) {
            true => weight * f64::from(node.ramp()) / 1000.0,
            false => 0.0,
        };
        let latency = totals
            .latencies
            .get(&key)
            .filter(|(_, weight)| *weight > 0.0);
        let requests = requests(node);
        NodeStatus {
            weight: settings.map_or(node.weight(), |settings| settings.weight),
            effective_weight: rounded(effective),
            backup: node.is_backup(),
            state: condition(node, set),
            set,
            health: match (&pool.settings.health, node.is_down()) {
                (None, _) => HealthVerdict::Unchecked,
                (Some(_), false) => HealthVerdict::Up,
                (Some(_), true) => HealthVerdict::Down,
            },
            in_flight: node.in_flight(),
            connections: pool
                .places
                .get(&node.id())
                .map_or(0, |places| places.taken()),
            requests,
            failures: of(node).map_or(0, |stats| stats.failures),
            share: match total {
                0 => 0.0,
                total => rounded(requests as f64 / total as f64),
            },
            latency_ms: latency.map(|(sum, weight)| rounded(1000.0 * sum / weight)),
            address: key.1,
        }
    });
    PoolStatus {
        balance: pool.settings.balance.as_str(),
        fail_open: pool.settings.fail_open,
        connections: stats.map_or(0, |stats| stats.connections),
        idle: stats.map_or(0, |stats| stats.idle),
        waiting: stats.map_or(0, |stats| stats.waiting),
        retries: stats.map_or(0, |stats| stats.retries),
        nodes: nodes.collect(),
        name: name.clone(),
    }
}

fn requests(stats: &NodeStats) -> u64 {
    stats.requests.iter().map(|(_, number)| number).sum()
}

fn condition(node: &Node, set: NodeState) -> NodeCondition {
    match set {
        NodeState::Drain => NodeCondition::Drain,
        NodeState::Down => NodeCondition::Down,
        NodeState::Up if node.is_down() => NodeCondition::Down,
        NodeState::Up if node.is_ejected() => NodeCondition::Ejected,
        NodeState::Up => NodeCondition::Up,
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
