use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::actor_table::ActorTable;
use super::stats::{NodeCounters, NodeStats};
use crate::cluster::chance::Chance;
use crate::cluster::codec::Codec;
use crate::cluster::dispatch::Policy;
use crate::cluster::drpc::Secret;
#[cfg(feature = "tls")]
use crate::cluster::link::LinkTls;
use crate::cluster::link::{Identity, LaneOptions};
use crate::cluster::locator::{LocationCache, LocationEvent};
use crate::cluster::packet::PacketOptions;
use crate::cluster::reactors::QueuedBytes;
use crate::cluster::registry::Registered;
use crate::cluster::{Error, Monitor};
use crate::engine::listen::admission::Entrance;
use crate::workers::{SubmitError, WorkerPool};

/// The state that the reactors of a node share.
pub(super) struct Shared {
    pub(super) ours: Identity,
    pub(super) alias: Arc<str>,
    pub(super) options: Options,
    /// The type of the application's state.
    pub(super) state: TypeId,
    pub(super) registered: Arc<Registered>,
    pub(super) locations: LocationCache,
    /// The users that are bound to this node.
    pub(super) users: Mutex<HashSet<i64>>,
    /// Asks the registry and the locator, which may block.
    pub(super) pool: WorkerPool,
    /// Runs the application's jobs, which may block for longer.
    pub(super) job_pool: WorkerPool,
    /// By reactor.
    pub(super) counters: Box<[NodeCounters]>,
    pub(super) queued: QueuedBytes,
    /// The number of links that each server has dialled.
    pub(super) links: Mutex<HashMap<Arc<str>, usize>>,
    /// Counts the links that other servers have dialled, those amid a handshake included.
    pub(super) entrance: Arc<Entrance>,
    /// The reactors that had the connections of links that have ended, by server. Empty with one reactor.
    pub(super) parked: Mutex<HashMap<Arc<str>, FxHashMap<i64, usize>>>,
    pub(super) last_fence: AtomicU64,
    /// Jobs of handlers, until their results have been told.
    pub(super) jobs: AtomicUsize,
    /// A [`DrainStage`].
    pub(super) drain: AtomicU8,
    /// True if changes of the locator were missed: some of the users may be bound elsewhere by now.
    pub(super) is_unsure: AtomicBool,
    /// True once users are no longer bound here.
    pub(super) is_leaving: AtomicBool,
    /// True if the application hands users over.
    pub(super) hands_over: bool,
    pub(super) actors: ActorTable,
}

/// The options that the reactors need.
pub(super) struct Options {
    pub(super) packet: PacketOptions,
    pub(super) codec: Codec,
    #[cfg(feature = "crypto")]
    pub(super) cipher: Option<Arc<dyn crate::cluster::crypto::Cipher>>,
    pub(super) dispatch: Policy,
    pub(super) max_links: usize,
    pub(super) secret: Option<Secret>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<LinkTls>,
    pub(super) lanes: LaneOptions,
    pub(super) monitor: Option<Monitor>,
    pub(super) chance: Chance,
}

/// A stage of the end of a node.
#[derive(Clone, Copy)]
pub(super) enum DrainStage {
    /// Jobs, timers and actors are awaited.
    Waits = 1,
    /// Others take the users.
    HandsOver = 2,
    /// Nothing new is taken.
    Leaves = 3,
}

/// The maximum number of users that a node has bound to itself.
const MAX_USERS: usize = 1_000_000;

impl Shared {
    /// Returns the metrics.
    pub(super) fn stats(&self) -> NodeStats {
        let mut stats = NodeStats::default();
        for counters in &self.counters {
            stats += counters.read();
        }
        stats.links_refused += self.entrance.refused();
        stats.messages_refused += self.actors.refused();
        stats.drain_stage = self.drain.load(Ordering::Relaxed).into();
        stats
    }

    /// Notes how far the end of the node is.
    pub(super) fn enter(&self, stage: DrainStage) {
        self.drain.store(stage as u8, Ordering::Relaxed);
    }

