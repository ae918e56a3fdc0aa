use std::time::{Duration, Instant};

#[cfg(any(feature = "rabbitmq", feature = "redis"))]
use parking_lot::MappedMutexGuard;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::BackendStats;
use super::health::Health;
use crate::cluster::Error;
use crate::engine::connect::{Backoff, Reconnect};

/// Connections to a backend. Each serves one call at a time.
pub(super) struct Pool<D: Dial> {
    dial: D,
    max: usize,
    wait: Duration,
    state: Mutex<State<D::Connection>>,
    freed: Condvar,
}

/// Makes connections.
pub(super) trait Dial: Send + Sync + 'static {
    type Connection: Send;

    /// The backend's name in errors.
    const BACKEND: &'static str;

    /// Returns a new connection, or the problem.
    fn dial(&self) -> Result<Self::Connection, String>;

    /// Returns true if the server answers on a connection that has lain idle.
    fn is_alive(&self, connection: &mut Self::Connection) -> bool;
}

/// The reason why a call failed.
pub(super) enum Failure {
    /// The connection can no longer be used.
    Connection(String),
    /// The backend has refused the call.
    #[cfg_attr(
        not(any(feature = "memcache", feature = "redis")),
        expect(dead_code, reason = "RabbitMQ closes the channel then")
    )]
    Refused(String),
}

struct State<C> {
    idle: Vec<(C, Instant)>,
    /// Connections that are idle, in use or being dialled.
    open: usize,
    waiting: usize,
    health: Health,
    backoff: Backoff,
    down: Option<Down>,
}

/// A backend that could not be reached.
struct Down {
    problem: String,
    dial_at: Instant,
}

/// A connection that has lain idle for longer is asked for a sign of life, since the server may have gone meanwhile.
const FRESH: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// The maximum number of calls that wait for a connection.
const MAX_WAITING: usize = 1024;

impl<D: Dial> Pool<D> {
    /// Returns a pool of at most `max` connections. A call waits for one for at most `wait`.
    pub(super) fn new(dial: D, max: usize, wait: Duration) -> Self {
        let state = State {
            idle: Vec::new(),
            open: 0,
            waiting: 0,
            health: Health::new(D::BACKEND),
            backoff: Backoff::default(),
            down: None,
        };
        Self {
            dial,
            max: max.max(1),
            wait,
            state: Mutex::new(state),
            freed: Condvar::new(),
        }
    }

    /// Returns that which makes the connections.
    #[cfg(feature = "redis")]
    pub(super) fn dial(&self) -> &D {
        &self.dial
    }

    /// Does `work` with a connection.
    pub(super) fn run<R>(
        &self,
        work: impl FnOnce(&mut D::Connection) -> Result<R, Failure>,
    ) -> Result<R, Error> {
        let mut lease = self.lease()?;
        let Some(connection) = &mut lease.connection else {
            return Err(self.error("the connection is gone"));
        };
        match work(connection) {
            Ok(result) => {
                lease.give_back();
                Ok(result)
            }
            Err(Failure::Refused(problem)) => {
                lease.give_back();
                Err(self.error(problem))
            }
            Err(Failure::Connection(problem)) => {
                drop(lease);
                let mut state = self.state.lock();
                self.close_idle(&mut state);
                self.lost(&mut state, problem.clone(), false);
                drop(state);
                Err(self.error(problem))
            }
        }
    }

    pub(super) fn stats(&self) -> BackendStats {
        let state = self.state.lock();
        BackendStats {
            queue: state.waiting,
            connections: state.open,
            ..state.health.stats()
        }
    }

