//! The arguments of handlers: the message that arrived, and the settings of its reply.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::call::Call;
use super::cancellation::Cancellation;
use super::reply::FromReply;
use super::session::Session;
use super::swap::Swap;
use super::wire::{
    BodyError, Codec, Codecs, DecodeBody, Dialect, EncodeBody, FilterPipe, Message, Meta, Status,
    Uri, code,
};
use crate::addr::Addr;

/// Sees a message when its body has been decoded.
pub(super) trait AfterBody: fmt::Debug + Send + Sync {
    fn after_body(&self, message: &Incoming<'_>) -> Result<(), Status>;
}

/// A CALL or a PUSH that has arrived, and the session on which it did.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    pub(super) message: Message<'a>,
    pub(super) session: Session,
    pub(super) dialect: Dialect,
    pub(super) deadline: Option<Instant>,
    /// The time of its arrival. None if nobody needs it.
    pub(super) arrived: Option<Instant>,
    /// Set if the call may be cancelled while its handler works.
    pub(super) cancelled: Option<Arc<Cancellation>>,
    pub(super) extras: Option<Box<Extras>>,
}

/// Additions of plugins to a message. Most messages have none.
#[derive(Clone, Default)]
pub(super) struct Extras {
    kept: Kept,
    /// The answer in place of the handler's.
    answer: Option<(ReplyHead, Vec<u8>)>,
    /// The status of a body that cannot be decoded.
    bad_body: Option<Status>,
}

/// A value that exists as long as the work on a message.
pub(super) type Kept = Option<Arc<dyn Any + Send + Sync>>;

impl<'a> Incoming<'a> {
    /// Returns the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the message's `seq`.
    pub fn seq(&self) -> &[u8] {
        &self.message.seq
    }

