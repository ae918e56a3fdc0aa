//! The addresses of a host as a source.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::names::NameClient;
use super::{Discover, DiscoverError, Stop};
use crate::addr::Endpoint;
use crate::engine::connect::resolve::{Resolve, SystemResolver};
use crate::gateway::settings::{DnsSettings, NodeSettings};

/// The addresses of a host as the nodes of a pool, looked up from time to time, past the cache of names that the engine keeps.
///
/// Each address is a node of weight 1. Its [name](NodeSettings::name) is the host, which the certificates of nodes that speak TLS must
/// have.
///
/// ```
/// use epicycle::gateway::Gateway;
/// use epicycle::gateway::discover::DnsSource;
/// use epicycle::gateway::settings::DnsSettings;
///
/// let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
/// let running = gateway.start_plain()?;
/// let source = DnsSource::new(DnsSettings::new("http://localhost:9000"), false).expect("it is sound");
/// running.control().discover("default", source)?;
/// # running.shutdown();
/// # Ok::<(), epicycle::gateway::GatewayError>(())
/// ```
pub struct DnsSource {
    settings: DnsSettings,
    /// The part of the name before the `://`, for the addresses.
    scheme: &'static str,
    endpoint: Endpoint,
    resolver: Box<dyn Resolve>,
    /// Asks the name server that the settings name.
    names: Option<NameClient>,
    has_answered: bool,
}

impl DnsSource {
    /// Returns a source. `uses_tls` tells whether the pool's own settings make its nodes speak TLS.
    ///
    /// # Errors
    ///
    /// The problem of the name, and its remedy.
    pub fn new(settings: DnsSettings, uses_tls: bool) -> Result<Self, DiscoverError> {
        let addr = settings.addr(uses_tls)?;
        let scheme = match settings.name.split_once("://") {
            Some(("http", _)) => "http",
            Some(("https", _)) => "https",
            _ => "tcp",
        };
        let names = settings.server.map(|server| NameClient::new(Some(server)));
        Ok(Self {
            settings,
            scheme,
            endpoint: addr.endpoint,
            resolver: Box::new(SystemResolver),
            names,
            has_answered: false,
        })
    }

    /// Sets the resolver, also in place of a name server in the settings. Default: the system's, [`SystemResolver`].
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Box::new(resolver);
        self.names = None;
        self
    }

    fn look_up(&mut self, stop: &Stop) -> Result<Vec<NodeSettings>, DiscoverError> {
        let Endpoint::Tcp { host, .. } = &self.endpoint else {
            return Err("a Unix socket has no name to look up".into());
        };
        let found = match &mut self.names {
            Some(names) => {
                let (addrs, _) = names.addrs(host, stop)?;
                addrs.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
            }
            None => {
                let found = self.resolver.resolve(host);
                found.map_err(|error| self.endpoint.unresolved(error))?
            }
        };
        if found.is_empty() {
            return Err(format!("the host {host:?} has no address").into());
        }
        let mut addrs = self.endpoint.wanted(found)?;
        // Name servers change the order with each answer.
        addrs.sort_unstable();
        addrs.dedup();
        Ok(addrs
            .into_iter()
            .map(|addr| self.node(host, addr))
            .collect())
    }

    fn node(&self, host: &str, addr: SocketAddr) -> NodeSettings {
        let mut node = NodeSettings::new(format!("{}://{addr}", self.scheme));
        node.name = Some(host.trim_end_matches('.').to_owned());
        node
    }
}

impl Discover for DnsSource {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        if self.has_answered && stop.wait(shortened(self.settings.every)) {
            return Ok(None);
        }
        let nodes = self.look_up(stop);
        self.has_answered = nodes.is_ok();
        nodes.map(Some)
    }
}

/// The longest time between two look-ups.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Shortens a time by up to 10% at random, so that many gateways do not ask at the same moment.
fn shortened(time: Duration) -> Duration {
    time.min(LONGEST).mul_f64(1.0 - fastrand::f64() / 10.0)
}

impl fmt::Debug for DnsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsSource")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
