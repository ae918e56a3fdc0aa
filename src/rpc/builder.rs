//! The options of peers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{Formats, ProtocolChoice};
use super::context::MakeLocal;
use super::handler::{Parts, PeerHandler};
use super::logging::{LogOptions, Logged};
use super::peer::{Inner, Peer, Threads};
use super::plugin::{Hooks, Plugin, Plugins};
use super::router::Router;
use super::session::{BeforeWrite, Settings, Shared};
use super::stream::MAX_CREDIT;
use super::wire::{Codec, Codecs, Filters, Limits};
use crate::engine::connect::Reconnect;
use crate::engine::listen::Listen;
use crate::engine::listen::handover::Control;
use crate::engine::server::{Report, Running, Server};
use crate::error::Error;
use crate::workers::WorkerPool;

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
    left: Plugins,
    right: Plugins,
}

/// The bytes around a message that the engine holds with it: the head of an HTTP request, the header of a WebSocket frame.
const AROUND_MESSAGE: usize = if cfg!(feature = "http") { 32 << 10 } else { 0 };

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
                dial_timeout: None,
                dial_from: None,
                handle_timeout: None,
                session_age: None,
                redial: None,
                close_within: Duration::from_secs(10),
                max_calls: 65_536,
                max_deferred: 1024,
                max_total_calls: 65_536,
                max_total_deferred: 65_536,
                max_streams: 64,
                max_stream_bytes: 64 << 20,
                stream_credit: 64,
                tells_panics: true,
                log: LogOptions::default(),
            },
            pool: None,
            locals: Vec::new(),
            left: Plugins::default(),
            right: Plugins::default(),
        }
    }
}

impl PeerBuilder {
    /// Adds an address or socket to listen on.
    pub fn listen(mut self, listen: impl Into<Listen>) -> Self {
        self.server = self.server.and(listen);
        self.protocols.push(None);
        self
    }

    /// Adds an address or socket to listen on, with a protocol of its own.
    pub fn listen_with(
        mut self,
        listen: impl Into<Listen>,
        protocol: impl Into<ProtocolChoice>,
    ) -> Self {
        self.server = self.server.and(listen);
        self.protocols.push(Some(protocol.into()));
        self
    }

    /// Sets the protocol of the listeners that have none of their own. Default: the raw protocol, in the dialect of each
    /// connection's first message.
    pub fn protocol(mut self, protocol: impl Into<ProtocolChoice>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// Sets the protocol of outbound connections that have none of their own. Default: the raw protocol of v4.1.
    pub fn dial_protocol(mut self, protocol: impl Into<ProtocolChoice>) -> Self {
        self.dial_protocol = protocol.into();
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

    /// Sets the timeout of dials that set none: from the name lookup to the end of the TLS handshake. Default: that of
    /// [`Connect::timeout`](crate::Connect::timeout).
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.settings.dial_timeout = Some(timeout);
        self
    }

    /// Sets the local address of dials that set none. Unix sockets ignore it. Default: the kernel chooses.
    pub fn dial_from(mut self, ip: IpAddr) -> Self {
        self.settings.dial_from = Some(ip);
        self
    }

    /// Sets the time within which a handler that replies later must reply. The caller then gets
    /// [`HANDLE_TIMEOUT`](super::code::HANDLE_TIMEOUT), and the reply is dropped. [`Session::set_handle_timeout`] sets that of one
    /// session. Default: no limit but the caller's own.
    ///
    /// [`Session::set_handle_timeout`]: super::Session::set_handle_timeout
    pub fn handle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.handle_timeout = timeout.into();
        self
    }

    /// Lets dialled sessions go on when their connections end unexpectedly: a new connection is made, by the policy's attempts
    /// and delays. [`Connect::reconnect`] sets the policy of one dial, and repeats its first attempts too; those of other dials
    /// are not repeated. `limit(0)` turns it off for a dial. Default: a session ends with its connection.
    ///
    /// The [`Session`](super::Session) stays the same: its identifier if it was [set](super::Session::set_id), its values, and its
    /// counter of messages. Plugins run [`post_dial`](super::Plugin::post_dial) again, so that it authenticates again. Calls under
    /// way fail with [`CONNECTION_CLOSED`](super::code::CONNECTION_CLOSED) unless they are
    /// [idempotent](super::Call::idempotent). Calls and pushes made meanwhile wait for the connection: calls within their timeout
    /// and within [`max_calls`](Self::max_calls), and at most 1,024 pushes. Calls that are to
    /// [fail fast](super::Call::fail_fast) do not wait.
    ///
    /// The session ends, and waiting calls with it, when the policy gives up, when the other side refuses the session with 401 or
    /// 403, and when it is closed.
    ///
    /// ```
    /// use epicycle::Reconnect;
    /// use epicycle::rpc::Peer;
    /// use std::time::Duration;
    ///
    /// let policy = Reconnect::new(Duration::from_millis(100), Duration::from_secs(5)).limit(20);
    /// let peer = Peer::builder().redial(policy).start()?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    ///
    /// [`Connect::reconnect`]: crate::Connect::reconnect
    pub fn redial(mut self, policy: impl Into<Option<Reconnect>>) -> Self {
        self.settings.redial = policy.into();
        self
    }

