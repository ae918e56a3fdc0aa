use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::addr::network;
use crate::cluster::Error;
use crate::engine::listen::Listen;
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::ProxyProtocol;
use crate::http::ServerRequest;
#[cfg(feature = "kcp")]
use crate::kcp::KcpOptions;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// A listener of a gate, for clients.
///
/// | Address | Clients |
/// |---|---|
/// | `tcp://HOST:PORT` | send packets back to back |
/// | `ws://HOST:PORT/PATH` | send each packet in a binary message of WebSocket |
/// | `kcp://HOST:PORT` | send packets over [KCP](crate::kcp), plain or with the heads of FEC (feature `kcp`) |
///
/// An empty HOST is every interface. A PORT of 0 lets the kernel choose one.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::gate::{ClientListener, Gate};
///
/// let socket = ClientListener::at("ws://127.0.0.1:0/play")
///     .origins(["https://game.example"])
///     .check(|request| request.query() != Some("banned"));
/// let gate = Gate::builder().listen("tcp://127.0.0.1:0").listen(socket).start()?;
/// assert_eq!(gate.client_addrs().len(), 2);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[must_use = "it has no effect until it is given to a gate"]
pub struct ClientListener {
    listen: Result<Listen, Error>,
    door: Door,
}

/// The kind of peers that come by a listener.
#[derive(Clone)]
pub(super) enum Door {
    /// Other servers.
    Links,
    /// Clients over TCP.
    Packets,
    /// Clients over WebSocket.
    Sockets(Upgrade),
    /// Clients over KCP.
    #[cfg(feature = "kcp")]
    Kcp(KcpOptions),
}

/// Which requests open a WebSocket.
#[derive(Clone)]
pub(super) struct Upgrade {
    pub(super) path: String,
    /// Any if it is empty.
    pub(super) origins: Vec<String>,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub(super) proxies: Vec<IpNet>,
    pub(super) check: Option<Check>,
}

impl Upgrade {
    /// Returns true if this peer is believed what it tells of its client.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|network| network.contains(&peer))
    }
}

type Check = Arc<dyn Fn(&ServerRequest<'_>) -> bool + Send + Sync>;

impl ClientListener {
    /// Listens at an address. The start of the gate reports one that cannot be used.
    pub fn at(addr: &str) -> Self {
        if let Some(rest) = addr.strip_prefix("ws://") {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let path = if path.is_empty() { "/" } else { path };
            return Self {
                listen: Ok(Listen::on(format!("tcp://{host}"))),
                door: Door::Sockets(Upgrade {
                    path: path.to_owned(),
                    origins: Vec::new(),
                    proxies: Vec::new(),
                    check: None,
                }),
            };
        }
        #[cfg(feature = "kcp")]
        if let Some(host) = addr.strip_prefix("kcp://") {
            return Self {
                listen: Ok(Listen::on(format!("udp://{host}"))),
                door: Door::Kcp(KcpOptions::new()),
            };
        }
        let listen = match addr.split_once("://") {
            Some(("tcp", _)) => Ok(Listen::on(addr)),
            Some(("kcp", _)) => Err("KCP needs the feature `kcp`"),
            Some(("wss", _)) => Err("use ws:// and give the listener a TLS configuration"),
            _ => Err("it is none of tcp://HOST:PORT, ws://HOST:PORT/PATH and kcp://HOST:PORT"),
        };
        let listen =
            listen.map_err(|problem| Error::argument("listen", format!("{addr:?}: {problem}")));
        Self {
            listen,
            door: Door::Packets,
        }
    }

    /// Accepts only pages of these origins, such as `https://game.example`. Others get 403. Default: all, as at a gate of due.
    /// Clients that are no browsers send no origin, and are accepted.
    pub fn origins(mut self, origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        match &mut self.door {
            Door::Sockets(upgrade) => upgrade.origins.extend(origins.into_iter().map(Into::into)),
            _ => self.refuse("origins"),
        }
        self
    }

    /// Believes proxies in these networks (`10.0.0.0/8`, `fd00::/8`, or single addresses) what they tell of the client in
    /// `X-Forwarded-For`: the last address there that is not in these networks. It is what is limited for each address and what nodes
    /// are told. The start of the gate reports a text that is no network. Default: none; the client is the peer.
    pub fn trusted_proxies<N: AsRef<str>>(mut self, networks: impl IntoIterator<Item = N>) -> Self {
        for text in networks {
            let text = text.as_ref();
            match (&mut self.door, network(text)) {
                (Door::Sockets(upgrade), Some(network)) => upgrade.proxies.push(network),
                (Door::Sockets(_), None) if self.listen.is_ok() => {
                    let problem = format!(
                        "{text:?} is no network; write 10.0.0.0/8 or 192.0.2.7, for example"
                    );
                    self.listen = Err(Error::argument("trusted_proxies", problem));
                }
                (Door::Sockets(_), None) => {}
                _ => self.refuse("trusted_proxies"),
            }
        }
        self
    }

    /// Expects a header of the PROXY protocol on connections from these proxies, which tells the address of the client. Default: none.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, proxies: ProxyProtocol) -> Self {
        self.listen = self.listen.map(|listen| listen.proxy_protocol(proxies));
        self
    }

    /// Asks about each request for a WebSocket. If it returns false, the client gets 403. It runs on the reactor and must not block.
    pub fn check(
        mut self,
        check: impl Fn(&ServerRequest<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        match &mut self.door {
            Door::Sockets(upgrade) => upgrade.check = Some(Arc::new(check)),
            _ => self.refuse("check"),
        }
        self
    }

    /// Sets the options of KCP, but for the bytes that may wait: see [`outbound_limit`](super::GateBuilder::outbound_limit). Default:
    /// those of [`KcpOptions`], as at a gate of due.
    #[cfg(feature = "kcp")]
    pub fn kcp(mut self, options: KcpOptions) -> Self {
        match &mut self.door {
            Door::Kcp(own) => {
                if let Err(problem) = options.check()
                    && self.listen.is_ok()
                {
                    self.listen = Err(Error::argument("kcp", problem));
                }
                *own = options;
            }
            _ if self.listen.is_ok() => {
                let problem = "it is for listeners at kcp:// addresses";
                self.listen = Err(Error::argument("kcp", problem));
            }
            _ => {}
        }
        self
    }

    /// Uses TLS. Not for `kcp://`: KCP has no encryption, and TLS needs a stream.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsServer) -> Self {
        #[cfg(feature = "kcp")]
        if matches!(self.door, Door::Kcp(_)) && self.listen.is_ok() {
            let problem = "TLS does not go over KCP; encrypt the data by a cipher (cluster::crypto), or use tcp:// or ws://";
            self.listen = Err(Error::argument("tls", problem));
        }
        self.listen = self.listen.map(|listen| listen.tls(tls));
        self
    }

    /// Returns where it listens, unless that is an error.
    pub(super) fn listen_mut(&mut self) -> Option<&mut Listen> {
        self.listen.as_mut().ok()
    }

    pub(super) fn into_parts(self) -> Result<(Listen, Door), Error> {
        Ok((self.listen?, self.door))
    }

    fn refuse(&mut self, name: &'static str) {
        if self.listen.is_ok() {
            let problem = "it is for listeners at ws:// addresses";
            self.listen = Err(Error::argument(name, problem));
        }
    }
}

impl From<&str> for ClientListener {
    fn from(addr: &str) -> Self {
        Self::at(addr)
    }
}

impl From<String> for ClientListener {
    fn from(addr: String) -> Self {
        Self::at(&addr)
    }
}

impl fmt::Debug for ClientListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientListener")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}
