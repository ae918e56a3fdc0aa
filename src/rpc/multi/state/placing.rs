//! The choice of a session for an attempt of a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::upkeep::dial;
use super::{Deed, State};
use crate::balance::{Admission, InFlight, NodeId, Outcome};
use crate::rpc::multi::flight::Attempt;
use crate::rpc::outgoing::CallState;
use crate::rpc::reply::local;
use crate::rpc::session::Session;
use crate::rpc::wire::{Kind, Message, code};

/// The longest time for which a call with a key waits for its own address while others are connected.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

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
    /// Finds a session for a flight and sends it, or lets it wait.
    pub(super) fn place(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
        let Some(flight) = self.flights.get(&number) else {
            return;
        };
        let (tried, is_under_way) = (flight.tried.clone(), !flight.attempts.is_empty());
        let mut choice = self.choose(number, &tried, &[], now, deeds);
        if !matches!(choice, Choice::Take(_)) && !tried.is_empty() {
            choice = self.choose(number, &[], &[], now, deeds);
        }
        match choice {
            Choice::Take(chosen) => self.launch(number, chosen, now, deeds),
            // Another attempt may still succeed.
            Choice::Wait | Choice::Broken if is_under_way => {}
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
    pub(super) fn place_waiting(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
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
    pub(super) fn hedge(&mut self, number: u64, now: Instant, deeds: &mut Vec<Deed>) {
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
}
