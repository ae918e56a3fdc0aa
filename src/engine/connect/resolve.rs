//! Host names: the resolvers, and the engine's lookups, which are bounded, shared and cached.
//!
//! ```
//! use std::io;
//! use std::net::SocketAddr;
//!
//! use epicycle::{Client, Resolve, SystemResolver, service};
//!
//! /// Has the address of one host, and asks the system for all others.
//! struct Fixed;
//!
//! impl Resolve for Fixed {
//!     fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
//!         match host {
//!             "db.test" => Ok(vec![([127, 0, 0, 1], 0).into()]),
//!             host => SystemResolver.resolve(host),
//!         }
//!     }
//! }
//!
//! let running = Client::new().resolver(Fixed).start(|_| service(|_, _| epicycle::Action::Close))?;
//! # let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! # let port = server.local_addr().unwrap().port();
//! # running.engine().connect(format!("tcp://db.test:{port}")).unwrap();
//! # server.accept().unwrap();
//! # Ok::<(), epicycle::Error>(())
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use parking_lot::Mutex;

use crate::error::Error;
use crate::metrics::LookupStats;
use crate::panic;
use crate::workers::WorkerPool;

/// A resolver of host names for outbound connections: see [`Server::resolver`](crate::Server::resolver).
///
/// Closures with the same signature are resolvers too.
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a host, in the order in which they are tried. Their ports are ignored. Only the first 64 are
    /// used.
    ///
    /// The call may block. It runs on the lookup threads, for several hosts at a time. A panic counts as a failure.
    ///
    /// # Errors
    ///
    /// The reason why there is no address. It becomes part of the [`ConnectError::Address`](crate::ConnectError) of each
    /// connect that waits for the name.
    fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

impl<F> Resolve for F
where
    F: Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
{
    fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        self(host)
    }
}

/// The system's resolver, `getaddrinfo(3)`: hosts file, DNS, and the other sources that the system is configured for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        Ok((host, 0).to_socket_addrs()?.collect())
    }
}

/// The options of an engine's lookups.
#[derive(Clone)]
pub(crate) struct LookupOptions {
    /// None for the system's.
    pub(crate) resolver: Option<Arc<dyn Resolve>>,
    /// The most lookups at a time.
    pub(crate) threads: usize,
    /// The most names that wait for a thread.
    pub(crate) queue: usize,
    /// The time for which a result is cached. Zero turns the cache off.
    pub(crate) ttl: Duration,
}

/// The most names in the cache.
const MAX_CACHED: usize = 1024;

/// The longest time in the cache. It can be added to any [`Instant`] without overflow.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most addresses of a name. The name server chooses their number, so it needs a limit.
const MAX_ADDRESSES: usize = 64;

/// The name lookups of an engine.
///
/// Requests for the same name share a lookup. A name is not looked up once all of its requests are cancelled.
pub(crate) struct Lookups(Arc<Shared>);

/// The addresses of a name, or the reason why there are none.
pub(crate) type LookupResult = Result<Arc<[SocketAddr]>, Arc<str>>;

/// A callback that receives the number of its request and the result, on the lookup thread.
type Waiter = Box<dyn FnOnce(u64, LookupResult) + Send>;

/// The immediate result of a request.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The addresses were in the cache.
    Known(Arc<[SocketAddr]>),
    /// The waiter will be called, unless the request is cancelled before.
    Waiting(Ticket),
}

/// The identifier of a waiting request, for [`Lookups::cancel`].
#[derive(Debug)]
pub(crate) struct Ticket {
    host: Arc<str>,
    /// The number of the request, which is unique.
    pub(crate) number: u64,
}

/// The reason why a request was refused.
#[derive(Debug)]
pub(crate) enum NotAsked {
    /// The queue is full. This is its capacity.
    QueueFull(usize),
    /// The engine has ended.
    Ended,
    /// The lookup threads could not be started.
    Threads(Error),
}

struct Shared {
    options: LookupOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The names that wait for a thread or are being looked up.
    pending: HashMap<Arc<str>, Pending>,
    /// The names that wait for a thread, in the order of their requests.
    queue: BTreeMap<u64, Arc<str>>,
    cache: HashMap<Arc<str>, Cached>,
    /// The number of jobs of the pool that look names up. Each ends when it finds the queue empty.
    workers: usize,
    /// Made at the first lookup.
    pool: Option<WorkerPool>,
    next_number: u64,
    ended: bool,
    stats: LookupStats,
    /// The virtual time. None unless a simulation looks the names up.
    #[cfg(feature = "testing")]
    simulated: Option<Instant>,
}

