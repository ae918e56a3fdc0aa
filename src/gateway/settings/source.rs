use std::fmt;
use std::time::Duration;

use super::NodeAddr;
use crate::addr::Endpoint;

/// The source of a pool's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceSettings {
    /// The addresses of a host.
    Dns(DnsSettings),
}

/// The addresses of a host as nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsSettings {
    /// The address of the nodes, with a host name: `http://HOST[:PORT]`, `https://HOST[:PORT]`, `tcp://HOST:PORT` or `HOST:PORT`. `tcp4://`
    /// and `tcp6://` take only addresses of that IP version.
    pub name: String,
    /// The time between two look-ups, shortened by up to 10% at random. Default: 30 s.
    pub every: Duration,
}

impl fmt::Display for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSettings::Dns(dns) => write!(f, "the DNS name {}", dns.name),
        }
    }
}

impl DnsSettings {
    /// Returns the settings for a name with the defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            every: Duration::from_secs(30),
        }
    }

    /// Returns the address with the name, which is no IP address.
    ///
    /// # Errors
    ///
    /// The problem and its remedy.
    pub(crate) fn addr(&self, uses_tls: bool) -> Result<NodeAddr, String> {
        let addr = match self.name.contains("://") {
            true => NodeAddr::parse(&self.name, uses_tls)?,
            false => NodeAddr::parse(&format!("tcp://{}", self.name), uses_tls)?,
        };
        match &addr.endpoint {
            Endpoint::Tcp { host, .. } if host.parse::<std::net::IpAddr>().is_ok() => Err(
                "an IP address needs no look-up; write it in `nodes`, or write a name here"
                    .to_owned(),
            ),
            Endpoint::Tcp { .. } => Ok(addr),
            _ => Err("a Unix socket has no name to look up; write it in `nodes`".to_owned()),
        }
    }
}
