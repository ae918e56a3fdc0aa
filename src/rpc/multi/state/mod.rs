//! The state of a client: its addresses, its calls, and what is to be done next. It has no lock, no clock and no socket: the
//! times are passed in, and what is to be done is returned as [`Deed`]s.

mod known;
mod placing;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::known::Known;
use self::placing::PATIENCE;
use super::address::Address;
use super::flight::{Attempt, Ender, Flight, Next, Request, judge};
use super::options::{Options, Source};
use super::stats::{AddressStats, MultiStats};
use crate::balance::{Balancer, BreakerState, Change, NodeId, Nodes, Outcome, RetryBudget};
use crate::engine::connect::Connect;
use crate::rpc::calls::Deadlines;
use crate::rpc::codec::ProtocolChoice;
use crate::rpc::outgoing::{CallState, Waiter};
use crate::rpc::reply::local;
use crate::rpc::session::Session;
use crate::rpc::wire::{Message, Status, code};

pub(super) struct State {
    options: Arc<Options>,
    /// The moment from which the times of `balance` are counted.
    epoch: Instant,
    sources: Vec<Known>,
    next_source: usize,
    nodes: Nodes,
    balancer: Box<dyn Balancer>,
    budget: RetryBudget,
    addresses: HashMap<NodeId, Address>,
    flights: HashMap<u64, Flight>,
    /// The numbers of the flights that wait for a session, the oldest first.
    waiting: VecDeque<u64>,
    /// The moments at which something is due for a flight.
    due: Deadlines,
    /// The moment at which something is due for an address.
    upkeep_at: Option<Instant>,
    /// The moments for which alarms are set.
    alarms: Vec<Instant>,
    next_number: u64,
    /// True once no more calls are taken.
    is_closed: bool,
    /// True once the peer shuts down.
    is_stopped: bool,
    stats: MultiStats,
}

/// Something to do once the state is not locked.
pub(super) enum Deed {
    /// Send a call as this attempt of this flight.
    Call {
        session: Session,
        flight: u64,
        attempt: u64,
        state: Arc<CallState>,
        message: Message<'static>,
        has_own_seq: bool,
        deadline: Option<Instant>,
    },
    Push {
        session: Session,
        message: Message<'static>,
        has_own_seq: bool,
    },
    /// Tell that an accepted push is not sent.
    Dropped(Status),
    Dial(NodeId, Connect, ProtocolChoice),
    LookUp(usize, String),
    /// Call back when the session of a node ends.
    Watch(NodeId, Session),
    Cancel(Session, Arc<CallState>),
    Close(Session),
    Settle(Waiter, Status),
    Alarm(Instant, Duration),
}

impl State {
    pub(super) fn new(
        options: Options,
        sources: Vec<Source>,
        balancer: Box<dyn Balancer>,
        budget: RetryBudget,
        epoch: Instant,
    ) -> Self {
        Self {
            options: Arc::new(options),
            epoch,
            next_source: sources.len(),
            sources: (0..)
                .zip(sources)
                .map(|(number, source)| Known::new(number, source))
                .collect(),
            nodes: Nodes::new([]),
            balancer,
            budget,
            addresses: HashMap::new(),
            flights: HashMap::new(),
            waiting: VecDeque::new(),
            due: Deadlines::default(),
            upkeep_at: None,
            alarms: Vec::new(),
            next_number: 0,
            is_closed: false,
            is_stopped: false,
            stats: MultiStats::default(),
        }
    }

    pub(super) fn begin(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.set_nodes();
        self.upkeep(now, deeds);
    }