    /// Queues a job of a handler, behind those of the same key. It is counted until its guard is dropped.
    pub(super) fn submit_job(
        self: &Arc<Self>,
        key: i64,
        job: impl FnOnce(Job) + Send + 'static,
    ) -> Result<(), Error> {
        self.jobs.fetch_add(1, Ordering::AcqRel);
        let guard = Job(self.clone());
        let submitted = self.job_pool.submit_ordered(key as u64, move || job(guard));
        submitted.map_err(refused)
    }

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
        submitted.map_err(refused)
    }

    /// Binds a user to this node. It may block.
    pub(super) fn bind_node(&self, uid: i64) -> Result<(), Error> {
        if self.is_leaving.load(Ordering::Acquire) {
            return Err(Error::Draining);
        }
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

    /// Notes a change of the locator. They come in their order, so that the users are those of the last ones.
    pub(super) fn note(&self, change: &LocationEvent) {
        match change {
            LocationEvent::NodeBound { uid, alias, nid } if **alias == *self.alias => {
                let mut users = self.users.lock();
                if *nid != self.ours.id {
                    users.remove(uid);
                } else if users.len() < MAX_USERS {
                    users.insert(*uid);
                }
            }
            LocationEvent::NodeUnbound { uid, alias, nid }
                if **alias == *self.alias && *nid == self.ours.id =>
            {
                self.users.lock().remove(uid);
            }
            LocationEvent::Interrupted => self.is_unsure.store(true, Ordering::Release),
            _ => {}
        }
    }

    /// Returns the users that are bound to this node, in the order of their numbers.
    pub(super) fn bound_users(&self) -> Vec<i64> {
        let mut users: Vec<i64> = self.users.lock().iter().copied().collect();
        users.sort_unstable();
        users
    }

    /// Unbinds a user from this node. It may block.
    pub(super) fn unbind_node(&self, uid: i64) -> Result<(), Error> {
        (self.locations).unbind_node(uid, &self.alias, &self.ours.id)?;
        self.users.lock().remove(&uid);
        Ok(())
    }
}

/// Asks a backend, which is the application's code. A panic is an error, so that whoever waits for the answer gets one.
pub(super) fn guarded<R>(ask: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        crate::panic::report("epicycle::cluster", "the locator", panic);
        let (backend, problem) = ("locator", "it panicked".to_owned());
        Err(Error::Backend { backend, problem })
    })
}

fn refused(error: SubmitError) -> Error {
    match error {
        SubmitError::QueueFull { .. } => Error::Busy {
            what: "queue of jobs",
        },
        SubmitError::ShutDown => Error::Draining,
    }
}

/// A job of a handler that has not ended.
pub(super) struct Job(Arc<Shared>);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::cluster::node::Node;

    #[test]
    fn a_user_is_bound_again_though_as_many_are_bound_as_may_be() {
        let node = Node::builder().id("node-1").start().expect("starts");
        let shared = &node.shared;
        shared.users.lock().extend(1..=MAX_USERS as i64);
        let (known, stranger) = (7, MAX_USERS as i64 + 1);
        assert!(matches!(
            shared.bind_node(stranger),
            Err(Error::Busy { .. })
        ));
        shared.bind_node(known).expect("has its place");
        let bound = |uid, nid: &str| LocationEvent::NodeBound {
            uid,
            alias: shared.alias.to_string(),
            nid: nid.to_owned(),
        };
        shared.note(&bound(known, "node-1"));
        shared.note(&bound(stranger, "node-1"));
        assert!(shared.users.lock().contains(&known));
        assert_eq!(shared.users.lock().len(), MAX_USERS);
        // Not the one whose bind the watch tells, too.
        shared.note(&bound(8, "node-2"));
        shared.bind_node(stranger).expect("one has left");
        assert_eq!(shared.users.lock().len(), MAX_USERS);
    }
}