    /// Sets the maximum age of sessions. At the end of it a session closes as [`Session::close`](super::Session::close) does: it
    /// takes and makes no more calls, and those under way end first. The age of each is shortened at random by up to a tenth, so
    /// that sessions that opened together do not close together. [`Session::set_age`](super::Session::set_age) sets that of one
    /// session. `None` or zero: sessions have no such limit, which is the default.
    pub fn session_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.settings.session_age = age.into();
        self
    }

    /// Sets the time within which the calls of a session that is [closing](super::Session::close) must end. Default: 10 seconds.
    pub fn close_within(mut self, time: Duration) -> Self {
        self.settings.close_within = time;
        self
    }

    /// Sets the most calls of a session that wait for their replies. A call beyond fails with
    /// [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Each costs about 200 bytes. A cancelled call counts until its
    /// cancellation is in the output. Default: 65,536.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.settings.max_calls = calls;
        self
    }

    /// Sets the most calls of a session whose blocking and deferred handlers are at work or queued. A call beyond is answered
    /// with [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Each holds its message. Default: 1,024.
    pub fn max_deferred(mut self, calls: usize) -> Self {
        self.settings.max_deferred = calls;
        self
    }

    /// Sets the most calls of all sessions that wait for their replies. A call beyond fails with
    /// [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Reactors that send at the same moment may exceed it by one each.
    /// Each call costs about 200 bytes, so the default is 13 MiB. Default: 65,536.
    pub fn max_total_calls(mut self, calls: usize) -> Self {
        self.settings.max_total_calls = calls;
        self
    }

    /// Sets the most calls of all sessions whose blocking and deferred handlers are at work or queued. A call beyond is answered
    /// with [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Reactors that begin one at the same moment may exceed it by one
    /// each. Each holds its message. Default: 65,536.
    pub fn max_total_deferred(mut self, calls: usize) -> Self {
        self.settings.max_total_deferred = calls;
        self
    }

    /// Sets the most streams of a session that each side has open. A stream beyond is refused with
    /// [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Each costs about 600 bytes, and the items that wait. Default: 64.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.settings.max_streams = streams;
        self
    }

    /// Sets the most bytes of items that have arrived on a session and wait for their readers, of all its streams. A stream
    /// whose item exceeds it ends with [`TOO_MANY_REQUESTS`](super::code::TOO_MANY_REQUESTS). Default: 64 MiB.
    pub fn max_stream_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_stream_bytes = bytes;
        self
    }

    /// Sets the number of items that may wait for the reader of a stream, unless the stream sets its own. From 1 to 1,048,576.
    /// Default: 64.
    pub fn stream_credit(mut self, items: u32) -> Self {
        self.settings.stream_credit = items.clamp(1, MAX_CREDIT);
        self
    }

    /// Keeps the text of a handler's panic out of the reply. It is logged in any case. Default: the caller is told.
    pub fn hide_panics(mut self) -> Self {
        self.settings.tells_panics = false;
        self
    }

    /// Measures the time that each call takes, for [`Peer::stats`](super::Peer::stats) and the log. It costs two looks at the
    /// clock for each call, and 10 KiB for each route and reactor. Default: off.
    pub fn count_time(mut self) -> Self {
        self.settings.log.counts_time = true;
        self
    }

    /// Logs calls that take this time or longer as warnings. It [measures](Self::count_time) the times, too. Default: off.
    pub fn slow(mut self, time: Duration) -> Self {
        self.settings.log.slow = Some(time);
        self.count_time()
    }

    /// Logs the metadata of messages, and the first 1,024 bytes of their bodies. Default: off.
    pub fn log_details(mut self) -> Self {
        self.settings.log.details = true;
        self
    }

    /// Sets a function that takes secrets out of the log lines of messages. It gets the CALL, the REPLY and the PUSH of each line,
    /// with the path of its route. The query of a URI is logged in any case, metadata and bodies only with
    /// [`log_details`](Self::log_details). Default: none; the values of HTTP's secret headers are left out.
    ///
    /// ```
    /// use epicycle::rpc::Peer;
    ///
    /// let peer = Peer::builder()
    ///     .log_details()
    ///     .redact(|logged| {
    ///         if logged.path == "/login" {
    ///             logged.query.clear();
    ///             // That of the call is the password, and that of the reply the token.
    ///             logged.body = "***".to_owned();
    ///         }
    ///     })
    ///     .start()?;
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn redact(mut self, redact: impl Fn(&mut Logged<'_>) + Send + Sync + 'static) -> Self {
        self.settings.log.redact = Some(Arc::new(redact));
        self
    }

    /// Sets the worker pool of blocking handlers. If its queue is full, calls get
    /// [`SERVICE_UNAVAILABLE`](super::code::SERVICE_UNAVAILABLE), and pushes are dropped. Default: a pool of the peer's own, if it
    /// has such handlers, with a thread for each core, at least 2, and a queue of 1,024.
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

    pub(super) fn codec_by_name(&self, name: &str) -> Option<Codec> {
        self.formats.codecs.by_name(name)
    }

    pub(super) fn codec_names(&self) -> Vec<&str> {
        self.formats.codecs.names().collect()
    }

    /// Sets the most bytes of a received message.
    pub(super) fn message_limit(mut self, bytes: usize) -> Self {
        self.formats.limits.message = bytes;
        self
    }

    /// Adds a plugin, whose hooks run before those of groups and handlers.
    pub fn plugin(mut self, plugin: impl Plugin) -> Self {
        self.left.push(Arc::new(plugin));
        self
    }

    /// Adds a plugin, whose hooks run after those of groups and handlers.
    pub fn plugin_right(mut self, plugin: impl Plugin) -> Self {
        self.right.push(Arc::new(plugin));
        self
    }

    /// Sets the number of reactors. Default: one for each core.
    pub fn reactors(self, reactors: usize) -> Self {
        self.server(|server| server.reactors(reactors))
    }

    /// Shuts the peer down gracefully on SIGINT (ctrl-c) and SIGTERM, as [`Server::stop_on_signals`] does: calls under way end
    /// first, in both directions. Default: off.
    #[cfg(feature = "signals")]
    pub fn stop_on_signals(self) -> Self {
        self.server(Server::stop_on_signals)
    }

    /// Lets another process take over the listeners, and takes over from the process that has the control socket, as
    /// [`Server::replaceable`] does. SIGUSR2 starts that process. The old one shuts down: it takes no more calls, those under
    /// way end first in both directions, and sessions that [redial](Self::redial) on the other side go on in the new process.
    /// Default: off.
    pub fn replaceable(self, control: Control) -> Self {
        self.server(|server| server.replaceable(control))
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
        peer.own(Box::new(running));
        peer.started()?;
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
        let plugins = Plugins::default().between(&self.left, &self.right);
        if let Some(name) = plugins.duplicate() {
            return Err(Error::Option {
                name: "plugin",
                problem: format!("two plugins have the name {name:?}; rename one of them"),
            });
        }
        if let Some(policy) = &self.settings.redial {
            policy.check("redial")?;
        }
        plugins.run_at_start(Hooks::PRE_NEW_PEER, Plugin::pre_new_peer)?;
        let (table, routes) = self.routes.finish(&self.left, &self.right)?;
        for route in &routes {
            let plugins = table.plugins_of(route);
            plugins.run_at_start(Hooks::POST_REG, |plugin| plugin.post_reg(route))?;
        }
        let plugins = Arc::new(plugins);
        let pool = match self.pool {
            None if table.blocks() => Some(WorkerPool::builder().name("epicycle-rpc").build()?),
            pool => pool,
        };
        let default = self.protocol.unwrap_or_else(ProtocolChoice::raw);
        let protocols = self.protocols.into_iter();
        // The engine holds at most one message of an input, with what is around it.
        let max_frame = self.formats.limits.message.saturating_add(AROUND_MESSAGE);
        let server = self.server.max_frame(max_frame);
        let sees_writes = plugins.have(Hooks::PRE_WRITE_CALL | Hooks::PRE_WRITE_PUSH);
        let before_write = sees_writes.then(|| plugins.clone() as Arc<dyn BeforeWrite>);
        let formats = Arc::new(self.formats);
        let shared = Arc::new(Shared::new(
            formats,
            self.settings,
            before_write,
            routes.len(),
        ));
        let peer = Inner::new(shared, self.dial_protocol, routes, plugins.clone());
        let parts = Arc::new(Parts {
            peer: peer.clone(),
            plugins,
            table,
            pool,
            protocols: protocols
                .map(|own| own.unwrap_or_else(|| default.clone()))
                .collect(),
            locals: self.locals,
        });
        let peer = Peer::unowned(peer);
        Ok((peer, server, move |_| PeerHandler::new(parts.clone())))
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

impl Threads for Running<PeerHandler> {
    fn join(self: Box<Self>) -> Report {
        (*self).join()
    }
}
