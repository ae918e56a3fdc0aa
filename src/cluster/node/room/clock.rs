use std::time::{Duration, Instant};

/// A step of a [`Room`](super::Room), which has a fixed length whatever the machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// The number of the step, from 1 on.
    pub number: u64,
    /// The length of a step.
    pub step: Duration,
    /// The steps that were left out before this one, because the room was more than five steps behind. They have no number.
    pub lag: u64,
}

/// Tells which steps are due. It keeps the rate over time: a step that comes late does not delay those after it.
#[derive(Debug)]
pub(super) struct TickClock {
    step: Duration,
    /// The time of the next step.
    next: Instant,
    number: u64,
    lag: u64,
}

/// The steps that a room makes up for at once. Further ones are left out, so that a room that is too slow does not fall behind
/// more and more.
const MAX_AT_ONCE: u32 = 5;

impl TickClock {
    /// Returns a clock whose first step is one step after `now`.
    pub(super) fn new(step: Duration, now: Instant) -> Self {
        Self {
            step,
            next: now + step,
            number: 0,
            lag: 0,
        }
    }

    /// Returns the time until the next step.
    pub(super) fn delay(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Leaves out the steps that nobody can make up for.
    pub(super) fn begin(&mut self, now: Instant) {
        let behind = now.saturating_duration_since(self.next).as_nanos();
        let due = behind / self.step.as_nanos();
        let skipped = due.saturating_sub(u128::from(MAX_AT_ONCE) - 1);
        let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
        self.next += self.step * skipped;
        self.lag += u64::from(skipped);
    }

    /// Returns the next step, if it is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Tick> {
        if now < self.next {
            return None;
        }
        self.next += self.step;
        self.number += 1;
        Some(Tick {
            number: self.number,
            step: self.step,
            lag: std::mem::take(&mut self.lag),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    /// Returns the numbers and the lags of the steps that are due so many milliseconds after the start.
    fn due(clock: &mut TickClock, start: Instant, millis: u64) -> Vec<(u64, u64)> {
        let now = start + Duration::from_millis(millis);
        clock.begin(now);
        std::iter::from_fn(|| clock.next(now))
            .map(|tick| (tick.number, tick.lag))
            .collect()
    }

    #[test]
    fn steps_keep_their_rate_though_some_come_late() {
        let start = Instant::now();
        let mut clock = TickClock::new(STEP, start);
        assert_eq!(due(&mut clock, start, 49), []);
        assert_eq!(due(&mut clock, start, 50), [(1, 0)]);
        assert_eq!(due(&mut clock, start, 149), [(2, 0)]);
        assert_eq!(
            clock.delay(start + Duration::from_millis(149)),
            Duration::from_millis(1)
        );
        assert_eq!(due(&mut clock, start, 150), [(3, 0)]);
        assert_eq!(due(&mut clock, start, 310), [(4, 0), (5, 0), (6, 0)]);
        assert_eq!(due(&mut clock, start, 350), [(7, 0)]);
    }

    #[test]
    fn a_room_that_is_far_behind_leaves_steps_out_and_tells_how_many() {
        let start = Instant::now();
        let mut clock = TickClock::new(STEP, start);
        // Twenty are due; five are made up for, on the grid of the others.
        let made = due(&mut clock, start, 1000);
        assert_eq!(made, [(1, 15), (2, 0), (3, 0), (4, 0), (5, 0)]);
        assert_eq!(due(&mut clock, start, 1049), []);
        assert_eq!(due(&mut clock, start, 1050), [(6, 0)]);
    }
}
