//! Replies that are given later.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::cancellation::Cancellation;
use super::context::{Incoming, ReplyHead, encode_reply, reply_codec};
use super::session::Session;
use super::wire::{Codec, Dialect, EncodeBody, Status, code};

/// The reply to a call whose handler has returned. It can be given from any thread, once.
///
/// If it is dropped, the caller gets [`INTERNAL_SERVER_ERROR`](code::INTERNAL_SERVER_ERROR). If the caller has cancelled the
/// call by then, its time is over, or its session has ended, the reply is dropped and counted.
///
/// ```
/// use epicycle::rpc::{Responder, Router, Status};
///
/// let mut routes = Router::new();
/// routes.call_later("slow/double", |_ctx, n: i64, reply: Responder<i64>| {
///     std::thread::spawn(move || reply.send(Ok(2 * n)));
/// });
/// ```
#[must_use = "dropping it fails the call"]
pub struct Responder<R> {
    token: ReplyToken,
    result: PhantomData<fn(R)>,
}

/// The right to answer one call.
pub(super) struct ReplyToken {
    session: Session,
    dialect: Dialect,
    pub(super) head: ReplyHead,
    cancelled: Option<Arc<Cancellation>>,
    give: Option<Give>,
}

/// Sends the answer to the reactor.
pub(super) type Give = Box<dyn FnOnce(Answered) + Send>;

/// An answer on its way to the reactor.
pub(super) struct Answered {
    pub(super) head: ReplyHead,
    /// The encoded body.
    pub(super) result: Result<Vec<u8>, Status>,
}

impl ReplyToken {
    pub(super) fn new(call: &Incoming<'_>, give: Give) -> Self {
        let mut head = ReplyHead::default();
        reply_codec(call, &mut head);
        Self {
            session: call.session.clone(),
            dialect: call.dialect,
            head,
            cancelled: call.cancelled.clone(),
            give: Some(give),
        }
    }

    /// Returns a token that gives nothing.
    pub(super) fn unanswerable(call: &Incoming<'_>) -> Self {
        let mut token = Self::new(call, Box::new(drop));
        token.give = None;
        token
    }

    /// Returns the token with another way to give the answer.
    pub(super) fn giving(mut self, give: Give) -> Self {
        self.give = Some(give);
        self
    }

    /// Gives the answer.
    pub(super) fn give(mut self, result: Result<Vec<u8>, Status>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<Vec<u8>, Status>) {
        if let Some(give) = self.give.take() {
            give(Answered {
                head: std::mem::take(&mut self.head),
                result,
            });
        }
    }
}

impl Drop for ReplyToken {
    fn drop(&mut self) {
        if self.give.is_some() {
            let status = Status::of(code::INTERNAL_SERVER_ERROR, self.dialect)
                .with_reason("the handler gave no reply");
            self.answer(Err(status));
        }
    }
}

impl<R: EncodeBody> Responder<R> {
    pub(super) fn new(token: ReplyToken) -> Self {
        Self {
            token,
            result: PhantomData,
        }
    }

    /// Gives the reply. Encodes the body on this thread.
    pub fn send(self, result: Result<R, Status>) {
        let mut token = self.token;
        let body = result.and_then(|value| {
            token.head.set_content_type(&value);
            let (codec, mut body) = (token.head.codec.unwrap_or_default(), Vec::new());
            encode_reply(&token.session, token.dialect, codec, &value, &mut body)?;
            Ok(body)
        });
        token.give(body);
    }

    /// Adds a pair to the reply's metadata.
    pub fn add_reply_meta(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.token.head.meta.add(key, value);
    }

    /// Sets the codec of the reply's body.
    pub fn set_reply_codec(&mut self, codec: Codec) {
        self.token.head.codec = Some(codec);
    }

    /// Returns true if the caller no longer waits.
    pub fn is_cancelled(&self) -> bool {
        let cancelled = self.token.cancelled.as_ref();
        cancelled.is_some_and(|cancelled| cancelled.is_cancelled())
    }

    /// Calls `callback` when the caller no longer waits, as [`Incoming::on_cancel`] does.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        if let Some(cancelled) = &self.token.cancelled {
            cancelled.on_cancel(Box::new(callback));
        }
    }
}

impl<R> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Responder")
            .field(&self.token.session)
            .finish()
    }
}
