//! The pools: the choice of a node, and a reactor's own connections to the nodes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::destination::Destination;
use super::dial;
use super::egress::Way;
use super::error::{Cause, Phase, ProxyError};
use super::health::Checks;
use super::hooks::{Head, path_of};
use super::metrics::{Meters, NodeMeter, PoolCounters};
use super::places::{Held, Places, TakenPlace};
use super::settings::{BalanceBy, HashKey, NodeAddr, NodeState, PoolSettings, ProxyVersion};
use super::turns::InTurn;
use crate::addr::Endpoint;
use crate::balance::{
    Balancer, Change, HashRing, Health, InFlight, KeyHash, Least, Node, NodeId, NodeSpec, Nodes,
    Outcome, Place, Random, RetryBudget, RoundRobin, TwoChoices, Weighted,
};
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::engine::connect::Connect;
use crate::engine::proxy_protocol::ProxyHeader;
use crate::engine::slots::ConnId;
use crate::fetch;
use crate::http::client::StreamCodec;
use crate::http::{Limits, StatusCode};

/// The part of a pool that all reactors share.
pub(super) struct SharedPool {
    pub(super) name: Box<str>,
    pub(super) settings: PoolSettings,
    pub(super) nodes: Nodes,
    pub(super) health: Arc<Health>,
    /// The places for connections to each node.
    pub(super) places: HashMap<NodeId, Arc<Places>>,
    /// The places at nodes that were removed and still have connections, by address. A node that comes back has these.
    left_places: HashMap<Box<str>, Arc<Places>>,
    /// The requests under way, if they have a limit.
    in_flight: Arc<AtomicU32>,
    /// The next place in the sequence of a balancer that picks in turn.
    next: Arc<AtomicU64>,
    /// The moment from which the health's times count.
    epoch: Arc<OnceLock<Instant>>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::tls::TlsClient>,
    /// The same for connections that are joined with those of clients, once there is one.
    #[cfg(feature = "tls")]
    tls_for_joined: OnceLock<crate::tls::TlsClient>,
}

/// A pool of a reactor.
pub(super) struct Pool {
    pub(super) shared: Arc<SharedPool>,
    pub(super) nodes: Nodes,
    addrs: FxHashMap<NodeId, NodeAddr>,
    /// The nodes that were removed or put down, as long as they may have connections.
    removed: HashMap<NodeId, Removed>,
    /// The number of times that the rules have changed by which connections are made. Those made before serve no further
    /// request.
    pub(super) generation: u32,
    /// True if a node is put in a state in which it takes no requests.
    has_disabled: bool,
    /// The time at which the pool itself was removed.
    gone: Option<Instant>,
    balancer: Box<dyn Balancer>,
    budget: RetryBudget,
    pub(super) connections: fetch::Pool<Destination, ConnId, ConnId, FxBuildHasher>,
    /// The connections that carry copies of requests, and the copies that wait for one.
    pub(super) mirrors: fetch::Pool<NodeId, ConnId, u64, FxBuildHasher>,
    /// The earliest alarm that is set for them.
    pub(super) mirror_alarm: Option<Instant>,
    /// The dials that wait for a place at their node.
    pub(super) held: Held,
    pub(super) checks: Checks,
    /// The limits of connections to nodes.
    limits: ConnLimits,
    /// The earliest alarm that is set.
    pub(super) alarm: Option<Instant>,
    /// The time for which the next look at the health is scheduled, as the health counts it.
    pub(super) tended_at: Option<Duration>,
    pub(super) counters: Arc<PoolCounters>,
    pub(super) node_counters: FxHashMap<NodeId, Arc<NodeMeter>>,
}

/// A node that was removed.
struct Removed {
    since: Instant,
    address: Box<str>,
}

/// A node that serves an exchange. The exchange counts there as long as this is kept.
pub(super) struct Chosen {
    pub(super) node: NodeId,
    _in_flight: InFlight,
}

/// A request among the `max_in_flight` of its pool, as long as this is kept.
pub(super) struct InPool(Arc<AtomicU32>);

