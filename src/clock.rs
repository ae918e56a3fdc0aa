//! The clock: the system's, or the virtual clock of a simulation.

#[cfg(feature = "testing")]
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sys::monotonic;

/// The number of timer ticks in a millisecond. It is a power of two, so that timers of whole milliseconds never need the
/// finest levels of the timer wheel.
pub(crate) const TICKS: u64 = 1 << 12;

/// The number of nanoseconds in a millisecond.
pub(crate) const MILLI: u64 = 1_000_000;

/// Converts nanoseconds to ticks, rounded down.
#[inline]
pub(crate) fn ticks(nanos: u64) -> u64 {
    nanos / MILLI * TICKS + nanos % MILLI * TICKS / MILLI
}

/// Converts a time to ticks, rounded up so that no timer fires early.
pub(crate) fn ticks_up(time: Duration) -> u64 {
    let fraction = (u64::from(time.subsec_nanos()) * TICKS).div_ceil(MILLI);
    time.as_secs()
        .saturating_mul(1000 * TICKS)
        .saturating_add(fraction)
}

/// Converts ticks to a time, rounded up to the nanosecond.
pub(crate) fn time_of(ticks: u64) -> Duration {
    let (secs, rest) = (ticks / (1000 * TICKS), ticks % (1000 * TICKS));
    let nanos = (rest * MILLI).div_ceil(TICKS);
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

/// Converts a time to whole milliseconds, rounded up so that no timer fires early.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(u128::from(MILLI))).unwrap_or(u64::MAX)
}

/// Returns the first of the moments `due + period`, `due + 2 * period` … that is at or after `now`. Missed moments are
/// skipped.
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
        // Billions of periods were missed, so they must be short, and `now` is close enough to the next.
        Err(_) => Some(now),
    };
    next.unwrap_or(Duration::MAX)
}

/// A reactor's clock. It counts from the reactor's start.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_nanos: u64,
    /// The time since the start, if the clock is simulated.
    #[cfg(feature = "testing")]
    simulated: Option<Duration>,
    /// The time from the start of the simulation to that of the clock.
    #[cfg(feature = "testing")]
    before: Duration,
}

/// The time of day at which every simulation begins: 2026-01-01, midnight UTC.
#[cfg(feature = "testing")]
const SIMULATED_START: Duration = Duration::from_secs(1_767_225_600);

#[cfg(feature = "testing")]
thread_local! {
    /// The virtual time that callbacks of this thread's simulation have spent since `take_spent` was last called.
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Adds to the virtual time that the current callback takes.
#[cfg(feature = "testing")]
pub(crate) fn spend(time: Duration) {
    SPENT.set(SPENT.get().saturating_add(time));
}

/// Returns the virtual time that callbacks have spent since the last call, and resets it.
#[cfg(feature = "testing")]
pub(crate) fn take_spent() -> Duration {
    SPENT.take()
}

impl Clock {
    /// Creates a clock that follows the system's and starts now.
    pub(crate) fn system() -> Self {
        Self {
            started: Instant::now(),
            // Read after `started`, so that no moment of this clock is later than `Instant::now` returns.
            started_nanos: monotonic::nanos(),
            #[cfg(feature = "testing")]
            simulated: None,
            #[cfg(feature = "testing")]
            before: Duration::ZERO,
        }
    }

    /// Creates a clock that stands still until it is [set](Self::set).
    #[cfg(feature = "testing")]
    pub(crate) fn simulated() -> Self {
        Self {
            simulated: Some(Duration::ZERO),
            ..Self::system()
        }
    }

    /// Creates a clock of the same simulation that starts now.
    #[cfg(feature = "testing")]
    pub(crate) fn restarted(&self) -> Self {
        let before = self.before + self.simulated.unwrap_or_default();
        Self {
            started: self.started + (before - self.before),
            simulated: Some(Duration::ZERO),
            before,
            ..self.clone()
        }
    }

    /// Sets a simulated clock to a time since the start of the simulation.
    #[cfg(feature = "testing")]
    pub(crate) fn set(&mut self, since_start: Duration) {
        self.simulated = Some(since_start.saturating_sub(self.before));
    }

    /// Returns the time since the start in nanoseconds. Each turn of a reactor needs it twice.
    #[inline]
    pub(crate) fn elapsed_nanos(&self) -> u64 {
        #[cfg(feature = "testing")]
        if let Some(since_start) = self.simulated {
            return (since_start + SPENT.get()).as_nanos() as u64;
        }
        monotonic::nanos().saturating_sub(self.started_nanos)
    }

    /// Returns the moment at a number of nanoseconds since the start.
    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        self.started + Duration::from_nanos(nanos)
    }

    /// Returns the current moment.
    #[cfg(feature = "testing")]
    pub(crate) fn now(&self) -> Instant {
        self.instant(self.elapsed_nanos())
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_nanos())
    }

    /// Returns the wall-clock time, as the time since 1970-01-01, midnight UTC.
    pub(crate) fn time_of_day(&self) -> Duration {
        #[cfg(feature = "testing")]
        if let Some(since_start) = self.simulated {
            return SIMULATED_START + self.before + since_start + SPENT.get();
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
                .chain([999_999_999, 1_000_000_000, 86_400_000_000_001])
        {
            let time = Duration::from_nanos(nanos);
            let (down, up) = (ticks(nanos), ticks_up(time));
            assert!(down <= up && up - down <= 1, "{time:?}");
            assert!(
                time_of(up) >= time && time_of(down) <= time + Duration::from_nanos(1),
                "{time:?}"
            );
            assert!(
                ticks(time_of(up).as_nanos() as u64) >= up,
                "{time:?}: a timer is due at the end of its sleep"
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
            "a period of zero is due at once"
        );
        assert_eq!(next_on_grid(at(1), Duration::MAX, at(5)), Duration::MAX);
    }
}
