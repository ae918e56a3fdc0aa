//! The sending end of a stream.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::call::check_may_block;
use super::reply::local;
use super::session::Session;
use super::stats::Counters;
use super::stream::{ITEM, Stream, Unsendable};
use super::wire::{Codec, EncodeBody, FilterPipe, Message, Meta, Status, code};
use super::working::Working;
use crate::error::error_messages;

/// Sends the items of a stream. It can be used from any thread.
///
/// Each item costs one credit, which the reader grants as it consumes items. So a slow reader stops its sender, and nobody else.
///
/// [`finish`](Self::finish) ends the items, and [`fail`](Self::fail) ends them with a status. A sender that is dropped without
/// either fails with [`INTERNAL_SERVER_ERROR`](code::INTERNAL_SERVER_ERROR), so that nobody takes a part of the items for all of
/// them.
pub struct Sender<T> {
    pub(super) outlet: Outlet,
    /// False if the items end with the handler.
    ends_on_drop: bool,
    item: PhantomData<fn(T)>,
}

/// The parts of a sender that do not depend on the items' type.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) session: Session,
    pub(super) stream: Arc<Stream>,
    pub(super) codec: Codec,
    pub(super) filters: FilterPipe<'static>,
    /// Counts the handler as at work, if this is the acceptor's.
    pub(super) working: Option<Arc<Working>>,
}

/// The reason why an item is not sent.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no room: the reader has granted no credit for it, or its connection does not take more now.
    Full,
    /// The item cannot be encoded, or a plugin refuses it. The stream goes on.
    Invalid(Status),
    /// The stream is over, for this reason.
    Ended(Status),
}

error_messages! {
    SendError {
        SendError::Full => "the stream has no room for an item; wait for its reader",
        SendError::Invalid(status) => "the item cannot be sent: {status}",
        SendError::Ended(status) => "the stream has ended: {status}",
    }
}

/// A full stream results in [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS).
impl From<SendError> for Status {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => local(code::TOO_MANY_REQUESTS, error.to_string()),
            SendError::Invalid(status) | SendError::Ended(status) => status,
        }
    }
}

impl Outlet {
    /// Sends an item if there is room.
    pub(super) fn send<T: EncodeBody + ?Sized>(&self, item: &T) -> Result<(), SendError> {
        self.send_made(|message| {
            let codecs = &self.session.shared().formats.codecs;
            message
                .marshal(codecs, self.codec, item)
                .map_err(|error| local(code::BAD_MESSAGE, error.to_string()))
        })
    }

    /// Sends an item that is encoded, with metadata of its own.
    pub(super) fn send_encoded(
        &self,
        body: Vec<u8>,
        meta: &Meta<'_>,
        codec: Option<Codec>,
    ) -> Result<(), SendError> {
        self.send_made(|message| {
            message.meta.add_all(meta);
            message.codec = codec.unwrap_or(self.codec);
            message.body = body.into();
            Ok(())
        })
    }

    /// Sends an item if there is room. `make` adds the body.
    fn send_made(
        &self,
        make: impl FnOnce(&mut Message<'static>) -> Result<(), Status>,
    ) -> Result<(), SendError> {
        self.stream.begin_send().map_err(|error| match error {
            Unsendable::NoCredit => SendError::Full,
            Unsendable::Ended(status) => SendError::Ended(status),
        })?;
        let begun = Begun(&self.stream);
        let mut message = Message::push(ITEM);
        message.meta = self.stream.meta();
        message.filters = self.filters.clone();
        make(&mut message)
            .and_then(|()| self.session.before_write(&mut message))
            .map_err(SendError::Invalid)?;
        mem::forget(begun);
        self.stream.finish_send(message).map_err(SendError::Ended)
    }
}

/// An item that is being encoded. If that fails or panics, its credit returns.
struct Begun<'a>(&'a Arc<Stream>);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.give_up_send();
    }
}

impl<T: EncodeBody> Sender<T> {
    pub(super) fn new(outlet: Outlet, ends_on_drop: bool) -> Self {
        Self {
            outlet,
            ends_on_drop,
            item: PhantomData,
        }
    }

    /// Sends an item. Encodes it on this thread. Returns at once.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room. [`on_room`](Self::on_room), [`ready`](Self::ready) and
    /// [`wait_room`](Self::wait_room) tell when there is.
    pub fn send(&self, item: &T) -> Result<(), SendError> {
        self.outlet.send(item)
    }

    /// Sends an item. If there is no room, it is dropped and counted, and the result is false.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), but for [`SendError::Full`].
    pub fn send_or_drop(&self, item: &T) -> Result<bool, SendError> {
        match self.send(item) {
            Err(SendError::Full) => {
                Counters::count(&self.outlet.session.shared().counters.dropped_items);
                Ok(false)
            }
            sent => sent.map(|()| true),
        }
    }

    /// Sends an item. If there is no room, the stream fails with [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS). The session goes
    /// on.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::Ended`] in place of [`SendError::Full`].
    pub fn send_or_fail(&self, item: &T) -> Result<(), SendError> {
        match self.send(item) {
            Err(SendError::Full) => {
                let reason = "the reader of the stream is too slow";
                let status = local(code::TOO_MANY_REQUESTS, reason);
                self.outlet.stream.end(Err(status.clone()));
                Err(SendError::Ended(status))
            }
            sent => sent,
        }
    }