    /// Returns the message's URI as it arrived.
    pub fn uri(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.message.uri)
    }

    /// Returns the path of the URI, decoded.
    pub fn path(&self) -> String {
        self.message
            .parse_uri()
            .map(|uri| uri.path().to_owned())
            .unwrap_or_default()
    }

    /// Returns the first value of a key in the URI's query.
    pub fn query(&self, key: &str) -> Option<String> {
        self.args().get_str(key).map(Cow::into_owned)
    }

    /// Returns the pairs of the URI's query.
    pub fn args(&self) -> Meta<'_> {
        self.message
            .parse_uri()
            .map(|uri| uri.args())
            .unwrap_or_default()
    }

    /// Decodes the URI's query as a value.
    ///
    /// # Errors
    ///
    /// Returns a status [`BAD_MESSAGE`](code::BAD_MESSAGE) if the query does not encode such a value.
    pub fn args_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, Status> {
        Uri::parse(&*self.message.uri)
            .map_err(|error| self.bad_message(error.text(self.dialect)))?
            .args_as()
            .map_err(|error| self.bad_body(&error))
    }

    /// Returns the metadata.
    pub fn meta(&self) -> &Meta<'a> {
        &self.message.meta
    }

    /// Returns the codec of the body.
    pub fn body_codec(&self) -> Codec {
        self.message.codec
    }

    /// Returns the body, not decoded.
    pub fn body(&self) -> &[u8] {
        &self.message.body
    }

    /// Decodes the body.
    ///
    /// # Errors
    ///
    /// Returns a status [`BAD_MESSAGE`](code::BAD_MESSAGE) if the body does not encode such a value.
    pub fn bind<T: DecodeBody>(&self) -> Result<T, Status> {
        self.message
            .unmarshal(self.codecs())
            .map_err(|error| self.bad_body(&error))
    }

    /// Returns the whole message.
    pub fn message(&self) -> &Message<'a> {
        &self.message
    }

    /// Returns the whole message, for a plugin that changes it.
    pub fn message_mut(&mut self) -> &mut Message<'a> {
        &mut self.message
    }

    /// Returns the address of the other end of the connection.
    pub fn remote_addr(&self) -> Addr {
        self.session.remote_addr()
    }

    /// Returns the address of the client for whom the other end acts, as it told in `X-Real-IP`, or else the address of the
    /// other end. Anybody can send `X-Real-IP`: trust it only behind a proxy of your own.
    pub fn real_ip(&self) -> Option<IpAddr> {
        let told = self.message.meta.get_str(Meta::REAL_IP);
        let parse = |told: &str| {
            // Teleport's proxies send the port as well.
            let addr = || told.parse::<SocketAddr>().map(|addr| addr.ip());
            told.parse().or_else(|_| addr()).ok()
        };
        told.and_then(|told| parse(&told))
            .or_else(|| self.remote_addr().as_socket_addr().map(|addr| addr.ip()))
    }

    /// Returns the address of the other end, and that of the client for which it acts, for the log.
    pub(super) fn logged_addr(&self) -> String {
        let addr = self.remote_addr();
        let own = addr.as_socket_addr().map(|addr| addr.ip());
        match self.real_ip() {
            Some(real) if Some(real) != own => format!("{addr}(real: {real})"),
            _ => addr.to_string(),
        }
    }

    /// Returns the values that the application keeps with the session.
    pub fn swap(&self) -> &Swap {
        self.session.swap()
    }

    /// Returns the moment at which the caller stops waiting, or at which the peer's limit for handlers is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the time at which the message arrived, on the clock of the reactor, which is virtual in a simulation. Plugins and
    /// handlers that reply later know it; `None` elsewhere.
    pub fn arrived_at(&self) -> Option<Instant> {
        self.arrived
    }

    /// Keeps a value until the work on the message has ended: its handler has returned, or, where it replies later, has
    /// replied or given up. A plugin that counts what is under way does so in the value's `Drop`.
    pub fn keep(&mut self, value: impl Any + Send + Sync) {
        let kept = &mut self.extras.get_or_insert_default().kept;
        *kept = Some(Arc::new((kept.take(), value)));
    }

    /// Has a plugin answer the call in place of its handler. A push is done with. Only for the hooks before the body is
    /// decoded, which return the result.
    ///
    /// ```
    /// use epicycle::rpc::{Hooks, Incoming, Plugin, Status};
    ///
    /// struct Maintenance;
    ///
    /// impl Plugin for Maintenance {
    ///     fn name(&self) -> &str {
    ///         "maintenance"
    ///     }
    ///
    ///     fn hooks(&self) -> Hooks {
    ///         Hooks::PRE_READ_CALL_BODY
    ///     }
    ///
    ///     fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
    ///         call.answer("back at noon")
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Always returns an error, so that neither further plugins nor the handler get the message: a status that nobody
    /// sees, or the reason why the value cannot be encoded.
    pub fn answer<R: EncodeBody + ?Sized>(&mut self, value: &R) -> Result<(), Status> {
        let (mut head, mut body) = (ReplyHead::default(), Vec::new());
        let codec = reply_codec(self, &mut head);
        encode_reply(&self.session, self.dialect, codec, value, &mut body)?;
        self.extras.get_or_insert_default().answer = Some((head, body));
        Err(Status::of(code::UNKNOWN_ERROR, self.dialect).with_reason("a plugin has answered"))
    }

    /// Sets the status for a body that cannot be decoded, in place of [`BAD_MESSAGE`](code::BAD_MESSAGE) with the decoder's
    /// reason. For plugins whose peers must not learn the reason.
    pub fn set_bad_body(&mut self, status: Status) {
        self.extras.get_or_insert_default().bad_body = Some(status);
    }

    /// Returns the answer of a plugin.
    pub(super) fn answered(&self) -> Option<(&ReplyHead, &[u8])> {
        let (head, body) = self.extras.as_ref()?.answer.as_ref()?;
        Some((head, body))
    }

    /// Takes what plugins [keep](Self::keep).
    pub(super) fn take_kept(&mut self) -> Kept {
        self.extras.as_mut()?.kept.take()
    }

    /// Returns true if the caller no longer waits: it has cancelled the call, or its time is over, or its session has ended.
    /// A handler that takes long should look now and then. Always false for handlers that run on the reactor.
    pub fn is_cancelled(&self) -> bool {
        (self.cancelled.as_ref()).is_some_and(|cancelled| cancelled.is_cancelled())
    }

    /// Calls `callback` when the caller no longer waits, on the reactor, or at once if that is so already. It must not block. It
    /// is dropped when the work on the call has ended before, and in handlers that run on the reactor.
    /// For a stream: when the stream has ended.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        if let Some(cancelled) = &self.cancelled {
            cancelled.on_cancel(Box::new(callback));
        }
    }

    /// Prepares a call that is a part of the work on this message, on any session. It ends by this message's
    /// [deadline](Self::deadline), and belongs to its trace: the `traceparent` and `tracestate` of the metadata go with it.
    ///
    /// ```
    /// use epicycle::rpc::Router;
    ///
    /// let mut routes = Router::new();
    /// routes.call_async("/greet", |ctx, name: String| async move {
    ///     // A call back to the caller.
    ///     let greeting: String = ctx.call(ctx.session(), "/greeting", &()).await?;
    ///     Ok(format!("{greeting}, {name}"))
    /// });
    /// ```
    pub fn call<'s, A, R>(
        &self,
        session: &'s Session,
        uri: impl AsRef<str>,
        arg: &'s A,
    ) -> Call<'s, A, R>
    where
        A: EncodeBody + ?Sized,
        R: FromReply,
    {
        let mut call = session.call(uri, arg);
        for key in [Meta::TRACE_PARENT, Meta::TRACE_STATE] {
            if let Some(value) = self.message.meta.get(key) {
                call = call.set_meta(key, value);
            }
        }
        match self.deadline {
            Some(deadline) => call.deadline(deadline),
            None => call,
        }
    }

    pub(super) fn codecs(&self) -> &Codecs {
        &self.session.shared().formats.codecs
    }

    pub(super) fn bad_body(&self, error: &BodyError) -> Status {
        let own = self
            .extras
            .as_ref()
            .and_then(|extras| extras.bad_body.clone());
        own.unwrap_or_else(|| self.bad_message(error.to_string()))
    }

    fn bad_message(&self, reason: impl Into<Cow<'static, str>>) -> Status {
        Status::of(code::BAD_MESSAGE, self.dialect).with_reason(reason)
    }

    pub(super) fn into_owned(self) -> Incoming<'static> {
        Incoming {
            message: self.message.into_owned(),
            session: self.session,
            dialect: self.dialect,
            deadline: self.deadline,
            arrived: self.arrived,
            cancelled: self.cancelled,
            extras: self.extras,
        }
    }
}

