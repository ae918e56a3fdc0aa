//! Messages in a WebSocket, one in each of its messages.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ::http::StatusCode;
use bytes::Bytes;

use super::codec::{AnyProtocol, Carried, Carrier, Ends, Found, Inside};
use super::origins::Origins;
use super::request_check::RequestCheck;
use super::wire::{Dialect, JsonProtocol, Limits, Message, PbProtocol, Protocol, RawProtocol};
use crate::addr::Addr;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, Encode, FrameError, Stage};
use crate::http::{HttpCodec, ServerRequest};
use crate::ws::{self, ClientCodec, DeflateOptions, Event, Handshake, Incoming, ServerCodec};

/// Messages in a WebSocket, for a listener or a dial.
///
/// Each message is a binary message of the WebSocket, as Teleport sends it. A text message is accepted as well. The
/// [filters](super::wire::Filter) of JSON and protobuf messages wrap the body alone.
///
/// ```
/// use epicycle::http::StatusCode;
/// use epicycle::rpc::{Peer, Router, WebSocket};
///
/// let mut routes = Router::new();
/// routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// let socket = WebSocket::json("/ws").check(|request| match request.query() {
///     Some("token=secret") => Ok(()),
///     _ => Err(StatusCode::UNAUTHORIZED),
/// });
/// let server = Peer::builder().listen_with("tcp://127.0.0.1:0", socket).routes(routes).start()?;
///
/// let client = Peer::builder().start()?;
/// let addr = &server.local_addrs()[0];
/// let session = client.dial_with(addr, WebSocket::json("/ws?token=secret"))?;
/// assert_eq!(session.call::<_, i64>("/math/add", &[1, 2]).wait()?, 3);
/// assert!(client.dial_with(addr, WebSocket::json("/ws")).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `wss` is this over TLS: give the listener or the dial a TLS configuration.
///
/// # Closing
///
/// A session that closes sends a close frame behind its last reply. Pings are answered. A frame or a message above the
/// [limit](super::PeerBuilder::limits) closes the WebSocket with 1009, other violations of the protocol with 1002 or 1007.
#[derive(Clone)]
#[must_use = "it has no effect until it is given to a peer"]
pub struct WebSocket {
    target: Arc<str>,
    messages: Messages,
    dialect: Option<Dialect>,
    check: Option<RequestCheck>,
    origins: Origins,
    deflate: Option<DeflateOptions>,
    headers: Vec<(String, String)>,
}

#[derive(Clone)]
enum Messages {
    Raw,
    Json,
    Pb,
    Custom(Arc<dyn Fn() -> Box<dyn Protocol> + Send + Sync>),
}

impl WebSocket {
    /// Messages as JSON, at this path. When dialling, the path may have a query.
    ///
    /// A listener finds out the dialect of each connection.
    pub fn json(path: impl Into<String>) -> Self {
        Self::with(path, Messages::Json)
    }

    /// Messages as protobuf, at this path.
    pub fn pb(path: impl Into<String>) -> Self {
        Self::with(path, Messages::Pb)
    }

    /// Messages of the raw protocol, at this path. A listener finds out the dialect of each connection.
    pub fn raw(path: impl Into<String>) -> Self {
        Self::with(path, Messages::Raw)
    }

