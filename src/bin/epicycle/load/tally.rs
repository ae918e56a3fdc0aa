//! The counters of a reactor, and their sum.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::plan::Nanos;

/// The reason why a request had no right answer. It is ordered, so that reports are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No answer within the timeout.
    Timeout,
    /// The connection ended before the answer.
    Lost(String),
    /// The answer was not the expected one.
    Wrong(&'static str),
    /// The HTTP status was not a success.
    Status(u16),
    /// The request was due, but no connection had room for it before the end.
    NeverSent,
}

/// The time of the measurement, divided into intervals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Nanos,
    pub(crate) until: Nanos,
    pub(crate) interval: Nanos,
}

/// The counters. They count requests that were due within the window, or in a closed loop, sent within it.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) window: Window,
    /// The times from the due time of a request to its answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The times from the due time of a request to its sending; empty in a closed loop.
    pub(crate) lateness: Histogram<u64>,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Failures of requests before the window.
    pub(crate) warm_up_failures: u64,
    /// The reasons of failed connects.
    pub(crate) connect_failures: BTreeMap<String, u64>,
    /// Connections made, including those made again.
    pub(crate) connected: u64,
    /// Requests that were still under way at the end.
    pub(crate) cut_off: u64,
    pub(crate) intervals: Vec<Interval>,
    /// Within the window: bytes on the sockets, and processor time of the reactors.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) cpu: Duration,
}

/// The counters of one interval of the window.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Right answers that arrived in the interval.
    pub(crate) answers: u64,
    /// Failures of requests that were due in the interval.
    pub(crate) failures: u64,
    /// Latencies of requests that were due in the interval.
    pub(crate) latency: Histogram<u64>,
}

/// The bounds of latencies that histograms can distinguish, in nanoseconds.
const SHORTEST: u64 = 100;
const LONGEST: u64 = 2 * 24 * 60 * 60 * 1_000_000_000;

/// The most intervals.
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

    /// Counts a right answer.
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

    /// Counts failed requests that were due at a time.
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

    /// Ends the window earlier than planned.
    pub(crate) fn cut(&mut self, until: Nanos) {
        let window = &mut self.window;
        window.until = window.until.min(until);
        window.from = window.from.min(until);
        let intervals = (window.until - window.from).div_ceil(window.interval);
        self.intervals.truncate(intervals as usize);
    }

    /// Adds the counters of another reactor.
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

    /// Returns the number of the window's requests with a right answer.
    pub(crate) fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// Returns the number of the window's requests without a right answer.
    pub(crate) fn failure_count(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Returns the number of all errors, including those outside the window.
    pub(crate) fn errors(&self) -> u64 {
        let connects: u64 = self.connect_failures.values().sum();
        self.failure_count() + self.warm_up_failures + connects
    }

    /// Returns the number of right answers that arrived in a second.
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
