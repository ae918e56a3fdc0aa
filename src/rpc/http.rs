//! HTTP: requests that open a WebSocket, and requests that are CALLs.

use std::fmt;
use std::sync::Arc;

use ::http::StatusCode;

use super::codec::{AnyProtocol, Carried, Carrier, Ends, Found, Inside, ProtocolChoice, Side};
use super::http_headers::{header_name, is_left_out, written};
use super::media::{accepted, codec_of, media_type};
use super::origins::Origins;
use super::request_check::RequestCheck;
#[cfg(feature = "ws")]
use super::websocket::{self, WebSocket};
use super::wire::{Codec, Codecs, Dialect, JsonProtocol, Kind, Message, Meta, Status, code};
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec as _, Decoded, Encode, FrameError, Stage};
use crate::http::fields::is_value;
use crate::http::{self, HttpCodec, ServerRequest, ServerResponse};
#[cfg(feature = "ws")]
use crate::ws;

/// CALLs by HTTP, for curl and browsers, on a listener of their own or beside WebSockets.
///
/// A `GET` or `POST` of `/path?query` calls the route of this path.
///
/// ```
/// use epicycle::rpc::{Http, Peer, Router};
///
/// let mut routes = Router::new();
/// routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// let peer = Peer::builder().listen_with("tcp://127.0.0.1:0", Http::new()).routes(routes).start()?;
///
/// // curl -H 'Content-Type: application/json' -d '[1, 2]' http://127.0.0.1:PORT/math/add
/// # use std::io::{Read, Write};
/// # let mut curl = std::net::TcpStream::connect(peer.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
/// # curl.write_all(b"POST /math/add HTTP/1.1\r\nHost: a\r\nConnection: close\r\n").unwrap();
/// # curl.write_all(b"Content-Type: application/json\r\nContent-Length: 6\r\n\r\n[1, 2]").unwrap();
/// # let mut answer = String::new();
/// # curl.read_to_string(&mut answer).unwrap();
/// # assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n3"), "{answer}");
/// # Ok::<(), epicycle::Error>(())
/// ```
///
/// # Requests
///
/// - The `Content-Type` says the codec of the body: `application/json`, `application/x-www-form-urlencoded`,
///   `application/protobuf`, `text/plain`, or `application/NAME` for a codec that is registered by that name. A body without
///   it is JSON. Another type, or a compressed body, gets 415.
/// - The `Accept` says the codec of the reply. Without a known one, the reply to protobuf is protobuf, and any other is JSON.
/// - The other headers are the metadata. Their names are written `Like-This`. `X-Timeout` is the time that the caller waits,
///   in milliseconds. Those about the connection, `Host` and `X-Stream` are left out.
///
/// # Replies
///
/// A reply has the status 200. An error has its code as the status, from 400 to 599: 502 for a local
/// [`WRITE_FAILED`](code::WRITE_FAILED) or [`DIAL_FAILED`](code::DIAL_FAILED), 503 for
/// [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED), and 500 for any other. Its body is the error as JSON:
/// `{"code":404,"message":"Not Found"}`.
///
/// Metadata of the reply becomes headers. What is not a valid header is left out, as are headers about the connection and
/// those that belong to requests. A `Content-Type` that the handler sets replaces that of the codec.
/// [`Html`](super::wire::Html) does so. Filters are not used.
///
/// A connection serves one request at a time, so replies are in the order of the requests. Its session can neither be called
/// nor pushed to: both fail with [`WRITE_FAILED`](code::WRITE_FAILED).
///
/// # Security
///
/// Any page in a browser can send requests to a server that the browser reaches, also one on the local machine or behind a
/// firewall. So requests that a browser makes for pages of another origin get 403, unless the origin is
/// [listed](Self::origins). A program that is not a browser sends no origin, and is served.
///
/// A `GET` for an image or a link of a page carries no origin. Browsers tell of it in `Sec-Fetch-Site`, but only over HTTPS
/// and to the local machine. Elsewhere it is served; the page does not get the answer. So a route that changes something
/// should not be called by `GET`: refuse that in [`check`](Self::check).
///
/// A plugin that authenticates a session authenticates a connection. A proxy in front sends the requests of several clients on
/// one connection. Check a header of each request there, in [`check`](Self::check) or in a plugin.
#[derive(Clone, Default)]
#[must_use = "it has no effect until it is given to a peer"]
pub struct Http {
    origins: Origins,
    max_body: Option<usize>,
    check: Option<RequestCheck>,
    #[cfg(feature = "ws")]
    sockets: Vec<WebSocket>,
}

