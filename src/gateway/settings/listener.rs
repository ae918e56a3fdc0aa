use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::pool::{ConnectionLimits, PoolSettings, Retries, UpstreamLimits, UpstreamTimeouts};
use super::{Access, BasicAuth, LimitSettings};
use crate::gateway::Users;
use crate::gateway::dial::Via;
use crate::gateway::egress::Egress;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// A listener, and the rules for the clients that connect to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerSettings {
    /// The address, in a form of [`Endpoint`](crate::Endpoint): `tcp://0.0.0.0:80`, `unix:///run/gateway.sock`.
    pub on: String,
    /// The kind of service. Default: a reverse proxy.
    pub kind: ListenerKind,
    /// TLS, with its certificates. Default: none.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsServer>,
    /// True if the `Host` of a request must be covered by the name that its client has asked for in the TLS handshake.
    /// Others are answered with 421. Default: off.
    pub sni_match: bool,
    /// The networks of the proxies that begin each connection with a header of the PROXY protocol. Default: none, no header
    /// is expected. Peers outside these networks are refused.
    pub proxy_protocol: Vec<IpNet>,
    /// The timeouts of clients.
    pub timeouts: ClientTimeouts,
    /// The limits of clients.
    pub limits: ClientLimits,
    /// The fields that tell a node about the client.
    pub forwarding: Forwarding,
    /// The clients that may come, by their addresses. Default: all.
    pub access: Access,
    /// The names and passwords of clients. The health path asks for none. Default: none.
    pub auth: Option<BasicAuth>,
    /// The rates of requests. The health path has none. Default: no limit.
    pub rate_limits: Vec<LimitSettings>,
    /// The treatment of fields whose names have an underscore. Default: dropped.
    pub underscores: Underscores,
    /// The meaning of a client's FIN. Default: the client has left.
    pub on_fin: OnFin,
    /// True if errors of the gateway have a `Proxy-Status` field (RFC 9209). Default: off.
    pub proxy_status: bool,
    /// A path that the gateway answers itself: with 200, or with 503 once it is about to end. Default: none, and `/healthz` if
    /// the kind is [`Metrics`](ListenerKind::Metrics).
    pub health_path: Option<String>,
    /// The targets that the clients of a forward or SOCKS listener may reach. Default: all public addresses, by `CONNECT` on
    /// port 443 only.
    pub egress: Egress,
    /// The pool to whose nodes a TCP or UDP listener forwards. Default: none. Such a listener needs one.
    pub pool: Option<String>,
    /// The users of a forward or SOCKS listener. Then clients must tell a name and a password. Default: none, and everybody may
    /// use it.
    pub users: Option<Users>,
    /// True if clients of a SOCKS listener may await one connection of a peer each (`BIND`). Default: off.
    pub bind: bool,
    /// The timeouts of the tunnels of a forward or SOCKS listener.
    pub tunnels: TunnelTimeouts,
    /// The proxy by way of which the targets of a forward or SOCKS listener are reached. It looks up their names, so that the policy
    /// sees none of their addresses. In a file it is `egress.via`, as `via` is the header field there. Default: none.
    pub via: Option<Via>,
    /// The connections of a forward listener to the targets of requests in absolute form.
    pub targets: TargetSettings,
    /// The sessions of a UDP listener, and the associations of a SOCKS listener.
    pub datagrams: Datagrams,
    /// Tells by which rules clients are asked for certificates, if a file says so. `None` is not known.
    #[cfg(feature = "tls")]
    pub(crate) client_auth_digest: Option<u64>,
}

/// The kind of service of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenerKind {
    /// A reverse proxy: requests go to the pools of the routes.
    #[default]
    Reverse,
    /// The counters, in the text format of Prometheus.
    Metrics,
    /// A forward proxy (RFC 9110, section 3.7): clients name their targets, in absolute form or by `CONNECT`.
    Forward,
    /// A SOCKS5 proxy (RFC 1928): clients name their targets.
    Socks5,
    /// Each connection goes to a node of the [pool](ListenerSettings::pool), whatever it carries.
    Tcp,
    /// Datagrams go to a node of the [pool](ListenerSettings::pool), those of a peer to the same one.
    Udp,
}

