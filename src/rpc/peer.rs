//! Peers: the ends of RPC conversations.

use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use super::codec::{Formats, ProtocolChoice};
use super::context::MakeLocal;
use super::dials::{DialWaiter, Dials};
use super::handler::{Parts, PeerHandler};
use super::reply::local;
use super::router::{RouteInfo, Router};
use super::session::{Session, Settings, Shared, is_on_loop};
use super::slot::Slot;
use super::wire::{Codec, Codecs, EncodeBody, Filters, Kind, Limits, Message, Status, code};
use crate::addr::Addr;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::Engine;
use crate::engine::listen::Listen;
use crate::engine::server::{Report, Running, Server};
use crate::error::Error;
use crate::workers::WorkerPool;

/// One end of RPC conversations. It may listen, dial, or do both; server and client are the same thing.
///
/// Clones stand for the same peer. When the last clone is dropped, the peer shuts down.
///
/// # Examples
///
/// ```
/// use epicycle::rpc::{Peer, Router};
///
/// let mut routes = Router::new();
/// routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
///
/// let client = Peer::builder().start()?;
/// let session = client.dial(&server.local_addrs()[0])?;
/// let sum: i64 = session.call("/math/add", &[1, 2, 3]).wait()?;
/// assert_eq!(sum, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Peer {
    parts: Arc<Parts>,
    routes: Arc<[RouteInfo]>,
    /// None if somebody else runs the engine.
    running: Option<Arc<Owner>>,
}

/// Shuts the peer down when it is dropped.
struct Owner(Mutex<Option<Running<PeerHandler>>>);

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(running) = self.0.get_mut().take() else {
            return;
        };
        if is_on_loop() {
            // The thread cannot wait for its own end.
            running.engine().shutdown();
            std::mem::forget(running);
        }
    }
}

impl Peer {
    /// Returns the options of a peer, at their defaults.
    pub fn builder() -> PeerBuilder {
        PeerBuilder {
            server: Server::unbound(),
            protocols: Vec::new(),
            protocol: None,
            dial_protocol: ProtocolChoice::raw_of(Default::default()),
            routes: Router::new(),
            formats: Formats {
                filters: Filters::standard(),
                ..Formats::default()
            },
            settings: Settings {
                body_codec: Codec::JSON,
                call_timeout: Some(Duration::from_secs(30)),
                handle_timeout: None,
                close_within: Duration::from_secs(10),
                max_calls: 65_536,
                max_deferred: 1024,
                tells_panics: true,
            },
            pool: None,
            locals: Vec::new(),
        }
    }

