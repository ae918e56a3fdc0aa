use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::address::Address;
use super::calls::Calls;
use super::handler::Dialled;
use super::link::{GateAddress, Handlers, Link};
use super::{Client, ClientContext, ClientEvent, Clients, Inner};
use crate::cluster::Error;
use crate::cluster::packet::{Packet, PacketOptions};
use crate::engine::connect::{Backoff, Connect, Reconnect};
#[cfg(feature = "kcp")]
use crate::kcp::KcpOptions;
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// Describes a client of a gate; made by [`Client::builder`].
#[must_use = "it does nothing until `connect` or `dial` is called"]
pub struct ClientBuilder {
    packets: PacketOptions,
    heartbeat: Duration,
    call_timeout: Duration,
    connect_timeout: Duration,
    reconnect: Option<Reconnect>,
    control: bool,
    others: Vec<String>,
    handlers: Handlers,
    #[cfg(feature = "kcp")]
    kcp: KcpOptions,
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        Self {
            packets: PacketOptions::default(),
            heartbeat: Duration::from_secs(10),
            call_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(5),
            reconnect: Some(Reconnect::default()),
            control: false,
            others: Vec::new(),
            handlers: Handlers {
                routes: FxHashMap::default(),
                others: None,
                on_event: None,
            },
            #[cfg(feature = "kcp")]
            kcp: KcpOptions::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets the format of packets, which must be that of the gate.
    pub fn packets(mut self, options: PacketOptions) -> Self {
        self.packets = options;
        self
    }

    /// Sets the time between two heartbeats. Default: 10 s. Zero: none are sent, and a silent gate is not noticed.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Sets the time within which an answer must come. Default: 3 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets the time within which an attempt to connect must succeed. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the delays between attempts to connect again. Default: from 100 ms to 30 s. `None`: the end of the connection is the
    /// end of the client.
    pub fn reconnect(mut self, policy: impl Into<Option<Reconnect>>) -> Self {
        self.reconnect = policy.into();
        self
    }

    /// Tells the gate that this client knows control packets. A gate that is about to stop then asks it to go elsewhere. One where the
    /// user has logged in a second time, or is [kicked](crate::cluster::node::Request::kick), tells it so, and the client does not dial
    /// again. Without it, clients of one user that log in at each [`Connected`](ClientEvent::Connected) throw each other out for ever,
    /// and one that was kicked comes back. A gate of due would take it for a packet of route 5. Default: off.
    pub fn control_packets(mut self, on: bool) -> Self {
        self.control = on;
        self
    }

    /// Sets the options of KCP, for `kcp://` addresses. Default: those of [`KcpOptions`].
    #[cfg(feature = "kcp")]
    pub fn kcp(mut self, options: KcpOptions) -> Self {
        self.kcp = options;
        self
    }

    /// Adds the address of another gate. When one cannot be reached, or the connection to it has ended, the client dials the next one.
    pub fn or_at(mut self, addr: impl Into<String>) -> Self {
        self.others.push(addr.into());
        self
    }

    /// Uses TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Sets the handler of a route: of the packets of the gate that answer no request. The last one counts.
    pub fn route(
        mut self,
        route: i32,
        handler: impl FnMut(&mut ClientContext<'_>, Packet<'_>) + Send + 'static,
    ) -> Self {
        self.handlers.routes.insert(route, Box::new(handler));
        self
    }

    /// Sets the handler of all other routes. Without it, their packets are dropped.
    pub fn other_routes(
        mut self,
        handler: impl FnMut(&mut ClientContext<'_>, Packet<'_>) + Send + 'static,
    ) -> Self {
        self.handlers.others = Some(Box::new(handler));
        self
    }

    /// Sets the handler of what happens to the connection.
    pub fn on_event(
        mut self,
        handler: impl FnMut(&mut ClientContext<'_>, ClientEvent<'_>) + Send + 'static,
    ) -> Self {
        self.handlers.on_event = Some(Box::new(handler));
        self
    }

    /// Connects, on a thread of its own, and waits until the client is connected. The address is `tcp://HOST:PORT`, which
    /// may be written without `tcp://`, `ws://HOST:PORT/PATH`, or `kcp://HOST:PORT` with the feature `kcp`. KCP has no handshake: the
    /// client counts as connected at once, and is given up if the gate does not answer.
    ///
    /// # Errors
    ///
    /// As [`dial`](Self::dial) and [`Clients::start`], and [`Error::Backend`] if the gate cannot be reached. There is no further attempt
    /// then.
    pub fn connect(self, addr: impl AsRef<str>) -> Result<Client, Error> {
        self.connect_on(&Clients::start(1)?, addr)
    }

    /// Connects on threads that are there, as [`connect`](Self::connect) does. It must not be called on one of them.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and [`Error::IllegalRequest`] on one of these threads.
    pub fn connect_on(self, clients: &Clients, addr: impl AsRef<str>) -> Result<Client, Error> {
        if clients.threads.is_own() {
            return Err(Error::IllegalRequest {
                what: "a wait on the thread of a client's reactor; use `dial`",
            });
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let client = self.start(clients, addr.as_ref(), Some(sender))?;
        receiver.recv().unwrap_or(Err(Error::Cancelled))?;
        Ok(client)
    }

    /// Begins to connect, and returns at once. [`ClientEvent`] tells the result. Attempts that fail are repeated.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an address or a time that cannot be used, and [`Error::Busy`] if the threads have too much to do.
    pub fn dial(self, clients: &Clients, addr: impl AsRef<str>) -> Result<Client, Error> {
        self.start(clients, addr.as_ref(), None)
    }

    fn start(
        self,
        clients: &Clients,
        addr: &str,
        first: Option<SyncSender<Result<(), Error>>>,
    ) -> Result<Client, Error> {
        for (name, time) in [
            ("call_timeout", self.call_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            Error::if_zero(name, time)?;
        }
        if let Some(policy) = &self.reconnect {
            let checked = policy.check("reconnect");
            checked.map_err(|error| Error::argument("reconnect", error.to_string()))?;
        }
        #[cfg(feature = "kcp")]
        if let Err(problem) = self.kcp.check() {
            return Err(Error::argument("kcp", problem));
        }
        let threads = &clients.threads;
        let token = threads.last_token.fetch_add(1, Ordering::Relaxed) + 1;
        let reactor = (token % threads.ids.len() as u64) as usize;
        let all = std::iter::once(addr).chain(self.others.iter().map(String::as_str));
        let gates = all.map(|addr| self.gate(addr, token));
        let gates: Vec<_> = gates.collect::<Result<_, _>>()?;
        let is_connected = Arc::new(AtomicBool::new(false));
        let link = Link {
            calls: Calls::new(self.packets.seq_bytes()),
            packets: self.packets,
            heartbeat: self.heartbeat,
            call_timeout: self.call_timeout,
            reconnect: self.reconnect,
            control: self.control,
            goodbye: None,
            gates,
            at: 0,
            resume_token: None,
            resuming: None,
            given_up: None,
            count: 0,
            acked: 0,
            conn: None,
            is_connected: is_connected.clone(),
            was_connected: false,
            is_closing: false,
            unanswered: 0,
            backoff: Backoff::default(),
            opened: None,
            first,
        };
        let client = Dialled {
            link,
            handlers: self.handlers,
        };
        let started = clients.run_on(reactor, move |handler, reactor| {
            handler.add(token, client, reactor);
        });
        started.map_err(|error| error.unwrap_or(Error::Cancelled))?;
        Ok(Client {
            inner: Arc::new(Inner {
                clients: clients.clone(),
                reactor,
                token,
                to: addr.to_owned(),
                is_connected,
            }),
        })
    }

    fn gate(&self, addr: &str, token: u64) -> Result<GateAddress, Error> {
        let address = Address::parse(addr)?;
        let connect = Connect::to(address.endpoint)
            .timeout(self.connect_timeout)
            .token(token);
        if let Err(error) = &connect.to {
            return Err(Error::argument("addr", error.to_string()));
        }
        #[cfg(all(feature = "kcp", feature = "tls"))]
        if self.tls.is_some() && address.is_kcp {
            let problem = format!(
                "TLS does not go over KCP, so not to {addr}; leave it out, or use tcp:// or ws://"
            );
            return Err(Error::argument("tls", problem));
        }
        #[cfg(feature = "tls")]
        let connect = match &self.tls {
            Some(tls) => connect.tls(tls),
            None => connect,
        };
        Ok(GateAddress {
            to: addr.to_owned(),
            connect,
            upgrade: address.upgrade,
            #[cfg(feature = "kcp")]
            kcp: address.is_kcp.then(|| self.kcp.clone()),
        })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("packets", &self.packets)
            .field("routes", &self.handlers.routes.len())
            .finish_non_exhaustive()
    }
}
