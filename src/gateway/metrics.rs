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
use crate::metrics::{Expose, Exposition};
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
        /// Connections of TCP listeners that ended, by who ended them. One counts for the last node that was tried.
        tunnels: counter by EndedBy,
        /// Bytes from the clients of TCP listeners.
        tunnel_bytes_in: counter,
        /// Bytes to the clients of TCP listeners.
        tunnel_bytes_out: counter,
    }
    /// The counters of a node on one reactor.
    #[derive(Debug, Default)]
    pub(super) struct NodeCounters;
}

metric_set! {
    /// The connections of a listener that forwards up to one moment.
    #[derive(Clone, Debug, Default)]
    pub(super) struct ListenerStats("epicycle_gateway_listener") {
        /// Connections that ended, by who ended them.
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
    }
    /// The counters of a reactor.
    #[derive(Debug, Default)]
    pub(super) struct GatewayCounters;
}

/// The counters of a reactor. It adds; any thread reads.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) all: GatewayCounters,
    listeners: Mutex<BTreeMap<String, Arc<ListenerCounters>>>,
    routes: Mutex<BTreeMap<String, Arc<RouteCounters>>>,
    pools: Mutex<BTreeMap<String, Arc<PoolCounters>>>,
    nodes: Mutex<BTreeMap<(String, String), Arc<NodeCounters>>>,
}

/// The counters of all reactors.
#[derive(Debug, Default)]
pub(super) struct Registry {
    reactors: Mutex<Vec<Arc<Meters>>>,
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
    pub(super) fn node(&self, pool: &str, node: &str) -> Arc<NodeCounters> {
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

impl RouteCounters {
    pub(super) fn count(&self, record: &Record<'_>) {
        let class = match record.status {
            100..200 => StatusClass::Informational,
            200..300 => StatusClass::Success,
            300..400 => StatusClass::Redirection,
            400..500 => StatusClass::ClientError,
            _ => StatusClass::ServerError,
        };
        self.requests[class].add(1);
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

impl NodeCounters {
    pub(super) fn count(&self, record: &Record<'_>) {
        self.requests[record.ended_by].add(1);
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

    /// Adds the counters of all reactors to an exposition, and the state of the nodes.
    pub(super) fn expose<'a>(
        &self,
        pools: impl Iterator<Item = (&'a str, &'a Nodes)>,
        to: &mut Exposition,
    ) {
        let reactors = self.reactors.lock();
        let mut all = GatewayStats::default();
        let mut listeners = BTreeMap::<String, ListenerStats>::new();
        let mut routes = BTreeMap::<String, RouteStats>::new();
        let mut stats_of_pools = BTreeMap::<String, PoolStats>::new();
        let mut nodes = BTreeMap::<(String, String), NodeStats>::new();
        for meters in &*reactors {
            all += meters.all.read();
            for (on, counters) in &*meters.listeners.lock() {
                *listeners.entry(on.clone()).or_default() += counters.read();
            }
            for (name, counters) in &*meters.routes.lock() {
                *routes.entry(name.clone()).or_default() += counters.read();
            }
            for (name, counters) in &*meters.pools.lock() {
                *stats_of_pools.entry(name.clone()).or_default() += counters.read();
            }
            for (names, counters) in &*meters.nodes.lock() {
                *nodes.entry(names.clone()).or_default() += counters.read();
            }
        }
        drop(reactors);
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
                gauge("up", "1 if the node takes requests.", flag(node.is_up()));
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
