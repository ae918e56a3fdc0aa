use twox_hash::XxHash3_64;

use super::{Balancer, Node, NodeId, Nodes, Tier};

/// Picks by key from a ring: each node has points on the ring, and a key belongs to the next point (consistent
/// hashing).
///
/// When a node is removed or down, its keys go to the next points, and no other keys move. The node gets them back when
/// it returns. Each node has 160 points for each unit of its weight. A point takes 16 bytes. If the ring would have
/// more than a million points, all nodes get fewer, so that a ring takes at most 16 MiB.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, HashRing, KeyHash, NodeSpec, Nodes};
///
/// let nodes = Nodes::new(["a", "b", "c"].map(NodeSpec::new));
/// let mut balancer = HashRing::new();
/// let key = KeyHash::Xxh3.of(b"user:42");
/// let node = balancer.pick(&nodes, key).expect("all are up");
/// assert_eq!(balancer.pick(&nodes, key), Some(node));
///
/// nodes.set_down(node, true);
/// let stand_in = balancer.pick(&nodes, key).expect("the others are up");
/// assert_ne!(stand_in, node);
/// nodes.set_down(node, false);
/// assert_eq!(balancer.pick(&nodes, key), Some(node));
/// ```
#[derive(Debug)]
pub struct HashRing {
    hash: KeyHash,
    replicas: u32,
    /// In thousandths.
    bound: Option<u32>,
    nodes: Option<Nodes>,
    /// The points with the positions of their nodes, in the order of the ring.
    points: Vec<(u64, usize)>,
}

/// The hash function for keys, and for the points of a [`HashRing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyHash {
    /// XXH3 with 64 bits.
    #[default]
    Xxh3,
    /// CRC-32 (IEEE), as many Go programs use it. A point is the hash of its index in decimal, followed by the address.
    /// Keys are spread less evenly.
    Crc32,
}

impl KeyHash {
    /// Returns the key for a text.
    pub fn of(self, text: &[u8]) -> u64 {
        match self {
            KeyHash::Xxh3 => XxHash3_64::oneshot(text),
            KeyHash::Crc32 => crc32fast::hash(text).into(),
        }
    }

    fn point(self, index: u32, address: &str) -> u64 {
        match self {
            KeyHash::Xxh3 => XxHash3_64::oneshot_with_seed(index.into(), address.as_bytes()),
            KeyHash::Crc32 => {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(index.to_string().as_bytes());
                hasher.update(address.as_bytes());
                hasher.finalize().into()
            }
        }
    }
}

const REPLICAS: u32 = 160;
const MAX_POINTS: u64 = 1 << 20;

impl HashRing {
    /// Returns a ring with [`KeyHash::Xxh3`], without a bound.
    pub fn new() -> Self {
        Self {
            hash: KeyHash::default(),
            replicas: REPLICAS,
            bound: None,
            nodes: None,
            points: Vec::new(),
        }
    }

    /// Sets the hash function for points. Hash the keys with the same function. Default: [`KeyHash::Xxh3`].
    #[must_use]
    pub fn hash(mut self, hash: KeyHash) -> Self {
        self.hash = hash;
        self.nodes = None;
        self
    }

    /// Sets the number of points of a node for each unit of its weight, at least 1. Default: 160.
    ///
    /// More points bring the shares closer to the weights.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas.max(1);
        self.nodes = None;
        self
    }

    /// Sets the load at which a node passes keys on to the next point, relative to its share of all requests in flight:
    /// 1.25 is a quarter more. It is rounded to thousandths; less than 1 counts as 1. Default: no bound.
    ///
    /// With a bound each pick looks at every node (Mirrokni, Thorup, Zadimoghaddam: Consistent hashing with bounded
    /// loads, 2016).
    #[must_use]
    pub fn bound(mut self, bound: f64) -> Self {
        self.bound = Some((1000.0 * bound.max(1.0)).round() as u32);
        self
    }

    /// Returns the number of points of the ring.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    fn pick_in(&self, nodes: &Nodes, key: u64, tier: Tier) -> Option<NodeId> {
        let mut takers = nodes.iter().filter(|node| nodes.may_take(node, tier));
        takers.next()?;
        let limit = self.bound.map(|bound| Bound::of(bound, nodes, tier));
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (behind, front) = self.points.split_at(start);
        let mut first = None;
        for (_, at) in front.iter().chain(behind) {
            let node = nodes.at(*at);
            if !nodes.may_take(node, tier) {
                continue;
            }
            first = first.or(Some(node));
            let has_room = limit.as_ref().is_none_or(|limit| limit.has_room(node));
            if has_room && has_taken_back(node, key) {
                return Some(node.id());
            }
        }
        first.map(Node::id)
    }
}

impl Default for HashRing {
    fn default() -> Self {
        Self::new()
    }
}

impl Balancer for HashRing {
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId> {
        self.update(nodes);
        nodes.by_tier(|tier| self.pick_in(nodes, key, tier))
    }

    fn update(&mut self, nodes: &Nodes) {
        if self
            .nodes
            .as_ref()
            .is_some_and(|old| old.is_same_list(nodes))
        {
            return;
        }
        let weights: u64 = nodes.iter().map(|node| u64::from(node.weight())).sum();
        let wanted = u128::from(weights) * u128::from(self.replicas);
        self.points.clear();
        for (at, node) in nodes.iter().enumerate() {
            let mut points = u64::from(node.weight()) * u64::from(self.replicas);
            if wanted > u128::from(MAX_POINTS) {
                let scaled = u128::from(points) * u128::from(MAX_POINTS) / wanted;
                points = (scaled as u64).max(points.min(1));
            }
            let point = |index| (self.hash.point(index, node.address()), at);
            self.points.extend((0..points as u32).map(point));
        }
        // If two nodes share a point, the later one owns it.
        self.points
            .sort_by_key(|(point, at)| (*point, std::cmp::Reverse(*at)));
        self.points.dedup_by_key(|(point, _)| *point);
        self.nodes = Some(nodes.clone());
    }
}

/// The maximum number of requests in flight per node: its share of all requests, times the bound, rounded up.
struct Bound {
    /// The bound in thousandths, times the number of requests.
    load: u128,
    shares: u64,
}

impl Bound {
    fn of(bound: u32, nodes: &Nodes, tier: Tier) -> Self {
        let (mut in_flight, mut shares) = (0, 0);
        for node in nodes.iter().filter(|node| nodes.may_take(node, tier)) {
            in_flight += u64::from(node.in_flight());
            shares += node.share();
        }
        // The next request counts too.
        let load = u128::from(bound) * u128::from(in_flight + 1);
        Self { load, shares }
    }

    fn has_room(&self, node: &Node) -> bool {
        let most = (self.load * u128::from(node.share())).div_ceil(1000 * u128::from(self.shares));
        u128::from(node.in_flight()) < most
    }
}

/// Returns true if a node in its slow start has already taken this key back. From then on it keeps the key.
fn has_taken_back(node: &Node, key: u64) -> bool {
    let ramp = node.ramp();
    if ramp >= 1000 {
        return true;
    }
    XxHash3_64::oneshot_with_seed(key, node.address().as_bytes()) % 1000 < ramp.into()
}
