//! The worker pool: bounds, order, panics and shutdown.

use std::cell::RefCell;
use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError::Disconnected, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use epicycle::workers::{PoolStats, SubmitError};
use epicycle::{Error, WorkerPool};

/// Far longer than anything here takes: reaching it is a failure, not a delay.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_full_queue_rejects_and_says_so() {
    let pool = pool(1, 2);
    let gate = Gate::occupying(&pool, 1);
    pool.submit(|| {}).unwrap();
    pool.submit(|| {}).unwrap();
    let rejected = pool.submit(|| {}).unwrap_err();
    assert_eq!(rejected, SubmitError::QueueFull { capacity: 2 });
    assert!(rejected.to_string().contains("full with 2 jobs waiting"));
    assert_eq!((pool.stats().queued, pool.stats().rejected), (2, 1));

    drop(gate);
    await_stats(&pool, |stats| stats.completed == 3);
    pool.submit(|| {}).unwrap();
}

#[test]
fn ordered_jobs_count_against_the_same_bound() {
    let pool = pool(1, 3);
    let _gate = Gate::occupying(&pool, 1);
    pool.submit_ordered(1, || {}).unwrap();
    pool.submit_ordered(1, || {}).unwrap();
    pool.submit_ordered(2, || {}).unwrap();
    let full = Err(SubmitError::QueueFull { capacity: 3 });
    assert_eq!(pool.submit_ordered(1, || {}), full);
    assert_eq!(pool.submit_ordered(3, || {}), full);
    assert_eq!(pool.submit(|| {}), full);
}

#[test]
fn a_panic_costs_only_its_own_job() {
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("in the drop of a panic's payload");
        }
    }

    let pool = pool(1, 10);
    pool.submit(|| panic!("on purpose")).unwrap();
    pool.submit(|| panic_any(PanicsInDrop)).unwrap();
    let (sent, received) = channel();
    pool.submit(move || sent.send("alive").unwrap()).unwrap();
    assert_eq!(received.recv_timeout(LONG), Ok("alive"));
    let stats = await_stats(&pool, |stats| stats.running == 0);
    assert_eq!((stats.panicked, stats.completed), (2, 1));
}

#[test]
fn an_ordered_key_goes_on_after_a_panic() {
    let pool = pool(2, 10);
    let (sent, received) = channel();
    pool.submit_ordered(7, || panic!("on purpose")).unwrap();
    let next = move || sent.send("next").unwrap();
    pool.submit_ordered(7, next).unwrap();
    assert_eq!(received.recv_timeout(LONG), Ok("next"));
    await_stats(&pool, |stats| stats.keys == 0);
}

#[test]
fn jobs_of_one_key_run_one_at_a_time_in_the_order_submitted() {
    #[derive(Default)]
    struct Seen {
        busy: AtomicBool,
        overlaps: AtomicUsize,
        jobs: Mutex<Vec<usize>>,
    }

    let pool = pool(8, 16 * 300);
    let keys: Vec<Arc<Seen>> = (0..16).map(|_| Arc::default()).collect();
    thread::scope(|scope| {
        for (key, seen) in (0..).zip(&keys) {
            let pool = &pool;
            scope.spawn(move || {
                for job in 0..300 {
                    let seen = Arc::clone(seen);
                    let work = move || {
                        let overlaps = seen.busy.swap(true, SeqCst);
                        seen.overlaps.fetch_add(overlaps.into(), SeqCst);
                        thread::yield_now();
                        seen.jobs.lock().unwrap().push(job);
                        seen.busy.store(false, SeqCst);
                    };
                    pool.submit_ordered(key, work).unwrap();
                }
            });
        }
    });
    assert!(pool.shutdown(LONG).finished);
    for seen in keys {
        assert_eq!(seen.overlaps.load(SeqCst), 0);
        assert!(seen.jobs.lock().unwrap().iter().copied().eq(0..300));
    }
    assert_eq!(pool.stats().keys, 0, "no key's memory is left");
}

#[test]
fn other_keys_overtake_a_slow_one() {
    let pool = pool(2, 100);
    let (opener, gate) = channel::<()>();
    let slow = move || assert!(gate.recv().is_err());
    pool.submit_ordered(1, slow).unwrap();
    for _ in 0..50 {
        pool.submit_ordered(1, || {}).unwrap();
    }
    let (sent, received) = channel();
    for key in 2..12 {
        let sent = sent.clone();
        let quick = move || sent.send(()).unwrap();
        pool.submit_ordered(key, quick).unwrap();
    }
    for _ in 2..12 {
        assert_eq!(received.recv_timeout(LONG), Ok(()));
    }
    let stats = await_stats(&pool, |stats| stats.running == 1);
    assert_eq!((stats.queued, stats.keys), (50, 1));
    drop(opener);
    assert!(pool.shutdown(LONG).finished);
}

