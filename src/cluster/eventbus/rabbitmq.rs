use std::sync::Arc;

use super::fanout::Fanout;
use super::remote::{Carrier, Remote};
use super::{BusStats, EventBus, Handler, Subscription, WhenFull};
use crate::cluster::Error;
use crate::cluster::backends::{RabbitMq, RabbitMqSubscription};
use crate::metrics::{Expose, Exposition};

/// An event bus on RabbitMQ: a topic is a routing key of the topic exchange `due.eventbus`. Clones share it.
///
/// due names this bus, but has not built it. With a [group](crate::cluster::backends::RabbitMqBuilder::group), a message is delivered at
/// least once: it is acknowledged after all handlers of this process have returned, and comes again if the connection is lost before.
/// Without a group, what is published while the connection is lost does not come later. Each subscription has a thread, and a queue of
/// 1,024 messages; RabbitMQ keeps the rest.
#[derive(Clone, Debug)]
pub struct RabbitMqEventBus(Arc<Remote<Keys>>);

#[derive(Debug)]
struct Keys {
    rabbitmq: RabbitMq,
    messages: u16,
}

impl RabbitMqEventBus {
    /// Returns a bus.
    pub fn new(rabbitmq: &RabbitMq) -> Self {
        Self::with(rabbitmq, 1024)
    }

    /// Returns a bus whose subscribers have queues of so many messages, at least 1.
    pub fn with(rabbitmq: &RabbitMq, messages: u16) -> Self {
        let messages = messages.max(1);
        let keys = Keys {
            rabbitmq: rabbitmq.clone(),
            messages,
        };
        // No more come than fit.
        Self(Remote::new(keys, messages.into(), WhenFull::Block))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.stats()
    }
}

impl Carrier for Keys {
    type Subscription = RabbitMqSubscription;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error> {
        self.rabbitmq.publish(topic, json.as_bytes())
    }

    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<RabbitMqSubscription, Error> {
        let (fanout, topic_here) = (fanout.clone(), topic.to_owned());
        self.rabbitmq
            .subscribe(topic, self.messages, move |payload, delivery| {
                let done = Box::new(move || delivery.acknowledge());
                fanout.deliver_json("rabbitmq", &topic_here, payload, Some(done));
            })
    }

    fn confirm(&self, subscription: &RabbitMqSubscription) -> Result<(), Error> {
        subscription.confirm()
    }
}

impl Expose for RabbitMqEventBus {
    /// Adds the counters, and the state of the backend.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.stats().expose(labels, to);
        self.0.carrier.rabbitmq.expose(labels, to);
    }
}

impl EventBus for RabbitMqEventBus {
    /// Returns when RabbitMQ has the message. A topic has at most 255 bytes, and the stars and crosses of a subscription are patterns.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        self.0.publish(topic, payload)
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        self.0.subscribe(topic, handler)
    }
}
