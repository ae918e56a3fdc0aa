use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::rpc::RpcTransporter;
use super::transporter::Transporter;
use super::{Error, Mesh, Shared};
use crate::addr::Addr;
use crate::cluster::drpc::Secret;
use crate::cluster::link::{Registration, endpoint};
use crate::cluster::registry::{Registered, Registry, ServiceEndpoint};
use crate::cluster::{Kind, Monitor, State};
use crate::engine::listen::Listen;
use crate::rpc::{PeerBuilder, Router, Status, code};

/// The path at which other servers set the state of a mesh.
pub(in crate::cluster) const STATE: &str = "/cluster/state";

/// The options of a [`Mesh`].
#[must_use = "a builder does nothing until start is called"]
pub struct MeshBuilder {
    pub(super) own: Registration,
    drain: Duration,
    monitor: Option<Monitor>,
    rpc: RpcTransporter,
    other: Option<Box<dyn Transporter>>,
}

impl Mesh {
    /// Returns the options of a mesh, at their defaults.
    pub fn builder() -> MeshBuilder {
        MeshBuilder {
            own: Registration::new(Kind::Mesh),
            drain: Duration::from_secs(60),
            monitor: None,
            rpc: RpcTransporter::default(),
            other: None,
        }
    }
}

/// # The mesh in its cluster
impl MeshBuilder {
    /// Sets the instance id, which no other instance has. Default: a new uuid.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.own.id = Some(id.into());
        self
    }

    /// Sets the name that the registry shows as the alias. Default: `mesh`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own.name = name.into();
        self
    }

    /// Sets the host, or the host and port, that the registry shows. Default: the address that is listened on, which must not be
    /// that of every interface then.
    pub fn expose(mut self, host: impl Into<String>) -> Self {
        self.own.expose = Some(host.into());
        self
    }

    /// Sets the registry. Default: one in memory, which no other server has.
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.own.set_registry(registry);
        self
    }

    /// Adds the mesh to a list of what is observed, for an [admin interface](crate::cluster::admin). Default: it is on none.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.monitor = Some(monitor.clone());
        self
    }

    /// Sets the share of the calls that this instance gets, relative to the others. Default: 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.own.weight = weight;
        self
    }

    /// Sets the secret of the cluster. Clients that do not prove that they have it are refused. With it, an
    /// [admin interface](crate::cluster::admin) that has it too can set the state of a mesh over rpc. Default: none.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.rpc.secret = Some(secret);
        self
    }

    /// Adds a pair to the metadata of the record.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.own.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the time within which the calls under way must end when the mesh is shut down. Default: 60 s.
    pub fn drain(mut self, deadline: Duration) -> Self {
        self.drain = deadline;
        self
    }
}

/// # Services
impl MeshBuilder {
    /// Sets the address to listen on. Default: `tcp://127.0.0.1:0`.
    pub fn listen(mut self, listen: impl Into<Listen>) -> Self {
        self.rpc.listen = Some(listen.into());
        self
    }

    /// Adds a service. Its handlers are those of [`rpc`](crate::rpc), and their paths begin with the name of the service:
    /// `add` of `math` is `/math/add`.
    pub fn service(mut self, name: &str, add: impl FnOnce(&mut Router)) -> Self {
        self.rpc.services.push(name.to_owned());
        self.rpc.routes.group(name, add);
        self
    }

    /// Changes options of the peer that serves: plugins, limits, codecs, the number of reactors.
    pub fn peer(
        mut self,
        change: impl FnOnce(PeerBuilder) -> PeerBuilder + Send + Sync + 'static,
    ) -> Self {
        self.rpc.changes.push(Box::new(change));
        self
    }

    /// Uses TLS. The endpoint in the registry says so.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &crate::tls::TlsServer) -> Self {
        self.rpc.tls_server = Some(tls.clone());
        self
    }

    /// Serves by another protocol than rpc. The transporter has the services, and where to listen.
    pub fn transporter(mut self, transporter: impl Transporter) -> Self {
        self.other = Some(Box::new(transporter));
        self
    }

    /// Returns the name that the registry will show as the alias.
    pub(in crate::cluster) fn alias(&self) -> &str {
        &self.own.name
    }

    /// Starts the mesh, and registers it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Start`] if an option or an address is wrong, and the error of the registry.
    pub fn start(mut self) -> Result<Mesh, Error> {
        let has_services = !self.rpc.services.is_empty();
        let registered = Arc::new(Registered::new(self.own.registry.clone()));
        if self.rpc.secret.is_some() {
            let own = registered.clone();
            let routes = &mut self.rpc.routes;
            routes.call_blocking(STATE, move |_ctx, state: State| {
                let set = own.set_state(state);
                set.map_err(|error| Status::new(code::INTERNAL_SERVER_ERROR, error.to_string()))
            });
        }
        let transporter: Box<dyn Transporter> = match self.other {
            Some(_) if has_services => {
                let problem = "the services are those of the transporter; give them to it";
                return Err(Error::argument("service", problem));
            }
            Some(mut other) => {
                if let Some(secret) = &self.rpc.secret {
                    other.set_secret(secret)?;
                }
                other
            }
            None => Box::new(self.rpc),
        };
        let (scheme, services) = (transporter.scheme().to_owned(), transporter.services());
        check(&services)?;
        let server = transporter.serve()?;
        let (addr, is_secure) = (server.addr(), server.is_secure());
        let exposed = endpoint(&Addr::Ip(addr), self.own.expose.as_deref())?;
        let endpoint = ServiceEndpoint::new(scheme.clone(), exposed.address(), is_secure)?;

        let id = self.own.take_id();
        let mut record = self.own.record(&id, endpoint.to_string());
        record.services = services;
        let shared = Arc::new(Shared {
            id,
            registered,
            server,
        });
        // Before the record, which would stay if the thread could not be started.
        let owner = shared.registered.watch_owner()?;
        shared.registered.register(record)?;
        if let Some(monitor) = self.monitor {
            monitor.add(&shared);
        }
        Ok(Mesh {
            owner: Some(owner),
            shared,
            addr,
            scheme,
            drain: self.drain,
        })
    }
}

/// Checks the names of services, which clients read as parts of paths.
fn check(services: &[String]) -> Result<(), Error> {
    let bad = |problem: String| Err(Error::argument("service", problem));
    if services.is_empty() {
        return bad("there is none; add one".to_owned());
    }
    for (number, name) in services.iter().enumerate() {
        if name.is_empty() || name.contains(['/', '?']) || name.contains(char::is_control) {
            return bad(format!(
                "{name:?} is not allowed; use a name without slashes"
            ));
        }
        if services[..number].contains(name) {
            return bad(format!("{name:?} is there twice"));
        }
    }
    Ok(())
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("id", &self.own.id)
            .field("name", &self.own.name)
            .field("services", &self.rpc.services)
            .finish_non_exhaustive()
    }
}
