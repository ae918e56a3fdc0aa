//! Limits on the calls and pushes of a route, a session or an address: how many are under way at once, and how many begin in a
//! time.
//!
//! A message beyond a limit is answered with 429 at once, and costs no handler. The answer can be [another
//! one](Limiter::otherwise). A caller's circuit breaker does not count a 429 as a failure of the peer: see
//! [`Status::balance_outcome`].
//!
//! ```
//! use std::time::Duration;
//! use epicycle::rpc::plugins::limits::{Limiter, Per};
//! use epicycle::rpc::{Peer, Router, code};
//!
//! let mut routes = Router::new();
//! let twice_a_minute = Limiter::new("tickets").rate(Per::Session, 2, Duration::from_secs(60));
//! routes.with(twice_a_minute, |routes| routes.call("/ticket", |_ctx, _: ()| Ok("yours")));
//! let server = Peer::builder()
//!     .listen("tcp://127.0.0.1:0")
//!     .routes(routes)
//!     .plugin(Limiter::new("load").concurrent(Per::Route, 100).rate(Per::Address, 1000, Duration::from_secs(1)))
//!     .start()?;
//!
//! let client = Peer::builder().start()?;
//! let session = client.dial(&server.local_addrs()[0])?;
//! let take = || session.call::<_, String>("/ticket", &()).wait();
//! assert!(take().is_ok() && take().is_ok());
//! assert_eq!(take().unwrap_err().code, code::TOO_MANY_REQUESTS);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;
use crate::rpc::context::Incoming;
use crate::rpc::plugin::{Hooks, Plugin};
use crate::rpc::route_info::RouteInfo;
use crate::rpc::wire::{Status, code};

/// The messages that a limit counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Per {
    /// Those to one path. All that go to handlers of unknown paths count together.
    Route,
    /// Those of one session.
    Session,
    /// Those of one IP address, over all its sessions. The addresses of an IPv6 network of 64 bits count as one, since one
    /// host has them all. All Unix sockets count as one.
    Address,
}

/// The plugin that limits. It is for a peer, a group or single routes, each with a name of its own.
///
/// A message counts against all limits of the plugin, or, if one refuses it, against none. Calls to paths without a handler
/// are not counted; they are answered with 404.
pub struct Limiter {
    name: String,
    limits: Vec<Limit>,
    trusts_real_ip: bool,
    max_addresses: usize,
    otherwise: Option<Otherwise>,
    refused: Arc<AtomicU64>,
}

