use std::time::Duration;

/// Counts over the recent past: a ring of slots, each for a tenth of the time.
#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    length: Duration,
    slots: [T; SLOTS],
    /// The number of the current slot since time 0.
    current: u64,
}

const SLOTS: usize = 10;

impl<T: Copy + Default> Window<T> {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            slots: [T::default(); SLOTS],
            current: 0,
        }
    }

    /// Returns the current slot, and empties those that are too old. A time before the latest one counts as the latest.
    pub(super) fn current(&mut self, now: Duration) -> &mut T {
        // 584 years fit.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let slot = nanos(now) / (nanos(self.length) / SLOTS as u64).max(1);
        let passed = slot.saturating_sub(self.current).min(SLOTS as u64);
        for n in 0..passed {
            self.slots[((slot - n) % SLOTS as u64) as usize] = T::default();
        }
        self.current = self.current.max(slot);
        &mut self.slots[(self.current % SLOTS as u64) as usize]
    }

    /// Returns the slots as of the last call of [`current`](Self::current).
    pub(super) fn slots(&self) -> &[T] {
        &self.slots
    }

    pub(super) fn clear(&mut self) {
        self.slots = [T::default(); SLOTS];
    }
}
