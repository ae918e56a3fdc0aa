//! The time of a turn: read at its beginning, and again where a deadline begins.

use std::time::{Duration, Instant};

use crate::clock::{self, Clock, MILLI, TICKS, millis};
use crate::engine::turns::Turns;

/// The clock of a reactor, and the time at which its turn began.
#[derive(Debug)]
pub(crate) struct TurnTime {
    pub(crate) clock: Clock,
    /// The beginning of the turn, in nanoseconds since the start.
    turn_nanos: u64,
    now: u64,
    tick: u64,
    long_turns: Turns,
    /// The time of day in seconds since 1970.
    unix_time: u64,
    /// The time at which the time of day must be read again.
    next_second: u64,
}

/// From this delay on, timers run out at whole milliseconds.
const LONG_DELAY: Duration = Duration::from_secs(1);

impl TurnTime {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            turn_nanos: 0,
            unix_time: clock.time_of_day().as_secs(),
            clock,
            now: 0,
            tick: 0,
            long_turns: Turns::new(),
            next_second: 0,
        }
    }

    /// Begins a turn. Returns the time of day in seconds since 1970 if a new second has begun.
    #[inline]
    pub(crate) fn read(&mut self) -> Option<u64> {
        self.turn_nanos = self.clock.elapsed_nanos();
        self.tick = clock::ticks(self.turn_nanos);
        self.now = self.turn_nanos / MILLI;
        (self.now >= self.next_second).then(|| self.read_time_of_day())
    }

    #[cold]
    fn read_time_of_day(&mut self) -> u64 {
        let since = self.clock.time_of_day();
        self.next_second = self.now + 1000 - u64::from(since.subsec_millis());
        self.unix_time = since.as_secs();
        self.unix_time
    }

    /// Returns the time of day at the beginning of the turn, in seconds since 1970.
    pub(crate) fn unix_time(&self) -> u64 {
        self.unix_time
    }

    /// Returns the time at which the turn began.
    pub(crate) fn turn_at(&self) -> Instant {
        self.clock.instant(self.turn_nanos)
    }

    /// Returns the time since the beginning of the turn, in nanoseconds.
    #[inline]
    pub(crate) fn nanos_of_turn(&self) -> u64 {
        self.clock.elapsed_nanos().saturating_sub(self.turn_nanos)
    }

    /// Returns the beginning of the turn in whole milliseconds since the start, for limits.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Returns the beginning of the turn in ticks, for timers.
    #[inline]
    pub(crate) fn tick(&self) -> u64 {
        self.tick
    }

    /// Returns the time since the start, in nanoseconds.
    #[cfg(feature = "rpc")]
    pub(crate) fn elapsed_nanos(&self) -> u64 {
        self.clock.elapsed_nanos()
    }

    /// Returns the present moment, rounded up. A deadline that counts from it is not early, however long ago the turn
    /// began.
    pub(crate) fn moment(&self) -> u64 {
        self.clock.elapsed_nanos().div_ceil(MILLI)
    }

    /// Returns the first tick that is at least `delay` away from this moment.
    pub(crate) fn deadline(&self, delay: Duration) -> u64 {
        tick_at(self.clock.elapsed().saturating_add(delay), delay)
    }

    /// Returns the time left until a tick.
    pub(crate) fn until(&self, tick: u64) -> Duration {
        clock::time_of(tick).saturating_sub(self.clock.elapsed())
    }

    /// Records that the turn has taken `nanos` nanoseconds.
    #[cold]
    pub(crate) fn note_long_turn(&mut self, nanos: u64) {
        self.long_turns.record(self.now, nanos.div_ceil(1_000_000));
    }

    /// Returns the duration in milliseconds of the longest turn that began at `moment` or later.
    pub(crate) fn longest_turn_since(&self, moment: u64) -> u64 {
        self.long_turns.longest_since(moment)
    }
}

/// Returns the first tick at or after a moment that is `delay` away. Long delays end at whole milliseconds, so that many
/// timers run out together.
pub(crate) fn tick_at(moment: Duration, delay: Duration) -> u64 {
    if delay < LONG_DELAY {
        clock::ticks_up(moment)
    } else {
        millis(moment).saturating_mul(TICKS)
    }
}
