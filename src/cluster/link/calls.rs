use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The calls of a lane that wait for their answers, each with the token of its caller.
pub(super) struct Calls<T> {
    waiting: HashMap<u64, Waiting<T>>,
    deadlines: BTreeSet<(Duration, u64)>,
    max: usize,
}

struct Waiting<T> {
    token: T,
    deadline: Duration,
}

impl<T> Calls<T> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            deadlines: BTreeSet::new(),
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.max
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.waiting.contains_key(&seq)
    }

    pub(super) fn insert(&mut self, seq: u64, token: T, deadline: Duration) {
        self.deadlines.insert((deadline, seq));
        self.waiting.insert(seq, Waiting { token, deadline });
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<T> {
        let Waiting { token, deadline } = self.waiting.remove(&seq)?;
        self.deadlines.remove(&(deadline, seq));
        Some(token)
    }

    /// Returns the earliest deadline.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Removes one whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Duration) -> Option<T> {
        let &(deadline, seq) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(seq)
    }

    /// Removes those that `gone` tells, in the order of their numbers.
    pub(super) fn take_if(&mut self, gone: impl Fn(u64) -> bool) -> Vec<T> {
        let seqs = self.waiting.keys().copied();
        let mut seqs: Vec<u64> = seqs.filter(|seq| gone(*seq)).collect();
        seqs.sort_unstable();
        seqs.into_iter()
            .filter_map(|seq| self.remove(seq))
            .collect()
    }
}
