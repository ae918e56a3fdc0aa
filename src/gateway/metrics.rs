//! The counters of a gateway, in the text format of Prometheus.
//!
//! The labels are names of the configuration: routes, pools and nodes. Nothing that a client sends becomes a label.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::record::{EndedBy, Record};
use super::socks::ReplyCode;
use crate::balance::Nodes;
use crate::metrics::{Expose, Exposition, TimeGauge};
use crate::{metric_label, metric_set};

metric_label! {
    /// The class of a status.
    pub(super) enum StatusClass("class") {
        /// From 100 to 199: another protocol.
        Informational = "1xx",
        /// From 200 to 299.
        Success = "2xx",
        /// From 300 to 399.
        Redirection = "3xx",
        /// From 400 to 499.
        ClientError = "4xx",
        /// From 500 to 599.
        ServerError = "5xx",
    }
}

metric_set! {
    /// The requests of a route up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct RouteStats("epicycle_gateway_route") {
        /// Requests that ended, by the classes of their statuses.
        requests: counter by StatusClass,
        /// Bytes of the bodies of requests.
        bytes_in: counter,
        /// Bytes of the bodies of responses.
        bytes_out: counter,
        /// Requests of clients whose addresses are not allowed.
        denied: counter,
        /// Requests without the password that was asked for.
        unauthenticated: counter,
        /// Requests beyond a limit of their rate.
        limited: counter,
        /// Responses that were compressed.
        compressed: counter,
        /// Bytes of bodies before they were compressed.
        compress_bytes_in: counter,
        /// Bytes of bodies after they were compressed.
        compress_bytes_out: counter,
        /// Copies of requests that a mirror has answered.
        mirrored: counter,
        /// Copies of requests that a mirror did not answer.
        mirror_failed: counter,
        /// Copies of requests that were not sent, as too many were under way.
        mirror_dropped: counter,
    }
    /// The counters of a route on one reactor.
    #[derive(Debug, Default)]
    pub(super) struct RouteCounters;
}

metric_set! {
    /// The connections of a pool up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct PoolStats("epicycle_gateway_pool") {
        /// Requests that were sent to a node on a connection that had served before.
        hits: counter,
        /// Connections that were opened.
        opens: counter,
        /// Connections now, with the idle ones.
        connections: gauge,
        /// Idle connections now.
        idle: gauge,
        /// Requests that wait for a connection now.
        waiting: gauge,
        /// Retries.
        retries: counter,
        /// Retries that the limit or the budget refused.
        refused_retries: counter,
        /// Requests that were refused as too many were under way.
        overloaded: counter,
        /// Ejections of nodes for their failures.
        ejections: counter,
        /// Times for which requests waited for a place or for a connection in use, of those that had to.
        queue: time_histogram,
        /// Times from the beginning of a request until it had a connection.
        connect: time_histogram,
        /// Times from the beginning of a request to the head of its response.
        first_byte: time_histogram,
        /// Times from the beginning of a request to its end.
        total: time_histogram,
    }
    /// The counters of a pool on one reactor, of about 40 KiB.
    #[derive(Debug, Default)]
    pub(super) struct PoolCounters;
}

metric_set! {
    /// The requests of a node up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct NodeStats("epicycle_gateway_node") {
        /// Requests that ended, by who ended them. A request counts for the last node that it was sent to.
        requests: counter by EndedBy,
        /// Connections of TCP listeners and sessions of UDP listeners that ended, by who ended them. One counts for the last node that
        /// was tried.
        tunnels: counter by EndedBy,
        /// Bytes from the clients of TCP and UDP listeners.
        tunnel_bytes_in: counter,
        /// Bytes to the clients of TCP and UDP listeners.
        tunnel_bytes_out: counter,
        /// Failures that count against the node's health: of connects and of requests.
        failures: counter,
        /// Responses whose head has arrived.
        responses: counter,
        /// Time from the beginning of these requests to the head of the response, in total.
        first_byte: time,
    }
    /// The counters of a node on one reactor.
    #[derive(Debug, Default)]
    pub(super) struct NodeCounters;
}

metric_set! {
    /// The connections of a TCP listener, or the sessions of a UDP listener, up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct ListenerStats("epicycle_gateway_listener") {
        /// Connections and sessions that ended, by who ended them.
        connections: counter by EndedBy,
        /// Bytes from clients.
        bytes_in: counter,
        /// Bytes to clients.
        bytes_out: counter,
    }
    /// The counters of a listener on one reactor.
    #[derive(Debug, Default)]
    pub(super) struct ListenerCounters;
}

metric_label! {
    /// The reason why a datagram was not passed on.
    pub(super) enum DropReason("reason") {
        /// It is malformed.
        Malformed = "malformed",
        /// It is a fragment.
        Fragment = "fragment",
        /// The egress policy refuses its target.
        Denied = "denied",
        /// There is no node, or no way to the target.
        Unreachable = "unreachable",
        /// Too many wait.
        Full = "full",
        /// It is too long with its header.
        TooLong = "too_long",
    }
}

