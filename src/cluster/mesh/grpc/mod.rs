//! The calls of meshes over gRPC.

mod channel;
mod configured;
mod connection;
mod driver;
mod host;
mod methods;
mod server;
mod token;
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use self::channel::GrpcChannel;
use self::driver::Driver;
use self::host::Host;
use self::methods::Method;
use self::token::Token;
use super::transporter::{Channel, MeshServer, Transporter};
use crate::balance::{Balancer, Place, Weighted};
use crate::cluster::Error;
use crate::cluster::codec::Codec;
use crate::cluster::drpc::Secret;
use crate::tls::{TlsClient, TlsServer};

pub use self::methods::{GrpcCall, GrpcMethods};

/// Services and calls over gRPC, for a [mesh](super::MeshBuilder::transporter) and its [clients](super::MeshClientBuilder::transporter).
///
/// Bodies have the codec of the mesh. A request says which one by its content type, as gRPC has it: `application/grpc` is protobuf,
/// `application/grpc+json` is JSON, and the names of other codecs follow the plus sign likewise. So every gRPC client can call methods
/// whose arguments and results are messages in [`Pb`](crate::cluster::codec::Pb). Services that tonic has generated are
/// [hosted](Self::host) beside them.
///
/// | A status of rpc | gRPC |
/// |---|---|
/// | 400, 401, 404, 408, 429, 499, 500, 503 | `INVALID_ARGUMENT`, `UNAUTHENTICATED`, `NOT_FOUND`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `CANCELLED`, `INTERNAL`, `UNAVAILABLE` |
/// | 1 to 16 | the status of that number |
/// | others, as those of applications are | `UNKNOWN` |
///
/// The metadata `epicycle-code` has the exact number in any case, so that a client of this crate gets what the handler returned.
///
/// Its threads are its own: a server has one for its connections and some for its handlers, and the clients of one transporter have one.
/// No connection of it is on a reactor.
///
/// # Examples
///
/// ```
/// use epicycle::cluster::mesh::{GrpcTransporter, Mesh, MeshClient};
/// use epicycle::cluster::registry::MemoryRegistry;
///
/// let registry = MemoryRegistry::new();
/// let services = GrpcTransporter::new().service("math", |methods| {
///     methods.call("add", |_call, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
/// });
/// let mesh = Mesh::builder().registry(registry.clone()).transporter(services).start()?;
///
/// let client = MeshClient::builder().registry(registry).transporter(GrpcTransporter::new()).start()?;
/// let sum: i64 = client.call("/math/add", &[1, 2, 3]).wait()?;
/// assert_eq!(sum, 6);
/// # drop(mesh);
/// # Ok::<(), epicycle::cluster::Error>(())
/// ```
#[must_use = "it is given to a mesh or a client"]
pub struct GrpcTransporter {
    listen: String,
    services: Vec<String>,
    /// By their paths.
    methods: HashMap<String, Method>,
    /// By the names of their services.
    hosted: HashMap<String, Box<dyn Host>>,
    codecs: Vec<Codec>,
    threads: usize,
    max_connections: usize,
    handshake_timeout: Duration,
    max_message: usize,
    max_calls: usize,
    balancer: MakeBalancer,
    tls_server: Option<TlsServer>,
    tls_client: Option<TlsClient>,
    token: Option<Token>,
    /// Runs the connections of all channels, from the first one on.
    driver: Mutex<Option<Arc<Driver>>>,
}

type MakeBalancer = Box<dyn Fn() -> Box<dyn Balancer> + Send + Sync>;

/// The protocol that both sides of TLS agree on.
const ALPN: [&str; 1] = ["h2"];

impl GrpcTransporter {
    /// Returns a transporter without services, with its options at their defaults.
    pub fn new() -> Self {
        Self {
            listen: "tcp://127.0.0.1:0".to_owned(),
            services: Vec::new(),
            methods: HashMap::new(),
            hosted: HashMap::new(),
            codecs: Vec::new(),
            threads: 8,
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(10),
            max_message: 4 << 20,
            max_calls: 100_000,
            balancer: Box::new(|| Box::new(Weighted::new(Place::ALONE))),
            tls_server: None,
            tls_client: None,
            token: None,
            driver: Mutex::default(),
        }
    }

