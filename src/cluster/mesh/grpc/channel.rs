//! The calls of clients, spread over the instances of a target.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::transport::{Channel as Http2, Endpoint};
use tonic::{ConnectError, Request, Response, Status as GrpcStatus};
use tower_service::Service;

use super::connection::Connector;
use super::driver::Driver;
use super::token::Token;
use super::wire::{self, Raw};
use crate::Bytes;
use crate::balance::{Balancer, Change, Health, InFlight, NodeId, NodeSpec, Nodes};
use crate::cluster::Error;
use crate::cluster::mesh::rpc::error_of;
use crate::cluster::mesh::transporter::{Channel, Done, MeshAddress, MeshRequest};
use crate::panic;
use crate::rpc::wire::{Status, code};
use crate::tls::TlsClient;

/// The time by which a server gives up after the client, so that the client tells what has happened.
const GRACE: Duration = Duration::from_millis(100);

/// The connections to the instances of one target.
pub(super) struct GrpcChannel(Arc<Shared>);

struct Shared {
    driver: Arc<Driver>,
    tls: Option<TlsClient>,
    token: Option<Token>,
    max_message: usize,
    max_calls: usize,
    /// Calls under way.
    calls: AtomicUsize,
    began: Instant,
    health: Health,
    pool: Mutex<Pool>,
}

struct Pool {
    nodes: Nodes,
    balancer: Box<dyn Balancer>,
    connections: HashMap<NodeId, Connection>,
}

/// The connection to an instance. It is made when the first call needs it, and made anew when it has ended.
struct Connection {
    endpoint: Endpoint,
    connector: Connector,
    http2: Http2,
}

/// An instance that was picked for a call.
struct Picked {
    node: NodeId,
    address: Arc<str>,
    http2: Http2,
    _in_flight: InFlight,
}

/// The use of the end of an attempt.
enum End {
    /// The instance has answered.
    Answered(Status),
    /// The call has not reached a method, and can go elsewhere.
    Unsent(Status),
    /// Nobody knows if the method was called.
    Broken(Status),
}

impl GrpcChannel {
    pub(super) fn new(
        driver: Arc<Driver>,
        balancer: Box<dyn Balancer>,
        tls: Option<TlsClient>,
        token: Option<Token>,
        max_message: usize,
        max_calls: usize,
    ) -> Self {
        Self(Arc::new(Shared {
            driver,
            tls,
            token,
            max_message,
            max_calls,
            calls: AtomicUsize::new(0),
            began: Instant::now(),
            health: Health::default(),
            pool: Mutex::new(Pool {
                nodes: Nodes::new([]),
                balancer,
                connections: HashMap::new(),
            }),
        }))
    }
}

impl Channel for GrpcChannel {
    fn set_addresses(&self, addresses: &[MeshAddress]) -> Result<(), Error> {
        self.0.set_addresses(addresses)
    }

    fn call(&self, request: MeshRequest, done: Done) {
        let Ok(path) = PathAndQuery::try_from(&*request.path) else {
            let problem = format!("{:?} cannot be sent; use /SERVICE/METHOD", request.path);
            return done(Err(Error::argument("path", problem)));
        };
        let shared = self.0.clone();
        if shared.calls.fetch_add(1, Ordering::Relaxed) >= shared.max_calls {
            shared.calls.fetch_sub(1, Ordering::Relaxed);
            let what = "table of calls under way";
            return done(Err(Error::Busy { what }));
        }
        let deadline = Instant::now().checked_add(request.timeout);
        self.0.driver.handle.spawn(async move {
            let result = shared.carry(&request, path, deadline).await;
            shared.calls.fetch_sub(1, Ordering::Relaxed);
            panic::catch("epicycle::cluster", "the callback of a call", || {
                done(result);
            });
        });
    }
}

