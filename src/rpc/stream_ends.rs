//! The ends of a stream that its handler gets.

use std::fmt;
use std::sync::Arc;

use super::context::reply_codec;
use super::context::{Incoming, ReplyHead};
use super::receiver::Receiver;
use super::responder::{Answered, ReplyToken, Responder};
use super::sender::{Outlet, SendError, Sender};
use super::stream::Stream;
use super::wire::{DecodeBody, EncodeBody, Status};
use super::working::Working;

/// The ends of a stream that a handler of [`Router::stream`](super::Router::stream) gets. The stream goes on until they have
/// ended.
///
/// | Type | Name in the field | |
/// |---|---|---|
/// | [`Sender<T>`](Sender) | server streaming | The handler sends items. |
/// | `(Receiver<I>, Responder<R>)` | client streaming | The handler receives items, and gives one result. |
/// | `(Sender<T>, Receiver<I>)` | bidirectional streaming | Both sides send items. The sender's end ends the stream. |
pub trait StreamEnds: Sized + Send + 'static {
    #[doc(hidden)]
    const RECEIVES: bool;

    #[doc(hidden)]
    fn of(accepted: Accepted) -> Self;
}

/// The ends of a stream that a handler of [`Router::stream_blocking`](super::Router::stream_blocking) or
/// [`Router::stream_async`](super::Router::stream_async) gets. The stream ends with the handler's result, which is of type `R`.
///
/// | Type | Name in the field | Result |
/// |---|---|---|
/// | [`Sender<T>`](Sender) | server streaming | `()` |
/// | [`Receiver<I>`](Receiver) | client streaming | the only item of the answer |
/// | `(Sender<T>, Receiver<I>)` | bidirectional streaming | `()` |
pub trait ScopedEnds<R>: Sized + 'static {
    #[doc(hidden)]
    const RECEIVES: bool;

    #[doc(hidden)]
    fn of(accepted: &Accepted) -> Self;

    #[doc(hidden)]
    fn give(result: R, accepted: &Accepted) -> Result<(), Status>;
}

/// A stream that this side has accepted.
pub struct Accepted {
    outlet: Outlet,
    call: ReplyToken,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Accepted")
            .field(&self.outlet.session)
            .finish()
    }
}

impl Accepted {
    /// The stream is that of a CALL.
    pub(super) fn new(call: &Incoming<'_>, stream: Arc<Stream>, working: Working) -> Self {
        let mut head = ReplyHead::default();
        let outlet = Outlet {
            session: call.session.clone(),
            codec: reply_codec(call, &mut head),
            filters: call.message.filters.clone().into_owned(),
            stream,
            working: Some(Arc::new(working)),
        };
        Self {
            call: ReplyToken::unanswerable(call),
            outlet,
        }
    }

    fn sender<T: EncodeBody>(&self, ends_on_drop: bool) -> Sender<T> {
        Sender::new(self.outlet.clone(), ends_on_drop)
    }

    fn receiver<I: DecodeBody>(&self) -> Receiver<I> {
        let Outlet {
            session,
            stream,
            working,
            ..
        } = self.outlet.clone();
        Receiver::new(session, stream, working)
    }

    /// Returns what gives the only item of the answer.
    fn responder<R: EncodeBody>(self) -> Responder<R> {
        let mut outlet = self.outlet;
        Responder::new(self.call.giving(Box::new(move |answered: Answered| {
            let result = give_only(&outlet, answered);
            outlet.working = None;
            match result {
                Ok(()) => drop(outlet.stream.end(Ok(()))),
                Err(status) => outlet.stream.end_dropped(status),
            }
        })))
    }
}

/// Sends the only item of an answer.
fn give_only(outlet: &Outlet, answered: Answered) -> Result<(), Status> {
    let Answered { head, result } = answered;
    outlet
        .send_encoded(result?, &head.meta, head.codec)
        .map_err(no_room)
}

/// A caller that wants an answer has granted credit for it.
fn no_room(error: SendError) -> Status {
    match error {
        SendError::Full => Status::from(error).with_reason("there is no credit for the result"),
        error => error.into(),
    }
}

impl<T: EncodeBody + 'static> StreamEnds for Sender<T> {
    const RECEIVES: bool = false;

    fn of(accepted: Accepted) -> Self {
        accepted.sender(true)
    }
}

impl<T: EncodeBody + 'static, I: DecodeBody + 'static> StreamEnds for (Sender<T>, Receiver<I>) {
    const RECEIVES: bool = true;

    fn of(accepted: Accepted) -> Self {
        (accepted.sender(true), accepted.receiver())
    }
}

impl<I: DecodeBody + 'static, R: EncodeBody + 'static> StreamEnds for (Receiver<I>, Responder<R>) {
    const RECEIVES: bool = true;

    fn of(accepted: Accepted) -> Self {
        (accepted.receiver(), accepted.responder())
    }
}

impl<T: EncodeBody + 'static> ScopedEnds<()> for Sender<T> {
    const RECEIVES: bool = false;

    fn of(accepted: &Accepted) -> Self {
        accepted.sender(false)
    }

    fn give((): (), _: &Accepted) -> Result<(), Status> {
        Ok(())
    }
}

impl<T: EncodeBody + 'static, I: DecodeBody + 'static> ScopedEnds<()> for (Sender<T>, Receiver<I>) {
    const RECEIVES: bool = true;

    fn of(accepted: &Accepted) -> Self {
        (accepted.sender(false), accepted.receiver())
    }

    fn give((): (), _: &Accepted) -> Result<(), Status> {
        Ok(())
    }
}

impl<I: DecodeBody + 'static, R: EncodeBody + 'static> ScopedEnds<R> for Receiver<I> {
    const RECEIVES: bool = true;

    fn of(accepted: &Accepted) -> Self {
        accepted.receiver()
    }

    fn give(result: R, accepted: &Accepted) -> Result<(), Status> {
        accepted.outlet.send(&result).map_err(no_room)
    }
}
