//! The times at which the actors of a reactor want to be called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::actor_table::Entry;

/// The time of the next timer of each actor that has one. The engine is asked for the first of them only, so that timers which are
/// cancelled, or whose actor has ended, leave nothing behind.
#[derive(Default)]
pub(super) struct Alarms {
    by_time: BTreeMap<(Instant, usize), Arc<Entry>>,
    /// By actor.
    times: FxHashMap<usize, Instant>,
    /// The time that the engine was asked for.
    armed: Option<Instant>,
}

impl Alarms {
    /// Sets the time at which an actor wants to be called, in place of an earlier one.
    pub(super) fn set(&mut self, entry: &Arc<Entry>, at: Option<Instant>) {
        let actor = Arc::as_ptr(entry).addr();
        let known = self.times.get(&actor).copied();
        if known == at {
            return;
        }
        if let Some(known) = known {
            self.by_time.remove(&(known, actor));
        }
        if let Some(at) = at {
            self.times.insert(actor, at);
            self.by_time.insert((at, actor), entry.clone());
        } else {
            self.times.remove(&actor);
        }
    }

    /// Returns true if the engine must be asked for another time.
    pub(super) fn is_changed(&self) -> bool {
        self.armed != self.first()
    }

    /// Returns the time to ask the engine for, and takes it as asked for.
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.first();
        self.armed
    }

    /// Removes and returns the actors whose time has come. The engine must be asked for the next time after that.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Arc<Entry>> {
        self.armed = None;
        let mut due = Vec::new();
        while let Some(first) = self.by_time.first_entry() {
            let (at, actor) = *first.key();
            if at > now {
                break;
            }
            due.push(first.remove());
            self.times.remove(&actor);
        }
        due
    }

    fn first(&self) -> Option<Instant> {
        let ((at, _), _) = self.by_time.first_key_value()?;
        Some(*at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn actor(name: &str) -> Arc<Entry> {
        Arc::new(Entry::for_test(name))
    }

    #[test]
    fn only_the_first_alarm_is_asked_for_and_cancelled_ones_leave_nothing() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let (one, two) = (actor("a/1"), actor("a/2"));
        let mut alarms = Alarms::default();
        assert!(!alarms.is_changed());
        alarms.set(&one, Some(at(20)));
        assert_eq!(alarms.arm(), Some(at(20)));
        alarms.set(&two, Some(at(30)));
        assert!(!alarms.is_changed());
        alarms.set(&two, Some(at(10)));
        assert_eq!(alarms.arm(), Some(at(10)));
        alarms.set(&one, None);
        assert_eq!((Arc::strong_count(&one), alarms.by_time.len()), (1, 1));
        assert!(alarms.take_due(at(9)).is_empty());
        assert_eq!(alarms.take_due(at(10)).len(), 1);
        assert!(alarms.by_time.is_empty() && alarms.times.is_empty());
        assert_eq!(alarms.arm(), None);
    }
}
