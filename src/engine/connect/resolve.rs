//! Host names: who looks them up, and the engine's lookups, which are bounded, shared and kept for a while.
//!
//! ```
//! use std::io;
//! use std::net::SocketAddr;
//!
//! use epicycle::{Client, Resolve, SystemResolver, service};
//!
//! /// Knows the hosts of a test, and asks the system for the others.
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

/// Looks host names up, for outbound connections: see [`Server::resolver`](crate::Server::resolver).
///
/// Closures of the same shape are resolvers too.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a host, in the order in which they are to be tried. Their ports are not looked at. Only the first 64
    /// are used.
    ///
    /// It may block: it runs on threads of its own, for several hosts at a time. A panic counts as a failure.
    ///
    /// # Errors
    ///
    /// Why there is none. It becomes part of the [`ConnectError::Address`](crate::ConnectError) of each connect that waits.
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

/// The system's resolver, `getaddrinfo(3)`: hosts file, DNS, and whatever else it is set up for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        Ok((host, 0).to_socket_addrs()?.collect())
    }
}

/// How an engine looks names up.
#[derive(Clone)]
pub(crate) struct LookupOptions {
    pub(crate) resolver: Arc<dyn Resolve>,
    /// The most lookups at a time.
    pub(crate) threads: usize,
    /// The most names that wait for a thread.
    pub(crate) queue: usize,
    /// How long a result is kept; zero for not at all.
    pub(crate) ttl: Duration,
}

/// The most names whose addresses are kept.
const MAX_KEPT: usize = 1024;

/// As good as for ever, and still a time that can be reckoned with.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most addresses of a name: who runs its name server chooses how many there are.
const MAX_ADDRESSES: usize = 64;

/// The name lookups of an engine.
///
/// One name is looked up once at a time, for all who wait for it. A name that nobody waits for any more is not looked up.
pub(crate) struct Lookups(Arc<Shared>);

/// The addresses of a name, or why there are none.
pub(crate) type LookupResult = Result<Arc<[SocketAddr]>, Arc<str>>;

/// Told of what was found, with the number of its request, on the thread that has found it.
type Waiter = Box<dyn FnOnce(u64, LookupResult) + Send>;

/// What has become of a request.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The addresses were known.
    Known(Arc<[SocketAddr]>),
    /// The waiter will be told, unless the ticket is given back before.
    Waiting(Ticket),
}

/// A request that waits, for [`Lookups::cancel`].
#[derive(Debug)]
pub(crate) struct Ticket {
    host: Arc<str>,
    /// No other request has this number.
    pub(crate) number: u64,
}

/// Why a name is not looked up.
#[derive(Debug)]
pub(crate) enum NotAsked {
    /// As many names wait as may.
    QueueFull(usize),
    /// The engine has ended.
    Ended,
    /// There are no threads to be had.
    Threads(Error),
}

struct Shared {
    options: LookupOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The names that are to be looked up or are being looked up.
    pending: HashMap<Arc<str>, Pending>,
    /// Those of them that no thread has taken up yet, in the order in which they came.
    queue: BTreeMap<u64, Arc<str>>,
    kept: HashMap<Arc<str>, Kept>,
    /// The pool's jobs that carry lookups out, each until it finds the queue empty.
    workers: usize,
    /// Made when there is something to look up.
    pool: Option<WorkerPool>,
    next_number: u64,
    ended: bool,
    stats: LookupStats,
}

struct Pending {
    /// Its key in the queue, for as long as it is there.
    queued: Option<u64>,
    waiters: HashMap<u64, Waiter>,
}

struct Kept {
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

    /// Asks for the addresses of a host; `fresh` passes over what is kept.
    ///
    /// # Errors
    ///
    /// [`NotAsked`]; the waiter hears nothing then.
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
        if let Some(kept) = state.kept.get(host).filter(|_| !fresh)
            && kept.until > Instant::now()
        {
            return Ok(Lookup::Known(kept.addrs.clone()));
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
        if state.workers < options.threads {
            let shared = self.0.clone();
            state.hire(options.threads, move || shared.work())?;
        }
        let host: Arc<str> = host.into();
        let pending = Pending {
            queued: Some(number),
            waiters: HashMap::from([(number, Box::new(waiter) as Waiter)]),
        };
        state.pending.insert(host.clone(), pending);
        state.queue.insert(number, host.clone());
        state.next_number += 1;
        Ok(Lookup::Waiting(Ticket { host, number }))
    }