/// The sessions of a UDP listener, and the associations of a SOCKS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagrams {
    /// True if clients of a SOCKS listener may relay datagrams (`UDP ASSOCIATE`). Default: off.
    pub associate: bool,
    /// The time for which nothing may pass in a session, in an association, or between that and a target. Default: 60 s.
    pub idle: Duration,
    /// The most sessions of a UDP listener. Datagrams of further peers are dropped. For a SOCKS listener, the most associations of
    /// a reactor. Default: 4,096, as each needs a descriptor.
    pub max_sessions: usize,
    /// The address that clients of a SOCKS listener are told to send datagrams to, if they are behind a NAT. Default: the one
    /// that they have connected to.
    pub advertise: Option<IpAddr>,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            associate: false,
            idle: Duration::from_secs(60),
            max_sessions: 4096,
            advertise: None,
        }
    }
}

impl ListenerKind {
    /// Returns the word for it in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reverse => "reverse",
            Self::Metrics => "metrics",
            Self::Forward => "forward",
            Self::Socks5 => "socks5",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The connections of a forward listener to the targets of requests in absolute form. `Duration::MAX` is no limit.
///
/// They are kept for further requests to the same host and port, of any client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetSettings {
    /// The idle connections to all targets together. Each reactor has its share, and at least one. Default: 100.
    pub max_idle: usize,
    /// The time for which a connection is kept idle. Default: 90 s.
    pub idle_timeout: Duration,
    /// The time from when the request was sent to the head of the response. Then 504. Default: 60 s.
    pub response_head: Duration,
    /// The time for which a target may send nothing of a response, or take nothing of a request. Default: 60 s.
    pub body_idle: Duration,
    /// The time for a whole exchange. Default: no limit.
    pub request: Duration,
    /// The limits of responses.
    pub limits: UpstreamLimits,
    /// The most retries of a request whose reused connection has ended. Default: 2.
    pub retries: u32,
    /// The bytes of a request's body that are kept, so that it can be sent again. At most 64 KiB. Default: 0.
    pub retry_body: usize,
}

impl Default for TargetSettings {
    fn default() -> Self {
        let (timeouts, connections) = (UpstreamTimeouts::default(), ConnectionLimits::default());
        let retries = Retries::default();
        Self {
            max_idle: connections.max_idle,
            idle_timeout: connections.idle_timeout,
            response_head: timeouts.response_head,
            body_idle: timeouts.body_idle,
            request: timeouts.request,
            limits: UpstreamLimits::default(),
            retries: retries.max,
            retry_body: retries.body,
        }
    }
}

/// The timeouts of clients. `Duration::MAX` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientTimeouts {
    /// The time in which the head of a request must arrive, from its first byte. Then 408. Default: 15 s.
    pub head: Duration,
    /// The time for which a connection waits for the next request. Default: 75 s.
    pub idle: Duration,
    /// The time for which a client may send nothing of a body that is not complete. Default: 60 s.
    pub body_idle: Duration,
    /// The time for which a client may take no output. Default: 60 s.
    pub write_stall: Duration,
    /// The age, shortened by up to 10% at random, after which a connection takes no further request. Default: none.
    pub max_age: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(60),
            max_age: Duration::MAX,
        }
    }
}

/// The timeouts of tunnels. `Duration::MAX` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelTimeouts {
    /// The time for the handshake with a SOCKS client, up to its request. Default: 10 s.
    pub handshake: Duration,
    /// The time for the connection to the target, with the look-up of its name. It holds for requests in absolute form as well.
    /// Default: 5 s.
    pub connect: Duration,
    /// The time for which nothing may pass in either direction. Default: 1 h.
    pub idle: Duration,
    /// The time for which a client of a SOCKS listener may await a connection (`BIND`). Default: 60 s.
    pub bind: Duration,
}

