//! The calls of a connection that this side has not answered yet. It has no clock: times are passed in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::calls::{Deadlines, shrink};
use super::cancellation::Cancellation;
use super::context::{Incoming, Kept};
use super::plugin::Plugins;
use super::wire::{Kind, Message};
use super::working::Working;

/// The calls whose handlers reply later.
pub(super) struct Deferred {
    next: u64,
    open: HashMap<u64, DeferredCall>,
    due: Deadlines,
    /// The number of handlers at work. It includes those whose callers no longer wait.
    working: Arc<AtomicUsize>,
    /// The number of handlers at work for all connections of the peer.
    total: Arc<AtomicUsize>,
}

/// A call whose caller waits.
pub(super) struct DeferredCall {
    /// The reply without its body.
    pub(super) reply: Message<'static>,
    /// Set once the caller no longer waits.
    cancelled: Arc<Cancellation>,
    /// The number of the handler's task, if it is a future.
    pub(super) task: Option<u64>,
    /// The place of the route in the statistics.
    pub(super) meter: usize,
    /// The moment of the call's arrival, if times are counted.
    pub(super) began: Option<u64>,
    /// The plugins that see the reply, and the call.
    pub(super) seen: Option<Box<(Arc<Plugins>, Incoming<'static>)>>,
}

impl Deferred {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            next: 0,
            open: HashMap::new(),
            due: Deadlines::default(),
            working: Arc::default(),
            total,
        }
    }

    /// Returns the number of callers that wait.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns the number of handlers at work.
    pub(super) fn working(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    /// Returns the number of handlers at work for all connections of the peer.
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Adds a call. Returns its number.
    pub(super) fn add(
        &mut self,
        reply: Message<'static>,
        cancelled: Arc<Cancellation>,
        task: Option<u64>,
        deadline: Option<Instant>,
        (meter, began): (usize, Option<u64>),
        kept: Kept,
    ) -> (u64, Working) {
        let number = self.next;
        self.next += 1;
        let call = DeferredCall {
            reply,
            cancelled,
            task,
            meter,
            began,
            seen: None,
        };
        self.open.insert(number, call);
        if let Some(by) = deadline {
            let open = &self.open;
            self.due
                .add(by, number, |number| open.contains_key(&number));
        }
        (number, Working::new([&self.working, &self.total], kept))
    }

    /// Sets the plugins that see the reply, and the call.
    pub(super) fn set_seen(&mut self, number: u64, seen: Box<(Arc<Plugins>, Incoming<'static>)>) {
        if let Some(call) = self.open.get_mut(&number) {
            call.seen = Some(seen);
        }
    }

    /// Removes a call that gets its reply now.
    pub(super) fn take(&mut self, number: u64) -> Option<DeferredCall> {
        let call = self.open.remove(&number)?;
        if self.open.is_empty() {
            shrink(&mut self.open);
            self.due.shrink();
        }
        Some(call)
    }

    /// Removes the call with this `seq`, whose caller has cancelled it.
    pub(super) fn cancel(&mut self, seq: &[u8]) -> Option<DeferredCall> {
        let same = (self.open.iter()).filter(|(_, call)| *call.reply.seq == *seq);
        // The peer may have used a `seq` twice.
        let number = same.map(|(number, _)| *number).min()?;
        self.take(number).inspect(DeferredCall::cancel)
    }

    /// Removes a call whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<DeferredCall> {
        loop {
            let number = self.due.take_expired(now)?;
            if let Some(call) = self.take(number) {
                call.cancel();
                return Some(call);
            }
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.due.next(|number| self.open.contains_key(&number))
    }

    /// Removes all calls, since their connection has closed.
    pub(super) fn cancel_all(&mut self) -> impl Iterator<Item = DeferredCall> {
        let mut calls: Vec<_> = self.open.drain().collect();
        calls.sort_unstable_by_key(|(number, _)| *number);
        (calls.into_iter()).map(|(_, call)| {
            call.cancel();
            call
        })
    }
}

impl DeferredCall {
    /// Takes the reply without its body.
    pub(super) fn take_reply(&mut self) -> Message<'static> {
        std::mem::replace(&mut self.reply, Message::new(Kind::Reply))
    }

    fn cancel(&self) {
        self.cancelled.cancel();
    }
}
