//! Users and their connections.

use std::sync::Arc;

use super::away::Stage;
use super::client::Client;
use super::clients::close;
use super::handler::{GateReactor, Session};
use super::options::DuplicateLogin;
use super::shared::{POOL_QUEUE, Shared};
use super::work::{Reply, Task, Whereabouts, Who, Work};
use crate::cluster::Event;
use crate::cluster::drpc::{Code, Value};
use crate::cluster::packet::{Control, GoodbyeReason};
use crate::cluster::seldom::warn_seldom;
use crate::cluster::session::{Holder, reactor_of};
use crate::engine::handler::{Action, Conn, Engine, Reactor};

impl GateReactor {
    /// Begins to bind a user. The locator is asked first; [`bound`](Self::bound) does the rest.
    pub(super) fn bind(
        &mut self,
        cid: i64,
        uid: i64,
        reply: Option<Arc<Reply>>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        if self.sessions.find(cid, 0).is_none() || self.away.contains_key(&cid) {
            return self.conclude(reply.as_deref(), Code::NotFound, Value::None);
        }
        let refuses = self.shared.options.duplicate == DuplicateLogin::Refuse;
        let holder = self.shared.users.find(uid);
        let is_taken = refuses && holder.is_some_and(|holder| holder != cid);
        let has_room = self.shared.pool.stats().queued < POOL_QUEUE / 2;
        if is_taken || !has_room {
            self.counters().binds_failed.add(1);
            return self.conclude(reply.as_deref(), Code::Failed, Value::None);
        }
        self.shared.users.begin(uid);
        let (shared, engine, back) = (self.shared.clone(), reactor.engine().clone(), reply.clone());
        let (id, now) = (self.id, reactor.now());
        let asked = self.shared.pool.submit_ordered(uid as u64, move || {
            let confirmed = ask_locator(&shared, uid, refuses);
            let task = Task::Bound {
                cid,
                uid,
                confirmed,
                asked: now,
            };
            report(&shared, &engine, id, Work { task, reply: back });
        });
        if asked.is_err() {
            self.shared.users.finish(uid, None);
            self.counters().binds_failed.add(1);
            self.conclude(reply.as_deref(), Code::Failed, Value::None);
        }
    }

    /// Binds a user that the locator has confirmed. From here on its packets have the user, and the nodes are told before the
    /// first of them.
    pub(super) fn bound(
        &mut self,
        cid: i64,
        uid: i64,
        confirmed: bool,
        reactor: &mut Reactor<'_, Self>,
    ) -> Code {
        let id = self.sessions.find(cid, 0);
        let id = id.filter(|_| !self.away.contains_key(&cid));
        // A connection that is taking its user back is bound to that one.
        let is_resuming = id.is_some_and(|id| self.is_resuming(id, reactor));
        let Some(id) = id.filter(|_| confirmed && !is_resuming) else {
            if self.shared.users.finish(uid, None).is_free {
                self.forget(uid, None, reactor);
            }
            self.counters().binds_failed.add(1);
            return match confirmed && !is_resuming {
                true => Code::NotFound,
                false => Code::Failed,
            };
        };
        let finished = self.shared.users.finish(uid, Some(cid));
        let old = self
            .sessions
            .set_uid(cid, uid, finished.bind)
            .unwrap_or_default();
        if old != 0 && old != uid && self.shared.users.release(old, cid) {
            self.forget(old, None, reactor);
        }
        if let Some(older) = finished.replaced {
            let task = Task::Lose {
                uid,
                holder: older,
                to: Whereabouts::Here,
            };
            self.assign_anyway(reactor_of(older.cid), Work { task, reply: None }, reactor);
        }
        reactor.with(id, |conn, session| {
            if let Session::Client(client) = session
                && let Some(timer) = client.authorizing.take()
            {
                conn.cancel_timer(timer);
            }
        });
        self.counters().binds.add(1);
        self.trigger(Event::Reconnect, cid, uid, reactor.now());
        Code::Done
    }

    /// Takes the user from a connection. The answer follows when the locator has forgotten it.
    pub(super) fn unbind(
        &mut self,
        who: Who,
        reply: Option<Arc<Reply>>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let away = self.away.get(&who.cid);
        let has_heir = away.is_some_and(|away| !matches!(away.stage, Stage::Waits));
        if has_heir || self.sessions.find(who.cid, who.uid).is_none() {
            return self.conclude(reply.as_deref(), Code::NotFound, Value::None);
        }
        self.sessions.set_uid(who.cid, 0, 0);
        self.await_login(who.cid, reactor);
        self.end_away(who.cid, reactor);
        match self.shared.users.release(who.uid, who.cid) {
            true => self.forget(who.uid, reply, reactor),
            false => self.conclude(reply.as_deref(), Code::Done, Value::None),
        }
    }

    /// Takes the user from a connection, since it has gone to another one.
    pub(super) fn lose(
        &mut self,
        uid: i64,
        holder: Holder,
        to: &Whereabouts,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(id) = self.sessions.held(uid, holder) else {
            return;
        };
        if self.lose_away(uid, holder.cid, to, reactor) {
            return;
        }
        // Which of both was the later one is known when the locator has answered.
        if let Some(is_doubted) = self.binding.get_mut(&holder.cid) {
            *is_doubted = true;
            return;
        }
        self.sessions.set_uid(holder.cid, 0, 0);
        // It is still this one's if the other connection is at another gate, whose entry the locator keeps.
        self.shared.users.release(uid, holder.cid);
        self.counters().replaced.add(1);
        if self.shared.options.duplicate != DuplicateLogin::Replace {
            return self.await_login(holder.cid, reactor);
        }
        reactor.with(id, |conn, session| {
            if let Session::Client(client) = session {
                client.is_ended = true;
                self.send_goodbye(conn, client, GoodbyeReason::Replaced);
            }
            close(conn);
        });
    }

