use super::{Balancer, NodeId, Nodes, Place};
#[cfg(feature = "gateway")]
use super::{Node, Sequence};

/// Picks one node after the other, in the order of the list. Weights are ignored, except that a node of weight 0 gets
/// no requests.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeSpec, Nodes, Place, RoundRobin};
///
/// let nodes = Nodes::new(["a", "b", "c"].map(NodeSpec::new));
/// let mut balancer = RoundRobin::new(Place::ALONE);
/// let picks: Vec<_> = (0..4).filter_map(|_| nodes.address(balancer.pick(&nodes, 0)?)).collect();
/// assert_eq!(picks, ["a", "b", "c", "a"]);
/// ```
#[derive(Debug)]
pub struct RoundRobin {
    place: Place,
    nodes: Option<Nodes>,
    /// The position of the next node.
    next: usize,
    /// The credit of each node, in thousandths of a turn. A node in its slow start does not get a full turn each time.
    credits: Vec<u16>,
}

/// A full turn.
const TURN: u16 = 1000;

impl RoundRobin {
    /// Returns the balancer of one of several threads: it starts at a different position in the list.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            nodes: None,
            next: 0,
            credits: Vec::new(),
        }
    }

    /// Returns true if the node has credit for a full turn, which it spends.
    fn takes_turn(&mut self, at: usize, ramp: u16) -> bool {
        let credit = (self.credits[at] + ramp).min(2 * TURN - 1);
        let whole = credit >= TURN;
        self.credits[at] = if whole { credit - TURN } else { credit };
        whole
    }
}

impl Balancer for RoundRobin {
    fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
        self.update(nodes);
        let len = nodes.len();
        nodes.by_tier(|tier| {
            let mut first = None;
            for step in 0..len {
                let at = (self.next + step) % len;
                let node = nodes.at(at);
                if !nodes.may_take(node, tier) {
                    continue;
                }
                first = first.or(Some(at));
                if self.takes_turn(at, node.ramp()) {
                    self.next = (at + 1) % len;
                    return Some(node.id());
                }
            }
            // All nodes are in their slow start, so the first one takes the turn.
            let at = first?;
            self.next = (at + 1) % len;
            Some(nodes.at(at).id())
        })
    }

    fn update(&mut self, nodes: &Nodes) {
        let next = match &self.nodes {
            Some(old) if old.is_same_list(nodes) => return,
            None => self.place.start(nodes.len() as u64) as usize,
            // The first node that stayed, from the next one on.
            Some(old) => {
                let later = (self.next..old.len()).chain(0..self.next);
                let mut stayed = later.filter_map(|at| nodes.position(old.at(at).id()));
                stayed.next().unwrap_or(0)
            }
        };
        self.next = next;
        self.credits = vec![0; nodes.len()];
        self.nodes = Some(nodes.clone());
    }
}

#[cfg(feature = "gateway")]
impl Sequence for RoundRobin {
    fn restart(&mut self) {
        self.next = 0;
        self.credits.fill(0);
    }

    fn round<'a>(takers: impl Iterator<Item = &'a Node>) -> u64 {
        takers.count() as u64
    }
}
