//! Dispatch: which node gets a packet.
//!
//! A [`RouteTable`] is made of the registered nodes. It says where a packet of a route goes, or why nowhere. It uses no socket and
//! no clock, and never blocks on a backend: for a stateful route it says that the user's node must be located.
//!
//! ```
//! use std::sync::Arc;
//! use epicycle::cluster::Kind;
//! use epicycle::cluster::dispatch::{Dispatch, Policy, Refusal, RouteTable, Source};
//! use epicycle::cluster::registry::{Instance, RouteSpec};
//!
//! let mut node = Instance::new(Kind::Node, "node-1", "drpc://127.0.0.1:7001");
//! node.routes = vec![RouteSpec::new(1), RouteSpec::new(3).stateful()];
//! let (table, disagreements) = RouteTable::new(Policy::Random).updated(&[Arc::new(node)]);
//! assert!(disagreements.is_empty());
//!
//! let stranger = Source::Client { cid: 5, uid: 0 };
//! let user = Source::Client { cid: 5, uid: 7 };
//! assert!(matches!(table.dispatch(1, stranger), Dispatch::To(node) if node.id == "node-1"));
//! assert!(matches!(table.dispatch(3, user), Dispatch::Locate { alias, .. } if &**alias == "node"));
//! assert!(matches!(table.dispatch(3, stranger), Dispatch::Refuse(Refusal::NoUser)));
//! assert!(matches!(table.dispatch(9, user), Dispatch::Refuse(Refusal::UnknownRoute)));
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::registry::{Instance, RouteSpec};
use super::{Error, Event, State};
use crate::balance::{
    Balancer, Node, NodeId, NodeSpec, Nodes, Place, Rendezvous, RoundRobin, Weighted,
};

/// The way in which one of several nodes is picked for a stateless route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// `random`: each as often as the others.
    #[default]
    Random,
    /// `rr`: one after the other.
    RoundRobin,
    /// `wrr`: in turn by weight, evenly spread, and exact over all threads.
    Weighted,
    /// `hash`: by user, or by connection as long as there is none. A key moves only if its node leaves or a new one takes it.
    Hash,
}

impl std::str::FromStr for Policy {
    type Err = Error;

    /// Parses `random`, `rr`, `wrr` or `hash`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "random" => Ok(Policy::Random),
            "rr" => Ok(Policy::RoundRobin),
            "wrr" => Ok(Policy::Weighted),
            "hash" => Ok(Policy::Hash),
            _ => {
                let problem = format!("{text:?} is not one of random, rr, wrr, hash");
                Err(Error::argument("dispatch", problem))
            }
        }
    }
}

/// The sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client, by a gate. Internal routes are refused, and those that need a user without one.
    Client {
        /// The connection.
        cid: i64,
        /// Its user, or 0.
        uid: i64,
    },
    /// A node, which may use every route.
    Node {
        /// The user that the packet is about, or 0.
        uid: i64,
    },
}

/// The destination of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Dispatch<'t> {
    /// To this node.
    To(&'t Arc<Instance>),
    /// To the node that the locator names for the user and this alias: see [`RouteTable::located`].
    Locate {
        /// The alias.
        alias: &'t Arc<str>,
        /// The user.
        uid: i64,
    },
    /// Nowhere.
    Refuse(Refusal),
}

/// The reason why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// No node serves the route.
    UnknownRoute,
    /// A client used an internal route.
    Internal,
    /// The route is stateful or authorized, and there is no user.
    NoUser,
    /// The route is stateful, and the user is on no node of its alias.
    NotLocated,
    /// Nodes serve the route, but none is in `work` or `busy`.
    NoneWorking,
}

/// Nodes of one alias that disagree about a route, or two aliases that both have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disagreement {
    /// The route.
    pub route: i32,
    /// The alias that has it.
    pub alias: Arc<str>,
    /// The problem and what holds.
    pub problem: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "route {} of {:?}: {}",
            self.route, self.alias, self.problem
        )
    }
}

