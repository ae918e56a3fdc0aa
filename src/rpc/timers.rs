//! The times at which plugins want to be called for a session. It has no clock: times are passed in.

use std::time::{Duration, Instant};

/// The timers of a session: at most one for each plugin.
#[derive(Default)]
pub(super) struct Timers(Vec<Timer>);

struct Timer {
    /// The place of the plugin among those of the peer.
    plugin: usize,
    at: Instant,
    /// True if it was found late, and put off.
    is_put_off: bool,
}

/// A timer that is later than this is put off once, by as short a time as there is. A loop that was held up reads what has
/// arrived meanwhile before it judges that nothing has.
const LATE: Duration = Duration::from_millis(100);

/// The shortest time of a timer.
const SHORTEST: Duration = Duration::from_millis(1);

impl Timers {
    /// Sets the timer of a plugin.
    pub(super) fn set(&mut self, plugin: usize, now: Instant, after: Duration) {
        self.0.retain(|timer| timer.plugin != plugin);
        let Some(at) = now.checked_add(after.max(SHORTEST)) else {
            // It is never due.
            return;
        };
        self.0.push(Timer {
            plugin,
            at,
            is_put_off: false,
        });
    }

    /// Returns the earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|timer| timer.at).min()
    }

    /// Removes a timer that is due. Returns its plugin.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<usize> {
        for timer in &mut self.0 {
            if !timer.is_put_off && now.saturating_duration_since(timer.at) > LATE {
                timer.at = now + SHORTEST;
                timer.is_put_off = true;
            }
        }
        let due = self.0.iter().position(|timer| timer.at <= now)?;
        Some(self.0.swap_remove(due).plugin)
    }
}
