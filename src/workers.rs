//! A pool of threads for work that blocks, such as files, databases and password hashes. A reactor must not block.
//! The queue is bounded. If it is full, [`submit`](WorkerPool::submit) fails at once, and the caller decides which work to
//! shed.
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
//! The handler's factory captures the pool, and each handler keeps a clone. `react` calls
//! [`conn.defer_answer()`](crate::Conn::defer_answer), copies the job's input out of the frame, and submits a closure that
//! owns both. The closure does the work and answers with `answer.send(..)` or `answer.run(..)`. Meanwhile the reactor
//! serves other connections. If the connection has closed by then, the answer is dropped. A job that panics, or is
//! [`SubmitError`], drops its answer, and the client receives a failure.
//!
//! Jobs may overtake each other. If the jobs of one connection must run in order, submit them with
//! [`submit_ordered`](WorkerPool::submit_ordered) and one key for each connection.

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
/// After the last clone is dropped, the threads run the queued jobs and then end. The drop does not wait for them;
/// [`shutdown`](WorkerPool::shutdown) does.
#[derive(Clone)]
#[must_use = "its threads end when the last clone is dropped"]
pub struct WorkerPool(Arc<Owner>);

impl WorkerPool {
    /// Returns the options of a pool, at their defaults.
    pub fn builder() -> PoolBuilder {
        PoolBuilder {
            threads: thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            queue: 1024,
            name: "epicycle-job".to_owned(),
        }
    }

    /// Queues a job, to run once on one of the threads. Never blocks.
    ///
    /// A panic of a job is logged and counted, and its thread continues. A rejected job is dropped, with its captures.
    ///
    /// # Errors
    ///
    /// [`SubmitError::QueueFull`] if the queue is full, [`SubmitError::ShutDown`] after a shutdown.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), SubmitError> {
        self.0.shared.enqueue(None, Box::new(job))
    }

    /// Queues a job behind all unfinished jobs of the same key. Never blocks.
    ///
    /// Jobs of one key run one at a time, in the order of their submission, on any free thread. Different keys run in
    /// parallel. After each job its key rejoins the back of the queue, so a key with many jobs does not delay others.
    /// A key needs no registration. Its memory is freed when its last job ends.
    ///
    /// # Errors
    ///
    /// As for [`submit`](WorkerPool::submit). The jobs of all keys share the one queue and its bound.
    pub fn submit_ordered(
        &self,
        key: u64,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), SubmitError> {
        self.0.shared.enqueue(Some(key), Box::new(job))
    }

    /// Shuts the pool down: rejects new jobs, runs the queued ones, and waits until all threads have ended or the deadline
    /// has passed.
    ///
    /// Jobs still queued at the deadline are dropped without running. Running jobs cannot be stopped; their threads end
    /// after them. If it is called several times, the earliest deadline counts, and a call after the end returns the same
    /// report again.
    ///
    /// A call from one of the pool's own jobs does not wait, because it would wait for itself. It closes the pool and
    /// returns. The queued jobs run afterwards, and those left at the deadline are dropped.
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

    /// Returns the pool's counters.
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
    /// Sets the number of threads. The default is one for each core that the process may use, and at least 2.
    /// Each reserves 2 MiB of address space for its stack, and takes as many pages of it as its jobs touch.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the number of jobs that may wait, of all keys together. Running jobs do not count. The default is 1024.
    /// A waiting job takes 32 bytes and its captures. A key takes some 100 bytes more while it has jobs.
    pub fn queue(mut self, capacity: usize) -> Self {
        self.queue = capacity;
        self
    }

    /// Sets the prefix of the threads' names. A number from 0 follows it, as in `epicycle-job-0`. Linux shows 15 bytes of
    /// a name.
    pub fn name(mut self, prefix: impl Into<String>) -> Self {
        self.name = prefix.into();
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for zero threads, a queue of zero or a name that contains a NUL byte. [`Error::Setup`] if the
    /// system refuses to start a thread; the threads that were started end again.
    pub fn build(self) -> Result<WorkerPool, Error> {
        let mut owner = self.prepare()?;
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

    /// Makes a pool without threads, for a simulation that runs the jobs.
    #[cfg(feature = "testing")]
    pub(crate) fn simulate(self) -> Result<(WorkerPool, SimulatedWorkers), Error> {
        let owner = self.prepare()?;
        // A shutdown does not wait for threads.
        owner.shared.state.lock().ended = self.threads;
        let workers = SimulatedWorkers(Arc::clone(&owner.shared));
        Ok((WorkerPool(Arc::new(owner)), workers))
    }

    /// Checks the options. Returns a pool whose threads are not started.
    fn prepare(&self) -> Result<Owner, Error> {
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
        Ok(Owner { shared, workers })
    }
}

/// The reason why a job was not accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full.
    QueueFull {
        /// The number of jobs that may wait.
        capacity: usize,
    },
    /// The pool has been shut down.
    ShutDown,
}