    /// Returns the addresses of the listeners, in the order in which they were given, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> &[Addr] {
        self.engine().map_or(&[], Engine::local_addrs)
    }

    /// Connects to another peer and waits for the session. It blocks the thread.
    ///
    /// ```no_run
    /// # fn demo(peer: &epicycle::rpc::Peer) -> Result<(), epicycle::rpc::Status> {
    /// use epicycle::Connect;
    /// use std::time::Duration;
    ///
    /// let session = peer.dial("tcp://10.0.0.7:9090")?;
    /// let session = peer.dial(Connect::to("tcp://10.0.0.7:9090").timeout(Duration::from_secs(1)))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DIAL_FAILED`](code::DIAL_FAILED) with the reason. On a reactor's thread it fails at once, because the session could
    /// never open: use [`dial_then`](Self::dial_then) there.
    pub fn dial(&self, to: impl Into<Connect>) -> Result<Session, Status> {
        self.dial_with(to, self.parts.dials.default_protocol())
    }

    /// Connects to another peer with a protocol of its own.
    ///
    /// # Errors
    ///
    /// As for [`dial`](Self::dial).
    pub fn dial_with(
        &self,
        to: impl Into<Connect>,
        protocol: ProtocolChoice,
    ) -> Result<Session, Status> {
        if is_on_loop() {
            let reason = "`dial` on a reactor's thread would wait for itself; use `dial_then`";
            return Err(local(code::DIAL_FAILED, reason));
        }
        let slot = Arc::new(Slot::new());
        self.begin(to.into(), protocol, DialWaiter::slot(slot.clone()));
        // Without a deadline a slot is waited for until it is filled.
        let lost = || Err(local(code::DIAL_FAILED, "the dial has no result"));
        slot.wait(None).unwrap_or_else(lost)
    }

    /// Connects to another peer. Returns at once. `callback` gets the session, or the reason why there is none, exactly once.
    pub fn dial_then(
        &self,
        to: impl Into<Connect>,
        callback: impl FnOnce(Result<Session, Status>) + Send + 'static,
    ) {
        let protocol = self.parts.dials.default_protocol();
        self.begin(to.into(), protocol, DialWaiter::callback(callback));
    }

    /// Connects to another peer. The session is the result of a future, for any executor. The connection is made also if the
    /// future is dropped.
    pub fn dial_async(&self, to: impl Into<Connect>) -> DialFuture {
        let protocol = self.parts.dials.default_protocol();
        let slot = Arc::new(Slot::new());
        self.begin(to.into(), protocol, DialWaiter::slot(slot.clone()));
        DialFuture(slot)
    }

    /// Takes over a connected stream socket, TCP or Unix. `protocol` is that of the other end.
    ///
    /// # Errors
    ///
    /// [`DIAL_FAILED`](code::DIAL_FAILED) with the reason. It waits as [`dial`](Self::dial) does.
    pub fn serve(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: ProtocolChoice,
    ) -> Result<Session, Status> {
        if is_on_loop() {
            let reason = "`serve` on a reactor's thread would wait for itself";
            return Err(local(code::DIAL_FAILED, reason));
        }
        let slot = Arc::new(Slot::new());
        let token = self
            .parts
            .dials
            .begin(protocol, DialWaiter::slot(slot.clone()));
        let adopted = match self.engine() {
            Some(engine) => engine.adopt(socket, token),
            None => Err(ConnectError::Stopped),
        };
        if let Err(error) = adopted {
            self.fail(token, &error);
        }
        let lost = || Err(local(code::DIAL_FAILED, "the dial has no result"));
        slot.wait(None).unwrap_or_else(lost)
    }

    fn begin(&self, connect: Connect, protocol: ProtocolChoice, waiter: DialWaiter) {
        let token = self.parts.dials.begin(protocol, waiter);
        let begun = match self.engine() {
            Some(engine) => engine.connect(connect.token(token)).map(drop),
            None => Err(ConnectError::Stopped),
        };
        if let Err(error) = begun {
            self.fail(token, &error);
        }
    }

    fn fail(&self, token: u64, error: &ConnectError) {
        let status = local(code::DIAL_FAILED, error.to_string());
        self.parts.dials.end(token, Err(status));
    }

    /// Returns the number of sessions.
    pub fn session_count(&self) -> usize {
        self.parts.shared.sessions.len()
    }

    /// Returns the session with this identifier.
    pub fn session(&self, id: &str) -> Option<Session> {
        self.parts.shared.sessions.get(id)
    }

    /// Returns all sessions, sorted by their identifiers.
    pub fn sessions(&self) -> Vec<Session> {
        self.parts.shared.sessions.all()
    }

    /// Sends a push to all sessions, on their reactors. The body and the message are encoded once for all sessions that speak
    /// the same protocol. The pushes have an empty `seq`.
    ///
    /// # Errors
    ///
    /// [`BAD_MESSAGE`](code::BAD_MESSAGE) if the body cannot be encoded, and [`WRITE_FAILED`](code::WRITE_FAILED) if the mailbox
    /// of a reactor is full, or the peer has shut down. The sessions of the other reactors get the push then.
    pub fn broadcast<A: EncodeBody + ?Sized>(
        &self,
        uri: impl AsRef<str>,
        body: &A,
    ) -> Result<(), Status> {
        let shared = &self.parts.shared;
        let mut push = Message::new(Kind::Push);
        push.uri = uri.as_ref().as_bytes().to_vec().into();
        (push.marshal(&shared.formats.codecs, shared.settings.body_codec, body))
            .map_err(|error| local(code::BAD_MESSAGE, error.to_string()))?;
        let stopped = || local(code::WRITE_FAILED, "the peer does not run");
        let engine = self.engine().ok_or_else(stopped)?;
        let push = Arc::new(push);
        let mut result = Ok(());
        for reactor in 0..engine.reactors() {
            let push = push.clone();
            let sent = engine.run_on(reactor, move |handler, reactor| {
                handler.broadcast(reactor, &push);
            });
            result = sent
                .map_err(|error| local(code::WRITE_FAILED, error.to_string()))
                .and(result);
        }
        result
    }

    /// Returns the routes, in the order in which they were added.
    pub fn routes(&self) -> &[RouteInfo] {
        &self.routes
    }

    /// Returns the engine, once it runs.
    pub fn engine(&self) -> Option<&Engine<PeerHandler>> {
        self.parts.engine.get()
    }

    /// Shuts the peer down. No more calls are taken or made. Calls under way in both directions end first, within the
    /// [drain deadline](Server::drain_deadline) of the engine. Waits for the end.
    ///
    /// On a reactor's thread it does not wait, because the thread cannot wait for its own end.
    pub fn shutdown(&self) -> Option<Report> {
        self.engine()?.shutdown();
        self.wait()
    }

    /// Shuts the peer down as [`shutdown`](Self::shutdown) does, with another deadline.
    pub fn shutdown_within(&self, deadline: Duration) -> Option<Report> {
        self.engine()?.shutdown_within(deadline);
        self.wait()
    }

    /// Waits for the end of the peer. Something else has to begin its shutdown. Returns `None` if another thread waits
    /// already, and on a reactor's thread.
    pub fn wait(&self) -> Option<Report> {
        if is_on_loop() {
            return None;
        }
        let running = self.running.as_ref()?.0.lock().take()?;
        Some(running.join())
    }
}

