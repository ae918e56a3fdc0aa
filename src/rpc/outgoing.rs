//! Messages to send, and those who wait for their replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::reply::local;
use super::slot::Slot;
use super::stream::Stream;
use super::wire::{Codecs, Message, Status, code};
use crate::panic;

/// A CALL or a PUSH on its way to a connection.
pub(super) struct Outgoing {
    pub(super) message: Message<'static>,
    /// True if the application has set the message's `seq`.
    pub(super) has_own_seq: bool,
    /// None for a PUSH.
    pub(super) call: Option<OutgoingCall>,
    pub(super) when_full: WhenFull,
    /// Set for a PUSH that waits for room.
    pub(super) on_sent: Option<OnSent>,
}

/// The treatment of a push that finds no room: more output of its connection waits than the
/// [high-water mark](crate::Server::high_water).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is sent nevertheless, up to the [outbound limit](crate::Server::outbound_limit). Beyond that it is dropped and counted,
    /// or the connection closes, as the engine's [policy](crate::OutboundPolicy) says.
    #[default]
    Send,
    /// It is dropped and counted. For state that the next push supersedes.
    Drop,
    /// The session closes at once. For readers that must not miss anything.
    Close,
}

/// Is told, exactly once, that a push is sent that has waited for room, or the reason why not.
///
/// It is boxed twice, since most messages have none and should stay small.
pub(super) struct OnSent(Box<Option<SentCallback>>);

type SentCallback = Box<dyn FnOnce(Result<(), Status>) + Send>;

impl OnSent {
    pub(super) fn new(callback: impl FnOnce(Result<(), Status>) + Send + 'static) -> Self {
        Self(Box::new(Some(Box::new(callback))))
    }

    pub(super) fn tell(mut self, result: Result<(), Status>) {
        self.call(result);
    }

    fn call(&mut self, result: Result<(), Status>) {
        if let Some(callback) = self.0.take() {
            panic::catch("epicycle::rpc", "the callback of a push", || {
                callback(result);
            });
        }
    }
}

impl Drop for OnSent {
    fn drop(&mut self) {
        self.call(Err(local(code::CONNECTION_CLOSED, "")));
    }
}

pub(super) struct OutgoingCall {
    pub(super) waiter: Waiter,
    /// The time within which the reply must arrive.
    pub(super) timeout: Option<Duration>,
    /// The moment by which it must arrive.
    pub(super) deadline: Option<Instant>,
    /// True if it is sent again when its connection ends before the reply.
    pub(super) is_idempotent: bool,
    /// True if it does not wait for a session that redials.
    pub(super) fails_fast: bool,
}

impl OutgoingCall {
    /// The reason why a call that fails fast is not sent.
    pub(super) const REDIALS: &str = "the session has no connection and is redialling";
}

/// A reply as its caller receives it.
pub(super) struct Arrived<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) cost: Duration,
    pub(super) codecs: &'a Codecs,
}

/// The result of a call that a thread or a task takes.
pub(super) type Outcome = Result<(Message<'static>, Duration), Status>;

/// A call that a thread or a task waits for.
pub(super) struct CallState {
    pub(super) slot: Slot<Outcome>,
    /// The number of the call on its connection.
    number: AtomicU64,
    is_cancelled: AtomicBool,
}

impl CallState {
    const UNSENT: u64 = u64::MAX;

    pub(super) fn new() -> Self {
        Self {
            slot: Slot::new(),
            number: AtomicU64::new(Self::UNSENT),
            is_cancelled: AtomicBool::new(false),
        }
    }

    /// Marks that the caller has cancelled the call. Returns false if it has before. The order to cancel may overtake the call
    /// itself, if another thread gives it.
    pub(super) fn set_cancelled(&self) -> bool {
        !self.is_cancelled.swap(true, Ordering::AcqRel)
    }

    /// Returns the number, once the call is sent.
    pub(super) fn number(&self) -> Option<u64> {
        let number = self.number.load(Ordering::Acquire);
        (number != Self::UNSENT).then_some(number)
    }
}

/// Whoever waits for the end of a call. It is told exactly once: a waiter that is dropped is told that the connection
/// closed.
pub(super) struct Waiter(Option<Way>);

enum Way {
    Slot(Arc<CallState>),
    Callback(Callback),
    Stream(Box<(Arc<Stream>, Callback)>),
    /// A callback for a call that may be cancelled.
    Cancellable(Arc<CallState>, Callback),
}

pub(super) type Callback = Box<dyn FnOnce(Result<Arrived<'_>, Status>) + Send>;

impl Waiter {
    pub(super) fn state(state: Arc<CallState>) -> Self {
        Self(Some(Way::Slot(state)))
    }

    pub(super) fn callback(callback: Callback) -> Self {
        Self(Some(Way::Callback(callback)))
    }

    /// Returns the waiter for the acceptance of a stream.
    pub(super) fn stream(stream: Arc<Stream>, callback: Callback) -> Self {
        Self(Some(Way::Stream(Box::new((stream, callback)))))
    }

    /// Returns the stream that the call opens.
    pub(super) fn opens(&self) -> Option<&Arc<Stream>> {
        match &self.0 {
            Some(Way::Stream(stream)) => Some(&stream.0),
            _ => None,
        }
    }

    /// Returns a waiter that calls back. The slot of the state is not used.
    pub(super) fn cancellable(state: Arc<CallState>, callback: Callback) -> Self {
        Self(Some(Way::Cancellable(state, callback)))
    }

    /// Returns true if the caller has cancelled the call.
    pub(super) fn is_cancelled(&self) -> bool {
        match &self.0 {
            Some(Way::Slot(state) | Way::Cancellable(state, _)) => {
                state.is_cancelled.load(Ordering::Acquire)
            }
            _ => false,
        }
    }

    /// Records the number that the call got on its connection.
    pub(super) fn sent(&self, number: u64) {
        if let Some(Way::Slot(state) | Way::Cancellable(state, _)) = &self.0 {
            state.number.store(number, Ordering::Release);
        }
    }

    /// Ends the call.
    pub(super) fn settle(mut self, result: Result<Arrived<'_>, Status>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<Arrived<'_>, Status>) {
        match self.0.take() {
            Some(Way::Slot(state)) => {
                state
                    .slot
                    .fill(result.map(|reply| (reply.message.clone().into_owned(), reply.cost)));
            }
            Some(Way::Callback(callback) | Way::Cancellable(_, callback)) => {
                panic::catch("epicycle::rpc", "the callback of a call", || {
                    callback(result);
                });
            }
            Some(Way::Stream(stream)) => (stream.1)(result),
            None => {}
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.tell(Err(local(code::CONNECTION_CLOSED, "")));
        }
    }
}
