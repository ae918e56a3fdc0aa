//! The start of a gateway.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::Gateway;
use super::error::GatewayError;
use super::hooks::{Hooks, NoHooks};
use super::pool::SharedPool;
use super::proxy::Proxy;
use super::rules::{client_limits, label};
use super::running::Running;
use super::settings::{ListenerKind, ListenerSettings, NodeAddr, PoolSettings, Settings};
use super::shared::Shared;
use crate::addr::Endpoint;
use crate::engine::listen::Listen;
use crate::engine::proxy_protocol::ProxyProtocol;
use crate::engine::server::Server;
use crate::engine::udp::UdpSessions;

impl Gateway {
    /// Starts the gateway. `hooks` makes the hooks of each reactor, on its thread; it receives the number of the reactor.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Start`] if an address cannot be bound, that of the admin interface included, [`GatewayError::Log`] if the access log cannot be opened, and
    /// [`GatewayError::Roots`] if a pool needs the system's trusted authorities and they cannot be read.
    pub fn start<H: Hooks>(
        &self,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, GatewayError> {
        self.start_on(Vec::new(), hooks)
    }

    /// Starts the gateway without hooks.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_plain(&self) -> Result<Running<NoHooks>, GatewayError> {
        self.start(|_| NoHooks)
    }

    /// Starts the gateway with sockets that listen already, from [another process](crate::handover). A listener whose address
    /// one of them has takes it. Sockets that no listener takes are closed.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_on<H: Hooks>(
        &self,
        sockets: Vec<OwnedFd>,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, GatewayError> {
        let mut sockets = sockets;
        let admin = self.settings.admin.as_ref().and_then(|admin| {
            let fits = |socket: &OwnedFd| fits(socket, &admin.listen);
            let own = sockets.iter().position(fits)?;
            Some(sockets.swap_remove(own))
        });
        let (server, factory, shared) = self.prepare(sockets, hooks)?;
        let running = Running::new(server.start(factory)?, shared, admin)?;
        running.control().follow_sources()?;
        Ok(running)
    }

    /// Starts the gateway in another way, with the function `start`. It receives the server and the factory of its handlers,
    /// so that it can set more options, or start the gateway in a simulated network. The [sources](PoolSettings::discover) of the pools are
    /// not followed then, and the admin interface is not opened.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and those of `start`.
    pub fn start_with<H: Hooks, R>(
        &self,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
        start: impl FnOnce(Server, Factory<H>) -> Result<R, GatewayError>,
    ) -> Result<R, GatewayError> {
        let (server, factory, _) = self.prepare(Vec::new(), hooks)?;
        start(server, factory)
    }

    fn prepare<H: Hooks>(
        &self,
        sockets: Vec<OwnedFd>,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<(Server, Factory<H>, Arc<Shared>), GatewayError> {
        let settings = self.settings.clone();
        let reactors = settings.reactors.unwrap_or_else(available);
        let mut pools = Vec::new();
        for (name, settings) in settings.all_pools() {
            pools.push(Arc::new(shared_pool(name, &settings, reactors, None)?));
        }
        let shared = Shared::new(&settings, self.source.clone(), &pools)?;
        let server = server(&settings, sockets).reactors(reactors);
        let ours = shared.clone();
        let factory =
            move |reactor| Proxy::new(hooks(reactor), &settings, &pools, reactors, ours.clone());
        Ok((server, Box::new(factory), shared))
    }
}

/// The threads that look names up if clients choose them: a name whose server does not answer holds one for as long as the resolver
/// waits, and all others have to do without it.
const LOOKUP_THREADS: usize = 64;

/// Makes the handler of each reactor.
type Factory<H> = Box<dyn Fn(usize) -> Proxy<H> + Send + Sync>;

/// Returns the number of CPUs that the process may use.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn server(settings: &Settings, mut sockets: Vec<OwnedFd>) -> Server {
    let second = Duration::from_secs;
    let mut server = Server::unbound()
        .drain_deadline(settings.drain.deadline)
        .keepalive(second(30), second(10), 3);
    let limits = settings.listeners.iter().map(|listener| &listener.limits);
    let clients = limits.clone().filter_map(|limits| limits.max_clients);
    if let Some(max) = clients.max() {
        server = server.max_connections(max);
    }
    if let Some(max) = limits.filter_map(|limits| limits.max_clients_per_ip).min() {
        server = server.max_connections_per_ip(max);
    }
    if settings.listeners.iter().any(ListenerSettings::has_targets) {
        server = server.lookup_threads(LOOKUP_THREADS);
    }
    for listener in &settings.listeners {
        let own = sockets.iter().position(|socket| fits(socket, &listener.on));
        let place = match own {
            Some(at) => Listen::socket(sockets.swap_remove(at)),
            None => Listen::on(&*listener.on),
        };
        server = server.and(listen(listener, place));
    }
    server
}

