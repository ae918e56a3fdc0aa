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
use crate::engine::connect::{Connect, Reconnect};
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
    /// True if the other side has dialled.
    is_accepted: bool,
    /// None if the session ends with its connection.
    again: Option<Again>,
    waiter: DialWaiter,
}

/// The description of the connections of a session that redials.
#[derive(Clone)]
pub(super) struct Again {
    pub(super) connect: Connect,
    pub(super) protocol: ProtocolChoice,
    pub(super) policy: Reconnect,
    /// True if attempts are also repeated before the session has been open.
    pub(super) from_the_first: bool,
}

/// Whoever waits for the session. It is told exactly once.
pub(super) struct DialWaiter(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<Session, Status>) + Send>;

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
    pub(super) fn begin(
        &self,
        protocol: ProtocolChoice,
        is_accepted: bool,
        again: Option<Again>,
        waiter: DialWaiter,
    ) -> u64 {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let dial = Dial {
            protocol,
            is_accepted,
            again,
            waiter,
        };
        self.open.lock().insert(token, dial);
        token
    }

    pub(super) fn contains(&self, token: u64) -> bool {
        self.open.lock().contains_key(&token)
    }

    /// Returns true if the other side has dialled.
    pub(super) fn is_accepted(&self, token: u64) -> bool {
        self.open
            .lock()
            .get(&token)
            .is_some_and(|dial| dial.is_accepted)
    }

    /// Returns the description of further connections of a dial, if it has any.
    pub(super) fn again(&self, token: u64) -> Option<Again> {
        self.open.lock().get(&token)?.again.clone()
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
    pub(super) fn new(callback: impl FnOnce(Result<Session, Status>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// Returns a waiter that fills a slot, and the slot.
    pub(super) fn slot() -> (Self, Arc<Slot<Result<Session, Status>>>) {
        let slot = Arc::new(Slot::new());
        let filled = slot.clone();
        (Self::new(move |result| filled.fill(result)), slot)
    }

    pub(super) fn settle(mut self, result: Result<Session, Status>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<Session, Status>) {
        if let Some(callback) = self.0.take() {
            panic::catch("epicycle::rpc", "the callback of a dial", || {
                callback(result);
            });
        }
    }
}

impl Drop for DialWaiter {
    fn drop(&mut self) {
        self.tell(Err(local(code::DIAL_FAILED, "the peer has shut down")));
    }
}
