//! HTTP for applications in a cluster: routes with groups and middleware, JSON, CORS, and a description as OpenAPI.
//!
//! ```
//! use epicycle::cluster::Cluster;
//! use epicycle::cluster::http::{HttpError, HttpReply};
//!
//! let cluster = Cluster::embedded();
//! let server = cluster
//!     .http()
//!     .listen("tcp://127.0.0.1:0")
//!     .routes(|routes| {
//!         routes.get("/users/{uid}/gate", |request| {
//!             let uid = request.param("uid").parse().map_err(|_| HttpError::new(400, "the uid is a number"))?;
//!             HttpReply::json(&request.proxy().locate_gate(uid)?)
//!         });
//!         routes.group("/api", |api| {
//!             api.middleware(|request, next| match request.header("Authorization") {
//!                 Some("Bearer secret") => next.run(request),
//!                 _ => Err(HttpError::new(401, "log in first")),
//!             });
//!             api.post("/sum", |request| HttpReply::json(&request.json::<Vec<i64>>()?.iter().sum::<i64>()));
//!         });
//!     })
//!     .start()?;
//!
//! let url = format!("http://{}/users/7/gate", server.addr());
//! assert_eq!(epicycle::fetch::get(url)?.body(), "null");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Handlers run on threads of their own, so they may wait: for the locator, a mesh, a database. What cannot be queued for them is
//! answered with 503. A handler that panics is answered with 500, and the connection stays. It is a
//! [component](crate::cluster::container::Component) of a container.

mod body;
mod codec;
mod configured;
mod cors;
mod front;
mod openapi;
mod proxy;
mod request;
mod routes;
mod stats;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::body::Room;
use self::front::Front;
use self::openapi::OpenApi;
use self::stats::{Metrics, Observed};
use super::admin::links::{Dialler, Links};
use super::admin::serving;
use super::codec::Codec;
use super::drpc::Secret;
#[cfg(feature = "tls")]
use super::link::LinkTls;
use super::locator::{GuardedLocator, Locator, MemoryLocator};
use super::mesh::MeshClient;
use super::packet::PacketOptions;
use super::registry::{Directory, GuardedRegistry, MemoryRegistry, Registry};
use super::{Error, Monitor};
use crate::engine::listen::Listen;
use crate::engine::server::Running;
#[cfg(feature = "tls")]
use crate::tls::TlsServer;
use crate::workers::WorkerPool;

pub use self::cors::Cors;
pub use self::proxy::HttpProxy;
pub use self::request::{HttpError, HttpReply, HttpRequest};
pub use self::routes::{HttpNext, HttpRoute, HttpRoutes};
pub use self::stats::{HttpStats, HttpStatusClass};

/// A running HTTP server of an application. A drop ends it.
#[must_use = "dropping it ends the server"]
pub struct HttpServer {
    addr: SocketAddr,
    /// Taken at the end, before the links that the handlers need.
    running: Option<Running<Front>>,
    metrics: Arc<Metrics>,
    _proxy: Arc<HttpProxy>,
}

/// The options of an [`HttpServer`].
#[must_use = "a builder does nothing until start is called"]
pub struct HttpBuilder {
    listen: String,
    #[cfg(feature = "tls")]
    tls: Option<TlsServer>,
    max_body: u64,
    max_bodies: Option<u64>,
    body_timeout: Duration,
    threads: usize,
    max_connections: usize,
    cors: Option<Cors>,
    described: Option<OpenApi>,
    routes: HttpRoutes,
    registry: Arc<dyn Registry>,
    locator: Arc<dyn Locator>,
    secret: Option<Secret>,
    #[cfg(feature = "tls")]
    link_tls: Option<LinkTls>,
    packet: PacketOptions,
    codec: Codec,
    mesh: Option<MeshClient>,
    monitor: Option<Monitor>,
}

/// The memory of all bodies, unless it is set.
const BODIES: u64 = 256 << 20;

/// The requests that wait for a thread.
const QUEUE: usize = 1024;

impl HttpServer {
    /// Returns the options of a server, at their defaults.
    pub fn builder() -> HttpBuilder {
        HttpBuilder {
            listen: "tcp://:8080".to_owned(),
            #[cfg(feature = "tls")]
            tls: None,
            max_body: 4 << 20,
            max_bodies: None,
            body_timeout: Duration::from_secs(30),
            threads: 8,
            max_connections: 10_000,
            cors: None,
            described: None,
            routes: HttpRoutes::new(),
            registry: Arc::new(MemoryRegistry::new()),
            locator: Arc::new(MemoryLocator::new()),
            secret: None,
            #[cfg(feature = "tls")]
            link_tls: None,
            packet: PacketOptions::default(),
            codec: Codec::default(),
            mesh: None,
            monitor: None,
        }
    }

    /// Returns the address that it listens on, with the port that the kernel chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns its metrics at this moment.
    pub fn stats(&self) -> HttpStats {
        self.metrics.read()
    }

    /// Ends the server once the answers under way have been sent. A drop does the same.
    pub fn shutdown(self) {}
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.running.take());
    }
}

