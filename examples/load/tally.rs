//! What was counted: by a reactor, and by all of them together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::plan::Nanos;

/// Why a request was not answered right. Ordered, so that reports are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No answer within the timeout.
    Timeout,
    /// The connection ended before the answer.
    Lost(String),
    /// Another answer than the one wanted.
    Wrong(&'static str),
    /// An HTTP status that tells no success.
    Status(u16),
    /// It was due, but no connection had room for it before the end.
    NeverSent,
}

/// The time that is measured, and how it is cut into intervals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Nanos,
    pub(crate) until: Nanos,
    pub(crate) interval: Nanos,
}

/// What was counted. Requests count that were due, or sent, within the window.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) window: Window,
    /// From when a request was due to its answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// From when it was due to when it was sent; empty in a closed loop.
    pub(crate) lateness: Histogram<u64>,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Failures of requests before the window.
    pub(crate) warm_up_failures: u64,
    /// Why connections were not made.
    pub(crate) connect_failures: BTreeMap<String, u64>,
    /// Connections made, those made again included.
    pub(crate) connected: u64,
    /// Requests that were still under way when it was interrupted.
    pub(crate) cut_off: u64,
    pub(crate) intervals: Vec<Interval>,
    /// Within the window: bytes on the sockets, and processor time of the reactors.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) cpu: Duration,
}

/// What happened in a part of the window.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Right answers that came in it.
    pub(crate) answers: u64,
    /// Failures of requests that were due in it.
    pub(crate) failures: u64,
    /// Latencies of requests that were due in it.
    pub(crate) latency: Histogram<u64>,
}

/// Latencies are told apart between these.
const SHORTEST: u64 = 100;
const LONGEST: u64 = 2 * 24 * 60 * 60 * 1_000_000_000;

/// As many intervals at most.
const INTERVALS: u64 = 120;

impl Window {
    pub(crate) fn new(warm_up: Duration, duration: Duration) -> Self {
        let (from, length) = (warm_up.as_nanos() as Nanos, duration.as_nanos() as Nanos);
        let steps = (8..).flat_map(|tens| [1, 2, 5].map(|step| step * 10_u64.pow(tens)));
        let interval = steps
            .into_iter()
            .find(|step| length.div_ceil(*step) <= INTERVALS)
            .unwrap_or(length);
        Self {
            from,
            until: from + length,
            interval,
        }
    }

    pub(crate) fn has(&self, at: Nanos) -> bool {
        (self.from..self.until).contains(&at)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_nanos(self.until - self.from)
    }
}

impl Tally {
    pub(crate) fn new(window: Window) -> Self {
        let intervals = (window.until - window.from).div_ceil(window.interval);
        let interval = Interval {
            answers: 0,
            failures: 0,
            latency: histogram(2),
        };
        Self {
            window,
            latency: histogram(3),
            lateness: histogram(3),
            failures: BTreeMap::new(),
            warm_up_failures: 0,
            connect_failures: BTreeMap::new(),
            connected: 0,
            cut_off: 0,
            intervals: vec![interval; intervals as usize],
            bytes_in: 0,
            bytes_out: 0,
            cpu: Duration::ZERO,
        }
    }

    /// A right answer has come.
    #[inline]
    pub(crate) fn answered(&mut self, due: Nanos, now: Nanos) {
        if self.window.has(due) {
            let latency = now.saturating_sub(due);
            self.latency.saturating_record(latency);
            if let Some(interval) = self.interval(due) {
                interval.latency.saturating_record(latency);
            }
        }
        if self.window.has(now)
            && let Some(interval) = self.interval(now)
        {
            interval.answers += 1;
        }
    }

    /// Requests that were due then have failed.
    #[cold]
    pub(crate) fn failed(&mut self, due: Nanos, failure: Failure, count: u64) {
        if !self.window.has(due) {
            self.warm_up_failures += count;
            return;
        }
        if let Some(interval) = self.interval(due) {
            interval.failures += count;
        }
        *self.failures.entry(failure).or_default() += count;
    }

    #[cold]
    pub(crate) fn connect_failed(&mut self, why: String) {
        *self.connect_failures.entry(why).or_default() += 1;
    }

    /// The window ends earlier than planned.
    pub(crate) fn cut(&mut self, until: Nanos) {
        let window = &mut self.window;
        window.until = window.until.min(until);
        window.from = window.from.min(until);
        let intervals = (window.until - window.from).div_ceil(window.interval);
        self.intervals.truncate(intervals as usize);
    }

    /// Adds another reactor's.
    pub(crate) fn add(&mut self, other: &Tally) {
        sum(&mut self.latency, &other.latency);
        sum(&mut self.lateness, &other.lateness);
        for (failure, count) in &other.failures {
            *self.failures.entry(failure.clone()).or_default() += count;
        }
        for (why, count) in &other.connect_failures {
            *self.connect_failures.entry(why.clone()).or_default() += count;
        }
        self.warm_up_failures += other.warm_up_failures;
        self.connected += other.connected;
        self.cut_off += other.cut_off;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.cpu += other.cpu;
        for (mine, theirs) in self.intervals.iter_mut().zip(&other.intervals) {
            mine.answers += theirs.answers;
            mine.failures += theirs.failures;
            sum(&mut mine.latency, &theirs.latency);
        }
    }

    /// Requests of the window that were answered right.
    pub(crate) fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// Requests of the window that were not.
    pub(crate) fn failure_count(&self) -> u64 {
        self.failures.values().sum()
    }

    /// All that went wrong, whenever it was.
    pub(crate) fn errors(&self) -> u64 {
        let connects: u64 = self.connect_failures.values().sum();
        self.failure_count() + self.warm_up_failures + connects
    }

    /// Right answers a second, by when they came.
    pub(crate) fn throughput(&self) -> f64 {
        let answers: u64 = self.intervals.iter().map(|interval| interval.answers).sum();
        answers as f64 / self.window.length().as_secs_f64().max(1e-9)
    }

    fn interval(&mut self, at: Nanos) -> Option<&mut Interval> {
        let index = (at - self.window.from) / self.window.interval;
        self.intervals.get_mut(index as usize)
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(SHORTEST, LONGEST, digits).expect("the bounds are in order")
}

fn sum(mine: &mut Histogram<u64>, theirs: &Histogram<u64>) {
    mine.add(theirs).expect("the bounds are the same");
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("no answer within the timeout"),
            Failure::Lost(why) => write!(f, "connection lost: {why}"),
            Failure::Wrong(what) => write!(f, "wrong answer: {what}"),
            Failure::Status(status) => write!(f, "status {status}"),
            Failure::NeverSent => f.write_str("never sent: no connection had room before the end"),
        }
    }
}
