use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, RangeInclusive};
use std::time::{Duration, Instant};

use super::builder::{POOL_QUEUE, Pools, Prepared};
use super::drain::Drain;
use super::handler::NodeReactor;
use super::{ACTORS, Node, NodeBuilder, REGISTERING};
use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::follower::Followers;
use crate::engine::server::{Report, Server};
use crate::metrics::ReactorStats;
use crate::testing::{Host, World};
use crate::workers::WorkerPool;

/// A node in a [simulated network](crate::testing): see [`NodeBuilder::simulate`]. A drop takes it from the registry, as the end of
/// its lease would. Its host runs on, unless it was [killed](Self::kill).
pub struct SimulatedNode<T: 'static = ()> {
    node: Node,
    host: Host<NodeReactor<T>>,
    followers: Followers,
    drain: Option<Drain>,
    /// The real time at which the world's time would have begun.
    began: Instant,
}

/// # Simulation
impl<T: 'static> NodeBuilder<T> {
    /// Starts the node on a new host of a [simulated network](crate::testing). Registry and locator should be in memory. Each
    /// question to them, and each job of [`spawn_blocking`](super::Request::spawn_blocking), takes a time from the range `takes`,
    /// on one of four threads.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and those of [`World::start`].
    pub fn simulate(
        self,
        world: &mut World,
        address: impl Into<IpAddr>,
        takes: RangeInclusive<Duration>,
    ) -> Result<SimulatedNode<T>, Error> {
        self.simulate_at(world, takes, |world, server, prepared| {
            world.start(address, server, prepared.factory())
        })
    }

    fn simulate_at(
        mut self,
        world: &mut World,
        takes: RangeInclusive<Duration>,
        start: impl FnOnce(
            &mut World,
            Server,
            &Prepared<T>,
        ) -> Result<Host<NodeReactor<T>>, crate::error::Error>,
    ) -> Result<SimulatedNode<T>, Error> {
        self.options.chance = Chance::seeded();
        let mut pool = || {
            let builder = WorkerPool::builder().threads(4).queue(POOL_QUEUE);
            world.worker_pool(builder, takes.clone())
        };
        let pools = Pools {
            asking: pool()?,
            jobs: pool()?,
        };
        let followers = Followers::by_hand();
        let (server, prepared) = self.prepare(followers.clone(), pools)?;
        let host = start(world, server, &prepared)?;
        let node = prepared.begin(world.engine(host), None)?;
        let now = Instant::now();
        Ok(SimulatedNode {
            node,
            host,
            followers,
            drain: None,
            began: now.checked_sub(world.now()).unwrap_or(now),
        })
    }
}

impl<T: 'static> SimulatedNode<T> {
    /// Notices what the registry and the locator have changed since the last call. The node does not notice it otherwise.
    pub fn catch_up(&self) {
        self.followers.catch_up();
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

    /// Starts a node again on the host of this one, which was [killed](Self::kill). `builder` is that of a new process, which has
    /// forgotten all; the other arguments are those of [`NodeBuilder::simulate`].
    ///
    /// # Errors
    ///
    /// As for [`NodeBuilder::simulate`].
    ///
    /// # Panics
    ///
    /// If it still runs.
    pub fn restart(
        self,
        builder: NodeBuilder<T>,
        world: &mut World,
        takes: RangeInclusive<Duration>,
    ) -> Result<Self, Error> {
        let Self { node, host, .. } = self;
        // Its record would take that of the new one away.
        drop(node);
        builder.simulate_at(world, takes, |world, server, prepared| {
            world.restart(host, server, prepared.factory())?;
            Ok(host)
        })
    }

    /// Begins or continues what [`Node::drain`] does before the node ends, as far as it can at this moment of the world. Returns
    /// true when that is over, and the node can be [finished](Self::finish). Call it every few milliseconds.
    pub fn drain(&mut self, world: &World, deadline: Duration) -> bool {
        let now = self.began + world.now();
        let node = &mut self.node;
        let drain = self.drain.get_or_insert_with(|| {
            node.announce_drain();
            Drain::begin(now.checked_add(deadline), now)
        });
        drain.advance(&self.node, now)
    }

    /// Ends it, as [`Node::shutdown`] does, and returns the report of [`World::finish`].
    ///
    /// # Panics
    ///
    /// As [`World::finish`].
    pub fn finish(mut self, world: &mut World) -> Report {
        self.node.close();
        let shared = self.node.shared.clone();
        shared.registered.deregister();
        self.node.home().stop_all();
        world.run_until(ACTORS, |_| shared.actors.is_empty());
        if let Some(reactors) = self.node.posting.reactors() {
            let mut calls = reactors.say_bye();
            world.run_until(REGISTERING, |_| calls.poll().1);
        }
        let report = world.finish(self.host);
        world.run_until(REGISTERING, |_| {
            [&shared.pool, &shared.job_pool].iter().all(|pool| {
                let stats = pool.stats();
                stats.queued + stats.running == 0
            })
        });
        report
    }
}

impl<T: 'static> Deref for SimulatedNode<T> {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl<T: 'static> fmt::Debug for SimulatedNode<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.node, f)
    }
}
