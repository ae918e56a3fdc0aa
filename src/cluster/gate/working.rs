//! The tasks of a reactor, at the end of a turn.

use std::net::IpAddr;
use std::sync::Arc;

use super::client::Client;
use super::clients::close;
use super::codec::Protocol;
use super::handler::{GateReactor, Session};
use super::options::SlowClient;
use super::work::{Parcel, Reply, Task, Who, Work};
use crate::cluster::drpc::{Code, Op, Value};
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp;
use crate::cluster::packet::GoodbyeReason;
use crate::cluster::seldom::warn_seldom;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Conn, Reactor};

/// The number of clients to whom is pushed in a turn. The rest wait for the next one, so that no other client does.
const RECEIVERS_A_TURN: usize = 500;

impl GateReactor {
    /// Does the tasks that wait, as many as a turn has room for.
    pub(super) fn work(&mut self, reactor: &mut Reactor<'_, Self>) {
        let mut left = RECEIVERS_A_TURN;
        while left > 0 {
            let Some(work) = self.queue.pop_front() else {
                return;
            };
            let (weight, reply) = (work.weight(), work.reply);
            if let Some(task) = self.perform(work.task, reply.clone(), &mut left, reactor) {
                let work = Work { task, reply };
                // It stays as heavy as it is now, whatever it was before.
                self.shared.queued.enqueue_anyway(self.id, work.weight());
                self.queue.push_front(work);
            }
            self.shared.queued.dequeue(self.id, weight);
        }
    }

    /// Does a task. Returns the rest of it, if the turn has no room for all.
    fn perform(
        &mut self,
        task: Task,
        reply: Option<Arc<Reply>>,
        left: &mut usize,
        reactor: &mut Reactor<'_, Self>,
    ) -> Option<Task> {
        let (code, value) = match task {
            Task::Bind { cid, uid } => {
                self.bind(cid, uid, reply, reactor);
                return None;
            }
            Task::Bound {
                cid,
                uid,
                confirmed,
                asked,
            } => {
                let code = self.bound(cid, uid, confirmed, reactor);
                let took = reactor.now().saturating_duration_since(asked);
                self.counters().bind.record_time(took);
                (code, Value::None)
            }
            Task::Unbind(who) => {
                self.unbind(who, reply, reactor);
                return None;
            }
            Task::Issue(who) => {
                match self.issue(who, reactor) {
                    Ok(token) => self.conclude(reply.as_deref(), Code::Done, Value::Token(&token)),
                    Err(code) => self.conclude(reply.as_deref(), code, Value::Token("")),
                }
                return None;
            }
            Task::Take(claim) => {
                self.take_user(claim, reply, reactor);
                return None;
            }
            Task::Taken { cid, uid, taken } => {
                self.on_taken(None, (cid, uid), taken, reactor);
                return None;
            }
            Task::GiveBack { uid, heir } => {
                self.abandon(uid, &heir, reactor);
                return None;
            }
            Task::Resumed {
                cid,
                uid,
                from,
                confirmed,
            } => {
                self.resumed((cid, uid), from.as_deref(), confirmed, reactor);
                return None;
            }
            Task::Inherited { cid, heir, gate } => {
                self.inherited(cid, &heir, gate.as_deref(), reactor);
                return None;
            }
            Task::Answer(code) => (code, Value::None),
            Task::Lose { uid, holder, to } => {
                self.lose(uid, holder, &to, reactor);
                return None;
            }
            Task::Look(who, op) => {
                self.look(who, op, reply.as_deref(), reactor);
                return None;
            }
            Task::Disconnect { who, force } => (self.disconnect(who, force, reactor), Value::None),
            Task::Push { who, parcel } => {
                *left -= 1;
                let code = match self.push_parcel(who, &parcel, (false, true), reactor) {
                    true => Code::Done,
                    false => Code::NotFound,
                };
                (code, Value::None)
            }
            Task::PassOn { who, parcel } => {
                *left -= 1;
                self.take_passed(who, &parcel, reactor);
                return None;
            }
            Task::Multicast { to, parcel } => return Some(fan_out(to, parcel)),
            Task::Broadcast { users_only, parcel } => {
                let to = self.sessions.all(users_only);
                return Some(fan_out(anybody(to), parcel));
            }
            Task::Publish { channel, parcel } => {
                let to = self.sessions.members(&channel);
                return Some(fan_out(anybody(to), parcel));
            }
            Task::FanOut {
                to,
                mut next,
                mut sent,
                parcel,
            } => {
                // Later pushes may be for the same clients, and leave together with it then.
                let is_alone = self.queue.is_empty();
                while next < to.len() && *left > 0 {
                    *left -= 1;
                    let pushed = self.push_parcel(to[next], &parcel, (is_alone, false), reactor);
                    sent += u64::from(pushed);
                    next += 1;
                }
                if next < to.len() {
                    return Some(Task::FanOut {
                        to,
                        next,
                        sent,
                        parcel,
                    });
                }
                (Code::Done, Value::Total(sent))
            }
            Task::Join { to, channel } => {
                let mut code = Code::Done;
                for who in to {
                    if self.sessions.find(who.cid, who.uid).is_some()
                        && let Err(error) = self.sessions.join(&channel, who.cid)
                    {
                        warn_seldom!("{} is not in {channel:?}: {error}", who.cid);
                        code = Code::Failed;
                    }
                }
                (code, Value::None)
            }
            Task::Part { to, channel } => {
                for who in to {
                    if self.sessions.find(who.cid, who.uid).is_some() {
                        self.sessions.part(&channel, who.cid);
                    }
                }
                (Code::Done, Value::None)
            }
        };
        self.conclude(reply.as_deref(), code, value);
        None
    }

