//! Servers of services over gRPC.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Response, Status as GrpcStatus};
use tower_service::Service;

use super::connection::{Accepted, accept};
use super::driver::{runtime, spawn};
use super::host::{Answer, Host};
use super::methods::{GrpcCall, Method};
use super::token::Token;
use super::wire::{self, Raw};
use super::{GrpcTransporter, MeshServer};
use crate::Bytes;
use crate::addr::Endpoint;
use crate::cluster::Error;
use crate::cluster::codec::Codec;
use crate::cluster::seldom::info_seldom;
use crate::metric_set;
use crate::metrics::{Expose, Exposition};
use crate::workers::WorkerPool;

/// The calls that wait for a thread.
const QUEUE: usize = 1024;
/// The calls of a connection at a time.
const MAX_STREAMS: u32 = 1024;
/// The time by which a call that is late ends before the library ends it, which would tell that it was cancelled.
const EARLIER: Duration = Duration::from_millis(2);
/// The time between two signs of life that a silent client is asked for, and the time that it has for them.
const KEEPALIVE: Duration = Duration::from_secs(20);

metric_set! {
    /// The metrics of a server of gRPC.
    #[derive(Clone, Debug, Default)]
    pub(super) struct GrpcStats("epicycle_grpc") {
        /// Calls of methods and hosted services.
        calls: counter,
        /// Calls of methods that were answered with an error.
        failed: counter,
        /// Calls of methods that were refused, since too many waited for a thread.
        refused: counter,
        /// Calls of what is not here.
        unknown: counter,
        /// Calls that did not show the secret of the cluster.
        unauthenticated: counter,
        /// Connections, now.
        connections: gauge,
    }
    /// The counters of the thread of a server.
    #[derive(Debug, Default)]
    pub(super) struct GrpcCounters;
}

/// A running server.
pub(super) struct GrpcServer {
    addr: SocketAddr,
    is_secure: bool,
    counters: Arc<GrpcCounters>,
    permits: Arc<Semaphore>,
    max_connections: usize,
    /// Gets the deadline. Its drop ends the server at once.
    running: Mutex<Option<(oneshot::Sender<Duration>, thread::JoinHandle<()>)>>,
}

/// The services of a server.
struct Served {
    methods: HashMap<String, Method>,
    hosted: HashMap<String, Box<dyn Host>>,
    codecs: Vec<Codec>,
    token: Option<Token>,
    max_message: usize,
    workers: WorkerPool,
    counters: Arc<GrpcCounters>,
}

/// Starts a server.
pub(super) fn start(options: GrpcTransporter) -> Result<GrpcServer, Error> {
    if options.max_connections == 0 || options.max_connections > Semaphore::MAX_PERMITS {
        let problem = format!("use a number from 1 to {}", Semaphore::MAX_PERMITS);
        return Err(Error::argument("max_connections", problem));
    }
    let listener = bind(&options.listen)?;
    let addr = listener.local_addr().map_err(broken)?;
    let workers = WorkerPool::builder().threads(options.threads).queue(QUEUE);
    let counters = Arc::new(GrpcCounters::default());
    let served = Dispatch(Arc::new(Served {
        methods: options.methods,
        hosted: options.hosted,
        codecs: options.codecs,
        token: options.token,
        max_message: options.max_message,
        workers: workers.name("epicycle-grpc-call").build()?,
        counters: counters.clone(),
    }));
    let runtime = runtime()?;
    let listener = {
        let _context = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(broken)?
    };
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let (stop, stopped) = oneshot::channel();
    let is_secure = options.tls_server.is_some();
    let accepts = {
        let (permits, tls) = (permits.clone(), options.tls_server);
        let timeout = options.handshake_timeout;
        move |to| accept(listener, tls, timeout, permits, to)
    };
    let thread = spawn("epicycle-grpc-server", move || {
        runtime.block_on(async move {
            let (to, incoming) = mpsc::channel(1);
            let accepting = tokio::spawn(accepts(to));
            let (close, closed) = oneshot::channel::<()>();
            let server = Server::builder()
                .max_concurrent_streams(MAX_STREAMS)
                .http2_keepalive_interval(Some(KEEPALIVE))
                .http2_keepalive_timeout(Some(KEEPALIVE));
            let serving = tokio::spawn(async move {
                let closed = async { drop(closed.await) };
                let incoming = Incoming(incoming);
                server
                    .serve_with_incoming_shutdown(served, incoming, closed)
                    .await
            });
            let deadline = stopped.await.unwrap_or_default();
            accepting.abort();
            drop(close);
            // Connections without calls are told to go. Those with calls end after them.
            let _ = timeout(deadline, serving).await;
        });
        runtime.shutdown_background();
    })?;
    log::info!(target: "epicycle::cluster", "gRPC: listening on tcp://{addr}");
    Ok(GrpcServer {
        addr,
        is_secure,
        counters,
        permits,
        max_connections: options.max_connections,
        running: Mutex::new(Some((stop, thread))),
    })
}

fn bind(listen: &str) -> Result<TcpListener, Error> {
    let endpoint = listen.parse::<Endpoint>()?;
    let Endpoint::Tcp { .. } = endpoint else {
        return Err(Error::argument("listen", "use a tcp:// address"));
    };
    let listener = TcpListener::bind(&*endpoint.resolve()?);
    let listener = listener.map_err(|error| {
        Error::argument("listen", format!("cannot listen on {listen}: {error}"))
    })?;
    listener.set_nonblocking(true).map_err(broken)?;
    Ok(listener)
}

