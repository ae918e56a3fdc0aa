//! Clients that take their users back.

use std::sync::Arc;

use bytes::Bytes;

use super::binding::{on_bound_elsewhere, report};
use super::client::{Client, Resuming, Wait};
use super::clients::{pause, resume, send_packet};
use super::handler::{GateReactor, Session};
use super::kept::Asked;
use super::resume::{Claim, Heir, TakenUser};
use super::work::{Task, Whereabouts, Work};
use super::working::send;
use crate::cluster::Event;
use crate::cluster::drpc::{Request, Taken};
use crate::cluster::packet::{Control, EncodedPacket, ResumeRefusal};
use crate::cluster::seldom::warn_seldom;
use crate::cluster::session::reactor_of;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;

impl GateReactor {
    pub(super) fn on_resume(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        token: &str,
        last: u64,
    ) -> Action {
        match self.begin_resume(conn, client, token, last) {
            Ok(()) => {
                client.wait = Wait::Resume;
                pause(conn);
            }
            Err(refusal) => self.refuse_resume(conn, refusal),
        }
        Action::Continue
    }

    fn begin_resume(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        text: &str,
        last: u64,
    ) -> Result<(), ResumeRefusal> {
        let shared = self.shared.clone();
        let Some(options) = &shared.resume else {
            return Err(ResumeRefusal::Off);
        };
        // One attempt for each connection, so that nobody can try tokens. One that has had a user may wait for its nodes still.
        let is_first = !std::mem::replace(&mut client.has_tried, true);
        if !is_first || client.read > 0 || self.sessions.uid(client.cid) != 0 {
            return Err(ResumeRefusal::Invalid);
        }
        if self.said_goodbye {
            return Err(ResumeRefusal::Unavailable);
        }
        let ours = &shared.ours.id;
        let token = options.tokens.read(text, ours);
        let token = token.ok_or(ResumeRefusal::Invalid)?;
        let cid = client.cid;
        if token.gid == *ours {
            let old = shared.users.find(token.uid).ok_or(ResumeRefusal::Expired)?;
            let task = Task::Take(Claim {
                uid: token.uid,
                nonce: token.nonce,
                last,
                heir: Heir::Here(cid),
            });
            self.assign_anyway(
                reactor_of(old),
                Work { task, reply: None },
                &mut conn.reactor(),
            );
        } else {
            if !self.dial_gate(&token.gid, &mut conn.reactor()) {
                return Err(ResumeRefusal::Expired);
            }
            let take = Request::Take {
                cid,
                last,
                token: text,
            };
            let asked =
                (self.lanes).call(&token.gid, &take, Asked::Take(cid, token.uid), conn.now());
            asked.map_err(|_| ResumeRefusal::Unavailable)?;
            self.is_pending = true;
        }
        client.resuming = Some(Box::new(Resuming {
            from: (token.gid != *ours).then(|| token.gid.into()),
            uid: token.uid,
            last,
            taken: None,
            pending: Vec::new(),
            bytes: 0,
        }));
        Ok(())
    }

    /// Dials another gate, if it is registered.
    pub(super) fn dial_gate(&mut self, gid: &str, reactor: &mut Reactor<'_, Self>) -> bool {
        if !self.gates.iter().any(|(gate, _)| gate.id == gid) {
            return false;
        }
        if self.dialled.insert(gid.to_owned()) {
            self.reach_peers(reactor);
        }
        true
    }

    /// Reads what another gate has answered to a claim.
    pub(super) fn read_taken(&self, bytes: &[u8]) -> Result<TakenUser, ResumeRefusal> {
        let unusable = |error: &dyn std::fmt::Display| {
            log::warn!(target: "epicycle::cluster", "another gate has handed a user over that is none: {error}");
            ResumeRefusal::Unavailable
        };
        let taken = Taken::read(bytes).map_err(|error| unusable(&error))?;
        let options = &self.shared.options.packet;
        let pushes = taken
            .pushes()
            .map(|packet| EncodedPacket::from_wire(options, Bytes::copy_from_slice(packet)));
        let pushes: Result<Vec<_>, _> = pushes.collect();
        Ok(TakenUser {
            uid: taken.uid(),
            channels: taken.channels().map(Arc::from).collect(),
            pushes: pushes.map_err(|error| unusable(&error))?,
        })
    }

