use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::nodes::{Shared, Standing};
use super::{NodeId, Nodes, Outcome};

/// Takes nodes out that fail, and lets them back: passive health. One value serves all threads of a pool.
///
/// A node that fails several times in a row is *ejected*: out for a while, longer each time. Then it shows with one
/// request whether it is back. If that succeeds, it is in again, with a small share of its weight that grows. At
/// most a part of the nodes is out at a time, so that a fault of all of them, or of the network, takes out no more than
/// that.
///
/// A report of a success costs an atomic load, unless the node has failed before; the lock is taken where something
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
/// // When its time has come, it takes a request.
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

/// When nodes are taken out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    failures: u32,
    base: Duration,
    max: Duration,
    max_percent: u8,
}

/// What has changed with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is out.
    Ejected {
        /// For how long, until it may show that it is back.
        lasts: Duration,
    },
    /// It is in again.
    Returned,
}

/// What is remembered of a node that was out.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// How often it was out, less what it has made good.
    times: u32,
    /// Until when it is out, if it is.
    until: Duration,
    /// When it came back.
    returned: Duration,
}

impl Default for Ejection {
    /// Five failures in a row, 30 s times how often already, 5 min at most, half of the nodes.
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
    /// Sets how many failures in a row take a node out; 0 never does. Default: 5.
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets how long a node is out the first time. The next time it is twice as long, then three times, and so on; each
    /// such stretch without being taken out makes one of them good. Default: 30 s.
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets how long a node is out at the most. Default: 5 min.
    pub fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// Sets how many of the nodes may be out at a time, in per cent, rounded down. Default: 50.
    pub fn max_percent(mut self, percent: u8) -> Self {
        self.max_percent = percent;
        self
    }
}

impl Health {
    /// With these rules, and without a slow start.
    pub fn new(ejection: Ejection) -> Self {
        Self {
            ejection,
            ..Self::default()
        }
    }

    /// Sets over how long a node that is new, or was out or down, comes to its whole weight, beginning with a tenth.
    /// Default: 0, at once.
    pub fn slow_start(mut self, over: Duration) -> Self {
        self.slow_start = over;
        self
    }

    /// Notes what became of a request to a node, and returns whether that has changed something.
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
        // A request from before it was taken out shows nothing.
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
            // Another thread was quicker.
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

    /// Says that a node is down, or up again, as whoever checks it has found. One that is up again starts slowly.
    pub fn set_down(&self, nodes: &Nodes, id: NodeId, down: bool, now: Duration) {
        let Some(node) = nodes.get(id) else {
            return;
        };
        if node.is_down() && !down {
            node.shared().begin_ramp(now, self.slow_start);
        }
        nodes.set_down(id, down);
    }

    /// Has new nodes start slowly: what [`Nodes::updated`] has added. Not for the first list, all of which would.
    pub fn added(&self, nodes: &Nodes, added: &[NodeId], now: Duration) {
        for node in added.iter().filter_map(|id| nodes.get(*id)) {
            node.shared().begin_ramp(now, self.slow_start);
        }
    }

    /// Lets nodes back whose time has come, and those that come back slowly a bit further. Says when there is more to do;
    /// none if there is nothing until something is reported.
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

/// In how many steps a node comes back.
const RAMP_STEPS: u32 = 50;
