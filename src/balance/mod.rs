//! Load balancing: picking one of several nodes, such as the addresses of a service.
//!
//! [`Nodes`] is the list of a pool, with the state of each node that all threads share: the number of requests in
//! flight, and if it is up. A [`Balancer`] picks one node. [`Health`] ejects nodes that fail and lets them return
//! slowly. A [`CircuitBreaker`] stops requests to a node of which a large share fails. A [`RetryBudget`] limits retries, so
//! that they do not overload a failing service. This module uses no sockets and no clock: the caller passes the time, as a
//! [`Duration`](std::time::Duration) since any fixed moment.
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
//! // The request fails.
//! let now = Duration::from_secs(1);
//! balancer.done(node, Outcome::Failure);
//! health.report(&nodes, node, Outcome::Failure, now);
//! drop(request);
//! ```
//!
//! # Choosing a balancer
//!
//! | Balancer | Picks | Weights | For |
//! |---|---|---|---|
//! | [`Weighted`] | in turn, evenly spread; a failing node gets fewer requests | yes | most pools |
//! | [`RoundRobin`] | in turn | only 0 | equal nodes |
//! | [`Random`] | at random | yes | many independent pickers |
//! | [`Least`] | the node with the fewest requests in flight | yes | requests of very different lengths |
//! | [`TwoChoices`] | the better of two random nodes | yes | like `Least`, with many pickers |
//! | [`HashRing`] | by key, from a ring | yes | caches and sessions; a key moves only when its node is removed |
//! | [`Rendezvous`] | by key, the node with the highest score | yes | like `HashRing`, with few nodes, and pickers that must agree |
//!
//! # Several threads
//!
//! Each thread has its own balancer and a clone of the [`Nodes`]. The clones share the state of the nodes through
//! atomics. [`Place`] gives each thread's balancer a different starting point, so that they do not all pick the same
//! node first. One [`Health`] serves all threads.

mod breaker;
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
mod window;

pub use self::breaker::{Admission, BreakerState, CircuitBreaker};
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

/// Picks one of several nodes. One value serves one thread, or is protected by a lock.
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
    /// Picks a node that accepts requests. Returns `None` if there is none.
    ///
    /// `key` identifies the subject of the request. Balancers that hash keys pick the same node for the same key; the
    /// others ignore it. To retry a request, exclude the nodes that were tried: [`Nodes::without`].
    fn pick(&mut self, nodes: &Nodes, key: u64) -> Option<NodeId>;

    /// Reports the outcome of a request to a node. The default does nothing.
    fn done(&mut self, node: NodeId, outcome: Outcome) {
        let _ = (node, outcome);
    }

    /// Returns the weight of a node as its failures have left it, for a balancer that lowers weights. The default returns
    /// `None`.
    fn effective_weight(&self, node: NodeId) -> Option<u32> {
        let _ = node;
        None
    }

    /// Reports that the list has changed. The state of nodes that stay is kept. The default does nothing.
    ///
    /// The balancers of this crate also detect a changed list at the next pick.
    fn update(&mut self, nodes: &Nodes) {
        let _ = nodes;
    }
}

/// A balancer that picks in turn, so that its sequence repeats itself as long as the same nodes take requests.
#[cfg(feature = "gateway")]
pub(crate) trait Sequence: Balancer {
    /// Begins the sequence anew. What outcomes have changed stays.
    fn restart(&mut self);

    /// Returns a number of picks after which the sequence repeats itself if these nodes take requests.
    fn round<'a>(takers: impl Iterator<Item = &'a Node>) -> u64;
}

/// The outcome of a request, as far as it concerns the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The node answered.
    Success,
    /// The node could not be reached, broke the connection, or answered with an error of its own.
    Failure,
    /// The request was abandoned for reasons unrelated to the node.
    Abandoned,
}

/// The position of one of several balancers for the same nodes. Each starts its sequence at a different point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    index: usize,
    of: usize,
}

impl Place {
    /// The position of a single balancer.
    pub const ALONE: Place = Place { index: 0, of: 1 };

    /// Returns position `index`, from 0, of `of` balancers. An index of `of` or more wraps around. With an `of` of 0 it
    /// is [`ALONE`](Self::ALONE).
    pub fn new(index: usize, of: usize) -> Self {
        let of = of.max(1);
        Self {
            index: index % of,
            of,
        }
    }

    /// Returns the starting point in a sequence of that length.
    fn start(self, length: u64) -> u64 {
        let start = u128::from(length) * self.index as u128 / self.of as u128;
        // The result is at most `length`, since the index is less than the number of balancers.
        start as u64
    }
}
