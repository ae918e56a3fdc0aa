//! The admin interface of a cluster: JSON over HTTP, for operators, and metrics for Prometheus.
//!
//! It knows the servers by the registry and the users by the locator. It acts on gates and nodes over links of its own, as a server
//! of the kind `master`, so it can stand in any process of the cluster or in one by itself. The metrics are those of the process that
//! it is in.
//!
//! ```
//! use std::io::{Read, Write};
//! use epicycle::cluster::Cluster;
//!
//! let cluster = Cluster::embedded();
//! let gate = cluster.gate().id("gate-1").listen("tcp://127.0.0.1:0").start()?;
//! let admin = cluster.admin().start()?;
//!
//! let mut stream = std::net::TcpStream::connect(admin.addr()).expect("connects");
//! let token = admin.token().unwrap_or_default();
//! write!(
//!     stream,
//!     "GET /instances HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
//! ).expect("is sent");
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).expect("is read");
//! assert!(answer.contains(r#""id":"gate-1""#));
//! # drop(gate);
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```
//!
//! | Request | Result |
//! |---|---|
//! | `GET /healthz` | 200 as long as the process works; needs no token |
//! | `GET /readyz` | 200 if the registry can be reached, and every part of the process takes work and has its record, else 503: one part in `hang` is enough; needs no token |
//! | `GET /instances` | the records of all servers |
//! | `PUT /instances/ID/state` | sets the state of a gate, a node, or a mesh with the secret of the cluster; the body is `{"state": "busy"}` |
//! | `GET /users/UID` | the user's gate, address and nodes. A user without a gate has no address |
//! | `POST /users/UID/kick` | closes the user's connection, after what is queued for it; `?force=true` resets it |
//! | `POST /broadcast` | pushes `{"route": 7, "data": …}` to all users, with `"to": "connections"` to all clients |
//! | `GET /metrics` | Prometheus text |

mod answer;
mod call;
mod carrying;
mod front;
pub(in crate::cluster) mod links;
pub(in crate::cluster) mod serving;
mod token;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use self::carrying::Desk;
use self::front::Front;
use self::links::{Dialler, Links};
use self::token::Token;
use super::drpc::Secret;
#[cfg(feature = "tls")]
use super::link::LinkTls;
use super::locator::{GuardedLocator, Locator, MemoryLocator};
use super::mesh::MeshClient;
use super::packet::PacketOptions;
use super::registry::{Directory, GuardedRegistry, MemoryRegistry, Registry};
use super::{Error, Monitor, new_uuid};
use crate::addr::Endpoint;
use crate::engine::listen::Listen;
use crate::engine::server::Running;
use crate::workers::WorkerPool;

/// A running admin interface. A drop ends it.
#[must_use = "dropping it ends the interface"]
pub struct Admin {
    addr: SocketAddr,
    token: Option<String>,
    /// Taken at the end, before the links that the calls need.
    running: Option<Running<Front>>,
    _desk: Arc<Desk>,
}

/// The options of an [`Admin`].
#[must_use = "a builder does nothing until start is called"]
pub struct AdminBuilder {
    listen: String,
    token: Option<String>,
    is_open: bool,
    hosts: Vec<String>,
    registry: Arc<dyn Registry>,
    locator: Arc<dyn Locator>,
    monitor: Monitor,
    secret: Option<Secret>,
    #[cfg(feature = "tls")]
    tls: Option<LinkTls>,
    packet: PacketOptions,
}

/// The clients at a time.
const MAX_CLIENTS: usize = 64;

/// Those from one IPv4 address or IPv6 /64, so that others find room.
const MAX_CLIENTS_PER_IP: usize = 48;

/// The requests that are carried out at a time, of which each may wait for servers.
const THREADS: usize = 4;

/// The fewest characters of a token.
const MIN_TOKEN: usize = 16;

impl Admin {
    /// Returns the options of an admin interface, at their defaults.
    pub fn builder() -> AdminBuilder {
        AdminBuilder {
            listen: "tcp://127.0.0.1:0".to_owned(),
            token: None,
            is_open: false,
            hosts: Vec::new(),
            registry: Arc::new(MemoryRegistry::new()),
            locator: Arc::new(MemoryLocator::new()),
            monitor: Monitor::new(),
            secret: None,
            #[cfg(feature = "tls")]
            tls: None,
            packet: PacketOptions::default(),
        }
    }

    /// Returns the address that it listens on, with the port that the kernel chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the token that requests must have, if they must have one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Ends the interface once the answers under way have been sent. A drop does the same.
    pub fn shutdown(self) {}
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.running.take());
    }
}

impl AdminBuilder {
    /// Sets the address to listen on: `tcp://HOST:PORT`. Default: `tcp://127.0.0.1:0`, a free port. `epicycle admin` looks at port 9100
    /// unless it is told another one.
    pub fn listen(mut self, addr: impl Into<String>) -> Self {
        self.listen = addr.into();
        self
    }

    /// Sets the token that requests must have, as `Authorization: Bearer TOKEN`: at least 16 characters. It goes over the network as it
    /// is. Default: a random one, which [`Admin::token`] returns.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Lets everybody in who can reach the address, which must be of the loopback interface.
    pub fn without_token(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Adds a name that may stand in `Host`, besides `localhost` and IP addresses. A browser that was led here by another site's name
    /// is refused.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Sets the registry. Default: one in memory, which no other server has.
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.registry = Arc::new(GuardedRegistry(registry));
        self
    }

    /// Sets the locator. Default: one in memory, which no other server has.
    pub fn locator(mut self, locator: impl Locator) -> Self {
        self.locator = Arc::new(GuardedLocator(locator));
        self
    }

    /// Sets the parts of this process, whose metrics and readiness are told. Default: none.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.monitor = monitor.clone();
        self
    }

    /// Sets the secret of the cluster, if it has one.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Uses TLS on links to gates and nodes, of which it dials but is not dialled. Default: none, so that servers with TLS cannot be
    /// reached.
    #[cfg(feature = "tls")]
    pub fn link_tls(mut self, tls: LinkTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the format of packets, which is that of the gates. Default: that of [`PacketOptions`].
    pub fn packet(mut self, options: PacketOptions) -> Self {
        self.packet = options;
        self
    }

    /// Starts the interface.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Start`] if an option or the address is wrong, and the error of the registry.
    pub fn start(self) -> Result<Admin, Error> {
        let token = match (self.token, self.is_open) {
            (Some(_), true) => {
                let problem = "there is one, and there is to be none; leave one of them out";
                return Err(Error::argument("token", problem));
            }
            (Some(token), false) => Some(token),
            (None, false) => Some(new_uuid() + &hex(rand::random())),
            (None, true) => None,
        };
        if token.as_ref().is_some_and(|token| token.len() < MIN_TOKEN) {
            let problem = "it is shorter than 16 characters; take one from `openssl rand -hex 32`";
            return Err(Error::argument("token", problem));
        }
        if token.is_none() {
            check_loopback(&self.listen)?;
        }
        let directory = Directory::start(self.registry.clone(), &["gate", "node", "mesh"])?;
        let meshes = match &self.secret {
            Some(secret) => {
                let client = MeshClient::builder().registry(self.registry.clone());
                #[cfg(feature = "tls")]
                let client = match &self.tls {
                    Some(tls) => client.tls(&tls.client),
                    None => client,
                };
                Some(client.secret(secret.clone()).start()?)
            }
            None => None,
        };
        #[cfg(feature = "tls")]
        let dialler = Dialler::new(self.secret, self.tls);
        #[cfg(not(feature = "tls"))]
        let dialler = Dialler::new(self.secret);
        let links = Links::start(&*self.registry, dialler)?;
        let desk = Arc::new(Desk {
            meshes,
            directory,
            locator: self.locator,
            monitor: self.monitor,
            packet: self.packet,
            links,
        });
        let workers = WorkerPool::builder().threads(THREADS).queue(MAX_CLIENTS);
        let workers = Arc::new(workers.name("epicycle-admin").build()?);
        let second = Duration::from_secs;
        let server = serving::server(Listen::on(&*self.listen))
            .max_connections(MAX_CLIENTS)
            .max_connections_per_ip(MAX_CLIENTS_PER_IP)
            .read_timeout(second(10))
            .idle_timeout(second(30))
            .write_stall_timeout(second(10))
            .drain_deadline(second(5));
        let make = {
            let (desk, hosts) = (desk.clone(), self.hosts);
            let token = token.as_deref().map(Token::new);
            move |_| Front::new(desk.clone(), workers.clone(), token.clone(), hosts.clone())
        };
        let (running, addr) = serving::start(server, make)?;
        Ok(Admin {
            addr,
            token,
            running: Some(running),
            _desk: desk,
        })
    }
}

/// Refuses an address that other machines can reach, before anything listens there.
fn check_loopback(listen: &str) -> Result<(), Error> {
    let Endpoint::Tcp { host, port, .. } = listen.parse::<Endpoint>()? else {
        return Err(Error::argument("listen", "use a tcp:// address"));
    };
    // A host without a name is every interface.
    let is_loopback = (&*host, port)
        .to_socket_addrs()
        .is_ok_and(|mut addrs| addrs.len() > 0 && addrs.all(|addr| addr.ip().is_loopback()));
    match is_loopback {
        true => Ok(()),
        false => {
            let problem = format!("{listen} can be reached from other machines; set one");
            Err(Error::argument("token", problem))
        }
    }
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder")
            .field("listen", &self.listen)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}