impl Drop for InPool {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time for which a connection that was closed waits for the node's FIN. Nothing else can come, and another connection may need
/// its place.
const FIN_TIMEOUT: Duration = Duration::from_millis(100);

/// The number of nodes that are tried if others probe them.
const MAX_PICKS: usize = 8;

impl SharedPool {
    /// Returns a pool for so many reactors, or one that goes on with the nodes of an older one.
    pub(super) fn new(
        name: &str,
        settings: &PoolSettings,
        reactors: usize,
        old: Option<&Self>,
    ) -> Self {
        let specs = settings.nodes.iter().map(|node| {
            let spec = NodeSpec::new(&*node.to).weight(node.weight);
            let spec = if node.backup { spec.backup() } else { spec };
            match node.state {
                NodeState::Up => spec,
                NodeState::Drain | NodeState::Down => spec.disabled(),
            }
        });
        let (ejection, slow_start) = (settings.ejection.clone(), settings.slow_start);
        let (nodes, health) = match old {
            None => {
                let health = Health::new(ejection).slow_start(slow_start);
                (Nodes::new(specs), Arc::new(health))
            }
            Some(old) => {
                let (nodes, changes) = old.nodes.updated(specs);
                let health = match old.settings.ejection == ejection
                    && old.settings.slow_start == slow_start
                {
                    true => old.health.clone(),
                    false => Arc::new(old.health.updated(ejection, slow_start)),
                };
                health.added(&nodes, &changes.added, old.time(Instant::now()));
                (nodes, health)
            }
        };
        let max = settings.connections.max_connections;
        let mut left_places = old.map(Self::places_by_address).unwrap_or_default();
        let places = nodes.iter().map(|node| {
            let kept = left_places.remove(node.address());
            let places = kept.unwrap_or_else(|| Arc::new(Places::new(max, reactors)));
            (node.id(), places)
        });
        let places = places.collect();
        left_places.retain(|_, places| places.taken() > 0);
        Self {
            name: name.into(),
            places,
            left_places,
            nodes: nodes.fail_open(settings.fail_open),
            health,
            in_flight: old.map(|old| old.in_flight.clone()).unwrap_or_default(),
            next: old.map(|old| old.next.clone()).unwrap_or_default(),
            epoch: old.map(|old| old.epoch.clone()).unwrap_or_default(),
            #[cfg(feature = "tls")]
            tls: settings.tls.clone(),
            #[cfg(feature = "tls")]
            tls_for_joined: OnceLock::new(),
            settings: settings.clone(),
        }
    }

    /// Returns the TLS of connections that are joined with those of clients. They may carry any protocol, so none is offered unless
    /// the settings do.
    #[cfg(feature = "tls")]
    fn tls_for_joined(&self) -> Option<&crate::tls::TlsClient> {
        if self.settings.tls.is_some() {
            return self.tls.as_ref();
        }
        let tls = self.tls.as_ref()?;
        Some(
            self.tls_for_joined
                .get_or_init(|| tls.clone().alpn(&[""; 0])),
        )
    }

    /// Returns the places at all nodes, with those at nodes that were removed.
    fn places_by_address(&self) -> HashMap<Box<str>, Arc<Places>> {
        let mut all = self.left_places.clone();
        for node in self.nodes.iter() {
            if let Some(places) = self.places.get(&node.id()) {
                all.insert(node.address().into(), places.clone());
            }
        }
        all
    }

    /// Returns the node at which a place is. A node that was removed and has come back is another one by now.
    pub(super) fn node_of(&self, place: &TakenPlace) -> Option<NodeId> {
        let mut all = self.places.iter();
        let found = all.find(|(_, places)| place.is_one_of(places));
        found.map(|(node, _)| *node)
    }

    /// Returns true if connections to the nodes are made by the same rules as those of another pool.
    fn connects_as(&self, other: &Self) -> bool {
        #[cfg(feature = "tls")]
        {
            let is_same = match (&self.tls, &other.tls) {
                (Some(own), Some(other)) => own.has_rules_of(other),
                (own, other) => own.is_none() && other.is_none(),
            };
            if !is_same {
                return false;
            }
        }
        self.settings.proxy_protocol == other.settings.proxy_protocol
            && self.settings.via == other.settings.via
    }

