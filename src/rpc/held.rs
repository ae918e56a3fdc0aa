//! Messages that wait while their session has no connection. It has no clock: times are passed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::calls::Deadlines;
use super::outgoing::{CallState, Outgoing};
use super::session::Home;

/// The calls and pushes of a session that redials, in the order in which they will be sent.
pub(super) struct Held {
    next: u64,
    open: BTreeMap<u64, Outgoing>,
    due: Deadlines,
    /// Knows how many of them are pushes.
    home: Arc<Home>,
    /// The number of calls that wait on all sessions of the peer.
    total: Arc<AtomicUsize>,
}

/// The numbers of messages that wait begin here, so that they differ from those of calls on a connection.
const FIRST: u64 = 1 << 63;

impl Held {
    pub(super) fn new(home: Arc<Home>, total: Arc<AtomicUsize>) -> Self {
        Self {
            next: FIRST,
            open: BTreeMap::new(),
            due: Deadlines::default(),
            home,
            total,
        }
    }

    /// Returns the number of calls.
    pub(super) fn calls(&self) -> usize {
        self.open.len() - self.home.held_pushes()
    }

    /// Returns the number of pushes.
    pub(super) fn pushes(&self) -> usize {
        self.home.held_pushes()
    }

    /// Returns the number of calls that wait on all sessions of the peer.
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Adds a message at the end. The timeout of a call counts from `now`.
    pub(super) fn add(&mut self, mut outgoing: Outgoing, now: Instant) {
        let number = self.next;
        self.next += 1;
        let mut deadline = None;
        match &mut outgoing.call {
            Some(call) => {
                let by = (call.timeout.take()).and_then(|timeout| now.checked_add(timeout));
                call.deadline = by.into_iter().chain(call.deadline).min();
                deadline = call.deadline;
                call.waiter.sent(number);
                self.total.fetch_add(1, Ordering::Relaxed);
            }
            None => self.home.add_push(),
        }
        self.open.insert(number, outgoing);
        if let Some(by) = deadline {
            let open = &self.open;
            self.due
                .add(by, number, |number| open.contains_key(&number));
        }
    }

    /// Removes a call that its caller cancels.
    pub(super) fn cancel(&mut self, call: &CallState) -> Option<Outgoing> {
        self.remove(call.number()?)
    }

    /// Removes a call whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Outgoing> {
        loop {
            let number = self.due.take_expired(now)?;
            if let Some(outgoing) = self.remove(number) {
                return Some(outgoing);
            }
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.due.next(|number| self.open.contains_key(&number))
    }

    /// Removes all messages, the oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Outgoing> {
        let mut all = Vec::with_capacity(self.open.len());
        while let Some((&number, _)) = self.open.first_key_value() {
            all.extend(self.remove(number));
        }
        self.due = Deadlines::default();
        all
    }

    fn remove(&mut self, number: u64) -> Option<Outgoing> {
        let outgoing = self.open.remove(&number)?;
        match &outgoing.call {
            Some(_) => drop(self.total.fetch_sub(1, Ordering::Relaxed)),
            None => self.home.remove_push(),
        }
        Some(outgoing)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}
