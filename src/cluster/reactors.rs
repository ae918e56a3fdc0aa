//! The reactors of a server together: calls on all of them, and the bytes that wait for each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::engine::handler::{Engine, EventHandler, Reactor};

/// The time within which all reactors have answered. One that takes longer is stuck in a handler.
pub(super) const ANSWERING: Duration = Duration::from_secs(30);

/// Calls on each reactor what `call` returns for its number, and waits for the results: for 30 s at the longest.
pub(super) fn on_all<H: EventHandler, R: Send + 'static, F>(
    engine: &Engine<H>,
    call: impl Fn(usize) -> F,
) -> Vec<R>
where
    F: FnOnce(&mut H, &mut Reactor<'_, H>) -> R + Send + 'static,
{
    call_all(engine, call).wait()
}

/// Calls on each reactor what `call` returns for its number.
pub(super) fn call_all<H: EventHandler, R: Send + 'static, F>(
    engine: &Engine<H>,
    call: impl Fn(usize) -> F,
) -> Calls<R>
where
    F: FnOnce(&mut H, &mut Reactor<'_, H>) -> R + Send + 'static,
{
    let (sender, results) = mpsc::channel();
    for id in 0..engine.reactors() {
        let (sender, call) = (sender.clone(), call(id));
        engine.run_anyway(id, move |handler, reactor| {
            let _ = sender.send(call(handler, reactor));
        });
    }
    Calls {
        results,
        came: Vec::new(),
    }
}

/// The longest wait for what the reactors tell.
const GLIMPSING: Duration = Duration::from_secs(1);

/// Returns what `look` sees on each reactor that answers within a second. One that is too busy to be asked is left out.
pub(super) fn glimpse_all<H: EventHandler, R: Send + 'static>(
    engine: &Engine<H>,
    look: fn(&mut H, &mut Reactor<'_, H>) -> R,
) -> Vec<R> {
    let (sender, results) = mpsc::channel();
    for id in 0..engine.reactors() {
        let sender = sender.clone();
        let _ = engine.run_on(id, move |handler, reactor| {
            let _ = sender.send(look(handler, reactor));
        });
    }
    let came = Vec::new();
    drop(sender);
    Calls { results, came }.wait_for(GLIMPSING)
}

/// Calls on all reactors.
pub(super) struct Calls<R> {
    results: mpsc::Receiver<R>,
    came: Vec<R>,
}

impl<R> Calls<R> {
    /// Returns the results that have come, and true if there are no more.
    pub(super) fn poll(&mut self) -> (&[R], bool) {
        let over = loop {
            match self.results.try_recv() {
                Ok(result) => self.came.push(result),
                Err(error) => break error == mpsc::TryRecvError::Disconnected,
            }
        };
        (&self.came, over)
    }

    /// Waits for the results: for 30 s at the longest.
    pub(super) fn wait(self) -> Vec<R> {
        self.wait_for(ANSWERING)
    }

    fn wait_for(self, time: Duration) -> Vec<R> {
        let ends = Instant::now() + time;
        let next = || {
            let left = ends.saturating_duration_since(Instant::now());
            self.results.recv_timeout(left).ok()
        };
        self.came
            .into_iter()
            .chain(std::iter::from_fn(next))
            .collect()
    }
}

/// The bytes that wait for each reactor.
pub(super) struct QueuedBytes(Box<[AtomicUsize]>);

/// The maximum number of bytes that wait for one reactor.
const MAX_QUEUED: usize = 64 << 20;

impl QueuedBytes {
    pub(super) fn new(reactors: usize) -> Self {
        Self((0..reactors).map(|_| AtomicUsize::new(0)).collect())
    }

    /// Counts a task that is about to wait, unless too many bytes wait already.
    pub(super) fn enqueue(&self, reactor: usize, weight: usize) -> bool {
        if self.0[reactor].load(Ordering::Relaxed) > MAX_QUEUED {
            return false;
        }
        self.enqueue_anyway(reactor, weight);
        true
    }

    /// Counts a task that is bounded in another way.
    pub(super) fn enqueue_anyway(&self, reactor: usize, weight: usize) {
        self.0[reactor].fetch_add(weight, Ordering::Relaxed);
    }

    /// Returns the bytes that wait for all reactors.
    pub(super) fn total(&self) -> usize {
        let bytes = self.0.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        bytes.sum()
    }

    /// Counts a task that was done.
    pub(super) fn dequeue(&self, reactor: usize, weight: usize) {
        self.0[reactor].fetch_sub(weight, Ordering::Relaxed);
    }
}
