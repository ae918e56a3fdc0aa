//! The state of a gateway that runs, as its [controls](super::Control) and its admin interface tell it.
//!
//! Times in names that end in `_ms` are in milliseconds. Counters count since the start of the gateway, or since a node was
//! added.

use serde::Serialize;

use super::settings::NodeState;

/// The result of a change of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reloaded {
    /// The number of the configuration that is in force now.
    pub generation: u64,
    /// The parts that differ from before, each with a text for people, at most a hundred.
    pub changed: Vec<String>,
    /// The addresses of listeners that were opened, as the settings spell them.
    pub opened: Vec<String>,
    /// The addresses of listeners that were closed.
    pub closed: Vec<String>,
    /// The settings whose change needs a restart. They stay as they were.
    pub needs_restart: Vec<&'static str>,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The name.
    pub name: String,
    /// The choice of a node: `weighted`, `round_robin`, `random`, `least`, `p2c` or `hash`.
    pub balance: &'static str,
    /// True if all nodes are tried when none is up.
    pub fail_open: bool,
    /// Connections to its nodes now, with the idle ones.
    pub connections: u64,
    /// Idle connections now.
    pub idle: u64,
    /// Requests that wait for a connection now.
    pub waiting: u64,
    /// Retries.
    pub retries: u64,
    /// The nodes, in the order of their list.
    pub nodes: Vec<NodeStatus>,
}

/// A node of a pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The address, as the settings spell it.
    pub address: String,
    /// The weight that it is given.
    pub weight: u32,
    /// The weight by which it is chosen now: less after failures and in a slow start, and 0 if it takes no requests. It is the mean
    /// of all reactors.
    pub effective_weight: f64,
    /// True if it gets requests only when no other node is up.
    pub backup: bool,
    /// The state that it is in.
    pub state: NodeCondition,
    /// The state that it is put in, by the settings or by an operator.
    pub set: NodeState,
    /// The result of the active health check.
    pub health: HealthVerdict,
    /// Requests under way.
    pub in_flight: u32,
    /// Connections, with those that are being made.
    pub connections: usize,
    /// Requests that ended.
    pub requests: u64,
    /// Failures that count against its health.
    pub failures: u64,
    /// Its part of the requests of its pool, from 0 to 1.
    pub share: f64,
    /// The time from the beginning of a request to the head of the response, as a mean in which the last eight responses of
    /// each reactor count most. `None` if there was no response.
    pub latency_ms: Option<f64>,
}

/// The state that a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NodeCondition {
    /// It takes requests.
    Up,
    /// It takes no new requests, as it was [put](NodeState::Drain) so.
    Drain,
    /// It takes no requests, as it was [put](NodeState::Down) so, or as its health check fails.
    Down,
    /// It takes no requests for a while, as several have failed.
    Ejected,
}

/// The result of the active health check of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthVerdict {
    /// There is no check.
    Unchecked,
    /// It succeeds.
    Up,
    /// It fails.
    Down,
}

/// The health of a gateway as a whole.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HealthStatus {
    /// `ok`, `degraded` if a pool has no node that takes requests, or `draining` if the gateway is about to end.
    pub status: &'static str,
    /// The version of this package.
    pub version: &'static str,
    /// The time since the start, in seconds.
    pub uptime_s: u64,
    /// The number of the configuration: 1 at the start, and one more with each change.
    pub generation: u64,
    /// The number of reactors.
    pub reactors: usize,
    /// Exchanges now.
    pub in_flight: u64,
    /// Tunnels now.
    pub tunnels: u64,
    /// Requests that ended, by the classes of their statuses.
    pub requests: Vec<ClassCount>,
    /// The pools.
    pub pools: Vec<PoolHealth>,
}

/// Requests of a class of statuses.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClassCount {
    /// The class: `2xx`.
    pub class: &'static str,
    /// The number of requests.
    pub requests: u64,
}

/// The health of a pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolHealth {
    /// The name.
    pub name: String,
    /// The number of nodes.
    pub nodes: usize,
    /// The number of nodes that take requests.
    pub up: usize,
}

/// The connections of a gateway.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ConnectionsStatus {
    /// All connections.
    pub total: usize,
    /// Connections of clients, by listener.
    pub listeners: Vec<ListenerStatus>,
    /// Connections to nodes, by pool.
    pub pools: Vec<PoolConnections>,
    /// Connections to targets that clients named.
    pub targets: usize,
    /// Connections that check nodes.
    pub checks: usize,
    /// The exchanges and tunnels that have been under way for longest, at most 50.
    pub longest: Vec<ExchangeStatus>,
    /// The reactors that have not told theirs in time, since they are busy. Their connections are missing above.
    pub silent_reactors: Vec<usize>,
}

/// The clients of a listener.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// The address, as the settings spell it.
    pub on: String,
    /// The kind of service: `reverse`, `socks5`.
    pub kind: String,
    /// Connections of clients.
    pub connections: usize,
    /// Those with an exchange under way, tunnels included.
    pub busy: usize,
    /// Those that are tunnels.
    pub tunnels: usize,
}

/// The connections to the nodes of a pool.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PoolConnections {
    /// The name.
    pub name: String,
    /// Connections to its nodes.
    pub connections: usize,
    /// Those that serve a client now.
    pub busy: usize,
}

/// An exchange or a tunnel under way.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ExchangeStatus {
    /// `exchange`, `tunnel`, `socks5` or `tcp`.
    pub kind: &'static str,
    /// The listener.
    pub listener: String,
    /// The peer of the client's connection.
    pub client: String,
    /// The method. Empty unless it is HTTP.
    pub method: String,
    /// The host, or the target of a SOCKS client. At most 256 bytes.
    pub host: String,
    /// The path without its query, which may have secrets. At most 256 bytes.
    pub path: String,
    /// The pool. Empty if none was chosen.
    pub pool: String,
    /// The node. Empty if none was chosen.
    pub node: String,
    /// The time since it began.
    pub age_ms: u64,
}

/// A change of the configuration, or the refusal of one.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChangeStatus {
    /// The time of day, in whole seconds since 1970.
    pub unix_time: u64,
    /// The number of the configuration after it.
    pub generation: u64,
    /// The one who asked for it: `start`, `configuration`, `source` or `operator`.
    pub by: &'static str,
    /// The changes, if it was taken over.
    pub changes: Vec<String>,
    /// The reason why it was refused. Then nothing has changed.
    pub error: Option<String>,
}
