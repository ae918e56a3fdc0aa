//! The codec of RPC connections.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;

use super::wire::{
    Codecs, Dialect, Filters, JsonProtocol, Kind, Limits, Message, PbProtocol, Protocol,
    RawProtocol, WireError, explain, foreign,
};
use crate::addr::Addr;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};

/// The codec of connections that carry [`Message`]s, in one of the [protocols](super::wire#protocols-and-dialects).
///
/// A [`Peer`](super::Peer) uses it. It also serves any other [`EventHandler`](crate::EventHandler) that needs the messages
/// alone, without routes, sessions and calls.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::Wire;
/// use epicycle::rpc::wire::{Dialect, Kind, Message, RawProtocol};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler};
///
/// /// Answers each call with its own body.
/// struct Echo;
///
/// impl EventHandler for Echo {
///     type Codec = Wire;
///     type Session = ();
///
///     fn codec(&mut self, _: &ConnInfo<'_>) -> Wire {
///         Wire::new(RawProtocol::detect())
///     }
///
///     fn on_open(&mut self, _: &mut Conn<'_, Self>) -> Option<()> {
///         Some(())
///     }
///
///     fn react(&mut self, conn: &mut Conn<'_, Self>, _: &mut (), call: Message<'_>) -> Action {
///         if call.kind != Kind::Call {
///             return Action::Continue;
///         }
///         let mut reply = Message::reply(&call, conn.codec().dialect().echoes_uri());
///         reply.codec = call.codec;
///         reply.body = (&*call.body).into();
///         conn.send(&reply).into()
///     }
/// }
/// # let running = epicycle::Server::bind("tcp://127.0.0.1:0").start(|_| Echo)?;
/// # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
/// # std::io::Write::write_all(&mut peer, b"\0\0\0\x14r\0\0\x010\x01\0\x02/a\0\0jhey").unwrap();
/// # let mut reply = [0; 18];
/// # std::io::Read::read_exact(&mut peer, &mut reply).unwrap();
/// # assert_eq!(&reply, b"\0\0\0\x12r\0\0\x010\x02\0\0\0\0jhey");
/// # Ok::<(), epicycle::Error>(())
/// ```
pub struct Wire {
    protocol: AnyProtocol,
    /// None if the messages are on the stream itself.
    carrier: Option<Box<dyn Carrier>>,
    formats: Arc<Formats>,
    /// True on a peer's connection.
    converses: bool,
    conversation: Conversation,
    /// True if a message has begun and its rest has not arrived.
    is_receiving: bool,
    /// The size of the last message that was sent.
    sent: usize,
    /// True if the frame that was found last is a [greeting](Wire::take_greeting).
    greets: bool,
}

/// A protocol. The raw one, which is the default, is called without a detour and takes no memory of its own.
pub(super) enum AnyProtocol {
    Raw(RawProtocol),
    Other(Box<dyn Protocol>),
}

impl AnyProtocol {
    pub(super) fn new(protocol: impl Protocol + 'static) -> Self {
        match (&protocol as &dyn Any).downcast_ref::<RawProtocol>() {
            Some(raw) => Self::Raw(raw.clone()),
            None => Self::Other(Box::new(protocol)),
        }
    }
}

impl Deref for AnyProtocol {
    type Target = dyn Protocol;

    fn deref(&self) -> &(dyn Protocol + 'static) {
        match self {
            Self::Raw(raw) => raw,
            Self::Other(other) => &**other,
        }
    }
}

impl DerefMut for AnyProtocol {
    fn deref_mut(&mut self) -> &mut (dyn Protocol + 'static) {
        match self {
            Self::Raw(raw) => raw,
            Self::Other(other) => &mut **other,
        }
    }
}

/// Carries the messages of a connection that are not on the stream itself: HTTP, a WebSocket.
///
/// It is a state machine without a socket, as a codec is.
#[cfg_attr(
    not(feature = "ws"),
    allow(dead_code, reason = "without `ws` there are fewer carriers")
)]
pub(super) trait Carrier: Send {
    /// Returns the name of the carrier and of the messages in it.
    fn name(&self) -> &'static str;

    /// Returns what takes the place of this carrier on a connection whose first byte is this one.
    fn choose(&self, first: u8) -> Option<Carried> {
        let _ = first;
        None
    }

