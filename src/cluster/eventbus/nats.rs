use std::fmt;
use std::sync::Arc;

use super::fanout::{Fanout, QUEUE};
use super::remote::Remote;
use super::{BusStats, EventBus, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;
use crate::cluster::backends::{Nats, NatsSubscription};

/// An event bus on NATS, in the format of due: a topic is the subject `due:eventbus:TOPIC`. Clones share it.
///
/// A message is delivered at most once: what is published while NATS, or the connection to it, is lost does not come later. Each
/// subscription has a thread and a queue of 1,024 messages. A topic has no spaces, no `*` and no `>`.
#[derive(Clone)]
pub struct NatsEventBus {
    nats: Nats,
    prefix: Arc<str>,
    remote: Arc<Remote<NatsSubscription>>,
}

impl NatsEventBus {
    /// Returns a bus with the prefix of due, `due:eventbus`.
    pub fn new(nats: &Nats) -> Self {
        Self::with(nats, "due:eventbus", QUEUE, WhenFull::default())
    }

    /// Returns a bus whose subjects begin with `PREFIX:`, and whose subscribers have queues of so many messages. With
    /// [`WhenFull::Block`] the connection waits for a full queue, and NATS closes it if that takes long.
    pub fn with(nats: &Nats, prefix: &str, messages: usize, when_full: WhenFull) -> Self {
        Self {
            nats: nats.clone(),
            prefix: prefix.into(),
            remote: Arc::new(Remote::new(Fanout::new(messages, when_full))),
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> BusStats {
        self.remote.fanout.stats()
    }

    fn subject(&self, topic: &str) -> String {
        format!("{}:{topic}", self.prefix)
    }
}

impl EventBus for NatsEventBus {
    /// Returns when the message waits for the connection. Calls of one thread keep their order.
    fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        let message = Message::new(topic, payload).to_json()?;
        self.nats
            .publish(&self.subject(topic), message.as_bytes())?;
        self.remote.fanout.count_published();
        Ok(())
    }

    fn subscribe(&self, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        check(topic)?;
        self.remote.subscribe(topic, handler, || {
            let (fanout, topic_here) = (self.remote.fanout.clone(), topic.to_owned());
            self.nats.subscribe(&self.subject(topic), move |payload| {
                fanout.deliver_json("nats", &topic_here, payload);
            })
        })
    }
}

impl fmt::Debug for NatsEventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsEventBus")
            .field("nats", &self.nats)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
