//! The requests of other servers.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::client::Client;
use super::handler::GateReactor;
use super::resume::{Claim, Heir, code_of};
use super::token::Token;
use super::work::{Parcel, Reply, Task, Who, Work};
use super::working::{Push, send_bytes};
use crate::cluster::Kind;
use crate::cluster::drpc::{Answer, Code, Op, Request, Scope, Target, Targets, Value};
use crate::cluster::packet::{EncodedPacket, PacketFrame, ResumeRefusal};
use crate::cluster::session::reactor_of;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;

/// A request, as the answer to it is found.
struct Asked {
    link: ConnId,
    op: Op,
    seq: u64,
}

impl GateReactor {
    /// Serves a request: answers it at once, or makes tasks of it for the end of the turn.
    pub(super) fn serve(
        &mut self,
        conn: &mut Conn<'_, Self>,
        seq: u64,
        request: Request<'_>,
        from: Option<(u8, &str)>,
    ) -> Action {
        self.counters().requests.add(1);
        let asked = Asked {
            link: conn.id(),
            op: request.op(),
            seq,
        };
        let op = asked.op;
        match request {
            Request::Bind { cid, uid } if cid > 0 && uid > 0 => {
                self.assign_one(&asked, reactor_of(cid), Task::Bind { cid, uid });
            }
            Request::Unbind { uid } if uid > 0 => {
                match self.who(Target {
                    scope: Scope::User,
                    id: uid,
                }) {
                    Some(who) => self.assign_one(&asked, reactor_of(who.cid), Task::Unbind(who)),
                    None => self.answer_now(&asked, Code::NotFound, Value::None),
                }
            }
            Request::Bind { .. } | Request::Unbind { .. } => {
                self.answer_now(&asked, Code::Failed, Value::None);
            }
            Request::Stat { scope } => {
                let total = self.shared.total(scope == Scope::User);
                self.answer_now(&asked, Code::Done, Value::Total(total));
            }
            Request::IsOnline { target }
            | Request::GetIp { target }
            | Request::GetAddr { target } => {
                self.assign_target(&asked, target, |who| Task::Look(who, op));
            }
            Request::Disconnect { target, force } => {
                self.assign_target(&asked, target, |who| Task::Disconnect { who, force });
            }
            Request::Push {
                target,
                disconnect,
                packet,
            } if self.queue.is_empty()
                && self.push_at_once(conn, &asked, target, disconnect, packet) => {}
            Request::Push {
                target,
                disconnect,
                packet,
            } => match self.parcel(packet, disconnect) {
                Some(parcel) => {
                    self.assign_target(&asked, target, |who| Task::Push { who, parcel });
                }
                // due takes it and sends nothing.
                None if packet.is_empty() => {
                    self.assign_target(&asked, target, |who| Task::Look(who, op));
                }
                None => self.answer_now(&asked, Code::Failed, Value::None),
            },
            Request::Multicast {
                scope,
                targets,
                disconnect,
                packet,
            } => match self.parcel(packet, disconnect) {
                Some(parcel) => self.assign_list(&asked, scope, targets, |to| Task::Multicast {
                    to,
                    parcel: parcel.clone(),
                }),
                None => self.answer_now(&asked, Code::Failed, Value::Total(0)),
            },
            Request::Broadcast {
                scope,
                disconnect,
                packet,
            } => match self.parcel(packet, disconnect) {
                Some(parcel) => self.assign_all(&asked, || Task::Broadcast {
                    users_only: scope == Scope::User,
                    parcel: parcel.clone(),
                }),
                None => self.answer_now(&asked, Code::Failed, Value::Total(0)),
            },
            Request::Publish {
                channel,
                disconnect,
                packet,
            } => match self.parcel(packet, disconnect) {
                Some(parcel) => {
                    let channel: Arc<str> = channel.into();
                    self.assign_all(&asked, || Task::Publish {
                        channel: channel.clone(),
                        parcel: parcel.clone(),
                    });
                }
                None => self.answer_now(&asked, Code::Failed, Value::Total(0)),
            },
            Request::Subscribe {
                scope,
                targets,
                channel,
            } => {
                let channel: Arc<str> = channel.into();
                self.assign_list(&asked, scope, targets, |to| Task::Join {
                    to,
                    channel: channel.clone(),
                });
            }
            Request::Unsubscribe {
                scope,
                targets,
                channel,
            } => {
                let channel: Arc<str> = channel.into();
                self.assign_list(&asked, scope, targets, |to| Task::Part {
                    to,
                    channel: channel.clone(),
                });
            }
            Request::GetToken { target } => {
                self.assign_target(&asked, target, Task::Issue);
            }
            Request::Take { cid, last, token } => self.serve_take(&asked, from, (cid, last), token),
            Request::GiveBack { cid, uid } => {
                let found = gate_of(from).zip(self.shared.users.find(uid));
                let Some((gid, old)) = found else {
                    self.answer_now(&asked, Code::NotFound, Value::None);
                    return Action::Continue;
                };
                let heir = Heir::There(gid.into(), cid);
                self.assign_one(&asked, reactor_of(old), Task::GiveBack { uid, heir });
            }
            Request::PassOn {
                cid,
                uid,
                disconnect,
                packet,
            } => {
                let found = gate_of(from).zip(self.parcel(packet, disconnect));
                let Some((_, parcel)) = found.filter(|_| uid != 0) else {
                    self.answer_now(&asked, Code::NotFound, Value::None);
                    return Action::Continue;
                };
                let who = Who { cid, uid };
                self.assign_one(&asked, reactor_of(cid), Task::PassOn { who, parcel });
            }
            Request::GetState => {
                let state = self.shared.registered.state_code();
                self.answer_now(&asked, Code::Done, Value::State(state));
            }
            Request::SetState { state } => {
                let code = self
                    .shared
                    .registered
                    .set_state_code(state, &self.shared.pool);
                self.answer_now(&asked, code, Value::None);
            }
            // The link has refused what a gate does not serve, and has nothing to do for a Bye.
            _ => self.answer_now(&asked, Code::Failed, Value::None),
        }
        Action::Continue
    }