/// # The server
impl HttpBuilder {
    /// Sets the address to listen on: `tcp://HOST:PORT`. Default: `tcp://:8080`, which is every interface.
    pub fn listen(mut self, addr: impl Into<String>) -> Self {
        self.listen = addr.into();
        self
    }

    /// Uses TLS. Default: none.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &TlsServer) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Sets the longest body of a request, in bytes. A longer one is answered with 413. Default: 4 MiB.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets the memory that the bodies of all requests may take, in bytes. A body counts from its first byte until its handler has
    /// ended. One that has no room is answered with 503 and `Retry-After`. At least the longest body has to have room. Default:
    /// 256 MiB, or the longest body if that is more.
    pub fn max_bodies(mut self, bytes: u64) -> Self {
        self.max_bodies = Some(bytes);
        self
    }

    /// Sets the time within which a request must have arrived, from its head to the end of its body. It is answered with 408 then.
    /// Default: 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets the number of threads on which the handlers run. Default: 8. At most 1,024 requests wait for them.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the number of clients at a time. Default: 10,000.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Lets pages of other origins in. Default: a browser lets them read no answer.
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Adds routes.
    pub fn routes(mut self, add: impl FnOnce(&mut HttpRoutes)) -> Self {
        add(&mut self.routes);
        self
    }

    /// Describes the routes: as OpenAPI at `path` and `.json`, and as a page at `path`, which needs nothing from the network.
    /// `/docs`, for example, is the page, and `/docs.json` the document.
    pub fn openapi(mut self, path: &str, title: &str, version: &str) -> Self {
        self.described = Some(OpenApi::new(path, title, version));
        self
    }
}

/// # Its cluster
impl HttpBuilder {
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

    /// Sets the secret of the cluster, if it has one.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Uses TLS on links to gates, of which it dials but is not dialled. Default: none.
    #[cfg(feature = "tls")]
    pub fn link_tls(mut self, tls: LinkTls) -> Self {
        self.link_tls = Some(tls);
        self
    }

    /// Sets the format of packets, which is that of the gates. Default: that of [`PacketOptions`].
    pub fn packet(mut self, options: PacketOptions) -> Self {
        self.packet = options;
        self
    }

    /// Sets the codec of what is pushed to clients. Default: [`Codec::Json`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the client by which handlers call meshes. Default: none.
    pub fn mesh_client(mut self, client: MeshClient) -> Self {
        self.mesh = Some(client);
        self
    }

    /// Adds the metrics of the server to a list of what is observed, for an [admin interface](super::admin). Their label `role` is
    /// `http-PORT`. Default: they are on none.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.monitor = Some(monitor.clone());
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Start`] if an option, a route or the address is wrong, and the error of the registry.
    pub fn start(self) -> Result<HttpServer, Error> {
        let max_bodies = self.max_bodies.unwrap_or(BODIES.max(self.max_body));
        if max_bodies < self.max_body {
            let problem = format!(
                "{max_bodies} bytes are less than the longest body has; set `max_body` too"
            );
            return Err(Error::argument("max_bodies", problem));
        }
        Error::if_zero("body_timeout", self.body_timeout)?;
        let mut routes = self.routes;
        if let Some(described) = self.described {
            described.add(&mut routes)?;
        }
        let routes = Arc::new(routes.build()?);
        let directory = Directory::start(self.registry.clone(), &["gate"])?;
        #[cfg(feature = "tls")]
        let dialler = Dialler::new(self.secret, self.link_tls);
        #[cfg(not(feature = "tls"))]
        let dialler = Dialler::new(self.secret);
        let links = Links::start(&*self.registry, dialler)?;
        let proxy = Arc::new(HttpProxy {
            directory,
            links,
            locator: self.locator,
            packet: self.packet,
            codec: self.codec,
            mesh: self.mesh,
        });
        let workers = WorkerPool::builder().threads(self.threads).queue(QUEUE);
        let workers = Arc::new(workers.name("epicycle-http").build()?);
        let listen = Listen::on(&*self.listen);
        #[cfg(feature = "tls")]
        let listen = match &self.tls {
            Some(tls) => listen.tls(tls),
            None => listen,
        };
        let second = Duration::from_secs;
        let server = serving::server(listen)
            .max_connections(self.max_connections)
            .read_timeout(second(30))
            .idle_timeout(second(60))
            .write_stall_timeout(second(30))
            .drain_deadline(second(10));
        let metrics = Arc::new(Metrics {
            cells: Default::default(),
            room: Room::new(max_bodies),
        });
        let make = {
            let (proxy, cors, max_body) = (proxy.clone(), self.cors.map(Arc::new), self.max_body);
            let body_timeout = self.body_timeout;
            let metrics = metrics.clone();
            move |_| Front {
                routes: routes.clone(),
                workers: workers.clone(),
                proxy: proxy.clone(),
                cors: cors.clone(),
                max_body,
                body_timeout,
                metrics: metrics.clone(),
            }
        };
        let (running, addr) = serving::start(server, make)?;
        if let Some(monitor) = self.monitor {
            let role = format!("http-{}", addr.port());
            monitor.add_metrics(role, Observed(Arc::downgrade(&metrics)));
        }
        Ok(HttpServer {
            addr,
            running: Some(running),
            metrics,
            _proxy: proxy,
        })
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBuilder")
            .field("listen", &self.listen)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
