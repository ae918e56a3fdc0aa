//! Calls and pushes that an application makes.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::outgoing::{CallState, OnSent, Outcome, Outgoing, OutgoingCall, Waiter, WhenFull};
use super::reply::{FromReply, local, read};
use super::session::{Session, Shared, is_on_loop};
use super::wire::{Codec, EncodeBody, Kind, Message, Meta, Status, code};

impl Session {
    /// Prepares a call: names the route and its argument. Nothing is sent before [`Call::wait`], [`Call::then`],
    /// [`Call::send`] or `.await`.
    ///
    /// ```
    /// # fn demo(session: &epicycle::rpc::Session) -> Result<(), epicycle::rpc::Status> {
    /// use std::time::Duration;
    ///
    /// let sum: i64 = session.call("/math/add", &[1, 2, 3]).wait()?;
    ///
    /// session
    ///     .call("/math/add", &[1, 2, 3])
    ///     .timeout(Duration::from_millis(50))
    ///     .then(|sum: Result<i64, _>| println!("{sum:?}"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<'a, A, R>(&'a self, uri: impl AsRef<str>, arg: &'a A) -> Call<'a, A, R>
    where
        A: EncodeBody + ?Sized,
        R: FromReply,
    {
        Call {
            session: self,
            draft: Draft::new(self.shared(), Kind::Call, uri.as_ref(), arg),
            timeout: self.shared().settings.call_timeout,
            deadline: None,
            is_idempotent: false,
            fails_fast: false,
            result: PhantomData,
        }
    }

    /// Sends a message that is not answered. Returns at once.
    ///
    /// # Errors
    ///
    /// [`BAD_MESSAGE`](code::BAD_MESSAGE) if the body cannot be encoded, [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) if the
    /// session has ended, and [`WRITE_FAILED`](code::WRITE_FAILED) if the mailbox of its reactor is full. A push that fails
    /// later, on the reactor, is logged and counted.
    pub fn push<A: EncodeBody + ?Sized>(
        &self,
        uri: impl AsRef<str>,
        body: &A,
    ) -> Result<(), Status> {
        self.prepare_push(uri, body).send()
    }

    /// Prepares a push that is more than a route and a body.
    pub fn prepare_push<'a, A>(&'a self, uri: impl AsRef<str>, body: &'a A) -> Push<'a, A>
    where
        A: EncodeBody + ?Sized,
    {
        Push {
            session: self,
            draft: Draft::new(self.shared(), Kind::Push, uri.as_ref(), body),
            when_full: WhenFull::Send,
        }
    }
}

/// A call that is not sent yet, and its settings.
#[must_use = "it is sent by `wait`, `then`, `send` or `.await`"]
pub struct Call<'a, A: ?Sized, R> {
    session: &'a Session,
    draft: Draft<'a, A>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    is_idempotent: bool,
    fails_fast: bool,
    result: PhantomData<fn() -> R>,
}

/// A push that is not sent yet, and its settings.
#[must_use = "it is sent by `send` or `send_when_room`"]
pub struct Push<'a, A: ?Sized> {
    session: &'a Session,
    draft: Draft<'a, A>,
    when_full: WhenFull,
}

/// The parts that calls and pushes have in common. It belongs to no session yet.
pub(super) struct Draft<'a, A: ?Sized> {
    shared: &'a Shared,
    pub(super) message: Message<'static>,
    body: &'a A,
    pub(super) has_own_seq: bool,
    /// The first fault of a setting.
    fault: Option<Status>,
}

impl<'a, A: EncodeBody + ?Sized> Draft<'a, A> {
    pub(super) fn new(shared: &'a Shared, kind: Kind, uri: &str, body: &'a A) -> Self {
        let mut message = Message::new(kind);
        message.uri = uri.as_bytes().to_vec().into();
        message.codec = shared.settings.body_codec;
        Self {
            shared,
            message,
            body,
            has_own_seq: false,
            fault: None,
        }
    }

    pub(super) fn add_query(&mut self, key: &str, value: &str) {
        let mut query = Meta::default();
        query.add(key, value);
        let uri = self.message.uri.to_mut();
        uri.push(if uri.contains(&b'?') { b'&' } else { b'?' });
        uri.extend_from_slice(query.encoded());
    }

    pub(super) fn add_filters(&mut self, ids: &[u8]) {
        let filters = &self.shared.formats.filters;
        if let Err(error) = self.message.filters.append(ids, filters) {
            self.fault
                .get_or_insert_with(|| local(code::WRITE_FAILED, error.to_string()));
        }
    }

    /// Encodes the body.
    pub(super) fn finish(mut self) -> Result<Message<'static>, Status> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let codec = self.message.codec;
        let codecs = &self.shared.formats.codecs;
        (self.message.marshal(codecs, codec, self.body))
            .map_err(|error| local(code::BAD_MESSAGE, format!("the argument: {error}")))?;
        Ok(self.message)
    }
}