    /// Pushes a packet right from the input, which must not overtake a task of the queue. Returns false if it must go that way: the
    /// client is on another reactor, or the packet is faulty.
    fn push_at_once(
        &mut self,
        conn: &mut Conn<'_, Self>,
        asked: &Asked,
        target: Target,
        disconnect: bool,
        packet: &[u8],
    ) -> bool {
        // Numbered pushes are kept, and so they are parcels.
        if self.shared.resume.is_some() {
            return false;
        }
        let Some(who) = self
            .who(target)
            .filter(|who| reactor_of(who.cid) == self.id)
        else {
            return false;
        };
        let Some(route) = self.route_of(packet) else {
            return false;
        };
        let push = Push {
            bytes: packet,
            route,
            disconnect,
        };
        let send = |conn: &mut Conn<'_, Self>, _: &mut Client| send_bytes(conn, packet);
        let code = match self.push(who, push, send, &mut conn.reactor()) {
            true => Code::Done,
            false => Code::NotFound,
        };
        if asked.seq != 0 {
            self.answer_now(asked, code, Value::None);
        }
        true
    }

    /// Hands the claim of another gate to the reactor that has the user.
    fn serve_take(
        &mut self,
        asked: &Asked,
        from: Option<(u8, &str)>,
        (cid, last): (i64, u64),
        token: &str,
    ) {
        let found = self.claimed(from, token);
        let (gid, token, old) = match found {
            Ok(found) => found,
            Err(refusal) => {
                let code = Code::from_code(code_of(refusal));
                return self.answer_now(asked, code, Value::None);
            }
        };
        let claim = Claim {
            uid: token.uid,
            nonce: token.nonce,
            last,
            heir: Heir::There(gid, cid),
        };
        self.assign_one(asked, reactor_of(old), Task::Take(claim));
    }

    fn claimed(
        &self,
        from: Option<(u8, &str)>,
        token: &str,
    ) -> Result<(Arc<str>, Token, i64), ResumeRefusal> {
        let resume = self.shared.resume.as_ref().ok_or(ResumeRefusal::Off)?;
        let ours = &self.shared.ours.id;
        let token = resume.tokens.read(token, ours);
        let token = token.filter(|token| token.gid == *ours);
        let token = token.ok_or(ResumeRefusal::Invalid)?;
        let gid = gate_of(from).filter(|gid| gid != ours);
        let gid = gid.ok_or(ResumeRefusal::Invalid)?;
        let old = self.shared.users.find(token.uid);
        Ok((gid.into(), token, old.ok_or(ResumeRefusal::Expired)?))
    }

    /// Checks a packet, which comes from another server, and copies it.
    fn parcel(&self, packet: &[u8], disconnect: bool) -> Option<Arc<Parcel>> {
        let route = self.route_of(packet)?;
        let frame = self.shared.options.packet.decode_message(packet);
        let is_data = matches!(frame, Ok(PacketFrame::Packet { .. }));
        let route = is_data.then_some(route);
        let packet = Bytes::copy_from_slice(packet);
        let packet = EncodedPacket::from_wire(&self.shared.options.packet, packet).ok()?;
        Some(Parcel::new(packet, route, disconnect))
    }

    /// Returns the route of a packet from another server, or `None` if it is faulty.
    fn route_of(&self, packet: &[u8]) -> Option<i32> {
        match self.shared.options.packet.decode_message(packet).ok()? {
            PacketFrame::Packet { packet, .. } => Some(packet.route),
            PacketFrame::Empty => None,
            PacketFrame::Heartbeat(_) | PacketFrame::Control(_) => Some(0),
        }
    }

