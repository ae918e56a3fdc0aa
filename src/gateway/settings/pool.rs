use std::path::PathBuf;
use std::time::Duration;

use super::{NodeSettings, SourceSettings};
use crate::balance::{Ejection, KeyHash};
use crate::gateway::dial::Via;
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// A pool of nodes, and the rules for the connections to them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The nodes.
    pub nodes: Vec<NodeSettings>,
    /// A file with the nodes, which is watched: `ADDRESS,WEIGHT` a line. It replaces `nodes`. Default: none.
    pub nodes_file: Option<PathBuf>,
    /// The source of the nodes, which is followed while the gateway runs. Its lists take the place of `nodes`, which serve until the
    /// first list is there. Default: none.
    pub discover: Option<SourceSettings>,
    /// The choice of a node. Default: in turn, by weight.
    pub balance: BalanceBy,
    /// True if all nodes are tried when none is up. Default: true.
    pub fail_open: bool,
    /// The time over which a new or recovered node grows to its whole weight. Default: 0.
    pub slow_start: Duration,
    /// The active health check. Default: none.
    pub health: Option<HealthCheck>,
    /// The ejection of nodes that fail. Default: 5 failures in a row, for 30 s times how often already, up to 5 min, at most
    /// half of the pool.
    pub ejection: Ejection,
    /// True if a status of 5xx counts as a failure of the node. Default: false.
    pub eject_5xx: bool,
    /// The timeouts.
    pub timeouts: UpstreamTimeouts,
    /// The limits of connections.
    pub connections: ConnectionLimits,
    /// The requests under way at the pool, of all reactors together, and those at each node. A tunnel counts as one until it ends.
    /// Further ones are answered with 503 at once; a full node passes them on to the others. Default: no limit.
    pub max_in_flight: Option<u32>,
    /// The requests under way at each node, of all reactors together. Default: no limit.
    pub max_in_flight_per_node: Option<u32>,
    /// The limits of responses.
    pub limits: UpstreamLimits,
    /// Retries.
    pub retries: Retries,
    /// TLS to the nodes: roots, a certificate of this side, the name to verify. Default: none; `https` nodes use the
    /// system's roots and the host of their address.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsClient>,
    /// The header of the PROXY protocol with which connections to the nodes begin. Each client then has connections of its
    /// own, as the header names it. Default: none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// The proxy by way of which the nodes are reached. It looks up their names. Default: none.
    pub via: Option<Via>,
    /// True if its connections lead to the targets that clients of a forward listener name, and not to nodes.
    pub(crate) serves_targets: bool,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// The choice of a node.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum BalanceBy {
    /// At random, by weight.
    Random,
    /// In turn.
    RoundRobin,
    /// In turn, by weight, evenly spread. A node that fails gets less.
    #[default]
    Weighted,
    /// The fewest requests under way, over the weight.
    Least,
    /// The better of two random nodes.
    TwoChoices,
    /// By a key, from a ring.
    Hash {
        /// The key.
        key: HashKey,
        /// The points on the ring for each unit of weight. Default: 160.
        replicas: u32,
        /// The hash function.
        ring: KeyHash,
        /// The most that a node may have, as a multiple of its share, before its keys go to the next one.
        bound: Option<f64>,
    },
}

impl BalanceBy {
    /// Returns the word for it in files.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::Least => "least",
            Self::TwoChoices => "p2c",
            Self::Hash { .. } => "hash",
        }
    }

    /// Returns a hash ring with the defaults.
    pub fn hash(key: HashKey) -> Self {
        BalanceBy::Hash {
            key,
            replicas: 160,
            ring: KeyHash::default(),
            bound: None,
        }
    }
}

/// The part of a request that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashKey {
    /// The IP address of the client.
    Ip,
    /// The path.
    Path,
    /// The path and the query.
    Uri,
    /// The value of a field.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a parameter of the query.
    Query(String),
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The check.
    pub probe: HealthProbe,
    /// The time between two checks of a node, shortened by up to 10% at random. Default: 5 s.
    pub interval: Duration,
    /// The time that a check may take. Default: 2 s.
    pub timeout: Duration,
    /// The number of failures in a row that make a node down. Default: 2.
    pub down_after: u32,
    /// The number of successes in a row that make it up. Default: 2.
    pub up_after: u32,
}

/// The kind of an active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthProbe {
    /// It connects.
    Tcp,
    /// It sends a request.
    Http {
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The host. `None` is that of the node.
        host: Option<String>,
        /// The expected statuses, as ranges of first and last. Empty means 200 to 399.
        statuses: Vec<(u16, u16)>,
        /// A text that the first 64 KiB of the body must contain.
        body: Option<String>,
    },
}

