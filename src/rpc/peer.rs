//! Peers: the ends of RPC conversations.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::broadcast::Broadcast;
use super::codec::ProtocolChoice;
use super::dials::{Again, DialWaiter, Dials};
use super::outgoing::WhenFull;
use super::reply::local;
use super::route_info::RouteInfo;
use super::session::{Address, Health, Session, Shared, is_on_loop, is_waited_for_by};
use super::slot::Slot;
use super::stats::{Counters, Stats};
use super::wire::{EncodeBody, Kind, Message, Status, code};
use crate::addr::Addr;
use crate::engine::connect::resolve::LookupResult;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::HandleError;
use crate::engine::server::Report;
use crate::error::Error;
use crate::metrics;

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
#[must_use = "the peer shuts down when its last handle is dropped"]
pub struct Peer {
    inner: Arc<Inner>,
    /// Held by the clones that keep the peer running. Others only use it.
    owner: Option<Arc<Owner>>,
}

/// The parts of a peer that do not depend on its engine.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) dials: Dials,
    pub(super) routes: Vec<RouteInfo>,
    after_start: Arc<dyn AfterStart>,
    /// Set when the first reactor boots.
    engine: OnceLock<Box<dyn PeerEngine>>,
}

/// Is told when a peer has started.
pub(super) trait AfterStart: Send + Sync {
    fn after_start(&self, peer: &Peer) -> Result<(), Error>;
}

/// The engine of a peer.
pub(super) trait PeerEngine: Send + Sync {
    fn local_addrs(&self) -> &[Addr];
    fn stats(&self) -> metrics::Stats;
    fn connect(&self, connect: Connect) -> Result<(), ConnectError>;
    fn adopt(&self, socket: OwnedFd, token: u64) -> Result<(), ConnectError>;
    /// Sends a push to all sessions.
    fn broadcast(&self, push: Broadcast) -> Result<(), HandleError>;
    /// Sends a push to these sessions of a reactor.
    fn broadcast_to(
        &self,
        push: Arc<Broadcast>,
        reactor: usize,
        to: Vec<Address>,
    ) -> Result<(), HandleError>;
    /// Begins a shutdown, with the usual deadline or another one.
    fn shutdown(&self, deadline: Option<Duration>);
    /// Returns true once a shutdown has begun.
    fn is_stopping(&self) -> bool;
    /// Returns the present time, which is virtual in a simulation.
    fn now(&self) -> Instant;
    /// Runs a task on a reactor after this time. It is dropped if the engine ends before.
    fn schedule(&self, delay: Duration, task: Box<dyn FnOnce() + Send>);
    /// Looks a host name up. The callback is dropped if the name cannot be looked up.
    fn look_up(&self, host: String, callback: Box<dyn FnOnce(LookupResult) + Send>);
}

/// The threads of a peer.
pub(super) trait Threads: Send {
    /// Waits for their end.
    fn join(self: Box<Self>) -> Report;
}

/// Shuts the peer down when it is dropped.
struct Owner {
    peer: Arc<Inner>,
    threads: Mutex<Option<Box<dyn Threads>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(threads) = self.threads.get_mut().take() else {
            return;
        };
        if let Some(engine) = self.peer.engine.get() {
            engine.shutdown(None);
        }
        if is_waited_for_by(&self.peer.shared) {
            // The thread cannot wait for its own end.
            std::mem::forget(threads);
        } else {
            threads.join();
        }
    }
}

impl Inner {
    pub(super) fn new(
        shared: Arc<Shared>,
        protocol: ProtocolChoice,
        routes: Vec<RouteInfo>,
        after_start: Arc<dyn AfterStart>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            dials: Dials::new(protocol),
            routes,
            after_start,
            engine: OnceLock::new(),
        })
    }

    /// Sets the engine, when its first reactor boots.
    pub(super) fn set_engine(self: &Arc<Self>, engine: impl FnOnce() -> Box<dyn PeerEngine>) {
        self.engine.get_or_init(engine);
        let peer = Arc::downgrade(self);
        self.shared.set_peer(peer);
    }
}