struct Pending {
    /// The key of the name in the queue. None once a thread looks it up.
    queued: Option<u64>,
    /// By the numbers of their requests, in whose order they are called.
    waiters: BTreeMap<u64, Waiter>,
}

struct Cached {
    addrs: Arc<[SocketAddr]>,
    until: Instant,
}

impl Lookups {
    pub(crate) fn new(options: LookupOptions) -> Self {
        Self(Arc::new(Shared {
            options,
            state: Mutex::default(),
        }))
    }

    /// Requests the addresses of a host. `fresh` bypasses the cache.
    ///
    /// # Errors
    ///
    /// [`NotAsked`]. The waiter is not called then.
    pub(crate) fn look_up(
        &self,
        host: &str,
        fresh: bool,
        waiter: impl FnOnce(u64, LookupResult) + Send + 'static,
    ) -> Result<Lookup, NotAsked> {
        let Shared { options, state } = &*self.0;
        let mut state = state.lock();
        if state.ended {
            return Err(NotAsked::Ended);
        }
        if let Some(cached) = state.cache.get(host).filter(|_| !fresh)
            && cached.until > state.now()
        {
            return Ok(Lookup::Known(cached.addrs.clone()));
        }
        let number = state.next_number;
        if let Some((host, _)) = state.pending.get_key_value(host) {
            let host = host.clone();
            if let Some(pending) = state.pending.get_mut(&host) {
                pending.waiters.insert(number, Box::new(waiter));
            }
            state.next_number += 1;
            return Ok(Lookup::Waiting(Ticket { host, number }));
        }
        if state.queue.len() >= options.queue {
            state.stats.refused += 1;
            return Err(NotAsked::QueueFull(options.queue));
        }
        if state.workers < options.threads && !state.is_simulated() {
            let shared = self.0.clone();
            state.start_worker(options.threads, move || shared.work())?;
        }
        let host: Arc<str> = host.into();
        let pending = Pending {
            queued: Some(number),
            waiters: BTreeMap::from([(number, Box::new(waiter) as Waiter)]),
        };
        state.pending.insert(host.clone(), pending);
        state.queue.insert(number, host.clone());
        state.next_number += 1;
        Ok(Lookup::Waiting(Ticket { host, number }))
    }

    /// Cancels a request. A name without other requests leaves the queue.
    pub(crate) fn cancel(&self, ticket: &Ticket) {
        let mut state = self.0.state.lock();
        let Some(pending) = state.pending.get_mut(&ticket.host) else {
            return;
        };
        // Dropped after the lock is released, because the drop may run code of others.
        let waiter = pending.waiters.remove(&ticket.number);
        if pending.waiters.is_empty()
            && let Some(place) = pending.queued
        {
            state.queue.remove(&place);
            state.pending.remove(&ticket.host);
            state.stats.dropped += 1;
        }
        drop(state);
        drop(waiter);
    }

    /// Drops all requests and ends the threads. A thread that is in the middle of a lookup ends after it. Until then it holds
    /// only the name and the resolver.
    pub(crate) fn end(&self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        let dropped = (
            mem::take(&mut state.pending),
            mem::take(&mut state.queue),
            mem::take(&mut state.cache),
            state.pool.take(),
        );
        drop(state);
        drop(dropped);
    }

    /// Returns the present time: the virtual one if a simulation looks the names up.
    #[cfg(feature = "rpc")]
    pub(crate) fn now(&self) -> Instant {
        #[cfg(feature = "testing")]
        return self.0.state.lock().now();
        #[cfg(not(feature = "testing"))]
        Instant::now()
    }

    pub(crate) fn stats(&self) -> LookupStats {
        let state = self.0.state.lock();
        let waiting = state.queue.len() as u64;
        LookupStats {
            waiting,
            kept: state.cache.len() as u64,
            ..state.stats
        }
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(feature = "gateway")]
impl Lookups {
    /// Returns true in a simulation.
    pub(crate) fn are_simulated(&self) -> bool {
        self.0.state.lock().is_simulated()
    }
}

/// Lookups in a simulation: it looks the names up, instead of threads, and sets the time.
#[cfg(feature = "testing")]
impl Lookups {
    /// Sets the time, and leaves the lookups to the caller from now on.
    pub(crate) fn simulate(&self, now: Instant) {
        self.0.state.lock().simulated = Some(now);
    }