impl fmt::Debug for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extras").finish_non_exhaustive()
    }
}

/// The argument of a handler for a CALL: the [`Incoming`] message, and settings of the reply.
#[derive(Debug)]
pub struct CallCtx<'a> {
    incoming: &'a Incoming<'a>,
    locals: Option<&'a Locals>,
    after_body: Option<Arc<dyn AfterBody>>,
    pub(super) reply: ReplyHead,
}

/// The parts of a reply in front of its body.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplyHead {
    pub(super) meta: Meta<'static>,
    pub(super) codec: Option<Codec>,
    /// The filters that are added to those of the call.
    pub(super) filters: FilterPipe<'static>,
}

impl ReplyHead {
    /// Tells the media type of a body that has one of its own.
    #[inline]
    pub(super) fn set_content_type<R: EncodeBody>(&mut self, value: &R) {
        if let Some(media) = value.content_type() {
            self.codec = Some(Codec::PLAIN);
            if self.meta.get(CONTENT_TYPE).is_none() {
                self.meta.add(CONTENT_TYPE, media);
            }
        }
    }
}

/// The key of the metadata with the media type of a body.
const CONTENT_TYPE: &str = "Content-Type";

impl<'a> CallCtx<'a> {
    pub(super) fn new(
        incoming: &'a Incoming<'a>,
        locals: Option<&'a Locals>,
        after_body: Option<Arc<dyn AfterBody>>,
    ) -> Self {
        Self {
            incoming,
            locals,
            after_body,
            reply: ReplyHead::default(),
        }
    }