impl Shared {
    fn set_addresses(&self, addresses: &[MeshAddress]) -> Result<(), Error> {
        let mut usable = HashMap::new();
        for address in addresses {
            if address.secure && self.tls.is_none() {
                log::warn!(
                    target: "epicycle::cluster",
                    "no calls go to {}, which wants TLS; set `GrpcTransporter::tls_client`", address.address
                );
                continue;
            }
            usable.insert(name_of(address), address);
        }
        if usable.is_empty() {
            let problem = "all instances want TLS; set `GrpcTransporter::tls_client`";
            return Err(Error::argument("tls_client", problem));
        }
        // In the order of the list, by which the balancers go.
        let specs = addresses.iter().filter_map(|address| {
            let name = name_of(address);
            let spec = NodeSpec::new(&name).weight(address.weight);
            usable.contains_key(&name).then_some(spec)
        });
        let mut pool = self.pool.lock();
        let (nodes, changes) = pool.nodes.updated(specs);
        let mut added = Vec::new();
        for node in &changes.added {
            let name = nodes.address(*node).unwrap_or_default();
            if let Some(address) = usable.get(name) {
                added.push((*node, self.connection(name, address)?));
            }
        }
        for node in &changes.removed {
            pool.connections.remove(node);
        }
        pool.connections.extend(added);
        let Pool {
            nodes: before,
            balancer,
            ..
        } = &mut *pool;
        *before = nodes;
        balancer.update(before);
        self.health.added(before, &changes.added, self.now());
        Ok(())
    }

    fn connection(&self, name: &str, address: &MeshAddress) -> Result<Connection, Error> {
        let bad = |problem: String| Error::argument("address", problem);
        let uri: Uri = name
            .parse()
            .map_err(|error| bad(format!("{name}: {error}")))?;
        let tls = match &self.tls {
            Some(tls) if address.secure => {
                let host = uri.host().unwrap_or_default();
                let host = tls.name_for(host.trim_matches(['[', ']']));
                Some((tls.clone(), host.map_err(|error| bad(error.to_string()))?))
            }
            _ => None,
        };
        let connector = Connector {
            address: (*address.address).into(),
            tls,
        };
        let endpoint = Endpoint::from(uri);
        Ok(Connection {
            http2: self.open(&endpoint, &connector),
            endpoint,
            connector,
        })
    }

    fn open(&self, endpoint: &Endpoint, connector: &Connector) -> Http2 {
        let _context = self.driver.handle.enter();
        endpoint.connect_with_connector_lazy(connector.clone())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Makes a call: at one instance after the other, until one of them has got it.
    async fn carry(
        &self,
        request: &MeshRequest,
        path: PathAndQuery,
        deadline: Option<Instant>,
    ) -> Result<Bytes, Error> {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let Some(picked) = self.pick(request.key, &mut tried) else {
                let wanted = request.path.clone();
                return Err(match last {
                    Some(status) => error_of(status, wanted, request.timeout),
                    None => Error::NotFoundEndpoint { wanted },
                });
            };
            let node = picked.node;
            let attempt = self.attempt(&picked, request, path.clone(), deadline);
            let end = match deadline {
                Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or_else(|_| {
                    let status = Status::new(code::HANDLE_TIMEOUT, "no answer in time");
                    Err(End::Answered(status))
                }),
                None => attempt.await,
            };
            drop(picked);
            let (is_again, status) = match end {
                Ok(body) => {
                    self.report(node, &Status::default());
                    return Ok(body);
                }
                Err(End::Answered(status)) => (false, status),
                Err(End::Unsent(status)) => (true, status),
                Err(End::Broken(status)) => (request.is_idempotent, status),
            };
            self.report(node, &status);
            if !is_again {
                return Err(error_of(status, request.path.clone(), request.timeout));
            }
            tried.push(node);
            last = Some(status);
        }
    }

