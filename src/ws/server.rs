#[cfg(feature = "rpc")]
use bytes::Bytes;

use super::accept::{Accept, Refusal};
use super::error::SendError;
use super::header::Role;
use super::limits::Limits;
use super::message::{Incoming, Prepared};
use super::protocol::{Protocol, Received};
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};
use crate::http::{self, Chunk, End, HttpCodec, ServerResponse, SseEvent};

/// A server's side of a WebSocket, which starts as HTTP. A frame is an [`Incoming`].
///
/// Until the handler answers a request with an [`Accept`], it is an [`HttpCodec`]: a request may also be answered with
/// a [`ServerResponse`], to serve a page for example. After that, both sides send [`Message`](super::Message)s.
///
/// The codec itself does the following:
///
/// - It answers pings, and the peer's [`Close`](super::Close).
/// - It closes the WebSocket and the connection if the peer violates the protocol (1002), sends a text that is not
///   UTF-8 (1007) or exceeds the [`Limits`] (1009); if the server shuts down or a timeout expires (1001), if a callback
///   panics (1011), or if the handler closes the connection without a `Close` (1000).
///
/// # Memory
///
/// Between messages, an open WebSocket costs the codec 80 bytes, and 40 more with compression.
/// [`DeflateOptions`](super::DeflateOptions) lists the cost of context takeover.
#[derive(Debug)]
pub struct ServerCodec {
    limits: Limits,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Http(HttpCodec),
    Open(Protocol),
}

impl ServerCodec {
    /// Returns a codec with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: ServerState::Http(HttpCodec::default()),
        }
    }

    /// Tells each frame that brings no message, as a pong without content, so that all frames can be counted. The WebSocket must be
    /// open.
    #[cfg(feature = "cluster")]
    pub(crate) fn tell_all(&mut self) {
        if let ServerState::Open(protocol) = &mut self.state {
            protocol.tell_all();
        }
    }

    /// Continues a connection that was HTTP until now, whose request is not answered yet.
    #[cfg(feature = "rpc")]
    pub(crate) fn after_http(http: HttpCodec, limits: Limits) -> Self {
        Self {
            limits,
            state: ServerState::Http(http),
        }
    }

    /// Sends a binary message whose payload others get as well.
    #[cfg(feature = "rpc")]
    pub(crate) fn send_shared(
        &mut self,
        payload: &Bytes,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.protocol()?.send_shared(payload, dst)
    }

    /// Changes the limits of frames and messages.
    #[cfg(feature = "rpc")]
    #[inline]
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        if let ServerState::Open(protocol) = &mut self.state {
            protocol.set_limits(limits);
        }
    }

    /// Sets the limits for requests.
    #[must_use]
    pub fn http_limits(self, limits: http::Limits) -> Self {
        Self {
            state: ServerState::Http(HttpCodec::new(limits)),
            ..self
        }
    }

    /// Returns true if the WebSocket has been opened.
    pub fn is_open(&self) -> bool {
        matches!(self.state, ServerState::Open(_))
    }

    #[inline]
    pub(super) fn protocol(&mut self) -> Result<&mut Protocol, FrameError> {
        match &mut self.state {
            ServerState::Open(protocol) => Ok(protocol),
            ServerState::Http(_) => Err(SendError::NotOpen.into()),
        }
    }

    #[inline]
    fn http(&mut self) -> Result<&mut HttpCodec, FrameError> {
        match &mut self.state {
            ServerState::Http(http) => Ok(http),
            ServerState::Open(_) => Err(SendError::Open.into()),
        }
    }
}

