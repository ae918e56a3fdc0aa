//! The state of a client behind a lock, and the peer that does what the state wants done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::flight::{Ender, Request};
use super::options::{Options, Source};
use super::state::{Deed, State};
use super::stats::MultiStats;
use crate::balance::{Balancer, NodeId, RetryBudget};
use crate::engine::connect::Reconnect;
use crate::engine::connect::resolve::LookupResult;
use crate::rpc::outgoing::{Arrived, Outgoing, OutgoingCall, Waiter, WhenFull};
use crate::rpc::peer::{Peer, PeerEngine};
use crate::rpc::session::{Session, Shared};
use crate::rpc::wire::Status;

pub(super) struct Pool {
    /// It does not keep the peer running.
    peer: Peer,
    state: Mutex<State>,
}

/// Wakes the pool at a moment. If the engine ends before, it tells the pool.
struct Alarm {
    pool: Arc<Pool>,
    at: Instant,
    has_fired: bool,
}

/// Takes the result of a lookup. If there is none, it tells the pool.
struct Asked {
    pool: Arc<Pool>,
    source: usize,
    is_answered: bool,
}

impl Pool {
    /// Returns a pool that has begun to dial.
    pub(super) fn start(
        peer: Peer,
        options: Options,
        sources: Vec<Source>,
        balancer: Box<dyn Balancer>,
        budget: RetryBudget,
    ) -> Arc<Self> {
        let epoch = now(&peer);
        let state = State::new(options, sources, balancer, budget, epoch);
        let pool = Arc::new(Self {
            peer,
            state: Mutex::new(state),
        });
        pool.change(State::begin);
        pool
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        self.peer.shared()
    }

    /// Makes a call, which must end within this time. Returns its number.
    pub(super) fn call(
        self: &Arc<Self>,
        mut request: Request,
        timeout: Option<Duration>,
        waiter: Waiter,
    ) -> u64 {
        self.change(|state, now, deeds| {
            let end = timeout.and_then(|timeout| now.checked_add(timeout));
            request.deadline = request.deadline.into_iter().chain(end).min();
            state.submit(request, Some(waiter), now, deeds)
        })
    }

    /// Sends a push, or lets it wait for a session.
    pub(super) fn push(self: &Arc<Self>, request: Request) -> Result<(), Status> {
        let submit = |state: &mut State, now, deeds: &mut _| {
            state.submit(request, None, now, deeds);
        };
        let ((), dropped) = self.change_and_tell(submit);
        dropped.into_iter().next().map_or(Ok(()), Err)
    }

    pub(super) fn set_sources(self: &Arc<Self>, sources: Vec<Source>) {
        self.change(|state, now, deeds| state.set_sources(sources, now, deeds));
    }

    pub(super) fn cancel(self: &Arc<Self>, number: u64) {
        self.change(|state, now, deeds| state.cancel(number, now, deeds));
    }

    pub(super) fn close(self: &Arc<Self>) {
        self.change(|state, _, deeds| state.close(deeds));
    }

    pub(super) fn stats(&self) -> MultiStats {
        let now = self.now();
        self.state.lock().stats(now)
    }

    fn now(&self) -> Instant {
        now(&self.peer)
    }

    fn engine(&self) -> Option<&dyn PeerEngine> {
        self.peer.engine()
    }

