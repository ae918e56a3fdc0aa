//! Gates: servers that hold the connections of clients.
//!
//! A [`Gate`] listens for clients, and for the links of other servers. It hands each packet of a client to a node that is registered
//! for the packet's route, and does for the nodes what they ask: push to clients, bind users, and so on. [`drpc`](super::drpc) has
//! the requests.
//!
//! ```
//! use epicycle::cluster::gate::Gate;
//! use epicycle::cluster::registry::{MemoryRegistry, Registry};
//!
//! let registry = MemoryRegistry::new();
//! let gate = Gate::builder()
//!     .id("gate-1")
//!     .listen("tcp://127.0.0.1:0")
//!     .listen("ws://127.0.0.1:0/play")
//!     .registry(registry.clone())
//!     .start()?;
//! assert_eq!(registry.services("gate")?[0].id, "gate-1");
//! gate.shutdown();
//! assert!(registry.services("gate")?.is_empty());
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```
//!
//! | Input of a client | Result |
//! |---|---|
//! | a size above the limit of the [packet options](super::packet::PacketOptions) | closed when the 4 bytes of the size have arrived |
//! | size 0 | skipped; 100 in a row close |
//! | a size shorter than the head, and no heartbeat | closed |
//! | a WebSocket message that is not one packet | closed with 1002 |
//! | a text message | closed with 1003 |
//! | a packet that goes to no node | dropped and counted, unless [`on_refused`](GateBuilder::on_refused) answers it |
//!
//! | Input of a server | Result |
//! |---|---|
//! | a frame of 0 to 9 bytes that is no heartbeat | the link is closed |
//! | an unknown operation, one for another kind of server, a malformed body | code 2 if an answer is wanted, and counted |
//! | a packet to push that does not have the format of the gate | the same; an empty one is taken and not sent, as by due |
//! | anything but the handshake and the proof, before the proof of a secret | the same |
//! | a bind with numbers that are not above 0 | code 2 |
//! | an unknown connection or user | code 1; lists skip it |
//!
//! # Resume
//!
//! With [`GateBuilder::resume`] a client that has lost its connection takes its user back on a new one: see [`ResumeOptions`], and
//! [`resume_token`](super::node::Request::resume_token) for where a client has its token from.
//!
//! | While a user is away | Result |
//! |---|---|
//! | a push to it or to its connection | kept, and sent when it is back |
//! | more pushes than are kept | the oldest are lost, and the client is refused |
//! | a question if it is online | yes |
//! | a disconnect | the end: Disconnect is told |
//! | a login on another connection | the end of the older one, as always |
//! | the window ends | Disconnect is told |

mod away;
mod binding;
mod builder;
mod by_route;
mod claims;
mod client;
mod clients;
mod codec;
mod configured;
mod description;
mod drain;
mod fairness;
mod handler;
#[cfg(feature = "kcp")]
mod kcp_clients;
mod kept;
mod leaving;
mod listener;
mod observed;
mod options;
mod pushes;
mod replacing;
mod requests;
mod resume;
mod resuming;
mod servers;
mod shared;
#[cfg(feature = "testing")]
mod simulated;
mod sockets;
mod stateful;
mod stats;
mod token;
#[cfg(feature = "kcp")]
mod unproved;
mod watching;
mod work;
mod working;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::handler::GateReactor;
use self::observed::ObservedGate;
use self::shared::Shared;
use super::follower::Follower;
#[cfg(feature = "testing")]
use super::follower::Followers;
use super::registry::OwnerWatch;
use super::{Error, State};
use crate::addr::Addr;
use crate::engine::server::Running;
use crate::engine::server::watcher::Watcher;

pub use self::builder::GateBuilder;
pub use self::listener::ClientListener;
pub use self::options::{
    DuplicateLogin, HeartbeatMode, OverRate, RateLimit, ResumeOptions, SlowClient,
};
#[cfg(feature = "testing")]
pub use self::simulated::SimulatedGate;
pub use self::stats::{GateStats, RefusedPacket, RefusedResume};

/// A running gate. A drop shuts it down and waits for its end.
#[must_use = "dropping it shuts the gate down"]
pub struct Gate {
    shared: Arc<Shared>,
    addrs: Vec<Addr>,
    /// The reactors, taken at the end. In a simulated network they are not the gate's.
    running: Option<Running<GateReactor>>,
    #[cfg(feature = "testing")]
    followers: Followers,
    /// They tell the reactors what has changed, and end after them.
    following: Option<Vec<Follower>>,
    owner: Option<OwnerWatch>,
    /// They wait for a process that takes over.
    replaced_by: Vec<Watcher>,
    /// Taken at the end, so that nobody asks the reactors any more.
    observed: Option<Arc<ObservedGate>>,
}

/// The time within which the locator must have forgotten the users, at the end.
const FORGETTING: Duration = Duration::from_secs(10);

impl Gate {
    /// Returns the instance id.
    pub fn id(&self) -> &str {
        &self.shared.ours.id
    }

    /// Returns the address for other servers, with the port that the kernel chose.
    pub fn link_addr(&self) -> &Addr {
        &self.addrs[0]
    }

    /// Returns the addresses for clients, in the order in which they were given.
    pub fn client_addrs(&self) -> &[Addr] {
        &self.addrs[1..]
    }

    /// Returns the metrics.
    pub fn stats(&self) -> GateStats {
        self.shared.stats()
    }

    /// Registers another state. It blocks as the registry does.
    ///
    /// # Errors
    ///
    /// Returns the error of the registry, and [`Error::Draining`] if the gate drains and the state is not `hang` or `shut`.
    pub fn set_state(&self, state: State) -> Result<(), Error> {
        self.shared.registered.set_state(state)
    }

    /// Takes the gate from the registry, tells its clients and the servers that have dialled it, closes its clients with all output
    /// sent, has their users forgotten by the locator, and waits for the end. A drop does the same. [`drain`](Self::drain) leaves
    /// the clients time.
    pub fn shutdown(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.replaced_by.clear();
        drop(self.observed.take());
        drop(self.owner.take());
        self.shared.registered.deregister();
        if let Some(running) = self.running.take() {
            self.close_clients(running.engine());
        }
        drop(self.following.take());
        self.shared.pool.shutdown(FORGETTING);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("id", &self.id())
            .field("link_addr", self.link_addr())
            .field("client_addrs", &self.client_addrs())
            .finish_non_exhaustive()
    }
}