metric_set! {
    /// The requests of a gateway up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct GatewayStats("epicycle_gateway") {
        /// Requests now.
        in_flight: gauge,
        /// Tunnels now.
        tunnels: gauge,
        /// Requests of SOCKS clients, by their replies.
        socks: counter by ReplyCode,
        /// Targets that the egress policy refused.
        egress_refusals: counter,
        /// Sessions of UDP listeners now.
        udp_sessions: gauge,
        /// Associations of SOCKS clients now.
        associations: gauge,
        /// Datagrams that were not passed on.
        dropped_datagrams: counter by DropReason,
    }
    /// The counters of a reactor.
    #[derive(Debug, Default)]
    pub(super) struct GatewayCounters;
}

/// The counters of a node on one reactor, and how fast it answers now.
#[derive(Debug, Default)]
pub(super) struct NodeMeter {
    pub(super) counters: NodeCounters,
    /// The time to the first byte, as a mean in which the last eight responses count most. Zero if there was none.
    latency: TimeGauge,
}

/// The counters of a reactor. It adds; any thread reads.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) all: GatewayCounters,
    listeners: Mutex<BTreeMap<String, Arc<ListenerCounters>>>,
    routes: Mutex<BTreeMap<String, Arc<RouteCounters>>>,
    pools: Mutex<BTreeMap<String, Arc<PoolCounters>>>,
    nodes: Mutex<BTreeMap<(String, String), Arc<NodeMeter>>>,
}

metric_label! {
    /// The reason for which a request to the admin interface was refused before it was looked at.
    pub(super) enum AdminRefusal("reason") {
        /// It has no token, or a wrong one.
        Token = "token",
        /// Its `Host` is none of this interface's.
        Host = "host",
        /// A page of another origin has sent it.
        Origin = "origin",
    }
}

metric_set! {
    /// The requests to the admin interface up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct AdminStats("epicycle_gateway_admin") {
        /// Requests that were answered.
        requests: counter by StatusClass,
        /// Requests that were refused before they were looked at.
        refusals: counter by AdminRefusal,
    }
    /// The counters of the admin interface.
    #[derive(Debug, Default)]
    pub(super) struct AdminCounters;
}

/// The counters of all reactors together.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) all: GatewayStats,
    pub(super) listeners: BTreeMap<String, ListenerStats>,
    pub(super) routes: BTreeMap<String, RouteStats>,
    pub(super) pools: BTreeMap<String, PoolStats>,
    /// By pool and node.
    pub(super) nodes: BTreeMap<(String, String), NodeStats>,
    /// The latencies of nodes in seconds, as sums of weighted means and of the weights.
    pub(super) latencies: BTreeMap<(String, String), (f64, f64)>,
}

/// The counters of all reactors.
#[derive(Debug, Default)]
pub(super) struct Registry {
    reactors: Mutex<Vec<Arc<Meters>>>,
    pub(super) admin: Arc<AdminCounters>,
    /// The number of configurations that were taken over since the start.
    pub(super) reloads: AtomicU64,
    /// The number of configurations that were refused.
    pub(super) failed_reloads: AtomicU64,
}

impl Meters {
    /// Returns the counters of a listener.
    pub(super) fn listener(&self, on: &str) -> Arc<ListenerCounters> {
        self.listeners
            .lock()
            .entry(on.to_owned())
            .or_default()
            .clone()
    }

