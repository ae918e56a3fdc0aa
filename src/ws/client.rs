use super::close::Close;
use super::error::SendError;
use super::handshake::{Answer, Expected, Handshake, Opened};
use super::header::Role;
use super::limits::Limits;
use super::message::Message;
use super::protocol::{Protocol, Received};
use super::server::map;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};

/// A client's side of a WebSocket. A frame is an [`Event`].
///
/// The handler sends a [`Handshake`] in [`on_open`](crate::EventHandler::on_open), and messages from
/// [`Event::Opened`] on. A server that opens no WebSocket ends the connection, with a
/// [`HandshakeError`](super::HandshakeError) as the reason; one that does not answer, with
/// [`TimeoutKind::Handshake`](crate::TimeoutKind::Handshake), if there is such a timeout.
///
/// What it does by itself is what a [`ServerCodec`](super::ServerCodec) does. What it sends it masks. After the closing
/// handshake it leaves it to the server to close the connection, for as long as [`Client::fin_timeout`](crate::Client::fin_timeout)
/// lets it (RFC 6455, section 7.1.1).
///
/// ```
/// use epicycle::ws::{ClientCodec, Close, CloseCode, Event, Handshake};
/// use epicycle::{Action, Conn, EventHandler, Frame};
///
/// struct Greeter;
///
/// impl EventHandler for Greeter {
///     type Codec = ClientCodec;
///     type Session = ();
///
///     fn codec(&mut self) -> ClientCodec {
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
    state: State,
}

/// What a client's handler gets.
#[derive(Debug)]
pub enum Event<'a> {
    /// The WebSocket is open.
    Opened(Box<Opened>),
    /// A message.
    Message(Message<'a>),
    /// The answer to a [`Ping`](super::Ping), or a sign of life that nobody asked for. Pings are answered by the codec.
    Pong(&'a [u8]),
    /// The server closes the WebSocket, or answers a [`Close`] of this side: no message follows. The codec answers it once
    /// `react` has returned, unless a close of the handler's own was sent there.
    Closed(Close<'a>),
}

#[derive(Debug)]
enum State {
    /// Nothing has been sent.
    New,
    /// The answer is awaited.
    Waiting(Box<Expected>),
    Open(Protocol),
}

impl ClientCodec {
    /// A codec with limits of one's own.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::New,
        }
    }

    /// Whether the WebSocket has been opened.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    #[inline]
    pub(super) fn protocol(&mut self) -> Result<&mut Protocol, FrameError> {
        match &mut self.state {
            State::Open(protocol) => Ok(protocol),
            State::New | State::Waiting(_) => Err(SendError::NotOpen.into()),
        }
    }

    #[inline(never)]
    fn open<'a>(&mut self, src: &[u8]) -> Result<Decoded<Event<'a>>, FrameError> {
        let State::Waiting(expected) = &mut self.state else {
            return Err(FrameError::Malformed {
                what: "the server speaks before the client",
            });
        };
        let (consumed, terms, headers) = match expected.read(src)? {
            Answer::Opened(len, terms, headers) => (len, terms, headers),
            Answer::Interim(consumed) => return Ok(Decoded::Skip { consumed }),
            Answer::Incomplete(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        self.state = State::Open(Protocol::new(Role::Client, self.limits, terms.deflate));
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
    /// With the default limits: 1 MiB for a frame, and for a message.
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Codec for ClientCodec {
    type Frame<'a> = Event<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Event<'a>>, FrameError> {
        let State::Open(protocol) = &mut self.state else {
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
            State::Open(protocol) => protocol.take_cost(),
            State::New | State::Waiting(_) => 0,
        }
    }

    #[inline]
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if let State::Open(protocol) = &mut self.state {
            protocol.poll_output(dst);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        if let State::Open(protocol) = &mut self.state {
            protocol.close_notice(cause, dst);
        }
    }

    #[inline]
    fn stage(&self) -> Stage {
        match &self.state {
            State::New => Stage::Idle,
            State::Waiting(_) => Stage::Receiving,
            State::Open(protocol) => protocol.stage(),
        }
    }
}

impl Encode<Handshake> for ClientCodec {
    fn encode(&mut self, handshake: Handshake, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        if !matches!(self.state, State::New) {
            return Err(SendError::Open.into());
        }
        let (request, expected) = handshake.begin()?;
        dst.put(&request);
        self.state = State::Waiting(Box::new(expected));
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
impl ClientCodec {
    /// A codec behind the handshake.
    pub(super) fn opened(limits: Limits, agreed: Option<super::deflate::Agreed>) -> Self {
        Self {
            limits,
            state: State::Open(Protocol::new(Role::Client, limits, agreed)),
        }
    }
}
