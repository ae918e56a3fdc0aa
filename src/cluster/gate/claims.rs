//! Users that go to another connection: the side that has had them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::away::Stage;
use super::handler::{GateReactor, Pending, Session};
use super::kept::Asked;
use super::pushes::Missing;
use super::resume::{Claim, Heir, Resumable, TakenUser, code_of};
use super::work::{Reply, Task, Work};
use crate::cluster::Kind;
use crate::cluster::drpc::{Code, Taken, Value};
use crate::cluster::link::Identity;
use crate::cluster::packet::{EncodedPacket, ResumeRefusal};
use crate::cluster::session::reactor_of;
use crate::engine::handler::Reactor;

/// The time within which a user that was handed over has to be on its new connection. It is shorter than the usual time for an answer
/// to Take, so that the next claim can still have the user.
pub(super) const HANDING_OVER: Duration = Duration::from_secs(2);

/// The number of claims of a reactor that wait for nodes.
const MAX_ORDERING: usize = 4096;

/// The next step of a claim.
enum Next {
    /// The user of this connection is handed over.
    Take(i64),
    /// The connection is about to end, which has to be told before.
    AwaitEnd,
    /// Another connection has claimed the user of this one.
    AwaitOther(i64),
}

impl GateReactor {
    /// Begins to hand a user over.
    pub(super) fn take_user(
        &mut self,
        claim: Claim,
        reply: Option<Arc<Reply>>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let cid = match self.claim(&claim, reactor) {
            Ok(Next::Take(cid)) => cid,
            Ok(Next::AwaitEnd) => return self.park(claim, reply),
            Ok(Next::AwaitOther(cid)) => {
                let away = self.away.get_mut(&cid);
                // The last one is the one whose client is still there, most likely.
                if let Some((older, reply)) =
                    away.and_then(|away| away.next.replace((claim, reply)))
                {
                    self.hand_over(&older, reply, Err(ResumeRefusal::Expired), reactor);
                }
                return;
            }
            Err(refusal) => return self.hand_over(&claim, reply, Err(refusal), reactor),
        };
        // The packets of the old connection come before those of the new one. On the same lanes it does anyway.
        let is_same = matches!(claim.heir, Heir::Here(heir) if reactor_of(heir) == self.id);
        if !is_same && self.ordering.len() >= MAX_ORDERING {
            self.give_back(cid, reactor);
            return self.hand_over(&claim, reply, Err(ResumeRefusal::Unavailable), reactor);
        }
        let mut pending = Pending {
            missing: 0,
            cid,
            claim,
            reply,
        };
        self.last_order += 1;
        let order = self.last_order;
        if !is_same {
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
        self.is_pending = true;
        if pending.missing == 0 {
            return self.finish_take(pending, reactor);
        }
        self.ordering.insert(order, pending);
        // A node that hangs must not cost the user, whose new gate does not wait for ever.
        let patience = self.shared.options.lanes.call_timeout / 2;
        reactor.schedule(patience, move |gate, reactor| {
            if let Some(pending) = gate.ordering.remove(&order) {
                gate.finish_take(pending, reactor);
                reactor.request_turn_end();
            }
        });
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

    /// Takes a user back whose claim has come to nothing.
    pub(super) fn abandon(&mut self, uid: i64, heir: &Heir, reactor: &mut Reactor<'_, Self>) {
        self.ordering.retain(|_, Pending { claim, .. }| {
            let is_it = claim.uid == uid && claim.heir == *heir;
            !is_it
        });
        let Some(cid) = self.shared.users.find(uid) else {
            return;
        };
        if let Some(limbo) = self.limbo.get_mut(&cid) {
            limbo.claims.retain(|(claim, _)| claim.heir != *heir);
        }
        if let Some(away) = self.away.get_mut(&cid) {
            away.next.take_if(|(claim, _)| claim.heir == *heir);
            if away.stage.is_claimed_by(heir) {
                self.give_back(cid, reactor);
            }
        }
    }

    /// Waits again for a user that was claimed, or hands it to the next one who wants it.
    pub(super) fn give_back(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let Some(away) = self.away.get_mut(&cid) else {
            return;
        };
        away.stage = Stage::Waits;
        self.is_pending = true;
        if away.ends <= reactor.now() {
            return self.end_window(cid, reactor);
        }
        match away.next.take() {
            Some((claim, reply)) => {
                self.watch_away(cid, reactor);
                self.take_user(claim, reply, reactor);
            }
            None if self.shared.is_closing() => self.end_away(cid, reactor),
            None => self.watch_away(cid, reactor),
        }
    }

    /// Checks a claim. A connection that still seems alive is ended.
    fn claim(
        &mut self,
        claim: &Claim,
        reactor: &mut Reactor<'_, Self>,
    ) -> Result<Next, ResumeRefusal> {
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
                return Ok(Next::AwaitEnd);
            };
            let (resumable, peer) = lost?;
            self.await_return(cid, resumable, peer, reactor);
        }
        let away = self.away.get_mut(&cid).ok_or(ResumeRefusal::Expired)?;
        check(away.resumable.as_ref(), claim, now)?;
        match away.stage {
            Stage::Waits => {
                away.stage = Stage::Claimed(claim.heir.clone());
                Ok(Next::Take(cid))
            }
            Stage::Claimed(_) | Stage::Handed(..) => Ok(Next::AwaitOther(cid)),
            Stage::Settled(..) => Err(ResumeRefusal::Expired),
        }
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
        let is_lost = taken.is_err();
        self.hand_over(&claim, reply, taken, reactor);
        if is_lost
            && (self.away.get(&cid)).is_some_and(|away| away.stage.is_claimed_by(&claim.heir))
        {
            self.give_back(cid, reactor);
        }
        self.is_pending = true;
    }

    fn take_away(
        &mut self,
        cid: i64,
        claim: &Claim,
        reactor: &mut Reactor<'_, Self>,
    ) -> Result<TakenUser, ResumeRefusal> {
        let now = reactor.now();
        let away = self.away.get_mut(&cid).ok_or(ResumeRefusal::Expired)?;
        // It may have logged in elsewhere meanwhile.
        if !away.stage.is_claimed_by(&claim.heir) {
            return Err(ResumeRefusal::Expired);
        }
        check(away.resumable.as_ref(), claim, now)?;
        let resumable = away.resumable.as_ref().ok_or(ResumeRefusal::Expired)?;
        let pushes = resumable.pushes.after(claim.last);
        let pushes = pushes.map_err(|_| ResumeRefusal::Lost)?;
        away.stage = Stage::Handed(claim.heir.clone(), now + HANDING_OVER);
        self.watch_away(cid, reactor);
        if let Heir::There(gid, _) = &claim.heir {
            self.expect_gate(gid, reactor);
        }
        Ok(TakenUser {
            uid: claim.uid,
            channels: self.sessions.channels(cid),
            pushes,
        })
    }

    /// Dials the gate to which a user goes. If it is not known yet, what is passed on waits for it.
    fn expect_gate(&mut self, gid: &str, reactor: &mut Reactor<'_, Self>) {
        if !self.dial_gate(gid, reactor) {
            self.dialled.insert(gid.to_owned());
            self.lanes.expect(&Identity {
                kind: Kind::Gate,
                id: gid.to_owned(),
            });
        }
    }

    /// Tells the result of a claim.
    pub(super) fn hand_over(
        &mut self,
        claim: &Claim,
        reply: Option<Arc<Reply>>,
        taken: Result<TakenUser, ResumeRefusal>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let uid = claim.uid;
        if let Heir::Here(cid) = claim.heir {
            let task = Task::Taken { cid, uid, taken };
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