impl Default for TunnelTimeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(60 * 60),
            bind: Duration::from_secs(60),
        }
    }
}

/// The limits of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// The bytes of a head. More are answered with 431. A connection whose head is incomplete holds up to twice as much.
    /// Default: 32 KiB.
    pub max_head: usize,
    /// The number of fields, at most 256. More are answered with 431. Default: 100.
    pub max_headers: usize,
    /// The bytes of a body. More are answered with 413. Default: no limit, as a proxy holds no body as a whole.
    pub max_body: u64,
    /// The number of requests of a connection. Default: no limit.
    pub max_requests: u32,
    /// The number of clients of all listeners together. The largest number of any listener counts. Further clients are closed
    /// without an answer. Default: no limit.
    pub max_clients: Option<usize>,
    /// The number of clients of one IP address (IPv6: of a /64), of all listeners together. The smallest number of any listener
    /// counts. Further clients are closed without an answer. Default: no limit.
    pub max_clients_per_ip: Option<usize>,
    /// The output that waits for a client or for a node before the other side is read no further, in bytes each way.
    /// Default: 256 KiB.
    pub high_water: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            max_head: 32 << 10,
            max_headers: 100,
            max_body: u64::MAX,
            max_requests: u32::MAX,
            max_clients: None,
            max_clients_per_ip: None,
            high_water: 256 << 10,
        }
    }
}

/// The fields that tell a node about the client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarding {
    /// The treatment of `X-Forwarded-For`. Default: the peer is appended.
    pub x_forwarded_for: ForwardedFor,
    /// The networks of proxies in front of the gateway. What other peers send in forwarding fields is dropped, and the
    /// client is the last address of `X-Forwarded-For` that is not in them. Default: none: then the client is the peer, and
    /// what it sends in `X-Forwarded-For` is kept.
    pub trusted: Vec<IpNet>,
    /// True if `X-Real-IP` is the client. Default: on.
    pub x_real_ip: bool,
    /// True if `X-Forwarded-Proto`, `-Host` and `-Port` are set. Default: on.
    pub x_forwarded: bool,
    /// True if `Forwarded` (RFC 7239) is set. Default: off.
    pub forwarded: bool,
    /// True if `Via` is added to requests. Default: on.
    pub via: bool,
    /// The number of times that a request may have been here before, by its `Via`. Then 508. Default: 1.
    pub max_loops: u32,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            x_forwarded_for: ForwardedFor::Append,
            trusted: Vec::new(),
            x_real_ip: true,
            x_forwarded: true,
            forwarded: false,
            via: true,
            max_loops: 1,
        }
    }
}

impl Forwarding {
    /// Returns the rules that tell nothing about the client, as the targets of a forward proxy are not to know it.
    pub fn hidden() -> Self {
        Self {
            x_forwarded_for: ForwardedFor::Off,
            x_real_ip: false,
            x_forwarded: false,
            ..Self::default()
        }
    }
}

/// The treatment of `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedFor {
    /// All lines become one list, with the peer as the last.
    #[default]
    Append,
    /// It is the client alone.
    Replace,
    /// It is passed on as it came.
    Off,
}

/// The treatment of fields whose names have an underscore. Programs that read fields as CGI does take `X_Forwarded_For` for
/// `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Underscores {
    /// They are dropped.
    #[default]
    Drop,
    /// They are passed on.
    Pass,
    /// The request is answered with 400.
    Refuse,
}

/// The meaning of a client's FIN while its exchange is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFin {
    /// The client has left: the exchange is cancelled.
    #[default]
    Cancel,
    /// The client still reads: it is answered.
    Finish,
}