    /// Returns the message, for as long as the handler runs. It can be read while settings of the reply are made.
    pub fn incoming(&self) -> &'a Incoming<'a> {
        self.incoming
    }

    /// Adds a pair to the reply's metadata.
    pub fn add_reply_meta(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.reply.meta.add(key, value);
    }

    /// Sets the only value of a key in the reply's metadata.
    pub fn set_reply_meta(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.reply.meta.set(key, value);
    }

    /// Sets the codec of the reply's body. By default it is the one that the caller accepts, or that of the call.
    pub fn set_reply_codec(&mut self, codec: Codec) {
        self.reply.codec = Some(codec);
    }

    /// Adds filters to the reply, after those of the call, which it has in any case.
    ///
    /// # Errors
    ///
    /// Returns a status if a filter is not registered or there are too many. A handler can return it.
    pub fn add_reply_filters(&mut self, ids: impl AsRef<[u8]>) -> Result<(), Status> {
        let filters = &self.incoming.session.shared().formats.filters;
        self.reply
            .filters
            .append(ids.as_ref(), filters)
            .map_err(|error| {
                Status::of(code::INTERNAL_SERVER_ERROR, self.incoming.dialect)
                    .with_reason(error.to_string())
            })
    }

    /// Returns this reactor's value of a type that [`PeerBuilder::local`](super::PeerBuilder::local) makes. Returns `None` if
    /// there is no such value, if it is borrowed already, and in a handler that does not run on a reactor.
    pub fn local<T: 'static>(&self) -> Option<RefMut<'a, T>> {
        self.locals?.get()
    }

    /// Decodes the argument.
    pub(super) fn argument<A: DecodeBody>(&self) -> Result<A, Status> {
        argument(self.incoming, self.after_body.as_deref())
    }

    /// Encodes the body of the reply.
    pub(super) fn encode<R: EncodeBody>(
        &mut self,
        value: &R,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        self.reply.set_content_type(value);
        let codec = reply_codec(self.incoming, &mut self.reply);
        encode_reply(&self.session, self.dialect, codec, value, out)
    }
}

/// The argument of a handler that is a future: the [`Incoming`] message, and settings of the reply. It can be cloned.
#[derive(Clone, Debug)]
pub struct AsyncCtx {
    incoming: Rc<Incoming<'static>>,
    locals: Rc<Locals>,
    after_body: Option<Arc<dyn AfterBody>>,
    pub(super) reply: Rc<RefCell<ReplyHead>>,
}

impl AsyncCtx {
    pub(super) fn new(
        incoming: Incoming<'static>,
        locals: Rc<Locals>,
        after_body: Option<Arc<dyn AfterBody>>,
    ) -> Self {
        Self {
            incoming: Rc::new(incoming),
            locals,
            after_body,
            reply: Rc::default(),
        }
    }

    /// Adds a pair to the reply's metadata.
    pub fn add_reply_meta(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.reply.borrow_mut().meta.add(key, value);
    }

    /// Sets the only value of a key in the reply's metadata.
    pub fn set_reply_meta(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.reply.borrow_mut().meta.set(key, value);
    }

    /// Sets the codec of the reply's body, as [`CallCtx::set_reply_codec`] does.
    pub fn set_reply_codec(&self, codec: Codec) {
        self.reply.borrow_mut().codec = Some(codec);
    }

    /// Returns this reactor's value of a type, as [`CallCtx::local`] does. Do not keep it across an `.await`: meanwhile nobody
    /// else gets the value.
    pub fn local<T: 'static>(&self) -> Option<RefMut<'_, T>> {
        self.locals.get()
    }

