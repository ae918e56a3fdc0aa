//! Dialled sessions that go on when their connections end: a new connection is made for them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Line, PeerHandler, SentCall, Stage};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::connect::Backoff;
use crate::engine::handler::{Conn, Connecting, Reactor};
use crate::engine::slots::ConnId;
use crate::rpc::calls::Calls;
use crate::rpc::codec::ProtocolChoice;
use crate::rpc::dials::Again;
use crate::rpc::held::Held;
use crate::rpc::outgoing::{Outgoing, OutgoingCall, WhenFull};
use crate::rpc::reply::local;
use crate::rpc::session::{Health, MAX_HELD_PUSHES, Order, Session, settle};
use crate::rpc::stats::Counters;
use crate::rpc::wire::{Status, code};

/// The dials of a reactor that are repeated, by their tokens.
#[derive(Default)]
pub(super) struct Redials(RefCell<HashMap<u64, Redial>>);

struct Redial {
    again: Again,
    progress: Progress,
    backoff: Backoff,
    /// The number of failed attempts in a row.
    failures: u32,
    /// None before the first connection is open.
    session: Option<Apart>,
}

/// A session and what it keeps from one connection to the next.
struct Apart {
    session: Session,
    held: Held,
    /// None while the connection has them.
    calls: Option<Calls<SentCall>>,
    /// The end of the session's age.
    term: Option<Instant>,
    /// The moment for which a timer is set.
    alarm: Option<Instant>,
    /// The status with which the other side has refused it for good.
    refusal: Option<Status>,
}

#[derive(Debug)]
enum Progress {
    /// Since this moment.
    Open(ConnId, Instant),
    /// The plugins talk to the other side.
    SettingUp(ConnId),
    Connecting(Connecting<PeerHandler>),
    /// Waits for the next attempt.
    Pausing,
}

impl Redials {
    pub(super) fn contains(&self, token: u64) -> bool {
        self.0.borrow().contains_key(&token)
    }

    /// Returns true if this dial has a session, which may have no connection.
    pub(super) fn has_session(&self, token: u64) -> bool {
        (self.0.borrow().get(&token)).is_some_and(|redial| redial.session.is_some())
    }

    /// Returns the session's connection if it is open.
    pub(super) fn conn(&self, token: u64) -> Option<ConnId> {
        match self.0.borrow().get(&token)?.progress {
            Progress::Open(conn, _) => Some(conn),
            _ => None,
        }
    }

    pub(super) fn protocol(&self, token: u64) -> Option<ProtocolChoice> {
        Some(self.0.borrow().get(&token)?.again.protocol.clone())
    }

    /// Begins to set up a new connection of a session. Returns the session and its calls.
    pub(super) fn begin_setup(
        &self,
        token: u64,
        conn: ConnId,
    ) -> Option<(Session, Calls<SentCall>)> {
        let mut redials = self.0.borrow_mut();
        let redial = redials.get_mut(&token)?;
        redial.progress = Progress::SettingUp(conn);
        let apart = redial.session.as_mut()?;
        Some((apart.session.clone(), apart.calls.take()?))
    }

    /// Remembers that a session is refused, if it makes no sense to try again.
    pub(super) fn refused(&self, token: u64, status: &Status) {
        let is_final = matches!(status.code, code::UNAUTHORIZED | FORBIDDEN);
        if let Some(redial) = self.0.borrow_mut().get_mut(&token)
            && let Some(apart) = redial.session.as_mut().filter(|_| is_final)
        {
            apart.refusal = Some(status.clone());
        }
    }

    fn with<R>(&self, token: u64, f: impl FnOnce(&mut Redial) -> R) -> Option<R> {
        self.0.borrow_mut().get_mut(&token).map(f)
    }

    fn remove(&self, token: u64) -> Option<Redial> {
        self.0.borrow_mut().remove(&token)
    }
}

/// The code of a refusal for which Teleport has no name.
const FORBIDDEN: i32 = 403;