#[test]
fn a_key_with_a_thousand_jobs_does_not_hold_a_worker() {
    let pool = pool(1, 2000);
    let gate = Gate::occupying(&pool, 1);
    let (sent, received) = channel();
    for _ in 0..1000 {
        let sent = sent.clone();
        let job = move || sent.send("many").unwrap();
        pool.submit_ordered(1, job).unwrap();
    }
    pool.submit(move || sent.send("one").unwrap()).unwrap();
    drop(gate);
    let order: Vec<_> = received.iter().collect();
    assert_eq!(order.iter().position(|&job| job == "one"), Some(1));
    assert_eq!(order.len(), 1001);
}

#[test]
fn a_job_may_submit_jobs() {
    let pool = pool(1, 10);
    let (sent, received) = channel();
    let inner = pool.clone();
    let outer = move || {
        let nested = move || sent.send("nested").unwrap();
        inner.submit_ordered(1, nested).unwrap();
    };
    pool.submit_ordered(1, outer).unwrap();
    assert_eq!(received.recv_timeout(LONG), Ok("nested"));
}

#[test]
fn a_graceful_shutdown_runs_everything_queued() {
    let pool = pool(2, 1000);
    let gate = Gate::occupying(&pool, 2);
    let ran = Arc::new(AtomicUsize::new(0));
    for job in 0..500 {
        pool.submit(count(&ran)).unwrap();
        pool.submit_ordered(job % 3, count(&ran)).unwrap();
    }
    let drained = thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.shutdown(LONG));
        eventually(|| pool.submit(|| {}) == Err(SubmitError::ShutDown));
        drop(gate);
        waiting.join().unwrap()
    });
    assert_eq!((drained.finished, drained.abandoned), (true, 0));
    assert_eq!(ran.load(SeqCst), 1000);
    assert_eq!(pool.shutdown(Duration::ZERO), drained);
}

#[test]
fn a_pool_shut_down_takes_no_more_jobs() {
    let pool = pool(1, 10);
    assert!(pool.shutdown(LONG).finished);
    let rejected = pool.submit(|| {}).unwrap_err();
    assert_eq!(rejected, SubmitError::ShutDown);
    assert!(rejected.to_string().contains("shut down"));
    assert_eq!(pool.submit_ordered(1, || {}), Err(SubmitError::ShutDown));
    assert_eq!(pool.stats().rejected, 2);
}

#[test]
fn a_deadline_abandons_what_is_queued_and_reports_it() {
    let pool = pool(1, 10);
    let gate = Gate::occupying(&pool, 1);
    let ran = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        pool.submit(count(&ran)).unwrap();
        pool.submit_ordered(1, count(&ran)).unwrap();
    }
    let begin = Instant::now();
    let drained = pool.shutdown(Duration::from_millis(30));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert_eq!((drained.finished, drained.abandoned), (false, 6));
    assert_eq!(Arc::strong_count(&ran), 1, "an abandoned job is dropped");

    drop(gate);
    assert_eq!(pool.shutdown(LONG), drained);
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.running, stats.completed), (0, 0, 1));
    assert_eq!(ran.load(SeqCst), 0);
}

#[test]
fn the_drop_of_a_job_may_use_the_pool_and_may_panic() {
    struct Dropped(WorkerPool, Sender<Result<(), SubmitError>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.1.send(self.0.submit(|| {})).unwrap();
            panic!("in the drop of a job");
        }
    }

    let pool = pool(1, 10);
    let _gate = Gate::occupying(&pool, 1);
    let (sent, received) = channel();
    for _ in 0..2 {
        let dropped = Dropped(pool.clone(), sent.clone());
        pool.submit(move || drop(dropped)).unwrap();
    }
    assert_eq!(pool.shutdown(Duration::ZERO).abandoned, 2);
    let rejected = Dropped(pool.clone(), sent);
    let submitter = thread::spawn(move || pool.submit(move || drop(rejected)));
    submitter.join().expect_err("a rejected job panics here");
    assert!(received.iter().eq([Err(SubmitError::ShutDown); 3]));
}

#[test]
fn a_shutdown_from_a_worker_returns_and_the_queue_runs() {
    let pool = pool(1, 10);
    let gate = Gate::occupying(&pool, 1);
    let (sent, received) = channel();
    let inner = pool.clone();
    let job = move || sent.send(inner.shutdown(LONG)).unwrap();
    pool.submit(job).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    pool.submit(count(&ran)).unwrap();
    drop(gate);
    let drained = received.recv_timeout(LONG).expect("the shutdown returns");
    assert_eq!((drained.finished, drained.abandoned), (false, 0));
    assert!(pool.shutdown(LONG).finished);
    assert_eq!(ran.load(SeqCst), 1);
}

