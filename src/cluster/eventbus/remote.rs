use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fanout::{Fanout, Subscribed};
use super::{Handler, Message, Subscription};
use crate::cluster::Error;

/// The subscriptions of this process to a backend, one for each topic that has subscribers here.
pub(super) struct Remote<S> {
    pub(super) fanout: Fanout,
    /// By topic. It is locked while a subscription is begun or ended, so that the two cannot cross.
    subscriptions: Mutex<HashMap<String, S>>,
}

impl<S: Send + 'static> Remote<S> {
    pub(super) fn new(fanout: Fanout) -> Self {
        Self {
            fanout,
            subscriptions: Mutex::default(),
        }
    }

    /// Calls a handler for each message of a topic. `subscribe` subscribes at the backend, until what it returns is dropped.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        handler: Handler,
        subscribe: impl FnOnce() -> Result<S, Error>,
    ) -> Result<Subscription, Error> {
        let mut subscriptions = self.subscriptions.lock();
        let subscribed = self.fanout.subscribe(topic, handler)?;
        if !subscriptions.contains_key(topic) {
            subscriptions.insert(topic.to_owned(), subscribe()?);
        }
        Ok(Subscription::new(Unsubscribe {
            subscribed: Some(subscribed),
            topic: topic.to_owned(),
            remote: self.clone(),
        }))
    }
}

impl Fanout {
    /// Gives what a backend has brought to the subscribers of a topic. What is no message is logged.
    pub(super) fn deliver_json(&self, backend: &str, topic: &str, json: &[u8]) {
        match Message::from_json(json) {
            Ok(message) => self.deliver(topic, || message),
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "{backend}: no message of the bus in topic {topic}: {error}");
            }
        }
    }
}

/// The end of a subscription.
struct Unsubscribe<S> {
    subscribed: Option<Subscribed>,
    topic: String,
    remote: Arc<Remote<S>>,
}

impl<S> Drop for Unsubscribe<S> {
    fn drop(&mut self) {
        let mut subscriptions = self.remote.subscriptions.lock();
        drop(self.subscribed.take());
        if !self.remote.fanout.has(&self.topic) {
            subscriptions.remove(&self.topic);
        }
    }
}