    /// Answers what is asked about a client.
    fn look(&mut self, who: Who, op: Op, reply: Option<&Reply>, reactor: &mut Reactor<'_, Self>) {
        let id = self.sessions.find(who.cid, who.uid);
        let peer = id.and_then(|id| {
            reactor.with(id, |conn, session| match session {
                Session::Client(client) => {
                    let ip = client.ip.or(conn.peer_addr().ip());
                    Some((ip, client.address(conn.peer_addr())))
                }
                _ => None,
            })?
        });
        let peer = peer.or_else(|| {
            let away = self.away.get(&who.cid).filter(|_| id.is_some())?;
            Some((away.ip, away.address.clone()))
        });
        let found = match peer {
            Some(_) => Code::Done,
            None => Code::NotFound,
        };
        let (code, value) = match op {
            Op::IsOnline => (Code::Done, Value::Online(peer.is_some())),
            Op::GetIp => {
                let ip = peer.and_then(|(ip, _)| ip).map(|ip| ip.to_canonical());
                let ip = match ip {
                    Some(IpAddr::V4(ip)) => Some(ip),
                    _ => None,
                };
                (found, Value::Ip(ip))
            }
            Op::GetAddr => {
                let addr = peer.as_ref().map(|(_, addr)| &**addr);
                (found, Value::Addr(addr.unwrap_or_default()))
            }
            _ => (found, Value::None),
        };
        self.conclude(reply, code, value);
    }

    fn disconnect(&mut self, who: Who, force: bool, reactor: &mut Reactor<'_, Self>) -> Code {
        let id = self.sessions.find(who.cid, who.uid);
        let closed = id.and_then(|id| {
            reactor.with(id, |conn, session| match session {
                Session::Client(client) if !force => self.kick(conn, client),
                Session::Client(client) => {
                    client.is_ended = true;
                    conn.abort();
                }
                _ => {}
            })
        });
        if id.is_some() && closed.is_none() && self.disconnect_away(who.cid, force, reactor) {
            return Code::Done;
        }
        closed.map_or(Code::NotFound, |()| Code::Done)
    }

    /// Closes a client for good, since a node or an operator wants it.
    pub(super) fn kick(&self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        client.is_ended = true;
        self.send_goodbye(conn, client, GoodbyeReason::Kicked);
        close(conn);
    }