impl PeerHandler {
    /// Lets a session that has opened for the first time go on after its connection, if its dial has a policy for that.
    pub(super) fn settle_home(&self, conn: &Conn<'_, Self>, line: &Line) {
        let Some(token) = line.token else {
            return;
        };
        let Some(again) = self.parts.peer.dials.again(token) else {
            return;
        };
        let home = line.session.settle_at(conn.id().reactor(), token);
        let apart = Apart {
            session: line.session.clone(),
            held: Held::new(home, self.parts.peer.shared.calls.clone()),
            calls: None,
            term: None,
            alarm: None,
            refusal: None,
        };
        let redial = Redial {
            again,
            progress: Progress::Open(conn.id(), conn.now()),
            backoff: Backoff::default(),
            failures: 0,
            session: Some(apart),
        };
        self.redials.0.borrow_mut().insert(token, redial);
    }

    /// Returns true if the session goes on when its connection ends.
    pub(super) fn outlives(&self, line: &Line) -> bool {
        line.stage == Stage::Open
            && line.session.health() == Health::Open
            && (line.token).is_some_and(|token| self.redials.has_session(token))
    }

    /// Keeps a message that the connection does not take because it ends.
    pub(super) fn hold(&self, line: &Line, outgoing: Outgoing, now: Instant) {
        if let Some(token) = line.token {
            // The timer is set when the connection has ended.
            self.hold_apart(token, outgoing, now);
        }
    }

    /// Carries out an order for a session that has no open connection.
    pub(super) fn order_apart(&self, reactor: &mut Reactor<'_, Self>, token: u64, order: Order) {
        let setting_up = self.redials.with(token, |redial| match redial.progress {
            Progress::SettingUp(conn) => Some(conn),
            _ => None,
        });
        let Some(setting_up) = setting_up else {
            // It has ended.
            if let Order::Send(outgoing) | Order::Write(outgoing) = order {
                settle(outgoing, &local(code::CONNECTION_CLOSED, ""));
            }
            return;
        };
        match order {
            Order::Send(outgoing) => {
                self.hold_apart(token, outgoing, reactor.now());
                self.set_apart_alarm(reactor, token);
            }
            Order::Write(outgoing) => {
                let mut outgoing = Some(outgoing);
                if let Some(conn) = setting_up {
                    reactor.with(conn, |conn, line| {
                        if let Some(outgoing) = outgoing.take() {
                            self.execute(conn, line, Order::Write(outgoing));
                        }
                    });
                }
                if outgoing.is_some() {
                    let dropped = &self.parts.peer.shared.counters.dropped_pushes;
                    Counters::count(dropped);
                    log::debug!(target: "epicycle::rpc", "a message is dropped: its session has no connection");
                }
            }
            Order::Timer(..) => {
                if let Some(conn) = setting_up {
                    reactor.with(conn, |conn, line| self.execute(conn, line, order));
                }
            }
            // It has no connection to lose.
            Order::Lose => {}
            Order::Cancel(call) => {
                let held = (self.redials)
                    .with(token, |redial| redial.session.as_mut()?.held.cancel(&call))
                    .flatten();
                match (held, setting_up) {
                    (Some(held), _) => settle(held, &local(code::CANCELLED, "")),
                    (None, Some(conn)) => {
                        reactor.with(conn, |conn, line| {
                            self.execute(conn, line, Order::Cancel(call));
                        });
                    }
                    (None, None) => {}
                }
            }
            Order::Close(_) | Order::Abort => {
                // An open connection that is about to end tells the end of the session itself.
                let is_open = self.redials.conn(token).is_some();
                if !is_open {
                    let reason = "the session was closed while it redialled";
                    self.give_up_redial(reactor, token, &local(code::CONNECTION_CLOSED, reason));
                }
            }
            Order::Age => {
                let now = reactor.now();
                self.redials.with(token, |redial| {
                    if let Some(apart) = &mut redial.session {
                        apart.term = super::end_of_age(&apart.session, now);
                    }
                });
                self.set_apart_alarm(reactor, token);
            }
            // There is no connection to show.
            Order::Show(_) => {}
            // The streams ended with the connection.
            Order::Stream(..) => {}
        }
    }