    /// Looks for the first message in `src`.
    fn decode<'a>(
        &mut self,
        src: &'a mut [u8],
        inside: &mut Inside<'_>,
    ) -> Result<Decoded<Found<'a>>, FrameError> {
        let _ = (src, inside);
        Err(not_ready())
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        let _ = (message, inside, dst);
        Err(not_ready())
    }

    /// Appends a message that the protocol has encoded already.
    fn put_encoded(&mut self, message: &Bytes, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let _ = (message, dst);
        Err(not_ready())
    }

    /// Begins the handshake of a client, or answers what [`Found::Greeting`] has told of. Returns what takes the place of this
    /// carrier, if anything does.
    fn greet(
        &mut self,
        ends: &Ends<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<Option<Carried>, FrameError> {
        let _ = (ends, inside, dst);
        Ok(None)
    }

    /// Returns true once messages can be sent.
    fn is_ready(&self) -> bool {
        false
    }

    /// Returns true if nothing but replies can be sent.
    fn only_answers(&self) -> bool {
        false
    }

    fn take_cost(&mut self) -> usize {
        0
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        let _ = dst;
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let _ = (cause, dst);
    }

    fn refused_status(&self) -> Option<u16> {
        None
    }

    fn begin_drain(&mut self) {}

    fn stage(&self) -> Stage {
        Stage::Idle
    }
}

/// Returns the error of a message that comes before the handshake has ended.
pub(super) fn not_ready() -> FrameError {
    FrameError::Other("the session is not open yet".into())
}

/// The next thing that a [`Carrier`] finds in the input.
#[cfg_attr(
    not(feature = "ws"),
    allow(dead_code, reason = "without `ws` there are fewer carriers")
)]
pub(super) enum Found<'a> {
    Message(Message<'a>),
    /// The handshake of a client is complete, or something is to be [answered](Carrier::greet).
    Greeting,
}

/// The protocol inside a [`Carrier`], and what it needs.
#[cfg_attr(
    not(feature = "ws"),
    allow(dead_code, reason = "without `ws` there are fewer carriers")
)]
pub(super) struct Inside<'w> {
    pub(super) protocol: &'w mut dyn Protocol,
    pub(super) formats: &'w Formats,
    pub(super) limits: &'w Limits,
    /// True if the connection closes after this message.
    pub(super) is_last: bool,
}

/// The ends of a connection that is open.
#[cfg_attr(
    not(feature = "ws"),
    allow(dead_code, reason = "without `ws` there are fewer carriers")
)]
pub(super) struct Ends<'a> {
    pub(super) local: &'a Addr,
    pub(super) remote: &'a Addr,
    pub(super) is_tls: bool,
}

/// An item that is sent to begin or answer a handshake: see [`Carrier::greet`].
pub(super) struct Greeting<'a>(pub(super) Ends<'a>);

/// A message that is encoded already: see [`Wire::encode_inside`].
pub(super) struct Encoded<'a>(pub(super) &'a Bytes);

/// The limits and registries of a peer's messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Formats {
    pub(crate) limits: Limits,
    pub(crate) filters: Filters,
    pub(crate) codecs: Codecs,
}

/// The replies that are due on a peer's connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conversation {
    /// The number of calls that this side has to answer.
    pub(crate) owed: usize,
    /// The number of calls that the other side has to answer.
    pub(crate) awaited: usize,
    /// True until the session is open. Its messages are short.
    pub(crate) is_early: bool,
    /// True once no more calls are taken: the connection closes after the last reply.
    pub(crate) is_draining: bool,
    /// True if this side closes the connection after the last reply, also without a shutdown.
    pub(crate) is_closing: bool,
    /// True if the time was over before the session was open.
    pub(crate) is_late: bool,
}

impl Wire {
    /// Returns a codec with the standard filters and the default limits.
    pub fn new(protocol: impl Protocol + 'static) -> Self {
        Self {
            protocol: AnyProtocol::new(protocol),
            formats: Arc::new(Formats {
                filters: Filters::standard(),
                ..Formats::default()
            }),
            carrier: None,
            converses: false,
            conversation: Conversation::default(),
            is_receiving: false,
            sent: 0,
            greets: false,
        }
    }

    /// Sets the filters that messages may have.
    #[must_use]
    pub fn filters(mut self, filters: Filters) -> Self {
        Arc::make_mut(&mut self.formats).filters = filters;
        self
    }

