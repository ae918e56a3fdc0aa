//! Subscribers of the buses of all backends.

use std::sync::mpsc::{Receiver, channel};

use epicycle::cluster::eventbus::{EventBus, Message, Subscription};

use crate::util::LONG;

pub(crate) fn listen(bus: &impl EventBus, topic: &str) -> (Subscription, Receiver<Message>) {
    let (sender, receiver) = channel();
    let handler = Box::new(move |message: &Message| {
        let _ = sender.send(message.clone());
    });
    (bus.subscribe(topic, handler).expect("subscribes"), receiver)
}

/// Subscribes with a handler that passes the payloads on.
pub(crate) fn payloads(bus: &impl EventBus, topic: &str) -> (Subscription, Receiver<String>) {
    let (sender, receiver) = channel();
    let handler = Box::new(move |message: &Message| {
        let _ = sender.send(message.payload.clone());
    });
    (bus.subscribe(topic, handler).expect("subscribes"), receiver)
}

/// Waits for a payload.
pub(crate) fn next(receiver: &Receiver<String>) -> String {
    receiver.recv_timeout(LONG).expect("comes")
}
