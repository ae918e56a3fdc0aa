//! The servers of a service, by DNS (RFC 2782), as a source.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::names::{NameClient, NoRecords, Service};
use super::{Discover, DiscoverError, Stop};
use crate::gateway::settings::{NodeSettings, SrvSettings};

/// The most hosts of a service, each of which is looked up.
const MAX_HOSTS: usize = 64;

/// The servers that DNS knows of a service (SRV) as the nodes of a pool.
///
/// Those of the best priority are the nodes, with their weights, and all others are backups. Each address of a host is a node, whose
/// [name](NodeSettings::name) is the host. The service is looked up again when the answer is not good any more, but not within a
/// second, and after 5 minutes at the latest.
///
/// ```
/// use epicycle::gateway::discover::SrvSource;
/// use epicycle::gateway::settings::SrvSettings;
///
/// let source = SrvSource::new(SrvSettings::new("_http._tcp.app.internal"))?;
/// # drop(source);
/// # Ok::<(), epicycle::gateway::discover::DiscoverError>(())
/// ```
#[derive(Debug)]
pub struct SrvSource {
    scheme: &'static str,
    service: String,
    names: NameClient,
    /// The time for which the last answer is good. `None` if there was none.
    good_for: Option<Duration>,
}

impl SrvSource {
    /// Returns a source.
    ///
    /// # Errors
    ///
    /// The problem of the name, and its remedy.
    pub fn new(settings: SrvSettings) -> Result<Self, DiscoverError> {
        let (scheme, service) = settings.service()?;
        Ok(Self {
            scheme,
            service: service.to_owned(),
            names: NameClient::new(settings.server),
            good_for: None,
        })
    }

    fn look_up(&mut self, stop: &Stop) -> Result<(Vec<NodeSettings>, Duration), DiscoverError> {
        let (mut services, mut good_for) = self.names.services(&self.service, stop)?;
        // The root stands for "not here".
        services.retain(|service| !service.target.trim_end_matches('.').is_empty());
        services.retain(|service| service.port != 0);
        let Some(best) = services.iter().map(|service| service.priority).min() else {
            return Err(format!("the service {:?} is not offered", self.service).into());
        };
        // The best come first, so that an address that comes twice is no backup.
        services.sort_by_key(|service| service.priority);
        let mut hosts = BTreeMap::<String, Vec<std::net::IpAddr>>::new();
        for service in &services {
            let host = service.target.trim_end_matches('.').to_ascii_lowercase();
            if hosts.contains_key(&host) {
                continue;
            }
            if hosts.len() == MAX_HOSTS {
                return Err(format!("the service has more than {MAX_HOSTS} hosts").into());
            }
            let addrs = match self.names.addrs(&host, stop) {
                Ok((addrs, time)) => {
                    good_for = good_for.min(time);
                    addrs
                }
                Err(NoRecords::Nothing { .. }) => {
                    log::debug!(target: "epicycle::gateway::pool", "{:?}: the host {host:?} has no address", self.service);
                    Vec::new()
                }
                Err(error) => return Err(error.into()),
            };
            hosts.insert(host, addrs);
        }
        let weigh = Weights::of(&services);
        let mut nodes = BTreeMap::<String, NodeSettings>::new();
        for service in &services {
            let host = service.target.trim_end_matches('.').to_ascii_lowercase();
            for ip in hosts.get(&host).into_iter().flatten() {
                let addr = SocketAddr::new(*ip, service.port);
                let mut node = NodeSettings::new(format!("{}://{addr}", self.scheme));
                node.weight = weigh.weight(service);
                node.backup = service.priority != best;
                node.name = Some(host.clone());
                nodes.entry(node.to.clone()).or_insert(node);
            }
        }
        Ok((nodes.into_values().collect(), good_for))
    }
}

/// The weights of a service. A server of weight 0 beside others gets little (RFC 2782), but not nothing.
struct Weights {
    has_zero: bool,
}

impl Weights {
    fn of(services: &[Service]) -> Self {
        Self {
            has_zero: services.iter().any(|service| service.weight == 0),
        }
    }

    fn weight(&self, service: &Service) -> u32 {
        match (self.has_zero, u32::from(service.weight)) {
            (true, 0) => 1,
            (true, weight) => 10 * weight,
            (false, weight) => weight,
        }
    }
}

impl Discover for SrvSource {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        if self.good_for.take().is_some_and(|time| stop.wait(time)) {
            return Ok(None);
        }
        let (nodes, good_for) = self.look_up(stop)?;
        self.good_for = Some(good_for);
        Ok(Some(nodes))
    }
}