impl Http {
    /// Returns the options, at their defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves pages of these origins too, such as `https://example.org`, and tells browsers so (CORS). Default: pages of the
    /// requested host only.
    pub fn origins(mut self, origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.origins.list(origins);
        self
    }

    /// Serves pages of any origin. Only for routes that anybody may call who can reach one of your users' browsers.
    pub fn any_origin(mut self) -> Self {
        self.origins.any = true;
        self
    }

    /// Sets the maximum length of a request's body, in bytes. A longer one gets 413. Default: the
    /// [limit](super::PeerBuilder::limits) of messages.
    ///
    /// It applies to the first request as well, with which the session opens.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = Some(bytes);
        self
    }

    /// Sets a check of each request. It refuses the request with a status; its panic is 500. It runs on the reactor and must
    /// not block.
    ///
    /// [`ServerRequest::path`] is the path as it was sent, and a route is found by the decoded one: `/%61dd` calls `/add`. So a
    /// check by path should name the paths that it lets through. A plugin knows the [decoded path](super::Incoming::path).
    pub fn check(
        mut self,
        check: impl Fn(&ServerRequest<'_>) -> Result<(), StatusCode> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(RequestCheck::new(check));
        self
    }

    /// Accepts a WebSocket as well, at its path.
    #[cfg(feature = "ws")]
    pub fn websocket(mut self, socket: WebSocket) -> Self {
        self.sockets.push(socket);
        self
    }
}

impl From<Http> for ProtocolChoice {
    fn from(http: Http) -> Self {
        #[cfg(feature = "ws")]
        let sockets = http.sockets.clone();
        choice(Web {
            #[cfg(feature = "ws")]
            sockets,
            calls: Some(http),
        })
    }
}

/// Requests for its path open a WebSocket. Others get 404.
#[cfg(feature = "ws")]
impl From<WebSocket> for ProtocolChoice {
    fn from(socket: WebSocket) -> Self {
        vec![socket].into()
    }
}

/// Each has its own path. The first one is used for dialling.
#[cfg(feature = "ws")]
impl From<Vec<WebSocket>> for ProtocolChoice {
    fn from(sockets: Vec<WebSocket>) -> Self {
        choice(Web {
            sockets,
            calls: None,
        })
    }
}

fn choice(web: Web) -> ProtocolChoice {
    let web = Arc::new(web);
    ProtocolChoice::by(move |side| match side {
        Side::Accepted => web.accepted(),
        Side::Dialled(host) => web.dialled(host.as_ref()),
    })
}

/// The meanings of a listener's requests.
struct Web {
    #[cfg(feature = "ws")]
    sockets: Vec<WebSocket>,
    /// None if requests are no CALLs.
    calls: Option<Http>,
}

/// The carrier of an accepted connection.
struct Server {
    web: Arc<Web>,
    codec: HttpCodec,
    /// The answer that is sent when the handler greets.
    pending: Option<Pending>,
    /// The number of calls so far. With the first one, it is clear that the connection has no WebSocket.
    calls: u64,
    /// The origin of the page that made the current request, if it is another than the server's.
    origin: Option<Box<[u8]>>,
}

enum Pending {
    Refusal(Refusal),
    #[cfg(feature = "ws")]
    Handshake(ws::Refusal),
    #[cfg(feature = "ws")]
    Accept {
        accept: Box<ws::Accept<'static>>,
        /// The number of the WebSocket.
        socket: usize,
    },
}

/// An answer that no handler gives.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    headers: Vec<(&'static str, Vec<u8>)>,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Refusal> for Pending {
    fn from(refusal: Refusal) -> Self {
        Pending::Refusal(refusal)
    }
}