    fn pick(&self, key: Option<u64>, tried: &mut Vec<NodeId>) -> Option<Picked> {
        let mut pool = self.pool.lock();
        self.health.tick(&pool.nodes, self.now());
        loop {
            let left = match tried.is_empty() {
                true => pool.nodes.clone(),
                false => pool.nodes.without(tried),
            };
            let node = pool
                .balancer
                .pick(&left, key.unwrap_or_else(|| fastrand::u64(..)))?;
            let connection = pool.connections.get(&node);
            match (left.begin(node), connection) {
                (Some(in_flight), Some(connection)) => {
                    return Some(Picked {
                        node,
                        address: connection.connector.address.clone(),
                        http2: connection.http2.clone(),
                        _in_flight: in_flight,
                    });
                }
                // Another call probes it.
                _ => tried.push(node),
            }
        }
    }

    fn report(&self, node: NodeId, status: &Status) {
        let outcome = status.balance_outcome();
        let mut pool = self.pool.lock();
        pool.balancer.done(node, outcome);
        let change = self.health.report(&pool.nodes, node, outcome, self.now());
        // A connection without answers may be one whose other end has vanished.
        if let Some(Change::Ejected { .. }) = change
            && let Some(connection) = pool.connections.get_mut(&node)
        {
            connection.http2 = self.open(&connection.endpoint, &connection.connector);
        }
    }

    async fn attempt(
        &self,
        picked: &Picked,
        request: &MeshRequest,
        path: PathAndQuery,
        deadline: Option<Instant>,
    ) -> Result<Bytes, End> {
        let content_type = wire::content_type(&request.codec);
        let typed = Typed {
            http2: picked.http2.clone(),
            content_type: HeaderValue::try_from(content_type).ok(),
            token: self.token.clone(),
        };
        let mut grpc = Grpc::new(typed).max_decoding_message_size(self.max_message);
        if let Err(error) = grpc.ready().await {
            return Err(End::Unsent(down(
                code::DIAL_FAILED,
                &picked.address,
                &error,
            )));
        }
        let mut call = Request::new(request.body.clone());
        if let Some(deadline) = deadline {
            call.set_timeout(deadline.saturating_duration_since(Instant::now()) + GRACE);
        }
        let answer = grpc.unary(call, path, Raw).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| end_of(&status, &picked.address))
    }
}

/// Returns the name of an address among the nodes. One that begins to want TLS is another node.
fn name_of(address: &MeshAddress) -> String {
    let scheme = if address.secure { "https" } else { "http" };
    format!("{scheme}://{}", address.address)
}

/// Judges the end of an attempt that failed.
fn end_of(status: &GrpcStatus, address: &str) -> End {
    let mut cause = status.source();
    if cause.is_none() {
        return End::Answered(wire::from_grpc(status));
    }
    while let Some(error) = cause {
        let hyper = error.downcast_ref::<hyper::Error>();
        let h2 = error.downcast_ref::<h2::Error>();
        // A server that shuts down tells which streams it has taken. The library fails the others by that frame.
        let is_refused = h2.is_some_and(|error| {
            let reason = error.reason();
            error.is_remote()
                && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                    || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
        });
        if error.is::<ConnectError>() || is_refused || hyper.is_some_and(hyper::Error::is_canceled)
        {
            return End::Unsent(down(code::DIAL_FAILED, address, status));
        }
        cause = error.source();
    }
    End::Broken(down(code::CONNECTION_CLOSED, address, status))
}

/// Returns the status of a connection that failed, with the innermost reason.
fn down(code: i32, address: &str, error: &dyn std::error::Error) -> Status {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Status::new(code, format!("{address}: {innermost}"))
}

/// Sends requests with the content type of a codec, and the token of the cluster.
struct Typed {
    http2: Http2,
    content_type: Option<HeaderValue>,
    token: Option<Token>,
}

impl Service<http::Request<Body>> for Typed {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Http2 as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http2.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(content_type) = self.content_type.take() {
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            token.show(request.headers_mut());
        }
        self.http2.call(request)
    }
}