/// A session as the result of a future: see [`Peer::dial_async`].
#[must_use = "futures do nothing unless polled"]
pub struct DialFuture(Arc<Slot<Result<Session, Status>>>);

impl Future for DialFuture {
    type Output = Result<Session, Status>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context.waker())
    }
}

/// The options of a [`Peer`].
#[must_use = "a builder does nothing until start is called"]
pub struct PeerBuilder {
    server: Server,
    protocols: Vec<Option<ProtocolChoice>>,
    /// The protocol of listeners that have none of their own.
    protocol: Option<ProtocolChoice>,
    dial_protocol: ProtocolChoice,
    routes: Router,
    formats: Formats,
    settings: Settings,
    pool: Option<WorkerPool>,
    locals: Vec<MakeLocal>,
}

impl PeerBuilder {
    /// Adds an address or socket to listen on.
    pub fn listen(mut self, listen: impl Into<Listen>) -> Self {
        self.server = self.server.and(listen);
        self.protocols.push(None);
        self
    }

    /// Adds an address or socket to listen on, with a protocol of its own.
    pub fn listen_with(mut self, listen: impl Into<Listen>, protocol: ProtocolChoice) -> Self {
        self.server = self.server.and(listen);
        self.protocols.push(Some(protocol));
        self
    }

    /// Sets the protocol of the listeners that have none of their own. Default: the raw protocol, in the dialect of each
    /// connection's first message.
    pub fn protocol(mut self, protocol: ProtocolChoice) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Sets the protocol of outbound connections that have none of their own. Default: the raw protocol of v4.1.
    pub fn dial_protocol(mut self, protocol: ProtocolChoice) -> Self {
        self.dial_protocol = protocol;
        self
    }