impl Web {
    fn accepted(self: &Arc<Self>) -> Carried {
        Carried {
            // Replaced by that of the WebSocket. It also gives the dialect of calls.
            protocol: AnyProtocol::new(JsonProtocol::new(Dialect::default())),
            carrier: Some(Box::new(Server {
                web: self.clone(),
                codec: HttpCodec::default(),
                pending: None,
                calls: 0,
                origin: None,
            })),
        }
    }

    fn dialled(self: &Arc<Self>, host: Option<&Arc<str>>) -> Carried {
        #[cfg(feature = "ws")]
        if let Some(socket) = self.sockets.first() {
            return socket.dialled(host);
        }
        let _ = host;
        Carried {
            carrier: Some(Box::new(NotDialled)),
            ..self.accepted()
        }
    }

    #[cfg(feature = "ws")]
    fn socket_at(&self, path: &str) -> Option<(usize, &WebSocket)> {
        let mut sockets = self.sockets.iter().enumerate();
        sockets.find(|(_, socket)| socket.path() == path)
    }

    /// Returns the answer to a request that is no call.
    fn answer(&self, request: &ServerRequest<'_>, is_serving: bool) -> Option<Pending> {
        #[cfg(feature = "ws")]
        if let Some((socket, settings)) = self.socket_at(request.path())
            && (self.calls.is_none() || request.wants_upgrade("websocket"))
        {
            if is_serving {
                let reason = "a WebSocket needs a connection without earlier calls";
                return Some(Refusal::new(StatusCode::BAD_REQUEST, reason).into());
            }
            return Some(match settings.accept(request) {
                Ok(accept) => Pending::Accept {
                    accept: Box::new(accept),
                    socket,
                },
                Err(websocket::Refused::Status(status)) => Refusal::new(status, "").into(),
                Err(websocket::Refused::Handshake(refusal)) => Pending::Handshake(refusal),
            });
        }
        let _ = is_serving;
        let Some(http) = &self.calls else {
            let reason = "no WebSocket has this path";
            return Some(Refusal::new(StatusCode::NOT_FOUND, reason).into());
        };
        http.refuse(request).map(Into::into)
    }
}

impl Http {
    /// Returns the answer to a request that is no call.
    fn refuse(&self, request: &ServerRequest<'_>) -> Option<Refusal> {
        if request.wants_upgrade("websocket") {
            let reason = "no WebSocket has this path";
            return Some(Refusal::new(StatusCode::NOT_FOUND, reason));
        }
        let Ok(other) = self.origins.judge(request) else {
            let reason = "pages of this origin are not served";
            return Some(Refusal::new(StatusCode::FORBIDDEN, reason));
        };
        const METHODS: &str = "GET, HEAD, POST, OPTIONS";
        match (request.method(), other) {
            ("GET" | "HEAD" | "POST", _) => {}
            // A browser asks without the credentials that the check may want.
            ("OPTIONS", Some(_)) => {
                let mut allowed = Refusal::new(StatusCode::NO_CONTENT, "")
                    .with("Access-Control-Allow-Methods", METHODS)
                    .with("Access-Control-Max-Age", "600");
                let wanted = request.headers().get("access-control-request-headers");
                if let Some(wanted) = wanted {
                    allowed = allowed.with("Access-Control-Allow-Headers", wanted);
                }
                return Some(allowed);
            }
            ("OPTIONS", None) => {
                return Some(Refusal::new(StatusCode::NO_CONTENT, "").with("Allow", METHODS));
            }
            _ => {
                let reason = "calls are made by GET, HEAD and POST";
                let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason);
                return Some(refusal.with("Allow", METHODS));
            }
        }
        if let Some(check) = &self.check
            && let Err(status) = check.run(request)
        {
            return Some(Refusal::new(status, ""));
        }
        let coding = request.header("content-encoding").unwrap_or("identity");
        if !coding.eq_ignore_ascii_case("identity") {
            let reason = "a compressed body is not accepted";
            return Some(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        None
    }
}

impl Server {
    /// Sends the reply to a call.
    fn reply(
        &mut self,
        message: &Message<'_>,
        inside: &Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        if message.kind != Kind::Reply {
            let reason = "a session over HTTP only answers; it takes no calls and no pushes";
            return Err(FrameError::Other(reason.into()));
        }
        let status = message.status();
        let json = status.as_ref().map(to_json);
        let content_type = match &status {
            Some(_) => "application/json".into(),
            None => media_type(message.codec, &inside.formats.codecs),
        };
        let pairs: Vec<_> = message.meta.iter().collect();
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        let mut has_type = false;
        for (name, value) in &pairs {
            let Some(name) = header_name(name).filter(|_| is_value(value)) else {
                continue;
            };
            if name.eq_ignore_ascii_case("content-type") {
                // The body of an error is JSON in any case.
                if status.is_some() || has_type {
                    continue;
                }
                has_type = true;
            }
            headers.push((name, value));
        }
        let code = status.as_ref().map_or(StatusCode::OK, status_code);
        let mut response = ServerResponse::new(code);
        let body: &[u8] = json.as_deref().unwrap_or(&message.body);
        if !has_type && !body.is_empty() {
            response = response.header("Content-Type", &*content_type);
        }
        // A browser must not take data for a page.
        response = response.header("X-Content-Type-Options", "nosniff");
        if let Some(origin) = &self.origin {
            response = response
                .header("Access-Control-Allow-Origin", origin)
                .header("Access-Control-Expose-Headers", "*")
                .header("Vary", "Origin");
        }
        for (name, value) in &headers {
            response = response.header(name, value);
        }
        if inside.is_last {
            response = response.close();
        }
        self.codec.encode(response.body(body), dst)
    }