    /// Goes on when the gate that had a user (`None`: this one) has handed it over, or has refused to: binds the user to its new
    /// connection.
    pub(super) fn on_taken(
        &mut self,
        from: Option<&str>,
        (cid, uid): (i64, i64),
        taken: Result<TakenUser, ResumeRefusal>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let mut taken = match taken {
            Ok(taken) => taken,
            Err(refusal) => return self.fail_resume(cid, refusal, reactor),
        };
        // Those that the connection is in by itself stay, whatever comes of this.
        let own = self.sessions.channels(cid);
        taken.channels.retain(|channel| !own.contains(channel));
        let channels = taken.channels.clone();
        let id = self.sessions.find(cid, 0).filter(|_| taken.uid == uid);
        let kept = id.and_then(|id| {
            reactor.with(id, |_, session| match session {
                Session::Client(client) => client.resuming.as_mut().map(|resuming| {
                    resuming.taken = Some(taken);
                }),
                _ => None,
            })?
        });
        let Some(()) = kept else {
            // The client is gone again.
            self.fail_resume(cid, ResumeRefusal::Unavailable, reactor);
            return self.return_user(from, (cid, uid), reactor);
        };
        for channel in &channels {
            if let Err(error) = self.sessions.join(channel, cid) {
                warn_seldom!("{cid} is not in {channel:?} any more: {error}");
            }
        }
        self.binding.insert(cid, false);
        // Pushes come as soon as the locator names this gate, and are held until the client has what it has missed.
        // One begin is for the change here, the other one lasts until the locator has answered.
        self.shared.users.begin(uid);
        self.shared.users.begin(uid);
        let finished = self.shared.users.finish(uid, Some(cid));
        self.sessions.set_uid(cid, uid, finished.bind);
        if let Some(holder) = finished.replaced {
            let task = Task::Lose {
                uid,
                holder,
                to: Whereabouts::Here,
            };
            self.assign_anyway(reactor_of(holder.cid), Work { task, reply: None }, reactor);
        }
        if from.is_none() {
            // The locator has this gate already. If it has another one by now, that is the later login, and must stay.
            return self.resumed((cid, uid), from, true, reactor);
        }
        let (shared, engine) = (self.shared.clone(), reactor.engine().clone());
        let (reactor_id, from) = (self.id, from.map(Arc::<str>::from));
        let given = from.clone();
        let asked = self.shared.pool.submit_ordered(uid as u64, move || {
            let bound = shared.locations.bind_gate(uid, &shared.ours.id);
            if let Err(error) = &bound {
                warn_seldom!("the locator does not know that the user {uid} is back: {error}");
            }
            let confirmed = bound.is_ok();
            let task = Task::Resumed {
                cid,
                uid,
                from,
                confirmed,
            };
            report(&shared, &engine, reactor_id, Work { task, reply: None });
        });
        if asked.is_err() {
            self.resumed((cid, uid), given.as_deref(), false, reactor);
        }
    }