/// Defines the settings that calls, pushes and streams share.
macro_rules! settings {
    () => {
        /// Adds a pair to the metadata.
        pub fn meta(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
            self.draft.message.meta.add(key, value);
            self
        }

        /// Sets the only value of a key in the metadata.
        pub fn set_meta(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
            self.draft.message.meta.set(key, value);
            self
        }

        /// Adds a pair to the URI's query.
        pub fn query(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
            self.draft.add_query(key.as_ref(), value.as_ref());
            self
        }

        /// Sets the codec of the body. The default is the peer's.
        pub fn codec(mut self, codec: Codec) -> Self {
            self.draft.message.codec = codec;
            self
        }

        /// Adds filters by their ids. The first one is the outermost.
        pub fn filters(mut self, ids: impl AsRef<[u8]>) -> Self {
            self.draft.add_filters(ids.as_ref());
            self
        }

        /// Tells the address of the client for whom this peer acts, in the metadata.
        pub fn real_ip(self, ip: IpAddr) -> Self {
            self.set_meta(Meta::REAL_IP, ip.to_string())
        }

        /// Sends a status with the message, in the metadata.
        pub fn status(mut self, status: &Status) -> Self {
            status.write(&mut self.draft.message.meta, usize::MAX);
            self
        }
    };
}

/// Defines the setting that calls and pushes share.
macro_rules! own_seq {
    () => {
        /// Sets the `seq`. By default it is a number that counts the session's messages.
        pub fn seq(mut self, seq: impl Into<Vec<u8>>) -> Self {
            self.draft.message.seq = seq.into().into();
            self.draft.has_own_seq = true;
            self
        }
    };
}

/// Defines the settings that only calls have, and the ways to send them.
macro_rules! call_settings {
    () => {
        /// Sets the time within which the reply must arrive. The call then ends with [`HANDLE_TIMEOUT`](crate::rpc::code::HANDLE_TIMEOUT). The
        /// other side is told the time as well, and does not begin work whose time is over. The default is the peer's
        /// [`call_timeout`](crate::rpc::PeerBuilder::call_timeout).
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.timeout = Some(timeout);
            self
        }

        /// Lets the call wait for its reply without a limit of time.
        pub fn no_timeout(mut self) -> Self {
            self.timeout = None;
            self
        }

        /// Sets the moment by which the reply must arrive, besides the [timeout](Self::timeout): the earlier one counts.
        pub fn deadline(mut self, deadline: Instant) -> Self {
            self.deadline = Some(deadline);
            self
        }

        /// Sets the codec in which the reply's body is wanted.
        pub fn accept(self, codec: Codec) -> Self {
            self.set_meta(Meta::ACCEPT_BODY_CODEC, codec.0.to_string())
        }

        /// Sends the call and waits for the reply. It blocks the thread.
        ///
        /// # Errors
        ///
        /// The other side's status, or one that arises here: [`code`](crate::rpc::code) lists them. On a reactor's thread it fails at once, without
        /// a call, because the reply could never arrive: use [`then`](Self::then) there, or a handler that may block.
        pub fn wait(self) -> Result<R, Status> {
            check_may_block()?;
            self.send().wait()
        }

        /// Sends the call. Returns at once. `callback` gets the result, exactly once: on the reactor's thread, or on this one if
        /// the call cannot be sent. It must not block.
        pub fn then(self, callback: impl FnOnce(Result<R, Status>) + Send + 'static) {
            self.dispatch(Waiter::callback(Box::new(|result| {
                callback(result.and_then(|reply| read(reply.message, reply.cost, reply.codecs)));
            })));
        }
    };
}

pub(super) use {call_settings, own_seq, settings};

impl<A: EncodeBody + ?Sized> Push<'_, A> {
    settings!();
    own_seq!();

    /// Sets the treatment of the push if there is no room in its connection's output. Default: [`WhenFull::Send`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Sends the push. Returns at once.
    ///
    /// # Errors
    ///
    /// As for [`Session::push`], and [`WRITE_FAILED`](code::WRITE_FAILED) for a filter that is not registered.
    pub fn send(self) -> Result<(), Status> {
        self.dispatch(None)
    }

    /// Sends the push once there is room for it: less output of its connection waits than the
    /// [high-water mark](crate::Server::high_water). Returns at once. `callback` is called exactly once: when the push is in the
    /// output, or with the reason why it is not sent. Then the next one can follow. It runs on the reactor's thread, or on this
    /// one if the push is refused at once, and must not block.
    ///
    /// Other pushes do not wait for this one. At most 1,024 pushes of a session may wait; one more fails with
    /// [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS).
    pub fn send_when_room(self, callback: impl FnOnce(Result<(), Status>) + Send + 'static) {
        // The callback gets the error.
        let _ = self.dispatch(Some(OnSent::new(callback)));
    }

    fn dispatch(self, on_sent: Option<OnSent>) -> Result<(), Status> {
        let (session, has_own_seq) = (self.session, self.draft.has_own_seq);
        let message = match self.draft.finish() {
            Ok(message) => message,
            Err(status) => {
                if let Some(on_sent) = on_sent {
                    on_sent.tell(Err(status.clone()));
                }
                return Err(status);
            }
        };
        session.send(Outgoing {
            message,
            has_own_seq,
            call: None,
            when_full: self.when_full,
            on_sent,
        })
    }
}