    fn refuse(
        &mut self,
        refusal: &Refusal,
        is_last: bool,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        let code = refusal.status.as_u16().into();
        let text = code::text(code, Dialect::default());
        let text = match text {
            "Unknown Error" => refusal.status.canonical_reason().unwrap_or_default(),
            text => text,
        };
        let json = to_json(&Status::new(code, text).with_reason(refusal.reason));
        let mut response = ServerResponse::new(refusal.status);
        if refusal.status != StatusCode::NO_CONTENT {
            response = response
                .header("Content-Type", "application/json")
                .body(&json);
        }
        if let Some(origin) = &self.origin {
            response = response
                .header("Access-Control-Allow-Origin", origin)
                .header("Vary", "Origin");
        }
        for (name, value) in &refusal.headers {
            response = response.header(name, value);
        }
        if is_last || self.web.calls.is_none() {
            response = response.close();
        }
        self.codec.encode(response, dst)
    }
}

impl Carrier for Server {
    fn name(&self) -> &'static str {
        "http"
    }

    fn decode<'a>(
        &mut self,
        src: &'a mut [u8],
        inside: &mut Inside<'_>,
    ) -> Result<Decoded<Found<'a>>, FrameError> {
        let calls = self.web.calls.as_ref();
        let max_body = calls.map_or(0, |http| http.max_body.unwrap_or(usize::MAX));
        let max_body = max_body.min(inside.limits.message) as u64;
        (self.codec).set_limits(http::Limits::default().max_body(max_body));
        let (request, consumed) = match self.codec.decode(src)? {
            Decoded::Frame { frame, consumed } => (frame, consumed),
            other => return Ok(other.map(|_| Found::Greeting)),
        };
        let origin = calls.map(|http| http.origins.judge(&request));
        self.origin = origin.and_then(Result::ok).flatten().map(Into::into);
        let read = match self.web.answer(&request, self.calls > 0) {
            Some(pending) => Err(pending),
            None => read(&request, &inside.formats.codecs).map_err(Pending::from),
        };
        let frame = match read {
            Ok(mut call) => {
                let mut seq = itoa::Buffer::new();
                call.seq = seq.format(self.calls).as_bytes().to_vec().into();
                call.size = consumed;
                self.calls += 1;
                Found::Message(call)
            }
            Err(pending) => {
                self.pending = Some(pending);
                Found::Greeting
            }
        };
        Ok(Decoded::Frame { frame, consumed })
    }

    fn encode(
        &mut self,
        message: &Message<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.reply(message, inside, dst)
    }

    fn greet(
        &mut self,
        _: &Ends<'_>,
        inside: &mut Inside<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<Option<Carried>, FrameError> {
        match self.pending.take() {
            None => {}
            Some(Pending::Refusal(refusal)) => self.refuse(&refusal, inside.is_last, dst)?,
            #[cfg(feature = "ws")]
            Some(Pending::Handshake(refusal)) => {
                self.codec.encode(refusal.response().close(), dst)?;
            }
            #[cfg(feature = "ws")]
            Some(Pending::Accept { accept, socket }) => {
                if let Some(socket) = self.web.sockets.get(socket) {
                    let http = std::mem::take(&mut self.codec);
                    let open = socket.open(http, *accept, inside.limits, dst);
                    return open.map(Some);
                }
            }
        }
        Ok(None)
    }

    fn is_ready(&self) -> bool {
        self.calls > 0
    }

    fn only_answers(&self) -> bool {
        true
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        self.codec.poll_output(dst);
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        self.codec.close_notice(cause, dst);
    }

    fn refused_status(&self) -> Option<u16> {
        self.codec.refused_status()
    }

    fn begin_drain(&mut self) {
        self.codec.begin_drain();
    }

    fn stage(&self) -> Stage {
        self.codec.stage()
    }
}

