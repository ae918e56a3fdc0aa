use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::nodes::{Shared, Standing};
use super::{NodeId, Nodes, Outcome};

/// Ejects nodes that fail, and lets them return: passive health checks. One value serves all threads of a pool.
///
/// A node that fails several times in a row is *ejected*: it gets no requests for a while, longer each time. Then it
/// gets a single request as a probe. If that succeeds, the node returns with a small share of its weight, which grows.
/// Only a part of the nodes is ejected at a time, so that a fault of all nodes, or of the network, ejects no more than
/// that.
///
/// Reporting a success costs one atomic load, unless the node failed before. The lock is taken only when something
/// changes.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::balance::{Change, Ejection, Health, Nodes, NodeSpec, Outcome};
///
/// let nodes = Nodes::new(["a", "b"].map(NodeSpec::new));
/// let a = nodes.iter().next().unwrap().id();
/// let health = Health::new(Ejection::default().failures(2));
/// let second = Duration::from_secs;
///
/// assert_eq!(health.report(&nodes, a, Outcome::Failure, second(1)), None);
/// let change = health.report(&nodes, a, Outcome::Failure, second(2));
/// assert_eq!(change, Some(Change::Ejected { lasts: second(30) }));
/// assert!(!nodes.get(a).unwrap().is_up());
///
/// // After that time, the node gets a single request.
/// assert_eq!(health.tick(&nodes, second(3)), Some(second(32)));
/// health.tick(&nodes, second(32));
/// assert!(nodes.begin(a).is_some());
/// assert_eq!(health.report(&nodes, a, Outcome::Success, second(33)), Some(Change::Returned));
/// ```
#[derive(Debug, Default)]
pub struct Health {
    ejection: Ejection,
    slow_start: Duration,
    records: Mutex<HashMap<NodeId, Record>>,
}

/// The rules for ejection: when, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    failures: u32,
    base: Duration,
    max: Duration,
    max_percent: u8,
}

/// A change in the state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node was ejected.
    Ejected {
        /// The time until the node may be probed.
        lasts: Duration,
    },
    /// The node returned.
    Returned,
}

/// The history of a node that was ejected.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// The number of ejections, less those that were forgiven.
    times: u32,
    /// The end of the ejection, if the node is ejected.
    until: Duration,
    /// The time of the return.
    returned: Duration,
}

