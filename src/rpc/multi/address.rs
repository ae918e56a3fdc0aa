//! One address of a client: its sessions, its dials and its breaker.

use std::time::{Duration, Instant};

use super::options::Options;
use crate::balance::CircuitBreaker;
use crate::engine::connect::{Backoff, Connect};
use crate::rpc::codec::ProtocolChoice;
use crate::rpc::session::{Health, Session};
use crate::rpc::wire::Status;

pub(super) struct Address {
    pub(super) connect: Connect,
    pub(super) protocol: ProtocolChoice,
    /// None if there are no breakers.
    pub(super) breaker: Option<CircuitBreaker>,
    pub(super) workers: Vec<Worker>,
    /// The number of sessions that are being dialled.
    pub(super) dialling: usize,
    backoff: Backoff,
    /// The moment from which on it may be dialled.
    pub(super) dial_at: Option<Instant>,
    /// The reason why the last dial failed.
    pub(super) last_error: Option<Status>,
    /// The last session that broke.
    broken: Option<Session>,
}

/// A session, with the calls in flight on it.
pub(super) struct Worker {
    pub(super) session: Session,
    pub(super) in_flight: usize,
    opened: Instant,
    /// The moment since which it has no calls.
    idle_since: Instant,
}

impl Worker {
    pub(super) fn is_open(&self) -> bool {
        self.session.health() == Health::Open
    }
}

impl Address {
    pub(super) fn new(connect: Connect, protocol: ProtocolChoice, options: &Options) -> Self {
        Self {
            connect,
            protocol,
            breaker: options.breaker.clone(),
            workers: Vec::new(),
            dialling: 0,
            backoff: Backoff::default(),
            dial_at: None,
            last_error: None,
            broken: None,
        }
    }

    pub(super) fn add(&mut self, session: Session, now: Instant) {
        self.workers.push(Worker {
            session,
            in_flight: 0,
            opened: now,
            idle_since: now,
        });
    }

    /// Returns the open session with the fewest calls in flight, other than these.
    pub(super) fn least_loaded(&mut self, not: &[Session]) -> Option<&mut Worker> {
        (self.workers.iter_mut())
            .filter(|worker| worker.is_open() && !not.contains(&worker.session))
            .min_by_key(|worker| worker.in_flight)
    }

    /// Counts a call as ended. Returns true if its session has none left.
    pub(super) fn release(&mut self, session: &Session, now: Instant) -> bool {
        let worker = self.workers.iter_mut().find(|w| w.session == *session);
        worker.is_some_and(|worker| {
            worker.in_flight -= 1;
            worker.idle_since = now;
            worker.in_flight == 0
        })
    }

    /// Returns true if a call failed because of a break that was noted before. However many calls it fails, it is one failure.
    pub(super) fn is_noted(&mut self, session: &Session) -> bool {
        if session.health() != Health::Closed {
            return false;
        }
        let is_noted = self.broken.as_ref() == Some(session);
        self.broken = Some(session.clone());
        is_noted
    }

    /// Removes a session that has ended by itself. Returns true if it was one of these.
    pub(super) fn ended(&mut self, session: &Session, options: &Options, now: Instant) -> bool {
        let Some(at) = self.workers.iter().position(|w| w.session == *session) else {
            return false;
        };
        let worker = self.workers.swap_remove(at);
        let lasted = now.saturating_duration_since(worker.opened);
        let delay = self.backoff.after_connection(lasted, &options.redial);
        self.dial_at = now.checked_add(delay);
        true
    }

    pub(super) fn dial_failed(&mut self, status: Status, options: &Options, now: Instant) {
        self.dialling -= 1;
        self.dial_at = now.checked_add(self.backoff.after_failure(&options.redial));
        self.last_error = Some(status);
    }

    /// Returns the number of sessions to dial now. `is_wanted`: there is a call for this address.
    pub(super) fn lacks(&self, is_wanted: bool, options: &Options) -> usize {
        let mut open = 0;
        let mut is_busy = true;
        for worker in self.workers.iter().filter(|worker| worker.is_open()) {
            open += 1;
            is_busy &= worker.in_flight > 0;
        }
        let grown = open + usize::from(is_wanted && is_busy);
        let wanted = grown.max(options.keep).min(options.sessions);
        wanted.saturating_sub(open + self.dialling)
    }

    pub(super) fn may_dial(&self, now: Instant) -> bool {
        self.dial_at.is_none_or(|at| at <= now)
    }

    /// Removes the sessions that have been idle for too long. Returns them.
    pub(super) fn take_idle(&mut self, options: &Options, now: Instant) -> Vec<Session> {
        let mut idle = Vec::new();
        for at in (0..self.workers.len()).rev() {
            let worker = &self.workers[at];
            let since = now.saturating_duration_since(worker.idle_since);
            let is_spare = self.workers.len() > options.keep;
            if is_spare && worker.in_flight == 0 && since >= options.idle {
                idle.push(self.workers.swap_remove(at).session);
            }
        }
        idle
    }

    /// Returns the moment at which the next session has been idle for too long.
    pub(super) fn next_idle(&self, keep: usize, idle: Duration) -> Option<Instant> {
        let workers = self.workers.iter().filter(|worker| worker.in_flight == 0);
        let next = workers.filter_map(|worker| worker.idle_since.checked_add(idle));
        next.min().filter(|_| self.workers.len() > keep)
    }
}
