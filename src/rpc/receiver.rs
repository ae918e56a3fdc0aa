//! The receiving end of a stream.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::call::check_may_block;
use super::reply::local;
use super::session::Session;
use super::stream::{Item, Role, Step, Stream};
use super::wire::{DecodeBody, Status, code};
use super::working::Working;

/// Receives the items of a stream, in one of three ways: [`on_item`](Self::on_item) by callbacks, a `for` loop that blocks the
/// thread, or [`next`](Self::next) in a future.
///
/// An item counts as consumed when it is taken. About half of the credit is granted again at a time, so a reader that takes
/// nothing stops its sender.
///
/// All items arrive before the end. An item that cannot be decoded ends the stream with
/// [`BAD_MESSAGE`](code::BAD_MESSAGE).
///
/// A caller that drops its receiver cancels the stream. A handler that drops its receiver gets no more items, and grants no more
/// credit.
#[must_use = "dropping it cancels the stream"]
pub struct Receiver<I> {
    session: Session,
    stream: Arc<Stream>,
    working: Option<Arc<Working>>,
    /// True once the reader has got the end.
    has_ended: bool,
    /// True if the items go to a callback.
    is_detached: bool,
    item: PhantomData<fn() -> I>,
}

impl<I: DecodeBody> Receiver<I> {
    pub(super) fn new(
        session: Session,
        stream: Arc<Stream>,
        working: Option<Arc<Working>>,
    ) -> Self {
        Self {
            session,
            stream,
            working,
            has_ended: false,
            is_detached: false,
            item: PhantomData,
        }
    }

    /// Has the items taken by callbacks on the reactor's thread, as they arrive. `on_end` is called exactly once, last. They
    /// must not block. If the session has ended already, they run on this thread.
    ///
    /// A panic of `on_item` ends the stream.
    pub fn on_item(
        mut self,
        mut on_item: impl FnMut(I) + Send + 'static,
        on_end: impl FnOnce(Result<(), Status>) + Send + 'static,
    ) -> StreamHandle {
        self.is_detached = true;
        let handle = StreamHandle(self.stream.clone());
        let (session, working) = (self.session.clone(), self.working.take());
        let mut on_end = Some((on_end, working));
        self.stream.read_by(Box::new(move |step| {
            match step {
                Step::Item(item) => {
                    on_item(read(&session, item)?);
                }
                Step::End(result) => {
                    if let Some((on_end, working)) = on_end.take() {
                        drop(working);
                        on_end(result);
                    }
                }
            }
            Ok(())
        }));
        handle
    }

    /// Takes the next item in a future. Returns `None` at the end of the items, and an error once if the stream has failed.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> NextItem<'_, I> {
        NextItem(self)
    }

    /// Takes the next item if it has arrived, or has the task woken: [`next`](Self::next) for futures of one's own.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<I, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.stream
            .poll_step(context.waker())
            .map(|step| self.take(step))
    }

    /// Takes the next item. It blocks the thread. Returns `None` at the end of the items, and an error once if the stream has
    /// failed. A `for` loop does the same.
    ///
    /// On a reactor's thread it fails at once, because the item could never arrive. The stream ends then.
    pub fn wait_next(&mut self) -> Option<Result<I, Status>> {
        if self.has_ended {
            return None;
        }
        if let Err(status) = check_may_block() {
            self.has_ended = true;
            self.stream.abandon(status.clone());
            return Some(Err(status));
        }
        let step = self.stream.wait_step();
        self.take(step)
    }

    /// Takes the only item of a stream. It blocks the thread.
    ///
    /// # Errors
    ///
    /// The status with which the stream failed, or [`BAD_MESSAGE`](code::BAD_MESSAGE) if it has no item or more than one.
    pub fn wait_only(mut self) -> Result<I, Status> {
        let wrong = |reason| Err(local(code::BAD_MESSAGE, reason));
        let Some(item) = self.wait_next() else {
            return wrong("the stream has ended without an item");
        };
        let item = item?;
        match self.wait_next() {
            None => Ok(item),
            Some(Ok(_)) => wrong("the stream has more than one item"),
            Some(Err(status)) => Err(status),
        }
    }

    fn take(&mut self, step: Option<Step>) -> Option<Result<I, Status>> {
        match step {
            Some(Step::Item(item)) => Some(read(&self.session, item).inspect_err(|status| {
                self.has_ended = true;
                self.stream.abandon(status.clone());
            })),
            Some(Step::End(result)) => {
                self.has_ended = true;
                result.err().map(Err)
            }
            None => None,
        }
    }
}

impl<I> Receiver<I> {
    /// Returns the session of the stream.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns a handle that can cancel the stream from another place.
    pub fn handle(&self) -> StreamHandle {
        StreamHandle(self.stream.clone())
    }
}

/// Decodes an item, and shows it to the plugins.
fn read<I: DecodeBody>(session: &Session, item: Item) -> Result<I, Status> {
    let (message, after) = item.into_parts();
    let value = message
        .unmarshal(&session.shared().formats.codecs)
        .map_err(|error| local(code::BAD_MESSAGE, error.to_string()))?;
    if let Some(after) = after {
        after(message)?;
    }
    Ok(value)
}

fn cancelled() -> Status {
    local(code::CANCELLED, "")
}

impl<I> Drop for Receiver<I> {
    fn drop(&mut self) {
        if self.is_detached {
            return;
        }
        self.stream.read_nothing();
        if self.stream.role() == Role::Opener {
            self.stream.abandon(cancelled());
        }
    }
}

impl<I> fmt::Debug for Receiver<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.session).finish()
    }
}

/// The next item of a stream, as a future: see [`Receiver::next`].
#[must_use = "futures do nothing unless polled"]
pub struct NextItem<'a, I>(&'a mut Receiver<I>);

impl<I: DecodeBody> Future for NextItem<'_, I> {
    type Output = Option<Result<I, Status>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_next(context)
    }
}

impl<I> fmt::Debug for NextItem<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NextItem").field(&self.0).finish()
    }
}

/// The items of a stream. Each call of `next` blocks the thread: see [`Receiver::wait_next`].
#[derive(Debug)]
pub struct Items<I>(Receiver<I>);

impl<I: DecodeBody> Iterator for Items<I> {
    type Item = Result<I, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.wait_next()
    }
}

impl<I: DecodeBody> IntoIterator for Receiver<I> {
    type Item = Result<I, Status>;
    type IntoIter = Items<I>;

    fn into_iter(self) -> Items<I> {
        Items(self)
    }
}

/// A stream whose items go to callbacks, or to somebody else. If it is dropped, the stream goes on.
#[derive(Clone)]
pub struct StreamHandle(Arc<Stream>);

impl StreamHandle {
    /// Ends the stream with [`CANCELLED`](code::CANCELLED), and tells the other side. Items that have arrived and are not taken
    /// yet are dropped.
    pub fn cancel(&self) {
        self.0.abandon(cancelled());
    }

    /// Returns true if the stream is over.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("is_over", &self.is_over())
            .finish()
    }
}
