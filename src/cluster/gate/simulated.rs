use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, RangeInclusive};
use std::time::Duration;

use super::handler::GateReactor;
use super::shared::POOL_QUEUE;
use super::{FORGETTING, Gate, GateBuilder};
use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::follower::Followers;
use crate::engine::server::Report;
use crate::metrics::ReactorStats;
use crate::testing::{Host, World};
use crate::workers::WorkerPool;

/// A gate in a [simulated network](crate::testing): see [`GateBuilder::simulate`]. A drop takes it from the registry, as the end of
/// its lease would. Its host runs on, unless it was [killed](Self::kill).
pub struct SimulatedGate {
    gate: Gate,
    host: Host<GateReactor>,
}

/// # Simulation
impl GateBuilder {
    /// Starts the gate on a new host of a [simulated network](crate::testing). Registry and locator should be in memory. Each
    /// question to them takes a time from the range `takes`, on one of four threads.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and those of [`World::start`].
    pub fn simulate(
        mut self,
        world: &mut World,
        address: impl Into<IpAddr>,
        takes: RangeInclusive<Duration>,
    ) -> Result<SimulatedGate, Error> {
        let builder = WorkerPool::builder().threads(4).queue(POOL_QUEUE);
        let pool = world.worker_pool(builder, takes)?;
        self.options.chance = Chance::seeded();
        let began = BEGAN + world.now().as_micros() as u64;
        let (server, prepared) = self.prepare(Followers::by_hand(), pool, began)?;
        let host = world.start(address, server, prepared.factory())?;
        let gate = prepared.begin(world.engine(host), None)?;
        Ok(SimulatedGate { gate, host })
    }
}

impl SimulatedGate {
    /// Notices what the registry and the locator have changed since the last call. The gate does not notice it otherwise.
    pub fn catch_up(&self) {
        self.gate.followers.catch_up();
    }

    /// Returns the counters of its engine.
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn engine_stats(&self, world: &World) -> ReactorStats {
        world.stats(self.host)
    }

    /// Kills its host, as [`World::kill`] does. It stays registered until it is dropped.
    pub fn kill(&self, world: &mut World) {
        world.kill(self.host);
    }

    /// Takes it from the registry, shuts it down, as [`World::finish`] does, and has its users forgotten by the locator.
    ///
    /// # Panics
    ///
    /// As [`World::finish`].
    pub fn finish(self, world: &mut World) -> Report {
        self.gate.shared.registered.deregister();
        let report = world.finish(self.host);
        let pool = &self.gate.shared.pool;
        world.run_until(FORGETTING, |_| {
            let stats = pool.stats();
            stats.queued + stats.running == 0
        });
        report
    }
}

/// A moment of 2023, in microseconds since 1970, at which every simulated world begins. It is in the numbers of connections.
const BEGAN: u64 = 1_700_000_000_000_000;

impl Deref for SimulatedGate {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.gate
    }
}

impl fmt::Debug for SimulatedGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.gate, f)
    }
}
