//! Streams that an application opens.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Draft, settings};
use super::outgoing::{Arrived, Outgoing, OutgoingCall, Waiter, WhenFull};
use super::receiver::Receiver;
use super::sender::{Outlet, Sender};
use super::session::Session;
use super::stats::Counters;
use super::stream::{Item, MAX_CREDIT, Role, STREAM, Signal, Stream, Violation};
use super::wire::{Codec, DecodeBody, EncodeBody, Kind, Message, Meta, Status};

impl Session {
    /// Prepares a stream: names the route and its argument. Nothing is sent before [`StreamCall::receive`] or
    /// [`StreamCall::open`].
    ///
    /// ```
    /// use epicycle::rpc::{Peer, Receiver, Router, Sender};
    ///
    /// let mut routes = Router::new();
    /// routes.stream("/count", |_ctx, to: u32, tx: Sender<u32>| {
    ///     for n in 1..=to {
    ///         if tx.send(&n).is_err() {
    ///             return;
    ///         }
    ///     }
    ///     tx.finish();
    /// });
    /// let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
    ///
    /// let client = Peer::builder().start()?;
    /// let session = client.dial(&server.local_addrs()[0])?;
    /// let numbers: Receiver<u32> = session.stream("/count", &3).receive();
    /// let numbers: Vec<u32> = numbers.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(numbers, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream<'a, A>(&'a self, uri: impl AsRef<str>, arg: &'a A) -> StreamCall<'a, A>
    where
        A: EncodeBody + ?Sized,
    {
        let settings = &self.shared().settings;
        StreamCall {
            session: self,
            draft: Draft::new(self.shared(), Kind::Call, uri.as_ref(), arg),
            timeout: settings.call_timeout,
            credit: settings.stream_credit,
        }
    }
}

/// A stream that is not opened yet, and its settings.
#[must_use = "it is opened by `receive` or `open`"]
pub struct StreamCall<'a, A: ?Sized> {
    session: &'a Session,
    draft: Draft<'a, A>,
    timeout: Option<Duration>,
    credit: u32,
}

impl<A: EncodeBody + ?Sized> StreamCall<'_, A> {
    settings!();

    /// Sets the time within which the other side must accept the stream. The stream itself has no limit of time. The default is
    /// the peer's [`call_timeout`](super::PeerBuilder::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets the other side accept the stream at any time.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Sets the codec in which the items are wanted.
    pub fn accept(self, codec: Codec) -> Self {
        self.set_meta(Meta::ACCEPT_BODY_CODEC, codec.0.to_string())
    }

    /// Sets the number of items that may wait for the reader, from 1 to 1,048,576. The default is the peer's
    /// [`stream_credit`](super::PeerBuilder::stream_credit).
    pub fn credit(mut self, items: u32) -> Self {
        self.credit = items.clamp(1, MAX_CREDIT);
        self
    }

    /// Opens the stream. Returns at once. The items come from the other side only. A failure to open is the end that the
    /// receiver gets.
    ///
    /// If the other side knows no streams, its reply is the only item.
    pub fn receive<I: DecodeBody>(self) -> Receiver<I> {
        self.dispatch(true).1
    }

    /// Opens the stream. Returns at once. Both sides send items, or this side alone and the other one a result, as its only item:
    /// [`Receiver::wait_only`]. The sender has room once the other side has accepted the stream.
    pub fn open<T: EncodeBody, I: DecodeBody>(self) -> (Sender<T>, Receiver<I>) {
        let (outlet, receiver) = self.dispatch(false);
        (Sender::new(outlet, true), receiver)
    }

    fn dispatch<I: DecodeBody>(self, sends_nothing: bool) -> (Outlet, Receiver<I>) {
        let session = self.session.clone();
        let stream = Stream::new(Role::Opener, self.credit, Box::new(session.clone()));
        if sends_nothing {
            stream.send_nothing();
        }
        let outlet = Outlet {
            session: session.clone(),
            stream: stream.clone(),
            codec: self.draft.message.codec,
            filters: self.draft.message.filters.clone(),
            working: None,
        };
        let waiter = {
            let (session, opened) = (session.clone(), stream.clone());
            let callback = Box::new(move |reply: Result<Arrived<'_>, Status>| {
                on_reply(&session, &opened, reply, sends_nothing);
            });
            Waiter::stream(stream.clone(), callback)
        };
        let credit = self.credit.to_string();
        match self.set_meta(STREAM, credit).finish() {
            Ok((message, timeout)) => {
                // The waiter is told if it cannot be sent.
                let _ = session.send(Outgoing {
                    message,
                    has_own_seq: false,
                    call: Some(OutgoingCall {
                        waiter,
                        timeout,
                        deadline: None,
                        is_idempotent: false,
                        fails_fast: false,
                    }),
                    when_full: WhenFull::Send,
                    on_sent: None,
                });
            }
            Err(status) => waiter.settle(Err(status)),
        }
        (outlet, Receiver::new(session, stream, None))
    }

    fn finish(self) -> Result<(Message<'static>, Option<Duration>), Status> {
        Ok((self.draft.finish()?, self.timeout))
    }
}

/// Takes the reply to the CALL that opens a stream.
fn on_reply(
    session: &Session,
    stream: &Arc<Stream>,
    reply: Result<Arrived<'_>, Status>,
    sends_nothing: bool,
) {
    let reply = match reply {
        Ok(reply) => reply.message,
        Err(status) => {
            stream.stop(status);
            return;
        }
    };
    if let Some(status) = reply.status() {
        stream.stop(status);
        return;
    }
    let Some(credit) = reply.meta.get_str(STREAM) else {
        stream.on_plain_reply(Item::new(reply.clone().into_owned(), &Arc::default()));
        return;
    };
    match credit.parse::<u32>() {
        // The other side takes no items.
        Ok(0) => {}
        Ok(_) if sends_nothing => {
            stream.signal(Signal::End(Ok(())));
        }
        Ok(items) if stream.on_credit(items).is_ok() => {}
        _ => {
            Counters::count(&session.shared().counters.stream_violations);
            stream.abandon(Violation::Credit.status());
        }
    }
}

impl<A: ?Sized> fmt::Debug for StreamCall<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft.fmt(f)
    }
}
