//! The event bus: messages from any server of the cluster to all that subscribed to a topic.
//!
//! ```
//! use std::sync::mpsc;
//! use epicycle::cluster::eventbus::{EventBus, MemoryEventBus};
//! use epicycle::cluster::to_text;
//!
//! let bus = MemoryEventBus::new();
//! let (sender, logins) = mpsc::channel();
//! let subscription = bus.subscribe("login", Box::new(move |message| {
//!     let _ = sender.send(message.parse::<i64>());
//! }))?;
//! bus.publish("login", &to_text(&7)?)?;
//! assert_eq!(logins.recv()??, 7);
//! // No more messages come after the subscription is dropped.
//! drop(subscription);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod fanout;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(
    feature = "kafka",
    feature = "nats",
    feature = "rabbitmq",
    feature = "redis"
))]
mod remote;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, from_text};
use crate::metrics::{Expose, Exposition};

#[cfg(feature = "kafka")]
pub use self::kafka::KafkaEventBus;
pub use self::memory::MemoryEventBus;
#[cfg(feature = "nats")]
pub use self::nats::NatsEventBus;
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::RabbitMqEventBus;
#[cfg(feature = "redis")]
pub use self::redis::RedisEventBus;

/// An event bus. Its calls may block, so they belong on a worker pool and not on a reactor.
///
/// The messages of a topic come to each subscriber in the order in which they were published. A handler that panics costs its
/// message only.
pub trait EventBus: Send + Sync + 'static {
    /// Publishes a message. [`to_text`](super::to_text) makes the payload of a value.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the topic is empty, and [`Error::Backend`] if the backend cannot be reached.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error>;

    /// Calls a handler for each message of a topic, on a thread of the bus, until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if the topic is empty, [`Error::Busy`] if there are too many subscriptions, and
    /// [`Error::Backend`] if the backend cannot be reached.
    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error>;
}

/// The treatment of messages for a subscriber whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The oldest is dropped and counted.
    #[default]
    DropOldest,
    /// Whoever brings the message waits until there is room: the publisher of a bus in memory, the thread of the subscriptions
    /// of a backend.
    Block,
}

/// Counters of an event bus in this process, from its start.
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

impl Expose for BusStats {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        for (name, help, value) in [
            ("published", "Messages published.", self.published),
            (
                "delivered",
                "Messages that handlers were called with.",
                self.delivered,
            ),
            (
                "dropped",
                "Messages dropped since a subscriber's queue was full.",
                self.dropped,
            ),
            ("panics", "Panics of handlers.", self.panics),
        ] {
            let name = format!("epicycle_bus_{name}_total");
            to.counter(&name, help, labels, value as f64);
        }
        let (name, help) = ("epicycle_bus_subscriptions", "Subscriptions now.");
        to.gauge(name, help, labels, self.subscriptions as f64);
    }
}

/// The function that a subscription calls.
pub type Handler = Box<dyn FnMut(&Message) + Send>;

/// A message, as it is in the backends too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its id: a UUID.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Its content as text.
    pub payload: String,
    /// The time at which it was published, in nanoseconds since 1970.
    pub timestamp: i64,
}

impl Message {
    /// Returns a new message, of this moment.
    fn new(topic: &str, payload: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: super::new_uuid(),
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            timestamp: now.map_or(0, |now| now.as_nanos() as i64),
        }
    }

    /// Returns the payload as a value.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if it is not the text of such a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        from_text(&self.payload)
    }

    /// Reads the JSON that backends carry.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if it is not a message.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(json).map_err(|error| Error::Codec(Arc::new(error)))
    }

    /// Returns the JSON that backends carry.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if memory runs out.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Codec(Arc::new(error)))
    }
}

/// Ends a subscription when it is dropped. A message that the handler has begun is finished; those that wait are not begun.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    _end: Box<dyn Any + Send + Sync>,
}

impl Subscription {
    /// Returns a subscription that ends when `end` is dropped, for those who implement a backend.
    pub fn new(end: impl Any + Send + Sync) -> Self {
        Self {
            _end: Box::new(end),
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// Checks a topic.
pub(super) fn check(topic: &str) -> Result<(), Error> {
    if topic.is_empty() {
        return Err(Error::argument(
            "topic",
            "it is empty; give the topic a name",
        ));
    }
    Ok(())
}
