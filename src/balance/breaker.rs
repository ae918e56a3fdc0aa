use std::time::Duration;

use super::Outcome;
use super::window::Window;

/// A circuit breaker for one node: it stops requests to a node of which too large a share fails.
///
/// It is *closed* at first, and counts outcomes. If at least [`min_requests`](Self::min_requests) ended within the
/// [`window`](Self::window) and the share of failures reaches [`percent`](Self::percent), it *opens*: it admits no requests for
/// [`open_for`](Self::open_for). Then it is *half-open*: it admits one request at a time, as a probe. A failure opens it again.
/// [`probes`](Self::probes) successes in a row close it.
///
/// [`Health`](super::Health) ejects a node by its failures in a row, which a node that fails every second request never reaches.
/// The breaker sees shares. It also stops requests to the only node of a pool, which is never ejected.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::balance::{BreakerState, CircuitBreaker, Outcome};
///
/// let mut breaker = CircuitBreaker::new().min_requests(2).open_for(Duration::from_secs(5));
/// let second = Duration::from_secs;
/// for _ in 0..2 {
///     let admission = breaker.try_begin(second(1)).expect("is closed");
///     breaker.report(admission, Outcome::Failure, second(1));
/// }
/// assert_eq!(breaker.state(second(2)), BreakerState::Open);
/// assert!(breaker.try_begin(second(2)).is_none());
///
/// let probe = breaker.try_begin(second(6)).expect("is half-open");
/// assert!(breaker.try_begin(second(6)).is_none(), "only one probe at a time");
/// breaker.report(probe, Outcome::Success, second(6));
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    percent: u8,
    min_requests: u32,
    open_for: Duration,
    probes: u32,
    counts: Window<Counts>,
    phase: Phase,
    /// The number of changes of the state, so that outcomes of requests from before are ignored.
    generation: u32,
}

/// The state of a [`CircuitBreaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Requests are admitted.
    Closed,
    /// No requests are admitted.
    Open,
    /// One request at a time is admitted.
    HalfOpen,
}

/// The permission for one request. Give it back to [`CircuitBreaker::report`] in any case: a probe without an outcome keeps the
/// breaker half-open.
#[derive(Debug)]
#[must_use = "its outcome must be reported"]
pub struct Admission {
    generation: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u32,
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Duration },
    HalfOpen { succeeded: u32, is_probed: bool },
}

impl CircuitBreaker {
    /// Returns a closed breaker, which opens for 5 s if half of at least 20 requests within 10 s fail, and closes after 3 probes.
    pub fn new() -> Self {
        Self {
            percent: 50,
            min_requests: 20,
            open_for: Duration::from_secs(5),
            probes: 3,
            counts: Window::new(Duration::from_secs(10)),
            phase: Phase::Closed,
            generation: 0,
        }
    }

    /// Sets the share of failures that opens it, in per cent, from 1 to 100. Default: 50.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent.clamp(1, 100);
        self
    }

    /// Sets the number of requests within the window below which it does not open, at least 1. Default: 20.
    #[must_use]
    pub fn min_requests(mut self, requests: u32) -> Self {
        self.min_requests = requests.max(1);
        self
    }

    /// Sets the time over which outcomes are counted, in steps of a tenth of it. Default: 10 s.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.counts = Window::new(window);
        self
    }

    /// Sets the time for which it stays open before it admits a probe. Default: 5 s.
    #[must_use]
    pub fn open_for(mut self, time: Duration) -> Self {
        self.open_for = time;
        self
    }

    /// Sets the number of probes in a row that must succeed before it closes, at least 1. Default: 3.
    #[must_use]
    pub fn probes(mut self, probes: u32) -> Self {
        self.probes = probes.max(1);
        self
    }

    /// Returns the state.
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Returns true if it would admit a request.
    pub fn admits(&self, now: Duration) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Open { until } => until <= now,
            Phase::HalfOpen { is_probed, .. } => !is_probed,
        }
    }

    /// Admits a request, or returns `None`.
    pub fn try_begin(&mut self, now: Duration) -> Option<Admission> {
        if !self.admits(now) {
            return None;
        }
        match &mut self.phase {
            Phase::Closed => {}
            Phase::Open { .. } => self.change(Phase::HalfOpen {
                succeeded: 0,
                is_probed: true,
            }),
            Phase::HalfOpen { is_probed, .. } => *is_probed = true,
        }
        Some(Admission {
            generation: self.generation,
        })
    }

    /// Reports the outcome of a request. Returns the new state if it changes.
    pub fn report(
        &mut self,
        admission: Admission,
        outcome: Outcome,
        now: Duration,
    ) -> Option<BreakerState> {
        if admission.generation != self.generation {
            return None;
        }
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure => true,
            Outcome::Abandoned => {
                if let Phase::HalfOpen { is_probed, .. } = &mut self.phase {
                    *is_probed = false;
                }
                return None;
            }
        };
        match &mut self.phase {
            Phase::Closed => {
                let slot = self.counts.current(now);
                slot.requests = slot.requests.saturating_add(1);
                slot.failures = slot.failures.saturating_add(failed.into());
                let (mut requests, mut failures) = (0u64, 0u64);
                for slot in self.counts.slots() {
                    requests += u64::from(slot.requests);
                    failures += u64::from(slot.failures);
                }
                let opens = failed
                    && requests >= self.min_requests.into()
                    && failures * 100 >= requests * u64::from(self.percent);
                opens.then(|| self.open(now))
            }
            Phase::HalfOpen { .. } if failed => Some(self.open(now)),
            Phase::HalfOpen {
                succeeded,
                is_probed,
            } => {
                *is_probed = false;
                *succeeded += 1;
                let closes = *succeeded >= self.probes;
                closes.then(|| {
                    self.counts.clear();
                    self.change(Phase::Closed);
                    BreakerState::Closed
                })
            }
            Phase::Open { .. } => None,
        }
    }

    fn open(&mut self, now: Duration) -> BreakerState {
        self.change(Phase::Open {
            until: now.saturating_add(self.open_for),
        });
        BreakerState::Open
    }

    fn change(&mut self, to: Phase) {
        self.phase = to;
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::new()
    }
}