impl HealthProbe {
    /// Returns a `GET` of a path that expects a status from 200 to 399.
    pub fn http(path: impl Into<String>) -> Self {
        HealthProbe::Http {
            method: "GET".to_owned(),
            path: path.into(),
            host: None,
            statuses: Vec::new(),
            body: None,
        }
    }
}

impl HealthCheck {
    /// Returns a check with the defaults.
    pub fn new(probe: HealthProbe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            down_after: 2,
            up_after: 2,
        }
    }
}

/// The timeouts of connections to nodes. `Duration::MAX` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamTimeouts {
    /// The time for a connect, with the look-up of the name. Default: 5 s.
    pub connect: Duration,
    /// The time for a TLS handshake, on top of that for the connect. Default: 10 s.
    pub tls_handshake: Duration,
    /// The time from when the request was sent to the head of the response. Then 504. Default: 60 s.
    pub response_head: Duration,
    /// The time for which a node may send nothing of a response, or take nothing of a request. Default: 60 s.
    pub body_idle: Duration,
    /// The time for a whole exchange. Default: no limit.
    pub request: Duration,
    /// The time for which a node may be silent after a request with `Expect`, before the gateway itself says 100.
    /// Default: 1 s.
    pub expect_continue: Duration,
    /// The time for which a tunnel may carry nothing. It replaces all other timeouts. Default: 1 h.
    pub tunnel_idle: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            tls_handshake: Duration::from_secs(10),
            response_head: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            request: Duration::MAX,
            expect_continue: Duration::from_secs(1),
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

/// The limits of connections to nodes. Numbers count for the process. Of the idle ones each reactor has its share, and at least one;
/// all connections together are counted exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLimits {
    /// The idle connections to a node. Default: 100.
    pub max_idle: usize,
    /// The time for which a connection is kept idle. Default: 90 s.
    pub idle_timeout: Duration,
    /// The age after which a connection is not used again. Default: none.
    pub max_lifetime: Duration,
    /// The number of requests of a connection. Default: no limit.
    pub max_requests: u32,
    /// The connections to a node, of all reactors together, with those that are being made. Further requests wait. A place goes to
    /// the reactor that waits for longest. Default: no limit.
    pub max_connections: Option<usize>,
    /// The requests of a reactor that wait for a connection. Further ones are answered with 503. Default: 1024.
    pub max_pending: usize,
    /// The time for which a request waits for one of `max_connections`. Then 503. Default: 5 s.
    pub pending_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_idle: 100,
            idle_timeout: Duration::from_secs(90),
            max_lifetime: Duration::MAX,
            max_requests: u32::MAX,
            max_connections: None,
            max_pending: 1024,
            pending_timeout: Duration::from_secs(5),
        }
    }
}

/// The limits of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamLimits {
    /// The bytes of a head. Then 502. Default: 32 KiB.
    pub max_head: usize,
    /// The number of fields, at most 256. Then 502. Default: 100.
    pub max_headers: usize,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            max_head: 32 << 10,
            max_headers: 100,
        }
    }
}

/// Retries of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// The most retries of a request. Default: 2.
    pub max: u32,
    /// The bytes of a request's body that are kept, so that it can be sent again. At most 64 KiB. Default: 0.
    pub body: usize,
    /// The statuses of responses for which another node is tried: of 502, 503 and 504. Default: none.
    pub statuses: Vec<u16>,
    /// The share of the pool's requests of the last 10 s that may be retries, in per cent. Default: 20.
    pub budget_percent: u32,
    /// The retries that are allowed on top. Default: 10.
    pub budget_floor: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max: 2,
            body: 0,
            statuses: Vec::new(),
            budget_percent: 20,
            budget_floor: 10,
        }
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            nodes_file: None,
            discover: None,
            balance: BalanceBy::default(),
            fail_open: true,
            slow_start: Duration::ZERO,
            health: None,
            ejection: Ejection::default(),
            eject_5xx: false,
            timeouts: UpstreamTimeouts::default(),
            connections: ConnectionLimits::default(),
            max_in_flight: None,
            max_in_flight_per_node: None,
            limits: UpstreamLimits::default(),
            retries: Retries::default(),
            #[cfg(feature = "tls")]
            tls: None,
            proxy_protocol: None,
            via: None,
            serves_targets: false,
        }
    }
}

impl PoolSettings {
    /// Returns a pool of these nodes with the defaults.
    pub fn of<N: Into<String>>(nodes: impl IntoIterator<Item = N>) -> Self {
        Self {
            nodes: nodes.into_iter().map(NodeSettings::new).collect(),
            ..Self::default()
        }
    }

    /// Returns true if all nodes speak TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}