    /// Decodes the argument.
    pub(super) fn argument<A: DecodeBody>(&self) -> Result<A, Status> {
        argument(&self.incoming, self.after_body.as_deref())
    }

    /// Encodes the body of the reply.
    pub(super) fn encode<R: EncodeBody>(&self, value: &R) -> Result<Vec<u8>, Status> {
        let codec = {
            let mut reply = self.reply.borrow_mut();
            reply.set_content_type(value);
            reply_codec(&self.incoming, &mut reply)
        };
        let mut body = Vec::new();
        encode_reply(&self.session, self.dialect, codec, value, &mut body)?;
        Ok(body)
    }
}

impl Deref for AsyncCtx {
    type Target = Incoming<'static>;

    fn deref(&self) -> &Incoming<'static> {
        &self.incoming
    }
}

/// Returns the codec of the reply, and keeps it.
#[inline(always)]
pub(super) fn reply_codec(call: &Incoming<'_>, reply: &mut ReplyHead) -> Codec {
    let default = call.session.shared().settings.body_codec;
    let codec = call.codecs().for_reply(&call.message, reply.codec, default);
    reply.codec = Some(codec);
    codec
}

/// Encodes the body of a reply.
pub(super) fn encode_reply<R: EncodeBody + ?Sized>(
    session: &Session,
    dialect: Dialect,
    codec: Codec,
    value: &R,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    let codecs = &session.shared().formats.codecs;
    codecs.marshal(codec, value, out).map_err(|error| {
        Status::of(code::INTERNAL_SERVER_ERROR, dialect).with_reason(error.to_string())
    })
}

impl<'a> Deref for CallCtx<'a> {
    type Target = Incoming<'a>;

    fn deref(&self) -> &Incoming<'a> {
        self.incoming
    }
}

/// The argument of a handler for a PUSH: the [`Incoming`] message.
#[derive(Debug)]
pub struct PushCtx<'a> {
    incoming: &'a Incoming<'a>,
    locals: Option<&'a Locals>,
    after_body: Option<Arc<dyn AfterBody>>,
}

impl<'a> PushCtx<'a> {
    pub(super) fn new(
        incoming: &'a Incoming<'a>,
        locals: Option<&'a Locals>,
        after_body: Option<Arc<dyn AfterBody>>,
    ) -> Self {
        Self {
            incoming,
            locals,
            after_body,
        }
    }

    /// Decodes the argument.
    pub(super) fn argument<A: DecodeBody>(&self) -> Result<A, Status> {
        argument(self.incoming, self.after_body.as_deref())
    }

    /// Returns this reactor's value of a type, as [`CallCtx::local`] does.
    pub fn local<T: 'static>(&self) -> Option<RefMut<'a, T>> {
        self.locals?.get()
    }
}

impl<'a> Deref for PushCtx<'a> {
    type Target = Incoming<'a>;

    fn deref(&self) -> &Incoming<'a> {
        self.incoming
    }
}

/// Makes a value of a reactor.
pub(super) type MakeLocal = Box<dyn Fn(&mut Locals) + Send + Sync>;

/// Decodes the argument of a handler.
fn argument<A: DecodeBody>(
    message: &Incoming<'_>,
    after_body: Option<&dyn AfterBody>,
) -> Result<A, Status> {
    let argument = message.bind()?;
    if let Some(plugins) = after_body {
        plugins.after_body(message)?;
    }
    Ok(argument)
}

/// The values of a reactor, by their types.
#[derive(Debug, Default)]
pub(super) struct Locals(HashMap<TypeId, Box<dyn Any>>);

impl Locals {
    pub(super) fn insert<T: 'static>(&mut self, value: T) {
        self.0
            .insert(TypeId::of::<T>(), Box::new(RefCell::new(value)));
    }

    fn get<T: 'static>(&self) -> Option<RefMut<'_, T>> {
        let value = self.0.get(&TypeId::of::<T>())?;
        value.downcast_ref::<RefCell<T>>()?.try_borrow_mut().ok()
    }
}