#[test]
fn a_shutdown_from_a_worker_keeps_the_earliest_deadline() {
    let pool = pool(1, 10);
    let gate = Gate::occupying(&pool, 1);
    let inner = pool.clone();
    let deadline = Duration::from_millis(10);
    pool.submit(move || {
        inner.shutdown(deadline);
        inner.shutdown(LONG);
        thread::sleep(deadline);
    })
    .unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    pool.submit(count(&ran)).unwrap();
    drop(gate);
    eventually(|| Arc::strong_count(&ran) == 1);
    assert_eq!(ran.load(SeqCst), 0);
    assert_eq!(pool.shutdown(LONG).abandoned, 1);
}

#[test]
fn dropping_the_last_clone_runs_the_queue_and_ends_the_threads() {
    let pool = pool(2, 100);
    let clone = pool.clone();
    let gate = Gate::occupying(&pool, 2);
    let ended = thread_end(&pool);
    let ran = Arc::new(AtomicUsize::new(0));
    for job in 0..20 {
        pool.submit(count(&ran)).unwrap();
        pool.submit_ordered(job % 2, count(&ran)).unwrap();
    }
    drop(pool);
    clone.submit(count(&ran)).unwrap();
    drop(clone);
    assert_eq!(ran.load(SeqCst), 0, "the drop does not wait");
    drop(gate);
    assert_eq!(ended.recv_timeout(LONG), Err(Disconnected));
    eventually(|| Arc::strong_count(&ran) == 1);
    assert_eq!(ran.load(SeqCst), 41);
}

#[test]
fn the_last_clone_may_be_dropped_by_a_job() {
    let pool = pool(1, 10);
    let gate = Gate::occupying(&pool, 1);
    let ended = thread_end(&pool);
    let inner = pool.clone();
    pool.submit(move || drop(inner)).unwrap();
    drop(pool);
    drop(gate);
    assert_eq!(ended.recv_timeout(LONG), Err(Disconnected));
}

#[test]
fn a_pool_that_cannot_work_is_not_built() {
    let builds = [
        ("threads", WorkerPool::builder().threads(0)),
        ("queue", WorkerPool::builder().queue(0)),
        ("name", WorkerPool::builder().name("a\0b")),
    ];
    for (option, builder) in builds {
        match builder.build() {
            Err(Error::Option { name, .. }) => assert_eq!(name, option),
            other => panic!("{option}: {other:?}"),
        }
    }
}

#[test]
fn threads_are_as_many_as_asked_for_and_bear_the_name() {
    let builder = WorkerPool::builder().threads(3).name("digest");
    let pool = builder.build().unwrap();
    let (sent, received) = channel();
    let job = move || sent.send(thread::current().name().map(str::to_owned));
    pool.submit(move || job().unwrap()).unwrap();
    let name = received.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(pool.stats().threads, 3);
    assert!(["digest-0", "digest-1", "digest-2"].contains(&name.as_str()));
}

fn pool(threads: usize, queue: usize) -> WorkerPool {
    let builder = WorkerPool::builder().threads(threads).queue(queue);
    builder.build().expect("threads are to be had")
}

/// Keeps workers busy until it is dropped.
struct Gate {
    _held: Vec<Sender<()>>,
}

impl Gate {
    /// Occupies that many workers; they are busy when this returns.
    fn occupying(pool: &WorkerPool, workers: usize) -> Self {
        let (started, starts) = channel();
        let hold = |_| {
            let (held, gate) = channel::<()>();
            let started = started.clone();
            let job = move || {
                let _ = started.send(());
                let _ = gate.recv();
            };
            pool.submit(job).expect("there is room");
            starts.recv_timeout(LONG).expect("a worker is free");
            held
        };
        Gate {
            _held: (0..workers).map(hold).collect(),
        }
    }
}

/// A channel that is disconnected when the worker it was sent to has ended.
fn thread_end(pool: &WorkerPool) -> Receiver<()> {
    thread_local!(static AT_END: RefCell<Option<Sender<()>>> = const { RefCell::new(None) });
    let (sent, received) = channel();
    let job = move || AT_END.set(Some(sent));
    pool.submit(job).expect("there is room");
    received
}

fn count(ran: &Arc<AtomicUsize>) -> impl FnOnce() + Send + 'static {
    let ran = Arc::clone(ran);
    move || {
        ran.fetch_add(1, SeqCst);
    }
}

fn await_stats(pool: &WorkerPool, wanted: impl Fn(PoolStats) -> bool) -> PoolStats {
    eventually(|| wanted(pool.stats()));
    pool.stats()
}

fn eventually(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LONG, "the condition never came true");
        thread::sleep(Duration::from_millis(1));
    }
}
