use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fanout::{Done, Fanout, Subscribed, with_room};
use super::{BusStats, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;
use crate::cluster::keyed::Keyed;

/// An event bus at a backend, with one subscription there for each topic that has subscribers here.
pub(super) struct Remote<C: Carrier> {
    pub(super) carrier: C,
    fanout: Fanout,
    /// By name. It is not locked while the backend is called, so that the end of a subscription never waits for it.
    topics: Mutex<Topics<C>>,
    /// The topics whose subscription is being made.
    making: Keyed<String>,
}

type Topics<C> = HashMap<String, Topic<<C as Carrier>::Subscription>>;

struct Topic<S> {
    subscription: Option<Arc<S>>,
    /// Subscribers, and those that are about to be.
    users: usize,
}

/// A backend that carries messages.
pub(super) trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// Ends the subscription when it is dropped, without waiting for the backend. A new one may be made meanwhile.
    type Subscription: Send + Sync + 'static;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error>;

    /// Gives each message of a topic to `fanout`.
    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<Self::Subscription, Error>;

    /// Returns an error if messages do not come, since the backend is lost.
    fn confirm(&self, subscription: &Self::Subscription) -> Result<(), Error>;
}

impl<C: Carrier> Remote<C> {
    pub(super) fn new(carrier: C, messages: usize, when_full: WhenFull) -> Arc<Self> {
        Arc::new(Self {
            carrier,
            fanout: Fanout::new(messages, when_full),
            topics: Mutex::default(),
            making: Keyed::default(),
        })
    }

    pub(super) fn publish(&self, topic: &str, payload: &str) -> Result<(), Error> {
        check(topic)?;
        let message = Message::new(topic, payload).to_json()?;
        self.carrier.publish(topic, &message)?;
        self.fanout.count_published();
        Ok(())
    }

    /// Calls a handler for each message of a topic.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        handler: Handler,
    ) -> Result<Subscription, Error> {
        check(topic)?;
        // A backend's answer may be behind messages for the handler that calls this.
        with_room(|| self.add(topic, handler))
    }

    fn add(self: &Arc<Self>, topic: &str, handler: Handler) -> Result<Subscription, Error> {
        let unsubscribe = Unsubscribe {
            subscribed: Some(self.fanout.subscribe(topic, handler)?),
            topic: topic.to_owned(),
            remote: self.clone(),
        };
        let mut topics = self.topics.lock();
        topics.entry(topic.to_owned()).or_default().users += 1;
        drop(topics);
        let _turn = self.making.take("topic", topic.to_owned())?;
        let topics = self.topics.lock();
        let known = topics.get(topic);
        let known = known.and_then(|topic| topic.subscription.clone());
        drop(topics);
        match known {
            Some(known) => self.carrier.confirm(&known)?,
            None => {
                let new = Arc::new(self.carrier.subscribe(topic, &self.fanout)?);
                if let Some(topic) = self.topics.lock().get_mut(topic) {
                    topic.subscription = Some(new);
                }
            }
        }
        Ok(Subscription::new(unsubscribe))
    }

    pub(super) fn stats(&self) -> BusStats {
        self.fanout.stats()
    }
}

impl<C: Carrier> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("carrier", &self.carrier)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Fanout {
    /// Gives what a backend has brought to the subscribers of a topic. What is no message is logged. `done` is called when all have
    /// handled it.
    pub(super) fn deliver_json(&self, backend: &str, topic: &str, json: &[u8], done: Option<Done>) {
        match Message::from_json(json) {
            Ok(message) => self.deliver(topic, || message, done),
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "{backend}: no message of the bus in topic {topic}: {error}");
                // It would not be one the next time either.
                if let Some(done) = done {
                    done();
                }
            }
        }
    }
}

/// The end of a subscription.
struct Unsubscribe<C: Carrier> {
    subscribed: Option<Subscribed>,
    topic: String,
    remote: Arc<Remote<C>>,
}

impl<C: Carrier> Drop for Unsubscribe<C> {
    fn drop(&mut self) {
        drop(self.subscribed.take());
        let mut topics = self.remote.topics.lock();
        let mut ended = None;
        if let Some(topic) = topics.get_mut(&self.topic) {
            topic.users -= 1;
            if topic.users == 0 {
                ended = topics.remove(&self.topic);
            }
        }
        drop(topics);
        drop(ended);
    }
}

impl<S> Default for Topic<S> {
    fn default() -> Self {
        Self {
            subscription: None,
            users: 0,
        }
    }
}
