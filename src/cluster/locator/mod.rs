//! The locator: which gate a user is connected to, and which nodes it is bound to.
//!
//! ```
//! use epicycle::cluster::locator::{LocationEvent, Locator, MemoryLocator};
//!
//! let locator = MemoryLocator::new();
//! let mut watch = locator.watch()?;
//! locator.bind_gate(7, "gate-1")?;
//! assert_eq!(locator.locate_gate(7)?.as_deref(), Some("gate-1"));
//!
//! // The user has logged in at another gate. The first one cannot undo that.
//! locator.bind_gate(7, "gate-2")?;
//! assert!(!locator.unbind_gate(7, "gate-1")?);
//! assert_eq!(locator.locate_gate(7)?.as_deref(), Some("gate-2"));
//! assert!(matches!(watch.next(), Some(LocationEvent::GateBound { uid: 7, .. })));
//! # Ok::<(), epicycle::cluster::Error>(())
//! ```

mod cache;
mod guarded;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;

use super::{Error, Watch};
use crate::metrics::Exposition;

pub use self::cache::{Located, LocationCache, LocationStats};
pub(super) use self::guarded::GuardedLocator;
pub use self::memory::MemoryLocator;
#[cfg(feature = "redis")]
pub use self::redis::RedisLocator;

/// A locator. Its calls may block, so they belong on a worker pool and not on a reactor.
///
/// # Errors
///
/// All calls return [`Error::InvalidArgument`] if a user's id is not above 0 or an id of an instance is empty, and
/// [`Error::Backend`] if the backend cannot be reached.
#[expect(
    clippy::missing_errors_doc,
    reason = "the trait tells them for all calls"
)]
pub trait Locator: Send + Sync + 'static {
    /// Returns the kind of the locator, for the banner of a process: `memory`, for example.
    fn kind(&self) -> &str {
        "custom"
    }

    /// Adds the metrics of the locator's backend, for the monitor of the server that uses it. Default: none.
    fn expose(&self, _labels: &[(&str, &str)], _to: &mut Exposition) {}

    /// Binds a user to a gate, in place of the one that it was bound to.
    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error>;

    /// Unbinds a user from a gate, if it is still bound to that one. Returns true if it was.
    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error>;

    /// Binds a user to a node, in place of the one of the same alias.
    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error>;

    /// Unbinds a user from a node, if it is still bound to that one. Returns true if it was.
    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error>;

    /// Returns the id of the gate that a user is bound to.
    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error>;

    /// Returns the id of the node of an alias that a user is bound to.
    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error>;

    /// Returns the aliases and ids of all nodes that a user is bound to.
    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error>;

    /// Watches all changes, in their order.
    fn watch(&self) -> Result<Watch<LocationEvent>, Error>;
}

impl<L: Locator + ?Sized> Locator for Arc<L> {
    fn kind(&self) -> &str {
        (**self).kind()
    }

    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        (**self).expose(labels, to);
    }

    fn bind_gate(&self, uid: i64, gid: &str) -> Result<(), Error> {
        (**self).bind_gate(uid, gid)
    }

    fn unbind_gate(&self, uid: i64, gid: &str) -> Result<bool, Error> {
        (**self).unbind_gate(uid, gid)
    }

    fn bind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<(), Error> {
        (**self).bind_node(uid, alias, nid)
    }

    fn unbind_node(&self, uid: i64, alias: &str, nid: &str) -> Result<bool, Error> {
        (**self).unbind_node(uid, alias, nid)
    }

    fn locate_gate(&self, uid: i64) -> Result<Option<String>, Error> {
        (**self).locate_gate(uid)
    }

    fn locate_node(&self, uid: i64, alias: &str) -> Result<Option<String>, Error> {
        (**self).locate_node(uid, alias)
    }

    fn locate_nodes(&self, uid: i64) -> Result<Vec<(String, String)>, Error> {
        (**self).locate_nodes(uid)
    }

    fn watch(&self) -> Result<Watch<LocationEvent>, Error> {
        (**self).watch()
    }
}

/// A change of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocationEvent {
    /// A user was bound to a gate.
    GateBound {
        /// The user.
        uid: i64,
        /// The gate's id.
        gid: String,
    },
    /// A user was unbound from a gate.
    GateUnbound {
        /// The user.
        uid: i64,
        /// The gate's id.
        gid: String,
    },
    /// A user was bound to a node.
    NodeBound {
        /// The user.
        uid: i64,
        /// The node's alias.
        alias: String,
        /// The node's id.
        nid: String,
    },
    /// A user was unbound from a node.
    NodeUnbound {
        /// The user.
        uid: i64,
        /// The node's alias.
        alias: String,
        /// The node's id.
        nid: String,
    },
    /// Changes were missed: the backend was lost, or the reader was too slow. Forget what is known.
    Interrupted,
}

/// The maximum number of changes that wait for a reader, before they are given up for one [`LocationEvent::Interrupted`].
pub const MAX_WAITING: usize = 65_536;

/// The maximum number of watches. Each change is told to all of them.
const MAX_WATCHES: usize = 1024;

/// Checks the arguments of a call.
///
/// # Errors
///
/// Returns [`Error::InvalidArgument`] if the user's id is not above 0, or one of the names is empty.
pub fn check(uid: i64, names: &[&str]) -> Result<(), Error> {
    if uid <= 0 {
        let problem = format!("{uid} is no user; ids are above 0");
        return Err(Error::argument("uid", problem));
    }
    if names.iter().any(|name| name.is_empty()) {
        let problem = "an id or an alias is empty; give the one of the instance";
        return Err(Error::argument("instance", problem));
    }
    Ok(())
}
