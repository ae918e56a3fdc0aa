//! Sends requests that are due, and settles requests that are answered.

use std::mem;

use epicycle::{Conn, ConnId, Reactor};

use super::{Driver, Pace, Phase, Request, Session};
use crate::load::plan::Nanos;
use crate::load::tally::Failure;
use crate::load::wire::Wire;

impl<W: Wire> Driver<W> {
    /// Notes that the connection has room for a request.
    pub(super) fn list(&mut self, id: ConnId, session: &mut Session<W>) {
        if matches!(self.pace, Pace::Open(_)) && !mem::replace(&mut session.listed, true) {
            self.idle.push_back(id);
        }
    }

    /// Sends requests that are due on a connection, while it has room.
    #[inline]
    pub(super) fn feed(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>, now: Nanos) {
        while session.under_way.len() < self.plan.pipeline {
            if !self.send(conn, session, now) {
                break;
            }
        }
        if session.under_way.len() < self.plan.pipeline {
            self.list(conn.id(), session);
        }
    }

    /// Sends the next request. Returns false if none is due or the connection refuses it.
    #[inline]
    fn send(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>, now: Nanos) -> bool {
        let due = match &self.pace {
            Pace::Closed => now,
            Pace::Open(schedule) => schedule.due(),
        };
        if due > now || due >= self.tally.window.until || self.phase != Phase::Running {
            return false;
        }
        // `on_close` counts the failures of a connection that refuses requests.
        if self.wire.ask(conn, &mut session.state).is_err() {
            return false;
        }
        if let Pace::Open(schedule) = &mut self.pace {
            schedule.advance();
            if self.tally.window.has(due) {
                self.tally.lateness.saturating_record(now - due);
            }
        }
        session.under_way.push_back(Request { due, sent: now });
        self.under_way += 1;
        true
    }

    /// In an open loop, sends requests that are due on the connections with room, in turn.
    pub(super) fn pump(&mut self, reactor: &mut Reactor<'_, Self>, now: Nanos) {
        while let Pace::Open(schedule) = &self.pace
            && schedule.due() <= now
            && let Some(id) = self.idle.pop_front()
        {
            reactor.with(id, |conn, session| {
                session.listed = false;
                if self.send(conn, session, now) && session.under_way.len() < self.plan.pipeline {
                    self.list(id, session);
                }
            });
        }
    }

    /// Settles the oldest request of a connection. Returns false if there is none.
    #[inline]
    pub(super) fn settle(
        &mut self,
        session: &mut Session<W>,
        now: Nanos,
        failure: Option<Failure>,
    ) -> bool {
        let Some(request) = session.under_way.pop_front() else {
            return false;
        };
        self.under_way -= 1;
        match failure {
            None => {
                session.useful = true;
                self.answers += 1;
                self.tally.answered(request.due, now);
            }
            Some(failure) => self.tally.failed(request.due, failure, 1),
        }
        true
    }
}