    /// Changes the state, and does what results from it once the lock is released.
    fn change<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State, Instant, &mut Vec<Deed>) -> R,
    ) -> R {
        let (result, dropped) = self.change_and_tell(change);
        if !dropped.is_empty() {
            self.state.lock().count_dropped(dropped.len());
        }
        for status in dropped {
            log::debug!(target: "epicycle::rpc", "a push is dropped: {status}");
        }
        result
    }

    /// Does the same. Returns the errors of pushes, too.
    fn change_and_tell<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State, Instant, &mut Vec<Deed>) -> R,
    ) -> (R, Vec<Status>) {
        let mut deeds = Vec::new();
        let now = self.now();
        let mut state = self.state.lock();
        let result = change(&mut state, now, &mut deeds);
        state.set_alarm(now, &mut deeds);
        drop(state);
        let done = deeds.into_iter().map(|deed| self.perform(deed));
        (result, done.filter_map(Result::err).collect())
    }

    /// Does one thing. Returns the error of a push.
    fn perform(self: &Arc<Self>, deed: Deed) -> Result<(), Status> {
        match deed {
            Deed::Call {
                session,
                flight,
                attempt,
                state,
                message,
                has_own_seq,
                deadline,
            } => {
                let pool = self.clone();
                let finished = move |result: Result<Arrived<'_>, Status>| {
                    pool.finished(flight, attempt, result);
                };
                // The waiter is told if it cannot be sent.
                let _ = session.send(Outgoing {
                    message,
                    has_own_seq,
                    call: Some(OutgoingCall {
                        waiter: Waiter::cancellable(state, Box::new(finished)),
                        timeout: None,
                        deadline,
                        // The client itself sends it again, to another address.
                        is_idempotent: false,
                        fails_fast: false,
                    }),
                    when_full: WhenFull::Send,
                    on_sent: None,
                });
            }
            Deed::Push {
                session,
                message,
                has_own_seq,
            } => {
                return session.send(Outgoing {
                    message,
                    has_own_seq,
                    call: None,
                    when_full: WhenFull::Send,
                    on_sent: None,
                });
            }
            Deed::Dropped(status) => return Err(status),
            Deed::Dial(node, connect, protocol) => {
                let pool = self.clone();
                // The client itself dials again.
                let connect = connect.reconnect(Reconnect::default().limit(0));
                (self.peer).dial_then_with(connect, protocol, move |result| {
                    pool.dialled(node, result);
                });
            }
            Deed::LookUp(source, host) => {
                let asked = Asked {
                    pool: self.clone(),
                    source,
                    is_answered: false,
                };
                if let Some(engine) = self.engine() {
                    engine.look_up(host, Box::new(move |found| asked.answer(found)));
                }
            }
            Deed::Watch(node, session) => {
                let (pool, watched) = (Arc::downgrade(self), session.clone());
                session.on_close(move || {
                    if let Some(pool) = pool.upgrade() {
                        pool.change(|state, now, deeds| {
                            state.session_ended(node, &watched, now, deeds);
                        });
                    }
                });
            }
            Deed::Cancel(session, call) => session.cancel(call),
            // Its calls have times of their own.
            Deed::Close(session) => session.close_within(Duration::MAX),
            Deed::Settle(waiter, status) => waiter.settle(Err(status)),
            Deed::Alarm(at, delay) => {
                let alarm = Alarm {
                    pool: self.clone(),
                    at,
                    has_fired: false,
                };
                match self.engine() {
                    Some(engine) => engine.schedule(delay, Box::new(move || alarm.fire())),
                    None => drop(alarm),
                }
            }
        }
        Ok(())
    }

    fn finished(self: &Arc<Self>, flight: u64, attempt: u64, result: Result<Arrived<'_>, Status>) {
        let (status, ender) = match &result {
            Ok(reply) => (reply.message.status(), Ender::of_reply(&reply.message.meta)),
            Err(status) => (Some(status.clone()), Ender::Local),
        };
        let ended = self
            .change(|state, now, deeds| state.finished(flight, attempt, status, ender, now, deeds));
        if let Some((waiter, cost)) = ended {
            waiter.settle(result.map(|reply| Arrived { cost, ..reply }));
        }
    }

    fn dialled(self: &Arc<Self>, node: NodeId, result: Result<Session, Status>) {
        let is_stopping = self.engine().is_none_or(PeerEngine::is_stopping);
        self.change(|state, now, deeds| {
            if result.is_err() && is_stopping {
                state.stop(now, deeds);
            }
            state.dialled(node, result, now, deeds);
        });
    }
}

impl Alarm {
    fn fire(mut self) {
        self.has_fired = true;
        let at = self.at;
        self.pool
            .change(|state, now, deeds| state.wake(at, now, deeds));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.has_fired {
            self.pool.change(State::stop);
        }
    }
}

impl Asked {
    fn answer(mut self, found: LookupResult) {
        self.is_answered = true;
        self.tell(found);
    }

    fn tell(&self, found: LookupResult) {
        self.pool
            .change(|state, now, deeds| state.resolved(self.source, found, now, deeds));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            self.tell(Err("the name cannot be looked up now".into()));
        }
    }
}

fn now(peer: &Peer) -> Instant {
    // A peer without an engine does nothing, whatever the time is.
    peer.engine().map_or_else(Instant::now, PeerEngine::now)
}