    /// Returns the time for the health.
    pub(super) fn time(&self, now: Instant) -> Duration {
        // No time before the first one counts.
        let epoch = self.epoch.get_or_init(|| now);
        now.saturating_duration_since(*epoch)
    }
}

impl Pool {
    /// Returns the pool of one of several reactors.
    ///
    /// At most `high_water` bytes of a request wait for a node.
    pub(super) fn new(
        shared: Arc<SharedPool>,
        reactors: usize,
        high_water: usize,
        meters: &Meters,
    ) -> Self {
        let bounds = bounds(&shared.settings, reactors);
        let has_disabled = shared.nodes.iter().any(Node::is_disabled);
        Self {
            addrs: addrs(&shared),
            removed: HashMap::new(),
            generation: 0,
            has_disabled,
            gone: None,
            nodes: shared.nodes.clone(),
            balancer: balancer(&shared),
            budget: budget(&shared.settings, reactors),
            connections: fetch::Pool::with_hasher(bounds.clone(), FxBuildHasher),
            mirrors: fetch::Pool::with_hasher(bounds, FxBuildHasher),
            mirror_alarm: None,
            held: Held::default(),
            checks: Checks::default(),
            limits: limits(&shared.settings, high_water),
            alarm: None,
            tended_at: None,
            counters: meters.pool(&shared.name),
            node_counters: node_counters(&shared, meters),
            shared,
        }
    }

    /// Goes on with other settings. Connections to nodes that stay are kept.
    pub(super) fn take_over(
        &mut self,
        shared: &Arc<SharedPool>,
        reactors: usize,
        high_water: usize,
        meters: &Meters,
        now: Instant,
    ) {
        if Arc::ptr_eq(&self.shared, shared) {
            return;
        }
        let old = std::mem::replace(&mut self.shared, shared.clone());
        let nodes_before = std::mem::replace(&mut self.nodes, shared.nodes.clone());
        self.addrs = addrs(shared);
        for node in nodes_before.iter() {
            if !self.addrs.contains_key(&node.id()) {
                let (since, address) = (now, node.address().into());
                self.removed.insert(node.id(), Removed { since, address });
            }
        }
        self.has_disabled = self.nodes.iter().any(Node::is_disabled);
        let settings = shared.settings.nodes.iter();
        let down = settings.filter(|node| node.state == NodeState::Down);
        let down: HashSet<&str> = down.map(|node| &*node.to).collect();
        for node in self.nodes.iter() {
            if node.is_disabled() && down.contains(node.address()) {
                let removed = || Removed {
                    since: now,
                    address: node.address().into(),
                };
                self.removed.entry(node.id()).or_insert_with(removed);
            } else {
                self.removed.remove(&node.id());
            }
        }
        if !old.connects_as(shared) {
            self.generation += 1;
            self.connections.close_all_idle();
            self.mirrors.close_all_idle();
        }
        match old.settings.balance == shared.settings.balance {
            true => self.balancer.update(&self.nodes),
            false => self.balancer = balancer(shared),
        }
        if old.settings.retries != shared.settings.retries {
            self.budget = budget(&shared.settings, reactors);
        }
        self.limits = limits(&shared.settings, high_water);
        let bounds = bounds(&shared.settings, reactors);
        self.connections.set_limits(bounds.clone());
        self.mirrors.set_limits(bounds);
        for places in shared.places.values() {
            places.set_max(shared.settings.connections.max_connections);
        }
        let (addrs, nodes) = (&self.addrs, &self.nodes);
        let is_disabled = |node| nodes.get(node).is_some_and(Node::is_disabled);
        self.connections
            .close_idle_where(|to| !addrs.contains_key(&to.node) || is_disabled(to.node));
        self.mirrors
            .close_idle_where(|node| !addrs.contains_key(node) || is_disabled(*node));
        self.node_counters = node_counters(shared, meters);
    }

    /// Returns the weight of a node as its failures have left it here.
    pub(super) fn effective_weight(&self, node: NodeId) -> Option<u32> {
        self.balancer.effective_weight(node)
    }

    /// Notes that the pool is in the settings, or no longer.
    pub(super) fn set_live(&mut self, is_live: bool, now: Instant) {
        match is_live {
            true => self.gone = None,
            false => {
                self.gone.get_or_insert(now);
                self.connections.close_all_idle();
                self.mirrors.close_all_idle();
            }
        }
    }

