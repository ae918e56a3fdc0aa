//! The admin interface: JSON and a page over HTTP, on an engine of its own.
//!
//! It has one reactor and a few threads that do what may take a while, so that no request of an operator stops a reactor of the
//! gateway. All that it does are calls of the gateway's [`Control`](super::Control).
//!
//! | File | What happens |
//! |---|---|
//! | `front.rs` | Requests come in, are checked, and are answered. |
//! | `guard.rs` | The checks: `Host`, origin, token. |
//! | `call.rs` | Method and path name a call. |
//! | `carrying.rs` | The call is carried out, and its result becomes an answer. |
//! | `page.html` | The page for browsers. |

mod call;
mod carrying;
mod front;
mod guard;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::RwLock;

use self::front::Front;
use super::error::GatewayError;
use super::metrics::AdminCounters;
use super::settings::{AdminSettings, NodeSettings};
use super::status::{ChangeStatus, ConnectionsStatus, HealthStatus, PoolStatus, Reloaded};
use crate::addr::{Addr, Endpoint};
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::handler::Engine;
use crate::engine::listen::Listen;
use crate::engine::server::{Running, Server};
use crate::workers::WorkerPool;

/// The place of a conflict with a configuration that came in between.
pub(super) const IF_MATCH: &str = "If-Match";

/// The clients at a time, and those of one IP address.
const MAX_CLIENTS: (usize, usize) = (64, 32);

/// The time for the answers under way when the interface closes.
const GRACE: Duration = Duration::from_secs(5);

/// The requests of operators to a gateway.
pub(super) trait Operate: Send + Sync + 'static {
    fn config(&self) -> (u64, String);
    fn pools(&self) -> Vec<PoolStatus>;
    fn pool(&self, name: &str) -> Option<PoolStatus>;
    fn health(&self) -> HealthStatus;
    fn connections(&self) -> ConnectionsStatus;
    fn history(&self) -> Vec<ChangeStatus>;
    fn metrics(&self) -> String;
    fn configure(
        &self,
        text: &str,
        is_json: bool,
        expected: Option<u64>,
    ) -> Result<Reloaded, GatewayError>;
    fn set_node(
        &self,
        pool: &str,
        address: &str,
        body: &str,
        is_json: bool,
    ) -> Result<bool, GatewayError>;
    fn change_node(
        &self,
        pool: &str,
        address: &str,
        body: &str,
        is_json: bool,
    ) -> Result<NodeSettings, GatewayError>;
    fn remove_node(&self, pool: &str, address: &str) -> Result<String, GatewayError>;
    fn reload(&self) -> Result<Reloaded, GatewayError>;
    fn drain(&self);
    /// Returns true if the gateway has ended.
    fn has_ended(&self) -> bool;
}

/// Returns true if a request has a configuration as its body, false if it has settings of a node, and `None` if it has none.
///
/// # Errors
///
/// The problem with its method or path.
#[cfg(feature = "internals")]
pub(super) fn body_of(method: &str, path: &str) -> Result<Option<bool>, String> {
    use self::call::Call;

    let call = Call::of(method, path).map_err(|none| none.problem)?;
    Ok(match call {
        Call::Configure => Some(true),
        Call::SetNode(_) | Call::ChangeNode(_) => Some(false),
        _ => None,
    })
}

/// An admin interface that is open.
pub(super) struct AdminServer {
    /// `None` once it has ended.
    running: Option<Running<Front>>,
    settings: Arc<RwLock<AdminSettings>>,
}

impl AdminServer {
    /// Opens the interface, at its address or with a socket that listens there already.
    pub(super) fn start(
        settings: &AdminSettings,
        socket: Option<OwnedFd>,
        gateway: Arc<dyn Operate>,
        counters: Arc<AdminCounters>,
    ) -> Result<Self, GatewayError> {
        let listen = match socket {
            Some(socket) => Listen::socket(socket),
            None => match settings.listen.parse() {
                Ok(Endpoint::Unix(_)) => Listen::on(&*settings.listen).path_mode(0o600),
                _ => Listen::on(&*settings.listen),
            },
        };
        let second = Duration::from_secs;
        let workers = WorkerPool::builder().threads(2).queue(MAX_CLIENTS.0);
        let workers = Arc::new(workers.name("admin").build()?);
        let shared = Arc::new(RwLock::new(settings.clone()));
        let rules = shared.clone();
        let server = Server::bind(listen)
            .reactors(1)
            .max_connections(MAX_CLIENTS.0)
            .max_connections_per_ip(MAX_CLIENTS.1)
            .handshake_timeout(second(10))
            .read_timeout(second(10))
            .answer_timeout(second(60))
            .idle_timeout(second(30))
            .write_stall_timeout(second(10))
            .drain_deadline(GRACE)
            // A whole answer at once; the next request is read when the client has taken it.
            .outbound_policy(OutboundPolicy::Drop)
            .tick(second(1));
        let running = server.start(move |_| {
            Front::new(
                gateway.clone(),
                rules.clone(),
                workers.clone(),
                counters.clone(),
            )
        })?;
        if settings.token.is_some() && !settings.listen.starts_with("unix:") {
            log::debug!(target: "epicycle::gateway::admin", "the token goes over the network as it is, without TLS");
        }
        Ok(Self {
            running: Some(running),
            settings: shared,
        })
    }

    /// Takes over other settings for the same address.
    pub(super) fn set(&self, settings: &AdminSettings) {
        self.settings.write().clone_from(settings);
    }

    pub(super) fn local_addr(&self) -> Option<Addr> {
        self.engine()?.local_addrs().first().cloned()
    }

    /// Returns copies of its listening sockets.
    pub(super) fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        self.engine().map_or(Ok(Vec::new()), Engine::listeners)
    }

    pub(super) fn stop_accepting(&self) {
        if let Some(engine) = self.engine() {
            engine.stop_accepting();
        }
    }

    /// Closes it, and waits for its end.
    pub(super) fn join(mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown();
        }
    }

    fn engine(&self) -> Option<&Engine<Front>> {
        self.running.as_ref().map(Running::engine)
    }
}

impl Drop for AdminServer {
    /// Closes it, without a wait: this may be one of its own threads, or the one who asked for it may await the answer here.
    fn drop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.engine().shutdown();
        let waits = thread::Builder::new().name("admin-end".to_owned());
        if let Err(error) = waits.spawn(move || running.join()) {
            log::warn!(target: "epicycle::gateway::admin", "no thread waits for the end of the admin interface: {error}");
        }
    }
}
