//! An HTTP gateway: a reverse proxy with pools of upstream connections, balancing and health checks.
//!
//! ```
//! use epicycle::gateway::Gateway;
//! use epicycle::gateway::settings::{PoolSettings, RouteSettings};
//!
//! let running = Gateway::builder()
//!     .listen("tcp://127.0.0.1:0")
//!     .pool("app", PoolSettings::of(["http://127.0.0.1:9001", "http://127.0.0.1:9002"]))
//!     .route(RouteSettings::to("app").host("app.example.org"))
//!     .build()?
//!     .start_plain()?;
//! # running.shutdown();
//! # Ok::<(), epicycle::gateway::GatewayError>(())
//! ```
//!
//! An application can look at exchanges and change them with [`Hooks`]. `docs/gateway.md` lists what is promised.
//!
//! # The path of a request
//!
//! ```text
//!  listen ──▶ route ──▶ request ──▶ pool ──▶ upstream ──▶ response ──▶ record
//! ```
//!
//! | Step | File | What happens |
//! |---|---|---|
//! | listen | `rules.rs`, `start.rs` | The engine accepts. The label of the listener names its [settings](settings::ListenerSettings). |
//! | route | `route.rs` | Host and path choose a route, which names a pool. |
//! | request | `request.rs`, `forwarding.rs`, `proxy/asking.rs` | The head is checked. Hop-by-hop fields go, the hook is asked, forwarding fields come. |
//! | pool | `pool.rs`, `places.rs`, `proxy/placing.rs`, `proxy/dialing.rs` | The balancer picks a node. The pool has an idle connection to it, or dials, or the exchange waits. |
//! | upstream | `exchange.rs`, `proxy/placing.rs` | The head is written anew from its parsed form, then the body as it comes. |
//! | response | `proxy/relaying.rs`, `proxy/answering.rs` | The response goes back part by part. If there is none, the gateway answers, or tries again. |
//! | | `proxy/tunneling.rs`, `frames.rs` | After a 101 both connections are joined. |
//! | record | `record.rs` | What became of it, for logs and metrics. |
//!
//! # Who owns what
//!
//! One [`EventHandler`](crate::EventHandler), [`Proxy`], serves all connections of a reactor. The session of a client's
//! connection owns the exchange that is under way: its head, its route, its node, its place. The session of a connection to a
//! node has nothing but the identifier of the client that it serves. The pool's bookkeeping
//! ([`fetch::Pool`](crate::fetch::Pool)) owns the connections that serve nobody.
//!
//! The two connections of an exchange are on one reactor. Each callback of one reaches the other by
//! [`Conn::with`](crate::Conn::with): a part that has arrived here is written there at once, without a copy in between, a
//! lock or a wake-up. If the other has no room, this one is read no further until the other's
//! [`on_drain`](crate::EventHandler::on_drain).
//!
//! Reactors share the nodes' state (`balance`) and the number of connections to each (`places.rs`), which are atomic, and nothing
//! else. A reactor that gives up a place for which another one waits sends it a message.

mod access_log;
mod admin;
mod admission;
mod basic;
mod builder;
mod compress;
mod config;
mod destination;
pub mod dial;
mod differences;
pub mod discover;
pub mod egress;
mod error;
mod exchange;
mod explain;
mod forwarding;
mod frames;
mod health;
mod hooks;
mod ip_text;
mod joined;
mod kept;
mod limiter;
mod metrics;
mod mirror;
mod networks;
mod node_lists;
mod observing;
mod operating;
mod packet;
mod places;
mod pool;
mod proxy;
mod record;
mod reload;
mod reply;
mod request;
mod route;
mod rules;
mod running;
pub mod settings;
mod shared;
pub mod socks;
mod split;
mod start;
pub mod status;
#[cfg(test)]
mod tests;
mod turns;
mod users;

use std::path::Path;
use std::sync::Arc;

use self::settings::Settings;
use self::shared::Source;

pub use self::builder::Builder;
pub use self::config::{ConfigError, Fault};
pub use self::error::{Cause, GatewayError, Phase, ProxyError};
pub use self::explain::Explanation;
pub use self::hooks::{Hooks, NoHooks, RequestHead, ResponseHead, Verdict};
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use self::operating::admin_request;
pub use self::proxy::Proxy;
pub use self::record::{EndedBy, Record, Times};
pub use self::reply::Reply;
pub use self::running::{Control, Running};
pub use self::status::Reloaded;
pub use self::users::{Users, UsersError};

/// A gateway whose settings are checked.
///
/// ```
/// use epicycle::gateway::Gateway;
///
/// let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
/// assert_eq!(gateway.settings().pools["default"].nodes.len(), 1);
/// # Ok::<(), epicycle::gateway::GatewayError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a gateway does nothing until it is started"]
pub struct Gateway {
    settings: Arc<Settings>,
    source: Source,
}

impl Gateway {
    /// Returns a builder.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns a gateway with the settings of a TOML file. `docs/gateway.md` describes its keys.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Config`] with all faults of the file, each with its line and remedy.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, GatewayError> {
        let path = path.as_ref();
        let (settings, text) = config::load(path).map_err(GatewayError::Config)?;
        Ok(Self {
            settings: Arc::new(settings),
            source: Source {
                file: Some(path.to_owned()),
                text: Some(text.into()),
            },
        })
    }

    /// Returns a gateway with these settings.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] with all problems, and [`GatewayError::Config`] for a file of nodes.
    pub fn new(mut settings: Settings) -> Result<Self, GatewayError> {
        config::load_nodes(&mut settings).map_err(GatewayError::Config)?;
        let problems = settings.problems();
        match problems.is_empty() {
            true => Ok(Self {
                settings: Arc::new(settings),
                source: Source::default(),
            }),
            false => Err(GatewayError::Settings(problems)),
        }
    }

    /// Returns the same gateway with so many reactors.
    ///
    /// # Errors
    ///
    /// [`GatewayError::Settings`] for 0.
    pub fn with_reactors(mut self, reactors: usize) -> Result<Self, GatewayError> {
        let mut settings = (*self.settings).clone();
        settings.reactors = Some(reactors);
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(GatewayError::Settings(problems));
        }
        self.settings = Arc::new(settings);
        Ok(self)
    }

    /// Returns what works, and is most likely a mistake: a pool that nobody uses, for example. If the settings are those of a file,
    /// each has its place there.
    pub fn warnings(&self) -> Vec<String> {
        let problems = self.settings.warnings();
        match (&self.source.file, &self.source.text) {
            (Some(file), Some(text)) if !problems.is_empty() => {
                let faults = config::located(text, file, &problems);
                faults.iter().map(ToString::to_string).collect()
            }
            _ => problems.iter().map(ToString::to_string).collect(),
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