    /// Returns true if the pool was removed and has nothing under way.
    pub(super) fn has_ended(&self) -> bool {
        let (own, mirrors) = (&self.connections, &self.mirrors);
        let connections = own.connections() + own.dialing() + own.waiting();
        let of_mirrors = mirrors.connections() + mirrors.dialing() + mirrors.waiting();
        self.gone.is_some() && self.held.is_empty() && connections + of_mirrors == 0
    }

    /// Takes the number of a pool that has ended. Checks that were scheduled for that one are none of this one's.
    pub(super) fn in_place_of(mut self, ended: &Self) -> Self {
        self.checks.generation = ended.checks.generation;
        self
    }

    /// Returns true if a node gets no new requests.
    pub(super) fn is_leaving(&self, node: NodeId) -> bool {
        let is_removed = !self.settings().serves_targets && !self.addrs.contains_key(&node);
        self.gone.is_some() || is_removed || self.is_disabled(node)
    }

    /// Returns true if a node is put in a state in which it takes no requests.
    fn is_disabled(&self, node: NodeId) -> bool {
        self.has_disabled && self.nodes.get(node).is_some_and(Node::is_disabled)
    }

    /// Returns true if nodes were removed that may have connections, or the pool itself.
    pub(super) fn has_removed(&self) -> bool {
        self.gone.is_some() || !self.removed.is_empty()
    }

    /// Returns true if a node was removed or put down so long ago.
    pub(super) fn has_left(&self, node: NodeId, for_so_long: Duration, now: Instant) -> bool {
        let removed = self.removed.get(&node).map(|removed| removed.since);
        let since = self.gone.into_iter().chain(removed).min();
        match since {
            Some(since) => now.saturating_duration_since(since) >= for_so_long,
            // A node that drains has all the time.
            None => !self.addrs.contains_key(&node),
        }
    }

    /// Forgets the nodes that were removed so long ago.
    pub(super) fn forget_removed(&mut self, for_so_long: Duration, now: Instant) {
        self.removed
            .retain(|_, removed| now.saturating_duration_since(removed.since) < for_so_long);
    }

    /// Returns the codec of a connection to a node.
    pub(super) fn codec(&self) -> StreamCodec {
        let settings = self.settings();
        let limits = Limits::default()
            .max_head(settings.limits.max_head)
            .max_line(settings.limits.max_head)
            .max_headers(settings.limits.max_headers)
            .max_body(u64::MAX);
        let codec = StreamCodec::new(limits);
        match settings.timeouts.response_head {
            Duration::MAX => codec,
            timeout => codec.response_timeout(timeout),
        }
    }

    /// Returns the connect of a session to a node that takes datagrams, with these limits. Returns `None` if it is in the list no
    /// more.
    pub(super) fn connect_datagrams(&self, node: NodeId, limits: ConnLimits) -> Option<Connect> {
        let addr = self.addrs.get(&node).filter(|addr| addr.is_udp())?;
        let connect = Connect::to(addr.endpoint.clone()).limits(limits);
        Some(connect.timeout(self.settings().timeouts.connect))
    }

    /// Returns the connect to a node for a check. Returns `None` if it is in the list no more. A node that takes datagrams is checked
    /// by a connection to the same port.
    pub(super) fn connect_check(&self, node: NodeId) -> Option<Connect> {
        if let Endpoint::Udp { host, port, family } = &self.addrs.get(&node)?.endpoint {
            let endpoint = Endpoint::Tcp {
                host: host.clone(),
                port: *port,
                family: *family,
            };
            return Some(Connect::to(endpoint).limits(self.limits.clone()));
        }
        self.connect(&Destination {
            node,
            client: None,
            target: None,
        })
    }