    /// Pushes to a client, now or when it is back. `at_once`: without waiting for what else the turn has for it. `is_direct`: the push
    /// is for nobody else.
    pub(super) fn push_parcel(
        &mut self,
        who: Who,
        parcel: &Arc<Parcel>,
        (at_once, is_direct): (bool, bool),
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let push = Push {
            bytes: parcel.packet.as_bytes(),
            route: parcel.route,
            disconnect: parcel.disconnect,
        };
        let limit = self.shared.options.outbound_limit / 2;
        let send = |conn: &mut Conn<'_, Self>, client: &mut Client| match &mut client.resuming {
            Some(resuming) => resuming.hold(parcel, limit),
            None => send(conn, client, parcel, at_once),
        };
        if self.push(who, push, send, reactor) {
            return true;
        }
        self.sessions.find(who.cid, who.uid).is_some()
            && self.push_away(who.cid, parcel, is_direct, reactor)
    }

    /// Pushes to a client with `send`. Returns true if there is one.
    pub(super) fn push(
        &mut self,
        who: Who,
        push: Push<'_>,
        send: impl FnOnce(&mut Conn<'_, Self>, &mut Client) -> Result<(), WriteError>,
        reactor: &mut Reactor<'_, Self>,
    ) -> bool {
        let Some(id) = self.sessions.find(who.cid, who.uid) else {
            return false;
        };
        let pushed = reactor.with(id, |conn, session| match session {
            Session::Client(client) => {
                let sent = send(conn, client);
                if push.disconnect && sent.is_ok() && client.resuming.is_none() {
                    self.kick(conn, client);
                }
                Some(sent)
            }
            _ => None,
        });
        let Some(Some(sent)) = pushed else {
            return false;
        };
        let counters = self.counters();
        match sent {
            Ok(()) => {
                let bytes = push.bytes.len() as u64;
                counters.pushed.add(1);
                counters.bytes_pushed.add(bytes);
                // A node has sent it, so its route exists.
                let counters = self.by_route.of(push.route, || true);
                counters.pushed.add(1);
                counters.bytes_pushed.add(bytes);
            }
            Err(WriteError::Full { .. }) => {
                counters.pushes_dropped.add(1);
                if self.shared.options.slow == SlowClient::Close {
                    counters.slow.add(1);
                    reactor.with(id, |conn, session| {
                        if let Session::Client(client) = session {
                            client.is_ended = true;
                        }
                        conn.abort();
                    });
                }
            }
            Err(_) => counters.pushes_dropped.add(1),
        }
        true
    }
}

/// A packet on its way to a client.
#[derive(Clone, Copy)]
pub(super) struct Push<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) route: i32,
    /// True if the client is to be disconnected after it.
    pub(super) disconnect: bool,
}

/// Sends a packet that other clients get too.
pub(super) fn send(
    conn: &mut Conn<'_, GateReactor>,
    client: &mut Client,
    parcel: &Parcel,
    at_once: bool,
) -> Result<(), WriteError> {
    let sent = match conn.codec() {
        Protocol::Socket(_) => conn.send(parcel.framed()),
        // The packet is its own frame.
        Protocol::Packets(_) if at_once => conn.write_through(parcel.packet.clone().into_bytes()),
        Protocol::Packets(_) => conn.send(parcel.packet.clone()),
        _ => send_bytes(conn, parcel.packet.as_bytes()),
    };
    if parcel.is_data {
        match &sent {
            Ok(()) => client.count(&parcel.packet),
            // The connection has just been lost. The client gets it when it comes back.
            Err(WriteError::Closed) if client.resumable.is_some() => client.count(&parcel.packet),
            Err(_) => {}
        }
    }
    sent
}

/// Sends a copy of a packet.
pub(super) fn send_bytes(
    conn: &mut Conn<'_, GateReactor>,
    packet: &[u8],
) -> Result<(), WriteError> {
    match conn.codec() {
        Protocol::Socket(_) => conn.send(packet),
        #[cfg(feature = "kcp")]
        Protocol::Kcp(_) => over_kcp::send(conn, packet, Client::FLUSH),
        // The packet is its own frame.
        _ => conn.write(packet),
    }
}

fn fan_out(to: Vec<Who>, parcel: Arc<Parcel>) -> Task {
    Task::FanOut {
        to,
        next: 0,
        sent: 0,
        parcel,
    }
}

fn anybody(mut to: Vec<i64>) -> Vec<Who> {
    // So they are visited as they lie in memory, here and in the kernel, for the most part.
    to.sort_unstable();
    to.into_iter().map(|cid| Who { cid, uid: 0 }).collect()
}