impl ListenerSettings {
    /// Returns a listener of a reverse proxy with the defaults.
    pub fn new(on: impl Into<String>) -> Self {
        Self {
            on: on.into(),
            kind: ListenerKind::default(),
            #[cfg(feature = "tls")]
            tls: None,
            sni_match: false,
            proxy_protocol: Vec::new(),
            timeouts: ClientTimeouts::default(),
            limits: ClientLimits::default(),
            forwarding: Forwarding::default(),
            access: Access::default(),
            auth: None,
            rate_limits: Vec::new(),
            underscores: Underscores::default(),
            on_fin: OnFin::default(),
            proxy_status: false,
            health_path: None,
            egress: Egress::default(),
            pool: None,
            users: None,
            bind: false,
            tunnels: TunnelTimeouts::default(),
            via: None,
            targets: TargetSettings::default(),
            datagrams: Datagrams::default(),
            #[cfg(feature = "tls")]
            client_auth_digest: None,
        }
    }

    /// Returns the path that the gateway answers itself.
    pub(crate) fn own_health_path(&self) -> Option<&str> {
        let is_metrics = self.kind == ListenerKind::Metrics;
        let given = self.health_path.as_deref();
        given.or(is_metrics.then_some("/healthz"))
    }

    /// Returns a listener that forwards each connection to a node of a pool.
    ///
    /// ```
    /// use epicycle::gateway::Gateway;
    /// use epicycle::gateway::settings::{ListenerSettings, PoolSettings};
    ///
    /// let gateway = Gateway::builder()
    ///     .listen(ListenerSettings::forward_tcp("tcp://127.0.0.1:5432", "db"))
    ///     .pool("db", PoolSettings::of(["tcp://10.0.0.1:5432", "tcp://10.0.0.2:5432"]))
    ///     .build()?;
    /// # let _ = gateway;
    /// # Ok::<(), epicycle::gateway::GatewayError>(())
    /// ```
    pub fn forward_tcp(on: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            kind: ListenerKind::Tcp,
            pool: Some(pool.into()),
            ..Self::new(on)
        }
    }

    /// Returns a listener of a forward proxy with the defaults. They tell targets nothing about clients, and pass on fields with
    /// underscores.
    pub fn forward(on: impl Into<String>) -> Self {
        Self {
            kind: ListenerKind::Forward,
            forwarding: Forwarding::hidden(),
            underscores: Underscores::Pass,
            ..Self::new(on)
        }
    }

    /// Returns a listener that forwards the datagrams of each peer to a node of a pool.
    ///
    /// ```
    /// use epicycle::gateway::Gateway;
    /// use epicycle::gateway::settings::{ListenerSettings, PoolSettings};
    ///
    /// let gateway = Gateway::builder()
    ///     .listen(ListenerSettings::forward_udp("udp://127.0.0.1:5353", "dns"))
    ///     .pool("dns", PoolSettings::of(["udp://10.0.0.1:53", "udp://10.0.0.2:53"]))
    ///     .build()?;
    /// # let _ = gateway;
    /// # Ok::<(), epicycle::gateway::GatewayError>(())
    /// ```
    pub fn forward_udp(on: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            kind: ListenerKind::Udp,
            pool: Some(pool.into()),
            ..Self::new(on)
        }
    }

    /// Returns the pool of the connections to the targets that clients name, if these are kept for further requests.
    pub(crate) fn target_pool(&self) -> Option<PoolSettings> {
        if self.kind != ListenerKind::Forward {
            return None;
        }
        let targets = &self.targets;
        Some(PoolSettings {
            timeouts: UpstreamTimeouts {
                connect: self.tunnels.connect,
                response_head: targets.response_head,
                body_idle: targets.body_idle,
                request: targets.request,
                tunnel_idle: self.tunnels.idle,
                ..UpstreamTimeouts::default()
            },
            connections: ConnectionLimits {
                max_idle: targets.max_idle,
                idle_timeout: targets.idle_timeout,
                ..ConnectionLimits::default()
            },
            limits: targets.limits.clone(),
            via: self.via.clone(),
            serves_targets: true,
            retries: Retries {
                max: targets.retries,
                body: targets.retry_body,
                ..Retries::default()
            },
            ..PoolSettings::default()
        })
    }

    /// Returns true if clients name their targets.
    pub(crate) fn has_targets(&self) -> bool {
        matches!(self.kind, ListenerKind::Forward | ListenerKind::Socks5)
    }

    /// Returns true if clients speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}