/// The carrier of a connection that was dialled by mistake.
struct NotDialled;

impl Carrier for NotDialled {
    fn name(&self) -> &'static str {
        "http"
    }

    fn greet(
        &mut self,
        _: &Ends<'_>,
        _: &mut Inside<'_>,
        _: &mut Outbox<'_>,
    ) -> Result<Option<Carried>, FrameError> {
        let reason =
            "HTTP cannot be dialled, as it has no calls back; dial a WebSocket or a stream";
        Err(FrameError::Other(reason.into()))
    }
}

fn to_json(status: &Status) -> Vec<u8> {
    // A struct of a number and two texts can always be encoded as JSON.
    serde_json::to_vec(status).unwrap_or_default()
}

/// Returns the status of a response for that of a call.
fn status_code(status: &Status) -> StatusCode {
    let code = match status.code {
        code @ 400..=599 => code as u16,
        code::CONNECTION_CLOSED => 503,
        code::WRITE_FAILED | code::DIAL_FAILED => 502,
        _ => 500,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns a request as a CALL.
fn read<'a>(request: &ServerRequest<'a>, codecs: &Codecs) -> Result<Message<'a>, Refusal> {
    let mut call = Message::new(Kind::Call);
    let target = request.path_and_query();
    call.uri = match target.strip_prefix('/') {
        // In a message, two slashes begin the name of a host. In a request they are a path.
        Some(rest) if rest.starts_with('/') => format!("/%2F{}", &rest[1..]).into_bytes().into(),
        Some(_) => target.as_bytes().into(),
        None => format!("/{target}").into_bytes().into(),
    };
    let body = request.body();
    if !body.is_empty() {
        let media = request.header("content-type").unwrap_or("application/json");
        call.codec = codec_of(media, codecs).ok_or_else(|| {
            let reason = "the Content-Type is not that of a codec";
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason)
        })?;
        call.body = body.into();
    }
    for line in request.headers().end_to_end() {
        let name = line.name();
        if !is_left_out(name) {
            call.meta.add(written(name), line.value());
        }
    }
    if call.meta.get(Meta::ACCEPT_BODY_CODEC).is_none() {
        let accept = request.headers().get_all("accept");
        let codec = accepted(accept, codecs).unwrap_or(match call.codec {
            Codec::PROTOBUF => Codec::PROTOBUF,
            _ => Codec::JSON,
        });
        call.meta.add(Meta::ACCEPT_BODY_CODEC, codec.0.to_string());
    }
    Ok(call)
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Http");
        shown.field("origins", &self.origins);
        #[cfg(feature = "ws")]
        shown.field("sockets", &self.sockets);
        shown.finish_non_exhaustive()
    }
}
