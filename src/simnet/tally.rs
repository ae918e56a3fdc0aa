//! Counts what simulations have done, so that a test can report how much it has covered.

use std::cell::RefCell;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Counts of one simulation, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) seeds: u64,
    pub(crate) connections: u64,
    /// Bytes that reactors have received and sent.
    pub(crate) bytes: u64,
    /// Calls of `recv` and `send`.
    pub(crate) calls: u64,
    /// Calls that were cut short, refused or interrupted.
    pub(crate) interfered: u64,
    /// Connections that broke.
    pub(crate) broken: u64,
    /// Virtual time, in microseconds.
    pub(crate) micros: u64,
}

thread_local! {
    /// The counts of this thread's ended simulations.
    static ENDED: RefCell<Tally> = RefCell::default();
}

impl Tally {
    /// Adds the counts of a simulation that ends to those of its thread.
    pub(crate) fn hand_in(&self) {
        // While the thread ends, its counts are gone already.
        let _ = ENDED.try_with(|ended| *ended.borrow_mut() += *self);
    }

    /// Returns the counts of this thread's ended simulations, and resets them.
    pub(crate) fn collect() -> Self {
        ENDED.take()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.calls += other.calls;
        self.interfered += other.interfered;
        self.broken += other.broken;
        self.micros += other.micros;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = Duration::from_micros(self.micros).as_secs() / 3600;
        write!(
            f,
            "{} seeds, {} connections, {} KiB, {} hours of virtual time; \
             of {} calls {} were cut short, refused or interrupted, and {} connections broke",
            Grouped(self.seeds),
            Grouped(self.connections),
            Grouped(self.bytes >> 10),
            Grouped(hours),
            Grouped(self.calls),
            Grouped(self.interfered),
            Grouped(self.broken),
        )
    }
}

/// Prints a number with a comma between thousands.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1000 {
            0 => write!(f, "{}", self.0),
            more => write!(f, "{},{:03}", Grouped(more), self.0 % 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let text = |n| Grouped(n).to_string();
        assert_eq!(
            [0, 999, 1000, 1_002_034].map(text),
            ["0", "999", "1,000", "1,002,034"]
        );
    }
}
