use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::NodeAddr;
use crate::addr::{Endpoint, Family};
use crate::authority::Authority;

/// The source of a pool's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceSettings {
    /// The addresses of a host.
    Dns(DnsSettings),
    /// The servers that DNS knows of a service.
    Srv(SrvSettings),
    /// The children of a node of ZooKeeper.
    ZooKeeper(ZooKeeperSettings),
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
    /// The name server that is asked. Default: none, the system's resolver looks the name up.
    pub server: Option<SocketAddr>,
}

/// The servers that DNS knows of a service (SRV, RFC 2782) as nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SrvSettings {
    /// The name of the service: `_http._tcp.example.org`. `http://` or `https://` may stand before it.
    pub name: String,
    /// The name server that is asked. Default: none, those of `/etc/resolv.conf` are asked.
    pub server: Option<SocketAddr>,
}

impl SrvSettings {
    /// Returns the settings for a service with the defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            server: None,
        }
    }

    /// Returns the scheme for the nodes, and the name of the service.
    ///
    /// # Errors
    ///
    /// The problem and its remedy.
    pub(crate) fn service(&self) -> Result<(&'static str, &str), String> {
        let (scheme, name) = match self.name.split_once("://") {
            None => ("tcp", self.name.as_str()),
            Some(("tcp", name)) => ("tcp", name),
            Some(("http", name)) => ("http", name),
            Some(("https", name)) => ("https", name),
            Some(_) => return Err("it may begin with tcp://, http:// or https://".to_owned()),
        };
        let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
        let is_label = |label: &&str| {
            let is_right = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(is_right)
        };
        let is_service = |label: &&str| label.len() > 1 && label.starts_with('_');
        let is_right = labels.len() > 2
            && name.len() <= 253
            && labels.iter().all(is_label)
            && labels.iter().take(2).all(is_service);
        match is_right {
            true => Ok((scheme, name)),
            false => Err("it is no service; write _http._tcp.app.internal, for example".to_owned()),
        }
    }
}

/// The children of a node of ZooKeeper as nodes. Each child names one in the form `HOST:PORT,WEIGHT`, or as
/// [`NodeSettings::to`](super::NodeSettings::to) does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZooKeeperSettings {
    /// The servers, and the path of the node: `HOST:PORT,HOST:PORT/PATH`. The port is 2181 if it is left out.
    pub connect: String,
    /// The part of a child that names a node. Default: its name.
    pub form: ChildForm,
    /// Shows who this is, by the scheme `digest`: `NAME:PASSWORD`. It is sent in plain text. Default: nobody.
    pub auth: Option<Secret>,
    /// The timeout of the session, which the server may change. A server that is silent for two thirds of it is left for the next one.
    /// Default: 10 s.
    pub session_timeout: Duration,
}

/// The part of a child that names a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildForm {
    /// Its name.
    #[default]
    Name,
    /// Its data.
    Data,
}

/// A text that is not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The servers of ZooKeeper, and a node there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZooKeeperTarget {
    pub(crate) servers: Vec<Endpoint>,
    pub(crate) path: String,
}

impl ZooKeeperSettings {
    /// Returns the settings for servers and a path with the defaults.
    pub fn new(connect: impl Into<String>) -> Self {
        Self {
            connect: connect.into(),
            form: ChildForm::default(),
            auth: None,
            session_timeout: Duration::from_secs(10),
        }
    }

    /// Returns the servers and the path.
    ///
    /// # Errors
    ///
    /// The problem and its remedy.
    pub(crate) fn target(&self) -> Result<ZooKeeperTarget, String> {
        let form = "write zk1:2181,zk2:2181/services/app";
        let Some((servers, path)) = self.connect.split_once('/') else {
            return Err(format!("it has no path; {form}"));
        };
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control)
        };
        if !path.split('/').all(is_segment) {
            return Err(format!("the path {path:?} is none of ZooKeeper's; {form}"));
        }
        let server = |text: &str| {
            let authority = Authority::parse(text.trim().as_bytes()).ok()?;
            let host = String::from_utf8_lossy(authority.host).into_owned();
            let port = authority.port.unwrap_or(2181);
            let family = Family::Any;
            (!host.is_empty() && port != 0).then_some(Endpoint::Tcp { host, port, family })
        };
        let servers: Option<Vec<_>> = servers.split(',').map(server).collect();
        Ok(ZooKeeperTarget {
            servers: servers.ok_or_else(|| format!("a server is malformed; {form}"))?,
            path: format!("/{path}"),
        })
    }
}

impl fmt::Display for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSettings::Dns(dns) => write!(f, "the DNS name {}", dns.name),
            SourceSettings::Srv(srv) => write!(f, "the DNS service {}", srv.name),
            SourceSettings::ZooKeeper(zk) => write!(f, "ZooKeeper at {}", zk.connect),
        }
    }
}

impl DnsSettings {
    /// Returns the settings for a name with the defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            every: Duration::from_secs(30),
            server: None,
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
