use std::path::PathBuf;

use crate::addr::{Endpoint, Family};
use crate::authority::Authority;
use crate::http::head::is_host;

/// A node of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSettings {
    /// The address: `http://HOST[:PORT]`, `https://HOST[:PORT]`, `tcp://HOST:PORT` or `unix:///PATH`. TLS is used with
    /// `https`, and with the pool's TLS settings.
    pub to: String,
    /// The share of the requests, relative to the other nodes. A node of weight 0 gets none, unless all have 0. Default: 1.
    pub weight: u32,
    /// True if it gets requests only when no other node is up. Default: false.
    pub backup: bool,
    /// The name that its certificate must have, unless [the pool's TLS settings](super::PoolSettings::tls) have one for all nodes, and the
    /// host for [`HostField::Node`](super::HostField). Default: the host of the address.
    pub name: Option<String>,
}

impl NodeSettings {
    /// Returns a node of weight 1.
    pub fn new(to: impl Into<String>) -> Self {
        Self {
            to: to.into(),
            weight: 1,
            backup: false,
            name: None,
        }
    }
}

/// The parsed address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAddr {
    pub(crate) endpoint: Endpoint,
    pub(crate) is_tls: bool,
    /// The host for a `Host` field, with its port unless that is the scheme's default.
    pub(crate) authority: String,
    /// The name for TLS, if it is not the host of the endpoint.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) name: Option<Box<str>>,
}

impl NodeAddr {
    /// Parses the address of a node, and takes its name.
    ///
    /// # Errors
    ///
    /// The problem and its remedy.
    pub(crate) fn of(node: &NodeSettings, pool_uses_tls: bool) -> Result<Self, String> {
        let mut addr = Self::parse(&node.to, pool_uses_tls)?;
        if let Some(name) = &node.name {
            if !is_host(name.as_bytes())
                || Authority::parse(name.as_bytes()).is_ok_and(|it| it.port.is_some())
            {
                return Err(format!(
                    "the name {name:?} is no host; write one without a port"
                ));
            }
            let port = match &addr.endpoint {
                Endpoint::Tcp { port, .. } => *port,
                _ if addr.is_tls => 443,
                _ => 80,
            };
            addr.authority = authority(name, port, addr.is_tls);
            addr.name = Some(name.as_str().into());
        }
        Ok(addr)
    }

    /// Parses an address.
    ///
    /// # Errors
    ///
    /// The problem and its remedy.
    pub(crate) fn parse(text: &str, pool_uses_tls: bool) -> Result<Self, String> {
        let http = text.strip_prefix("http://").map(|rest| (rest, false, 80));
        let scheme = http.or_else(|| text.strip_prefix("https://").map(|rest| (rest, true, 443)));
        let (endpoint, is_tls) = match scheme {
            Some((rest, is_tls, default)) => {
                let rest = rest.strip_suffix('/').unwrap_or(rest);
                (web_endpoint(rest, default)?, is_tls || pool_uses_tls)
            }
            None => {
                let endpoint = text
                    .parse()
                    .map_err(|error: crate::Error| error.to_string())?;
                (endpoint, pool_uses_tls)
            }
        };
        let authority = match &endpoint {
            Endpoint::Tcp { host, .. } if host.is_empty() => {
                return Err("it has no host; write tcp://127.0.0.1:9000, for example".to_owned());
            }
            Endpoint::Tcp { port: 0, .. } => {
                return Err("port 0 cannot be connected to; name the node's port".to_owned());
            }
            Endpoint::Tcp { host, port, .. } => authority(host, *port, is_tls),
            Endpoint::Unix(_) | Endpoint::UnixAbstract(_) => "localhost".to_owned(),
            _ => return Err("a node is http://, https://, tcp:// or unix://".to_owned()),
        };
        Ok(Self {
            endpoint,
            is_tls,
            authority,
            name: None,
        })
    }
}

fn web_endpoint(rest: &str, default: u16) -> Result<Endpoint, String> {
    if let Some(path) = rest.strip_prefix("unix:") {
        return Ok(Endpoint::Unix(PathBuf::from(path)));
    }
    if rest.contains(['/', '?', '@']) {
        let remedy = "set a path with `add_prefix` of the route";
        return Err(format!("it has more than a host and a port; {remedy}"));
    }
    let parsed = Authority::parse(rest.as_bytes())
        .map_err(|_| "the host is malformed; write http://127.0.0.1:9000, for example")?;
    Ok(Endpoint::Tcp {
        host: String::from_utf8_lossy(parsed.host).into_owned(),
        port: parsed.port.unwrap_or(default),
        family: Family::Any,
    })
}

fn authority(host: &str, port: u16, is_tls: bool) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    match (port, is_tls) {
        (80, false) | (443, true) => host,
        _ => format!("{host}:{port}"),
    }
}