    /// Takes the next name to look up, if a thread would be free for it.
    pub(crate) fn begin_next(&self) -> Option<Arc<str>> {
        let threads = self.0.options.threads as u64;
        let mut state = self.0.state.lock();
        if state.queue.is_empty() || state.stats.running >= threads {
            return None;
        }
        state.begin_next()
    }

    /// Completes the lookup of a name, with the answer of the own resolver if there is one.
    pub(crate) fn finish(&self, host: Arc<str>, found: LookupResult) {
        let result = match &self.0.options.resolver {
            Some(_) => self.0.resolve(&host),
            None => found,
        };
        for (number, waiter) in self.0.complete(host, &result) {
            waiter(number, result.clone());
        }
    }
}

impl State {
    /// Returns the present time.
    fn now(&self) -> Instant {
        #[cfg(feature = "testing")]
        if let Some(now) = self.simulated {
            return now;
        }
        Instant::now()
    }

    fn is_simulated(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.simulated.is_some();
        #[cfg(not(feature = "testing"))]
        false
    }

    /// Takes the next name from the queue.
    fn begin_next(&mut self) -> Option<Arc<str>> {
        let (_, host) = self.queue.pop_first()?;
        if let Some(pending) = self.pending.get_mut(&host) {
            pending.queued = None;
        }
        self.stats.running += 1;
        Some(host)
    }

    /// Starts one more job that looks names up.
    fn start_worker(
        &mut self,
        most: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), NotAsked> {
        let pool = match &self.pool {
            Some(pool) => pool,
            None => {
                let builder = WorkerPool::builder().threads(most).queue(most);
                let pool = builder.name("epicycle-names").build();
                self.pool.insert(pool.map_err(NotAsked::Threads)?)
            }
        };
        // The pool has room: there are no more jobs than threads.
        pool.submit(work).map_err(|_| NotAsked::Ended)?;
        self.workers += 1;
        Ok(())
    }

    /// Puts the addresses of a name into the cache. A full cache drops the entry that would expire first.
    fn cache(&mut self, host: Arc<str>, addrs: Arc<[SocketAddr]>, ttl: Duration) {
        let now = self.now();
        let until = now + ttl.min(LONGEST_TTL);
        if until == now {
            return;
        }
        if self.cache.len() >= MAX_CACHED {
            self.cache.retain(|_, cached| cached.until > now);
        }
        if self.cache.len() >= MAX_CACHED {
            let oldest = self.cache.iter().min_by_key(|(_, cached)| cached.until);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.cache.remove(&oldest);
            }
        }
        self.cache.insert(host, Cached { addrs, until });
    }
}

impl Shared {
    /// Looks names up until none waits.
    fn work(&self) {
        while let Some(host) = self.next_host() {
            let result = self.resolve(&host);
            for (number, waiter) in self.complete(host, &result) {
                waiter(number, result.clone());
            }
        }
    }

    /// Takes the next name from the queue.
    fn next_host(&self) -> Option<Arc<str>> {
        let mut state = self.state.lock();
        let host = state.begin_next();
        if host.is_none() {
            state.workers -= 1;
        }
        host
    }

    fn resolve(&self, host: &str) -> LookupResult {
        let mut result = Err("the resolver panicked".into());
        panic::catch("epicycle::conn", "the resolver", || {
            let found = match &self.options.resolver {
                Some(resolver) => resolver.resolve(host),
                None => SystemResolver.resolve(host),
            };
            result = match found {
                Ok(addrs) if addrs.is_empty() => Err("it has no address".into()),
                Ok(addrs) => Ok(addrs.into_iter().take(MAX_ADDRESSES).collect()),
                Err(error) => Err(error.to_string().into()),
            };
        });
        result
    }

    /// Records the result of a lookup. Returns the waiters, which the caller notifies.
    fn complete(&self, host: Arc<str>, result: &LookupResult) -> BTreeMap<u64, Waiter> {
        let mut state = self.state.lock();
        state.stats.running -= 1;
        state.stats.completed += 1;
        state.stats.failed += u64::from(result.is_err());
        let waiters = state.pending.remove(&host).map(|pending| pending.waiters);
        if let Ok(addrs) = result
            && !state.ended
        {
            state.cache(host, addrs.clone(), self.options.ttl);
        }
        waiters.unwrap_or_default()
    }
}

impl fmt::Debug for LookupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupOptions")
            .field("threads", &self.threads)
            .field("queue", &self.queue)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lookups").field(&self.stats()).finish()
    }
}