fn not_running() -> Status {
    local(code::WRITE_FAILED, "the peer does not run")
}

/// Sends a broadcast to one session by itself. One that takes no push now does not keep it from the others.
fn send_one(session: &Session, push: &Broadcast) {
    if let Err(status) = session.send(push.outgoing()) {
        Counters::count(&session.shared().counters.dropped_pushes);
        log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {status}", session.remote_addr());
    }
}

impl Session {
    /// Returns the peer that the session belongs to, unless it has ended. The handle does not keep the peer running.
    pub fn peer(&self) -> Option<Peer> {
        let peer = self.shared().peer()?;
        peer.downcast().ok().map(Peer::unowned)
    }
}

impl Peer {
    /// Returns a handle that does not keep the peer running.
    pub(super) fn unowned(inner: Arc<Inner>) -> Self {
        Self { inner, owner: None }
    }

    /// Makes this handle, and its clones, keep the peer running.
    pub(super) fn own(&mut self, threads: Box<dyn Threads>) {
        self.owner = Some(Arc::new(Owner {
            peer: self.inner.clone(),
            threads: Mutex::new(Some(threads)),
        }));
    }

    /// Calls the hooks of a peer that has started.
    pub(super) fn started(&self) -> Result<(), Error> {
        self.inner.after_start.after_start(self)
    }

