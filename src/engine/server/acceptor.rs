//! The main reactor: accepts connections and deals them to the reactors.
//!
//! ```
//! use epicycle::{Addr, Balance, Server, service};
//!
//! /// Deals local peers to the first reactor and all others round robin.
//! struct LocalFirst(usize);
//!
//! impl Balance for LocalFirst {
//!     fn pick(&mut self, peer: &Addr, loads: &[usize]) -> usize {
//!         if peer.ip().is_some_and(|ip| ip.is_loopback()) {
//!             return 0;
//!         }
//!         self.0 += 1;
//!         self.0 % loads.len()
//!     }
//! }
//!
//! let running = Server::bind("tcp://127.0.0.1:0")
//!     .reactors(2)
//!     .balance_with(LocalFirst(0))
//!     .start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
//! # Ok::<(), epicycle::Error>(())
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::addr::Addr;
use crate::engine::handler::context::Arrival;
use crate::engine::handler::{Engine, EventHandler};
use crate::engine::listen::listeners::{ACCEPT_BUDGET, AcceptOutcome, Listeners};
use crate::engine::reactor::WAKER;
use crate::panic;

/// A policy that chooses the reactor of a new connection.
pub trait Balance: Send + 'static {
    /// Returns the number of the reactor for a connection from `peer`, counted from 0. `loads` has the number of connections
    /// of each reactor. The engine takes the result modulo the number of reactors.
    fn pick(&mut self, peer: &Addr, loads: &[usize]) -> usize;
}

/// The built-in policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BalancePolicy {
    /// Each reactor in turn.
    #[default]
    RoundRobin,
    /// The reactor with the fewest connections; the first one if several have as few.
    LeastConnections,
    /// A hash of the peer's IP address without the port, so that all connections of a peer share a reactor. Unix peers have no
    /// address and share one reactor.
    SourceHash,
    /// A random reactor.
    Random,
}

impl BalancePolicy {
    pub(crate) fn into_balance(self) -> Box<dyn Balance> {
        match self {
            BalancePolicy::RoundRobin => Box::new(RoundRobin { next: 0 }),
            BalancePolicy::LeastConnections => Box::new(LeastConnections),
            BalancePolicy::SourceHash => Box::new(SourceHash {
                key: fastrand::u64(..),
            }),
            BalancePolicy::Random => Box::new(Random),
        }
    }
}

struct RoundRobin {
    next: usize,
}

impl Balance for RoundRobin {
    fn pick(&mut self, _peer: &Addr, loads: &[usize]) -> usize {
        let picked = self.next;
        self.next = (picked + 1) % loads.len();
        picked
    }
}

struct LeastConnections;

impl Balance for LeastConnections {
    fn pick(&mut self, _peer: &Addr, loads: &[usize]) -> usize {
        let least = loads.iter().enumerate().min_by_key(|(_, load)| **load);
        least.map_or(0, |(reactor, _)| reactor)
    }
}

struct SourceHash {
    /// Peers must not be able to predict their reactors.
    key: u64,
}

impl Balance for SourceHash {
    fn pick(&mut self, peer: &Addr, loads: &[usize]) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.key, peer.ip()).hash(&mut hasher);
        hasher.finish() as usize % loads.len()
    }
}

struct Random;

impl Balance for Random {
    fn pick(&mut self, _peer: &Addr, loads: &[usize]) -> usize {
        fastrand::usize(..loads.len())
    }
}

/// The event loop of the main reactor.
pub(crate) struct Acceptor<H: EventHandler> {
    poll: Poll,
    listeners: Listeners,
    balance: Box<dyn Balance>,
    engine: Engine<H>,
    loads: Vec<usize>,
    /// The time of the next attempt after a failed accept.
    retry_at: Option<Instant>,
}

impl<H: EventHandler> Acceptor<H> {
    /// Creates the loop. `poll` watches the listeners already, with tokens from 0 on.
    pub(crate) fn new(
        poll: Poll,
        listeners: Listeners,
        balance: Box<dyn Balance>,
        engine: Engine<H>,
    ) -> Self {
        Self {
            poll,
            listeners,
            balance,
            engine,
            loads: Vec::new(),
            retry_at: None,
        }
    }

    /// Accepts and deals connections until the engine stops.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let engine = self.engine.clone();
        while engine.shared().accepting.load(Ordering::Acquire) {
            if let Err(error) = self.poll.poll(&mut events, self.timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!(target: "epicycle::accept", "poll failed: {error}");
            }
            for event in &events {
                if event.token() != WAKER {
                    self.listeners.mark_ready(event.token().0);
                }
            }
            self.change_listeners();
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.retry_at = None;
                self.listeners.unblock();
            }
            self.accept();
        }
        drop(self);
        engine.shared().acceptors.fetch_sub(1, Ordering::Release);
    }

    fn change_listeners(&mut self) {
        let shared = self.engine.shared();
        if let Some(main) = &shared.main {
            let options = &shared.listen_options.socket;
            let changes = std::mem::take(&mut *main.changes.lock());
            for change in changes {
                let registry = self.poll.registry();
                self.listeners.change(change, options, registry, 0);
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if self.listeners.are_ready() {
            return Some(Duration::ZERO);
        }
        let retry_at = self.retry_at?;
        Some(retry_at.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPT_BUDGET {
            let shared = self.engine.shared();
            let Some(main) = &shared.main else {
                return;
            };
            match self.listeners.accept(&shared.admission, &main.metrics) {
                AcceptOutcome::Connection(accepted) => self.deal(accepted.into()),
                AcceptOutcome::Failed => {}
                AcceptOutcome::NoneWaits => break,
            }
        }
        if let Some(pause) = self.listeners.take_pause() {
            self.retry_at = Some(Instant::now() + pause);
        }
    }

    fn deal(&mut self, arrival: Arrival) {
        let reactor = self.pick(&arrival.peer);
        self.engine.deal(reactor, arrival);
    }

    fn pick(&mut self, peer: &Addr) -> usize {
        let reactors = &self.engine.shared().reactors;
        self.loads.clear();
        let loads = reactors.iter().map(|r| r.load.load(Ordering::Relaxed));
        self.loads.extend(loads);
        let picked = catch_unwind(AssertUnwindSafe(|| self.balance.pick(peer, &self.loads)));
        match picked {
            Ok(reactor) => reactor % reactors.len(),
            Err(panic) => {
                panic::report("epicycle::accept", "the balance policy", panic);
                0
            }
        }
    }
}