    /// Keeps a message until its session has a connection.
    fn hold_apart(&self, token: u64, outgoing: Outgoing, now: Instant) {
        let shared = &self.parts.peer.shared;
        let refused = self.redials.with(token, |redial| {
            let Some(apart) = &mut redial.session else {
                return Some((outgoing, local(code::CONNECTION_CLOSED, "")));
            };
            if (outgoing.call.as_ref()).is_some_and(|call| call.waiter.is_cancelled()) {
                return Some((outgoing, local(code::CANCELLED, "")));
            }
            if (outgoing.call.as_ref()).is_some_and(|call| call.fails_fast) {
                let status = local(code::CONNECTION_CLOSED, OutgoingCall::REDIALS);
                return Some((outgoing, status));
            }
            let reason = match &outgoing.call {
                None if apart.held.pushes() >= MAX_HELD_PUSHES => "too many pushes wait for a connection",
                Some(_) if apart.held.calls() >= shared.settings.max_calls => {
                    "too many calls wait for a connection; the limit is `PeerBuilder::max_calls`"
                }
                Some(_) if apart.held.total() >= shared.settings.max_total_calls => {
                    "too many calls of all sessions wait; the limit is `PeerBuilder::max_total_calls`"
                }
                _ => {
                    apart.held.add(outgoing, now);
                    return None;
                }
            };
            Some((outgoing, local(code::TOO_MANY_REQUESTS, reason)))
        });
        if let Some(Some((outgoing, status))) = refused {
            if outgoing.call.is_none() {
                Counters::count(&shared.counters.dropped_pushes);
                log::debug!(target: "epicycle::rpc", "a push is dropped: {status}");
            }
            settle(outgoing, &status);
        }
    }

    /// Follows the end of a connection whose session may go on.
    pub(super) fn redial(
        &self,
        reactor: &mut Reactor<'_, Self>,
        token: u64,
        info: &Closed,
        mut line: Line,
        reason: &CloseReason,
    ) {
        if !self.redials.has_session(token) {
            return self.first_connection_ended(reactor, token, line, reason);
        }
        let was_open = line.stage == Stage::Open;
        let refusal = self
            .redials
            .with(token, |redial| redial.session.as_mut()?.refusal.take())
            .flatten();
        let is_unexpected = (line.is_lost || !(was_open && reason.is_by_this_side()))
            && refusal.is_none()
            && !reactor.engine().is_stopping();
        if !is_unexpected || !line.session.begin_redial() {
            let why = match refusal {
                Some(status) => format!("the other side refuses the session: {status}"),
                None => reason.to_string(),
            };
            let status = local(code::CONNECTION_CLOSED, why);
            self.give_up_redial(reactor, token, &status);
            for call in line.calls.drain() {
                self.fail_call(reactor.now(), &line.session, call, status.clone());
            }
            return;
        }
        log::debug!(target: "epicycle::rpc", "{}: the session redials: {reason}", info.peer);
        let now = reactor.now();
        let mut lost = Vec::new();
        let calls: Vec<_> = line.calls.drain().collect();
        let delay = self.redials.with(token, |redial| {
            let apart = redial.session.as_mut()?;
            // Calls that were sent come before those that were not.
            let later = apart.held.take_all();
            for mut call in calls {
                let Some(again) = call.value.again.take() else {
                    lost.push(call);
                    continue;
                };
                let outgoing = Outgoing {
                    message: again.message,
                    has_own_seq: again.has_own_seq,
                    call: Some(OutgoingCall {
                        waiter: call.value.waiter,
                        timeout: None,
                        deadline: again.by,
                        is_idempotent: true,
                        fails_fast: false,
                    }),
                    when_full: WhenFull::Send,
                    on_sent: None,
                };
                apart.held.add(outgoing, now);
            }
            for outgoing in later {
                apart.held.add(outgoing, now);
            }
            apart.calls = Some(line.calls);
            let lasted = match redial.progress {
                Progress::Open(_, since) => now.saturating_duration_since(since),
                _ => Duration::ZERO,
            };
            redial.progress = Progress::Pausing;
            if was_open {
                apart.term = line.term;
                return Some(
                    redial
                        .backoff
                        .after_connection(lasted, &redial.again.policy),
                );
            }
            None
        });
        match delay.flatten() {
            Some(delay) => self.try_later(reactor, token, delay),
            None => {
                let status = local(code::CONNECTION_CLOSED, reason.to_string());
                self.attempt_failed(reactor, token, status, false);
            }
        }
        self.set_apart_alarm(reactor, token);
        let status = local(code::CONNECTION_CLOSED, reason.to_string());
        for call in lost {
            self.fail_call(now, &line.session, call, status.clone());
        }
    }