    /// Sends an item once there is room. It blocks the thread.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), without [`SendError::Full`]. On a reactor's thread it fails at once with
    /// [`SendError::Invalid`], because the room could never arrive.
    pub fn send_wait(&self, item: &T) -> Result<(), SendError> {
        loop {
            match self.send(item) {
                Err(SendError::Full) => {
                    check_may_block().map_err(SendError::Invalid)?;
                    self.outlet.stream.wait_room().map_err(SendError::Ended)?;
                }
                sent => return sent,
            }
        }
    }

    /// Sends an item once there is room, in a future.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), without [`SendError::Full`].
    pub async fn send_async(&self, item: &T) -> Result<(), SendError> {
        loop {
            match self.send(item) {
                Err(SendError::Full) => self.ready().await.map_err(SendError::Ended)?,
                sent => return sent,
            }
        }
    }
}

impl<T> Sender<T> {
    /// Returns the number of items that can be sent now.
    pub fn credit(&self) -> usize {
        self.outlet.stream.credit() as usize
    }

    /// Gives the sender to `callback` once there is room for an item, or the reason why there will be none. It runs on the reactor's
    /// thread, or at once on this one if there is room already, and must not block.
    ///
    /// ```
    /// use epicycle::rpc::{Router, SendError, Sender};
    ///
    /// /// Sends the numbers up to 1,000 as fast as their reader takes them.
    /// fn count(mut from: u32, tx: Sender<u32>) {
    ///     while from < 1000 {
    ///         match tx.send(&from) {
    ///             Ok(()) => from += 1,
    ///             Err(SendError::Full) => {
    ///                 return tx.when_room(move |tx| {
    ///                     if let Ok(tx) = tx {
    ///                         count(from, tx);
    ///                     }
    ///                 });
    ///             }
    ///             Err(_) => return,
    ///         }
    ///     }
    ///     tx.finish();
    /// }
    ///
    /// let mut routes = Router::new();
    /// routes.stream("/count", |_ctx, from: u32, tx: Sender<u32>| count(from, tx));
    /// ```
    pub fn when_room(self, callback: impl FnOnce(Result<Self, Status>) + Send + 'static)
    where
        T: 'static,
    {
        let stream = self.outlet.stream.clone();
        stream.on_room(Box::new(move |room| callback(room.map(|()| self))));
    }

    /// Calls `callback` once there is room for an item, or with the reason why there will be none, as
    /// [`when_room`](Self::when_room) does: for a sender that several threads share.
    pub fn on_room(&self, callback: impl FnOnce(Result<(), Status>) + Send + 'static) {
        self.outlet.stream.on_room(Box::new(callback));
    }

    /// Waits for room in a future.
    ///
    /// # Errors
    ///
    /// The status with which the stream has ended.
    pub fn ready(&self) -> Ready<'_> {
        Ready(&self.outlet.stream)
    }

    /// Waits for room. It blocks the thread.
    ///
    /// # Errors
    ///
    /// The status with which the stream has ended. On a reactor's thread it fails at once.
    pub fn wait_room(&self) -> Result<(), Status> {
        check_may_block()?;
        self.outlet.stream.wait_room()
    }

    /// Ends the items. The other side gets all that were sent, and then the end.
    pub fn finish(mut self) {
        self.end(Ok(()));
    }

    /// Ends the items with a status. The other side gets all that were sent, and then the status.
    pub fn fail(mut self, status: Status) {
        self.end(Err(status));
    }

    fn end(&mut self, result: Result<(), Status>) {
        // The stream is no longer counted when the other side learns of the end.
        self.outlet.working = None;
        self.outlet.stream.end(result);
    }

    /// Returns true if the other side takes no more items: it has cancelled or ended the stream, or the session has ended.
    pub fn is_cancelled(&self) -> bool {
        self.outlet.stream.closed().is_some()
    }

    /// Calls `callback` with the reason when the other side takes no more items, unless the items end before. It runs on the
    /// reactor's thread, or at once on this one if that has happened already.
    pub fn on_cancel(&self, callback: impl FnOnce(Status) + Send + 'static) {
        self.outlet.stream.on_cancel(Box::new(callback));
    }

    /// Returns the session of the stream.
    pub fn session(&self) -> &Session {
        &self.outlet.session
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.ends_on_drop && self.outlet.stream.closed().is_none() {
            let reason = "the sender was dropped without `finish`";
            self.outlet.working = None;
            self.outlet
                .stream
                .end_dropped(local(code::INTERNAL_SERVER_ERROR, reason));
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("session", &self.outlet.session)
            .field("credit", &self.credit())
            .finish()
    }
}

/// Waits for room in a stream: see [`Sender::ready`].
#[must_use = "futures do nothing unless polled"]
pub struct Ready<'a>(&'a Arc<Stream>);

impl Future for Ready<'_> {
    type Output = Result<(), Status>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_room(context.waker())
    }
}

impl fmt::Debug for Ready<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}