    /// Messages of a protocol of the application's, at this path. `make` is called for each connection. The protocol is given
    /// one message at a time.
    pub fn custom<P: Protocol + 'static>(
        path: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        Self::with(path, Messages::Custom(Arc::new(move || Box::new(make()))))
    }

    fn with(path: impl Into<String>, messages: Messages) -> Self {
        Self {
            target: path.into().into(),
            messages,
            dialect: None,
            check: None,
            origins: Origins::default(),
            deflate: None,
            headers: Vec::new(),
        }
    }

    /// Sets the dialect. Default: that of the connection's first message for a listener, where it shows, or else v4.1.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// Sets a check of each request that opens a WebSocket. It refuses the request with a status; its panic is 500. It runs on
    /// the reactor and must not block. For listeners.
    pub fn check(
        mut self,
        check: impl Fn(&ServerRequest<'_>) -> Result<(), StatusCode> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(RequestCheck::new(check));
        self
    }

    /// Accepts pages of these origins too, such as `https://example.org`. Default: pages of the requested host only. Others get
    /// 403. For listeners.
    ///
    /// Programs send no origin, or one that begins with `ws://` or `wss://`, as those of Teleport do. They are accepted in any
    /// case.
    pub fn origins(mut self, origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.origins.list(origins);
        self
    }

    /// Accepts pages of any origin. Only for routes that anybody may call who can reach one of your users' browsers.
    pub fn any_origin(mut self) -> Self {
        self.origins.any = true;
        self
    }

    /// Compresses messages if both sides want it. Default: they are not compressed.
    pub fn deflate(mut self, options: DeflateOptions) -> Self {
        self.deflate = Some(options);
        self
    }

    /// Adds a header to the request, such as `Authorization`. For dials.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Returns the path without its query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn name(&self) -> &'static str {
        match self.messages {
            Messages::Raw => "ws-raw",
            Messages::Json => "ws-json",
            Messages::Pb => "ws-pb",
            Messages::Custom(_) => "ws",
        }
    }

    fn protocol(&self) -> AnyProtocol {
        match (&self.messages, self.dialect) {
            (Messages::Raw, None) => AnyProtocol::new(RawProtocol::detect()),
            (Messages::Raw, Some(dialect)) => AnyProtocol::new(RawProtocol::new(dialect)),
            (Messages::Json, None) => AnyProtocol::new(JsonProtocol::detect().in_websocket()),
            (Messages::Json, Some(dialect)) => {
                AnyProtocol::new(JsonProtocol::new(dialect).in_websocket())
            }
            (Messages::Pb, dialect) => {
                AnyProtocol::new(PbProtocol::new(dialect.unwrap_or_default()).in_websocket())
            }
            (Messages::Custom(make), _) => AnyProtocol::Other(make()),
        }
    }

    /// Opens the WebSocket of a request that was [accepted](Self::accept).
    pub(super) fn open(
        &self,
        http: HttpCodec,
        accept: ws::Accept<'_>,
        limits: &Limits,
        dst: &mut Outbox<'_>,
    ) -> Result<Carried, FrameError> {
        let mut codec = ServerCodec::after_http(http, limits_for(limits));
        codec.encode(accept, dst)?;
        let name = self.name();
        Ok(Carried {
            protocol: self.protocol(),
            carrier: Some(Box::new(ServerSocket { name, codec })),
        })
    }

    /// Returns the answer to a request for this path.
    pub(super) fn accept(
        &self,
        request: &ServerRequest<'_>,
    ) -> Result<ws::Accept<'static>, Refused> {
        if let Some(check) = &self.check {
            check.run(request).map_err(Refused::Status)?;
        }
        let mut accept = ws::accept(request).map_err(Refused::Handshake)?;
        let origin = request.header("origin").unwrap_or_default();
        let is_program = origin.starts_with("ws://") || origin.starts_with("wss://");
        if !is_program && self.origins.judge(request).is_err() {
            return Err(Refused::Handshake(ws::Refusal::Origin));
        }
        if let Some(options) = self.deflate {
            accept = accept.deflate(options);
        }
        Ok(accept.into_owned())
    }

    /// Returns the carrier of a connection that is dialled.
    pub(super) fn dialled(&self, host: Option<&Arc<str>>) -> Carried {
        Carried {
            protocol: self.protocol(),
            carrier: Some(Box::new(ClientSocket {
                settings: self.clone(),
                host: host.cloned(),
                codec: ClientCodec::default(),
                has_opened: false,
            })),
        }
    }
}

/// The reason why a request opens no WebSocket.
pub(super) enum Refused {
    Status(StatusCode),
    Handshake(ws::Refusal),
}

/// Returns the limits of a WebSocket whose messages have these.
fn limits_for(limits: &Limits) -> ws::Limits {
    ws::Limits::default()
        .max_frame(limits.message)
        .max_message(limits.message)
}

/// The carrier of an accepted connection, once its WebSocket is open.
struct ServerSocket {
    name: &'static str,
    codec: ServerCodec,
}

impl Carrier for ServerSocket {
    fn name(&self) -> &'static str {
        self.name
    }

    fn decode<'a>(
        &mut self,
        src: &'a mut [u8],
        inside: &mut Inside<'_>,
    ) -> Result<Decoded<Found<'a>>, FrameError> {
        self.codec.set_limits(limits_for(inside.limits));
        let (incoming, consumed) = match self.codec.decode(src)? {
            Decoded::Frame { frame, consumed } => (frame, consumed),
            other => return Ok(other.map(|_| Found::Greeting)),
        };
        match incoming {
            Incoming::Message(message) => Ok(Decoded::Frame {
                frame: Found::Message(read(message, inside)?),
                consumed,
            }),
            _ => Ok(Decoded::Skip { consumed }),
        }
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.codec.encode(&write(message, inside)?, dst)
    }

    fn put_encoded(&mut self, message: &Bytes, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.codec.send_shared(message, dst)
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn take_cost(&mut self) -> usize {
        self.codec.take_cost()
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        self.codec.poll_output(dst);
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        self.codec.close_notice(cause, dst);
    }

    fn stage(&self) -> Stage {
        self.codec.stage()
    }
}

