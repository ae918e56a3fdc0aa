//! The settings of a gateway: plain values, which the [builder](super::Builder) and a configuration file make alike.
//!
//! Each part has a `Default` with the documented values, so that a caller sets only what differs.
//! [`Settings::problems`] checks all of them together.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::gateway::settings::{ListenerSettings, NodeSettings, PoolSettings, RouteSettings, Settings};
//!
//! let mut settings = Settings::default();
//! settings.listeners.push(ListenerSettings::new("tcp://127.0.0.1:8080"));
//! let mut pool = PoolSettings::default();
//! pool.nodes.push(NodeSettings::new("http://127.0.0.1:9000"));
//! pool.timeouts.connect = Duration::from_secs(2);
//! settings.pools.insert("app".to_owned(), pool);
//! settings.routes.push(RouteSettings::to("app"));
//! assert!(settings.problems().is_empty());
//! ```

mod access;
mod admin;
mod check;
mod limit;
mod listener;
mod log;
mod mirror;
mod node;
mod pool;
mod route;
mod source;
mod split;
pub(super) mod template;
mod warnings;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use self::access::{Access, BasicAuth, RouteAuth};
pub use self::admin::{AdminSettings, Token};
pub use self::limit::{LimitBy, LimitSettings, Rate};
pub use self::listener::{
    ClientLimits, ClientTimeouts, Datagrams, ForwardedFor, Forwarding, ListenerKind,
    ListenerSettings, OnFin, TargetSettings, TunnelTimeouts, Underscores,
};
pub use self::log::{AccessLog, LogFormat, LogTarget};
pub use self::mirror::MirrorSettings;
pub(crate) use self::node::NodeAddr;
pub use self::node::{NodeChange, NodeSettings, NodeState};
pub use self::pool::{
    BalanceBy, ConnectionLimits, HashKey, HealthCheck, HealthProbe, PoolSettings, ProxyVersion,
    Retries, UpstreamLimits, UpstreamTimeouts,
};
pub use self::route::{ErrorPage, FieldChanges, HostField, RouteSettings, WebSocketMode};
pub(crate) use self::source::ZooKeeperTarget;
pub use self::source::{
    ChildForm, DnsSettings, Secret, SourceSettings, SrvSettings, ZooKeeperSettings,
};
pub use self::split::{ChosenBy, PoolRule};

/// Everything that a gateway is told: where it listens, which requests go to which pool, and the nodes of the pools.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Settings {
    /// The number of reactors. `None`, the default, is one for each CPU. A change needs a restart.
    pub reactors: Option<usize>,
    /// The listeners.
    pub listeners: Vec<ListenerSettings>,
    /// The routes. The order does not matter: the most specific route that fits is taken.
    pub routes: Vec<RouteSettings>,
    /// The pools, by name.
    pub pools: BTreeMap<String, PoolSettings>,
    /// The end of the gateway.
    pub drain: Drain,
    /// The log of requests. Default: none.
    pub access_log: Option<AccessLog>,
    /// The admin interface. Default: none.
    pub admin: Option<AdminSettings>,
}

/// The end of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// The time for which it goes on serving while its health already says 503, so that balancers in front of it send no
    /// more. Default: 5 s.
    pub grace: Duration,
    /// The time after which connections that are still open are reset. Default: 30 s.
    pub deadline: Duration,
    /// The time after which connections to a node that was removed are closed. Default: 60 s.
    pub node_timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            node_timeout: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Returns all pools with their names: those that routes name, and those of forward listeners, which have the names of their
    /// listeners.
    pub(crate) fn all_pools(&self) -> impl Iterator<Item = (&str, Cow<'_, PoolSettings>)> {
        let named = self.pools.iter();
        let named = named.map(|(name, pool)| (&**name, Cow::Borrowed(pool)));
        let of_targets = self
            .listeners
            .iter()
            .filter_map(|listener| Some((&*listener.on, Cow::Owned(listener.target_pool()?))));
        named.chain(of_targets)
    }

    /// Returns true if there is a pool of that name, as [`all_pools`](Self::all_pools) returns them.
    pub(crate) fn has_pool(&self, name: &str) -> bool {
        let is_of_targets = |listener: &ListenerSettings| {
            listener.kind == ListenerKind::Forward && listener.on == name
        };
        self.pools.contains_key(name) || self.listeners.iter().any(is_of_targets)
    }

    /// Checks all settings, and returns all problems, not only the first one. It looks at no file, name or socket.
    pub fn problems(&self) -> Vec<Problem> {
        check::problems(self)
    }
}

impl Settings {
    /// Returns what works, and is most likely a mistake: a pool that nobody uses, for example. It looks whether the folder of the
    /// log is there, and else at no file, name or socket.
    pub fn warnings(&self) -> Vec<Problem> {
        warnings::warnings(self)
    }
}

/// A setting that cannot work, or hardly as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The setting, by its path: `pool.api.timeouts.connect`, `listeners[0].on`.
    pub place: String,
    /// The problem and its remedy.
    pub problem: String,
}

impl Problem {
    /// Returns a problem of a setting.
    pub fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}
