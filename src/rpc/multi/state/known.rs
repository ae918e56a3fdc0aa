//! The addresses that an application gives: those of names are looked up.

use std::sync::Arc;
use std::time::Instant;

use crate::addr::Endpoint;
use crate::engine::connect::Connect;
use crate::rpc::multi::options::Source;

/// A source, and its addresses as far as they are known.
pub(super) struct Known {
    /// It tells this source from those before, for which lookups may be under way.
    pub(super) number: usize,
    pub(super) source: Source,
    /// None if it is not a host name.
    pub(super) host: Option<String>,
    pub(super) found: Vec<(String, Connect)>,
    pub(super) is_looking_up: bool,
    pub(super) look_up_at: Option<Instant>,
    /// The moment of the last lookup.
    pub(super) looked_up: Option<Instant>,
    pub(super) failed: Option<Arc<str>>,
}

impl Known {
    pub(super) fn new(number: usize, source: Source) -> Self {
        let endpoint = source.connect.to.as_ref().ok();
        let host = endpoint.and_then(|endpoint| match endpoint {
            Endpoint::Tcp { host, .. } if is_name(host) => Some(host.clone()),
            _ => None,
        });
        let found = match (&host, endpoint) {
            (None, Some(endpoint)) => vec![(endpoint.to_string(), source.connect.clone())],
            _ => Vec::new(),
        };
        Self {
            number,
            source,
            host,
            found,
            is_looking_up: false,
            look_up_at: None,
            looked_up: None,
            failed: None,
        }
    }

    /// Returns true if this is where another source leads, too.
    pub(super) fn leads_to(&self, source: &Source) -> bool {
        let (here, there) = (&self.source.connect.to, &source.connect.to);
        matches!((here, there), (Ok(here), Ok(there)) if here.to_string() == there.to_string())
    }

    /// Takes the addresses that a lookup found.
    pub(super) fn take(&mut self, found: &[std::net::SocketAddr]) -> Result<(), Arc<str>> {
        let Ok(endpoint) = &self.source.connect.to else {
            return Ok(());
        };
        let wanted = endpoint.wanted(found.iter().copied());
        let wanted = wanted.map_err(|error| Arc::from(error.to_string()))?;
        let connect = |addr| (format!("tcp://{addr}"), self.connect_to(addr));
        self.found = wanted.into_iter().map(connect).collect();
        Ok(())
    }

    /// Returns the connect of one of the host's addresses. TLS verifies the name nevertheless.
    fn connect_to(&self, addr: std::net::SocketAddr) -> Connect {
        let connect = self.source.connect.at(addr);
        #[cfg(feature = "tls")]
        if let (Some(tls), Some(host)) = (&self.source.connect.tls, &self.host)
            && !tls.has_server_name()
            && let Ok(tls) = tls.clone().server_name(host)
        {
            return connect.tls(&tls);
        }
        connect
    }
}

/// Returns true for a host that must be looked up.
fn is_name(host: &str) -> bool {
    // An address of IPv6 may have a scope, which does not parse.
    !host.contains(':') && host.parse::<std::net::IpAddr>().is_err()
}