    /// A request is of no use any more. A name that nobody else waits for is not looked up, unless that has begun.
    pub(crate) fn cancel(&self, ticket: &Ticket) {
        let mut state = self.0.state.lock();
        let Some(pending) = state.pending.get_mut(&ticket.host) else {
            return;
        };
        // Dropped behind the lock, as everything that belongs to others.
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

    /// Ends all: what waits is dropped, and the threads end. One that is amid a lookup ends with it, and holds nothing but
    /// the name and the resolver until then.
    pub(crate) fn end(&self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        let dropped = (
            mem::take(&mut state.pending),
            mem::take(&mut state.queue),
            mem::take(&mut state.kept),
            state.pool.take(),
        );
        drop(state);
        drop(dropped);
    }

    pub(crate) fn stats(&self) -> LookupStats {
        let state = self.0.state.lock();
        let waiting = state.queue.len() as u64;
        LookupStats {
            waiting,
            kept: state.kept.len() as u64,
            ..state.stats
        }
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// Has one more thread look names up.
    fn hire(&mut self, most: usize, work: impl FnOnce() + Send + 'static) -> Result<(), NotAsked> {
        let pool = match &self.pool {
            Some(pool) => pool,
            None => {
                let builder = WorkerPool::builder().threads(most).queue(most);
                let pool = builder.name("epicycle-names").build();
                self.pool.insert(pool.map_err(NotAsked::Threads)?)
            }
        };
        // There is room: no more jobs than threads are under way.
        pool.submit(work).map_err(|_| NotAsked::Ended)?;
        self.workers += 1;
        Ok(())
    }

    /// Keeps the addresses of a name; too many kept names cost the oldest its place.
    fn keep(&mut self, host: Arc<str>, addrs: Arc<[SocketAddr]>, ttl: Duration) {
        let now = Instant::now();
        let until = now + ttl.min(LONGEST_TTL);
        if until == now {
            return;
        }
        if self.kept.len() >= MAX_KEPT {
            self.kept.retain(|_, kept| kept.until > now);
        }
        if self.kept.len() >= MAX_KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.until);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(host, Kept { addrs, until });
    }
}

impl Shared {
    /// Looks names up until none waits.
    fn work(&self) {
        while let Some(host) = self.take_up() {
            let found = self.find(&host);
            for (number, waiter) in self.settle(host, &found) {
                waiter(number, found.clone());
            }
        }
    }

    /// The next name to look up.
    fn take_up(&self) -> Option<Arc<str>> {
        let mut state = self.state.lock();
        let Some((_, host)) = state.queue.pop_first() else {
            state.workers -= 1;
            return None;
        };
        if let Some(pending) = state.pending.get_mut(&host) {
            pending.queued = None;
        }
        state.stats.running += 1;
        Some(host)
    }

    fn find(&self, host: &str) -> LookupResult {
        let mut found = Err("the resolver panicked".into());
        panic::catch("epicycle::conn", "the resolver", || {
            found = match self.options.resolver.resolve(host) {
                Ok(addrs) if addrs.is_empty() => Err("it has no address".into()),
                Ok(addrs) => Ok(addrs.into_iter().take(MAX_ADDRESSES).collect()),
                Err(error) => Err(error.to_string().into()),
            };
        });
        found
    }

    /// Books what was found; gives those who are to be told.
    fn settle(&self, host: Arc<str>, found: &LookupResult) -> HashMap<u64, Waiter> {
        let mut state = self.state.lock();
        state.stats.running -= 1;
        state.stats.completed += 1;
        state.stats.failed += u64::from(found.is_err());
        let waiters = state.pending.remove(&host).map(|pending| pending.waiters);
        if let Ok(addrs) = found
            && !state.ended
        {
            state.keep(host, addrs.clone(), self.options.ttl);
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
