//! Users that have lost their connection, until they come back or are given up, and those that go to another connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::binding::report;
use super::client::Client;
use super::handler::{GateReactor, Limbo, Pending, Session};
use super::kept::Asked;
use super::pushes::{Missing, Pushes};
use super::resume::{Away, Claim, Heir, Resumable, TakenUser, code_of};
use super::token::Token;
use super::work::{Parcel, Reply, Task, Who, Work};
use crate::cluster::drpc::{Code, Request, Taken, Target, Value};
use crate::cluster::packet::{EncodedPacket, ResumeRefusal};
use crate::cluster::session::{Holder, reactor_of};
use crate::engine::conn::close::{CloseReason, Closed, TimeoutKind};
use crate::engine::handler::Reactor;

/// The time for which a user who was taken over is waited for by its old gate, and what still comes for its old connection is passed on.
const PASSING_ON: Duration = Duration::from_secs(10);

/// The number of claims of a reactor that wait for nodes.
const MAX_ORDERING: usize = 4096;

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
        let was_lost = client.is_silent || is_loss(reason);
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

    fn await_return(
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
        let window = resume.options.window;
        let away = Away {
            resumable: Some(resumable),
            ends: reactor.now() + window,
            ip,
            address,
            heir: None,
            is_settled: false,
        };
        self.away.insert(cid, away);
        look_after(window, cid, reactor);
    }

    /// Ends what is kept of a user, if its time is over.
    fn on_window(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let Some(away) = self.away.get(&cid) else {
            return;
        };
        let left = away.ends.saturating_duration_since(reactor.now());
        if !left.is_zero() {
            return look_after(left, cid, reactor);
        }
        if away.is_settled {
            self.let_go(cid, reactor);
        } else if away.heir.is_none() {
            self.counters().windows_ended.add(1);
            self.end_away(cid, reactor);
        } else {
            // The locator knows if the one who has claimed the user has got it.
            self.ask_for(cid, reactor);
        }
        self.is_pending = true;
        reactor.request_turn_end();
    }

    fn ask_for(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let uid = self.sessions.uid(cid);
        let (shared, engine, id) = (self.shared.clone(), reactor.engine().clone(), self.id);
        let asked = self.shared.pool.submit_ordered(uid as u64, move || {
            let gate = shared.locator.locate_gate(uid);
            let is_elsewhere = matches!(gate, Ok(Some(gid)) if gid != shared.ours.id);
            let task = Task::Inherited { cid, is_elsewhere };
            report(&shared, &engine, id, Work { task, reply: None });
        });
        if asked.is_err() {
            self.end_away(cid, reactor);
        }
    }

    /// Notes if the one who has claimed a user has got it.
    pub(super) fn inherited(
        &mut self,
        cid: i64,
        is_elsewhere: bool,
        reactor: &mut Reactor<'_, Self>,
    ) {
        match self.away.get(&cid) {
            Some(away) if !away.is_settled => {}
            _ => return,
        }
        if is_elsewhere {
            return self.settle_away(cid, reactor);
        }
        self.counters().windows_ended.add(1);
        self.end_away(cid, reactor);
    }

    /// Gives a user up: nodes are told Disconnect.
    pub(super) fn end_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        if self.remove_away(cid) {
            self.end_session(cid, reactor);
        }
    }

    pub(super) fn end_all_away(&mut self, reactor: &mut Reactor<'_, Self>) {
        for cid in self.away.keys().copied().collect::<Vec<_>>() {
            match self.away.get(&cid).is_some_and(|away| away.is_settled) {
                true => self.let_go(cid, reactor),
                false => self.end_away(cid, reactor),
            }
        }
    }

    /// Forgets a user that is on another connection.
    fn let_go(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        if self.remove_away(cid) {
            let uid = self.sessions.remove(cid);
            if uid != 0 && self.shared.users.release(uid, cid) {
                self.forget(uid, None, reactor);
            }
        }
    }

    fn remove_away(&mut self, cid: i64) -> bool {
        let Some(away) = self.away.remove(&cid) else {
            return false;
        };
        match away.is_settled {
            true => self.settled -= 1,
            false => self.count_away(),
        }
        true
    }

    /// Counts a user less that is waited for.
    fn count_away(&self) {
        if let Some(resume) = &self.shared.resume {
            resume.users.fetch_sub(1, Relaxed);
        }
    }

    /// Takes the user from a connection that is lost, since it is on another one. Returns false if that is no such connection.
    pub(super) fn lose_away(
        &mut self,
        uid: i64,
        holder: Holder,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let cid = holder.cid;
        let Some(away) = self.away.get(&cid) else {
            return false;
        };
        match (&away.heir, away.is_settled) {
            (Some(_), false) => self.settle_away(cid, reactor),
            (_, true) => self.let_go(cid, reactor),
            (None, false) => {
                self.sessions.set_uid(cid, 0, 0);
                self.shared.users.release(uid, cid);
                self.counters().replaced.add(1);
                self.end_away(cid, reactor);
            }
        }
        true
    }

    /// Notes that a user has come back on another connection. The nodes forget the old one.
    fn settle_away(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let now = reactor.now();
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        away.is_settled = true;
        away.ends = now + PASSING_ON;
        self.settled += 1;
        self.count_away();
        look_after(PASSING_ON, cid, reactor);
        for (node, _) in self.nodes.iter() {
            if self.kept.knows(&node.id)
                && let Err(error) = self.lanes.send(&node.id, &Request::Leave { cid }, now)
            {
                log::debug!(target: "epicycle::cluster", "{} still knows the connection {cid}: {error}", node.id);
            }
        }
        self.is_pending = true;
    }

    /// Begins to hand a user over.
    pub(super) fn take_user(
        &mut self,
        claim: Claim,
        reply: Option<Arc<Reply>>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let cid = match self.claim(&claim, reactor) {
            Ok(Some(cid)) => cid,
            Ok(None) => return self.park(claim, reply),
            Err(refusal) => return self.hand_over(&claim, reply, Err(refusal), reactor),
        };
        // The packets of the old connection come before those of the new one. On the same lanes it does anyway.
        let is_same = matches!(claim.heir, Heir::Here(heir) if reactor_of(heir) == self.id);
        let mut pending = Pending {
            missing: 0,
            cid,
            claim,
            reply,
        };
        self.last_order += 1;
        let order = self.last_order;
        if !is_same && self.ordering.len() < MAX_ORDERING {
            for (node, _) in self.nodes.iter() {
                if self.kept.knows(&node.id)
                    && self.lanes.is_up(&node.id)
                    && self
                        .lanes
                        .ping(&node.id, Asked::Order(order), reactor.now())
                {
                    pending.missing += 1;
                }
            }
        }
        match pending.missing {
            0 => self.finish_take(pending, reactor),
            _ => drop(self.ordering.insert(order, pending)),
        }
        self.is_pending = true;
    }

    /// Notes that a node has taken all that was sent to it before, or is gone.
    pub(super) fn on_ordered(&mut self, order: u64, reactor: &mut Reactor<'_, Self>) {
        let Some(pending) = self.ordering.get_mut(&order) else {
            return;
        };
        pending.missing -= 1;
        if pending.missing == 0
            && let Some(pending) = self.ordering.remove(&order)
        {
            self.finish_take(pending, reactor);
        }
    }

    /// Checks a claim. A connection that still seems alive is ended. Returns the old connection, or `None` if it is about to end.
    fn claim(
        &mut self,
        claim: &Claim,
        reactor: &mut Reactor<'_, Self>,
    ) -> Result<Option<i64>, ResumeRefusal> {
        let (uid, now) = (claim.uid, reactor.now());
        let found = self.shared.users.find(uid);
        let cid = found.ok_or(ResumeRefusal::Expired)?;
        let id = self.sessions.find(cid, uid).ok_or(ResumeRefusal::Expired)?;
        if !self.away.contains_key(&cid) {
            let lost = reactor.with(id, |conn, session| {
                let Session::Client(client) = session else {
                    return Err(ResumeRefusal::Expired);
                };
                check(client.resumable.as_deref(), claim, now)?;
                let resumable = client.resumable.take().ok_or(ResumeRefusal::Expired)?;
                let (ip, address) = (
                    client.ip.or(conn.peer_addr().ip()),
                    client.address(conn.peer_addr()),
                );
                conn.abort();
                Ok((*resumable, (ip, address)))
            });
            let Some(lost) = lost else {
                return Ok(None);
            };
            let (resumable, peer) = lost?;
            self.await_return(cid, resumable, peer, reactor);
        }
        let away = self.away.get_mut(&cid).ok_or(ResumeRefusal::Expired)?;
        check(away.resumable.as_ref(), claim, now)?;
        away.heir = Some(claim.heir.clone());
        Ok(Some(cid))
    }

    /// Keeps a claim until the end of the old connection is told.
    fn park(&mut self, claim: Claim, reply: Option<Arc<Reply>>) {
        if let Some(cid) = self.shared.users.find(claim.uid) {
            self.limbo
                .entry(cid)
                .or_default()
                .claims
                .push((claim, reply));
        }
    }

    fn finish_take(&mut self, pending: Pending, reactor: &mut Reactor<'_, Self>) {
        let Pending {
            cid, claim, reply, ..
        } = pending;
        let taken = self.take_away(cid, &claim, reactor);
        self.hand_over(&claim, reply, taken, reactor);
    }

    fn take_away(
        &mut self,
        cid: i64,
        claim: &Claim,
        reactor: &mut Reactor<'_, Self>,
    ) -> Result<TakenUser, ResumeRefusal> {
        let now = reactor.now();
        let away = self.away.get_mut(&cid).ok_or(ResumeRefusal::Expired)?;
        // Another claim may have come meanwhile.
        if away.heir.as_ref() != Some(&claim.heir) {
            return Err(ResumeRefusal::Expired);
        }
        check(away.resumable.as_ref(), claim, now)?;
        let resumable = away.resumable.take().ok_or(ResumeRefusal::Expired)?;
        let pushes = resumable.pushes.after(claim.last);
        let pushes = pushes.map_err(|_| ResumeRefusal::Lost)?;
        away.ends = now + PASSING_ON;
        look_after(PASSING_ON, cid, reactor);
        let channels = self.sessions.channels(cid);
        for channel in &channels {
            self.sessions.part(channel, cid);
        }
        if let Heir::There(gid, _) = &claim.heir {
            self.dial_gate(gid, reactor);
        }
        Ok(TakenUser {
            uid: claim.uid,
            channels,
            pushes,
        })
    }

    /// Tells the result of a claim.
    fn hand_over(
        &mut self,
        claim: &Claim,
        reply: Option<Arc<Reply>>,
        taken: Result<TakenUser, ResumeRefusal>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        if let Heir::Here(cid) = claim.heir {
            let task = Task::Taken { cid, taken };
            return self.assign_anyway(reactor_of(cid), Work { task, reply: None }, reactor);
        }
        let encoded = taken.and_then(|taken| {
            let channels = taken.channels.iter().map(|channel| &**channel);
            let pushes = taken.pushes.iter().map(EncodedPacket::as_bytes);
            Taken::encode(taken.uid, channels, pushes).map_err(|_| ResumeRefusal::Lost)
        });
        match &encoded {
            Ok(bytes) => match Taken::read(bytes) {
                Ok(taken) => self.conclude(reply.as_deref(), Code::Done, Value::Taken(taken)),
                Err(_) => self.conclude(reply.as_deref(), Code::Failed, Value::None),
            },
            Err(refusal) => {
                let code = Code::from_code(code_of(*refusal));
                self.conclude(reply.as_deref(), code, Value::None);
            }
        }
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
        match (&mut away.resumable, away.heir.clone()) {
            (Some(_), _) if parcel.disconnect => self.end_away(cid, reactor),
            (Some(resumable), _) => {
                if parcel.is_data {
                    resumable.pushes.push(parcel.packet.clone());
                }
            }
            // A packet for many comes to its new connection anyway.
            (None, Some(heir)) if is_direct => self.pass_on(&heir, parcel, reactor),
            (None, _) => {}
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

    fn pass_on(&mut self, heir: &Heir, parcel: &Arc<Parcel>, reactor: &mut Reactor<'_, Self>) {
        self.counters().passed_on.add(1);
        let disconnect = parcel.disconnect;
        match heir {
            Heir::Here(cid) => {
                let (who, parcel) = (Who { cid: *cid, uid: 0 }, parcel.clone());
                let task = Task::Push { who, parcel };
                self.assign(reactor_of(*cid), Work { task, reply: None });
            }
            Heir::There(gid, cid) => {
                let target = Target::conn(*cid);
                let packet = parcel.packet.as_bytes();
                let push = Request::Push {
                    target,
                    disconnect,
                    packet,
                };
                if let Err(error) = self.lanes.send(gid, &push, reactor.now()) {
                    log::debug!(target: "epicycle::cluster", "a push to a user at {gid} is lost: {error}");
                    self.counters().pushes_dropped.add(1);
                }
            }
        }
        self.is_pending = true;
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
        match away.heir.clone() {
            None => self.end_away(cid, reactor),
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

/// Checks that a claim is right, and that nothing that it needs is lost.
fn check(resumable: Option<&Resumable>, claim: &Claim, now: Instant) -> Result<(), ResumeRefusal> {
    let resumable = resumable.ok_or(ResumeRefusal::Expired)?;
    if resumable.nonce != claim.nonce || resumable.expires <= now {
        return Err(ResumeRefusal::Expired);
    }
    match resumable.pushes.after(claim.last) {
        Ok(_) => Ok(()),
        Err(Missing::Lost) => Err(ResumeRefusal::Lost),
        Err(Missing::Never) => Err(ResumeRefusal::Invalid),
    }
}

fn look_after(delay: Duration, cid: i64, reactor: &mut Reactor<'_, GateReactor>) {
    reactor.schedule(delay, move |gate, reactor| gate.on_window(cid, reactor));
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