error_messages! {
    SubmitError {
        SubmitError::QueueFull { capacity } =>
            "the worker pool is full with {capacity} jobs waiting; retry later or use a larger queue",
        SubmitError::ShutDown => "the worker pool is shut down; submit jobs before that",
    }
}

/// The result of a [`shutdown`](WorkerPool::shutdown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// True if every accepted job has run and ended. False if some were abandoned or are still running.
    pub finished: bool,
    /// The number of jobs dropped without running because the deadline passed.
    pub abandoned: usize,
}

/// The counters of a [`WorkerPool`].
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

/// Shared by the clones of a pool, but not by its threads, so it is dropped with the last clone.
struct Owner {
    shared: Arc<Shared>,
    workers: Vec<ThreadId>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.shared.close(None));
    }
}

/// The threads of a pool in a simulation, which runs the jobs itself.
#[cfg(feature = "testing")]
pub(crate) struct SimulatedWorkers(Arc<Shared>);

/// A job that a simulated thread has taken from the queue.
#[cfg(feature = "testing")]
pub(crate) struct TakenJob {
    key: Option<u64>,
    job: Job,
}

#[cfg(feature = "testing")]
impl SimulatedWorkers {
    /// Takes the next job, if a thread would be free for it.
    pub(crate) fn take(&self) -> Option<TakenJob> {
        let mut state = self.0.state.lock();
        if state.stats.running >= state.stats.threads {
            return None;
        }
        state.take_next().map(|(key, job)| TakenJob { key, job })
    }

    /// Runs a job that was taken.
    pub(crate) fn run(&self, TakenJob { key, job }: TakenJob) {
        let panicked = catch("a job", job);
        self.0.state.lock().finish(key, panicked);
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a job is ready or the pool closes.
    work: Condvar,
    /// Signalled when a thread ends.
    ended: Condvar,
}

impl Shared {
    fn enqueue(&self, key: Option<u64>, job: Job) -> Result<(), SubmitError> {
        let mut state = self.state.lock();
        let capacity = state.capacity;
        if state.closed || state.stats.queued >= capacity {
            state.stats.rejected += 1;
            return Err(if state.closed {
                SubmitError::ShutDown
            } else {
                SubmitError::QueueFull { capacity }
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

    /// The loop of a worker thread. It never holds the lock while code of the application runs, including drops.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let dropped = state.take_expired();
            if !dropped.is_empty() {
                MutexGuard::unlocked(&mut state, || discard(dropped));
            }
            if let Some((key, job)) = state.take_next() {
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
    /// The jobs that the next free threads run, with their keys.
    ready: VecDeque<(Option<u64>, Job)>,
    /// The jobs that wait for an earlier one of their key. A key is here while it has a job ready or running.
    waiting: HashMap<u64, VecDeque<Job>>,
    capacity: usize,
    ended: usize,
    closed: bool,
    expires: Option<Instant>,
    abandoned: usize,
    stats: PoolStats,
}

impl State {
    /// Takes the next job to run, with its key.
    fn take_next(&mut self) -> Option<(Option<u64>, Job)> {
        let next = self.ready.pop_front()?;
        self.stats.queued -= 1;
        self.stats.running += 1;
        Some(next)
    }

    /// Counts a job that has ended, and makes the next job of its key ready.
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

    /// If the deadline has passed, takes all queued jobs out and counts them as abandoned.
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

/// Calls `code` and logs its panic. Returns true if it panicked.
fn catch(what: &str, code: impl FnOnce()) -> bool {
    panic::catch("epicycle::workers", what, code)
}