/// The routes and the nodes that serve them. A clone is cheap, and shares whose turn it is.
///
/// Stateless routes go to nodes in `work`; if there are none, to those in `busy`; never to others. Nodes of one alias must agree
/// about the flags of a route: if they do not, a flag holds that one of them sets. If two aliases have a route, the one that comes
/// first in the alphabet gets its packets.
#[derive(Clone)]
pub struct RouteTable(Arc<Table>);

struct Table {
    policy: Policy,
    routes: FxHashMap<i32, Route>,
    groups: HashMap<Arc<str>, Group>,
    by_id: HashMap<String, Arc<Instance>>,
    /// The nodes that want each event, by its number less one.
    events: [Vec<Arc<Instance>>; 3],
}

struct Route {
    spec: RouteSpec,
    group: Group,
    way: Way,
}

/// The way in which a node is picked.
enum Way {
    /// At random, without a lock: from those in `work`, and if there are none, from those in `busy`.
    Random([Vec<Arc<Instance>>; 2]),
    /// By the balancer of the group, from its nodes, of which those that do not serve the route get nothing.
    Balanced(Nodes, SharedBalancer),
}

/// The nodes of an alias.
#[derive(Clone)]
struct Group {
    alias: Arc<str>,
    nodes: Nodes,
    /// By the ids of the balancer.
    instances: Arc<FxHashMap<NodeId, Arc<Instance>>>,
    /// The nodes that serve each route.
    servers: Arc<HashMap<i32, HashSet<NodeId>>>,
    /// `None` if nodes are picked at random.
    balancer: Option<SharedBalancer>,
}

/// Shared by all threads and by all later tables, since turns are exact only together.
type SharedBalancer = Arc<Mutex<Box<dyn Balancer>>>;