fn broken(error: io::Error) -> Error {
    Error::backend("listener of gRPC", error.to_string())
}

impl MeshServer for GrpcServer {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let free = self.permits.available_permits();
        let stats = GrpcStats {
            // One permit waits for the next connection.
            connections: (self.max_connections - free).saturating_sub(1) as u64,
            ..self.counters.read()
        };
        stats.expose(labels, to);
    }

    fn shutdown(&self, deadline: Duration) {
        if let Some((stop, thread)) = self.running.lock().take() {
            let _ = stop.send(deadline);
            let _ = thread.join();
        }
    }
}

/// The connections that were accepted.
struct Incoming(mpsc::Receiver<io::Result<Accepted>>);

impl futures_core::Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// Finds the service of a request.
#[derive(Clone)]
struct Dispatch(Arc<Served>);

impl Service<http::Request<Body>> for Dispatch {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answer {
        self.0.counters.calls.add(1);
        let token = self.0.token.as_ref();
        if let Some(Err(status)) = token.map(|token| token.check(request.headers_mut())) {
            self.0.counters.unauthenticated.add(1);
            let peer = request.extensions().get::<TcpConnectInfo>();
            let peer = peer.and_then(TcpConnectInfo::remote_addr);
            let peer = peer.map_or_else(|| "a client".to_owned(), |addr| addr.to_string());
            let (path, problem) = (request.uri().path().escape_debug(), status.message());
            info_seldom!("gRPC: a call of {path} by {peer} is refused: {problem}");
            return Box::pin(ready(Ok(status.into_http())));
        }
        let given = request.headers().get("grpc-timeout");
        let ends = given
            .and_then(|given| wire::timeout(given.as_bytes()))
            .and_then(|time| Instant::now().checked_add(time.saturating_sub(EARLIER)));
        let answer = self.answer(request);
        let Some(ends) = ends else {
            return answer;
        };
        Box::pin(async move {
            let late = |_| Ok(GrpcStatus::deadline_exceeded("no answer in time").into_http());
            timeout_at(ends, answer).await.unwrap_or_else(late)
        })
    }
}

impl Dispatch {
    fn answer(&self, request: http::Request<Body>) -> Answer {
        let (served, path) = (&self.0, request.uri().path());
        if let Some(method) = served.methods.get(path) {
            let (served, method) = (served.clone(), method.clone());
            return Box::pin(async move { Ok(served.carry_out(method, request).await) });
        }
        let service = path.trim_start_matches('/').split('/').next();
        if let Some(host) = service.and_then(|name| served.hosted.get(name)) {
            let content_type = request.headers().get(http::header::CONTENT_TYPE);
            let codec = content_type.and_then(|value| wire::codec_name(value.as_bytes()));
            return match codec {
                Some("proto") => host.answer(request),
                Some(other) => {
                    let problem = format!(
                        "the service of {path} takes protobuf, not {other:?}; the client needs `Codec::Protobuf`"
                    );
                    Box::pin(ready(Ok(GrpcStatus::invalid_argument(problem).into_http())))
                }
                None => Box::pin(ready(Ok(unsupported()))),
            };
        }
        served.counters.unknown.add(1);
        let status = GrpcStatus::unimplemented(format!("the method {path} is not here"));
        Box::pin(ready(Ok(status.into_http())))
    }
}

impl Served {
    async fn carry_out(
        self: Arc<Self>,
        method: Method,
        request: http::Request<Body>,
    ) -> http::Response<Body> {
        let Some(content_type) = request.headers().get(http::header::CONTENT_TYPE).cloned() else {
            return unsupported();
        };
        let Some(name) = wire::codec_name(content_type.as_bytes()) else {
            return unsupported();
        };
        let known = self.codecs.iter().find(|codec| codec.name() == name);
        let Some(codec) = known.cloned().or_else(|| name.parse().ok()) else {
            self.counters.failed.add(1);
            let problem = format!("the codec {name:?} is not here");
            return GrpcStatus::unimplemented(problem).into_http();
        };
        let call = Carried {
            path: request.uri().path().to_owned(),
            codec,
            method,
            served: self.clone(),
        };
        let mut grpc = Grpc::new(Raw).max_decoding_message_size(self.max_message);
        let mut response = grpc.unary(call, request).await;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, content_type);
        response
    }
}

/// Returns the answer to what is not gRPC.
fn unsupported() -> http::Response<Body> {
    let mut response = http::Response::new(Body::default());
    *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// A call of a method, whose body comes now.
struct Carried {
    path: String,
    codec: Codec,
    method: Method,
    served: Arc<Served>,
}

impl UnaryService<Bytes> for Carried {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, GrpcStatus>> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let peer = request.remote_addr();
        let (metadata, _, body) = request.into_parts();
        let path = std::mem::take(&mut self.path);
        let (call, answered) = GrpcCall::new(path, self.codec.clone(), metadata, peer);
        let (method, served) = (self.method.clone(), self.served.clone());
        let job = move || call.carry_out(&method, &body);
        let submitted = served.workers.submit(job);
        Box::pin(async move {
            if submitted.is_err() {
                served.counters.refused.add(1);
                let problem = "too many calls wait; try again";
                return Err(GrpcStatus::resource_exhausted(problem));
            }
            let answer = answered.await;
            let answer =
                answer.unwrap_or_else(|_| Err(GrpcStatus::internal("the method panicked")));
            if answer.is_err() {
                served.counters.failed.add(1);
            }
            answer.map(Response::new)
        })
    }
}
