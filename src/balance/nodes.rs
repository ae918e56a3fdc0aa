use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The id of a node while it is in the list. Ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

#[cfg(feature = "gateway")]
impl NodeId {
    /// The id of no node, for connections that lead to none.
    pub(crate) const NONE: Self = Self(u64::MAX);

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// The description of a node in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    address: String,
    weight: u32,
    backup: bool,
    disabled: bool,
}

impl NodeSpec {
    /// Returns a node of weight 1. The address may be any text that names the node.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            backup: false,
            disabled: false,
        }
    }

    /// Sets the node's share of the requests, relative to the other nodes. Default: 1.
    ///
    /// A node of weight 0 gets no requests, unless all nodes have weight 0.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Makes the node a backup, which gets requests only if no other node is up.
    #[must_use]
    pub fn backup(mut self) -> Self {
        self.backup = true;
        self
    }

    /// Takes the node out of service: it gets no requests, not even when no other node is up. Its weight counts as 0.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }
}

/// The nodes of a pool.
///
/// A clone is cheap and has the same nodes: all clones share the requests in flight and the up or down state. The list
/// itself does not change. [`updated`](Self::updated) returns a new list; pass it to all pickers.
#[derive(Clone)]
pub struct Nodes {
    list: Arc<List>,
    without: Vec<NodeId>,
}

struct List {
    nodes: Vec<Node>,
    /// The positions of the nodes, in the order of their ids.
    by_id: Vec<(NodeId, usize)>,
    next_id: u64,
    fail_open: bool,
}

/// One of the [`Nodes`].
#[derive(Clone)]
pub struct Node {
    id: NodeId,
    address: Arc<str>,
    weight: u32,
    backup: bool,
    disabled: bool,
    shared: Arc<Shared>,
}

/// The state of a node that all threads share, in a cache line of its own, since all of them write to it.
#[repr(align(64))]
pub(super) struct Shared {
    in_flight: AtomicU32,
    down: AtomicBool,
    standing: AtomicU8,
    /// The current share of the weight, in thousandths.
    ramp: AtomicU16,
    /// The start of the slow start in milliseconds, plus 1. It is 0 outside a slow start.
    ramps_since: AtomicU64,
    /// The number of failures in a row.
    pub(super) streak: AtomicU32,
}

/// The state of a node in passive health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Standing {
    In,
    /// The node is ejected.
    Out,
    /// The node is to be probed with a single request.
    Probation,
    /// The probe is in flight.
    Probed,
}

const WHOLE: u16 = 1000;

/// The groups of nodes, in the order in which they are considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Nodes that are up and are not backups.
    Primary,
    /// Backups that are up.
    Backup,
    /// All nodes, since none is up.
    FailOpen,
}

/// The difference between two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The new nodes.
    pub added: Vec<NodeId>,
    /// The removed nodes. Requests in flight there continue; no new ones begin.
    pub removed: Vec<NodeId>,
}

impl Nodes {
    /// Returns the nodes of a list. If an address occurs twice, its first entry counts.
    pub fn new(specs: impl IntoIterator<Item = NodeSpec>) -> Self {
        let none = List {
            nodes: Vec::new(),
            by_id: Vec::new(),
            next_id: 0,
            fail_open: true,
        };
        let none = Self {
            list: Arc::new(none),
            without: Vec::new(),
        };
        none.updated(specs).0
    }

    /// Sets what happens if no node is up: with `true` all nodes are tried, otherwise none. Default: `true`.
    #[must_use]
    pub fn fail_open(mut self, yes: bool) -> Self {
        let list = &self.list;
        self.list = Arc::new(List {
            nodes: list.nodes.clone(),
            by_id: list.by_id.clone(),
            next_id: list.next_id,
            fail_open: yes,
        });
        self
    }