    /// Takes a call or a push. Returns its number.
    pub(super) fn submit(
        &mut self,
        request: Request,
        waiter: Option<Waiter>,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> u64 {
        let number = self.number();
        self.budget.request(self.time(now));
        let flight = Flight::new(request, waiter, now);
        let is_over = flight.is_over(now);
        self.flights.insert(number, flight);
        if self.is_closed || self.is_stopped {
            let reason = match self.is_stopped {
                true => "the peer is shutting down",
                false => "the client is closed",
            };
            self.fail(number, local(code::CONNECTION_CLOSED, reason), now, deeds);
        } else if is_over {
            let reason = "the deadline is over before the call is sent";
            self.fail(number, local(code::HANDLE_TIMEOUT, reason), now, deeds);
        } else {
            self.place(number, now, deeds);
        }
        number
    }

    /// Records the end of an attempt. Returns the call's waiter and the time since the call was made if it is its result.
    pub(super) fn finished(
        &mut self,
        number: u64,
        attempt: u64,
        status: Option<Status>,
        ender: Ender,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> Option<(Waiter, Duration)> {
        // An attempt that lost has been taken out already.
        let flight = self.flights.get_mut(&number)?;
        let at = flight.attempts.iter().position(|a| a.number == attempt)?;
        let attempt = flight.attempts.swap_remove(at);
        let was_sent = attempt.state.number().is_some();
        let is_idempotent = flight.request.is_idempotent;
        let (outcome, next) = judge(status.as_ref(), ender, was_sent, is_idempotent);
        let (node, session) = (attempt.node, attempt.session.clone());
        self.release(attempt, outcome, now);
        if ender == Ender::ClosingSession {
            self.retire(node, session, now, deeds);
        }
        if next != Next::Result && self.goes_on(number, next, status, now, deeds) {
            return None;
        }
        let flight = self.end(number, now, deeds)?;
        let took = now.saturating_duration_since(flight.made);
        flight.waiter.map(|waiter| (waiter, took))
    }

    /// Makes no more calls on a session whose other side takes none. It closes when those on it have ended.
    fn retire(&mut self, node: NodeId, session: Session, now: Instant, deeds: &mut Vec<Deed>) {
        let address = self.addresses.get_mut(&node);
        if address.is_some_and(|address| address.ended(&session, &self.options, now)) {
            deeds.push(Deed::Close(session));
            self.upkeep(now, deeds);
        }
    }

    /// Lets a call go on after an attempt that failed, if it may.
    fn goes_on(
        &mut self,
        number: u64,
        next: Next,
        status: Option<Status>,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> bool {
        let time = self.time(now);
        let Some(flight) = self.flights.get_mut(&number) else {
            return false;
        };
        let others = !flight.attempts.is_empty();
        if self.is_stopped || flight.begun >= self.options.attempts {
            return others;
        }
        let Some(at) = flight.next_retry(next, &self.options.retry, now) else {
            return others;
        };
        if next == Next::Retry && !self.budget.try_retry(time) {
            self.stats.over_budget += 1;
            return others;
        }
        self.stats.retries += u64::from(next == Next::Retry);
        flight.last = status;
        if at <= now {
            self.place(number, now, deeds);
        } else {
            flight.retry_at = Some(at);
            self.add_due(number, at);
        }
        true
    }

    /// Ends a call because its caller does not want the result.
    pub(super) fn cancel(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        self.fail(number, local(code::CANCELLED, ""), now, deeds);
    }

    /// Does what is due, when an alarm that was set for `at` fires.
    pub(super) fn wake(&mut self, at: Instant, now: Instant, deeds: &mut Vec<Deed>) {
        if let Some(place) = self.alarms.iter().position(|alarm| *alarm == at) {
            self.alarms.swap_remove(place);
        }
        while let Some(number) = self.due.take_expired(now) {
            self.flight_due(number, now, deeds);
        }
        if self.upkeep_at.is_some_and(|at| at <= now) {
            self.upkeep(now, deeds);
        }
    }

    /// Ends the calls that wait, since the peer shuts down. Those in flight end with their sessions.
    pub(super) fn stop(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.is_stopped = true;
        let waiting = (self.flights.iter()).filter(|(_, flight)| flight.attempts.is_empty());
        let mut numbers: Vec<_> = waiting.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            let status = local(code::CONNECTION_CLOSED, "the peer is shutting down");
            self.fail(number, status, now, deeds);
        }
    }

    /// Takes no more calls. Closes the sessions once those that were made have ended.
    pub(super) fn close(&mut self, deeds: &mut Vec<Deed>) {
        self.is_closed = true;
        self.close_if_finished(deeds);
    }

    /// Counts pushes that were accepted and are not sent.
    pub(super) fn count_dropped(&mut self, pushes: usize) {
        self.stats.dropped_pushes += pushes as u64;
    }

    pub(super) fn stats(&self, now: Instant) -> MultiStats {
        let mut stats = self.stats.clone();
        stats.doing = self.flights.len();
        stats.waiting = self.waiting.len();
        let mut loads = Vec::new();
        for node in self.nodes.iter() {
            let Some(address) = self.addresses.get(&node.id()) else {
                continue;
            };
            let open = address.workers.iter().filter(|worker| worker.is_open());
            let before = loads.len();
            loads.extend(open.map(|worker| worker.in_flight));
            stats.dialling += address.dialling;
            let breaker = address.breaker.as_ref();
            stats.addresses.push(AddressStats {
                address: node.address().to_owned(),
                sessions: loads.len() - before,
                in_flight: node.in_flight(),
                is_up: node.is_up(),
                is_ejected: node.is_ejected(),
                ramp: node.ramp(),
                breaker: breaker.map(|breaker| breaker.state(self.time(now))),
            });
        }
        stats.workers = loads.len();
        stats.idle = loads.iter().filter(|load| **load == 0).count();
        stats.min_load = loads.iter().min().copied().unwrap_or(0);
        stats.max_load = loads.iter().max().copied().unwrap_or(0);
        stats
    }

    /// Sets an alarm for the next moment at which something is due, unless one is set that fires before.
    pub(super) fn set_alarm(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let flights = &self.flights;
        let due = self.due.next(|number| flights.contains_key(&number));
        let upkeep = self.upkeep_at.filter(|_| !self.is_over());
        let Some(next) = due.into_iter().chain(upkeep).min() else {
            return;
        };
        if self.alarms.iter().all(|alarm| next < *alarm) {
            self.alarms.push(next);
            deeds.push(Deed::Alarm(next, next.saturating_duration_since(now)));
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// Returns true if no call will need a session any more.
    fn is_finished(&self) -> bool {
        self.is_closed && self.flights.is_empty()
    }

    fn is_over(&self) -> bool {
        self.is_stopped || self.is_finished()
    }

    fn flight_due(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        let Some(flight) = self.flights.get_mut(&number) else {
            return;
        };
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if flight.attempts.is_empty() && flight.is_over(now) {
            let reason = "the deadline is over before the call is sent";
            let status = flight.last.take();
            let status = status.unwrap_or_else(|| local(code::HANDLE_TIMEOUT, reason));
            return self.fail(number, status, now, deeds);
        }
        if is_due(&mut flight.retry_at) {
            return self.place(number, now, deeds);
        }
        if is_due(&mut flight.hedge_at) {
            return self.hedge(number, now, deeds);
        }
        if !is_due(&mut flight.waits_until) {
            return;
        }
        if flight.is_patient && self.options.max_wait > PATIENCE {
            flight.is_patient = false;
            flight.is_waiting = false;
            self.waiting.retain(|waiting| *waiting != number);
            return self.place(number, now, deeds);
        }
        let status = flight.last.take().unwrap_or_else(|| self.why_unconnected());
        self.fail(number, status, now, deeds);
    }

    /// Returns the reason why there is no session.
    fn why_unconnected(&self) -> Status {
        let mut reasons = Vec::new();
        for node in self.nodes.iter() {
            let address = self.addresses.get(&node.id());
            let error = address.and_then(|address| address.last_error.as_ref());
            reasons.extend(error.map(|error| format!("{}: {error}", node.address())));
        }
        for known in &self.sources {
            let failed = known.failed.as_ref();
            reasons.extend(failed.map(|why| format!("{:?}: {why}", known.host)));
        }
        // A few tell enough.
        reasons.truncate(4);
        let reason = match reasons.is_empty() {
            true => "no session opened in time".to_owned(),
            false => reasons.join("; "),
        };
        local(code::DIAL_FAILED, reason)
    }

    /// Ends a flight without a reply.
    fn fail(&mut self, number: u64, status: Status, now: Instant, deeds: &mut Vec<Deed>) {
        let Some(flight) = self.end(number, now, deeds) else {
            return;
        };
        match flight.waiter {
            Some(waiter) => deeds.push(Deed::Settle(waiter, status)),
            None => deeds.push(Deed::Dropped(status)),
        }
    }

    /// Takes a flight out. Its other attempts are cancelled.
    fn end(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) -> Option<Flight> {
        let mut flight = self.flights.remove(&number)?;
        if flight.is_waiting {
            self.waiting.retain(|waiting| *waiting != number);
        }
        for attempt in flight.attempts.drain(..) {
            let call = (attempt.session.clone(), attempt.state.clone());
            deeds.push(Deed::Cancel(call.0, call.1));
            self.release(attempt, Outcome::Abandoned, now);
        }
        if flight.waiter.is_some() {
            self.stats.done += 1;
        }
        self.close_if_finished(deeds);
        Some(flight)
    }

    /// Counts an attempt as ended.
    fn release(&mut self, attempt: Attempt, mut outcome: Outcome, now: Instant) {
        let (node, time) = (attempt.node, self.time(now));
        if let Some(address) = self.addresses.get_mut(&node) {
            if outcome == Outcome::Failure && address.is_noted(&attempt.session) {
                outcome = Outcome::Abandoned;
            }
            let is_idle = address.release(&attempt.session, now);
            if is_idle && address.workers.len() > self.options.keep {
                let next = now.checked_add(self.options.idle);
                self.upkeep_at = self.upkeep_at.into_iter().chain(next).min();
            }
            if let (Some(breaker), Some(admission)) = (&mut address.breaker, attempt.admission)
                && let Some(state) = breaker.report(admission, outcome, time)
            {
                log::info!(target: "epicycle::rpc", "the circuit breaker of {:?} is {state:?}", self.nodes.address(node));
                self.stats.breaks += u64::from(state == BreakerState::Open);
            }
        }
        self.balancer.done(node, outcome);
        match (self.options.health).report(&self.nodes, node, outcome, time) {
            Some(Change::Ejected { lasts }) => {
                log::info!(target: "epicycle::rpc", "{:?} is ejected for {lasts:?}", self.nodes.address(node));
                self.stats.ejections += 1;
                self.look_up_soon(now);
                self.upkeep_at = Some(now);
            }
            // Its slow start goes on.
            Some(Change::Returned) => self.upkeep_at = Some(now),
            None => {}
        }
        // After the report, so that a probe counts.
        drop(attempt.in_flight);
    }

    fn close_if_finished(&mut self, deeds: &mut Vec<Deed>) {
        if !self.is_finished() {
            return;
        }
        for node in self.nodes.iter() {
            if let Some(address) = self.addresses.get_mut(&node.id()) {
                let sessions = address.workers.drain(..).map(|worker| worker.session);
                deeds.extend(sessions.map(Deed::Close));
            }
        }
    }

    fn add_due(&mut self, number: u64, at: Instant) {
        let flights = &self.flights;
        self.due
            .add(at, number, |number| flights.contains_key(&number));
    }
}