    /// Returns the token of a cluster's secret: 64 hexadecimal digits. The calls of a [mesh client](super::MeshClientBuilder::secret)
    /// have it as the metadata `epicycle-token`. Other clients of gRPC have to be given it, if the [mesh](super::MeshBuilder::secret)
    /// has the secret.
    ///
    /// It is HMAC-SHA256 with the secret as the key, over a zero byte and `epicycle grpc`. So it does not tell the secret, but who
    /// reads it can call the meshes of the cluster: use TLS where others can read the network.
    pub fn token(secret: &Secret) -> String {
        token::text(secret)
    }

    /// Sets the longest message, in bytes. The call of a longer one fails. Default: 4 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }
}

/// # A server
impl GrpcTransporter {
    /// Sets the address to listen on: `tcp://HOST:PORT`. Default: `tcp://127.0.0.1:0`.
    pub fn listen(mut self, addr: impl Into<String>) -> Self {
        self.listen = addr.into();
        self
    }

    /// Adds a service. The paths of its methods begin with its name: `add` of `math` is `/math/add`.
    pub fn service(mut self, name: &str, add: impl FnOnce(&mut GrpcMethods<'_>)) -> Self {
        self.services.push(name.to_owned());
        add(&mut GrpcMethods::new(name, &mut self.methods));
        self
    }

    /// Adds a service that tonic has generated from a `.proto` file, such as `GreeterServer::new(MyGreeter)`. It runs on the thread of
    /// the connections, and must not block it. It takes protobuf only: its mesh clients need [`Codec::Protobuf`].
    pub fn host<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        self.services.push(S::NAME.to_owned());
        self.hosted.insert(S::NAME.to_owned(), Box::new(service));
        self
    }

    /// Adds a codec of the application, so that requests may have bodies in it.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codecs.push(codec);
        self
    }

    /// Sets the number of threads on which the handlers run. Default: 8. At most 1,024 calls wait for them; further ones are refused.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the number of connections at a time. Further ones wait until one of them ends. Default: 10,000.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets the time within which a client must begin to speak HTTP/2, once it is connected and its TLS is there. Default: 10 s.
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }

    /// Uses TLS. The endpoint in the registry says so. Default: none.
    pub fn tls(mut self, tls: &TlsServer) -> Self {
        self.tls_server = Some(tls.clone().alpn(&ALPN));
        self
    }
}

/// # Clients
impl GrpcTransporter {
    /// Uses TLS for instances that want it. Default: none, and they cannot be called.
    pub fn tls_client(mut self, tls: &TlsClient) -> Self {
        self.tls_client = Some(tls.clone().alpn(&ALPN));
        self
    }

    /// Sets how calls are spread over the instances of a target. Default: [`Weighted`].
    pub fn balancer<B: Balancer + 'static>(
        mut self,
        make: impl Fn() -> B + Send + Sync + 'static,
    ) -> Self {
        self.balancer = Box::new(move || Box::new(make()));
        self
    }

    /// Sets the number of calls at a time, of each target. Further ones fail with [`Error::Busy`]. Default: 100,000.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.max_calls = calls;
        self
    }
}

impl Default for GrpcTransporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Transporter for GrpcTransporter {
    fn scheme(&self) -> &str {
        "grpc"
    }

    fn set_secret(&mut self, secret: &Secret) -> Result<(), Error> {
        self.token = Some(Token::of(secret)?);
        Ok(())
    }

    fn services(&self) -> Vec<String> {
        self.services.clone()
    }

    fn serve(self: Box<Self>) -> Result<Box<dyn MeshServer>, Error> {
        Ok(Box::new(server::start(*self)?))
    }

    fn channel(&self) -> Result<Arc<dyn Channel>, Error> {
        let mut driver = self.driver.lock();
        let driver = match &*driver {
            Some(running) => running.clone(),
            None => driver.insert(Arc::new(Driver::start()?)).clone(),
        };
        Ok(Arc::new(GrpcChannel::new(
            driver,
            (self.balancer)(),
            self.tls_client.clone(),
            self.token.clone(),
            self.max_message,
            self.max_calls,
        )))
    }
}

impl fmt::Debug for GrpcTransporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTransporter")
            .field("listen", &self.listen)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}
