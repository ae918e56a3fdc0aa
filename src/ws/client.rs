use super::close::Close;
use super::error::SendError;
use super::handshake::{Expected, Handshake, Opened, Reply};
use super::header::Role;
use super::limits::Limits;
use super::message::Message;
use super::protocol::{Protocol, Received};
use super::server::map;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};

/// A client's side of a WebSocket. A frame is an [`Event`].
///
/// The handler sends a [`Handshake`] in [`on_open`](crate::EventHandler::on_open), and messages from [`Event::Opened`]
/// on. If the server refuses to open the WebSocket, the connection closes with a
/// [`HandshakeError`](super::HandshakeError) as the reason. If it does not answer within the handshake timeout, the
/// reason is [`TimeoutKind::Handshake`](crate::TimeoutKind::Handshake).
///
/// The codec answers pings and closes as a [`ServerCodec`](super::ServerCodec) does. It masks the frames it sends.
/// After the closing handshake it waits for the server to close the connection, at most for
/// [`Client::fin_timeout`](crate::Client::fin_timeout) (RFC 6455, section 7.1.1).
///
/// ```
/// use epicycle::ws::{ClientCodec, Close, CloseCode, Event, Handshake};
/// use epicycle::{Action, Conn, ConnInfo, EventHandler, Frame};
///
/// struct Greeter;
///
/// impl EventHandler for Greeter {
///     type Codec = ClientCodec;
///     type Session = ();
///
///     fn codec(&mut self, _: &ConnInfo<'_>) -> ClientCodec {
///         ClientCodec::default()
///     }
///
///     fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<()> {
///         conn.send(Handshake::new("chat.example", "/")).ok()
///     }
///
///     fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), event: Frame<'_, Self>) -> Action {
///         match event {
///             Event::Opened(_) => conn.send("hello").into(),
///             Event::Message(_) => conn.send(Close::new(CloseCode::NORMAL, "")).into(),
///             Event::Pong(_) | Event::Closed(_) => Action::Continue,
///         }
///     }
/// }
/// # let _ = Greeter;
/// ```
#[derive(Debug)]
pub struct ClientCodec {
    limits: Limits,
    state: ClientState,
}

/// The frames that a client's handler receives.
#[derive(Debug)]
pub enum Event<'a> {
    /// The WebSocket is open.
    Opened(Box<Opened>),
    /// A message.
    Message(Message<'a>),
    /// The answer to a [`Ping`](super::Ping), or an unsolicited pong (RFC 6455, section 5.5.3). The codec itself
    /// answers pings.
    Pong(&'a [u8]),
    /// The server closes the WebSocket, or answers a [`Close`] of this side. No message follows. The codec answers it
    /// once `react` has returned, unless the handler sent its own close there.
    Closed(Close<'a>),
}

#[derive(Debug)]
enum ClientState {
    /// The handshake has not been sent.
    New,
    /// The handshake has been sent, and its answer has not arrived.
    Waiting(Box<Expected>),
    Open(Protocol),
}

impl ClientCodec {
    /// Returns a codec with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: ClientState::New,
        }
    }

    /// Changes the limits of frames and messages.
    #[cfg(feature = "rpc")]
    #[inline]
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if let ClientState::Open(protocol) = &mut self.state {
            protocol.set_limits(limits);
        }
    }

    /// Returns true if the WebSocket has been opened.
    pub fn is_open(&self) -> bool {
        matches!(self.state, ClientState::Open(_))
    }

    #[inline]
    pub(super) fn protocol(&mut self) -> Result<&mut Protocol, FrameError> {
        match &mut self.state {
            ClientState::Open(protocol) => Ok(protocol),
            ClientState::New | ClientState::Waiting(_) => Err(SendError::NotOpen.into()),
        }
    }

    #[inline(never)]
    fn open<'a>(&mut self, src: &mut [u8]) -> Result<Decoded<Event<'a>>, FrameError> {
        let ClientState::Waiting(expected) = &mut self.state else {
            return Err(FrameError::Malformed {
                what: "the server sent data before the client's handshake",
            });
        };
        let (consumed, terms, headers) = match expected.read(src)? {
            Reply::Opened(len, terms, headers) => (len, terms, headers),
            Reply::Interim(consumed) => return Ok(Decoded::Skip { consumed }),
            Reply::Incomplete(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        self.state = ClientState::Open(Protocol::new(Role::Client, self.limits, terms.deflate));
        let opened = Opened {
            protocol: terms.protocol,
            compressed: terms.deflate.is_some(),
            headers,
        };
        Ok(Decoded::Frame {
            frame: Event::Opened(Box::new(opened)),
            consumed,
        })
    }
}

impl Default for ClientCodec {
    /// Returns a codec with the default limits: 1 MiB for a frame, and for a message.
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Codec for ClientCodec {
    type Frame<'a> = Event<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Event<'a>>, FrameError> {
        let ClientState::Open(protocol) = &mut self.state else {
            return self.open(src);
        };
        Ok(map(protocol.decode(src)?, |received| match received {
            Received::Message(message) => Event::Message(message),
            Received::Pong(payload) => Event::Pong(payload),
            Received::Closed(close) => Event::Closed(close),
        }))
    }

    #[inline]
    fn take_cost(&mut self) -> usize {
        match &mut self.state {
            ClientState::Open(protocol) => protocol.take_cost(),
            ClientState::New | ClientState::Waiting(_) => 0,
        }
    }

    #[inline]
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if let ClientState::Open(protocol) = &mut self.state {
            protocol.poll_output(dst);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        if let ClientState::Open(protocol) = &mut self.state {
            protocol.close_notice(cause, dst);
        }
    }

    #[inline]
    fn stage(&self) -> Stage {
        match &self.state {
            ClientState::New => Stage::Idle,
            ClientState::Waiting(_) => Stage::Receiving,
            ClientState::Open(protocol) => protocol.stage(),
        }
    }
}

impl Encode<Handshake> for ClientCodec {
    fn encode(&mut self, handshake: Handshake, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        if !matches!(self.state, ClientState::New) {
            return Err(SendError::Open.into());
        }
        let expected = handshake.send(dst)?;
        self.state = ClientState::Waiting(Box::new(expected));
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
impl ClientCodec {
    /// Returns a codec in the state after the handshake.
    pub(super) fn opened(limits: Limits, agreed: Option<super::deflate::Agreed>) -> Self {
        Self {
            limits,
            state: ClientState::Open(Protocol::new(Role::Client, limits, agreed)),
        }
    }
}