impl RouteTable {
    /// Returns a table without nodes.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(Table {
            policy,
            routes: FxHashMap::default(),
            groups: HashMap::new(),
            by_id: HashMap::new(),
            events: Default::default(),
        }))
    }

    /// Returns the table of these nodes, and what they disagree about. Turns go on where they were.
    #[must_use]
    pub fn updated(&self, nodes: &[Arc<Instance>]) -> (Self, Vec<Disagreement>) {
        let mut by_alias: BTreeMap<&str, Vec<&Arc<Instance>>> = BTreeMap::new();
        for node in nodes {
            by_alias.entry(&node.alias).or_default().push(node);
        }
        let mut disagreements = Vec::new();
        let mut routes: FxHashMap<i32, Route> = FxHashMap::default();
        let mut groups = HashMap::new();
        for (alias, mut members) in by_alias {
            // The order of the registry is any, and turns go by the order.
            members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            let group = self.group(alias, &members);
            for (id, (spec, problem)) in specs(&members) {
                let mut disagree = |alias: &Arc<str>, problem| {
                    let alias = alias.clone();
                    disagreements.push(Disagreement {
                        route: id,
                        alias,
                        problem,
                    });
                };
                if let Some(problem) = problem {
                    disagree(&group.alias, problem);
                }
                if let Some(first) = routes.get(&id) {
                    let first = &first.group.alias;
                    disagree(
                        first,
                        format!("nodes of {alias:?} have it too, and get nothing"),
                    );
                    continue;
                }
                let way = match &group.balancer {
                    Some(balancer) => Way::Balanced(group.serving(id), balancer.clone()),
                    None => {
                        let states = [State::Work, State::Busy];
                        Way::Random(states.map(|state| group.in_state(state, id)))
                    }
                };
                let route = Route {
                    spec,
                    way,
                    group: group.clone(),
                };
                routes.insert(id, route);
            }
            groups.insert(group.alias.clone(), group);
        }
        let wanting = |event: Event| {
            let mut wanting: Vec<_> = nodes
                .iter()
                .filter(|node| node.wants(event) && node.state != State::Shut)
                .cloned()
                .collect();
            wanting.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            wanting
        };
        let table = Table {
            policy: self.0.policy,
            routes,
            groups,
            by_id: nodes
                .iter()
                .map(|node| (node.id.clone(), node.clone()))
                .collect(),
            events: [Event::Connect, Event::Reconnect, Event::Disconnect].map(wanting),
        };
        (Self(Arc::new(table)), disagreements)
    }

    /// Returns where a packet of this route goes.
    pub fn dispatch(&self, route: i32, source: Source) -> Dispatch<'_> {
        self.dispatch_past(route, source, &[])
    }

    /// Returns where a packet of a stateless route goes that these nodes have not taken.
    pub fn dispatch_past(
        &self,
        route: i32,
        source: Source,
        tried: &[Arc<Instance>],
    ) -> Dispatch<'_> {
        let Some(route) = self.0.routes.get(&route) else {
            return Dispatch::Refuse(Refusal::UnknownRoute);
        };
        let (cid, uid, is_client) = match source {
            Source::Client { cid, uid } => (cid, uid, true),
            Source::Node { uid } => (0, uid, false),
        };
        let spec = route.spec;
        if is_client && spec.internal {
            return Dispatch::Refuse(Refusal::Internal);
        }
        if uid == 0 && (spec.stateful || spec.authorized && is_client) {
            return Dispatch::Refuse(Refusal::NoUser);
        }
        if spec.stateful {
            let alias = &route.group.alias;
            return Dispatch::Locate { alias, uid };
        }
        let key = if uid == 0 { cid } else { uid };
        match route.pick(key as u64, tried) {
            Some(instance) => Dispatch::To(instance),
            None => Dispatch::Refuse(Refusal::NoneWorking),
        }
    }

    /// Returns where a packet of a stateful route goes, once the locator has told the node: to that node, unless it is `shut` or
    /// gone.
    pub fn located(&self, nid: Option<&str>) -> Dispatch<'_> {
        let node = nid.and_then(|nid| self.0.by_id.get(nid));
        match node.filter(|node| node.state != State::Shut) {
            Some(node) => Dispatch::To(node),
            None => Dispatch::Refuse(Refusal::NotLocated),
        }
    }

    /// Returns the flags of a route that hold, and the alias of its nodes.
    pub fn route(&self, route: i32) -> Option<(RouteSpec, &Arc<str>)> {
        let route = self.0.routes.get(&route)?;
        Some((route.spec, &route.group.alias))
    }

    /// Returns the nodes that want an event, in the order of their ids.
    pub fn wanting(&self, event: Event) -> &[Arc<Instance>] {
        &self.0.events[usize::from(event.code()) - 1]
    }

    fn group(&self, alias: &str, members: &[&Arc<Instance>]) -> Group {
        let policy = self.0.policy;
        let takers = members
            .iter()
            .filter(|node| matches!(node.state, State::Work | State::Busy));
        let specs = takers.clone().map(|node| {
            let weight = match policy {
                Policy::Random | Policy::RoundRobin => 1,
                Policy::Weighted | Policy::Hash => node.weight.max(1),
            };
            let spec = NodeSpec::new(node.id.as_str()).weight(weight);
            match node.state {
                State::Busy => spec.backup(),
                _ => spec,
            }
        });
        let old = self.0.groups.get(alias);
        let (alias, balancer, before) = match old {
            Some(old) => (old.alias.clone(), old.balancer.clone(), old.nodes.clone()),
            None => {
                let nodes = Nodes::new([]).fail_open(false);
                let balancer = policy.balancer();
                let balancer = balancer.map(|balancer| Arc::new(Mutex::new(balancer)));
                (alias.into(), balancer, nodes)
            }
        };
        let nodes = before.updated(specs).0;
        let by_id: HashMap<&str, _> = takers.map(|node| (node.id.as_str(), *node)).collect();
        let instances: FxHashMap<NodeId, Arc<Instance>> = nodes
            .iter()
            .filter_map(|node| Some((node.id(), (*by_id.get(node.address())?).clone())))
            .collect();
        let mut servers: HashMap<i32, HashSet<NodeId>> = HashMap::new();
        for (id, instance) in &instances {
            for spec in &instance.routes {
                servers.entry(spec.id).or_default().insert(*id);
            }
        }
        Group {
            alias,
            balancer,
            instances: Arc::new(instances),
            servers: Arc::new(servers),
            nodes,
        }
    }
}