    /// Returns the nodes of another list, and the changes. Nodes with the same address stay the same nodes; their
    /// weights may change.
    #[must_use]
    pub fn updated(&self, specs: impl IntoIterator<Item = NodeSpec>) -> (Self, Changes) {
        let mut old: HashMap<&str, &Node> = self
            .list
            .nodes
            .iter()
            .map(|node| (&*node.address, node))
            .collect();
        let mut changes = Changes::default();
        let mut next_id = self.list.next_id;
        let mut nodes: Vec<Node> = Vec::new();
        let mut seen = HashSet::new();
        for spec in specs {
            if !seen.insert(spec.address.clone()) {
                continue;
            }
            let (id, address, shared) = match old.remove(spec.address.as_str()) {
                Some(node) => (node.id, node.address.clone(), node.shared.clone()),
                None => {
                    let id = NodeId(next_id);
                    next_id += 1;
                    changes.added.push(id);
                    (id, spec.address.into(), Arc::default())
                }
            };
            nodes.push(Node {
                id,
                address,
                weight: if spec.disabled { 0 } else { spec.weight },
                backup: spec.backup,
                disabled: spec.disabled,
                shared,
            });
        }
        changes.removed = old.values().map(|node| node.id).collect();
        changes.removed.sort_unstable();
        if nodes.iter().all(|node| node.weight == 0) {
            let in_service = nodes.iter_mut().filter(|node| !node.disabled);
            in_service.for_each(|node| node.weight = 1);
        }
        let mut by_id: Vec<_> = nodes.iter().map(|node| node.id).zip(0..).collect();
        by_id.sort_unstable();
        let list = Arc::new(List {
            nodes,
            by_id,
            next_id,
            fail_open: self.list.fail_open,
        });
        let without = Vec::new();
        (Self { list, without }, changes)
    }

    /// Returns the same nodes, of which those in `tried` get no requests: for another try after they failed.
    #[must_use]
    pub fn without(&self, tried: &[NodeId]) -> Self {
        let mut others = self.clone();
        others.without.extend_from_slice(tried);
        others
    }

    /// Returns the nodes, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.nodes.iter()
    }

    /// Returns the number of nodes, up or not.
    pub fn len(&self) -> usize {
        self.list.nodes.len()
    }

    /// Returns true if there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.list.nodes.is_empty()
    }

    /// Returns a node, if it is in the list.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.position(id).map(|at| &self.list.nodes[at])
    }

    /// Returns a node's address, if it is in the list.
    pub fn address(&self, id: NodeId) -> Option<&str> {
        self.get(id).map(Node::address)
    }

    /// Returns the number of requests in flight at a node.
    pub fn in_flight(&self, id: NodeId) -> u32 {
        self.get(id).map_or(0, Node::in_flight)
    }

    /// Counts a request as in flight until the returned value is dropped.
    ///
    /// Returns `None` if the node is not in the list, or if it is to be probed with a single request and another thread
    /// sends that request. Then pick again [`without`](Self::without) the node.
    #[must_use]
    pub fn begin(&self, id: NodeId) -> Option<InFlight> {
        let shared = &self.get(id)?.shared;
        let probes = shared.change(Standing::Probation, Standing::Probed);
        if !probes && shared.standing() == Standing::Probed && self.any_up() {
            return None;
        }
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight {
            shared: shared.clone(),
            probes,
        })
    }

    /// Marks a node as down, or as up at once. With [`Health::set_down`](super::Health::set_down) it begins a slow
    /// start.
    pub fn set_down(&self, id: NodeId, down: bool) {
        if let Some(node) = self.get(id) {
            node.shared.down.store(down, Ordering::Relaxed);
        }
    }

    /// Calls `pick` for each tier until it returns a node.
    pub fn by_tier(&self, mut pick: impl FnMut(Tier) -> Option<NodeId>) -> Option<NodeId> {
        pick(Tier::Primary)
            .or_else(|| pick(Tier::Backup))
            .or_else(|| {
                let opens = self.list.fail_open && !self.any_up();
                opens.then(|| pick(Tier::FailOpen)).flatten()
            })
    }

    /// Returns true if a node belongs to that tier and accepts requests.
    #[inline]
    pub fn may_take(&self, node: &Node, tier: Tier) -> bool {
        let belongs = match tier {
            Tier::Primary => !node.backup && node.is_up(),
            Tier::Backup => node.backup && node.is_up(),
            Tier::FailOpen => true,
        };
        belongs && node.weight > 0 && !self.without.contains(&node.id)
    }

    /// Returns the nodes of the tier whose turn it is.
    #[cfg(feature = "gateway")]
    pub(crate) fn takers(&self) -> impl Iterator<Item = &Node> {
        let has = |tier| self.iter().any(|node| self.may_take(node, tier));
        let tiers = [Tier::Primary, Tier::Backup];
        let opens = || (self.list.fail_open && !self.any_up()).then_some(Tier::FailOpen);
        let tier = tiers.into_iter().find(|tier| has(*tier)).or_else(opens);
        let takes = move |node: &&Node| tier.is_some_and(|tier| self.may_take(node, tier));
        self.iter().filter(takes)
    }

    /// Returns true if some of the nodes get no requests, since they [were tried](Self::without).
    #[cfg(feature = "gateway")]
    pub(crate) fn are_reduced(&self) -> bool {
        !self.without.is_empty()
    }

    fn any_up(&self) -> bool {
        self.iter().any(|node| node.weight > 0 && node.is_up())
    }

    pub(super) fn at(&self, position: usize) -> &Node {
        &self.list.nodes[position]
    }

    pub(super) fn position(&self, id: NodeId) -> Option<usize> {
        let by_id = &self.list.by_id;
        let at = by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(by_id[at].1)
    }

    /// Returns true if both values have the same list. Excluded nodes do not matter.
    pub(super) fn is_same_list(&self, other: &Nodes) -> bool {
        Arc::ptr_eq(&self.list, &other.list)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Node {
    /// Returns the id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Returns the address, or the text that names the node.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the weight. It is 1 if all nodes have weight 0, and 0 for a node that is out of service.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Returns true if the node gets requests only if no other node is up.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Returns true if the node is [out of service](NodeSpec::disabled).
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Returns the number of requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Returns true if the node is healthy: it is not marked as down, and not ejected. Its weight tells if it gets requests.
    ///
    /// A node that is to be probed is up until the probe begins.
    #[inline]
    pub fn is_up(&self) -> bool {
        let standing = self.shared.standing();
        !self.is_down() && matches!(standing, Standing::In | Standing::Probation)
    }

    /// Returns true if the node is marked as down.
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Returns true if the node is ejected, until it has answered again.
    pub fn is_ejected(&self) -> bool {
        self.shared.standing() != Standing::In
    }

    /// Returns the current share of the weight, in thousandths: less than 1000 during a slow start.
    pub fn ramp(&self) -> u16 {
        self.shared.ramp.load(Ordering::Relaxed)
    }

    /// Returns the weight in thousandths, reduced during a slow start. It is never 0 unless the weight is.
    pub(super) fn share(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.ramp())
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("weight", &self.weight)
            .field("backup", &self.backup)
            .field("disabled", &self.disabled)
            .field("in_flight", &self.in_flight())
            .field("down", &self.is_down())
            .field("standing", &self.shared.standing())
            .field("ramp", &self.ramp())
            .finish()
    }
}