    /// Returns the connect to a node or a target. Returns `None` if the node is in the list no more, or takes datagrams.
    pub(super) fn connect(&self, to: &Destination) -> Option<Connect> {
        if let Some(named) = &to.target {
            let via = self.settings().via.as_ref();
            let connect = dial::connect(&named.guard, &named.target, Way::Http, via);
            let timeout = self.settings().timeouts.connect;
            return Some(connect.timeout(timeout).limits(self.limits.clone()));
        }
        let addr = self.addrs.get(&to.node).filter(|addr| !addr.is_udp())?;
        let timeouts = &self.settings().timeouts;
        let timeout = match addr.is_tls {
            true => timeouts.connect.saturating_add(timeouts.tls_handshake),
            false => timeouts.connect,
        };
        let connect = match &self.settings().via {
            Some(via) => via.connect_to(&addr.target()?),
            None => Connect::to(addr.endpoint.clone()),
        };
        let connect = connect.timeout(timeout).limits(self.limits.clone());
        let addrs = to.client.and_then(|client| client.addrs);
        let connect = match self.settings().proxy_protocol {
            Some(version) => connect.proxy_protocol(match (addrs, version) {
                (Some((client, server)), ProxyVersion::V1) => ProxyHeader::v1(client, server),
                (Some((client, server)), ProxyVersion::V2) => ProxyHeader::v2(client, server),
                (None, _) => ProxyHeader::local(),
            }),
            None => connect,
        };
        #[cfg(feature = "tls")]
        if addr.is_tls {
            let tls = match to.is_joined() {
                true => self.shared.tls_for_joined(),
                false => self.shared.tls.as_ref(),
            };
            if let Some(tls) = tls {
                // The name was checked with the settings.
                let named = match &addr.name {
                    Some(name) if !tls.has_server_name() => tls.clone().server_name(name).ok(),
                    _ => None,
                };
                return Some(connect.tls(named.as_ref().unwrap_or(tls)));
            }
        }
        Some(connect)
    }

    pub(super) fn settings(&self) -> &PoolSettings {
        &self.shared.settings
    }

    pub(super) fn addr(&self, node: NodeId) -> Option<&NodeAddr> {
        self.addrs.get(&node)
    }

    /// Returns the address of a node, as the settings spell it.
    pub(super) fn name_of(&self, node: NodeId) -> &str {
        let removed = || self.removed.get(&node).map(|removed| &*removed.address);
        self.nodes
            .address(node)
            .or_else(removed)
            .unwrap_or_default()
    }

    /// Updates the counts of connections and of requests that wait.
    pub(super) fn count_connections(&self) {
        let (counters, connections) = (&self.counters, &self.connections);
        counters.connections.set(connections.connections() as u64);
        counters.idle.set(connections.idle() as u64);
        counters.waiting.set(connections.waiting() as u64);
    }

    /// Tells the other reactors which dials to a node wait here for a place.
    pub(super) fn tell_held(&self, node: NodeId, reactor: usize) {
        if let Some(places) = self.shared.places.get(&node) {
            let (dials, since) = self.held.at(node);
            places.tell(reactor, dials, since);
        }
    }

    /// Returns true if a connection that could serve again must make room for another reactor, which waits for longer than this
    /// one, by more than a hundredth of the time that a request may wait.
    pub(super) fn must_yield(&self, node: NodeId, reactor: usize) -> bool {
        let limits = &self.settings().connections;
        if limits.max_connections.is_none() {
            return false;
        }
        let (_, own) = self.held.at(node);
        let places = self.shared.places.get(&node);
        places.is_some_and(|places| places.must_yield(reactor, own, limits.pending_timeout / 100))
    }

    /// Counts a request among the `max_in_flight` of the pool, if there is such a limit.
    pub(super) fn enter(&self) -> Result<Option<InPool>, ProxyError> {
        let Some(max) = self.settings().max_in_flight else {
            return Ok(None);
        };
        let in_flight = &self.shared.in_flight;
        let entered = in_flight.fetch_add(1, Ordering::Relaxed);
        let place = InPool(in_flight.clone());
        match entered < max {
            true => Ok(Some(place)),
            false => Err(overloaded()),
        }
    }

    /// Counts a request for the retry budget.
    pub(super) fn count(&mut self, now: Instant) {
        let now = self.shared.time(now);
        self.budget.request(now);
    }

    /// Returns true if something that was retried so often may be retried once more, and counts it.
    pub(super) fn may_retry(&mut self, retries: &mut u32, now: Instant) -> bool {
        let now = self.shared.time(now);
        if *retries >= self.settings().retries.max || !self.budget.try_retry(now) {
            self.counters.refused_retries.add(1);
            return false;
        }
        self.counters.retries.add(1);
        *retries += 1;
        true
    }

