//! Users that have lost their connection, until they are on another one or are given up.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::away::{Away, Stage};
use super::binding::report;
use super::claims::HANDING_OVER;
use super::client::Client;
use super::handler::{GateReactor, Limbo, Session};
use super::pushes::Pushes;
use super::resume::{Heir, Resumable};
use super::token::Token;
use super::work::{Parcel, Task, Whereabouts, Who, Work};
use crate::cluster::drpc::{Code, Request, Target};
use crate::cluster::packet::{EncodedPacket, ResumeRefusal};
use crate::cluster::session::reactor_of;
use crate::engine::conn::close::{CloseReason, Closed, TimeoutKind};
use crate::engine::handler::Reactor;

/// The time for which what still comes for the old connection of a user is passed on.
const PASSING_ON: Duration = Duration::from_secs(10);

impl GateReactor {
    /// Returns a token for a client that has a user.
    pub(super) fn issue(
        &mut self,
        who: Who,
        reactor: &mut Reactor<'_, Self>,
    ) -> Result<String, Code> {
        let resume = self.shared.resume.as_ref().ok_or(Code::Failed)?;
        let id = self.sessions.find(who.cid, who.uid).ok_or(Code::NotFound)?;
        let uid = self.sessions.uid(who.cid);
        if uid == 0 {
            return Err(Code::Failed);
        }
        let now = reactor.now();
        let expires = now + resume.options.lifetime;
        let nonce = reactor.with(id, |_, session| match session {
            Session::Client(client) if client.resuming.is_none() => {
                let sent = client.sent;
                let resumable = client.resumable.get_or_insert_with(|| {
                    let pushes = Pushes::new(sent, &resume.options, &resume.room);
                    Box::new(Resumable {
                        pushes,
                        nonce: self.shared.options.chance.bytes(),
                        expires,
                    })
                });
                resumable.expires = expires;
                Some(resumable.nonce)
            }
            _ => None,
        });
        let nonce = nonce.flatten().ok_or(Code::NotFound)?;
        let since = now.saturating_duration_since(*self.started.get_or_insert(now));
        let issued = Duration::from_micros(self.shared.began) + since;
        let token = Token {
            gid: self.shared.ours.id.clone(),
            uid,
            expires: (issued + resume.options.lifetime).as_secs(),
            nonce,
        };
        self.counters().tokens.add(1);
        Ok(resume.tokens.issue(&token))
    }

    /// Keeps the user of a connection that has ended, if it may come back. Returns false if it may not.
    pub(super) fn keep_away(
        &mut self,
        client: &mut Client,
        late: &mut Limbo,
        info: &Closed,
        reason: &CloseReason,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let Some(resume) = &self.shared.resume else {
            return false;
        };
        let was_lost = client.is_lost || is_loss(reason);
        if !was_lost || client.is_ended || self.sessions.uid(client.cid) == 0 {
            return false;
        }
        let Some(mut resumable) = client.resumable.take() else {
            return false;
        };
        for packet in late.pushes.drain(..) {
            resumable.pushes.push(packet);
        }
        let has_room = resume.users.load(Relaxed) < resume.options.max_users;
        if !has_room || late.bytes > resume.options.buffer {
            self.counters().resume_overflow.add(1);
            return false;
        }
        let address = client.address(&info.peer);
        let ip = client.ip.or(info.peer.ip());
        self.await_return(client.cid, *resumable, (ip, address), reactor);
        true
    }

    pub(super) fn await_return(
        &mut self,
        cid: i64,
        resumable: Resumable,
        (ip, address): (Option<IpAddr>, String),
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(resume) = &self.shared.resume else {
            return;
        };
        resume.users.fetch_add(1, Relaxed);
        let away = Away {
            resumable: Some(resumable),
            ends: reactor.now() + resume.options.window,
            ip,
            address,
            stage: Stage::Waits,
            next: None,
            timer: None,
        };
        self.away.insert(cid, away);
        self.watch_away(cid, reactor);
    }