    /// Returns the same peer by a handle that does not keep it running.
    pub(super) fn downgraded(&self) -> Self {
        Self::unowned(self.inner.clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(super) fn engine(&self) -> Option<&dyn PeerEngine> {
        self.inner.engine.get().map(|engine| &**engine)
    }

    /// Returns the addresses of the listeners, in the order in which they were given, with the ports that the kernel chose.
    pub fn local_addrs(&self) -> &[Addr] {
        self.engine().map_or(&[], |engine| engine.local_addrs())
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
    /// With [`Connect::reconnect`] the session [redials](super::PeerBuilder::redial) by that policy, and this call waits as long as
    /// it repeats its first attempts.
    ///
    /// Messages on a stream have no handshake, so a session opens with its connection, unless a plugin waits for a message. A
    /// server of another protocol shows at the first call, which fails with [`CONNECTION_CLOSED`](code::CONNECTION_CLOSED).
    ///
    /// # Errors
    ///
    /// [`DIAL_FAILED`](code::DIAL_FAILED) with the reason. On a reactor's thread it fails at once, because the session could
    /// never open: use [`dial_then`](Self::dial_then) there.
    pub fn dial(&self, to: impl Into<Connect>) -> Result<Session, Status> {
        self.dial_with(to, self.inner.dials.default_protocol())
    }

    /// Connects to another peer with a protocol of its own.
    ///
    /// # Errors
    ///
    /// As for [`dial`](Self::dial).
    pub fn dial_with(
        &self,
        to: impl Into<Connect>,
        protocol: impl Into<ProtocolChoice>,
    ) -> Result<Session, Status> {
        if is_on_loop() {
            let reason = "`dial` on a reactor's thread would wait for itself; use `dial_then`";
            return Err(local(code::DIAL_FAILED, reason));
        }
        let (waiter, slot) = DialWaiter::slot();
        self.connect(to.into(), protocol.into(), waiter);
        slot.wait()
    }

    /// Connects to another peer. Returns at once. `callback` gets the session, or the reason why there is none, exactly once.
    pub fn dial_then(
        &self,
        to: impl Into<Connect>,
        callback: impl FnOnce(Result<Session, Status>) + Send + 'static,
    ) {
        let protocol = self.inner.dials.default_protocol();
        self.connect(to.into(), protocol, DialWaiter::new(callback));
    }

    /// Connects to another peer with a protocol of its own, as [`dial_then`](Self::dial_then) does.
    pub fn dial_then_with(
        &self,
        to: impl Into<Connect>,
        protocol: impl Into<ProtocolChoice>,
        callback: impl FnOnce(Result<Session, Status>) + Send + 'static,
    ) {
        self.connect(to.into(), protocol.into(), DialWaiter::new(callback));
    }

    /// Returns the protocol of outbound connections that have none of their own.
    pub(super) fn dial_protocol(&self) -> ProtocolChoice {
        self.inner.dials.default_protocol()
    }

    /// Connects to another peer. The session is the result of a future, for any executor. The connection is made also if the
    /// future is dropped.
    pub fn dial_async(&self, to: impl Into<Connect>) -> DialFuture {
        let protocol = self.inner.dials.default_protocol();
        let (waiter, slot) = DialWaiter::slot();
        self.connect(to.into(), protocol, waiter);
        DialFuture(slot)
    }

    /// Takes over a connected stream socket, TCP or Unix, that the application has accepted: the other end has connected. The
    /// session is like one of a listener with this protocol. So its plugins' hook is
    /// [`post_accept`](super::Plugin::post_accept), and the other end has to authenticate if those of a listener have to.
    ///
    /// # Errors
    ///
    /// [`DIAL_FAILED`](code::DIAL_FAILED) with the reason, or the status with which a plugin refuses the session. It waits as
    /// [`dial`](Self::dial) does.
    pub fn serve(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: impl Into<ProtocolChoice>,
    ) -> Result<Session, Status> {
        self.take_over(socket.into(), protocol.into().for_accepted(), true)
    }

    /// Takes over a connected stream socket, TCP or Unix, that the application has connected, for example by a proxy. The
    /// session is like one that was dialled with this protocol.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve).
    pub fn serve_dialled(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: impl Into<ProtocolChoice>,
    ) -> Result<Session, Status> {
        self.take_over(socket.into(), protocol.into(), false)
    }

    fn take_over(
        &self,
        socket: OwnedFd,
        protocol: ProtocolChoice,
        is_accepted: bool,
    ) -> Result<Session, Status> {
        if is_on_loop() {
            let reason = "`serve` on a reactor's thread would wait for itself";
            return Err(local(code::DIAL_FAILED, reason));
        }
        let (waiter, slot) = DialWaiter::slot();
        let token = (self.inner.dials).begin(protocol, is_accepted, None, waiter);
        self.begin(token, |engine, token| engine.adopt(socket, token));
        slot.wait()
    }

    fn connect(&self, connect: Connect, protocol: ProtocolChoice, waiter: DialWaiter) {
        let settings = &self.inner.shared.settings;
        let mut connect = connect.with_defaults(settings.dial_timeout, settings.dial_from);
        let protocol = protocol.towards(connect.host_and_port());
        // The peer itself makes further connections, since they belong to the same session.
        let own = connect.reconnect.take();
        if let Some(Err(error)) = own.map(|policy| policy.check("reconnect")) {
            return waiter.settle(Err(local(code::DIAL_FAILED, error.to_string())));
        }
        let policy = own.or(settings.redial);
        let again = policy
            .filter(|policy| !policy.gives_up(0))
            .map(|policy| Again {
                connect: connect.clone(),
                protocol: protocol.clone(),
                policy,
                from_the_first: own.is_some(),
            });
        let token = self.inner.dials.begin(protocol, false, again, waiter);
        self.begin(token, |engine, token| engine.connect(connect.token(token)));
    }

    /// Begins to make a connection. `start` gives it to the engine, with its token.
    fn begin(
        &self,
        token: u64,
        start: impl FnOnce(&dyn PeerEngine, u64) -> Result<(), ConnectError>,
    ) {
        let started = match self.engine() {
            Some(engine) => start(engine, token),
            None => Err(ConnectError::Stopped),
        };
        if let Err(error) = started {
            let status = local(code::DIAL_FAILED, error.to_string());
            self.inner.dials.end(token, Err(status));
        }
    }

    /// Returns the number of sessions.
    pub fn session_count(&self) -> usize {
        self.inner.shared.sessions.len()
    }

    /// Returns the session with this identifier.
    pub fn session(&self, id: &str) -> Option<Session> {
        self.inner.shared.sessions.get(id)
    }

    /// Returns all sessions, sorted by their identifiers.
    pub fn sessions(&self) -> Vec<Session> {
        self.inner.shared.sessions.all()
    }

    /// Sends a push to all sessions, on their reactors. The body and the message are encoded once for all sessions that speak
    /// the same protocol. The pushes have an empty `seq`.
    ///
    /// If a plugin sees calls or pushes before they are sent, it sees one push for each session, and each is encoded by itself.
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
        self.broadcast_with(uri, body, WhenFull::Send)
    }

    /// Sends a push to all sessions as [`broadcast`](Self::broadcast) does. `when_full` says what happens to sessions whose readers
    /// are so slow that there is no room in their output. They delay nobody else in any case.
    ///
    /// # Errors
    ///
    /// As for [`broadcast`](Self::broadcast).
    pub fn broadcast_with<A: EncodeBody + ?Sized>(
        &self,
        uri: impl AsRef<str>,
        body: &A,
        when_full: WhenFull,
    ) -> Result<(), Status> {
        let shared = &self.inner.shared;
        let push = self.prepare_broadcast(uri.as_ref(), body, when_full)?;
        let engine = self.engine().ok_or_else(not_running)?;
        if shared.before_write.is_some() {
            // Plugins see each push, and may change it.
            let takes_pushes = |session: &Session| !session.only_answers();
            for session in shared.sessions.all().into_iter().filter(takes_pushes) {
                send_one(&session, &push);
            }
            return Ok(());
        }
        engine
            .broadcast(push)
            .map_err(|error| local(code::WRITE_FAILED, error.to_string()))
    }

    /// Sends a push to some sessions, such as those of a group. It is encoded once, as by [`broadcast`](Self::broadcast), and each
    /// reactor gets one request. A session that is named twice gets it twice. Sessions that have ended, and those that take
    /// nothing but replies, get nothing: [`PeerStats::dropped_pushes`](super::PeerStats) counts them.
    ///
    /// ```
    /// # fn demo(peer: &epicycle::rpc::Peer) -> Result<(), epicycle::rpc::Status> {
    /// let players: Vec<_> = (peer.sessions().into_iter())
    ///     .filter(|session| session.swap().get::<u32>("room").as_deref() == Some(&7))
    ///     .collect();
    /// peer.broadcast_to(&players, "/room/state", &"the game begins")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`broadcast`](Self::broadcast).
    pub fn broadcast_to<A: EncodeBody + ?Sized>(
        &self,
        sessions: impl IntoIterator<Item: Borrow<Session>>,
        uri: impl AsRef<str>,
        body: &A,
    ) -> Result<(), Status> {
        self.broadcast_to_with(sessions, uri, body, WhenFull::Send)
    }

    /// Sends a push to some sessions as [`broadcast_to`](Self::broadcast_to) does. `when_full` says what happens to those whose
    /// readers are slow, as for [`broadcast_with`](Self::broadcast_with).
    ///
    /// # Errors
    ///
    /// As for [`broadcast`](Self::broadcast).
    pub fn broadcast_to_with<A: EncodeBody + ?Sized>(
        &self,
        sessions: impl IntoIterator<Item: Borrow<Session>>,
        uri: impl AsRef<str>,
        body: &A,
        when_full: WhenFull,
    ) -> Result<(), Status> {
        let shared = &self.inner.shared;
        let push = self.prepare_broadcast(uri.as_ref(), body, when_full)?;
        let engine = self.engine().ok_or_else(not_running)?;
        let mut by_reactor: Vec<Vec<Address>> = Vec::new();
        for session in sessions {
            let session = session.borrow();
            // A session that redials keeps its pushes. Plugins see each push. A session of another peer is on another engine.
            let is_alike = shared.before_write.is_none()
                && session.health() == Health::Open
                && !session.only_answers()
                && Arc::ptr_eq(session.shared(), shared);
            match session.address() {
                Some((reactor, address)) if is_alike => {
                    let places = by_reactor.len().max(reactor + 1);
                    by_reactor.resize_with(places, Vec::new);
                    by_reactor[reactor].push(address);
                }
                _ => send_one(session, &push),
            }
        }
        let push = Arc::new(push);
        let mut result = Ok(());
        for (reactor, to) in by_reactor.into_iter().enumerate() {
            if !to.is_empty() {
                result = result.and(engine.broadcast_to(push.clone(), reactor, to));
            }
        }
        result.map_err(|error| local(code::WRITE_FAILED, error.to_string()))
    }

    fn prepare_broadcast<A: EncodeBody + ?Sized>(
        &self,
        uri: &str,
        body: &A,
        when_full: WhenFull,
    ) -> Result<Broadcast, Status> {
        let shared = &self.inner.shared;
        let mut push = Message::new(Kind::Push);
        push.uri = uri.as_bytes().to_vec().into();
        (push.marshal(&shared.formats.codecs, shared.settings.body_codec, body))
            .map_err(|error| local(code::BAD_MESSAGE, error.to_string()))?;
        Ok(Broadcast::new(push, when_full))
    }

    /// Returns the routes, in the order in which they were added.
    pub fn routes(&self) -> &[RouteInfo] {
        &self.inner.routes
    }

    /// Returns the statistics up to now. It holds nobody up.
    ///
    /// ```
    /// use epicycle::metrics::prometheus;
    /// use epicycle::rpc::{Outcome, Peer, Router};
    ///
    /// let mut routes = Router::new();
    /// routes.call("/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
    /// let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).start()?;
    /// let client = Peer::builder().start()?;
    /// let session = client.dial(&server.local_addrs()[0])?;
    /// assert_eq!(session.call("/add", &[1, 2]).wait(), Ok(3));
    ///
    /// let stats = server.stats();
    /// let add = stats.call("/add").expect("is a route");
    /// assert_eq!(add.stats.ended[Outcome::Ok], 1);
    ///
    /// let mut text = String::new();
    /// prometheus(&stats, &mut text);
    /// assert!(text.contains(r#"epicycle_rpc_route_arrived_total{kind="call",route="/add"} 1"#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let peer = shared.counters.read(shared.sessions.len());
        shared.meters.read(peer, &self.inner.routes)
    }

    /// Returns the statistics of the engine: connections, bytes, times of turns and so on. `None` before it has started.
    pub fn engine_stats(&self) -> Option<metrics::Stats> {
        self.engine().map(PeerEngine::stats)
    }

    /// Shuts the peer down. No more calls are taken or made. Calls under way in both directions end first, within the
    /// [drain deadline](crate::Server::drain_deadline) of the engine. Waits for the end.
    ///
    /// On a reactor's thread, and in a blocking handler of the peer, it does not wait, because it would wait for itself.
    pub fn shutdown(&self) -> Option<Report> {
        self.engine()?.shutdown(None);
        self.wait()
    }

    /// Shuts the peer down as [`shutdown`](Self::shutdown) does, with another deadline.
    pub fn shutdown_within(&self, deadline: Duration) -> Option<Report> {
        self.engine()?.shutdown(Some(deadline));
        self.wait()
    }

    /// Waits for the end of the peer. Something else has to begin its shutdown. Returns `None` if another thread waits
    /// already, on a reactor's thread, in a blocking handler of the peer, and from a handle that does not keep the peer running.
    pub fn wait(&self) -> Option<Report> {
        if is_waited_for_by(&self.inner.shared) {
            return None;
        }
        let threads = self.owner.as_ref()?.threads.lock().take()?;
        Some(threads.join())
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
