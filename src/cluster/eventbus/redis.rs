use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fanout::{Fanout, QUEUE};
use super::remote::Remote;
use super::{BusStats, EventBus, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;
use crate::cluster::backends::{Listener, Redis, Subscriptions};

/// An event bus on Redis, in the format of due: a topic is the channel `due:eventbus:TOPIC`. Clones share it.
///
/// A message is delivered at most once: what is published while Redis, or the connection to it, is lost does not come later. Each
/// subscription has a thread and a queue of 1,024 messages.
#[derive(Clone)]
pub struct RedisEventBus {
    redis: Redis,
    prefix: Arc<str>,
    remote: Arc<Remote<Channel>>,
    /// The connection for subscriptions, from the first one on.
    subscriptions: Arc<Mutex<Option<Arc<Subscriptions>>>>,
}

/// The time within which Redis must confirm a subscription.
const TIMEOUT: Duration = Duration::from_secs(3);

impl RedisEventBus {
    /// Returns a bus with the prefix of due, `due:eventbus`.
    pub fn new(redis: &Redis) -> Self {
        Self::with(redis, "due:eventbus", QUEUE, WhenFull::default())
    }

    /// Returns a bus whose channels begin with `PREFIX:`, and whose subscribers have queues of so many messages. With
    /// [`WhenFull::Block`] the connection waits for a full queue, and Redis closes it if too much waits.
    pub fn with(redis: &Redis, prefix: &str, messages: usize, when_full: WhenFull) -> Self {
        Self {
            redis: redis.clone(),
            prefix: prefix.into(),
            remote: Arc::new(Remote::new(Fanout::new(messages, when_full))),
            subscriptions: Arc::default(),
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.remote.fanout.stats()
    }

    fn channel(&self, topic: &str) -> String {
        format!("{}:{topic}", self.prefix)
    }

    fn subscriptions(&self) -> Result<Arc<Subscriptions>, Error> {
        let mut subscriptions = self.subscriptions.lock();
        if let Some(subscriptions) = &*subscriptions {
            return Ok(subscriptions.clone());
        }
        let incoming = Incoming {
            prefix: self.channel(""),
            fanout: self.remote.fanout.clone(),
        };
        let started = Arc::new(Subscriptions::start(
            &self.redis,
            &self.prefix,
            [],
            incoming,
        )?);
        Ok(subscriptions.insert(started).clone())
    }
}

impl EventBus for RedisEventBus {
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.channel(topic));
        publish.arg(Message::new(topic, payload).to_json()?);
        let () = self.redis.query(&publish)?;
        self.remote.fanout.count_published();
        Ok(())
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        check(topic)?;
        self.remote.subscribe(topic, handler, || {
            let (subscriptions, name) = (self.subscriptions()?, self.channel(topic));
            subscriptions.add(&name, TIMEOUT)?;
            Ok(Channel {
                subscriptions,
                name,
            })
        })
    }
}

/// A channel that is subscribed to, until this is dropped.
struct Channel {
    subscriptions: Arc<Subscriptions>,
    name: String,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.subscriptions.remove(&self.name);
    }
}

/// The receiver of the messages from Redis.
struct Incoming {
    prefix: String,
    fanout: Fanout,
}

impl Listener for Incoming {
    fn on_message(&self, channel: &str, payload: &[u8]) {
        if let Some(topic) = channel.strip_prefix(&self.prefix) {
            self.fanout.deliver_json("redis", topic, payload);
        }
    }
}

impl fmt::Debug for RedisEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventBus")
            .field("redis", &self.redis)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