/// Returns true if a socket listens at an address of the settings.
fn fits(socket: &OwnedFd, on: &str) -> bool {
    let Ok(local) = SockRef::from(socket).local_addr() else {
        return false;
    };
    match on.parse() {
        Ok(Endpoint::Tcp { host, port, .. }) => local.as_socket().is_some_and(|local| {
            let ip = local.ip().to_canonical();
            let is_same = match host.parse::<IpAddr>() {
                Ok(host) => host.to_canonical() == ip,
                // A name, or all interfaces.
                Err(_) => host.is_empty() == ip.is_unspecified(),
            };
            local.port() == port && is_same
        }),
        Ok(Endpoint::Unix(path)) => local.as_pathname() == Some(&*path),
        _ => false,
    }
}

/// Returns a listener for the engine, at this place.
pub(super) fn listen(settings: &ListenerSettings, place: Listen) -> Listen {
    let mut listen = place.label(label(settings)).limits(client_limits(settings));
    if settings.kind == ListenerKind::Udp {
        let datagrams = &settings.datagrams;
        let sessions = UdpSessions::new()
            .idle_timeout(datagrams.idle)
            .max_sessions(datagrams.max_sessions);
        // The process that takes over opens the address before this one closes it.
        listen = listen.sessions(sessions).share_addr(true);
    }
    if !settings.proxy_protocol.is_empty() {
        let networks = settings.proxy_protocol.iter().map(ToString::to_string);
        listen = listen.proxy_protocol(ProxyProtocol::trust(networks));
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &settings.tls {
        listen = listen.tls(tls);
    }
    listen
}

/// Returns a pool for so many reactors, or one that goes on with the nodes of an older one.
pub(super) fn shared_pool(
    name: &str,
    settings: &PoolSettings,
    reactors: usize,
    old: Option<&SharedPool>,
) -> Result<SharedPool, GatewayError> {
    #[cfg(feature = "tls")]
    if settings.tls.as_ref().is_some_and(|tls| !tls.is_verifying()) {
        log::warn!(
            target: "epicycle::gateway::config",
            "pool {name}: the certificates of its nodes are not verified (verify = false), so that whoever is in between can \
             read and change what is sent, unless they are pinned"
        );
    }
    let mut pool = SharedPool::new(name, settings, reactors, old);
    let mut addrs = settings.nodes.iter().filter_map(|node| {
        // The settings were checked.
        NodeAddr::of(node, settings.uses_tls()).ok()
    });
    if addrs.any(|addr| addr.is_tls) {
        trust_system(&mut pool)?;
    }
    Ok(pool)
}

/// Trusts the system's authorities, unless the settings have others.
#[cfg(feature = "tls")]
fn trust_system(pool: &mut SharedPool) -> Result<(), GatewayError> {
    use crate::tls::{Roots, TlsClient};

    if pool.tls.is_none() {
        let tls = Roots::native().and_then(|roots| TlsClient::new(&roots));
        let tls = tls.map_err(|error| GatewayError::Roots(Box::new(error)))?;
        pool.tls = Some(tls.alpn(&["http/1.1"]));
    }
    Ok(())
}

#[cfg(not(feature = "tls"))]
fn trust_system(_: &mut SharedPool) -> Result<(), GatewayError> {
    Ok(())
}