    /// Sets the limits of received messages.
    ///
    /// The engine's [`max_frame`](crate::Server::max_frame) applies as well, to the bytes that it holds of an incomplete
    /// message.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        Arc::make_mut(&mut self.formats).limits = limits;
        self
    }

    /// Returns a codec for a peer's connection.
    pub(super) fn conversing(carried: Carried, formats: Arc<Formats>) -> Self {
        Self {
            protocol: carried.protocol,
            carrier: carried.carrier,
            formats,
            converses: true,
            conversation: Conversation::default(),
            is_receiving: false,
            sent: 0,
            greets: false,
        }
    }

    /// Returns the filters that messages may have.
    pub fn registered(&self) -> &Filters {
        &self.formats.filters
    }

    /// Returns the dialect of the connection, as far as it is known.
    #[inline]
    pub fn dialect(&self) -> Dialect {
        match &self.protocol {
            AnyProtocol::Raw(raw) => raw.dialect(),
            AnyProtocol::Other(other) => other.dialect(),
        }
    }

    /// Returns the maximum length of a `seq`, URI or metadata that can be sent, in bytes.
    pub fn max_field(&self) -> usize {
        self.protocol.max_field()
    }

    /// Returns the protocol's name, for logs.
    pub fn protocol(&self) -> &'static str {
        match &self.carrier {
            Some(carrier) => carrier.name(),
            None => self.protocol.name(),
        }
    }

    /// Returns true once messages can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.carrier
            .as_ref()
            .is_none_or(|carrier| carrier.is_ready())
    }

    /// Returns true if nothing but replies can be sent.
    pub(super) fn only_answers(&self) -> bool {
        let carrier = self.carrier.as_ref();
        carrier.is_some_and(|carrier| carrier.only_answers())
    }

    /// Returns true, once, if the frame that was found last is no message: a handshake has come to its end, or there is
    /// something to be answered with a [`Greeting`].
    pub(super) fn take_greeting(&mut self) -> bool {
        std::mem::take(&mut self.greets)
    }

    /// Encodes a message for all connections with [the same messages](Self::kind_of_messages).
    pub(super) fn encode_inside(&mut self, message: &Message<'_>) -> Result<Bytes, FrameError> {
        let mut bytes = Vec::new();
        self.protocol
            .encode(message, &self.formats.filters, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Returns a value that is the same for all connections on which a message has the same bytes.
    pub(super) fn kind_of_messages(&self) -> (&'static str, &'static str, Dialect) {
        (self.protocol(), self.protocol.name(), self.dialect())
    }

    /// Decodes where something is other than usual: the protocol, the limits, or the message.
    #[inline(never)]
    fn decode_unusual<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<Message<'a>>, FrameError> {
        let formats = &*self.formats;
        let early;
        let limits = if self.conversation.is_early {
            early = formats.limits.before_session();
            &early
        } else {
            &formats.limits
        };
        let decoded = match self.protocol.decode(src, limits, &formats.filters) {
            Ok(decoded) => decoded,
            Err(error) => return Err(explain(error, src, self.protocol.name()).into()),
        };
        self.is_receiving = matches!(decoded, Decoded::NeedMore { .. });
        Ok(decoded)
    }

    #[inline(never)]
    fn decode_carried<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<Message<'a>>, FrameError> {
        if let (Some(carrier), Some(first)) = (&self.carrier, src.first())
            && let Some(chosen) = carrier.choose(*first)
        {
            (self.protocol, self.carrier) = (chosen.protocol, chosen.carrier);
        }
        let early;
        let formats = &*self.formats;
        let limits = if self.conversation.is_early {
            early = formats.limits.before_session();
            &early
        } else {
            &formats.limits
        };
        let Some(carrier) = &mut self.carrier else {
            // The session opens, and then the same bytes are a message.
            self.greets = true;
            return Ok(Decoded::Frame {
                frame: Message::new(Kind::Push),
                consumed: 0,
            });
        };
        let mut inside = Inside {
            protocol: &mut *self.protocol,
            formats,
            limits,
            is_last: false,
        };
        let begins = src.first_chunk::<6>().copied();
        let decoded = carrier.decode(src, &mut inside).map_err(|error| {
            let found = begins.and_then(|begins| foreign(&begins));
            match found.filter(|found| *found != "http") {
                Some(found) => FrameError::from(WireError::OtherProtocol {
                    found,
                    expected: carrier.name(),
                }),
                None => error,
            }
        })?;
        self.is_receiving = matches!(decoded, Decoded::NeedMore { .. });
        self.greets = matches!(
            decoded,
            Decoded::Frame {
                frame: Found::Greeting,
                ..
            }
        );
        Ok(decoded.map(|found| match found {
            Found::Message(message) => message,
            Found::Greeting => Message::new(Kind::Push),
        }))
    }

    /// Passes an item on to the carrier.
    #[inline(never)]
    fn carry<T: Default>(
        &mut self,
        put: impl FnOnce(&mut dyn Carrier, &mut Inside<'_>) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        let Conversation {
            is_closing,
            is_draining,
            ..
        } = self.conversation;
        let Some(carrier) = &mut self.carrier else {
            return Ok(T::default());
        };
        let mut inside = Inside {
            protocol: &mut *self.protocol,
            formats: &self.formats,
            limits: &self.formats.limits,
            is_last: is_closing || is_draining,
        };
        put(&mut **carrier, &mut inside)
    }

    /// Returns the size of the last message that was sent, in bytes.
    pub(crate) fn last_sent(&self) -> usize {
        self.sent
    }

    pub(crate) fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    pub(crate) fn conversation_mut(&mut self) -> &mut Conversation {
        &mut self.conversation
    }
}