/// A request in flight at a node. It counts until this value is dropped.
#[must_use = "the request counts only as long as this is kept"]
pub struct InFlight {
    shared: Arc<Shared>,
    /// True if the request is the probe.
    probes: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probes {
            // No outcome was reported, so the probe proved nothing.
            self.shared.change(Standing::Probed, Standing::Probation);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("probes", &self.probes)
            .finish()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            down: AtomicBool::new(false),
            standing: AtomicU8::new(Standing::In as u8),
            ramp: AtomicU16::new(WHOLE),
            ramps_since: AtomicU64::new(0),
            streak: AtomicU32::new(0),
        }
    }
}

impl Shared {
    #[inline]
    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::In,
            1 => Standing::Out,
            2 => Standing::Probation,
            _ => Standing::Probed,
        }
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Changes the standing if it is `from`. Returns true if it was.
    pub(super) fn change(&self, from: Standing, to: Standing) -> bool {
        let (from, to) = (from as u8, to as u8);
        let changed =
            self.standing
                .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        changed.is_ok()
    }

    pub(super) fn begin_ramp(&self, now: Duration, over: Duration) {
        if !over.is_zero() {
            self.ramps_since
                .store(now.as_millis() as u64 + 1, Ordering::Relaxed);
            self.ramp.store(WHOLE / 10, Ordering::Relaxed);
        }
    }

    /// Continues the slow start. Returns true while it is not complete.
    pub(super) fn ramp_up(&self, now: Duration, over: Duration) -> bool {
        let since = self.ramps_since.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        let elapsed = (now.as_millis() as u64).saturating_sub(since - 1);
        let over = over.as_millis().max(1) as u64;
        let goes_on = elapsed < over;
        let ramp = if goes_on {
            ((u128::from(elapsed) * u128::from(WHOLE) / u128::from(over)) as u16).max(WHOLE / 10)
        } else {
            self.ramps_since.store(0, Ordering::Relaxed);
            WHOLE
        };
        self.ramp.store(ramp, Ordering::Relaxed);
        goes_on
    }
}
