//! The state of a client: its addresses, its calls, and what is to be done next. It has no lock, no clock and no socket: the
//! times are passed in, and what is to be done is returned as [`Deed`]s.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::Address;
use super::flight::{Attempt, Flight, Next, Request, judge};
use super::options::{Options, Source};
use super::stats::{AddressStats, MultiStats};
use crate::addr::Endpoint;
use crate::balance::{
    Admission, Balancer, BreakerState, Change, InFlight, NodeId, NodeSpec, Nodes, Outcome,
    RetryBudget,
};
use crate::engine::connect::Connect;
use crate::engine::connect::resolve::LookupResult;
use crate::rpc::calls::Deadlines;
use crate::rpc::codec::ProtocolChoice;
use crate::rpc::outgoing::{CallState, Waiter};
use crate::rpc::reply::local;
use crate::rpc::session::Session;
use crate::rpc::wire::{Kind, Message, Status, code};

pub(super) struct State {
    options: Arc<Options>,
    /// The moment from which the times of `balance` are counted.
    epoch: Instant,
    sources: Vec<Known>,
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

/// A source, and its addresses as far as they are known.
struct Known {
    source: Source,
    /// None if it is not a host name.
    host: Option<String>,
    found: Vec<(String, Connect)>,
    is_looking_up: bool,
    look_up_at: Option<Instant>,
    /// The moment of the last lookup.
    looked_up: Option<Instant>,
    failed: Option<Arc<str>>,
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

/// The shortest time between two lookups of a name because of failures.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);

/// The longest time for which a call with a key waits for its own address while others are connected.
const PATIENCE: Duration = Duration::from_millis(500);

/// The session for an attempt.
struct Chosen {
    node: NodeId,
    session: Session,
    in_flight: InFlight,
    admission: Option<Admission>,
}

enum Choice {
    Take(Chosen),
    Wait,
    /// All circuit breakers are open.
    Broken,
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
            sources: sources.into_iter().map(Known::new).collect(),
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
        answered: bool,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> Option<(Waiter, Duration)> {
        // An attempt that lost has been taken out already.
        let flight = self.flights.get_mut(&number)?;
        let at = flight.attempts.iter().position(|a| a.number == attempt)?;
        let attempt = flight.attempts.swap_remove(at);
        let was_sent = attempt.state.number().is_some();
        let is_idempotent = flight.request.is_idempotent;
        let (outcome, next) = judge(status.as_ref(), answered, was_sent, is_idempotent);
        self.release(attempt, outcome, now);
        if next != Next::Result && self.goes_on(number, next, status, now, deeds) {
            return None;
        }
        let flight = self.end(number, now, deeds)?;
        let took = now.saturating_duration_since(flight.made);
        flight.waiter.map(|waiter| (waiter, took))
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

    /// Takes the result of a dial.
    pub(super) fn dialled(
        &mut self,
        node: NodeId,
        result: Result<Session, Status>,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let time = self.time(now);
        let is_finished = self.is_finished();
        let Some(address) = self.addresses.get_mut(&node) else {
            // The name has lost the address meanwhile.
            deeds.extend(result.map(Deed::Close));
            return;
        };
        match result {
            Ok(session) => {
                address.dialling -= 1;
                if is_finished {
                    return deeds.push(Deed::Close(session));
                }
                address.add(session.clone(), now);
                self.stats.created += 1;
                (self.options.health).set_down(&self.nodes, node, false, time);
                deeds.push(Deed::Watch(node, session));
            }
            Err(status) => {
                log::debug!(target: "epicycle::rpc", "{:?} is not connected: {status}", self.nodes.address(node));
                address.dial_failed(status, &self.options, now);
                self.stats.failed_dials += 1;
                if address.workers.is_empty() {
                    self.nodes.set_down(node, true);
                }
                self.look_up_soon(now);
            }
        }
        self.upkeep(now, deeds);
        self.place_waiting(now, deeds);
    }

    /// Notes that a session has ended.
    pub(super) fn session_ended(
        &mut self,
        node: NodeId,
        session: &Session,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let address = self.addresses.get_mut(&node);
        if address.is_some_and(|address| address.ended(session, &self.options, now)) {
            self.upkeep(now, deeds);
        }
    }

    /// Takes the addresses of a host name. Those that stay keep their state.
    pub(super) fn resolved(
        &mut self,
        source: usize,
        found: LookupResult,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let pause = self.options.resolve_every;
        let known = &mut self.sources[source];
        known.is_looking_up = false;
        known.looked_up = Some(now);
        match found.and_then(|found| known.take(&found)) {
            Ok(()) => {
                known.failed = None;
                known.look_up_at = now.checked_add(pause);
            }
            Err(reason) => {
                log::debug!(target: "epicycle::rpc", "{:?} does not resolve: {reason}", known.host);
                known.failed = Some(reason);
                // The addresses from before stay.
                known.look_up_at = now.checked_add(pause.min(LOOK_UP_PAUSE));
            }
        }
        let had_none = self.nodes.is_empty();
        let (added, removed) = self.set_nodes();
        if !had_none {
            let time = self.time(now);
            self.options.health.added(&self.nodes, &added, time);
        }
        for address in removed {
            // Their calls end first.
            let sessions = address.workers.into_iter().map(|worker| worker.session);
            deeds.extend(sessions.map(Deed::Close));
        }
        self.upkeep(now, deeds);
        self.place_waiting(now, deeds);
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

    /// Finds a session for a flight and sends it, or lets it wait.
    fn place(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        let Some(flight) = self.flights.get(&number) else {
            return;
        };
        let tried = flight.tried.clone();
        let mut choice = self.choose(number, &tried, &[], now, deeds);
        if !matches!(choice, Choice::Take(_)) && !tried.is_empty() {
            choice = self.choose(number, &[], &[], now, deeds);
        }
        match choice {
            Choice::Take(chosen) => self.launch(number, chosen, now, deeds),
            Choice::Wait => self.wait(number, now, deeds),
            Choice::Broken => {
                self.stats.refused += 1;
                let status = self.flights.get(&number).and_then(|f| f.last.clone());
                let status = status.unwrap_or_else(|| {
                    let reason = "the circuit breakers of all addresses are open";
                    local(code::SERVICE_UNAVAILABLE, reason)
                });
                self.fail(number, status, now, deeds);
            }
        }
    }

    fn wait(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        if self.waiting.len() >= self.options.max_waiting {
            self.stats.refused += 1;
            let reason =
                "too many calls wait for a session; the limit is `MultiClientBuilder::max_waiting`";
            let status = local(code::TOO_MANY_REQUESTS, reason);
            return self.fail(number, status, now, deeds);
        }
        let Some(flight) = self.flights.get_mut(&number) else {
            return;
        };
        self.waiting.push_back(number);
        flight.is_waiting = true;
        if flight.waits_until.is_some() {
            return;
        }
        let longest = self.options.max_wait;
        let patience = longest.min(PATIENCE);
        let longest = match (flight.is_patient, flight.request.key) {
            (true, _) => patience,
            // It has been patient before.
            (false, Some(_)) if flight.begun == 0 => longest - patience,
            (false, _) => longest,
        };
        let end = now.checked_add(longest);
        let end = end.into_iter().chain(flight.request.deadline).min();
        flight.waits_until = end;
        if let Some(end) = end {
            self.add_due(number, end);
        }
    }

    /// Places the flights that wait, the oldest first.
    fn place_waiting(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        for number in std::mem::take(&mut self.waiting) {
            if let Some(flight) = self.flights.get_mut(&number) {
                flight.is_waiting = false;
            }
            self.place(number, now, deeds);
        }
    }

    /// Chooses a session, and dials more where it would like to have one.
    fn choose(
        &mut self,
        number: u64,
        tried: &[NodeId],
        used: &[Session],
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> Choice {
        let time = self.time(now);
        let Some(flight) = self.flights.get(&number) else {
            return Choice::Wait;
        };
        // Calls without a key have no place of their own on a ring.
        let key = flight.request.key;
        let key = key.unwrap_or_else(|| number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut without, mut is_broken) = (tried.to_vec(), false);
        let mut is_dialling = false;
        while let Some(node) = self.balancer.pick(&self.nodes.without(&without), key) {
            without.push(node);
            let Some(address) = self.addresses.get_mut(&node) else {
                continue;
            };
            if (address.breaker.as_ref()).is_some_and(|breaker| !breaker.admits(time)) {
                is_broken = true;
                continue;
            }
            dial(address, node, true, &self.options, now, deeds);
            let dials = address.dialling > 0;
            let Some(worker) = address.least_loaded(used) else {
                if dials && flight.is_patient {
                    return Choice::Wait;
                }
                is_dialling |= dials;
                continue;
            };
            let Some(in_flight) = self.nodes.begin(node) else {
                // Another call probes it.
                continue;
            };
            worker.in_flight += 1;
            let session = worker.session.clone();
            let admission = (address.breaker.as_mut()).and_then(|breaker| breaker.try_begin(time));
            return Choice::Take(Chosen {
                node,
                session,
                in_flight,
                admission,
            });
        }
        match is_broken && !is_dialling {
            true => Choice::Broken,
            false => Choice::Wait,
        }
    }

    /// Sends a flight on a session.
    fn launch(&mut self, number: u64, chosen: Chosen, now: Instant, deeds: &mut Vec<Deed>) {
        let attempt = self.number();
        let Chosen {
            node,
            session,
            in_flight,
            admission,
        } = chosen;
        let attempt = Attempt {
            number: attempt,
            node,
            session: session.clone(),
            state: Arc::new(CallState::new()),
            admission,
            in_flight,
        };
        let Some(flight) = self.flights.get_mut(&number) else {
            return self.release(attempt, Outcome::Abandoned, now);
        };
        let request = &mut flight.request;
        flight.begun += 1;
        let message = match self.options.attempts {
            // It is not needed again.
            1 => std::mem::replace(&mut request.message, Message::new(Kind::Call)),
            _ => request.message.clone(),
        };
        let has_own_seq = request.has_own_seq;
        if flight.waiter.is_none() {
            self.flights.remove(&number);
            deeds.push(Deed::Push {
                session,
                message,
                has_own_seq,
            });
            self.release(attempt, Outcome::Abandoned, now);
            return self.close_if_finished(deeds);
        }
        deeds.push(Deed::Call {
            session,
            flight: number,
            attempt: attempt.number,
            state: attempt.state.clone(),
            message,
            has_own_seq,
            deadline: request.deadline,
        });
        flight.tried.push(node);
        flight.waits_until = None;
        flight.is_patient = false;
        flight.attempts.push(attempt);
        let hedge = request.hedge.filter(|_| flight.begun == 1);
        if let Some(at) = hedge.and_then(|after| now.checked_add(after)) {
            flight.hedge_at = Some(at);
            self.add_due(number, at);
        }
    }

    /// Sends a call that takes long to a second address as well.
    fn hedge(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        let Some(flight) = self.flights.get(&number) else {
            return;
        };
        let begun = flight.begun;
        if flight.attempts.len() != 1 || begun >= self.options.attempts || self.is_stopped {
            return;
        }
        let tried = flight.tried.clone();
        let used: Vec<_> = flight.attempts.iter().map(|a| a.session.clone()).collect();
        let mut choice = self.choose(number, &tried, &used, now, deeds);
        if !matches!(choice, Choice::Take(_)) {
            choice = self.choose(number, &[], &used, now, deeds);
        }
        let Choice::Take(chosen) = choice else {
            return;
        };
        if !self.budget.try_retry(self.time(now)) {
            self.stats.over_budget += 1;
            return self.give_back(chosen, now);
        }
        self.stats.hedges += 1;
        self.launch(number, chosen, now, deeds);
    }

    fn give_back(&mut self, chosen: Chosen, now: Instant) {
        let attempt = Attempt {
            number: 0,
            node: chosen.node,
            session: chosen.session,
            state: Arc::new(CallState::new()),
            admission: chosen.admission,
            in_flight: chosen.in_flight,
        };
        self.release(attempt, Outcome::Abandoned, now);
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
            None => {
                self.stats.dropped_pushes += 1;
                deeds.push(Deed::Dropped(status));
            }
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

    /// Dials, closes idle sessions, looks names up, and lets ejected addresses return. Sets the moment of the next call.
    fn upkeep(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.upkeep_at = None;
        if self.is_over() {
            return;
        }
        let options = self.options.clone();
        let next = options.health.tick(&self.nodes, self.time(now));
        let mut next = next.and_then(|time| self.epoch.checked_add(time));
        let mut at = |moment: Option<Instant>| next = next.into_iter().chain(moment).min();
        let is_wanted = !self.waiting.is_empty();
        for node in self.nodes.iter() {
            let Some(address) = self.addresses.get_mut(&node.id()) else {
                continue;
            };
            let idle = address.take_idle(&options, now);
            deeds.extend(idle.into_iter().map(Deed::Close));
            at(address.next_idle(options.keep, options.idle));
            dial(address, node.id(), is_wanted, &options, now, deeds);
            let is_down = node.is_down() && address.dialling == 0;
            if is_down && address.may_dial(now) {
                // Nobody dials it without a call, so it must get one.
                self.nodes.set_down(node.id(), false);
            } else if is_down || address.lacks(is_wanted, &options) > 0 {
                at(address.dial_at);
            }
        }
        for (number, known) in self.sources.iter_mut().enumerate() {
            let Some(host) = &known.host else {
                continue;
            };
            if known.is_looking_up {
                continue;
            }
            if known.look_up_at.is_none_or(|at| at <= now) {
                known.is_looking_up = true;
                deeds.push(Deed::LookUp(number, host.clone()));
            } else {
                at(known.look_up_at);
            }
        }
        self.upkeep_at = next;
    }

    /// Has the names looked up before their time, since an address has failed.
    fn look_up_soon(&mut self, now: Instant) {
        for known in self.sources.iter_mut().filter(|known| known.host.is_some()) {
            let pause = LOOK_UP_PAUSE.min(self.options.resolve_every);
            let soon = known.looked_up.and_then(|before| before.checked_add(pause));
            known.look_up_at = known.look_up_at.min(soon.map(|soon| soon.max(now)));
        }
    }

    /// Makes the list of nodes from what is known of the sources. Returns the nodes that are new, and the addresses that are
    /// gone.
    fn set_nodes(&mut self) -> (Vec<NodeId>, Vec<Address>) {
        let found = self.sources.iter().flat_map(|known| {
            let weight = known.source.weight;
            let found = known.found.iter();
            found.map(move |(address, _)| NodeSpec::new(address.clone()).weight(weight))
        });
        let (nodes, changes) = self.nodes.updated(found);
        self.nodes = nodes;
        for node in &changes.added {
            let name = self.nodes.address(*node).unwrap_or_default();
            for known in &self.sources {
                let mut found = known.found.iter();
                if let Some((_, connect)) = found.find(|(address, _)| address == name) {
                    // The name, not the address, is the host of an HTTP request.
                    let host = known.source.connect.host_and_port();
                    let protocol = self.options.protocol.clone().towards(host);
                    let address = Address::new(connect.clone(), protocol, &self.options);
                    self.addresses.insert(*node, address);
                    break;
                }
            }
        }
        let removed = changes.removed.iter();
        let removed = removed.filter_map(|node| self.addresses.remove(node));
        let removed = removed.collect();
        self.balancer.update(&self.nodes);
        (changes.added, removed)
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

/// Dials the sessions that an address lacks.
fn dial(
    address: &mut Address,
    node: NodeId,
    is_wanted: bool,
    options: &Options,
    now: Instant,
    deeds: &mut Vec<Deed>,
) {
    if address.may_dial(now) {
        for _ in 0..address.lacks(is_wanted, options) {
            address.dialling += 1;
            let (connect, protocol) = (address.connect.clone(), address.protocol.clone());
            deeds.push(Deed::Dial(node, connect, protocol));
        }
    }
}

impl Known {
    fn new(source: Source) -> Self {
        let endpoint = source.connect.to.as_ref().ok();
        let host = endpoint.and_then(|endpoint| match endpoint {
            Endpoint::Tcp { host, .. } if is_name(host) => Some(host.clone()),
            _ => None,
        });
        let found = match (&host, endpoint) {
            (None, Some(endpoint)) => vec![(endpoint.to_string(), source.connect.clone())],
            _ => Vec::new(),
        };
        Self {
            source,
            host,
            found,
            is_looking_up: false,
            look_up_at: None,
            looked_up: None,
            failed: None,
        }
    }

    /// Takes the addresses that a lookup found.
    fn take(&mut self, found: &[std::net::SocketAddr]) -> Result<(), Arc<str>> {
        let Ok(endpoint) = &self.source.connect.to else {
            return Ok(());
        };
        let wanted = endpoint.wanted(found.iter().copied());
        let wanted = wanted.map_err(|error| Arc::from(error.to_string()))?;
        let connect = |addr| (format!("tcp://{addr}"), self.connect_to(addr));
        self.found = wanted.into_iter().map(connect).collect();
        Ok(())
    }

    /// Returns the connect of one of the host's addresses. TLS verifies the name nevertheless.
    fn connect_to(&self, addr: std::net::SocketAddr) -> Connect {
        let connect = self.source.connect.at(addr);
        #[cfg(feature = "tls")]
        if let (Some(tls), Some(host)) = (&self.source.connect.tls, &self.host)
            && !tls.has_server_name()
            && let Ok(tls) = tls.clone().server_name(host)
        {
            return connect.tls(&tls);
        }
        connect
    }
}

/// Returns true for a host that must be looked up.
fn is_name(host: &str) -> bool {
    // An address of IPv6 may have a scope, which does not parse.
    !host.contains(':') && host.parse::<std::net::IpAddr>().is_err()
}
