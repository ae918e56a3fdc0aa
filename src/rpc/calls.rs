//! The calls of a connection that wait for their replies. It has no clock: times are passed in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The calls that one side of a connection has sent, and the `seq`s of all its messages.
///
/// `T` is what is kept for each call.
pub(super) struct Calls<T> {
    /// The number of the next message.
    next: u64,
    open: HashMap<u64, Open<T>>,
    /// The numbers of calls whose `seq` the application has set.
    own: HashMap<Box<[u8]>, u64>,
    due: Deadlines,
    /// The number of calls that wait on all connections of the peer.
    total: Arc<AtomicUsize>,
}

/// A call without a reply.
pub(super) struct Open<T> {
    pub(super) value: T,
    pub(super) sent: Instant,
    own_seq: Option<Box<[u8]>>,
}

impl<T> Calls<T> {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            next: 0,
            open: HashMap::new(),
            own: HashMap::new(),
            due: Deadlines::default(),
            total,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns the number of calls that wait on all connections of the peer.
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the number for the `seq` of the next message. Numbers that a call of the application's has are skipped.
    pub(super) fn next_number(&mut self) -> u64 {
        loop {
            let number = self.next;
            self.next += 1;
            let is_taken = !self.own.is_empty()
                && self
                    .own
                    .contains_key(itoa::Buffer::new().format(number).as_bytes());
            if !is_taken {
                return number;
            }
        }
    }

    /// Returns true if a call with this `seq` waits for its reply.
    pub(super) fn contains(&self, seq: &[u8]) -> bool {
        self.find(seq).is_some()
    }

    /// Adds a call with the number that [`next_number`](Self::next_number) returned. Its `seq` is that number, or one of the
    /// application's that no call has yet.
    pub(super) fn insert(
        &mut self,
        number: u64,
        own_seq: Option<&[u8]>,
        value: T,
        now: Instant,
        timeout: Option<Duration>,
    ) {
        let own_seq: Option<Box<[u8]>> = own_seq.map(Into::into);
        if let Some(seq) = &own_seq {
            self.own.insert(seq.clone(), number);
        }
        let call = Open {
            value,
            sent: now,
            own_seq,
        };
        self.open.insert(number, call);
        self.total.fetch_add(1, Ordering::Relaxed);
        if let Some(by) = timeout.and_then(|timeout| now.checked_add(timeout)) {
            let open = &self.open;
            self.due
                .add(by, number, |number| open.contains_key(&number));
        }
    }

    /// Removes the call that a reply with this `seq` answers.
    pub(super) fn take(&mut self, seq: &[u8]) -> Option<Open<T>> {
        let number = self.find(seq)?;
        self.remove(number)
    }

    /// Removes a call by its number.
    pub(super) fn remove(&mut self, number: u64) -> Option<Open<T>> {
        let call = self.open.remove(&number)?;
        self.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(seq) = &call.own_seq {
            self.own.remove(seq);
        }
        if self.open.is_empty() {
            shrink(&mut self.open);
            shrink(&mut self.own);
            self.due.shrink();
        }
        Some(call)
    }

    /// Removes a call whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<(u64, Open<T>)> {
        loop {
            let number = self.due.take_expired(now)?;
            if let Some(call) = self.remove(number) {
                return Some((number, call));
            }
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.due.next(|number| self.open.contains_key(&number))
    }

    /// Removes all calls, the oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Open<T>> + use<T> {
        self.own.clear();
        self.due.clear();
        let mut calls: Vec<_> = self.open.drain().collect();
        self.total.fetch_sub(calls.len(), Ordering::Relaxed);
        calls.sort_unstable_by_key(|(number, _)| *number);
        calls.into_iter().map(|(_, call)| call)
    }

    /// Returns the numbers of the calls, the oldest first, for whose values `f` returns true.
    pub(super) fn numbers(&self, f: impl Fn(&T) -> bool) -> Vec<u64> {
        let open = self.open.iter().filter(|(_, call)| f(&call.value));
        let mut numbers: Vec<_> = open.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn find(&self, seq: &[u8]) -> Option<u64> {
        if !self.own.is_empty()
            && let Some(number) = self.own.get(seq)
        {
            return Some(*number);
        }
        let number = number(seq)?;
        let call = self.open.get(&number)?;
        call.own_seq.is_none().then_some(number)
    }
}

impl<T> Drop for Calls<T> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.open.len(), Ordering::Relaxed);
    }
}

/// The number of entries for which a table that is empty keeps memory. A session that was busy once is idle later, and there may
/// be many.
const KEPT: usize = 64;

/// Frees the memory of a table that is empty and was large.
#[inline]
pub(super) fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > 2 * KEPT {
        table.shrink_to(KEPT);
    }
}

/// Returns the number that a `seq` is the decimal form of.
fn number(seq: &[u8]) -> Option<u64> {
    let is_canonical = match seq {
        [b'0'] => true,
        [first, ..] => *first != b'0' && seq.len() <= 20,
        [] => false,
    };
    if !is_canonical {
        return None;
    }
    seq.iter().try_fold(0u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Deadlines by number. An entry whose number is no longer of interest stays until it is due or until such entries are the
/// majority.
#[derive(Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl Deadlines {
    /// Adds a deadline. `is_open` tells which numbers are of interest.
    pub(super) fn add(&mut self, by: Instant, number: u64, is_open: impl Fn(u64) -> bool) {
        if self.heap.len() == self.heap.capacity() {
            // Before it grows, the entries that are no longer of interest go. It grows if these are few, so that this is rare.
            self.heap.retain(|Reverse((_, number))| is_open(*number));
            if self.heap.len() > self.heap.capacity() / 2 {
                self.heap.reserve(self.heap.len());
            }
        }
        self.heap.push(Reverse((by, number)));
    }

    fn clear(&mut self) {
        self.heap.clear();
    }

    /// Frees the memory of many deadlines, when none of them is of interest any more.
    #[inline]
    pub(super) fn shrink(&mut self) {
        if self.heap.capacity() > 2 * KEPT {
            self.heap = BinaryHeap::new();
        }
    }

    /// Removes a number whose deadline has passed. It may be of no interest any more.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<u64> {
        let Reverse((by, _)) = self.heap.peek()?;
        if *by > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, number))| number)
    }

    /// Returns the earliest deadline.
    pub(super) fn next(&mut self, is_open: impl Fn(u64) -> bool) -> Option<Instant> {
        while let Some(Reverse((by, number))) = self.heap.peek() {
            if is_open(*number) {
                return Some(*by);
            }
            self.heap.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_large_keeps_little_memory_once_it_is_empty() {
        let mut calls = Calls::new(Arc::default());
        let now = Instant::now();
        let timeout = Some(Duration::from_secs(30));
        for _ in 0..65_536 {
            let number = calls.next_number();
            calls.insert(number, None, (), now, timeout);
        }
        for number in 0..65_536 {
            calls.remove(number).expect("is open");
        }
        assert!(calls.open.capacity() <= 2 * KEPT);
        assert!(calls.due.heap.capacity() <= 2 * KEPT);
    }
}