    /// Returns what is known of the backend, for connections that are not of the pool.
    #[cfg(any(feature = "rabbitmq", feature = "redis"))]
    pub(super) fn health(&self) -> MappedMutexGuard<'_, Health> {
        MutexGuard::map(self.state.lock(), |state| &mut state.health)
    }

    fn lease(&self) -> Result<Lease<'_, D>, Error> {
        let deadline = Instant::now() + self.wait;
        let mut state = self.state.lock();
        loop {
            if let Some((connection, since)) = state.idle.pop() {
                drop(state);
                let mut lease = Lease::new(self, Some(connection));
                let is_usable = since.elapsed() < FRESH
                    || (lease.connection.as_mut())
                        .is_some_and(|connection| self.dial.is_alive(connection));
                if is_usable {
                    return Ok(lease);
                }
                drop(lease);
                state = self.state.lock();
                // What happened to one has happened to all.
                self.close_idle(&mut state);
                if Instant::now() >= deadline {
                    let problem = "it does not answer";
                    self.lost(&mut state, problem.to_owned(), false);
                    return Err(self.error(problem));
                }
                continue;
            }
            if let Some(down) = &state.down
                && Instant::now() < down.dial_at
            {
                return Err(self.error(&*down.problem));
            }
            if state.open < self.max {
                state.open += 1;
                drop(state);
                return self.dial_one(Lease::new(self, None));
            }
            if state.waiting == MAX_WAITING {
                return Err(Error::Busy {
                    what: "queue of a backend",
                });
            }
            state.waiting += 1;
            let timeout = self.freed.wait_until(&mut state, deadline).timed_out();
            state.waiting -= 1;
            if timeout && state.idle.is_empty() && state.open >= self.max {
                return Err(Error::Busy {
                    what: "pool of connections to a backend",
                });
            }
        }
    }

    /// Makes the connection of a lease.
    fn dial_one<'p>(&'p self, mut lease: Lease<'p, D>) -> Result<Lease<'p, D>, Error> {
        match self.dial.dial() {
            Ok(connection) => {
                lease.connection = Some(connection);
                Ok(lease)
            }
            Err(problem) => {
                drop(lease);
                self.lost(&mut self.state.lock(), problem.clone(), true);
                Err(self.error(problem))
            }
        }
    }

    fn close_idle(&self, state: &mut MutexGuard<'_, State<D::Connection>>) {
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        MutexGuard::unlocked(state, || drop(idle));
    }

    /// Has calls fail at once, until the backend is dialled again. The delay grows when a dial fails.
    fn lost(
        &self,
        state: &mut MutexGuard<'_, State<D::Connection>>,
        problem: String,
        is_dial: bool,
    ) {
        state.health.lost(&problem);
        let now = Instant::now();
        let is_told = state.down.as_ref().is_some_and(|down| now < down.dial_at);
        // Calls that fail together are one failure.
        if is_dial || !is_told {
            let policy = Reconnect::new(FIRST_DELAY, LONGEST_DELAY);
            let dial_at = now + state.backoff.after_failure(&policy);
            state.down = Some(Down { problem, dial_at });
        }
        self.freed.notify_all();
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::backend(D::BACKEND, problem)
    }
}

/// A connection that a call uses, or is about to make. Its drop closes it, unless it is given back.
struct Lease<'p, D: Dial> {
    pool: &'p Pool<D>,
    connection: Option<D::Connection>,
    is_given_back: bool,
}

impl<'p, D: Dial> Lease<'p, D> {
    /// Returns the lease of a connection that is counted already.
    fn new(pool: &'p Pool<D>, connection: Option<D::Connection>) -> Self {
        Self {
            pool,
            connection,
            is_given_back: false,
        }
    }

    /// Keeps the connection for other calls. The backend has answered.
    fn give_back(mut self) {
        let now = Instant::now();
        let mut state = self.pool.state.lock();
        state.down = None;
        state.backoff = Backoff::default();
        state.health.answered();
        if let Some(connection) = self.connection.take() {
            state.idle.push((connection, now));
            self.is_given_back = true;
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

impl<D: Dial> Drop for Lease<'_, D> {
    fn drop(&mut self) {
        drop(self.connection.take());
        if !self.is_given_back {
            self.pool.state.lock().open -= 1;
            self.pool.freed.notify_one();
        }
    }
}
