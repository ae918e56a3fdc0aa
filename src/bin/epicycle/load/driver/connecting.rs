//! Makes connections, and replaces lost ones.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use epicycle::Conn;

use super::{Driver, Event, Phase, Session};
use crate::load::wire::Wire;

/// The most connects under way at a time. More could overflow the server's backlog.
const OPENING_AT_ONCE: usize = 64;

/// The pause before the next connect after a server has refused one.
pub(super) const REDIAL_PAUSE: Duration = Duration::from_millis(100);

impl<W: Wire> Driver<W> {
    /// Makes the connections, and notifies the main thread once all are made or have failed.
    pub(super) fn connect(&mut self) {
        let now = Instant::now();
        // A server that refuses connections, and has accepted none within the timeout, is full.
        if self.failed > 0 && now - self.connected_at > self.plan.timeout {
            self.failed += self.missing();
        }
        self.dial(now);
        let settled = self.ready + self.failed >= self.plan.share(self.reactor);
        if settled && !mem::replace(&mut self.ready_reported, true) {
            let why = self.tally.connect_failures.keys().next().cloned();
            // Fails if the main thread has ended already.
            let _ = self.events.send(Event::Ready(self.ready, why));
        }
    }

    /// Makes missing connections, a few at a time.
    pub(super) fn dial(&mut self, now: Instant) {
        while now >= self.redial_at && self.opening < self.missing().min(OPENING_AT_ONCE) {
            let Some(engine) = self.engine.clone() else {
                return;
            };
            match engine.connect_on(self.reactor, self.plan.connect()) {
                Ok(_) => self.opening += 1,
                Err(error) => self.connect_failed(error.to_string()),
            }
        }
    }

    /// Returns the number of connections that are not open yet, including those being made.
    fn missing(&self) -> usize {
        let given_up = match self.phase {
            Phase::Connecting => self.failed,
            _ => 0,
        };
        let there = self.ready + self.greeting + given_up;
        self.plan.share(self.reactor).saturating_sub(there)
    }

    #[cold]
    pub(super) fn connect_failed(&mut self, why: String) {
        if self.phase == Phase::Connecting {
            self.failed += 1;
        } else {
            self.redial_at = Instant::now() + REDIAL_PAUSE;
        }
        self.tally.connect_failed(why);
    }

    /// Marks a connection as ready for requests.
    pub(super) fn become_ready(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>) {
        session.ready = true;
        self.greeting -= 1;
        self.ready += 1;
        self.tally.connected += 1;
        self.connected_at = Instant::now();
        self.live.connected.fetch_add(1, Ordering::Relaxed);
        if self.phase == Phase::Running {
            let now = self.now();
            self.feed(conn, session, now);
        } else {
            self.list(conn.id(), session);
        }
    }
}
