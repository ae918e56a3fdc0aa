use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fanout::{Fanout, QUEUE};
use super::remote::{Carrier, Remote};
use super::{BusStats, EventBus, Handler, Subscription, WhenFull};
use crate::cluster::Error;
use crate::cluster::backends::{Listener, Redis, Subscriptions};
use crate::metrics::{Expose, Exposition};

/// An event bus on Redis, in the format of due: a topic is the channel `due:eventbus:TOPIC`. Clones share it.
///
/// A message is delivered at most once: what is published while Redis, or the connection to it, is lost does not come later. Each
/// subscription has a thread and a queue of 1,024 messages.
#[derive(Clone, Debug)]
pub struct RedisEventBus(Arc<Remote<Channels>>);

struct Channels {
    redis: Redis,
    prefix: String,
    /// The connection for subscriptions, from the first one on.
    subscriptions: Mutex<Option<Arc<Subscriptions>>>,
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
        let channels = Channels {
            redis: redis.clone(),
            prefix: prefix.to_owned(),
            subscriptions: Mutex::default(),
        };
        Self(Remote::new(channels, messages, when_full))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.stats()
    }
}

impl Channels {
    fn channel(&self, topic: &str) -> String {
        format!("{}:{topic}", self.prefix)
    }

    fn subscriptions(&self, fanout: &Fanout) -> Result<Arc<Subscriptions>, Error> {
        let mut subscriptions = self.subscriptions.lock();
        if let Some(subscriptions) = &*subscriptions {
            return Ok(subscriptions.clone());
        }
        let incoming = Incoming {
            prefix: self.channel(""),
            fanout: fanout.clone(),
        };
        let started = Subscriptions::start(&self.redis, &self.prefix, [], incoming)?;
        Ok(subscriptions.insert(Arc::new(started)).clone())
    }
}

impl Carrier for Channels {
    type Subscription = Channel;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.channel(topic)).arg(json);
        self.redis.query(&publish)
    }

    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<Channel, Error> {
        let (subscriptions, name) = (self.subscriptions(fanout)?, self.channel(topic));
        subscriptions.add(&name, TIMEOUT)?;
        Ok(Channel {
            subscriptions,
            name,
        })
    }

    fn confirm(&self, channel: &Channel) -> Result<(), Error> {
        channel.subscriptions.confirm(&channel.name, TIMEOUT)
    }
}

impl Expose for RedisEventBus {
    /// Adds the counters, and the state of the backend.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.stats().expose(labels, to);
        self.0.carrier.redis.expose(labels, to);
    }
}

impl EventBus for RedisEventBus {
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        self.0.publish(topic, payload)
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        self.0.subscribe(topic, handler)
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
            self.fanout.deliver_json("redis", topic, payload, None);
        }
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels")
            .field("redis", &self.redis)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
