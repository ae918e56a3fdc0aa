use std::sync::Arc;

use super::fanout::{Fanout, QUEUE};
use super::remote::{Carrier, Remote};
use super::{BusStats, EventBus, Handler, Subscription, WhenFull};
use crate::cluster::Error;
use crate::cluster::backends::{Nats, NatsSubscription};
use crate::metrics::{Expose, Exposition};

/// An event bus on NATS, in the format of due: a topic is the subject `due:eventbus:TOPIC`. Clones share it.
///
/// A message is delivered at most once: what is published while NATS, or the connection to it, is lost does not come later. Each
/// subscription has a thread and a queue of 1,024 messages. A topic has no spaces, no `*` and no `>`.
#[derive(Clone, Debug)]
pub struct NatsEventBus(Arc<Remote<Subjects>>);

#[derive(Debug)]
struct Subjects {
    nats: Nats,
    prefix: String,
}

impl NatsEventBus {
    /// Returns a bus with the prefix of due, `due:eventbus`.
    pub fn new(nats: &Nats) -> Self {
        Self::with(nats, "due:eventbus", QUEUE, WhenFull::default())
    }

    /// Returns a bus whose subjects begin with `PREFIX:`, and whose subscribers have queues of so many messages. With
    /// [`WhenFull::Block`] the connection waits for a full queue, and NATS closes it if that takes long.
    pub fn with(nats: &Nats, prefix: &str, messages: usize, when_full: WhenFull) -> Self {
        let subjects = Subjects {
            nats: nats.clone(),
            prefix: prefix.to_owned(),
        };
        Self(Remote::new(subjects, messages, when_full))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.stats()
    }
}

impl Subjects {
    fn subject(&self, topic: &str) -> String {
        format!("{}:{topic}", self.prefix)
    }
}

impl Carrier for Subjects {
    type Subscription = NatsSubscription;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error> {
        self.nats.publish(&self.subject(topic), json.as_bytes())
    }

    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<NatsSubscription, Error> {
        let (fanout, topic_here) = (fanout.clone(), topic.to_owned());
        self.nats.subscribe(&self.subject(topic), move |payload| {
            fanout.deliver_json("nats", &topic_here, payload, None);
        })
    }

    fn confirm(&self, subscription: &NatsSubscription) -> Result<(), Error> {
        subscription.confirm()
    }
}

impl Expose for NatsEventBus {
    /// Adds the counters, and the state of the backend.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.stats().expose(labels, to);
        self.0.carrier.nats.expose(labels, to);
    }
}

impl EventBus for NatsEventBus {
    /// Returns when the message waits for the connection. Calls of one thread keep their order.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        self.0.publish(topic, payload)
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        self.0.subscribe(topic, handler)
    }
}