type Otherwise = Box<dyn Fn(&mut Incoming<'_>, Status) -> Result<(), Status> + Send + Sync>;

/// One limit, and its counts.
struct Limit {
    per: Per,
    most: usize,
    /// None for a limit on what is under way.
    period: Option<Duration>,
    counts: Arc<Counts>,
}

/// The counts of one limit.
#[derive(Default)]
struct Counts {
    /// The routes that the plugin was told of, which are the application's.
    routes: Mutex<HashMap<Arc<str>, Arc<Count>>>,
    /// By the session's number.
    sessions: Mutex<HashMap<usize, Arc<Count>>>,
    addresses: Mutex<Addresses>,
    /// The count of all others.
    others: Arc<Count>,
}

#[derive(Default)]
struct Addresses {
    counts: HashMap<Option<IpAddr>, Arc<Count>>,
    /// The time at which counts of no interest were last removed.
    swept: Option<Instant>,
}

/// The messages that count together.
#[derive(Default)]
struct Count {
    under_way: AtomicUsize,
    /// The time until which the messages so far take up the rate.
    taken_until: Mutex<Option<Instant>>,
}

/// The time between two searches for counts of no interest, so that nobody can have a full table searched all the time.
const SWEEP: Duration = Duration::from_secs(1);

impl Limiter {
    /// Returns a plugin without limits. The name tells it from others of its kind.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            limits: Vec::new(),
            trusts_real_ip: false,
            max_addresses: 65_536,
            otherwise: None,
            refused: Arc::default(),
        }
    }

    /// Limits the messages whose handlers are at work. A handler that replies later is at work until it has replied or has
    /// dropped its [`Responder`](crate::rpc::Responder), also when its caller no longer waits.
    pub fn concurrent(self, per: Per, most: usize) -> Self {
        self.limit(per, most, None)
    }

    /// Limits the messages that begin in a time. All of them may begin at once; then one after each `period / most`.
    pub fn rate(self, per: Per, most: usize, period: Duration) -> Self {
        self.limit(per, most, Some(period))
    }

    fn limit(mut self, per: Per, most: usize, period: Option<Duration>) -> Self {
        self.limits.push(Limit {
            per,
            most,
            period,
            counts: Arc::default(),
        });
        self
    }

    /// Takes the address for which a proxy acts, as it tells in `X-Real-IP`, for the peer's. Only for peers whose proxies are
    /// trusted: anybody else chooses that address.
    pub fn trust_real_ip(mut self) -> Self {
        self.trusts_real_ip = true;
        self
    }

    /// Sets the most addresses that each limit counts by themselves. Addresses beyond count together, until others have
    /// been without messages for long enough. Each takes about 120 bytes. Default: 65,536.
    pub fn max_addresses(mut self, most: usize) -> Self {
        self.max_addresses = most;
        self
    }

    /// Sets what happens to a message beyond a limit. The function gets the status that would be the answer. It returns it,
    /// or another one, or [`Incoming::answer`] with a value that replaces the handler's, or `Ok` to let the message through.
    ///
    /// ```
    /// use epicycle::rpc::plugins::limits::{Limiter, Per};
    ///
    /// let limiter = Limiter::new("load").concurrent(Per::Route, 100).otherwise(|call, refusal| {
    ///     match call.path().as_str() {
    ///         "/price" => call.answer(&"ask later"),
    ///         _ => Err(refusal),
    ///     }
    /// });
    /// ```
    pub fn otherwise(
        mut self,
        decide: impl Fn(&mut Incoming<'_>, Status) -> Result<(), Status> + Send + Sync + 'static,
    ) -> Self {
        self.otherwise = Some(Box::new(decide));
        self
    }

    /// Returns the counter of the messages that were beyond a limit.
    pub fn refused(&self) -> Arc<AtomicU64> {
        self.refused.clone()
    }

    fn admit(&self, message: &mut Incoming<'_>) -> Result<(), Status> {
        let Some(now) = message.arrived_at() else {
            return Ok(());
        };
        let mut admitted: Vec<Admitted> = Vec::with_capacity(self.limits.len());
        for limit in &self.limits {
            let count = self.count_of(limit, message, now);
            if !limit.take(&count, now) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                for taken in &mut admitted {
                    taken.give_back();
                }
                let status = Status::of(code::TOO_MANY_REQUESTS, message.dialect);
                let status = status.with_reason(limit.to_string());
                return match &self.otherwise {
                    Some(decide) => decide(message, status),
                    None => Err(status),
                };
            }
            let interval = limit.interval();
            admitted.push(Admitted { count, interval });
        }
        admitted.retain(|taken| taken.interval.is_none());
        if !admitted.is_empty() {
            message.keep(admitted);
        }
        Ok(())
    }

    fn count_of(&self, limit: &Limit, message: &Incoming<'_>, now: Instant) -> Arc<Count> {
        let counts = &limit.counts;
        match limit.per {
            Per::Route => {
                let uri = message.message().parse_uri();
                let routes = counts.routes.lock();
                let count = uri.ok().and_then(|uri| routes.get(uri.path()).cloned());
                count.unwrap_or_else(|| counts.others.clone())
            }
            Per::Session => {
                let (session, mut sessions) = (message.session(), counts.sessions.lock());
                let number = session.number();
                if let Some(count) = sessions.get(&number) {
                    return count.clone();
                }
                let count = sessions.entry(number).or_default().clone();
                drop(sessions);
                let counts = counts.clone();
                session.on_close(move || drop(counts.sessions.lock().remove(&number)));
                count
            }
            Per::Address => {
                let address = match self.trusts_real_ip {
                    true => message.real_ip(),
                    false => message.remote_addr().as_socket_addr().map(|addr| addr.ip()),
                };
                let mut addresses = counts.addresses.lock();
                let known = addresses.get(address.map(network), now, self.max_addresses);
                known.unwrap_or_else(|| counts.others.clone())
            }
        }
    }
}

