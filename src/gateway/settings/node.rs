use std::path::PathBuf;

use serde::Serialize;

use crate::addr::{Endpoint, Family};
use crate::authority::Authority;
use crate::gateway::egress::Target;
use crate::http::head::is_host;

/// A node of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSettings {
    /// The address: `http://HOST[:PORT]`, `https://HOST[:PORT]`, `tcp://HOST:PORT`, `unix:///PATH`, or
    /// `udp://HOST:PORT` for the pool of a UDP listener. TLS is used with
    /// `https`, and with the pool's TLS settings.
    pub to: String,
    /// The share of the requests, relative to the other nodes. A node of weight 0 gets none, unless all have 0. Default: 1.
    pub weight: u32,
    /// True if it gets requests only when no other node is up. Default: false.
    pub backup: bool,
    /// The name that its certificate must have, unless [the pool's TLS settings](super::PoolSettings::tls) have one for all nodes, and the
    /// host for [`HostField::Node`](super::HostField). Default: the host of the address.
    pub name: Option<String>,
    /// The state that it is put in. Default: up.
    pub state: NodeState,
}

/// The state that a node is put in, whatever its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NodeState {
    /// It takes requests.
    #[default]
    Up,
    /// It takes no new requests, not even if no other node is up. What is under way there goes on to its own end.
    Drain,
    /// As `Drain`, and connections that are still open after [`Drain::node_timeout`](super::Drain::node_timeout) are closed.
    Down,
}

impl NodeState {
    /// Returns the word for it in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

impl NodeSettings {
    /// Returns a node of weight 1.
    pub fn new(to: impl Into<String>) -> Self {
        Self {
            to: to.into(),
            weight: 1,
            backup: false,
            name: None,
            state: NodeState::Up,
        }
    }

    /// Sets the weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the state.
    pub fn state(mut self, state: NodeState) -> Self {
        self.state = state;
        self
    }
}

/// A change of some settings of a node. The others stay.
///
/// ```
/// use epicycle::gateway::settings::{NodeChange, NodeState};
///
/// let change = NodeChange::default().state(NodeState::Drain);
/// assert_eq!(change.weight, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeChange {
    /// Another weight.
    pub weight: Option<u32>,
    /// True makes it a backup, false takes that back.
    pub backup: Option<bool>,
    /// Another state.
    pub state: Option<NodeState>,
}

impl NodeChange {
    /// Sets the weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Makes it a backup, or not.
    pub fn backup(mut self, backup: bool) -> Self {
        self.backup = Some(backup);
        self
    }

    /// Sets the state.
    pub fn state(mut self, state: NodeState) -> Self {
        self.state = Some(state);
        self
    }

    /// Returns both changes together. The other one is the later one.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self {
            weight: other.weight.or(self.weight),
            backup: other.backup.or(self.backup),
            state: other.state.or(self.state),
        }
    }

    /// Changes a node.
    pub(crate) fn apply(&self, node: &mut NodeSettings) {
        node.weight = self.weight.unwrap_or(node.weight);
        node.backup = self.backup.unwrap_or(node.backup);
        node.state = self.state.unwrap_or(node.state);
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
    /// Returns the node as a target for a proxy. Returns `None` for a Unix socket, or a host that proxies do not know.
    pub(crate) fn target(&self) -> Option<Target> {
        match &self.endpoint {
            Endpoint::Tcp { host, port, .. } => Target::new(host, *port).ok(),
            _ => None,
        }
    }

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

    /// Returns true if it takes datagrams.
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.endpoint, Endpoint::Udp { .. })
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
        if matches!(endpoint, Endpoint::Udp { .. }) && is_tls {
            return Err("there is no TLS over UDP; remove `tls` of the pool".to_owned());
        }
        let authority = match &endpoint {
            Endpoint::Tcp { host, .. } | Endpoint::Udp { host, .. } if host.is_empty() => {
                return Err("it has no host; write tcp://127.0.0.1:9000, for example".to_owned());
            }
            Endpoint::Tcp { port: 0, .. } | Endpoint::Udp { port: 0, .. } => {
                return Err("port 0 cannot be connected to; name the node's port".to_owned());
            }
            Endpoint::Tcp { host, port, .. } | Endpoint::Udp { host, port, .. } => {
                authority(host, *port, is_tls)
            }
            Endpoint::Unix(_) | Endpoint::UnixAbstract(_) => "localhost".to_owned(),
            _ => return Err("a node is http://, https://, tcp://, udp:// or unix://".to_owned()),
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