    /// Chooses a node that is none of those that were tried.
    pub(super) fn pick(&mut self, key: u64, tried: &[NodeId]) -> Result<Chosen, ProxyError> {
        let mut without = tried.to_vec();
        let max = self.settings().max_in_flight_per_node;
        if let Some(max) = max {
            let nodes = self.nodes.iter();
            let full = nodes.filter(|node| node.in_flight() >= max);
            without.extend(full.map(Node::id));
        }
        let is_any_full = without.len() > tried.len();
        for _ in 0..MAX_PICKS {
            let picked = match without.is_empty() {
                true => self.balancer.pick(&self.nodes, key),
                false => self.balancer.pick(&self.nodes.without(&without), key),
            };
            let Some(node) = picked else { break };
            if let Some(chosen) = self.take(node) {
                return Ok(chosen);
            }
            // Another request probes it, or it is full by now.
            without.push(node);
        }
        if is_any_full {
            return Err(overloaded());
        }
        Err(ProxyError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Phase::Pick,
            Cause::NoNode,
        ))
    }

    /// Takes this very node, if it takes requests.
    pub(super) fn take(&self, node: NodeId) -> Option<Chosen> {
        if self.is_disabled(node) {
            return None;
        }
        let in_flight = self.nodes.begin(node)?;
        let max = self.settings().max_in_flight_per_node;
        if max.is_some_and(|max| self.nodes.in_flight(node) > max) {
            return None;
        }
        Some(Chosen {
            node,
            _in_flight: in_flight,
        })
    }

    /// Returns the node with that address.
    pub(super) fn node_at(&self, address: &str) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|node| node.address() == address)?;
        Some(found.id())
    }

    /// Reports what became of a request at a node. Returns true if the health has something to do later.
    pub(super) fn report(&mut self, node: NodeId, outcome: Outcome, now: Instant) -> bool {
        self.balancer.done(node, outcome);
        if outcome == Outcome::Failure
            && let Some(meter) = self.node_counters.get(&node)
        {
            meter.counters.failures.add(1);
        }
        let time = self.shared.time(now);
        let change = self.shared.health.report(&self.nodes, node, outcome, time);
        let Some(change) = change else { return false };
        let (pool, name) = (&self.shared.name, self.name_of(node));
        match change {
            Change::Ejected { lasts } => {
                log::warn!(target: "epicycle::gateway::health", "pool {pool}: {name} failed several times in a row, and gets no requests for {lasts:?}");
                self.counters.ejections.add(1);
                self.tell_if_none_is_up(node);
            }
            Change::Returned => {
                log::info!(target: "epicycle::gateway::health", "pool {pool}: {name} has returned");
            }
        }
        true
    }

    /// Logs that no node is left, after this one has gone.
    pub(super) fn tell_if_none_is_up(&self, last: NodeId) {
        let takes = |node: &Node| node.is_up() && !node.is_disabled();
        if self.nodes.iter().any(takes) {
            return;
        }
        let (pool, name) = (&self.shared.name, self.name_of(last));
        let then = match self.settings().fail_open {
            true => "requests go to all of them",
            false => "requests are answered with 503",
        };
        log::warn!(target: "epicycle::gateway::health", "pool {pool}: {name} was the last node that was up, {then}");
    }

    /// Returns the key by which the balancer may hash a request.
    pub(super) fn key(&self, head: &Head, client: Option<IpAddr>) -> u64 {
        let BalanceBy::Hash { key, ring, .. } = &self.settings().balance else {
            return 0;
        };
        hash(*ring, key, head, client)
    }

    /// Returns the key by which the balancer may hash a connection of a client.
    pub(super) fn key_of(&self, client: Option<IpAddr>) -> u64 {
        match &self.settings().balance {
            BalanceBy::Hash { ring, .. } => hash_of(*ring, client),
            _ => 0,
        }
    }
}

fn overloaded() -> ProxyError {
    ProxyError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Phase::Pick,
        Cause::Overloaded,
    )
}

