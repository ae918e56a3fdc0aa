//! Meshes: servers of stateless services, which nodes, gates and other programs call by name.
//!
//! A [`Mesh`] registers the names of its services. A [`MeshClient`] finds the instances of a service in the registry, and spreads
//! calls over them. Services and calls are those of [`rpc`](crate::rpc), unless a [`Transporter`] brings another protocol.
//!
//! ```
//! use epicycle::cluster::mesh::{Mesh, MeshClient};
//! use epicycle::cluster::registry::MemoryRegistry;
//!
//! let registry = MemoryRegistry::new();
//! let mesh = Mesh::builder()
//!     .registry(registry.clone())
//!     .service("math", |routes| {
//!         routes.call("add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
//!     })
//!     .start()?;
//!
//! let client = MeshClient::builder().registry(registry).start()?;
//! let sum: i64 = client.call("/math/add", &[1, 2, 3]).wait()?;
//! assert_eq!(sum, 6);
//! // On a reactor nothing may block.
//! client.call("/math/add", &[1, 2, 3]).then(|sum: Result<i64, _>| println!("{sum:?}"));
//! # drop(mesh);
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```
//!
//! | Target | Calls go to |
//! |---|---|
//! | `discovery://math` | the instances with the service `math` that are in `work`; if there are none, those in `busy` |
//! | `direct://mesh-1` | the instance of this id, in any state but `shut` |
//! | `direct://10.0.0.7:9000` | this address, registered or not; by TLS if the instance that is registered there wants it |
//! | `direct://10.0.0.7:9000?is_secure=true` | this address, by TLS |

mod builder;
mod call;
mod client;
mod configured;
#[cfg(feature = "grpc")]
mod grpc;
mod instances;
mod rpc;
mod secret;
mod target;
mod transporter;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::monitor::Observed;
use super::registry::{OwnerWatch, Registered};
use super::{Error, Kind, State};
use crate::metrics::Exposition;

pub use self::builder::MeshBuilder;
pub(super) use self::builder::STATE;
pub use self::call::MeshCall;
pub use self::client::{MeshClient, MeshClientBuilder, MeshService};
#[cfg(feature = "grpc")]
pub use self::grpc::{GrpcCall, GrpcMethods, GrpcTransporter};
pub use self::target::Target;
pub use self::transporter::{Channel, Done, MeshAddress, MeshRequest, MeshServer, Transporter};

/// A running server of stateless services. A drop shuts it down as [`shutdown`](Self::shutdown) does.
#[must_use = "dropping it shuts the mesh down"]
pub struct Mesh {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// That of the transporter.
    scheme: String,
    drain: Duration,
    /// Taken at the end.
    owner: Option<OwnerWatch>,
}

/// The part of a mesh that an observer sees.
struct Shared {
    id: String,
    registered: Arc<Registered>,
    server: Box<dyn MeshServer>,
}

impl Mesh {
    /// Returns the instance id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Returns the address that it listens on, with the port that the kernel chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns what the banner of a process shows of the mesh.
    pub(super) fn describe(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("ID", self.id().to_owned())];
        rows.extend(self.shared.registered.describe());
        rows.push(("Server", format!("[{}] {}", self.scheme, self.addr)));
        rows.push(("Transporter", self.scheme.clone()));
        rows
    }

    /// Registers another state. It blocks as the registry does.
    ///
    /// # Errors
    ///
    /// Returns the error of the registry.
    pub fn set_state(&self, state: State) -> Result<(), Error> {
        self.shared.registered.set_state(state)
    }

    /// Registers the state `hang`, so that clients pick other instances, lets the calls under way end within the
    /// [drain deadline](MeshBuilder::drain), and takes the mesh from the registry. A call that arrives meanwhile is refused, and its
    /// client makes it elsewhere.
    pub fn shutdown(self) {}

    /// Shuts the mesh down as [`shutdown`](Self::shutdown) does, with another deadline.
    pub fn shutdown_within(mut self, deadline: Duration) {
        self.drain = deadline;
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Err(error) = self.set_state(State::Hang) {
            log::warn!(target: "epicycle::cluster", "the mesh {} stays in its state: {error}", self.id());
        }
        drop(self.owner.take());
        self.shared.server.shutdown(self.drain);
        self.shared.registered.deregister();
    }
}

impl Observed for Shared {
    fn identity(&self) -> (Kind, &str) {
        (Kind::Mesh, &self.id)
    }

    fn state(&self) -> Option<State> {
        State::from_code(self.registered.state_code())
    }

    fn taken_by(&self) -> Option<String> {
        self.registered.taken_by()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        self.server.expose(labels, to);
        self.registered.expose(labels, to);
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("id", &self.id())
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}
