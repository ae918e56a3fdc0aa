//! Subscribers of the buses of all backends.

use std::sync::mpsc::{Receiver, channel};

use epicycle::cluster::eventbus::{EventBus, Message, Subscription};

pub(crate) fn listen(bus: &impl EventBus, topic: &str) -> (Subscription, Receiver<Message>) {
    let (sender, receiver) = channel();
    let handler = Box::new(move |message: &Message| {
        let _ = sender.send(message.clone());
    });
    (bus.subscribe(topic, handler).expect("subscribes"), receiver)
}
