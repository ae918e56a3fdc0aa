//! The target: an address and a protocol.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use epicycle::Endpoint;

/// The protocol of a server, and the answer that counts as right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// Bytes, answered by the same bytes
    Echo,
    /// Frames with a 4-byte big-endian length, answered by the same frame
    LengthField,
    /// HTTP/1.1 requests, answered by a status of 200 to 299
    Http,
    /// WebSocket messages, answered by the same message
    Ws,
    /// Packets of route 1 for a gate of a cluster, answered by the same packet
    Cluster,
}

/// A target of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The text on the command line.
    pub(crate) text: String,
    pub(crate) addr: Endpoint,
    pub(crate) tls: bool,
    /// The protocol, if the scheme implies one.
    pub(crate) protocol: Option<Protocol>,
    /// The value of the Host header field: the host and its port.
    pub(crate) host: String,
    /// The path with the query.
    pub(crate) path: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.to_owned(),
            ..Self::parse(text)?
        })
    }
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        let (protocol, tls, usual_port) = match scheme {
            "http" => (Protocol::Http, false, 80),
            "https" => (Protocol::Http, true, 443),
            "ws" => (Protocol::Ws, false, 80),
            "wss" => (Protocol::Ws, true, 443),
            "tls" => return Self::plain(&format!("tcp://{rest}"), true),
            #[cfg(feature = "kcp")]
            "kcp" => {
                let plain = Self::plain(&format!("udp://{rest}"), false);
                return Ok(Self {
                    protocol: Some(Protocol::Cluster),
                    ..plain.map_err(|error| error.replace("udp://", "kcp://"))?
                });
            }
            #[cfg(not(feature = "kcp"))]
            "kcp" => return Err("KCP needs the feature `kcp`".into()),
            "udp" | "udp4" | "udp6" => {
                return Err(
                    "datagrams are not measured; use tcp://, tls://, unix://, or kcp:// for a gate"
                        .into(),
                );
            }
            "tcp" | "tcp4" | "tcp6" | "unix" => return Self::plain(text, false),
            _ => {
                return Err(
                    "the scheme is unknown; use tcp://, tls://, unix://, kcp://, http://, https://, ws:// or wss://"
                        .into(),
                );
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        if host.is_empty() || host.contains('@') {
            return Err(format!("write {scheme}://HOST:PORT/PATH"));
        }
        let path = path.split('#').next().unwrap_or_default();
        let path = match path.strip_prefix('/') {
            Some(_) => path.to_owned(),
            None => format!("/{path}"),
        };
        let bare = host.rsplit_once(']').map_or(host, |(_, port)| port);
        let addr = if bare.contains(':') {
            format!("tcp://{host}")
        } else {
            format!("tcp://{host}:{usual_port}")
        };
        Ok(Self {
            protocol: Some(protocol),
            host: host.to_owned(),
            path: Some(path),
            ..Self::plain(&addr, tls)?
        })
    }

    fn plain(addr: &str, tls: bool) -> Result<Self, String> {
        let addr: Endpoint = addr.parse().map_err(|error| format!("{error}"))?;
        let host = match &addr {
            Endpoint::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
            _ => "localhost".to_owned(),
        };
        Ok(Self {
            text: String::new(),
            addr,
            tls,
            protocol: None,
            host,
            path: None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Echo => "echo",
            Protocol::LengthField => "length-field",
            Protocol::Http => "http",
            Protocol::Ws => "ws",
            Protocol::Cluster => "cluster",
        })
    }
}