    /// Returns the counters of a route. A route that comes back goes on with its old ones.
    pub(super) fn route(&self, name: &str) -> Arc<RouteCounters> {
        self.routes
            .lock()
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// Returns the counters of a pool.
    pub(super) fn pool(&self, name: &str) -> Arc<PoolCounters> {
        self.pools
            .lock()
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// Returns the counters of a node.
    pub(super) fn node(&self, pool: &str, node: &str) -> Arc<NodeMeter> {
        let key = (pool.to_owned(), node.to_owned());
        self.nodes.lock().entry(key).or_default().clone()
    }

    /// Forgets the counters that nobody uses any more.
    pub(super) fn forget_unused(&self) {
        self.listeners
            .lock()
            .retain(|_, counters| Arc::strong_count(counters) > 1);
        self.routes
            .lock()
            .retain(|_, counters| Arc::strong_count(counters) > 1);
        self.pools
            .lock()
            .retain(|_, counters| Arc::strong_count(counters) > 1);
        self.nodes
            .lock()
            .retain(|_, counters| Arc::strong_count(counters) > 1);
    }
}

impl StatusClass {
    pub(super) fn of(status: u16) -> Self {
        match status {
            100..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

impl RouteCounters {
    pub(super) fn count(&self, record: &Record<'_>) {
        self.requests[StatusClass::of(record.status)].add(1);
        self.bytes_in.add(record.request_bytes);
        self.bytes_out.add(record.response_bytes);
    }
}

impl PoolCounters {
    pub(super) fn count(&self, record: &Record<'_>) {
        if record.reused {
            self.hits.add(1);
        }
        if !record.times.queued.is_zero() {
            self.queue.record_time(record.times.queued);
        }
        if let Some(connected) = record.times.connected {
            self.connect.record_time(connected);
        }
        if let Some(first_byte) = record.times.first_byte {
            self.first_byte.record_time(first_byte);
        }
        self.total.record_time(record.times.total);
    }
}

impl NodeMeter {
    pub(super) fn count(&self, record: &Record<'_>) {
        self.counters.requests[record.ended_by].add(1);
        let Some(first_byte) = record.times.first_byte else {
            return;
        };
        self.counters.responses.add(1);
        self.counters.first_byte.add(first_byte);
        let mean = self.latency.get();
        self.latency.set(match mean.is_zero() {
            true => first_byte,
            false => mean - mean / 8 + first_byte / 8,
        });
    }
}

impl NodeCounters {
    /// Counts a connection of a TCP listener.
    pub(super) fn count_tunnel(&self, record: &Record<'_>) {
        self.tunnels[record.ended_by].add(1);
        self.tunnel_bytes_in.add(record.request_bytes);
        self.tunnel_bytes_out.add(record.response_bytes);
    }
}

impl ListenerCounters {
    pub(super) fn count(&self, record: &Record<'_>) {
        self.connections[record.ended_by].add(1);
        self.bytes_in.add(record.request_bytes);
        self.bytes_out.add(record.response_bytes);
    }
}

impl Registry {
    /// Returns the counters of another reactor.
    pub(super) fn reactor(&self) -> Arc<Meters> {
        let meters = Arc::new(Meters::default());
        self.reactors.lock().push(meters.clone());
        meters
    }

    /// Returns the counters of all reactors together.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for meters in &*self.reactors.lock() {
            totals.all += meters.all.read();
            for (on, counters) in &*meters.listeners.lock() {
                *totals.listeners.entry(on.clone()).or_default() += counters.read();
            }
            for (name, counters) in &*meters.routes.lock() {
                *totals.routes.entry(name.clone()).or_default() += counters.read();
            }
            for (name, counters) in &*meters.pools.lock() {
                *totals.pools.entry(name.clone()).or_default() += counters.read();
            }
            for (names, meter) in &*meters.nodes.lock() {
                let stats = meter.counters.read();
                let latency = totals.latencies.entry(names.clone()).or_default();
                // A reactor that asked the node more often knows better.
                let weight = stats.responses as f64;
                latency.0 += meter.latency.get().as_secs_f64() * weight;
                latency.1 += weight;
                *totals.nodes.entry(names.clone()).or_default() += stats;
            }
        }
        totals
    }

    /// Adds the counters of all reactors to an exposition, and the state of the nodes.
    pub(super) fn expose<'a>(
        &self,
        pools: impl Iterator<Item = (&'a str, &'a Nodes)>,
        to: &mut Exposition,
    ) {
        let Totals {
            all,
            routes,
            pools: stats_of_pools,
            nodes,
            listeners,
            latencies: _,
        } = self.totals();
        self.admin.read().expose(&[], to);
        all.expose(&[], to);
        for (on, stats) in &listeners {
            stats.expose(&[("listener", on)], to);
        }
        for (route, stats) in &routes {
            stats.expose(&[("route", route)], to);
        }
        for (pool, stats) in &stats_of_pools {
            stats.expose(&[("pool", pool)], to);
        }
        for ((pool, node), stats) in &nodes {
            stats.expose(&[("pool", pool), ("node", node)], to);
        }
        for (pool, nodes) in pools {
            for node in nodes.iter() {
                let labels = [("pool", pool), ("node", node.address())];
                let mut gauge = |name: &str, help: &str, value: f64| {
                    to.gauge(
                        &format!("epicycle_gateway_node_{name}"),
                        help,
                        &labels,
                        value,
                    );
                };
                let flag = |yes: bool| f64::from(u8::from(yes));
                let takes = node.is_up() && !node.is_disabled();
                gauge("up", "1 if the node takes requests.", flag(takes));
                gauge(
                    "down",
                    "1 if the health check has found the node down.",
                    flag(node.is_down()),
                );
                gauge(
                    "ejected",
                    "1 if the node is ejected for its failures.",
                    flag(node.is_ejected()),
                );
                gauge(
                    "in_flight",
                    "Requests at the node now.",
                    f64::from(node.in_flight()),
                );
                gauge(
                    "weight",
                    "The weight of the node.",
                    f64::from(node.weight()),
                );
            }
        }
        let mut counter = |name: &str, help: &str, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed) as f64;
            to.counter(&format!("epicycle_gateway_{name}_total"), help, &[], value);
        };
        counter(
            "reloads",
            "Configurations that were taken over since the start.",
            &self.reloads,
        );
        counter(
            "failed_reloads",
            "Configurations that were refused.",
            &self.failed_reloads,
        );
    }
}