impl Codec for Wire {
    type Frame<'a> = Message<'a>;

    const CONVERSES: bool = true;

    fn converses(&self) -> bool {
        self.converses
    }

    #[inline(always)]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Message<'a>>, FrameError> {
        if self.carrier.is_some() {
            return self.decode_carried(src);
        }
        let src = &*src;
        if let AnyProtocol::Raw(raw) = &self.protocol
            && !self.conversation.is_early
            && let Some(frame) = raw.decode_plain(src, &self.formats.limits)
        {
            self.is_receiving = false;
            let consumed = frame.size;
            return Ok(Decoded::Frame { frame, consumed });
        }
        self.decode_unusual(src)
    }

    fn take_cost(&mut self) -> usize {
        match &mut self.carrier {
            Some(carrier) => carrier.take_cost(),
            None => 0,
        }
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if let Some(carrier) = &mut self.carrier {
            carrier.poll_output(dst);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let cause = match cause {
            CloseCause::Local if self.conversation().is_late => CloseCause::Timeout,
            cause => cause,
        };
        if let Some(carrier) = &mut self.carrier {
            carrier.close_notice(cause, dst);
        }
    }

    fn refused_status(&self) -> Option<u16> {
        self.carrier.as_ref()?.refused_status()
    }

    fn begin_drain(&mut self) {
        self.conversation.is_draining = true;
        if let Some(carrier) = &mut self.carrier {
            carrier.begin_drain();
        }
    }

    #[inline]
    fn stage(&self) -> Stage {
        let Conversation {
            owed,
            awaited,
            is_closing,
            ..
        } = self.conversation;
        let mut is_receiving = self.is_receiving;
        if let Some(carrier) = &self.carrier {
            match carrier.stage() {
                Stage::Idle => {}
                Stage::Receiving => is_receiving = true,
                other => return other,
            }
        }
        match (is_receiving, owed > 0, awaited > 0) {
            (_, false, false) if is_closing => Stage::Finished,
            (false, false, false) => Stage::Idle,
            (false, true, _) => Stage::Answering,
            (false, false, true) => Stage::Awaiting,
            (true, false, false) => Stage::Receiving,
            (true, true, _) => Stage::Streaming,
            (true, false, true) => Stage::AwaitingRest,
        }
    }
}

impl Encode<&Message<'_>> for Wire {
    #[inline(always)]
    fn encode(&mut self, message: &Message<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let before = dst.len();
        if self.carrier.is_some() {
            self.carry(|carrier, inside| carrier.encode(message, inside, dst))?;
        } else {
            let filters = &self.formats.filters;
            match &mut self.protocol {
                AnyProtocol::Raw(raw) => raw.put(message, filters, dst)?,
                AnyProtocol::Other(other) => other.encode(message, filters, dst)?,
            }
        }
        self.sent = dst.len() - before;
        Ok(())
    }
}

impl Encode<Greeting<'_>> for Wire {
    fn encode(&mut self, greeting: Greeting<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let next = self.carry(|carrier, inside| carrier.greet(&greeting.0, inside, dst))?;
        if let Some(next) = next {
            (self.protocol, self.carrier) = (next.protocol, next.carrier);
        }
        Ok(())
    }
}

impl Encode<Encoded<'_>> for Wire {
    fn encode(&mut self, encoded: Encoded<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        if self.carrier.is_some() {
            return self.carry(|carrier, _| carrier.put_encoded(encoded.0, dst));
        }
        dst.put_shared(encoded.0.clone());
        Ok(())
    }
}

/// The choice of a protocol, and of what carries it, for a listener or a dial. Each connection gets a value of its own.
///
/// The functions here are for messages on the stream itself.
#[cfg_attr(
    feature = "http",
    doc = "An [`Http`](super::Http) can be used where a choice is wanted."
)]
#[cfg_attr(feature = "ws", doc = "So can a [`WebSocket`](super::WebSocket).")]
#[derive(Clone)]
pub struct ProtocolChoice {
    make: Arc<dyn Fn(&Side) -> Carried + Send + Sync>,
    /// The host and port that are dialled.
    host: Option<Arc<str>>,
}