    /// Ends a resume that the locator has confirmed.
    pub(super) fn resumed(
        &mut self,
        (cid, uid): (i64, i64),
        from: Option<&str>,
        confirmed: bool,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let is_orphan = self.orphans.remove(&cid);
        let is_doubted = self.binding.remove(&cid) == Some(true);
        let is_free = self.shared.users.finish(uid, None).is_free;
        // A node may have unbound it meanwhile, or bound it to another connection.
        let has_it = self.shared.users.find(uid) == Some(cid);
        if !confirmed || !has_it {
            self.sessions.set_uid(cid, 0, 0);
            if is_free || self.shared.users.release(uid, cid) {
                self.forget(uid, None, reactor);
            }
            let refusal = match confirmed {
                true => ResumeRefusal::Expired,
                false => ResumeRefusal::Unavailable,
            };
            match is_orphan {
                true => self.end_session(cid, reactor),
                false => self.fail_resume(cid, refusal, reactor),
            }
            if !confirmed {
                self.return_user(from, (cid, uid), reactor);
            }
            return;
        }
        self.counters().resumed.add(1);
        self.trigger(Event::Reconnect, cid, uid, reactor.now());
        if is_orphan {
            return self.end_session(cid, reactor);
        }
        let Some(id) = self.sessions.find(cid, uid) else {
            return;
        };
        let options = self.shared.options.packet;
        let repeated = reactor.with(id, |conn, session| {
            let Session::Client(client) = session else {
                return 0;
            };
            if let Some(timer) = client.authorizing.take() {
                conn.cancel_timer(timer);
            }
            let Some(resuming) = client.resuming.take() else {
                return 0;
            };
            let missed = resuming.taken.map_or_else(Vec::new, |taken| taken.pushes);
            client.sent = resuming.last;
            let count = missed.len() as u32;
            let mut result = match options.encode_control(&Control::Resumed { count }) {
                Ok(resumed) => send_packet(conn, &resumed),
                // It is short.
                Err(_) => Ok(()),
            };
            for packet in &missed {
                result = result.and_then(|()| send_packet(conn, packet));
                client.sent += 1;
            }
            for (parcel, _) in &resuming.pending {
                result = result.and_then(|()| send(conn, client, parcel, false));
                if parcel.disconnect && result.is_ok() {
                    self.kick(conn, client);
                }
            }
            // A gap that nobody tells about must not be.
            if let Err(WriteError::Full { .. }) = result {
                conn.abort();
            }
            client.wait = Wait::Nothing;
            resume(conn, client);
            u64::from(count)
        });
        self.counters().repeated.add(repeated.unwrap_or_default());
        if is_doubted {
            let (shared, engine) = (self.shared.clone(), reactor.engine().clone());
            let asked = self.shared.pool.submit_ordered(uid as u64, move || {
                on_bound_elsewhere(&shared, &engine, uid);
            });
            if let Err(error) = asked {
                warn_seldom!("it is unknown where the user {uid} is: {error}");
            }
        }
        self.is_pending = true;
    }

    /// Returns true if a connection is about to take a user back.
    pub(super) fn is_resuming(&self, id: ConnId, reactor: &mut Reactor<'_, Self>) -> bool {
        let is_resuming = |session: &mut Session| match session {
            Session::Client(client) => client.resuming.is_some(),
            _ => false,
        };
        self.shared.resume.is_some()
            && reactor.with(id, |_, session| is_resuming(session)) == Some(true)
    }

    /// Gives a user back to the gate that has handed it over (`None`: this one), or that may have done so.
    pub(super) fn return_user(
        &mut self,
        to: Option<&str>,
        (cid, uid): (i64, i64),
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(gid) = to else {
            if let Some(old) = self.shared.users.find(uid) {
                let heir = Heir::Here(cid);
                let task = Task::GiveBack { uid, heir };
                self.assign_anyway(reactor_of(old), Work { task, reply: None }, reactor);
            }
            return;
        };
        if let Err(error) = (self.lanes).send(gid, &Request::GiveBack { cid, uid }, reactor.now()) {
            // It asks the locator in time.
            log::debug!(target: "epicycle::cluster", "the user {uid} is not given back to {gid}: {error}");
        }
        self.is_pending = true;
    }

    /// Tells a client that it stays a new one.
    fn fail_resume(&mut self, cid: i64, refusal: ResumeRefusal, reactor: &mut Reactor<'_, Self>) {
        let Some(id) = self.sessions.find(cid, 0) else {
            return;
        };
        reactor.with(id, |conn, session| {
            if let Session::Client(client) = session
                && let Some(resuming) = client.resuming.take()
            {
                let taken = resuming.taken.iter();
                for channel in taken.flat_map(|taken| &taken.channels) {
                    self.sessions.part(channel, cid);
                }
                self.refuse_resume(conn, refusal);
                // Pushes that were passed on are for the user, and the old gate has them still.
                let own = resuming.pending.iter();
                for (parcel, _) in own.filter(|(_, is_passed)| !is_passed) {
                    if let Err(error) = send(conn, client, parcel, false) {
                        log::debug!(target: "epicycle::cluster", "a push to {cid} is lost: {error}");
                    }
                }
                client.wait = Wait::Nothing;
                resume(conn, client);
            }
        });
        self.is_pending = true;
    }

    fn refuse_resume(&self, conn: &mut Conn<'_, Self>, reason: ResumeRefusal) {
        self.counters().resumes_refused[reason.into()].add(1);
        let refused = Control::Refused { reason };
        if let Ok(refused) = self.shared.options.packet.encode_control(&refused)
            && let Err(error) = send_packet(conn, &refused)
        {
            log::debug!(target: "epicycle::cluster", "no answer to a client that would resume: {error}");
        }
    }
}
