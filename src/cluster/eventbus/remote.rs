use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fanout::{Done, Fanout, Subscribed};
use super::{BusStats, Handler, Message, Subscription, WhenFull, check};
use crate::cluster::Error;

/// An event bus at a backend, with one subscription there for each topic that has subscribers here.
pub(super) struct Remote<C: Carrier> {
    pub(super) carrier: C,
    fanout: Fanout,
    /// By topic. It is locked while a subscription is begun or ended, so that the two cannot cross.
    subscriptions: Mutex<HashMap<String, C::Subscription>>,
}

/// A backend that carries messages.
pub(super) trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// Ends the subscription when it is dropped.
    type Subscription: Send;

    fn publish(&self, topic: &str, json: &str) -> Result<(), Error>;

    /// Gives each message of a topic to `fanout`.
    fn subscribe(&self, topic: &str, fanout: &Fanout) -> Result<Self::Subscription, Error>;
}

impl<C: Carrier> Remote<C> {
    pub(super) fn new(carrier: C, messages: usize, when_full: WhenFull) -> Arc<Self> {
        Arc::new(Self {
            carrier,
            fanout: Fanout::new(messages, when_full),
            subscriptions: Mutex::default(),
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
        let mut subscriptions = self.subscriptions.lock();
        let subscribed = self.fanout.subscribe(topic, handler)?;
        if !subscriptions.contains_key(topic) {
            let subscription = self.carrier.subscribe(topic, &self.fanout)?;
            subscriptions.insert(topic.to_owned(), subscription);
        }
        Ok(Subscription::new(Unsubscribe {
            subscribed: Some(subscribed),
            topic: topic.to_owned(),
            remote: self.clone(),
        }))
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
        let mut subscriptions = self.remote.subscriptions.lock();
        drop(self.subscribed.take());
        if !self.remote.fanout.has(&self.topic) {
            subscriptions.remove(&self.topic);
        }
    }
}
