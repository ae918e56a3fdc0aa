//! The start of a gateway.

use std::sync::Arc;

use super::Gateway;
use super::error::GatewayError;
use super::hooks::{Hooks, NoHooks};
use super::pool::SharedPool;
use super::proxy::Proxy;
use super::rules::{client_limits, label};
use super::settings::{ListenerSettings, NodeAddr, Settings};
use crate::engine::listen::Listen;
use crate::engine::proxy_protocol::ProxyProtocol;
use crate::engine::server::{Running, Server};

impl Gateway {
    /// Starts the gateway. `hooks` makes the hooks of each reactor, on its thread; it receives the number of the reactor.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Start`] if an address cannot be bound, and [`GatewayError::Roots`] if a pool needs the system's trusted
    /// authorities and they cannot be read.
    pub fn start<H: Hooks>(
        &self,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running<Proxy<H>>, GatewayError> {
        self.start_with(hooks, |server, factory| Ok(server.start(factory)?))
    }

    /// Starts the gateway without hooks.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_plain(&self) -> Result<Running<Proxy<NoHooks>>, GatewayError> {
        self.start(|_| NoHooks)
    }

    /// Starts the gateway in another way, with the function `start`. It receives the server and the factory of its handlers,
    /// so that it can set more options, or start the gateway in a simulated network.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and those of `start`.
    pub fn start_with<H: Hooks, R>(
        &self,
        hooks: impl Fn(usize) -> H + Send + Sync + 'static,
        start: impl FnOnce(
            Server,
            Box<dyn Fn(usize) -> Proxy<H> + Send + Sync>,
        ) -> Result<R, GatewayError>,
    ) -> Result<R, GatewayError> {
        let settings = self.settings.clone();
        let pools = shared_pools(&settings)?;
        let reactors = settings.reactors.unwrap_or_else(available);
        let server = server(&settings).reactors(reactors);
        let factory = move |reactor| Proxy::new(hooks(reactor), &settings, &pools, reactors);
        start(server, Box::new(factory))
    }
}

/// Returns the number of CPUs that the process may use.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn server(settings: &Settings) -> Server {
    let second = std::time::Duration::from_secs;
    let mut server = Server::unbound()
        .drain_deadline(settings.drain.deadline)
        .keepalive(second(30), second(10), 3);
    let limits = settings.listeners.iter().map(|listener| &listener.limits);
    let clients = limits.clone().map(|limits| limits.max_clients);
    if let Some(max) = clients
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().max())
    {
        server = server.max_connections(max);
    }
    if let Some(max) = limits.filter_map(|limits| limits.max_clients_per_ip).min() {
        server = server.max_connections_per_ip(max);
    }
    for listener in &settings.listeners {
        server = server.and(listen(listener));
    }
    server
}

/// Returns a listener for the engine.
pub(super) fn listen(settings: &ListenerSettings) -> Listen {
    let mut listen = Listen::on(&*settings.on)
        .label(label(settings))
        .limits(client_limits(settings));
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

fn shared_pools(settings: &Settings) -> Result<Arc<[Arc<SharedPool>]>, GatewayError> {
    let mut pools = Vec::new();
    for (name, settings) in &settings.pools {
        let mut pool = SharedPool::new(name, settings);
        let mut addrs = settings.nodes.iter().filter_map(|node| {
            // The settings were checked.
            NodeAddr::parse(&node.to, settings.uses_tls()).ok()
        });
        if addrs.any(|addr| addr.is_tls) {
            trust_system(&mut pool)?;
        }
        pools.push(Arc::new(pool));
    }
    Ok(pools.into())
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