impl Default for Ejection {
    /// Returns the defaults: five failures in a row, 30 s times the number of ejections, at most 5 min, at most half of
    /// the nodes.
    fn default() -> Self {
        Self {
            failures: 5,
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

impl Ejection {
    /// Sets the number of failures in a row that eject a node. 0 means never. Default: 5.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets the duration of the first ejection. The second one lasts twice as long, the third three times, and so on.
    /// Each such period without an ejection forgives one. Default: 30 s.
    #[must_use]
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets the maximum duration of an ejection. Default: 5 min.
    #[must_use]
    pub fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// Sets the share of the nodes that may be ejected at a time, in per cent, rounded down. Default: 50.
    #[must_use]
    pub fn max_percent(mut self, percent: u8) -> Self {
        self.max_percent = percent;
        self
    }
}

impl Health {
    /// Returns a value with these rules, and without a slow start.
    pub fn new(ejection: Ejection) -> Self {
        Self {
            ejection,
            ..Self::default()
        }
    }

    /// Sets the duration of the slow start: the time over which a node that is new or returns grows to its full weight,
    /// starting with a tenth. Default: 0, no slow start.
    #[must_use]
    pub fn slow_start(mut self, over: Duration) -> Self {
        self.slow_start = over;
        self
    }

    /// Returns a value with other rules that knows what this one knows of the nodes.
    #[must_use]
    pub fn updated(&self, ejection: Ejection, slow_start: Duration) -> Self {
        Self {
            ejection,
            slow_start,
            records: Mutex::new(self.records.lock().clone()),
        }
    }

    /// Reports the outcome of a request to a node. Returns the change that results, if any.
    pub fn report(
        &self,
        nodes: &Nodes,
        id: NodeId,
        outcome: Outcome,
        now: Duration,
    ) -> Option<Change> {
        let shared = nodes.get(id)?.shared();
        match outcome {
            Outcome::Success => self.succeeded(shared, id, now),
            Outcome::Failure => self.failed(nodes, shared, id, now),
            Outcome::Abandoned => None,
        }
    }

    fn succeeded(&self, shared: &Shared, id: NodeId, now: Duration) -> Option<Change> {
        if shared.streak.load(Ordering::Relaxed) != 0 {
            shared.streak.store(0, Ordering::Relaxed);
        }
        // A request that began before the ejection proves nothing.
        if !matches!(shared.standing(), Standing::Probation | Standing::Probed) {
            return None;
        }
        let mut records = self.records.lock();
        let returned = shared.change(Standing::Probed, Standing::In)
            || shared.change(Standing::Probation, Standing::In);
        if !returned {
            return None;
        }
        records.entry(id).or_default().returned = now;
        shared.begin_ramp(now, self.slow_start);
        Some(Change::Returned)
    }

    fn failed(&self, nodes: &Nodes, shared: &Shared, id: NodeId, now: Duration) -> Option<Change> {
        match shared.standing() {
            Standing::Out => return None,
            Standing::Probation | Standing::Probed => {}
            Standing::In => {
                let streak = shared
                    .streak
                    .fetch_add(1, Ordering::Relaxed)
                    .saturating_add(1);
                if self.ejection.failures == 0 || streak < self.ejection.failures {
                    return None;
                }
            }
        }
        let mut records = self.records.lock();
        let ejection = &self.ejection;
        match shared.standing() {
            // Another thread ejected the node first.
            Standing::Out => return None,
            Standing::In => {
                let out = nodes.iter().filter(|node| node.is_ejected()).count();
                if (out + 1) * 100 > nodes.len() * usize::from(ejection.max_percent) {
                    return None;
                }
            }
            Standing::Probation | Standing::Probed => {}
        }
        let record = records.entry(id).or_default();
        let was_in = shared.standing() == Standing::In;
        if was_in && record.times > 0 && !ejection.base.is_zero() {
            let good = now.saturating_sub(record.returned).as_nanos() / ejection.base.as_nanos();
            record.times = record
                .times
                .saturating_sub(good.try_into().unwrap_or(u32::MAX));
        }
        record.times = record.times.saturating_add(1);
        let lasts = ejection.base.saturating_mul(record.times).min(ejection.max);
        record.until = now.saturating_add(lasts);
        shared.streak.store(0, Ordering::Relaxed);
        shared.set_standing(Standing::Out);
        Some(Change::Ejected { lasts })
    }

    /// Marks a node as down or up, as the result of an active check. A node that is up again begins a slow start.
    pub fn set_down(&self, nodes: &Nodes, id: NodeId, down: bool, now: Duration) {
        let Some(node) = nodes.get(id) else {
            return;
        };
        if node.is_down() && !down {
            node.shared().begin_ramp(now, self.slow_start);
        }
        nodes.set_down(id, down);
    }

    /// Begins a slow start for new nodes: those that [`Nodes::updated`] added. Do not call it for the first list, of
    /// which all nodes are new.
    pub fn added(&self, nodes: &Nodes, added: &[NodeId], now: Duration) {
        for node in added.iter().filter_map(|id| nodes.get(*id)) {
            node.shared().begin_ramp(now, self.slow_start);
        }
    }

    /// Lets ejected nodes return whose time is over, and continues slow starts. Returns the time of the next call, or
    /// `None` if nothing is to be done before the next report.
    pub fn tick(&self, nodes: &Nodes, now: Duration) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut at = |time: Duration| next = Some(next.map_or(time, |next| next.min(time)));
        let mut records = self.records.lock();
        for node in nodes.iter() {
            let shared = node.shared();
            if shared.standing() == Standing::Out {
                let until = records.get(&node.id()).map_or(now, |record| record.until);
                if until <= now {
                    shared.change(Standing::Out, Standing::Probation);
                } else {
                    at(until);
                }
            }
            if shared.ramp_up(now, self.slow_start) {
                at(now + self.slow_start / RAMP_STEPS);
            }
        }
        if records.len() > nodes.len() {
            records.retain(|id, _| nodes.get(*id).is_some());
        }
        next
    }
}

/// The number of steps of a slow start.
const RAMP_STEPS: u32 = 50;