impl<A: EncodeBody + ?Sized, R: FromReply> Call<'_, A, R> {
    settings!();
    own_seq!();

    call_settings!();

    /// Marks that the call may be carried out more than once. If the session [redials](super::PeerBuilder::redial) and its
    /// connection ends before the reply, the call is sent again on the next connection, within its timeout. Other calls fail
    /// with [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) then, because it is not known whether the other side has carried
    /// them out.
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Lets the call fail at once with [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED) if the session is about to
    /// [redial](super::PeerBuilder::redial), rather than wait for the new connection. It is not sent again after the end of a
    /// connection either, even if it is [idempotent](Self::idempotent). For callers that have another way to get the result.
    pub fn fail_fast(mut self) -> Self {
        self.fails_fast = true;
        self
    }

    /// Sends the call. Returns at once.
    pub fn send(self) -> Pending<R> {
        let session = self.session.clone();
        let state = Arc::new(CallState::new());
        self.dispatch(Waiter::state(state.clone()));
        Pending::new(Caller::Session(session), state)
    }

    fn dispatch(self, waiter: Waiter) {
        let (session, has_own_seq) = (self.session, self.draft.has_own_seq);
        let (timeout, deadline) = (self.timeout, self.deadline);
        let (is_idempotent, fails_fast) = (self.is_idempotent, self.fails_fast);
        match self.draft.finish() {
            // The waiter is told if it cannot be sent.
            Ok(message) => drop(session.send(Outgoing {
                message,
                has_own_seq,
                call: Some(OutgoingCall {
                    waiter,
                    timeout,
                    deadline,
                    is_idempotent,
                    fails_fast,
                }),
                when_full: WhenFull::Send,
                on_sent: None,
            })),
            Err(status) => waiter.settle(Err(status)),
        }
    }
}

impl<A: EncodeBody + ?Sized, R: FromReply> IntoFuture for Call<'_, A, R> {
    type Output = Result<R, Status>;
    type IntoFuture = CallFuture<R>;

    fn into_future(self) -> CallFuture<R> {
        self.send().into_future()
    }
}

/// A call that is under way. If it is dropped, the call goes on, and its result is lost.
pub struct Pending<R> {
    caller: Caller,
    state: Arc<CallState>,
    result: PhantomData<fn() -> R>,
}

/// Whoever makes a call, and can cancel it.
pub(super) enum Caller {
    Session(Session),
    /// A call that belongs to no session.
    Other(Arc<dyn CancelCall>),
}

/// Cancels a call that belongs to no session.
pub(super) trait CancelCall: Send + Sync {
    fn cancel(&self);
    fn shared(&self) -> &Shared;
}

impl Caller {
    fn shared(&self) -> &Shared {
        match self {
            Caller::Session(session) => session.shared(),
            Caller::Other(call) => call.shared(),
        }
    }

    fn read<R: FromReply>(&self, outcome: Outcome) -> Result<R, Status> {
        let (message, cost) = outcome?;
        read(&message, cost, &self.shared().formats.codecs)
    }

    fn cancel(&self, state: &Arc<CallState>) {
        match self {
            Caller::Session(session) => session.cancel(state.clone()),
            Caller::Other(call) => call.cancel(),
        }
    }
}

impl<R> Pending<R> {
    pub(super) fn new(caller: Caller, state: Arc<CallState>) -> Self {
        Self {
            caller,
            state,
            result: PhantomData,
        }
    }
}

impl<R: FromReply> Pending<R> {
    /// Waits for the reply. It blocks the thread.
    ///
    /// # Errors
    ///
    /// As for [`Call::wait`].
    pub fn wait(self) -> Result<R, Status> {
        check_may_block()?;
        self.read(self.state.slot.wait())
    }

    /// Waits for the reply, at most for this time. Returns the call again if it has not ended by then.
    ///
    /// # Errors
    ///
    /// `Err` with the call if the time is over. The inner result is that of [`wait`](Self::wait).
    pub fn wait_timeout(self, time: Duration) -> Result<Result<R, Status>, Self> {
        if let Err(status) = check_may_block() {
            return Ok(Err(status));
        }
        let Some(deadline) = Instant::now().checked_add(time) else {
            return Ok(self.wait());
        };
        match self.state.slot.wait_until(deadline) {
            Some(outcome) => Ok(self.read(outcome)),
            None => Err(self),
        }
    }