    /// Finds the connection of a target. One that was told by its number may be gone.
    fn who(&self, target: Target) -> Option<Who> {
        match target.scope {
            Scope::Conn => Some(Who {
                cid: target.id,
                uid: 0,
            }),
            Scope::User => {
                let (cid, uid) = (self.shared.users.find(target.id)?, target.id);
                Some(Who { cid, uid })
            }
        }
    }

    /// Gives a task to the reactor of a target.
    fn assign_target(&mut self, asked: &Asked, target: Target, task: impl FnOnce(Who) -> Task) {
        match self.who(target) {
            Some(who) => self.assign_one(asked, reactor_of(who.cid), task(who)),
            None => self.answer_absent(asked),
        }
    }

    fn assign_one(&mut self, asked: &Asked, reactor: usize, task: Task) {
        if reactor >= self.outgoing.len() {
            return self.answer_absent(asked);
        }
        let reply = Reply::new(asked.link, asked.op, asked.seq, 1);
        self.assign(reactor, Work { task, reply });
    }

    /// Gives each reactor its part of a list, of which each client counts once.
    fn assign_list(
        &mut self,
        asked: &Asked,
        scope: Scope,
        targets: Targets<'_>,
        task: impl Fn(Vec<Who>) -> Task,
    ) {
        let mut parts: Vec<Vec<Who>> = vec![Vec::new(); self.outgoing.len()];
        let mut seen = HashSet::with_capacity(targets.len());
        for id in targets.iter() {
            let Some(who) = self.who(Target { scope, id }) else {
                continue;
            };
            if let Some(part) = parts.get_mut(reactor_of(who.cid))
                && seen.insert(who.cid)
            {
                part.push(who);
            }
        }
        let count = parts.iter().filter(|part| !part.is_empty()).count();
        if count == 0 {
            return self.answer_now(asked, Code::Done, Value::Total(0));
        }
        let reply = Reply::new(asked.link, asked.op, asked.seq, count);
        for (reactor, to) in parts.into_iter().enumerate() {
            if !to.is_empty() {
                let (task, reply) = (task(to), reply.clone());
                self.assign(reactor, Work { task, reply });
            }
        }
    }

    /// Gives every reactor a task.
    fn assign_all(&mut self, asked: &Asked, task: impl Fn() -> Task) {
        let reactors = self.outgoing.len();
        let reply = Reply::new(asked.link, asked.op, asked.seq, reactors);
        for reactor in 0..reactors {
            let (task, reply) = (task(), reply.clone());
            self.assign(reactor, Work { task, reply });
        }
    }

    /// Puts a task in the queue of a reactor. If that is full, it fails.
    pub(super) fn assign(&mut self, reactor: usize, work: Work) {
        self.is_pending = true;
        if !self.shared.queued.enqueue(reactor, work.weight()) {
            self.counters().requests_refused.add(1);
            return self.conclude(work.reply.as_deref(), Code::Failed, Value::Total(0));
        }
        match reactor == self.id {
            true => self.queue.push_back(work),
            false => self.outgoing[reactor].push(work),
        }
    }

    /// Puts a task in the queue of a reactor that is bounded in another way.
    pub(super) fn assign_anyway(&mut self, to: usize, work: Work, reactor: &mut Reactor<'_, Self>) {
        if to >= self.outgoing.len() {
            return;
        }
        self.shared.queued.enqueue_anyway(to, work.weight());
        match to == self.id {
            true => self.queue.push_back(work),
            false => self.outgoing[to].push(work),
        }
        self.is_pending = true;
        reactor.request_turn_end();
    }

    /// Tells the result of a part of a request.
    pub(super) fn conclude(&mut self, reply: Option<&Reply>, code: Code, value: Value<'_>) {
        let Some(reply) = reply else {
            return;
        };
        if let Some(answer) = reply.part(code, value) {
            self.is_pending = true;
            self.answers[reply.link.reactor()].push((reply.link, answer));
        }
    }

    fn answer_absent(&mut self, asked: &Asked) {
        match asked.op {
            Op::IsOnline => self.answer_now(asked, Code::Done, Value::Online(false)),
            _ => self.answer_now(
                asked,
                Code::NotFound,
                Answer::new(asked.op.code(), Code::Done).value,
            ),
        }
    }

    fn answer_now(&mut self, asked: &Asked, code: Code, value: Value<'_>) {
        let reply = Reply::new(asked.link, asked.op, asked.seq, 1);
        self.conclude(reply.as_deref(), code, value);
    }
}

/// Returns the id of a peer that is a gate.
fn gate_of(from: Option<(u8, &str)>) -> Option<&str> {
    let gate = from.filter(|(kind, _)| *kind == Kind::Gate.code());
    gate.map(|(_, gid)| gid)
}
