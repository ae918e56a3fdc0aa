use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::{BusStats, Handler, Message, WhenFull};
use crate::cluster::Error;
use crate::panic;

/// The subscribers of this process. Each has a queue and a thread.
#[derive(Clone)]
pub(super) struct Fanout(Arc<Shared>);

struct Shared {
    queue: usize,
    when_full: WhenFull,
    topics: Mutex<Topics>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Topics {
    by_name: HashMap<String, Vec<Arc<Subscriber>>>,
    count: usize,
}

#[derive(Default)]
struct Counters {
    published: AtomicU64,
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
    waiting: VecDeque<Arc<Delivery>>,
    /// The handler waits for whoever brings messages, who must not wait for it in turn.
    is_awaited: bool,
    over: Option<Over>,
}

/// The end of a subscription.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    /// It was the last one of its topic in this process. What it has not handled shall come again.
    Last,
    /// Others go on, and wait for nothing from this one.
    OneOfSeveral,
}

/// A message on its way to its subscribers.
struct Delivery {
    message: Message,
    /// The subscribers that have not handled it.
    left: AtomicUsize,
    done: Option<Done>,
}

/// Tells a backend that a message was handled by all of its subscribers.
pub(super) type Done = Box<dyn Fn() + Send + Sync>;

/// The default length of a subscriber's queue.
pub(super) const QUEUE: usize = 1024;
/// The maximum number of subscriptions.
const MAX: usize = 1024;
/// A queue for which nobody may wait can be so many times as long as it should.
const GROWTH: usize = 16;

thread_local! {
    /// The subscriber whose handler runs on this thread.
    static CURRENT: RefCell<Option<Arc<Subscriber>>> = const { RefCell::new(None) };
}

impl Fanout {
    pub(super) fn new(queue: usize, when_full: WhenFull) -> Self {
        Self(Arc::new(Shared {
            queue: queue.max(1),
            when_full,
            topics: Mutex::default(),
            counters: Arc::default(),
        }))
    }

    /// Counts a message that this process publishes.
    pub(super) fn count_published(&self) {
        self.0.counters.published.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a message to the subscribers of a topic. `done` is called when all have handled it that have not ended. It is not called if
    /// a queue has dropped it, or the last subscription has ended before.
    pub(super) fn deliver(
        &self,
        topic: &str,
        message: impl FnOnce() -> Message,
        done: Option<Done>,
    ) {
        let shared = &*self.0;
        let Some(subscribers) = shared.topics.lock().by_name.get(topic).cloned() else {
            return;
        };
        let delivery = Arc::new(Delivery {
            message: message(),
            left: AtomicUsize::new(subscribers.len()),
            done,
        });
        for subscriber in subscribers {
            let dropped = subscriber.push(delivery.clone(), shared.queue, shared.when_full);
            (shared.counters.dropped).fetch_add(dropped.into(), Ordering::Relaxed);
        }
    }

    /// Calls a handler for each message of a topic, until the returned value is dropped.
    pub(super) fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscribed, Error> {
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
        thread.map_err(|error| {
            Error::backend(
                "event bus",
                format!("no thread for a subscription: {error}"),
            )
        })?;
        let others = topics.by_name.entry(topic.to_owned()).or_default();
        others.push(subscriber.clone());
        topics.count += 1;
        Ok(Subscribed {
            bus: Arc::downgrade(&self.0),
            topic: topic.to_owned(),
            subscriber,
        })
    }

    pub(super) fn stats(&self) -> BusStats {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusStats {
            published: read(&counters.published),
            delivered: read(&counters.delivered),
            dropped: read(&counters.dropped),
            panics: read(&counters.panics),
            subscriptions: self.0.topics.lock().count as u64,
        }
    }
}

impl Subscriber {
    /// Returns true if another message was dropped for this one.
    fn push(&self, delivery: Arc<Delivery>, max: usize, when_full: WhenFull) -> bool {
        let mut state = self.state.lock();
        let is_own = CURRENT.with_borrow(|current| {
            current
                .as_ref()
                .is_some_and(|current| std::ptr::eq(&**current, self))
        });
        let grown = max.saturating_mul(GROWTH);
        while when_full == WhenFull::Block
            && !is_own
            && state.over.is_none()
            && state.waiting.len() >= if state.is_awaited { grown } else { max }
        {
            self.changed.wait(&mut state);
        }
        if let Some(over) = state.over {
            drop(state);
            if over == Over::OneOfSeveral {
                delivery.finish();
            }
            return false;
        }
        let most = match when_full {
            WhenFull::Block => grown,
            WhenFull::DropOldest => max,
        };
        let dropped = state.waiting.len() >= most;
        if dropped {
            state.waiting.pop_front();
        }
        state.waiting.push_back(delivery);
        drop(state);
        self.changed.notify_all();
        dropped
    }

    fn run(self: Arc<Self>, mut handler: Handler, counters: &Counters) {
        CURRENT.set(Some(self.clone()));
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && state.over.is_none() {
                self.changed.wait(&mut state);
            }
            if state.over.is_some() {
                return;
            }
            let delivery = state.waiting.pop_front();
            drop(state);
            self.changed.notify_all();
            let Some(delivery) = delivery else {
                continue;
            };
            counters.delivered.fetch_add(1, Ordering::Relaxed);
            let what = "the handler of a subscription";
            if panic::catch("epicycle::cluster", what, || handler(&delivery.message)) {
                counters.panics.fetch_add(1, Ordering::Relaxed);
            }
            delivery.finish();
        }
    }

    /// Ends the subscription.
    fn end(&self, over: Over) {
        let mut state = self.state.lock();
        state.over = Some(over);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        if over == Over::OneOfSeveral {
            waiting.iter().for_each(|delivery| delivery.finish());
        }
    }
}

impl Delivery {
    /// One of the subscribers is done with it.
    fn finish(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = &self.done
        {
            done();
        }
    }
}

/// Does `work`. If it is a handler that calls this, its queue may grow meanwhile, so that whoever brings it messages does not wait for it.
#[cfg(any(
    feature = "kafka",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
pub(super) fn with_room<R>(work: impl FnOnce() -> R) -> R {
    let current = CURRENT.with_borrow(Clone::clone);
    if let Some(current) = &current {
        current.state.lock().is_awaited = true;
        current.changed.notify_all();
    }
    let result = work();
    if let Some(current) = &current {
        current.state.lock().is_awaited = false;
    }
    result
}

/// A subscription. Its drop ends it.
pub(super) struct Subscribed {
    bus: Weak<Shared>,
    topic: String,
    subscriber: Arc<Subscriber>,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let mut over = Over::Last;
        if let Some(bus) = self.bus.upgrade() {
            let mut topics = bus.topics.lock();
            if let Some(others) = topics.by_name.get_mut(&self.topic) {
                others.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
                match others.is_empty() {
                    true => drop(topics.by_name.remove(&self.topic)),
                    false => over = Over::OneOfSeveral,
                }
            }
            topics.count -= 1;
        }
        self.subscriber.end(over);
    }
}
