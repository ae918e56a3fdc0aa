//! Nodes: servers on which the application runs.
//!
//! A [`Node`] listens for the links of gates, and gives the packets of clients to the handlers of their routes. Handlers run on the
//! reactor, one at a time, and have the application's state as `&mut`. What they send to clients goes through the clients' gates.
//!
//! ```
//! use epicycle::cluster::node::{Node, Request, RouteFlag};
//! use epicycle::cluster::{Error, Event};
//!
//! #[derive(Default)]
//! struct Game {
//!     moves: u64,
//! }
//!
//! fn play(game: &mut Game, cx: &mut Request<'_>) -> Result<(), Error> {
//!     let piece: String = cx.parse()?;
//!     game.moves += 1;
//!     cx.respond(&format!("move {}: {piece}", game.moves))
//! }
//!
//! let node = Node::builder()
//!     .name("chess")
//!     .state(|_reactor| Game::default())
//!     .route(1, |_, cx| cx.respond("welcome"))
//!     .route_with(3, RouteFlag::Authorized, play)
//!     .event(Event::Disconnect, |_, cx| {
//!         println!("the connection {} has ended", cx.cid());
//!         Ok::<(), Error>(())
//!     })
//!     .start()?;
//! println!("gates reach it at {}", node.link_addr());
//! # Ok::<(), Error>(())
//! ```
//!
//! | Input of a server | Result |
//! |---|---|
//! | a frame of 0 to 9 bytes that is no heartbeat | the link is closed |
//! | an unknown operation, one for a gate, a malformed body | code 2 if an answer is wanted, and counted |
//! | anything but the handshake and the proof, before the proof of a secret | the same |
//! | a packet that does not have the format of the node, or is stateful and without a user | the same |
//! | a packet of an unknown route, and there is no default route | ignored and counted; code 0, as by due |
//! | an unknown event | the same |

mod actor;
mod actor_table;
mod alarms;
mod builder;
mod configured;
mod context;
mod description;
mod drain;
mod hand_over;
mod handler;
mod hooks;
mod later;
mod observed;
mod rejecting;
mod reply;
mod room;
mod router;
mod sending;
mod shared;
#[cfg(feature = "testing")]
mod simulated;
mod stats;
mod verbs;
mod watching;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::actor::Home;
use self::context::Posting;
use self::hooks::Hooks;
use self::observed::ObservedNode;
use self::shared::{DrainStage, Shared};
use super::follower::Follower;
use super::{Error, State};
use crate::addr::Addr;

pub use self::actor::{Actor, ActorContext, ActorOptions, ActorRef, ActorRoutes, ActorTimer};
pub use self::builder::NodeBuilder;
pub use self::context::{HandlerError, Request};
pub use self::hooks::Stage;
pub use self::later::Later;
pub use self::room::{Room, RoomContext, RoomOptions, RoomRoutes, Tick};
pub use self::router::{Group, Next, RouteFlag, RouteFlags};
#[cfg(feature = "testing")]
pub use self::simulated::SimulatedNode;
pub use self::stats::NodeStats;

/// A running node. A drop shuts it down and waits for its end.
#[must_use = "dropping it shuts the node down"]
pub struct Node {
    shared: Arc<Shared>,
    posting: Posting,
    hooks: Hooks,
    addr: Addr,
    /// The reactors, whatever state they have, taken at the end. In a simulated network they are not the node's.
    running: Option<Box<dyn Send + Sync>>,
    /// They tell the reactors what has changed, and end after them.
    following: Option<[Follower; 3]>,
    /// It is on the list of the monitor until the end.
    observed: Option<Arc<ObservedNode>>,
}

/// The time within which the registry must have taken the last state, at the end.
const REGISTERING: Duration = Duration::from_secs(10);

/// The time within which the actors must have stopped, at the end.
const ACTORS: Duration = Duration::from_secs(10);

impl Node {
    /// Returns the instance id.
    pub fn id(&self) -> &str {
        &self.shared.ours.id
    }

    /// Returns the address for other servers, with the port that the kernel chose.
    pub fn link_addr(&self) -> &Addr {
        &self.addr
    }

    /// Returns a handle with which any thread can do what a handler can do, without a client.
    pub fn later(&self) -> Later {
        Later::own(&self.shared, &self.posting)
    }

    /// Returns the metrics.
    pub fn stats(&self) -> NodeStats {
        self.shared.stats()
    }

    fn home(&self) -> Home {
        Home {
            shared: self.shared.clone(),
            posting: self.posting.clone(),
        }
    }

    /// Registers another state. It blocks as the registry does.
    ///
    /// # Errors
    ///
    /// Returns the error of the registry, and [`Error::Draining`] if the node drains and the state is not `hang` or `shut`.
    pub fn set_state(&self, state: State) -> Result<(), Error> {
        self.shared.registered.set_state(state)
    }

    /// Takes the node from the registry, tells the servers that have dialled it, sends what its handlers have sent, and waits for
    /// the end. A drop does the same. [`drain`](Self::drain) loses nothing.
    pub fn shutdown(self) {}
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
        self.shared.enter(DrainStage::Leaves);
        self.shared.registered.deregister();
        if let Some(running) = self.running.take() {
            self.home().end_all(ACTORS);
            if let Some(reactors) = self.posting.reactors() {
                reactors.say_bye().wait();
            }
            drop(running);
        }
        drop(self.observed.take());
        drop(self.following.take());
        self.shared.job_pool.shutdown(Duration::ZERO);
        self.shared.pool.shutdown(REGISTERING);
        self.hooks.run(Stage::Destroy);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id())
            .field("link_addr", self.link_addr())
            .finish_non_exhaustive()
    }
}
