//! The codec of RPC connections.

use std::fmt;
use std::sync::Arc;

use super::wire::{
    Codecs, Dialect, Filters, JsonProtocol, Limits, Message, PbProtocol, Protocol, RawProtocol,
};
use crate::buf::outbox::Outbox;
use crate::codec::{Codec, Decoded, Encode, FrameError, Stage};

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
    protocol: Box<dyn Protocol>,
    formats: Arc<Formats>,
    conversation: Option<Conversation>,
    /// True if a message has begun and its rest has not arrived.
    is_receiving: bool,
    /// The size of the last message that was sent.
    sent: usize,
}

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
}

impl Wire {
    /// Returns a codec with the standard filters and the default limits.
    pub fn new(protocol: impl Protocol + 'static) -> Self {
        Self {
            protocol: Box::new(protocol),
            formats: Arc::new(Formats {
                filters: Filters::standard(),
                ..Formats::default()
            }),
            conversation: None,
            is_receiving: false,
            sent: 0,
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
    pub(crate) fn conversing(protocol: Box<dyn Protocol>, formats: Arc<Formats>) -> Self {
        Self {
            protocol,
            formats,
            conversation: Some(Conversation::default()),
            is_receiving: false,
            sent: 0,
        }
    }

    /// Returns the filters that messages may have.
    pub fn registered(&self) -> &Filters {
        &self.formats.filters
    }

    /// Returns the dialect of the connection, as far as it is known.
    pub fn dialect(&self) -> Dialect {
        self.protocol.dialect()
    }

    /// Returns the maximum length of a `seq`, URI or metadata that can be sent, in bytes.
    pub fn max_field(&self) -> usize {
        self.protocol.max_field()
    }

    /// Returns the protocol's name, for logs.
    pub fn protocol(&self) -> &'static str {
        self.protocol.name()
    }

    /// Returns the size of the last message that was sent, in bytes.
    pub(crate) fn last_sent(&self) -> usize {
        self.sent
    }

    pub(crate) fn conversation(&self) -> Conversation {
        self.conversation.unwrap_or_default()
    }

    pub(crate) fn conversation_mut(&mut self) -> &mut Conversation {
        self.conversation.get_or_insert_default()
    }
}

impl Codec for Wire {
    type Frame<'a> = Message<'a>;

    const CONVERSES: bool = true;

    fn converses(&self) -> bool {
        self.conversation.is_some()
    }

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Message<'a>>, FrameError> {
        let formats = &*self.formats;
        let early;
        let limits = match &self.conversation {
            Some(conversation) if conversation.is_early => {
                early = formats.limits.before_session();
                &early
            }
            _ => &formats.limits,
        };
        let decoded = self.protocol.decode(src, limits, &formats.filters)?;
        self.is_receiving = matches!(decoded, Decoded::NeedMore { .. });
        Ok(decoded)
    }

    fn begin_drain(&mut self) {
        self.conversation_mut().is_draining = true;
    }

    fn stage(&self) -> Stage {
        let Conversation {
            owed,
            awaited,
            is_closing,
            ..
        } = self.conversation();
        match (self.is_receiving, owed > 0, awaited > 0) {
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
    fn encode(&mut self, message: &Message<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let before = dst.len();
        self.protocol.encode(message, &self.formats.filters, dst)?;
        self.sent = dst.len() - before;
        Ok(())
    }
}

/// A choice among the built-in protocols, or a custom one. Each connection gets a value of its own.
#[derive(Clone)]
pub struct ProtocolChoice(Arc<dyn Fn() -> Box<dyn Protocol> + Send + Sync>);

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
        Self(Arc::new(move || Box::new(make())))
    }

    pub(crate) fn make(&self) -> Box<dyn Protocol> {
        (self.0)()
    }
}

impl fmt::Debug for ProtocolChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProtocolChoice")
            .field(&self.make().name())
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
