use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::stats::NodeCounters;
use crate::cluster::Error;
use crate::cluster::codec::Codec;
use crate::cluster::dispatch::Policy;
use crate::cluster::drpc::Secret;
use crate::cluster::link::{Identity, LaneOptions};
use crate::cluster::locator::LocationCache;
use crate::cluster::packet::PacketOptions;
use crate::cluster::registry::Registered;
use crate::workers::{SubmitError, WorkerPool};

/// The state that the reactors of a node share.
pub(super) struct Shared {
    pub(super) ours: Identity,
    pub(super) alias: Arc<str>,
    pub(super) options: Options,
    /// The type of the application's state.
    pub(super) state: TypeId,
    pub(super) registered: Registered,
    pub(super) locations: LocationCache,
    /// The users that this node has bound to itself.
    pub(super) users: Mutex<HashSet<i64>>,
    /// Asks the registry and the locator, and runs the application's jobs, which may block.
    pub(super) pool: WorkerPool,
    /// By reactor.
    pub(super) counters: Box<[NodeCounters]>,
    /// The bytes that wait for each reactor.
    pub(super) queued: Box<[AtomicUsize]>,
    /// The number of links that each server has dialled.
    pub(super) links: Mutex<HashMap<Arc<str>, usize>>,
    pub(super) last_fence: AtomicU64,
}

/// The options that the reactors need.
pub(super) struct Options {
    pub(super) packet: PacketOptions,
    pub(super) codec: Codec,
    pub(super) dispatch: Policy,
    pub(super) max_links: usize,
    pub(super) secret: Option<Secret>,
    pub(super) lanes: LaneOptions,
}

/// The maximum number of bytes that wait for one reactor.
const MAX_QUEUED: usize = 64 << 20;

/// The maximum number of users that a node has bound to itself.
const MAX_USERS: usize = 1_000_000;

impl Shared {
    /// Queues a job, behind those of the same key.
    pub(super) fn submit(
        &self,
        key: Option<i64>,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let submitted = match key {
            None => self.pool.submit(job),
            Some(key) => self.pool.submit_ordered(key as u64, job),
        };
        submitted.map_err(|error| match error {
            SubmitError::QueueFull { .. } => Error::Busy {
                what: "queue of jobs",
            },
            SubmitError::ShutDown => Error::Draining,
        })
    }

    /// Counts what is about to wait for a reactor, unless too many bytes wait already.
    pub(super) fn enqueue(&self, reactor: usize, weight: usize) -> bool {
        let queued = &self.queued[reactor];
        if queued.load(Ordering::Relaxed) > MAX_QUEUED {
            return false;
        }
        queued.fetch_add(weight, Ordering::Relaxed);
        true
    }

    pub(super) fn enqueue_anyway(&self, reactor: usize, weight: usize) {
        self.queued[reactor].fetch_add(weight, Ordering::Relaxed);
    }

    pub(super) fn dequeue(&self, reactor: usize, weight: usize) {
        self.queued[reactor].fetch_sub(weight, Ordering::Relaxed);
    }

    /// Binds a user to this node. It may block.
    pub(super) fn bind_node(&self, uid: i64) -> Result<(), Error> {
        let has_room = {
            let users = self.users.lock();
            users.len() < MAX_USERS || users.contains(&uid)
        };
        if !has_room {
            let what = "table of users that are bound to this node";
            return Err(Error::Busy { what });
        }
        (self.locations).bind_node(uid, &self.alias, &self.ours.id)?;
        self.users.lock().insert(uid);
        Ok(())
    }

    /// Unbinds a user from this node. It may block.
    pub(super) fn unbind_node(&self, uid: i64) -> Result<(), Error> {
        (self.locations).unbind_node(uid, &self.alias, &self.ours.id)?;
        self.users.lock().remove(&uid);
        Ok(())
    }
}