/// The carrier of a connection that was dialled.
struct ClientSocket {
    settings: WebSocket,
    host: Option<Arc<str>>,
    codec: ClientCodec,
    has_opened: bool,
}

impl Carrier for ClientSocket {
    fn name(&self) -> &'static str {
        self.settings.name()
    }

    fn decode<'a>(
        &mut self,
        src: &'a mut [u8],
        inside: &mut Inside<'_>,
    ) -> Result<Decoded<Found<'a>>, FrameError> {
        self.codec.set_limits(limits_for(inside.limits));
        let (event, consumed) = match self.codec.decode(src)? {
            Decoded::Frame { frame, consumed } => (frame, consumed),
            other => return Ok(other.map(|_| Found::Greeting)),
        };
        let frame = match event {
            Event::Opened(_) => {
                self.has_opened = true;
                Found::Greeting
            }
            Event::Message(message) => Found::Message(read(message, inside)?),
            Event::Pong(_) | Event::Closed(_) => return Ok(Decoded::Skip { consumed }),
        };
        Ok(Decoded::Frame { frame, consumed })
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.codec.encode(&write(message, inside)?, dst)
    }

    fn put_encoded(&mut self, message: &Bytes, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        self.codec.encode(&message[..], dst)
    }

    fn greet(
        &mut self,
        ends: &Ends<'_>,
        _: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<Option<Carried>, FrameError> {
        if self.has_opened {
            return Ok(None);
        }
        let host = match (&self.host, ends.remote) {
            (Some(host), _) => host.to_string(),
            (None, Addr::Ip(addr)) => addr.to_string(),
            (None, _) => "localhost".to_owned(),
        };
        let local = match ends.local {
            Addr::Ip(addr) => addr.to_string(),
            _ => "localhost".to_owned(),
        };
        let scheme = if ends.is_tls { "wss" } else { "ws" };
        let mut handshake = Handshake::new(host, &*self.settings.target);
        let mut has_origin = false;
        for (name, value) in &self.settings.headers {
            has_origin |= name.eq_ignore_ascii_case("origin");
            handshake = handshake.header(name, value);
        }
        if !has_origin {
            // As Teleport's clients do.
            let origin = format!("{scheme}://{local}{}", self.settings.path());
            handshake = handshake.header("Origin", origin);
        }
        if let Some(options) = self.settings.deflate {
            handshake = handshake.deflate(options);
        }
        self.codec.encode(handshake, dst)?;
        Ok(None)
    }

    fn is_ready(&self) -> bool {
        self.codec.is_open()
    }

    fn take_cost(&mut self) -> usize {
        self.codec.take_cost()
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        self.codec.poll_output(dst);
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        self.codec.close_notice(cause, dst);
    }

    fn stage(&self) -> Stage {
        self.codec.stage()
    }
}

/// Reads the message in a message of a WebSocket. It must take up all of it.
fn read<'a>(message: ws::Message<'a>, inside: &mut Inside<'_>) -> Result<Message<'a>, FrameError> {
    let bytes = match message {
        ws::Message::Text(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        ws::Message::Text(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        ws::Message::Binary(bytes) => bytes,
    };
    match bytes {
        Cow::Borrowed(bytes) => read_bytes(bytes, inside),
        Cow::Owned(bytes) => read_bytes(&bytes, inside).map(Message::into_owned),
    }
}

fn read_bytes<'a>(bytes: &'a [u8], inside: &mut Inside<'_>) -> Result<Message<'a>, FrameError> {
    let Inside {
        protocol,
        limits,
        formats,
        ..
    } = inside;
    match protocol.decode(bytes, limits, &formats.filters)? {
        Decoded::Frame { frame, consumed } if consumed == bytes.len() => Ok(frame),
        _ => Err(FrameError::Malformed {
            what: "a message of the WebSocket is not exactly one message",
        }),
    }
}

/// Encodes a message for a WebSocket.
fn write(message: &Message<'_>, inside: &mut Inside<'_>) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    let filters = &inside.formats.filters;
    inside.protocol.encode(message, filters, &mut bytes)?;
    Ok(bytes)
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("path", &self.path())
            .field("messages", &self.name())
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