    /// Takes the result if the call has ended. Returns `None` if it has not, and after the result was taken.
    pub fn try_result(&self) -> Option<Result<R, Status>> {
        self.state.slot.take().map(|outcome| self.read(outcome))
    }

    /// Ends the call with [`CANCELLED`](code::CANCELLED) if it has no reply yet, and tells the other side, which drops it if its
    /// work has not begun.
    pub fn cancel(&self) {
        self.caller.cancel(&self.state);
    }

    /// Returns the session that the call was made on. A call of a [`MultiClient`](super::MultiClient) belongs to none.
    pub fn session(&self) -> Option<&Session> {
        match &self.caller {
            Caller::Session(session) => Some(session),
            Caller::Other(_) => None,
        }
    }

    fn read(&self, outcome: Outcome) -> Result<R, Status> {
        self.caller.read(outcome)
    }
}

pub(super) fn check_may_block() -> Result<(), Status> {
    if is_on_loop() {
        let reason = "`wait` on a reactor's thread would wait for itself; use `then`, or make the call in a blocking handler";
        // A handler may pass the error on to its caller, but this side has the fault.
        log::error!(target: "epicycle::rpc", "{reason}");
        return Err(local(code::INTERNAL_SERVER_ERROR, reason));
    }
    Ok(())
}

impl<R: FromReply> IntoFuture for Pending<R> {
    type Output = Result<R, Status>;
    type IntoFuture = CallFuture<R>;

    fn into_future(self) -> CallFuture<R> {
        CallFuture {
            outcome: CallOutcome {
                call: Some((self.caller, self.state)),
            },
            result: PhantomData,
        }
    }
}

/// The result of a call as a future, for any executor. If it is dropped before the reply, the call is
/// [cancelled](Pending::cancel).
///
/// # Panics
///
/// If it is polled again after it is ready.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<R> {
    outcome: CallOutcome,
    result: PhantomData<fn() -> R>,
}

impl<R: FromReply> Future for CallFuture<R> {
    type Output = Result<R, Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.outcome.poll_call(context);
        outcome.map(|(caller, outcome)| caller.read(outcome))
    }
}

/// The reply to a call as a future, not decoded. If it is dropped before the reply, the call is cancelled.
pub(super) struct CallOutcome {
    /// None once it is ready.
    call: Option<(Caller, Arc<CallState>)>,
}

impl CallOutcome {
    /// Sends a CALL with its own `seq`, as it is.
    pub(super) fn send(
        session: Session,
        message: Message<'static>,
        timeout: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Self {
        let state = Arc::new(CallState::new());
        let call = OutgoingCall {
            waiter: Waiter::state(state.clone()),
            timeout,
            deadline,
            is_idempotent: false,
            fails_fast: false,
        };
        // The waiter is told if it cannot be sent.
        drop(session.send(Outgoing {
            message,
            has_own_seq: true,
            call: Some(call),
            when_full: WhenFull::Send,
            on_sent: None,
        }));
        Self {
            call: Some((Caller::Session(session), state)),
        }
    }

    fn poll_call(&mut self, context: &mut Context<'_>) -> Poll<(Caller, Outcome)> {
        let Some((caller, state)) = self.call.take() else {
            panic!("a `CallFuture` was polled after it was ready");
        };
        match state.slot.poll(context.waker()) {
            Poll::Ready(outcome) => Poll::Ready((caller, outcome)),
            Poll::Pending => {
                self.call = Some((caller, state));
                Poll::Pending
            }
        }
    }
}

impl Future for CallOutcome {
    type Output = Result<Message<'static>, Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.poll_call(context);
        outcome.map(|(_, outcome)| outcome.map(|(message, _)| message))
    }
}

impl Drop for CallOutcome {
    fn drop(&mut self) {
        if let Some((caller, state)) = self.call.take() {
            caller.cancel(&state);
        }
    }
}

impl<A: ?Sized> fmt::Debug for Draft<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = String::from_utf8_lossy(&self.message.uri);
        write!(f, "{} {uri}", self.message.kind)
    }
}

impl<A: ?Sized, R> fmt::Debug for Call<'_, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft.fmt(f)
    }
}

impl<A: ?Sized> fmt::Debug for Push<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft.fmt(f)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Session(session) => session.fmt(f),
            Caller::Other(_) => f.write_str("a client"),
        }
    }
}

impl<R> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.caller).finish()
    }
}

impl<R> fmt::Debug for CallFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caller = self.outcome.call.as_ref().map(|(caller, _)| caller);
        f.debug_tuple("CallFuture").field(&caller).finish()
    }
}