/// The side of a connection that a protocol is made for.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "ws"),
    allow(dead_code, reason = "without `ws` there are fewer carriers")
)]
pub(super) enum Side {
    Accepted,
    /// The host and port are those that were dialled. They are unknown for a socket that was adopted.
    Dialled(Option<Arc<str>>),
}

/// A protocol, and what carries it.
pub(super) struct Carried {
    pub(super) protocol: AnyProtocol,
    pub(super) carrier: Option<Box<dyn Carrier>>,
}

impl ProtocolChoice {
    /// The raw protocol for a listener, which finds out the dialect of each connection.
    pub fn raw() -> Self {
        Self::custom(RawProtocol::detect)
    }

    /// The raw protocol of a known dialect.
    pub fn raw_of(dialect: Dialect) -> Self {
        Self::custom(move || RawProtocol::new(dialect))
    }

    /// The JSON protocol on a stream, for a listener, which finds out the dialect of each connection.
    pub fn json() -> Self {
        Self::custom(JsonProtocol::detect)
    }

    /// The JSON protocol on a stream, in a known dialect.
    pub fn json_of(dialect: Dialect) -> Self {
        Self::custom(move || JsonProtocol::new(dialect))
    }

    /// The protobuf protocol on a stream.
    pub fn pb(dialect: Dialect) -> Self {
        Self::custom(move || PbProtocol::new(dialect))
    }

    /// A protocol of the application's: `make` is called for each connection.
    pub fn custom<P: Protocol + 'static>(make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::by(move |_| Carried {
            protocol: AnyProtocol::new(make()),
            carrier: None,
        })
    }

    pub(super) fn by(make: impl Fn(&Side) -> Carried + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            host: None,
        }
    }

    /// Returns the choice for connections to this host, unless it is for one already.
    pub(super) fn towards(self, host: Option<String>) -> Self {
        Self {
            host: self.host.or(host.map(Arc::from)),
            ..self
        }
    }

    pub(super) fn accepted(&self) -> Carried {
        (self.make)(&Side::Accepted)
    }

    /// Returns a choice that is for accepted connections, whoever has made the connection.
    pub(super) fn for_accepted(self) -> Self {
        Self::by(move |_| self.accepted())
    }

    pub(super) fn dialled(&self) -> Carried {
        (self.make)(&Side::Dialled(self.host.clone()))
    }
}

/// Takes either of two protocols on one port, by the first byte of each connection.
#[cfg(feature = "http")]
struct Detect {
    stream: ProtocolChoice,
    http: ProtocolChoice,
}

#[cfg(feature = "http")]
impl ProtocolChoice {
    /// Takes HTTP as well, by the first byte of each connection: a message begins with its size, whose first byte is
    /// practically always 0, and a request with a capital letter.
    ///
    /// A session opens with the first byte, for which a client has 10 seconds. A client that only waits to be called has to
    /// send something by then, such as a push.
    ///
    /// A connection of this choice that is dialled uses the protocol on the stream. A limit of messages above 1 GiB would
    /// allow sizes whose first byte is a letter. Their connections would be taken for HTTP.
    ///
    /// ```
    /// use epicycle::rpc::{Http, Peer, ProtocolChoice};
    ///
    /// // Raw messages of either dialect, and requests of browsers.
    /// let protocol = ProtocolChoice::raw().or_http(Http::new());
    /// let peer = Peer::builder().listen_with("tcp://127.0.0.1:0", protocol).start()?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    #[must_use]
    pub fn or_http(self, http: impl Into<Self>) -> Self {
        let http = http.into();
        Self::by(move |side| {
            let stream = (self.make)(side);
            match side {
                Side::Dialled(_) => stream,
                Side::Accepted => Carried {
                    protocol: stream.protocol,
                    carrier: Some(Box::new(Detect {
                        stream: self.clone(),
                        http: http.clone(),
                    })),
                },
            }
        })
    }
}

#[cfg(feature = "http")]
impl Carrier for Detect {
    fn name(&self) -> &'static str {
        "unknown yet"
    }

    fn choose(&self, first: u8) -> Option<Carried> {
        let chosen = match first {
            b'A'..=b'Z' => &self.http,
            _ => &self.stream,
        };
        Some(chosen.accepted())
    }
}

impl Carried {
    fn name(&self) -> &'static str {
        match &self.carrier {
            Some(carrier) => carrier.name(),
            None => self.protocol.name(),
        }
    }
}

impl fmt::Debug for ProtocolChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProtocolChoice")
            .field(&self.dialled().name())
            .finish()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("protocol", &self.protocol())
            .field("conversation", &self.conversation)
            .finish()
    }
}
