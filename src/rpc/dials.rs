//! Outbound connections whose sessions are awaited.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::codec::ProtocolChoice;
use super::reply::local;
use super::session::Session;
use super::slot::Slot;
use super::wire::{Status, code};
use crate::panic;

/// The outbound connections of a peer, by their tokens.
pub(super) struct Dials {
    /// The protocol of connections that have none of their own.
    default: ProtocolChoice,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Dial>>,
}

struct Dial {
    protocol: ProtocolChoice,
    waiter: DialWaiter,
}

/// Whoever waits for the session. It is told exactly once.
pub(super) struct DialWaiter(Option<Way>);

enum Way {
    Slot(Arc<Slot<Result<Session, Status>>>),
    Callback(Box<dyn FnOnce(Result<Session, Status>) + Send>),
}

impl Dials {
    pub(super) fn new(default: ProtocolChoice) -> Self {
        Self {
            default,
            next: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    pub(super) fn default_protocol(&self) -> ProtocolChoice {
        self.default.clone()
    }

    /// Adds a connection. Returns its token.
    pub(super) fn begin(&self, protocol: ProtocolChoice, waiter: DialWaiter) -> u64 {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(token, Dial { protocol, waiter });
        token
    }

    pub(super) fn protocol(&self, token: u64) -> Option<ProtocolChoice> {
        self.open
            .lock()
            .get(&token)
            .map(|dial| dial.protocol.clone())
    }

    /// Removes a connection and tells its waiter the result.
    pub(super) fn end(&self, token: u64, result: Result<Session, Status>) {
        let dial = self.open.lock().remove(&token);
        if let Some(dial) = dial {
            dial.waiter.settle(result);
        }
    }
}

impl DialWaiter {
    pub(super) fn slot(slot: Arc<Slot<Result<Session, Status>>>) -> Self {
        Self(Some(Way::Slot(slot)))
    }

    pub(super) fn callback(
        callback: impl FnOnce(Result<Session, Status>) + Send + 'static,
    ) -> Self {
        Self(Some(Way::Callback(Box::new(callback))))
    }

    fn settle(mut self, result: Result<Session, Status>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<Session, Status>) {
        match self.0.take() {
            Some(Way::Slot(slot)) => slot.fill(result),
            Some(Way::Callback(callback)) => {
                panic::catch("epicycle::rpc", "the callback of a dial", || {
                    callback(result);
                });
            }
            None => {}
        }
    }
}

impl Drop for DialWaiter {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.tell(Err(local(code::DIAL_FAILED, "the peer has shut down")));
        }
    }
}
