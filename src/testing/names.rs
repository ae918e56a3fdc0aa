//! The answers to lookups of host names in a simulated network.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::connect::resolve::LookupResult;

/// The answer to lookups of a host name: see [`World::set_name`](super::World::set_name).
///
/// ```
/// use std::time::Duration;
/// use epicycle::testing::{Link, Resolution, World};
///
/// let mut world = World::new(1, Link::calm()).unwrap();
/// world.set_name("origin.test", Resolution::to([[10, 1, 0, 1], [10, 1, 0, 2]]));
/// let late = Duration::from_secs(1)..=Duration::from_secs(8);
/// world.set_name("late.test", Resolution::to([[10, 1, 0, 3]]).after(late));
/// world.set_name("gone.test", Resolution::failure("NXDOMAIN"));
/// world.set_name("silent.test", Resolution::never());
/// ```
#[derive(Clone, Debug)]
#[must_use = "it has no effect until it is given to a world"]
pub struct Resolution {
    found: LookupResult,
    delay: RangeInclusive<Duration>,
}

impl Resolution {
    /// Answers with addresses, at once.
    pub fn to(addresses: impl IntoIterator<Item = impl Into<IpAddr>>) -> Self {
        let addrs = addresses.into_iter().map(Into::into);
        let addrs: Arc<[SocketAddr]> = addrs.map(|ip| SocketAddr::new(ip, 0)).collect();
        let found = match addrs.is_empty() {
            true => Err("it has no address".into()),
            false => Ok(addrs),
        };
        Self::new(found)
    }

    /// Answers that the name does not resolve, at once.
    pub fn failure(why: &str) -> Self {
        Self::new(Err(why.into()))
    }

    /// Never answers. The lookup occupies one of the engine's [`lookup_threads`](crate::Server::lookup_threads) for ever.
    pub fn never() -> Self {
        Self::failure("never").after(Duration::MAX..=Duration::MAX)
    }

    /// Sets the range of the time that a lookup takes. The seed decides.
    pub fn after(mut self, delay: RangeInclusive<Duration>) -> Self {
        self.delay = delay;
        self
    }

    fn new(found: LookupResult) -> Self {
        Self {
            found,
            delay: Duration::ZERO..=Duration::ZERO,
        }
    }

    pub(super) fn answer(&self) -> (RangeInclusive<Duration>, LookupResult) {
        (self.delay.clone(), self.found.clone())
    }
}
