use std::sync::Arc;

use super::fanout::{Fanout, QUEUE};
use super::remote::{Carrier, Remote};
use super::{BusStats, EventBus, Handler, Subscription, WhenFull};
use crate::cluster::Error;
use crate::cluster::backends::{Kafka, KafkaSubscription};
use crate::metrics::{Expose, Exposition};

/// An event bus on Kafka, in the format of due: a topic is the topic `due.eventbus.TOPIC`. Clones share it.
///
/// With a [group](crate::cluster::backends::KafkaBuilder::group), a message is delivered at least once: its offset is committed within
/// a second after all handlers of this process have returned, so what was published while this process was away comes later, and what
/// was handled in the last second may come again. Without a group, it is delivered at most once. The messages of a topic keep their
/// order if the topic has one partition. Each subscription has a thread and a queue of 1,024 messages; when it is full, Kafka keeps the
/// rest.
#[derive(Clone, Debug)]
pub struct KafkaEventBus(Arc<Remote<Topics>>);

#[derive(Debug)]
struct Topics {
    kafka: Kafka,
    prefix: String,
}

impl KafkaEventBus {
    /// Returns a bus with the prefix of due, `due:eventbus`, of which Kafka gets dots in place of the colons.
    pub fn new(kafka: &Kafka) -> Self {
        Self::with(kafka, "due:eventbus", QUEUE, WhenFull::Block)
    }

    /// Returns a bus whose topics begin with `PREFIX.`, and whose subscribers have queues of so many messages.
    pub fn with(kafka: &Kafka, prefix: &str, messages: usize, when_full: WhenFull) -> Self {
        let topics = Topics {
            kafka: kafka.clone(),
            prefix: prefix.replace(':', "."),
        };
        Self(Remote::new(topics, messages, when_full))
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.0.stats()
    }
}

impl Topics {
    fn topic(&self, topic: &str) -> Result<String, Error> {
        let name = format!("{}.{topic}", self.prefix);
        let is_clean = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if name.len() > 249 || !name.chars().all(is_clean) {
            let problem = format!(
                "{name:?} is no topic of Kafka: use at most 249 letters, digits, dots, dashes and underscores"
            );
            return Err(Error::argument("topic", problem));
        }
        Ok(name)
    }
}

impl Carrier for Topics {
    type Subscription = KafkaSubscription;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error> {
        self.kafka.publish(&self.topic(topic)?, json.as_bytes())
    }

    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<KafkaSubscription, Error> {
        let (fanout, topic_here) = (fanout.clone(), topic.to_owned());
        self.kafka
            .subscribe(&self.topic(topic)?, move |payload, received| {
                let done = Box::new(move || received.commit());
                fanout.deliver_json("kafka", &topic_here, payload, Some(done));
            })
    }

    fn confirm(&self, subscription: &KafkaSubscription) -> Result<(), Error> {
        subscription.confirm()
    }
}

impl Expose for KafkaEventBus {
    /// Adds the counters, and the state of the backend.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.stats().expose(labels, to);
        self.0.carrier.kafka.expose(labels, to);
    }
}

impl EventBus for KafkaEventBus {
    /// Returns when the brokers have confirmed the message.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        self.0.publish(topic, payload)
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        self.0.subscribe(topic, handler)
    }
}
