//! The duration of past turns. An event with the time of a turn's beginning may have happened as late as the turn's end.

use std::collections::VecDeque;

/// The record of long turns. It returns the longest turn since any moment, in milliseconds.
///
/// It keeps a record of each turn that no later one has exceeded. With more than [`MAX`] of them it merges records, so that it
/// may return a longer duration than the true one, never a shorter one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The beginning and the duration of turns. Later turns are shorter.
    records: VecDeque<(u64, u64)>,
}

const MAX: usize = 32;

impl Turns {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Records a turn that began at `began` and took `took`. It is later than all recorded turns.
    pub(crate) fn record(&mut self, began: u64, took: u64) {
        while self.records.back().is_some_and(|(_, of)| *of <= took) {
            self.records.pop_back();
        }
        if self.records.len() < MAX {
            self.records.push_back((began, took));
        } else if let Some(last) = self.records.back_mut() {
            last.0 = began;
        }
    }

    /// Returns the duration of the longest turn that began at `moment` or later, or 0 if none is recorded.
    pub(crate) fn longest_since(&self, moment: u64) -> u64 {
        let record = self.records.iter().find(|(began, _)| *began >= moment);
        record.map_or(0, |(_, took)| *took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_since_a_moment_is_known() {
        let mut turns = Turns::new();
        let noted = [(10, 5), (20, 80), (100, 7), (110, 9), (130, 3)];
        for (began, took) in noted {
            turns.record(began, took);
        }
        for moment in 0..140 {
            let since = noted.iter().filter(|(began, _)| *began >= moment);
            let longest = since.map(|(_, took)| *took).max().unwrap_or(0);
            assert_eq!(turns.longest_since(moment), longest, "since {moment}");
        }
    }

    #[test]
    fn it_takes_no_more_room_than_is_said_and_never_tells_too_little() {
        let mut turns = Turns::new();
        let noted = |n: u64| (n * 10, 1000 - n);
        for n in 0..500 {
            turns.record(noted(n).0, noted(n).1);
        }
        assert_eq!(turns.records.len(), MAX);
        for n in 0..500 {
            let (began, took) = noted(n);
            assert!(turns.longest_since(began) >= took);
        }
    }
}
