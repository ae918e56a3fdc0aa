use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::{EventBus, Handler, Message, Subscription, check};
use crate::cluster::Error;
use crate::panic;

/// An event bus in memory, for servers that are in one process, and for tests. Clones share it.
///
/// Each subscription has a thread, and a queue of 1,024 messages. There are at most 1,024 subscriptions. A message is delivered at
/// most once.
#[derive(Clone, Default)]
pub struct MemoryEventBus(Arc<Bus>);

/// The treatment of messages for a subscriber whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The oldest is dropped and counted.
    #[default]
    DropOldest,
    /// The publisher waits until there is room.
    Block,
}

/// Counters of a [`MemoryEventBus`], from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusStats {
    /// Messages published.
    pub published: u64,
    /// Messages that handlers were called with, once for each subscriber.
    pub delivered: u64,
    /// Messages dropped since a subscriber's queue was full.
    pub dropped: u64,
    /// Panics of handlers.
    pub panics: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
}

#[derive(Default)]
struct Bus {
    queue: Option<usize>,
    when_full: WhenFull,
    topics: Mutex<Topics>,
    published: AtomicU64,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Topics {
    by_name: HashMap<String, Vec<Arc<Subscriber>>>,
    count: usize,
}

#[derive(Default)]
struct Counters {
    delivered: AtomicU64,
    dropped: AtomicU64,
    panics: AtomicU64,
}

struct Subscriber {
    state: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Message>>,
    over: bool,
}

/// The default length of a subscriber's queue.
const QUEUE: usize = 1024;
/// The maximum number of subscriptions.
const MAX: usize = 1024;

impl MemoryEventBus {
    /// Returns a bus whose subscribers have queues of 1,024 messages, of which the oldest are dropped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a bus whose subscribers have queues of so many messages, at least 1.
    pub fn with_queue(messages: usize, when_full: WhenFull) -> Self {
        Self(Arc::new(Bus {
            queue: Some(messages.max(1)),
            when_full,
            ..Bus::default()
        }))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusStats {
            published: read(&self.0.published),
            delivered: read(&self.0.counters.delivered),
            dropped: read(&self.0.counters.dropped),
            panics: read(&self.0.counters.panics),
            subscriptions: self.0.topics.lock().count as u64,
        }
    }
}

impl EventBus for MemoryEventBus {
    /// Calls of one thread keep their order. A handler that publishes to its own topic must not block: use
    /// [`WhenFull::DropOldest`].
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        let bus = &self.0;
        bus.published.fetch_add(1, Ordering::Relaxed);
        let subscribers = bus.topics.lock().by_name.get(topic).cloned();
        let Some(subscribers) = subscribers else {
            return Ok(());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let message = Arc::new(Message {
            id: crate::cluster::new_uuid(),
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            timestamp: now.map_or(0, |now| now.as_nanos() as i64),
        });
        for subscriber in subscribers {
            let dropped =
                subscriber.push(message.clone(), bus.queue.unwrap_or(QUEUE), bus.when_full);
            bus.counters
                .dropped
                .fetch_add(dropped.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        check(topic)?;
        let subscriber = Arc::new(Subscriber {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut topics = self.0.topics.lock();
        if topics.count == MAX {
            return Err(Error::Busy {
                what: "event bus's list of subscriptions",
            });
        }
        let (own, counters) = (subscriber.clone(), self.0.counters.clone());
        let thread = thread::Builder::new().name("epicycle-bus".to_owned());
        let thread = thread.spawn(move || own.run(handler, &counters));
        thread.map_err(|error| Error::Backend {
            backend: "event bus",
            problem: format!("no thread for a subscription: {error}"),
        })?;
        let others = topics.by_name.entry(topic.to_owned()).or_default();
        others.push(subscriber.clone());
        topics.count += 1;
        Ok(Subscription::new(Unsubscribe {
            bus: Arc::downgrade(&self.0),
            topic: topic.to_owned(),
            subscriber,
        }))
    }
}

impl Subscriber {
    /// Returns true if another message was dropped for this one.
    fn push(&self, message: Arc<Message>, max: usize, when_full: WhenFull) -> bool {
        let mut state = self.state.lock();
        while when_full == WhenFull::Block && state.waiting.len() >= max && !state.over {
            self.changed.wait(&mut state);
        }
        if state.over {
            return false;
        }
        let dropped = state.waiting.len() >= max;
        if dropped {
            state.waiting.pop_front();
        }
        state.waiting.push_back(message);
        drop(state);
        self.changed.notify_all();
        dropped
    }

    fn run(&self, mut handler: Handler, counters: &Counters) {
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.over {
                self.changed.wait(&mut state);
            }
            if state.over {
                return;
            }
            let message = state.waiting.pop_front();
            drop(state);
            self.changed.notify_all();
            let Some(message) = message else {
                continue;
            };
            counters.delivered.fetch_add(1, Ordering::Relaxed);
            let what = "the handler of a subscription";
            if panic::catch("epicycle::cluster", what, || handler(&message)) {
                counters.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The end of a subscription.
struct Unsubscribe {
    bus: Weak<Bus>,
    topic: String,
    subscriber: Arc<Subscriber>,
}

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            let mut topics = bus.topics.lock();
            if let Some(others) = topics.by_name.get_mut(&self.topic) {
                others.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
                if others.is_empty() {
                    topics.by_name.remove(&self.topic);
                }
            }
            topics.count -= 1;
        }
        self.subscriber.state.lock().over = true;
        self.subscriber.changed.notify_all();
    }
}

impl fmt::Debug for MemoryEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEventBus")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