    /// Sets the timer for what a user that is away waits for.
    pub(super) fn watch_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        if let Some(timer) = away.timer.take() {
            reactor.unschedule(timer);
        }
        let due = match away.stage {
            Stage::Waits => away.ends,
            // The claim ends by itself.
            Stage::Claimed(_) => return,
            Stage::Handed(_, until) | Stage::Settled(_, until) => until,
        };
        let left = due.saturating_duration_since(reactor.now());
        away.timer = Some(reactor.schedule_keyed(left, move |gate, reactor| {
            gate.on_time(cid, reactor);
            reactor.request_turn_end();
        }));
    }

    fn on_time(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        away.timer = None;
        self.is_pending = true;
        match away.stage {
            Stage::Waits => self.end_window(cid, reactor),
            Stage::Claimed(_) => {}
            // The locator knows if the one to whom the user was handed over has got it.
            Stage::Handed(ref heir, _) => {
                let heir = heir.clone();
                self.ask_for(cid, heir, reactor);
            }
            Stage::Settled(..) => self.let_go(cid, reactor),
        }
    }

    /// Gives a user up that has not come back in time.
    pub(super) fn end_window(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        self.counters().windows_ended.add(1);
        self.end_away(cid, reactor);
    }

    fn ask_for(&mut self, cid: i64, heir: Heir, reactor: &mut Reactor<'_, Self>) {
        let uid = self.sessions.uid(cid);
        let (shared, engine, id) = (self.shared.clone(), reactor.engine().clone(), self.id);
        let asked = self.shared.pool.submit_ordered(uid as u64, move || {
            let gate = shared.locator.locate_gate(uid);
            let gate = gate.ok().flatten().filter(|gid| *gid != shared.ours.id);
            let task = Task::Inherited {
                cid,
                heir,
                gate: gate.map(Arc::from),
            };
            report(&shared, &engine, id, Work { task, reply: None });
        });
        if asked.is_err() {
            self.give_back(cid, reactor);
        }
    }

    /// Notes the gate that has a user who was handed over, if it is another one.
    pub(super) fn inherited(
        &mut self,
        cid: i64,
        heir: &Heir,
        gate: Option<&str>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        let Stage::Handed(by, until) = &mut away.stage else {
            return;
        };
        // Another one may have it since the locator was asked.
        if by != heir {
            return;
        }
        match (heir, gate) {
            (Heir::There(gid, _), Some(gate)) if **gid == *gate => self.settle_away(cid, reactor),
            (_, Some(_)) => self.replace_away(cid, reactor),
            // Its gate waits for the locator still, and says if that comes to nothing. A later claim is that of a client which has
            // given this one up.
            (Heir::There(gid, _), None)
                if away.next.is_none() && away.ends > reactor.now() && self.lanes.is_up(gid) =>
            {
                *until = reactor.now() + HANDING_OVER;
                self.watch_away(cid, reactor);
            }
            (_, None) => self.give_back(cid, reactor),
        }
    }

    /// Gives a user up: nodes are told Disconnect.
    pub(super) fn end_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        if self.remove_away(cid, reactor) {
            self.end_session(cid, reactor);
        }
    }

    /// Gives up the users that are away, since the gate is about to end; those that are on their way to another connection only if it
    /// is `late`.
    pub(super) fn end_away_users(&mut self, late: bool, reactor: &mut Reactor<'_, Self>) {
        for cid in self.away.keys().copied().collect::<Vec<_>>() {
            match self.away.get(&cid).map(|away| &away.stage) {
                Some(Stage::Settled(..)) => self.let_go(cid, reactor),
                Some(Stage::Claimed(_) | Stage::Handed(..)) if !late => {}
                _ => self.end_away(cid, reactor),
            }
        }
    }

    /// Forgets a user that is on another connection.
    fn let_go(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        if self.remove_away(cid, reactor) {
            let uid = self.sessions.remove(cid);
            if uid != 0 && self.shared.users.release(uid, cid) {
                self.forget(uid, None, reactor);
            }
        }
    }

    fn remove_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) -> bool {
        let Some(away) = self.away.remove(&cid) else {
            return false;
        };
        if let Some(timer) = away.timer {
            reactor.unschedule(timer);
        }
        match away.stage.is_settled() {
            true => self.settled -= 1,
            false => self.count_away(),
        }
        if let Some((claim, reply)) = away.next {
            self.hand_over(&claim, reply, Err(ResumeRefusal::Expired), reactor);
        }
        true
    }

    /// Counts a user less that is waited for.
    fn count_away(&self) {
        if let Some(resume) = &self.shared.resume {
            resume.users.fetch_sub(1, Relaxed);
        }
    }

    /// Takes the user from a connection that is lost, since it has gone to another one. Returns false if that is no such connection.
    pub(super) fn lose_away(
        &mut self,
        uid: i64,
        cid: i64,
        to: &Whereabouts,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let Some(away) = self.away.get(&cid) else {
            return false;
        };
        let has_it = |heir: &Heir| match (heir, to) {
            (Heir::Here(heir), Whereabouts::Here) => self.shared.users.find(uid) == Some(*heir),
            (Heir::There(gid, _), Whereabouts::At(gate)) => gid == gate,
            (Heir::There(..), Whereabouts::Gone) => true,
            _ => false,
        };
        match &away.stage {
            Stage::Handed(heir, _) if has_it(heir) => self.settle_away(cid, reactor),
            Stage::Settled(..) => self.let_go(cid, reactor),
            // It has logged in anew.
            Stage::Waits | Stage::Claimed(_) | Stage::Handed(..) => {
                self.replace_away(cid, reactor);
            }
        }
        true
    }

    /// Ends a connection that is lost, and whose user has logged in on another one.
    fn replace_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let uid = self.sessions.uid(cid);
        self.sessions.set_uid(cid, 0, 0);
        self.shared.users.release(uid, cid);
        self.counters().replaced.add(1);
        self.end_away(cid, reactor);
    }

    /// Notes that a user has come back on another connection. The nodes forget the old one.
    fn settle_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let now = reactor.now();
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        let Stage::Handed(heir, _) = &away.stage else {
            return;
        };
        away.stage = Stage::Settled(heir.clone(), now + PASSING_ON);
        away.resumable = None;
        let next = away.next.take();
        self.settled += 1;
        self.count_away();
        self.watch_away(cid, reactor);
        for channel in self.sessions.channels(cid) {
            self.sessions.part(&channel, cid);
        }
        for (node, _) in self.nodes.iter() {
            if self.kept.knows(&node.id)
                && let Err(error) = self.lanes.send(&node.id, &Request::Leave { cid }, now)
            {
                log::debug!(target: "epicycle::cluster", "{} still knows the connection {cid}: {error}", node.id);
            }
        }
        if let Some((claim, reply)) = next {
            self.hand_over(&claim, reply, Err(ResumeRefusal::Expired), reactor);
        }
        self.is_pending = true;
    }

    /// Keeps a push to a client that is away, or passes it on. Returns false if there is no such client.
    pub(super) fn push_away(
        &mut self,
        cid: i64,
        parcel: &Arc<Parcel>,
        is_direct: bool,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let Some(away) = self.away.get_mut(&cid) else {
            self.await_end(cid, parcel);
            return false;
        };
        // A packet for many comes to its new connection anyway.
        let heir = match &away.stage {
            Stage::Handed(heir, _) | Stage::Settled(heir, _) if is_direct => Some(heir.clone()),
            _ => None,
        };
        let is_settled = away.stage.is_settled();
        if let Some(resumable) = &mut away.resumable
            && parcel.is_data
        {
            resumable.pushes.push(parcel.packet.clone());
        }
        if let Some(heir) = heir {
            self.pass_on(&heir, self.sessions.uid(cid), parcel, reactor);
        }
        if parcel.disconnect && !is_settled {
            self.end_away(cid, reactor);
        }
        true
    }

    /// Keeps a push for a connection that is about to end, in case that its user comes back.
    fn await_end(&mut self, cid: i64, parcel: &Arc<Parcel>) {
        let Some(resume) = self.shared.resume.as_ref().filter(|_| parcel.is_data) else {
            return;
        };
        let limbo = self.limbo.entry(cid).or_default();
        limbo.bytes += size_of::<EncodedPacket>() + parcel.packet.as_bytes().len();
        match limbo.bytes <= resume.options.buffer {
            true => limbo.pushes.push(parcel.packet.clone()),
            // Too much is lost by now: its user does not come back.
            false => limbo.pushes.clear(),
        }
    }

    fn pass_on(
        &mut self,
        heir: &Heir,
        uid: i64,
        parcel: &Arc<Parcel>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        self.counters().passed_on.add(1);
        match heir {
            Heir::Here(cid) => {
                let who = Who { cid: *cid, uid };
                let parcel = parcel.clone();
                let task = Task::PassOn { who, parcel };
                self.assign(reactor_of(*cid), Work { task, reply: None });
            }
            Heir::There(gid, cid) => {
                let pass = Request::PassOn {
                    cid: *cid,
                    uid,
                    disconnect: parcel.disconnect,
                    packet: parcel.packet.as_bytes(),
                };
                if let Err(error) = self.lanes.send(gid, &pass, reactor.now()) {
                    log::debug!(target: "epicycle::cluster", "a push to a user at {gid} is lost: {error}");
                    self.counters().pushes_dropped.add(1);
                }
            }
        }
        self.is_pending = true;
    }

    /// Takes a packet that has come for the connection that a user had before.
    pub(super) fn take_passed(
        &mut self,
        who: Who,
        parcel: &Arc<Parcel>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let limit = self.shared.options.outbound_limit / 2;
        let resuming = (self.sessions.find(who.cid, 0)).and_then(|id| {
            reactor.with(id, |_, session| match session {
                Session::Client(client) => (client.resuming.as_mut())
                    .filter(|resuming| resuming.uid == who.uid)
                    .map(|resuming| resuming.hold_passed(parcel, limit).is_ok()),
                _ => None,
            })?
        });
        let is_taken = match resuming {
            Some(is_held) => is_held,
            // It is on this connection, or nobody's business here.
            None => self.push_parcel(who, parcel, (false, true), reactor),
        };
        if !is_taken {
            self.counters().pushes_dropped.add(1);
        }
    }

    /// Ends a connection that is away. Returns false if there is no such one.
    pub(super) fn disconnect_away(
        &mut self,
        cid: i64,
        force: bool,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let Some(away) = self.away.get(&cid) else {
            return false;
        };
        let heir = match &away.stage {
            Stage::Handed(heir, _) | Stage::Settled(heir, _) => Some(heir.clone()),
            Stage::Waits | Stage::Claimed(_) => None,
        };
        if !away.stage.is_settled() {
            self.end_away(cid, reactor);
        }
        match heir {
            None => {}
            Some(Heir::Here(cid)) => {
                let who = Who { cid, uid: 0 };
                let task = Task::Disconnect { who, force };
                self.assign(reactor_of(cid), Work { task, reply: None });
            }
            Some(Heir::There(gid, cid)) => {
                let target = Target::conn(cid);
                let kick = Request::Disconnect { target, force };
                if let Err(error) = self.lanes.send(&gid, &kick, reactor.now()) {
                    log::debug!(target: "epicycle::cluster", "a user at {gid} stays: {error}");
                }
            }
        }
        self.is_pending = true;
        true
    }
}

/// Returns true if nobody meant the connection to end, as far as this side can tell.
fn is_loss(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::Peer | CloseReason::Reset(_) | CloseReason::Io(_) | CloseReason::Truncated => {
            true
        }
        CloseReason::Timeout(kind) => *kind != TimeoutKind::Drain,
        _ => false,
    }
}