    /// Tells a client why it is about to be closed, if it speaks control packets.
    pub(super) fn send_goodbye(
        &self,
        conn: &mut Conn<'_, Self>,
        client: &Client,
        reason: GoodbyeReason,
    ) {
        let retry_ms = match reason {
            // Not all at once.
            GoodbyeReason::Stopping => fastrand::u32(0..=self.shared.options.retry_within),
            _ => 0,
        };
        let goodbye = Control::Goodbye { reason, retry_ms };
        if client.speaks_control
            && let Ok(goodbye) = self.shared.options.packet.encode_control(&goodbye)
            && let Action::Refused(error) = self.send(conn, goodbye)
        {
            log::debug!(target: "epicycle::cluster", "no goodbye to {}: {error}", client.address(conn.peer_addr()));
        }
    }

    /// Makes the locator forget a user whom nobody has or is about to have. Then answers.
    pub(super) fn forget(
        &mut self,
        uid: i64,
        reply: Option<Arc<Reply>>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let (shared, engine, back) = (self.shared.clone(), reactor.engine().clone(), reply.clone());
        let id = self.id;
        let asked = self.shared.pool.submit_ordered(uid as u64, move || {
            let forgotten = shared.locations.unbind_gate(uid, &shared.ours.id);
            if let Err(error) = &forgotten {
                warn_seldom!("the user {uid} may stay located here: {error}");
            }
            if back.is_some() {
                let code = forgotten.map_or(Code::Failed, |_| Code::Done);
                let task = Task::Answer(code);
                report(&shared, &engine, id, Work { task, reply: back });
            }
        });
        if let Err(error) = asked {
            warn_seldom!("the user {uid} may stay located here: {error}");
            self.counters().unbinds_failed.add(1);
            self.conclude(reply.as_deref(), Code::Failed, Value::None);
        }
    }

    /// Gives a connection that has lost its user the time to log in again.
    fn await_login(&self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        if let Some(id) = self.sessions.find(cid, 0) {
            reactor.with(id, |conn, session| {
                if let Session::Client(client) = session {
                    self.await_user(conn, client);
                }
            });
        }
    }
}

/// Returns true if the locator has the user at this gate now.
fn ask_locator(shared: &Shared, uid: i64, refuses: bool) -> bool {
    let here = &*shared.ours.id;
    if refuses {
        match shared.locator.locate_gate(uid) {
            // One that is gone holds nobody.
            Ok(Some(gid)) if gid != here => match shared.directory.confirm("gate", &gid) {
                Ok(false) => {}
                _ => return false,
            },
            Ok(_) => {}
            Err(error) => {
                warn_seldom!("the user {uid} is not bound: {error}");
                return false;
            }
        }
    }
    match shared.locations.bind_gate(uid, here) {
        Ok(()) => true,
        Err(error) => {
            warn_seldom!("the user {uid} is not bound: {error}");
            false
        }
    }
}

/// Gives a task to a reactor from a worker thread. There is one for each job of the pool, whose queue is bounded.
pub(super) fn report(shared: &Shared, engine: &Engine<GateReactor>, reactor: usize, work: Work) {
    shared.queued.enqueue_anyway(reactor, work.weight());
    engine.run_anyway(reactor, move |gate, reactor| gate.take(vec![work], reactor));
}

/// Takes a user from its connection here, if another gate has bound it since.
pub(super) fn on_bound_elsewhere(shared: &Shared, engine: &Engine<GateReactor>, uid: i64) {
    // The change may be older than the bind of this gate. But nobody else deletes the entry of this gate: if there is none, the
    // other gate has replaced it, and its connection has ended since.
    lose_unless(shared, engine, uid, |gate| gate == Some(&*shared.ours.id));
}

/// Does the same for all users, since changes were missed.
pub(super) fn on_interrupted(shared: &Shared, engine: &Engine<GateReactor>) {
    for uid in shared.users.all() {
        // A locator that has lost its memory costs nobody the connection.
        lose_unless(shared, engine, uid, |gate| {
            gate.is_none_or(|gate| gate == shared.ours.id)
        });
    }
}

fn lose_unless(
    shared: &Shared,
    engine: &Engine<GateReactor>,
    uid: i64,
    is_ours: impl FnOnce(Option<&str>) -> bool,
) {
    let Some(holder) = shared.users.holder(uid) else {
        return;
    };
    match shared.locator.locate_gate(uid) {
        Ok(gate) if is_ours(gate.as_deref()) => {}
        Ok(gate) => {
            let to = gate.map_or(Whereabouts::Gone, |gate| Whereabouts::At(gate.into()));
            let task = Task::Lose { uid, holder, to };
            report(
                shared,
                engine,
                reactor_of(holder.cid),
                Work { task, reply: None },
            );
        }
        Err(error) => {
            warn_seldom!("it is unknown where the user {uid} is: {error}");
        }
    }
}