    /// Follows the end of a connection before the session was open for the first time.
    fn first_connection_ended(
        &self,
        reactor: &mut Reactor<'_, Self>,
        token: u64,
        line: Line,
        reason: &CloseReason,
    ) {
        if line.stage == Stage::Refused {
            self.redials.remove(token);
            return self.end_session(reactor.now(), line, reason);
        }
        line.session.end();
        let text = format!("the connection closed before the session opened: {reason}");
        let is_over = reactor.engine().is_stopping();
        self.attempt_failed(reactor, token, local(code::DIAL_FAILED, text), is_over);
    }

    /// Follows a failed attempt: tries again later, or gives up.
    pub(super) fn attempt_failed(
        &self,
        reactor: &mut Reactor<'_, Self>,
        token: u64,
        status: Status,
        is_over: bool,
    ) {
        let dials = &self.parts.peer.dials;
        if !self.redials.contains(token)
            && let Some(again) = dials.again(token).filter(|again| again.from_the_first)
        {
            let redial = Redial {
                again,
                progress: Progress::Pausing,
                backoff: Backoff::default(),
                failures: 0,
                session: None,
            };
            self.redials.0.borrow_mut().insert(token, redial);
        }
        let delay = self.redials.with(token, |redial| {
            let policy = redial.again.policy;
            redial.progress = Progress::Pausing;
            redial.failures = redial.failures.saturating_add(1);
            let goes_on = !is_over && !policy.gives_up(redial.failures);
            goes_on.then(|| redial.backoff.after_failure(&policy))
        });
        match delay {
            Some(Some(delay)) => self.try_later(reactor, token, delay),
            Some(None) => self.give_up_redial(reactor, token, &status),
            None => dials.end(token, Err(status)),
        }
    }

    fn try_later(&self, reactor: &mut Reactor<'_, Self>, token: u64, delay: Duration) {
        reactor.schedule(delay, move |handler, reactor| {
            let _entered = super::enter(&handler.parts.peer.shared, reactor.id());
            handler.attempt(reactor, token);
            handler.carry_out_all(reactor);
        });
    }

    fn attempt(&self, reactor: &mut Reactor<'_, Self>, token: u64) {
        let connect = self.redials.with(token, |redial| {
            let is_due = matches!(redial.progress, Progress::Pausing);
            is_due.then(|| redial.again.connect.clone())
        });
        let Some(Some(connect)) = connect else {
            return;
        };
        match reactor.connect(connect.token(token)) {
            Ok(connecting) => {
                self.redials.with(token, |redial| {
                    redial.progress = Progress::Connecting(connecting);
                });
            }
            Err(error) => {
                let status = local(code::DIAL_FAILED, error.to_string());
                self.attempt_failed(reactor, token, status, true);
            }
        }
    }

    /// Goes on with a session whose new connection is open.
    pub(super) fn go_on(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let Some(token) = line.token else {
            return;
        };
        let waiting = self.redials.with(token, |redial| {
            redial.progress = Progress::Open(conn.id(), conn.now());
            redial.failures = 0;
            let apart = redial.session.as_mut()?;
            line.term = apart.term.take();
            Some(apart.held.take_all())
        });
        let counters = &self.parts.peer.shared.counters;
        Counters::count(&counters.redials);
        line.session.end_redial();
        log::debug!(target: "epicycle::rpc", "{}: the session goes on", conn.peer_addr());
        for outgoing in waiting.flatten().unwrap_or_default() {
            self.execute(conn, line, Order::Send(outgoing));
        }
        line.set_alarm(conn);
    }

