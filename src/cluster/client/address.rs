use crate::cluster::Error;

/// The address of a gate.
pub(super) struct Address {
    /// For the engine.
    pub(super) endpoint: String,
    /// Over WebSocket: the host and the target of the request.
    pub(super) upgrade: Option<(String, String)>,
    #[cfg(feature = "kcp")]
    pub(super) is_kcp: bool,
}

impl Address {
    pub(super) fn parse(addr: &str) -> Result<Self, Error> {
        let problem = match addr.split_once("://") {
            Some(("tcp", _)) | None => {
                return Ok(Self {
                    endpoint: addr.to_owned(),
                    upgrade: None,
                    #[cfg(feature = "kcp")]
                    is_kcp: false,
                });
            }
            Some(("ws", rest)) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let path = if path.is_empty() { "/" } else { path };
                return Ok(Self {
                    endpoint: format!("tcp://{host}"),
                    upgrade: Some((host.to_owned(), path.to_owned())),
                    #[cfg(feature = "kcp")]
                    is_kcp: false,
                });
            }
            #[cfg(feature = "kcp")]
            Some(("kcp", host)) => {
                return Ok(Self {
                    endpoint: format!("udp://{host}"),
                    upgrade: None,
                    is_kcp: true,
                });
            }
            #[cfg(not(feature = "kcp"))]
            Some(("kcp", _)) => "KCP needs the feature `kcp`",
            Some(("wss", _)) => "use ws:// and `tls`",
            _ => "it is none of tcp://HOST:PORT, ws://HOST:PORT/PATH and kcp://HOST:PORT",
        };
        Err(Error::argument("addr", format!("{addr:?}: {problem}")))
    }
}