    /// Sets the handlers. Default: none.
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = routes;
        self
    }

    /// Sets the body codecs. Default: JSON, protobuf, plain and form.
    pub fn codecs(mut self, codecs: Codecs) -> Self {
        self.formats.codecs = codecs;
        self
    }

    /// Sets the filters. Default: gzip and md5.
    pub fn filters(mut self, filters: Filters) -> Self {
        self.formats.filters = filters;
        self
    }

    /// Sets the limits of received messages. Default: 16 MiB and 8 filters.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.formats.limits = limits;
        self
    }

    /// Sets the codec of bodies for which no other is set. Default: JSON.
    pub fn body_codec(mut self, codec: Codec) -> Self {
        self.settings.body_codec = codec;
        self
    }

    /// Sets the time within which the reply to a call must arrive, unless the call sets its own. `None` waits without a limit.
    /// Default: 30 seconds.
    pub fn call_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.call_timeout = timeout.into();
        self
    }

    /// Sets the time within which a handler that replies later must reply. The caller then gets
    /// [`HANDLE_TIMEOUT`](code::HANDLE_TIMEOUT), and the reply is dropped. Default: no limit but the caller's own.
    pub fn handle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.handle_timeout = timeout.into();
        self
    }

    /// Sets the time within which the calls of a session that is [closing](Session::close) must end. Default: 10 seconds.
    pub fn close_within(mut self, time: Duration) -> Self {
        self.settings.close_within = time;
        self
    }

    /// Sets the most calls of a session that wait for their replies. A call beyond fails with
    /// [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS). Each costs about 200 bytes. Default: 65,536.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.settings.max_calls = calls;
        self
    }

    /// Sets the most calls of a session whose blocking and deferred handlers are at work or queued. A call beyond is answered
    /// with [`TOO_MANY_REQUESTS`](code::TOO_MANY_REQUESTS). Each holds its message. Default: 1,024.
    pub fn max_deferred(mut self, calls: usize) -> Self {
        self.settings.max_deferred = calls;
        self
    }

    /// Keeps the text of a handler's panic out of the reply. It is logged in any case. Default: the caller is told.
    pub fn hide_panics(mut self) -> Self {
        self.settings.tells_panics = false;
        self
    }

    /// Sets the worker pool of blocking handlers. Default: a pool of the peer's own, if it has such handlers.
    pub fn workers(mut self, pool: WorkerPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Adds a value that each reactor has of its own, for [`CallCtx::local`](super::CallCtx::local). `make` is called on the
    /// reactor's thread. The value need not be `Send`.
    pub fn local<T: 'static>(mut self, make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.locals
            .push(Box::new(move |locals| locals.insert(make())));
        self
    }

    /// Sets the number of reactors. Default: one for each core.
    pub fn reactors(self, reactors: usize) -> Self {
        self.server(|server| server.reactors(reactors))
    }

    /// Changes options of the engine.
    ///
    /// ```
    /// use epicycle::rpc::Peer;
    /// use std::time::Duration;
    ///
    /// let peer = Peer::builder()
    ///     .listen("tcp://127.0.0.1:0")
    ///     .server(|server| server.max_connections(10_000).drain_deadline(Duration::from_secs(5)))
    ///     .start()?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn server(mut self, change: impl FnOnce(Server) -> Server) -> Self {
        self.server = change(self.server);
        self
    }

    /// Starts the peer's threads. Returns when the listeners are open.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names the wrong address or option, or two handlers of one path.
    pub fn start(self) -> Result<Peer, Error> {
        let (mut peer, server, factory) = self.into_server()?;
        let running = server.start(factory)?;
        peer.running = Some(Arc::new(Owner(Mutex::new(Some(running)))));
        Ok(peer)
    }

    /// Returns the peer, and the server and the factory of handlers that run it, for a
    /// [simulated network](crate::testing). The peer works once the server has started.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names two handlers of one path, or a worker pool that cannot be made.
    pub fn into_server(
        self,
    ) -> Result<
        (
            Peer,
            Server,
            impl Fn(usize) -> PeerHandler + Clone + Send + Sync + 'static,
        ),
        Error,
    > {
        let (table, routes) = self.routes.finish()?;
        let pool = match self.pool {
            None if table.blocks() => Some(WorkerPool::builder().name("epicycle-rpc").build()?),
            pool => pool,
        };
        let default = self.protocol.unwrap_or_else(ProtocolChoice::raw);
        let protocols = self.protocols.into_iter();
        // The engine holds at most one message of an input.
        let server = self.server.max_frame(self.formats.limits.message);
        let parts = Arc::new(Parts {
            shared: Arc::new(Shared::new(Arc::new(self.formats), self.settings)),
            table,
            pool,
            protocols: protocols
                .map(|own| own.unwrap_or_else(|| default.clone()))
                .collect(),
            dials: Dials::new(self.dial_protocol),
            locals: self.locals,
            engine: Default::default(),
        });
        let peer = Peer {
            parts: parts.clone(),
            routes: routes.into(),
            running: None,
        };
        Ok((peer, server, move |_| PeerHandler::new(parts.clone())))
    }
}

impl fmt::Debug for DialFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("local_addrs", &self.local_addrs())
            .field("sessions", &self.session_count())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerBuilder")
            .field("server", &self.server)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
