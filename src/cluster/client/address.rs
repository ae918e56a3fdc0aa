use crate::cluster::Error;

/// The address of a gate.
pub(super) struct Address {
    /// For the engine.
    pub(super) endpoint: String,
    /// Over WebSocket: the host and the target of the request.
    pub(super) upgrade: Option<(String, String)>,
}

impl Address {
    pub(super) fn parse(addr: &str) -> Result<Self, Error> {
        let problem = match addr.split_once("://") {
            Some(("tcp", _)) | None => {
                return Ok(Self {
                    endpoint: addr.to_owned(),
                    upgrade: None,
                });
            }
            Some(("ws", rest)) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let path = if path.is_empty() { "/" } else { path };
                return Ok(Self {
                    endpoint: format!("tcp://{host}"),
                    upgrade: Some((host.to_owned(), path.to_owned())),
                });
            }
            Some(("kcp", _)) => "KCP is not there yet; use tcp:// or ws://",
            Some(("wss", _)) => "use ws:// and `tls`",
            _ => "it is neither tcp://HOST:PORT nor ws://HOST:PORT/PATH",
        };
        Err(Error::argument("addr", format!("{addr:?}: {problem}")))
    }
}