/// Returns the address without the bits that one host chooses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

impl Addresses {
    /// Returns the count of an address. Returns `None` if there are too many others.
    fn get(&mut self, address: Option<IpAddr>, now: Instant, most: usize) -> Option<Arc<Count>> {
        if let Some(count) = self.counts.get(&address) {
            return Some(count.clone());
        }
        if self.counts.len() >= most && self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            self.counts.retain(|_, count| !count.is_idle(now));
        }
        (self.counts.len() < most).then(|| self.counts.entry(address).or_default().clone())
    }
}

impl Limit {
    /// Returns the time that one message takes up of a rate.
    fn interval(&self) -> Option<Duration> {
        let most = u32::try_from(self.most).unwrap_or(u32::MAX).max(1);
        self.period.map(|period| period / most)
    }

    /// Counts a message. Returns false if it is beyond the limit.
    fn take(&self, count: &Count, now: Instant) -> bool {
        let Some((period, interval)) = self.period.zip(self.interval()) else {
            let add = |under_way: usize| (under_way < self.most).then_some(under_way + 1);
            let counter = &count.under_way;
            return (counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)).is_ok();
        };
        let mut until = count.taken_until.lock();
        let from = until.map_or(now, |until| until.max(now));
        let next = from.checked_add(interval);
        let Some(next) = next.filter(|next| self.most > 0 && *next - now <= period) else {
            return false;
        };
        *until = Some(next);
        true
    }
}

impl Count {
    /// Returns true if it is as good as a new one.
    fn is_idle(self: &Arc<Self>, now: Instant) -> bool {
        // One that is held elsewhere is about to change.
        Arc::strong_count(self) == 1
            && self.under_way.load(Ordering::Relaxed) == 0
            && self.taken_until.lock().is_none_or(|until| until <= now)
    }
}

/// A message that one limit has counted. It counts as under way as long as this exists.
struct Admitted {
    count: Arc<Count>,
    /// The time that it takes up of a rate.
    interval: Option<Duration>,
}

impl Admitted {
    /// Gives a rate its time back. The message was refused elsewhere.
    fn give_back(&mut self) {
        if let Some(interval) = self.interval
            && let Some(until) = &mut *self.count.taken_until.lock()
        {
            *until = until.checked_sub(interval).unwrap_or(*until);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.interval.is_none() {
            self.count.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Plugin for Limiter {
    fn name(&self) -> &str {
        &self.name
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_REG | Hooks::PRE_READ_CALL_BODY | Hooks::PRE_READ_PUSH_BODY
    }

    fn post_reg(&self, route: &RouteInfo) -> Result<(), Error> {
        for limit in &self.limits {
            let mut routes = limit.counts.routes.lock();
            routes.entry(route.path.clone()).or_default();
        }
        Ok(())
    }

    fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        self.admit(call)
    }

    fn pre_read_push_body(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        self.admit(push)
    }
}

/// Prints the limit, for the reason of a refusal.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.per {
            Per::Route => "route",
            Per::Session => "session",
            Per::Address => "address",
        };
        match self.period {
            Some(period) => write!(f, "the limit is {} in {period:?} for each {of}", self.most),
            None => write!(f, "the limit is {} at once for each {of}", self.most),
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<_> = self.limits.iter().map(ToString::to_string).collect();
        f.debug_struct("Limiter")
            .field("name", &self.name)
            .field("limits", &limits)
            .finish_non_exhaustive()
    }
}
