//! A pool of threads for work that blocks: files, databases, password hashes, whatever a reactor must not wait for.
//! Its queue is bounded: when full, [`submit`](WorkerPool::submit) says so at once, and the caller decides what to shed.
//!
//! ```
//! use epicycle::WorkerPool;
//! use std::{sync::mpsc, time::Duration};
//!
//! let pool = WorkerPool::builder().threads(2).queue(100).build()?;
//! let (answer, answers) = mpsc::channel();
//! pool.submit(move || {
//!     let _ = answer.send(std::fs::read_to_string("Cargo.toml"));
//! })?;
//! assert!(answers.recv()??.contains("epicycle"));
//! assert!(pool.shutdown(Duration::from_secs(1)).finished);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A handler keeps a clone of the pool, which its factory captured. In `react` it takes
//! [`conn.defer_answer()`](crate::Conn::defer_answer), copies what the job needs out of the frame, and submits a closure that owns both;
//! the closure does the work and answers through `answer.send(..)` or `answer.run(..)`. The reactor goes on with other
//! connections meanwhile, and an answer for a connection that has closed since goes nowhere. A job that panics, or is
//! [`Rejected`], drops its answer, and the client is told that it failed.
//!
//! Jobs may overtake each other. Where a connection's must not, submit them with
//! [`submit_ordered`](WorkerPool::submit_ordered) and a key of the connection's own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, error_messages};
use crate::panic;

/// Threads that run submitted jobs. Clones share the threads and the queue.
///
/// When the last clone is dropped, the queued jobs still run and the threads then end by themselves. The drop does not
/// wait for that; [`shutdown`](WorkerPool::shutdown) does.
#[derive(Clone)]
pub struct WorkerPool(Arc<Owner>);

impl WorkerPool {
    /// The options of a pool, at their defaults.
    pub fn builder() -> PoolBuilder {
        PoolBuilder {
            threads: thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            queue: 1024,
            name: "epicycle-job".to_owned(),
        }
    }

    /// Queues a job, to be run once on some worker. Never blocks.
    ///
    /// A job that panics is logged and counted; the worker goes on. A rejected job is dropped, with all it captured.
    ///
    /// # Errors
    ///
    /// [`Rejected::QueueFull`] when as many jobs wait as may, [`Rejected::ShutDown`] once the pool has been shut down.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Rejected> {
        self.0.shared.enqueue(None, Box::new(job))
    }

    /// Queues a job behind all unfinished jobs of the same key. Never blocks.
    ///
    /// Jobs of one key run one at a time, in the order submitted, on whichever worker is free; different keys run in
    /// parallel. A key rejoins the back of the queue after each job, so a key with many jobs holds up nobody else.
    /// A key needs no registration, and its memory is given back when its last job ends.
    ///
    /// # Errors
    ///
    /// As for [`submit`](WorkerPool::submit); the jobs of all keys count against the one bound.
    pub fn submit_ordered(
        &self,
        key: u64,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), Rejected> {
        self.0.shared.enqueue(Some(key), Box::new(job))
    }

    /// Ends the pool: takes no more jobs, runs the queued ones, and waits until all threads are done, or the deadline.
    ///
    /// Jobs still queued when `deadline` has passed are dropped unrun. Those running cannot be stopped: their threads
    /// end after them. Of several calls the earliest deadline counts, and a call after the end reports the same again.
    ///
    /// Called from one of the pool's own jobs it does not wait, for it would wait for itself: it closes the pool and
    /// returns, the queued jobs run after it, and those left at the deadline are dropped all the same.
    pub fn shutdown(&self, deadline: Duration) -> Drained {
        let expires = Instant::now().checked_add(deadline);
        let from_worker = self.0.workers.contains(&thread::current().id());
        let mut state = self.0.shared.close(expires);
        while state.ended < state.stats.threads && !from_worker && !has_passed(expires) {
            if let Some(expires) = expires {
                self.0.shared.ended.wait_until(&mut state, expires);
            } else {
                self.0.shared.ended.wait(&mut state);
            }
        }
        let dropped = state.take_expired();
        let drained = Drained {
            finished: state.stats.queued + state.stats.running + state.abandoned == 0,
            abandoned: state.abandoned,
        };
        drop(state);
        discard(dropped);
        drained
    }

    /// What the pool is doing now, and has done so far.
    pub fn stats(&self) -> PoolStats {
        let state = self.0.shared.state.lock();
        PoolStats {
            keys: state.waiting.len(),
            ..state.stats
        }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkerPool").field(&self.stats()).finish()
    }
}

/// The options of a [`WorkerPool`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build is called"]
pub struct PoolBuilder {
    threads: usize,
    queue: usize,
    name: String,
}

impl PoolBuilder {
    /// How many threads run jobs. The default is one for each core the process may use, and at least 2.
    /// Each reserves 2 MiB of address space for its stack, of which it takes as many pages as its jobs touch.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many jobs may wait, those of all keys counted; running ones are not. The default is 1024.
    /// A waiting job takes 32 bytes and what it captured, a key some 100 bytes more while it has jobs.
    pub fn queue(mut self, capacity: usize) -> Self {
        self.queue = capacity;
        self
    }

