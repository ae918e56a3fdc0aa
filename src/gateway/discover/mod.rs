//! Sources of the nodes of pools.
//!
//! A source tells the nodes of a pool, whole, whenever they change. [`Control::discover`](super::Control::discover) follows one on
//! a thread of its own. Nodes that stay keep their state, and those that go are drained. A source that fails leaves the
//! last good list. So does one that tells no node, or more than 1,024.
//!
//! The settings of a pool may name its source: [`PoolSettings::discover`](super::settings::PoolSettings::discover). It starts and
//! ends with the pool.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::gateway::Gateway;
//! use epicycle::gateway::discover::{Discover, DiscoverError, Stop};
//! use epicycle::gateway::settings::NodeSettings;
//!
//! /// Asks for the nodes every 10 seconds.
//! struct Inventory;
//!
//! impl Discover for Inventory {
//!     fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
//!         if stop.wait(Duration::from_secs(10)) {
//!             return Ok(None);
//!         }
//!         Ok(Some(vec![NodeSettings::new("http://127.0.0.1:9001")]))
//!     }
//! }
//!
//! let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
//! let running = gateway.start_plain()?;
//! running.control().discover("default", Inventory)?;
//! # running.shutdown();
//! # Ok::<(), epicycle::gateway::GatewayError>(())
//! ```

mod dns;
mod file;
mod following;
mod names;
mod srv;
mod zookeeper;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::settings::{NodeSettings, SourceSettings};

pub use self::dns::DnsSource;
pub use self::file::{FileWatch, NodesFile};
pub(super) use self::following::{Followed, Sources};
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use self::names::dns_answer;
pub use self::srv::SrvSource;
pub use self::zookeeper::ZooKeeperSource;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use self::zookeeper::zookeeper_frames;

/// The reason why a source has no list now.
pub type DiscoverError = Box<dyn std::error::Error + Send + Sync>;

/// A source of the nodes of a pool.
pub trait Discover: Send + 'static {
    /// Waits for the next list of nodes, which replaces the last one as a whole. It is called again at once, on the same thread.
    /// It may block as long as it looks at `stop`, for example by [waiting](Stop::wait) with it. `None` ends the source.
    ///
    /// # Errors
    ///
    /// The reason why there is no list. It is logged when it changes, and the source is asked again after 1 s, then 2 s, up to 1 min.
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError>;
}

/// The most nodes of a list. A source that tells more has failed.
pub(super) const MAX_NODES: usize = 1024;

/// Returns the source that the settings of a pool describe. `uses_tls` tells whether its nodes speak TLS by themselves.
///
/// # Errors
///
/// The setting that cannot work.
pub(super) fn source(
    settings: &SourceSettings,
    uses_tls: bool,
) -> Result<Box<dyn Discover>, DiscoverError> {
    match settings {
        SourceSettings::Dns(dns) => Ok(Box::new(DnsSource::new(dns.clone(), uses_tls)?)),
        SourceSettings::Srv(srv) => Ok(Box::new(SrvSource::new(srv.clone())?)),
        SourceSettings::ZooKeeper(zk) => Ok(Box::new(ZooKeeperSource::new(zk.clone(), uses_tls)?)),
    }
}

impl Discover for Box<dyn Discover> {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        (**self).next(stop)
    }
}

/// The end of a source: its gateway ends, or the settings have it no more.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<Signals>, Condvar)>);

#[derive(Debug, Default)]
struct Signals {
    is_set: bool,
    is_woken: bool,
}

impl Stop {
    /// Waits for so long, or until the source is to end. Returns true if it is.
    pub fn wait(&self, time: Duration) -> bool {
        self.wait_for(time, |signals| signals.is_set)
    }

    /// Returns true if the source is to end.
    pub fn is_set(&self) -> bool {
        self.0.0.lock().is_set
    }

    /// Waits as [`wait`](Self::wait) does, but no longer than until the source is [woken](Self::wake).
    pub(super) fn wait_for_wake(&self, time: Duration) -> bool {
        let is_set = self.wait_for(time, |signals| signals.is_set || signals.is_woken);
        self.0.0.lock().is_woken = false;
        is_set
    }

    /// Wakes the thread of the source, from another one.
    fn wake(&self) {
        let (signals, changed) = &*self.0;
        signals.lock().is_woken = true;
        changed.notify_all();
    }

    fn set(&self) {
        let (signals, changed) = &*self.0;
        signals.lock().is_set = true;
        changed.notify_all();
    }

    fn wait_for(&self, time: Duration, is_over: impl Fn(&Signals) -> bool) -> bool {
        let (signals, changed) = &*self.0;
        let mut signals = signals.lock();
        match Instant::now().checked_add(time) {
            Some(until) => {
                while !is_over(&signals) && !changed.wait_until(&mut signals, until).timed_out() {}
            }
            None => changed.wait_while(&mut signals, |signals| !is_over(signals)),
        }
        signals.is_set
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}