fn balancer(shared: &SharedPool) -> Box<dyn Balancer> {
    let settings = &shared.settings;
    let seed = fastrand::u64(..);
    match &settings.balance {
        BalanceBy::Random => Box::new(Random::new(seed)),
        BalanceBy::RoundRobin => Box::new(InTurn::new(
            RoundRobin::new(Place::ALONE),
            shared.next.clone(),
        )),
        BalanceBy::Weighted => Box::new(InTurn::new(
            Weighted::new(Place::ALONE),
            shared.next.clone(),
        )),
        BalanceBy::Least => Box::new(Least::new()),
        BalanceBy::TwoChoices => Box::new(TwoChoices::new(seed)),
        BalanceBy::Hash {
            replicas,
            ring,
            bound,
            ..
        } => {
            let hashed = HashRing::new().hash(*ring).replicas(*replicas);
            Box::new(match bound {
                Some(bound) => hashed.bound(*bound),
                None => hashed,
            })
        }
    }
}

fn bounds(settings: &PoolSettings, reactors: usize) -> fetch::PoolLimits {
    let share = |all: usize| all.div_ceil(reactors);
    let limits = &settings.connections;
    let bounds = fetch::PoolLimits::default()
        .max_total(usize::MAX)
        .max_idle(match settings.serves_targets {
            true => share(limits.max_idle),
            false => usize::MAX,
        })
        .max_idle_per_destination(share(limits.max_idle))
        .idle_timeout(limits.idle_timeout);
    match limits.max_connections {
        Some(_) => bounds.max_waiting(limits.max_pending),
        // They wait for no other request, only for their own connection.
        None => bounds.max_waiting(usize::MAX),
    }
}

fn budget(settings: &PoolSettings, reactors: usize) -> RetryBudget {
    let share = |all: usize| all.div_ceil(reactors);
    let retries = &settings.retries;
    let floor = u32::try_from(share(retries.budget_floor as usize)).unwrap_or(u32::MAX);
    RetryBudget::new()
        .percent(retries.budget_percent)
        .floor(floor)
}

/// Returns the limits of connections to nodes.
fn limits(settings: &PoolSettings, high_water: usize) -> ConnLimits {
    let timeouts = &settings.timeouts;
    ConnLimits::new()
        .read_timeout(timeouts.body_idle)
        .write_stall_timeout(timeouts.body_idle)
        .fin_timeout(FIN_TIMEOUT)
        .high_water(high_water)
        .low_water(high_water / 2)
        .outbound_policy(OutboundPolicy::Drop)
}

fn addrs(shared: &SharedPool) -> FxHashMap<NodeId, NodeAddr> {
    let settings = &shared.settings;
    let nodes = settings.nodes.iter();
    let by_address: HashMap<_, _> = nodes.map(|node| (node.to.as_str(), node)).collect();
    let parsed = shared.nodes.iter().filter_map(|node| {
        // The settings were checked.
        let addr = NodeAddr::of(by_address.get(node.address())?, settings.uses_tls()).ok()?;
        Some((node.id(), addr))
    });
    parsed.collect()
}

fn node_counters(shared: &SharedPool, meters: &Meters) -> FxHashMap<NodeId, Arc<NodeMeter>> {
    let nodes = shared.nodes.iter();
    nodes
        .map(|node| (node.id(), meters.node(&shared.name, node.address())))
        .collect()
}

fn hash(ring: KeyHash, key: &HashKey, head: &Head, client: Option<IpAddr>) -> u64 {
    let headers = head.fields.headers();
    match key {
        HashKey::Ip => hash_of(ring, client),
        HashKey::Path => ring.of(path_of(&head.target).as_bytes()),
        HashKey::Uri => ring.of(head.target.as_bytes()),
        HashKey::Header(name) => ring.of(headers.get(name).unwrap_or_default()),
        HashKey::Cookie(name) => {
            let cookies = headers
                .get_all("cookie")
                .flat_map(|line| line.split(|b| *b == b';'));
            ring.of(value_of(cookies, name).unwrap_or_default())
        }
        HashKey::Query(name) => {
            let query = head.target.split_once('?').map_or("", |(_, query)| query);
            let pairs = query.as_bytes().split(|byte| *byte == b'&');
            ring.of(value_of(pairs, name).unwrap_or_default())
        }
    }
}

fn hash_of(ring: KeyHash, client: Option<IpAddr>) -> u64 {
    match client {
        Some(ip) => ring.of(ip.to_canonical().to_string().as_bytes()),
        None => ring.of(b""),
    }
}

/// Returns the value of the first pair `name=value` of that name.
fn value_of<'a>(mut pairs: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}
