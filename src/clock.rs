//! What time it is: the system's, or in a simulation the simulation's.

#[cfg(feature = "testing")]
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
