use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fanout::{Fanout, QUEUE, Subscribed};
use super::{BusStats, EventBus, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;
use crate::cluster::backends::{Listener, Redis, Subscriptions};

/// An event bus on Redis, in the format of due: a topic is the channel `due:eventbus:TOPIC`. Clones share it.
///
/// A message is delivered at most once: what is published while Redis, or the connection to it, is lost does not come later. Each
/// subscription has a thread and a queue of 1,024 messages.
#[derive(Clone)]
pub struct RedisEventBus(Arc<Bus>);

struct Bus {
    redis: Redis,
    prefix: String,
    fanout: Fanout,
    /// Held while a subscription is begun or ended, so that the two cannot cross.
    subscriptions: Mutex<Option<Subscriptions>>,
}

/// The time within which Redis must confirm a subscription.
const TIMEOUT: Duration = Duration::from_secs(3);

impl RedisEventBus {
    /// Returns a bus with the prefix of due, `due:eventbus`.
    pub fn new(redis: &Redis) -> Self {
        Self::with(redis, "due:eventbus", QUEUE, WhenFull::default())
    }

    /// Returns a bus whose channels begin with `PREFIX:`, and whose subscribers have queues of so many messages.
    pub fn with(redis: &Redis, prefix: &str, messages: usize, when_full: WhenFull) -> Self {
        Self(Arc::new(Bus {
            redis: redis.clone(),
            prefix: prefix.to_owned(),
            fanout: Fanout::new(messages, when_full),
            subscriptions: Mutex::default(),
        }))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.fanout.stats()
    }
}

impl Bus {
    fn channel(&self, topic: &str) -> String {
        format!("{}:{topic}", self.prefix)
    }
}

impl EventBus for RedisEventBus {
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.0.channel(topic));
        publish.arg(Message::new(topic, payload).to_json()?);
        self.0
            .redis
            .run(|connection| publish.query::<()>(connection))?;
        self.0.fanout.count_published();
        Ok(())
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        check(topic)?;
        let bus = &self.0;
        let mut subscriptions = bus.subscriptions.lock();
        let subscriptions = match &mut *subscriptions {
            Some(subscriptions) => subscriptions,
            none => none.insert(Subscriptions::start(
                &bus.redis,
                &bus.prefix,
                [],
                Incoming {
                    prefix: bus.channel(""),
                    fanout: bus.fanout.clone(),
                },
            )?),
        };
        let is_first = !bus.fanout.has(topic);
        let subscribed = bus.fanout.subscribe(topic, handler)?;
        if is_first {
            subscriptions.add(&bus.channel(topic), TIMEOUT)?;
        }
        Ok(Subscription::new(Unsubscribe {
            subscribed: Some(subscribed),
            topic: topic.to_owned(),
            bus: bus.clone(),
        }))
    }
}

/// What comes from Redis.
struct Incoming {
    prefix: String,
    fanout: Fanout,
}

impl Listener for Incoming {
    fn on_message(&self, channel: &str, payload: &[u8]) {
        let Some(topic) = channel.strip_prefix(&self.prefix) else {
            return;
        };
        match Message::from_json(payload) {
            Ok(message) => self.fanout.deliver(topic, || message),
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "redis: {channel} carries no message of the bus: {error}");
            }
        }
    }
}

/// The end of a subscription.
struct Unsubscribe {
    subscribed: Option<Subscribed>,
    topic: String,
    bus: Arc<Bus>,
}

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        let subscriptions = self.bus.subscriptions.lock();
        drop(self.subscribed.take());
        if !self.bus.fanout.has(&self.topic)
            && let Some(subscriptions) = &*subscriptions
        {
            subscriptions.remove(&self.bus.channel(&self.topic));
        }
    }
}

impl fmt::Debug for RedisEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventBus")
            .field("redis", &self.0.redis)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