    /// Ends a call whose deadline has passed before it was sent.
    fn expire(&self, outgoing: Outgoing) {
        Counters::count(&self.parts.peer.shared.counters.timeouts);
        let reason = "the session had no connection in time";
        settle(outgoing, &local(code::HANDLE_TIMEOUT, reason));
    }

    /// Sets a timer for the earliest deadline of a session without a connection, unless an earlier one is set.
    fn set_apart_alarm(&self, reactor: &mut Reactor<'_, Self>, token: u64) {
        let next = self.redials.with(token, |redial| {
            let apart = redial.session.as_mut()?;
            let next = (apart.held.next_deadline().into_iter())
                .chain(apart.term)
                .min()?;
            if apart.alarm.is_some_and(|alarm| alarm <= next) {
                return None;
            }
            apart.alarm = Some(next);
            Some(next)
        });
        let Some(Some(next)) = next else {
            return;
        };
        let delay = next.saturating_duration_since(reactor.now());
        reactor.schedule(delay, move |handler, reactor| {
            let _entered = super::enter(&handler.parts.peer.shared, reactor.id());
            handler.on_apart_alarm(reactor, token, next);
            handler.carry_out_all(reactor);
        });
    }

    fn on_apart_alarm(&self, reactor: &mut Reactor<'_, Self>, token: u64, alarm: Instant) {
        let now = reactor.now();
        let mut expired = Vec::new();
        let is_aged = self.redials.with(token, |redial| {
            let apart = redial.session.as_mut()?;
            if apart.alarm == Some(alarm) {
                apart.alarm = None;
            }
            if matches!(redial.progress, Progress::Open(..)) {
                return None;
            }
            while let Some(outgoing) = apart.held.take_expired(now) {
                expired.push(outgoing);
            }
            Some(apart.term.is_some_and(|by| by <= now))
        });
        for outgoing in expired {
            self.expire(outgoing);
        }
        match is_aged.flatten() {
            Some(true) => {
                let reason = "the session has reached its age";
                self.give_up_redial(reactor, token, &local(code::CONNECTION_CLOSED, reason));
            }
            Some(false) => self.set_apart_alarm(reactor, token),
            None => {}
        }
    }

    /// Ends a dial, and its session if it has one.
    fn give_up_redial(&self, reactor: &mut Reactor<'_, Self>, token: u64, status: &Status) {
        let Some(redial) = self.redials.remove(token) else {
            return;
        };
        match redial.progress {
            Progress::Connecting(connecting) => {
                // A connection that opens all the same finds no session.
                let _ = connecting.cancel();
            }
            Progress::SettingUp(conn) => drop(reactor.with(conn, |conn, _| conn.abort())),
            Progress::Open(..) | Progress::Pausing => {}
        }
        let Some(mut apart) = redial.session else {
            return self.parts.peer.dials.end(token, Err(status.clone()));
        };
        let session = apart.session;
        log::debug!(target: "epicycle::rpc", "the session {} has ended: {status}", session.id());
        session.end();
        self.disconnected(&session);
        let status = match status.code {
            code::CONNECTION_CLOSED => status.clone(),
            _ => local(
                code::CONNECTION_CLOSED,
                format!("gave up redialling: {status}"),
            ),
        };
        for outgoing in apart.held.take_all() {
            settle(outgoing, &status);
        }
    }

    /// Ends the dials that have no open connection, because the peer shuts down.
    pub(super) fn end_redials(&self, reactor: &mut Reactor<'_, Self>) {
        let mut tokens: Vec<_> = (self.redials.0.borrow().iter())
            .filter(|(_, redial)| !matches!(redial.progress, Progress::Open(..)))
            .map(|(token, redial)| (*token, redial.session.is_some()))
            .collect();
        tokens.sort_unstable();
        for (token, has_session) in tokens {
            let code = match has_session {
                true => code::CONNECTION_CLOSED,
                false => code::DIAL_FAILED,
            };
            self.give_up_redial(reactor, token, &local(code, "the peer has shut down"));
        }
    }
}