    /// What the threads are called: this and a number from 0, as in `epicycle-job-0`. Linux shows 15 bytes of it.
    pub fn name(mut self, prefix: impl Into<String>) -> Self {
        self.name = prefix.into();
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for zero threads, a queue of zero or a name with a NUL byte in it, and [`Error::Setup`] when
    /// the system gives no more threads; those started already end again.
    pub fn build(self) -> Result<WorkerPool, Error> {
        let bad = |name, problem: &str| {
            let problem = problem.to_owned();
            Err(Error::Option { name, problem })
        };
        if self.threads == 0 {
            return bad("threads", "0 threads run no jobs; use at least 1");
        }
        if self.queue == 0 {
            return bad("queue", "a queue of 0 rejects every job; use at least 1");
        }
        if self.name.contains('\0') {
            return bad("name", "a thread's name has no NUL bytes; leave them out");
        }
        let shared = Arc::<Shared>::default();
        shared.state.lock().capacity = self.queue;
        shared.state.lock().stats.threads = self.threads;
        let workers = Vec::new();
        let mut owner = Owner { shared, workers };
        for number in 0..self.threads {
            let what = "a worker thread";
            let shared = Arc::clone(&owner.shared);
            let worker = thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || shared.work())
                .map_err(|source| Error::Setup { what, source })?;
            owner.workers.push(worker.thread().id());
        }
        Ok(WorkerPool(Arc::new(owner)))
    }
}

/// Why a job was not accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// As many jobs are waiting as may.
    QueueFull {
        /// How many may wait.
        capacity: usize,
    },
    /// The pool has been shut down.
    ShutDown,
}

error_messages! {
    Rejected {
        Rejected::QueueFull { capacity } =>
            "the worker pool is full with {capacity} jobs waiting; retry later or use a larger queue",
        Rejected::ShutDown => "the worker pool is shut down; submit jobs before that",
    }
}

/// How a [`shutdown`](WorkerPool::shutdown) went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Whether every accepted job was run and has ended. Otherwise some were abandoned or are still running.
    pub finished: bool,
    /// How many jobs have been dropped unrun because the deadline passed.
    pub abandoned: usize,
}

/// What a [`WorkerPool`] is doing and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Threads the pool was built with.
    pub threads: usize,
    /// Jobs waiting now.
    pub queued: usize,
    /// Keys that have jobs waiting or running now.
    pub keys: usize,
    /// Jobs running now.
    pub running: usize,
    /// Jobs that ended without a panic, so far.
    pub completed: u64,
    /// Jobs that panicked, so far.
    pub panicked: u64,
    /// Jobs not accepted, so far.
    pub rejected: u64,
}

/// What the clones of a pool share, and the workers don't: its drop is the drop of the last clone.
struct Owner {
    shared: Arc<Shared>,
    workers: Vec<ThreadId>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.shared.close(None));
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when there is a job, or the pool closes.
    work: Condvar,
    /// Signalled when a worker has ended.
    ended: Condvar,
}

impl Shared {
    fn enqueue(&self, key: Option<u64>, job: Job) -> Result<(), Rejected> {
        let mut state = self.state.lock();
        let capacity = state.capacity;
        if state.closed || state.stats.queued >= capacity {
            state.stats.rejected += 1;
            return Err(if state.closed {
                Rejected::ShutDown
            } else {
                Rejected::QueueFull { capacity }
            });
        }
        state.stats.queued += 1;
        if let Some(waiting) = key.and_then(|key| state.waiting.get_mut(&key)) {
            waiting.push_back(job);
            return Ok(());
        }
        state.waiting.extend(key.map(|key| (key, VecDeque::new())));
        state.ready.push_back((key, job));
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn close(&self, expires: Option<Instant>) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.closed = true;
        state.expires = state.expires.into_iter().chain(expires).min();
        self.work.notify_all();
        state
    }

    /// The life of a worker. The lock is never held while code of the application runs, drops included.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let dropped = state.take_expired();
            if !dropped.is_empty() {
                MutexGuard::unlocked(&mut state, || discard(dropped));
            }
            if let Some((key, job)) = state.ready.pop_front() {
                state.stats.queued -= 1;
                state.stats.running += 1;
                let panicked = MutexGuard::unlocked(&mut state, || catch("a job", job));
                state.finish(key, panicked);
            } else if state.closed {
                break;
            } else {
                self.work.wait(&mut state);
            }
        }
        state.ended += 1;
        self.ended.notify_all();
    }
}

#[derive(Default)]
struct State {
    /// The jobs to run as soon as workers are free, with their keys.
    ready: VecDeque<(Option<u64>, Job)>,
    /// For each key with a job ready or running, the jobs that have to wait for it.
    waiting: HashMap<u64, VecDeque<Job>>,
    capacity: usize,
    ended: usize,
    closed: bool,
    expires: Option<Instant>,
    abandoned: usize,
    stats: PoolStats,
}

impl State {
    /// Books a job that has ended and makes the next of its key ready, for the caller to pop or somebody else.
    fn finish(&mut self, key: Option<u64>, panicked: bool) {
        self.stats.running -= 1;
        self.stats.panicked += u64::from(panicked);
        self.stats.completed += u64::from(!panicked);
        let Some(id) = key else { return };
        match self.waiting.get_mut(&id).and_then(VecDeque::pop_front) {
            Some(job) => self.ready.push_back((key, job)),
            None => drop(self.waiting.remove(&id)),
        }
    }

    /// Takes the queued jobs out and counts them abandoned, if the deadline has passed.
    fn take_expired(&mut self) -> Vec<Job> {
        if self.stats.queued == 0 || !has_passed(self.expires) {
            return Vec::new();
        }
        let ready = mem::take(&mut self.ready).into_iter().map(|(_, job)| job);
        let waiting = mem::take(&mut self.waiting).into_values().flatten();
        let jobs: Vec<Job> = ready.chain(waiting).collect();
        self.stats.queued = 0;
        self.abandoned += jobs.len();
        jobs
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

fn discard(jobs: Vec<Job>) {
    for job in jobs {
        catch("the drop of an abandoned job", || drop(job));
    }
}

/// Calls `code` and logs its panic; whether it panicked.
fn catch(what: &str, code: impl FnOnce()) -> bool {
    panic::catch("epicycle::workers", what, code)
}
