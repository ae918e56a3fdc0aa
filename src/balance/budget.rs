use std::time::Duration;

use super::window::Window;

/// The number of retries that are allowed: a share of the recent requests, and a fixed number on top.
///
/// When a service fails, retries multiply the load under which it fails. A budget limits that to a share of the
/// requests. One value serves one thread. With several threads, give each its part of [`floor`](Self::floor).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::balance::RetryBudget;
///
/// let mut budget = RetryBudget::new().percent(20).floor(0);
/// let now = Duration::ZERO;
/// for _ in 0..10 {
///     budget.request(now);
/// }
/// assert!(budget.try_retry(now) && budget.try_retry(now));
/// assert!(!budget.try_retry(now));
/// ```
#[derive(Clone, Debug)]
pub struct RetryBudget {
    percent: u32,
    floor: u32,
    counts: Window<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Returns a budget of 20 % of the requests of the last 10 s, and 10 retries on top.
    pub fn new() -> Self {
        Self {
            percent: 20,
            floor: 10,
            counts: Window::new(Duration::from_secs(10)),
        }
    }

    /// Sets the share of requests that may be retried, in per cent. Default: 20.
    #[must_use]
    pub fn percent(mut self, percent: u32) -> Self {
        self.percent = percent;
        self
    }

    /// Sets the number of retries that are allowed on top, so that a few requests can be retried too. Default: 10.
    #[must_use]
    pub fn floor(mut self, retries: u32) -> Self {
        self.floor = retries;
        self
    }

    /// Sets the time over which requests and retries are counted, in steps of a tenth of it. Default: 10 s.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.counts = Window::new(window);
        self
    }

    /// Counts a request. A retry does not count as a request.
    pub fn request(&mut self, now: Duration) {
        self.counts.current(now).requests += 1;
    }

    /// Returns true if a retry is allowed, and counts it.
    #[must_use]
    pub fn try_retry(&mut self, now: Duration) -> bool {
        self.counts.current(now);
        let (mut requests, mut retries) = (0, 0);
        for slot in self.counts.slots() {
            requests += slot.requests;
            retries += slot.retries;
        }
        let allowed =
            u128::from(requests) * u128::from(self.percent) / 100 + u128::from(self.floor);
        let may = u128::from(retries) < allowed;
        if may {
            self.counts.current(now).retries += 1;
        }
        may
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}
