//! Picking one of several nodes: the addresses of a service, or whatever else has a name and takes requests.
//!
//! [`Nodes`] are the addresses of a pool, with what every thread has to know of each: how many requests are under way,
//! whether it is up. A [`Balancer`] picks one of them, [`Health`] takes those out that fail and lets them back slowly,
//! and a [`RetryBudget`] keeps retries from becoming a storm. Nothing here knows a socket or a clock: time is a
//! [`Duration`](std::time::Duration) since any fixed moment, which the caller hands in.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::balance::{Balancer, Health, Nodes, NodeSpec, Outcome, Place, Weighted};
//!
//! let nodes = Nodes::new([NodeSpec::new("10.0.0.1:80").weight(2), NodeSpec::new("10.0.0.2:80")]);
//! let health = Health::default();
//! let mut balancer = Weighted::new(Place::ALONE);
//!
//! let node = balancer.pick(&nodes, 0).expect("a node is up");
//! let request = nodes.begin(node).expect("it takes requests");
//! assert_eq!(nodes.address(node), Some("10.0.0.1:80"));
//! assert_eq!(nodes.in_flight(node), 1);
//!
//! // The request has failed.
//! let now = Duration::from_secs(1);
//! balancer.done(node, Outcome::Failure);
//! health.report(&nodes, node, Outcome::Failure, now);
//! drop(request);
//! ```
//!
//! # Which balancer
//!
//! | Balancer | Picks | Weights | For |
//! |---|---|---|---|
//! | [`Weighted`] | by turns, evenly spread; a node that fails gets fewer | yes | most pools |
//! | [`RoundRobin`] | by turns | only 0 | equal nodes |
//! | [`Random`] | by chance | yes | many pickers that know nothing of each other |
//! | [`Least`] | the node with the fewest requests under way | yes | requests of very different lengths |
//! | [`TwoChoices`] | the better of two random nodes | yes | the same, with many pickers |
//! | [`HashRing`] | by the key, from a ring | yes | caches and sessions; keys move only when their node goes |
//! | [`Rendezvous`] | by the key, the node of the highest score | yes | the same with few nodes, and pickers that must agree |
//!
//! # Several threads
//!
//! Each thread has a balancer of its own and a clone of the [`Nodes`]; what the clones share is atomic. [`Place`] says
//! which of them a balancer is, so that together they do not all begin with the same node. One [`Health`] serves all
//! threads.

mod budget;
mod choices;
mod draw;
mod health;
mod least;
mod nodes;
mod random;
mod rendezvous;
mod ring;
mod turns;
mod weighted;

pub use self::budget::RetryBudget;
pub use self::choices::TwoChoices;
pub use self::health::{Change, Ejection, Health};
pub use self::least::Least;
pub use self::nodes::{Changes, InFlight, Node, NodeId, NodeSpec, Nodes, Tier};
pub use self::random::Random;
pub use self::rendezvous::Rendezvous;
pub use self::ring::{HashRing, KeyHash};
pub use self::turns::RoundRobin;
pub use self::weighted::Weighted;

/// Picks one of several nodes. One value serves one thread, or stands behind a lock.
///
/// # Examples
///
/// ```
/// use epicycle::balance::{Balancer, NodeId, NodeSpec, Nodes};
///
/// /// Always the first that takes requests.
/// struct First;
///
/// impl Balancer for First {
///     fn pick(&mut self, nodes: &Nodes, _key: u64) -> Option<NodeId> {
///         nodes.by_tier(|tier| {
///             let mut takers = nodes.iter().filter(|node| nodes.may_take(node, tier));
///             takers.next().map(|node| node.id())
///         })
///     }
/// }
///
/// let nodes = Nodes::new([NodeSpec::new("a"), NodeSpec::new("b")]);
/// let [a, b] = [0, 1].map(|n| nodes.iter().nth(n).unwrap().id());
/// assert_eq!(First.pick(&nodes, 0), Some(a));
/// nodes.set_down(a, true);
/// assert_eq!(First.pick(&nodes, 0), Some(b));
/// ```
pub trait Balancer: Send {
    /// Picks a node that takes requests; none if there is no such node.
    ///
    /// `key` says what the request is about. Balancers that go by keys pick the same node for the same key; the others
    /// ignore it. For another try at the same request, leave out those that were tried:
    /// [`Nodes::without`].
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId>;

    /// Tells what became of a request that went to a node. Default: nothing.
    fn done(&mut self, node: NodeId, outcome: Outcome) {
        let _ = (node, outcome);
    }

    /// Tells that the list has changed. What is known of nodes that stay is kept. Default: nothing.
    ///
    /// A balancer of this crate that is not told finds out with the next pick.
    fn update(&mut self, nodes: &Nodes) {
        let _ = nodes;
    }
}

/// What became of a request, so far as the node has to answer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The node has answered.
    Success,
    /// The node could not be reached, broke off, or answered as one that is broken does.
    Failure,
    /// The request was given up for reasons that say nothing of the node.
    Abandoned,
}

/// Which of several balancers for the same nodes one is: each begins its sequence further on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    index: usize,
    of: usize,
}

impl Place {
    /// The only one.
    pub const ALONE: Place = Place { index: 0, of: 1 };

    /// Number `index`, from 0 on, of that many. An index beyond that many begins anew at 0, and none of none is
    /// [`ALONE`](Self::ALONE).
    pub fn new(index: usize, of: usize) -> Self {
        let of = of.max(1);
        Self {
            index: index % of,
            of,
        }
    }

    /// Its share of a sequence of that length: where it begins.
    fn start(self, length: u64) -> u64 {
        let start = u128::from(length) * self.index as u128 / self.of as u128;
        // No more than the length, as the index is less than the number.
        start as u64
    }
}
