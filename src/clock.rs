//! What time it is: the system's, or in a simulation the simulation's.

#[cfg(feature = "testing")]
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many ticks of a reactor's timers a millisecond has: a power of two, so that whole milliseconds lie where the timing wheel
/// looks at no finer level.
pub(crate) const TICKS: u64 = 1 << 12;

const NANOS: u64 = 1_000_000_000;

/// How many whole ticks a time is.
#[inline]
pub(crate) fn ticks(time: Duration) -> u64 {
    let fraction = u64::from(time.subsec_nanos()) * TICKS / (NANOS / 1000);
    time.as_secs()
        .saturating_mul(1000 * TICKS)
        .saturating_add(fraction)
}

/// The same, rounded up so that nothing fires early.
pub(crate) fn ticks_up(time: Duration) -> u64 {
    let fraction = (u64::from(time.subsec_nanos()) * TICKS).div_ceil(NANOS / 1000);
    time.as_secs()
        .saturating_mul(1000 * TICKS)
        .saturating_add(fraction)
}

/// How long so many ticks are, rounded up to the nanosecond.
pub(crate) fn time_of(ticks: u64) -> Duration {
    let (secs, rest) = (ticks / (1000 * TICKS), ticks % (1000 * TICKS));
    let nanos = (rest * (NANOS / 1000)).div_ceil(TICKS);
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

/// A time in whole milliseconds, rounded up so that nothing fires early.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The next of the moments `due`, `due + period`, `due + 2 * period` … that is behind `due` and not past `now`: what was missed is skipped.
pub(crate) fn next_on_grid(due: Duration, period: Duration, now: Duration) -> Duration {
    if period.is_zero() {
        return now;
    }
    let late = now.saturating_sub(due).as_nanos();
    let periods = late.div_ceil(period.as_nanos()).max(1);
    let next = match u32::try_from(periods) {
        Ok(periods) => period
            .checked_mul(periods)
            .and_then(|time| due.checked_add(time)),
        // Billions of them were missed, which must be short: now is as good as the next.
        Err(_) => Some(now),
    };
    next.unwrap_or(Duration::MAX)
}

/// A reactor's clock, which counts from its start.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The time since the start, where it passes only as it is told to.
    #[cfg(feature = "testing")]
    simulated: Option<Duration>,
}

/// The time of day at which every simulation begins: 2026-01-01, midnight UTC.
#[cfg(feature = "testing")]
const SIMULATED_START: Duration = Duration::from_secs(1_767_225_600);

#[cfg(feature = "testing")]
thread_local! {
    /// How long the callbacks of this thread's simulation say they have taken, since its clock was last set.
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Notes that a simulated callback takes so long.
#[cfg(feature = "testing")]
pub(crate) fn spend(time: Duration) {
    SPENT.set(SPENT.get().saturating_add(time));
}

/// How long callbacks have taken since this was last asked.
#[cfg(feature = "testing")]
pub(crate) fn take_spent() -> Duration {
    SPENT.take()
}

impl Clock {
    /// The system's clock, from now on.
    pub(crate) fn system() -> Self {
        Self {
            started: Instant::now(),
            #[cfg(feature = "testing")]
            simulated: None,
        }
    }

    /// A clock that stands still until it is [set](Self::set).
    #[cfg(feature = "testing")]
    pub(crate) fn simulated() -> Self {
        Self {
            simulated: Some(Duration::ZERO),
            ..Self::system()
        }
    }

    /// Tells a simulated clock what time it is.
    #[cfg(feature = "testing")]
    pub(crate) fn set(&mut self, since_start: Duration) {
        self.simulated = Some(since_start);
    }

    /// Whether time passes only as it is told to.
    #[cfg(feature = "testing")]
    pub(crate) fn is_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    /// This moment.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        #[cfg(feature = "testing")]
        if let Some(since_start) = self.simulated {
            return self.started + since_start + SPENT.get();
        }
        Instant::now()
    }

    /// How long after the start a moment is.
    #[inline]
    pub(crate) fn since_start(&self, moment: Instant) -> Duration {
        moment - self.started
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since_start(self.now())
    }

    /// The time of day, as the time since 1970 began.
    pub(crate) fn time_of_day(&self) -> Duration {
        #[cfg(feature = "testing")]
        if let Some(since_start) = self.simulated {
            return SIMULATED_START + since_start + SPENT.get();
        }
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_rounded_so_that_nothing_is_early() {
        for nanos in
            (0..3_000_000)
                .step_by(37)
                .chain([999_999_999, 1_000_000_000, 86_400 * NANOS + 1])
        {
            let time = Duration::from_nanos(nanos);
            let (down, up) = (ticks(time), ticks_up(time));
            assert!(down <= up && up - down <= 1, "{time:?}");
            assert!(
                time_of(up) >= time && time_of(down) <= time + Duration::from_nanos(1),
                "{time:?}"
            );
            assert!(
                ticks(time_of(up)) >= up,
                "{time:?}: it sleeps until then, and then it is due"
            );
            assert_eq!(down / TICKS, time.as_millis() as u64);
        }
        assert_eq!(ticks_up(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_grid_is_kept_and_what_is_missed_is_skipped() {
        let at = Duration::from_millis;
        for (now, next) in [
            (0, 110),
            (100, 110),
            (105, 110),
            (110, 110),
            (111, 120),
            (239, 240),
            (240, 240),
        ] {
            assert_eq!(next_on_grid(at(100), at(10), at(now)), at(next), "at {now}");
        }
        let now = Duration::from_secs(100_000);
        assert_eq!(
            next_on_grid(at(0), Duration::ZERO, now),
            now,
            "as soon as it can be"
        );
        assert_eq!(next_on_grid(at(1), Duration::MAX, at(5)), Duration::MAX);
    }
}