impl Group {
    /// Returns the nodes, of which those that do not serve the route get nothing.
    fn serving(&self, route: i32) -> Nodes {
        let servers = self.servers.get(&route);
        let serves = |id: &NodeId| servers.is_some_and(|servers| servers.contains(id));
        let ids = self.nodes.iter().map(Node::id);
        let others: Vec<_> = ids.filter(|id| !serves(id)).collect();
        self.nodes.without(&others)
    }

    /// Returns the instances in a state that serve the route.
    fn in_state(&self, state: State, route: i32) -> Vec<Arc<Instance>> {
        let servers = self.servers.get(&route);
        let serves = |id: &NodeId| servers.is_some_and(|servers| servers.contains(id));
        // In their order, so that a seed always picks the same.
        let ids = self.nodes.iter().map(Node::id).filter(serves);
        let instances = ids.filter_map(|id| self.instances.get(&id));
        let wanted = instances.filter(|instance| instance.state == state);
        wanted.cloned().collect()
    }
}

impl Route {
    fn pick(&self, key: u64, tried: &[Arc<Instance>]) -> Option<&Arc<Instance>> {
        let instances = &self.group.instances;
        let is_tried = |instance| tried.iter().any(|tried| Arc::ptr_eq(tried, instance));
        let (nodes, balancer) = match &self.way {
            Way::Random(states) if tried.is_empty() => {
                return states.iter().find_map(fastrand::choice);
            }
            Way::Random(states) => {
                return states.iter().find_map(|nodes| {
                    let left = nodes.iter().filter(|node| !is_tried(node));
                    fastrand::choice(left.collect::<Vec<_>>())
                });
            }
            Way::Balanced(nodes, balancer) => (nodes, balancer),
        };
        let mut balancer = balancer.lock();
        let picked = if tried.is_empty() {
            balancer.pick(nodes, key)?
        } else {
            let tried = instances.iter().filter(|(_, instance)| is_tried(instance));
            // Together with those that do not serve the route.
            let tried: Vec<_> = tried.map(|(id, _)| *id).collect();
            balancer.pick(&nodes.without(&tried), key)?
        };
        instances.get(&picked)
    }
}

impl Policy {
    /// Returns what picks nodes in turn or by a key, or `None` if they are picked at random.
    fn balancer(self) -> Option<Box<dyn Balancer>> {
        match self {
            Policy::Random => None,
            Policy::RoundRobin => Some(Box::new(RoundRobin::new(Place::ALONE))),
            Policy::Weighted => Some(Box::new(Weighted::new(Place::ALONE))),
            Policy::Hash => Some(Box::new(Rendezvous::new())),
        }
    }
}

/// Returns the routes of the nodes of an alias with the flags that hold, and the problem if the nodes disagree.
fn specs(members: &[&Arc<Instance>]) -> BTreeMap<i32, (RouteSpec, Option<String>)> {
    // With the first node that has them.
    let mut found: BTreeMap<i32, BTreeMap<(bool, bool, bool), &str>> = BTreeMap::new();
    for node in members.iter().filter(|node| node.state != State::Shut) {
        for spec in &node.routes {
            let flags = (spec.internal, spec.stateful, spec.authorized);
            let nodes = found.entry(spec.id).or_default();
            nodes.entry(flags).or_insert(&node.id);
        }
    }
    let strictest = |(id, flags): (i32, BTreeMap<_, &str>)| {
        let mut spec = RouteSpec::new(id);
        for (internal, stateful, authorized) in flags.keys() {
            spec.internal |= internal;
            spec.stateful |= stateful;
            spec.authorized |= authorized;
        }
        let problem = (flags.len() > 1).then(|| {
            let nodes: Vec<String> = flags.values().map(|id| format!("{id:?}")).collect();
            format!(
                "the nodes {} disagree about the flags; these hold: internal {}, stateful {}, authorized {}; give the route the same ones everywhere",
                nodes.join(", "), spec.internal, spec.stateful, spec.authorized
            )
        });
        (id, (spec, problem))
    };
    found.into_iter().map(strictest).collect()
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("policy", &self.0.policy)
            .field("routes", &self.0.routes.len())
            .field("nodes", &self.0.by_id.len())
            .finish()
    }
}
