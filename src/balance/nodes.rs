use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A node, for as long as it is in the list. The number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

/// What a list says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    address: String,
    weight: u32,
    backup: bool,
}

impl NodeSpec {
    /// A node of weight 1. The address can be any text that names it.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            backup: false,
        }
    }

    /// Sets its share of the requests, as against that of the others. Default: 1.
    ///
    /// A node of weight 0 takes no requests, unless all nodes have that.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// It takes requests only when none of the others is up.
    pub fn backup(mut self) -> Self {
        self.backup = true;
        self
    }
}

/// The nodes of a pool.
///
/// A clone is cheap and has the same nodes: what changes of a node, the requests under way and whether it is up, is the
/// same in all clones. The list itself does not change; [`updated`](Self::updated) makes a new one, which is handed to
/// whoever picks.
#[derive(Clone)]
pub struct Nodes {
    list: Arc<List>,
    without: Vec<NodeId>,
}

struct List {
    nodes: Vec<Node>,
    /// The nodes' positions, in the order of their ids.
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
    shared: Arc<Shared>,
}

/// What all threads share of a node: a cache line of its own, as all of them write to it.
#[repr(align(64))]
pub(super) struct Shared {
    in_flight: AtomicU32,
    down: AtomicBool,
    standing: AtomicU8,
    /// The share of its weight that it has, in thousandths.
    ramp: AtomicU16,
    /// When it began to come back, in milliseconds, and one more; 0 if it is not on its way.
    ramps_since: AtomicU64,
    /// How many failures in a row there were.
    pub(super) streak: AtomicU32,
}

/// Whether failures have taken a node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Standing {
    In,
    /// It is out for a while.
    Out,
    /// It is to show with one request whether it is back.
    Probation,
    /// That request is under way.
    Probed,
}

const WHOLE: u16 = 1000;

/// In what order nodes are considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Nodes that are up, and no backups.
    Primary,
    /// Backups that are up.
    Backup,
    /// All nodes, as none is up.
    FailOpen,
}

/// What another list has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that are new.
    pub added: Vec<NodeId>,
    /// Nodes that are gone. What is under way there goes on; nothing new begins.
    pub removed: Vec<NodeId>,
}

impl Nodes {
    /// The nodes of a list. An address that is there twice counts once, as it stands first.
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

    /// Whether all nodes are tried when none is up, rather than none. Default: yes.
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

    /// The nodes of another list. Those that are in both, by their addresses, are the same nodes; their weights may be new.
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
                weight: spec.weight,
                backup: spec.backup,
                shared,
            });
        }
        changes.removed = old.values().map(|node| node.id).collect();
        changes.removed.sort_unstable();
        if nodes.iter().all(|node| node.weight == 0) {
            nodes.iter_mut().for_each(|node| node.weight = 1);
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

    /// The same nodes, of which these take no requests: for another try after they have failed.
    pub fn without(&self, tried: &[NodeId]) -> Self {
        let mut others = self.clone();
        others.without.extend_from_slice(tried);
        others
    }

    /// The nodes, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.nodes.iter()
    }

    /// How many nodes there are, up or not.
    pub fn len(&self) -> usize {
        self.list.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.nodes.is_empty()
    }

    /// A node, if it is in the list.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.position(id).map(|at| &self.list.nodes[at])
    }

    /// A node's address, if it is in the list.
    pub fn address(&self, id: NodeId) -> Option<&str> {
        self.get(id).map(Node::address)
    }

    /// How many requests are under way at a node.
    pub fn in_flight(&self, id: NodeId) -> u32 {
        self.get(id).map_or(0, Node::in_flight)
    }

    /// Notes a request as under way, until what this gives is dropped.
    ///
    /// None if the node is not in the list, or if it is to take a single request, to show that it is back, and another
    /// thread was quicker: pick [`without`](Self::without) it then.
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

    /// Says that a node is down, or up again at once. With [`Health::set_down`](super::Health::set_down) it starts slowly.
    pub fn set_down(&self, id: NodeId, down: bool) {
        if let Some(node) = self.get(id) {
            node.shared.down.store(down, Ordering::Relaxed);
        }
    }

    /// Asks `pick` for a node of the first tier, and of the next one if it has none.
    pub fn by_tier(&self, mut pick: impl FnMut(Tier) -> Option<NodeId>) -> Option<NodeId> {
        pick(Tier::Primary)
            .or_else(|| pick(Tier::Backup))
            .or_else(|| {
                let opens = self.list.fail_open && !self.any_up();
                opens.then(|| pick(Tier::FailOpen)).flatten()
            })
    }

    /// Whether a node takes requests, and is of that tier.
    #[inline]
    pub fn may_take(&self, node: &Node, tier: Tier) -> bool {
        let belongs = match tier {
            Tier::Primary => !node.backup && node.is_up(),
            Tier::Backup => node.backup && node.is_up(),
            Tier::FailOpen => true,
        };
        belongs && node.weight > 0 && !self.without.contains(&node.id)
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

    /// Whether both are of one list, whatever may be left out of them.
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
    /// What it is known by.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its address, or whatever text names it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its weight; 1 if all nodes had none.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Whether it takes requests only when none of the others is up.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// How many requests are under way there.
    pub fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it takes requests: nobody says that it is down, and failures have not taken it out.
    ///
    /// One that is to show with a single request whether it is back is up until that request begins.
    #[inline]
    pub fn is_up(&self) -> bool {
        let standing = self.shared.standing();
        !self.is_down() && matches!(standing, Standing::In | Standing::Probation)
    }

    /// Whether somebody says that it is down.
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Whether failures have taken it out, until it has answered again.
    pub fn is_ejected(&self) -> bool {
        self.shared.standing() != Standing::In
    }

    /// The share of its weight that it has at the moment, in thousandths: less than 1000 while it comes back slowly.
    pub fn ramp(&self) -> u16 {
        self.shared.ramp.load(Ordering::Relaxed)
    }

    /// Its weight in thousandths, as far as it has come back. Never 0 unless the weight is.
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
            .field("in_flight", &self.in_flight())
            .field("down", &self.is_down())
            .field("standing", &self.shared.standing())
            .field("ramp", &self.ramp())
            .finish()
    }
}

/// A request under way at a node: it counts there until this is dropped.
#[must_use = "the request counts only as long as this is kept"]
pub struct InFlight {
    shared: Arc<Shared>,
    /// It is the one request that shows whether the node is back.
    probes: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probes {
            // Nothing was reported of it, so it has shown nothing.
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

    /// Changes the standing if it is `from`, and returns whether it was.
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

    /// Goes on with the way back, and returns whether it is not over yet.
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