impl Default for ServerCodec {
    /// Returns a codec with the default limits: 1 MiB for a frame, and for a message.
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Codec for ServerCodec {
    type Frame<'a> = Incoming<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Incoming<'a>>, FrameError> {
        match &mut self.state {
            ServerState::Open(protocol) => {
                Ok(map(protocol.decode(src)?, |received| match received {
                    Received::Message(message) => Incoming::Message(message),
                    Received::Pong(payload) => Incoming::Pong(payload),
                    Received::Closed(close) => Incoming::Closed(close),
                }))
            }
            ServerState::Http(http) => Ok(map(http.decode(src)?, Incoming::Request)),
        }
    }

    #[inline]
    fn take_cost(&mut self) -> usize {
        match &mut self.state {
            ServerState::Open(protocol) => protocol.take_cost(),
            ServerState::Http(_) => 0,
        }
    }

    #[inline]
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        match &mut self.state {
            ServerState::Open(protocol) => protocol.poll_output(dst),
            ServerState::Http(http) => http.poll_output(dst),
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        match &mut self.state {
            ServerState::Open(protocol) => protocol.close_notice(cause, dst),
            ServerState::Http(http) => http.close_notice(cause, dst),
        }
    }

    fn refused_status(&self) -> Option<u16> {
        match &self.state {
            ServerState::Open(_) => None,
            ServerState::Http(http) => http.refused_status(),
        }
    }

    fn is_open_ended(&self) -> bool {
        match &self.state {
            ServerState::Open(_) => false,
            ServerState::Http(http) => http.is_open_ended(),
        }
    }

    fn begin_drain(&mut self) {
        if let ServerState::Http(http) = &mut self.state {
            http.begin_drain();
        }
    }

    #[inline]
    fn stage(&self) -> Stage {
        match &self.state {
            ServerState::Open(protocol) => protocol.stage(),
            ServerState::Http(http) => http.stage(),
        }
    }
}

impl Encode<Accept<'_>> for ServerCodec {
    fn encode(&mut self, accept: Accept<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        let http = self.http()?;
        accept.respond(|response| http.encode(response, dst))?;
        self.state = ServerState::Open(Protocol::new(Role::Server, self.limits, accept.agreed()));
        Ok(())
    }
}

impl Encode<Result<Accept<'_>, Refusal>> for ServerCodec {
    fn encode(
        &mut self,
        answer: Result<Accept<'_>, Refusal>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        match answer {
            Ok(accept) => self.encode(accept, dst),
            Err(refusal) => self.encode(refusal, dst),
        }
    }
}

impl Encode<Refusal> for ServerCodec {
    fn encode(&mut self, refusal: Refusal, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.http()?.encode(refusal.response(), dst)
    }
}

impl Encode<ServerResponse<'_>> for ServerCodec {
    #[inline]
    fn encode(
        &mut self,
        response: ServerResponse<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.http()?.encode(response, dst)
    }
}

impl Encode<&http::Prepared> for ServerCodec {
    #[inline(always)]
    fn encode(
        &mut self,
        prepared: &http::Prepared,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.http()?.encode(prepared, dst)
    }
}

impl Encode<Chunk<'_>> for ServerCodec {
    fn encode(&mut self, chunk: Chunk<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.http()?.encode(chunk, dst)
    }
}

impl Encode<End> for ServerCodec {
    fn encode(&mut self, end: End, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.http()?.encode(end, dst)
    }
}

impl Encode<SseEvent<'_>> for ServerCodec {
    fn encode(&mut self, event: SseEvent<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.http()?.encode(event, dst)
    }
}

impl Encode<&Prepared> for ServerCodec {
    fn encode(&mut self, prepared: &Prepared, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.protocol()?.send_prepared(prepared, dst)
    }
}

impl Encode<Prepared> for ServerCodec {
    fn encode(&mut self, prepared: Prepared, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.encode(&prepared, dst)
    }
}

#[cfg(all(test, not(loom)))]
impl ServerCodec {
    /// Returns a codec in the state after the handshake.
    pub(super) fn opened(limits: Limits, agreed: Option<super::deflate::Agreed>) -> Self {
        Self {
            limits,
            state: ServerState::Open(Protocol::new(Role::Server, limits, agreed)),
        }
    }
}

/// Converts the frame inside a decode result.
#[inline]
pub(super) fn map<F, G>(decoded: Decoded<F>, change: impl FnOnce(F) -> G) -> Decoded<G> {
    match decoded {
        Decoded::Frame { frame, consumed } => Decoded::Frame {
            frame: change(frame),
            consumed,
        },
        Decoded::Skip { consumed } => Decoded::Skip { consumed },
        Decoded::Hold => Decoded::Hold,
        Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
    }
}
