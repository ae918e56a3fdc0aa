use std::fmt;

use super::fanout::{Fanout, QUEUE};
use super::{BusStats, EventBus, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;
use crate::metrics::{Expose, Exposition};

/// An event bus in memory, for servers that are in one process, and for tests. Clones share it.
///
/// Each subscription has a thread, and a queue of 1,024 messages. There are at most 1,024 subscriptions. A message is delivered at
/// most once.
#[derive(Clone)]
pub struct MemoryEventBus(Fanout);

impl MemoryEventBus {
    /// Returns a bus whose subscribers have queues of 1,024 messages, of which the oldest are dropped.
    pub fn new() -> Self {
        Self::with_queue(QUEUE, WhenFull::default())
    }

    /// Returns a bus whose subscribers have queues of so many messages, at least 1.
    pub fn with_queue(messages: usize, when_full: WhenFull) -> Self {
        Self(Fanout::new(messages, when_full))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.stats()
    }
}

impl Default for MemoryEventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Expose for MemoryEventBus {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.stats().expose(labels, to);
    }
}

impl EventBus for MemoryEventBus {
    /// Calls of one thread keep their order. A handler never waits for its own queue, also with [`WhenFull::Block`]: when it publishes to
    /// its topic, the queue can be 16 times as long, and then the oldest message is dropped.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        self.0.count_published();
        self.0.deliver(topic, || Message::new(topic, payload), None);
        Ok(())
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        check(topic)?;
        Ok(Subscription::new(self.0.subscribe(topic, handler)?))
    }
}

impl fmt::Debug for MemoryEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEventBus")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
