//! The clients of a gate: their lives, and what they send.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::client::{Client, Wait};
use super::codec::Protocol;
use super::handler::{GateReactor, Limbo};
use super::kept::Asked;
use super::options::{HeartbeatMode, OverRate};
use super::stats::{GateCounters, RefusedPacket};
use crate::cluster::dispatch::{Dispatch, Refusal, Source};
use crate::cluster::drpc::Request;
use crate::cluster::link::Lanes;
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp;
use crate::cluster::packet::{
    Control, EncodedPacket, GoodbyeReason, Heartbeat, Packet, PacketFrame,
};
use crate::cluster::registry::Instance;
use crate::cluster::seldom::warn_seldom;
use crate::cluster::{Error, Event};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::metrics::Label;

/// The time by which a timer may be late before the gate doubts that it has read everything.
const LATE: Duration = Duration::from_millis(20);

/// The time in which it reads everything then.
const SECOND_LOOK: Duration = Duration::from_millis(100);

impl GateReactor {
    pub(super) fn open_client(&mut self, conn: &mut Conn<'_, Self>) -> Option<Client> {
        // A proxy tells the client later.
        let ip = (conn.peer_addr().ip())
            .filter(|ip| !self.upgrade_of(conn).is_some_and(|door| door.trusts(*ip)));
        if !self.shared.admission.admit(ip) {
            self.counters().clients_refused.add(1);
            return None;
        }
        let options = &self.shared.options;
        let mut client = Client::new(ip, conn.now(), options.rate);
        if !options.interval.is_zero() {
            conn.set_timer(2 * options.interval, Client::LIFE);
            if options.heartbeat == HeartbeatMode::Tick {
                conn.set_interval(options.interval, Client::TICK);
            }
        }
        self.await_user(conn, &mut client);
        if matches!(conn.codec(), Protocol::Packets(_) | Protocol::Kcp(_)) {
            self.enter(conn, &mut client);
        }
        #[cfg(feature = "kcp")]
        if matches!(conn.codec(), Protocol::Kcp(_)) {
            self.open_unproved(conn, &mut client);
        }
        Some(client)
    }

    /// Makes the client one that nodes know of.
    pub(super) fn enter(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        client.cid = self.sessions.add(conn.id());
        self.trigger(Event::Connect, client.cid, 0, conn.now());
        self.is_pending = true;
    }

    /// Gives the client the time that it may be without a user.
    pub(super) fn await_user(&self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        let timeout = self.shared.options.authorize_timeout;
        if let Some(timer) = client.authorizing.take() {
            conn.cancel_timer(timer);
        }
        if !timeout.is_zero() {
            client.authorizing = Some(conn.set_timer(timeout, Client::AUTHORIZE));
        }
    }

    pub(super) fn close_client(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        mut client: Box<Client>,
        info: &Closed,
        reason: &CloseReason,
    ) {
        self.shared.admission.release(client.ip);
        #[cfg(feature = "kcp")]
        self.prove(&mut client);
        if client.cid == 0 {
            return;
        }
        if client.wait.is_counted() {
            self.counters().waiting.subtract(1);
        }
        self.held_up.remove(&client.cid);
        self.is_pending = true;
        // Its user has gone to another connection before this one was lost.
        if self.away.contains_key(&client.cid) {
            return;
        }
        let cid = client.cid;
        if self.binding.contains_key(&cid) {
            self.orphans.insert(cid);
            return;
        }
        if let Some(resuming) = &client.resuming {
            self.return_user(resuming.from.as_deref(), (cid, resuming.uid), reactor);
        }
        let mut limbo = self.limbo.remove(&cid).unwrap_or_default();
        if !self.keep_away(&mut client, &mut limbo, info, reason, reactor) {
            self.end_session(cid, reactor);
        }
        self.retry_claims(limbo, reactor);
    }

    /// Forgets a connection. Nodes are told Disconnect.
    pub(super) fn end_session(&mut self, cid: i64, reactor: &mut Reactor<'_, Self>) {
        let uid = self.sessions.remove(cid);
        self.trigger(Event::Disconnect, cid, uid, reactor.now());
        if uid != 0 && self.shared.users.release(uid, cid) {
            self.forget(uid, None, reactor);
        }
        if let Some(limbo) = self.limbo.remove(&cid) {
            self.retry_claims(limbo, reactor);
        }
        self.is_pending = true;
    }

    fn retry_claims(&mut self, limbo: Limbo, reactor: &mut Reactor<'_, Self>) {
        for (claim, reply) in limbo.claims {
            self.take_user(claim, reply, reactor);
        }
    }

    pub(super) fn on_client_timer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        token: u64,
    ) -> Action {
        match token {
            Client::LIFE => {
                let allowed = 2 * self.shared.options.interval;
                let most_queued = self.shared.options.outbound_limit / 4;
                if is_unread(conn, most_queued) {
                    // Its packets are not seen.
                    client.last = conn.now();
                }
                let silent = conn.now().saturating_duration_since(client.last);
                // A gate that was late itself, since it had too much to do or was stopped, may have packets to read.
                let is_late = silent > allowed + LATE;
                if is_late && !std::mem::replace(&mut client.is_doubted, true) {
                    conn.set_timer(SECOND_LOOK, Client::LIFE);
                    return Action::Continue;
                }
                client.is_doubted = false;
                if silent >= allowed {
                    self.counters().silent.add(1);
                    client.is_lost = true;
                    if client.resumable.is_none() {
                        return Action::Close;
                    }
                    // It takes nothing any more, and may come back before it is given up.
                    conn.abort();
                    return Action::Continue;
                }
                conn.set_timer(allowed - silent, Client::LIFE);
                Action::Continue
            }
            Client::TICK if client.cid != 0 => self.send_heartbeat(conn),
            Client::AUTHORIZE => {
                self.counters().unauthorized.add(1);
                Action::Close
            }
            Client::RESUME => {
                client.is_delayed = false;
                resume(conn, client);
                Action::Continue
            }
            Client::HELD_UP => {
                self.let_go_on(conn, client);
                Action::Continue
            }
            Client::RETRY => {
                self.retry(conn, client);
                Action::Continue
            }
            #[cfg(feature = "kcp")]
            Client::FLUSH => self.settle_kcp(conn, client),
            #[cfg(feature = "kcp")]
            Client::READ => self.read_kcp(conn, client),
            _ => Action::Continue,
        }
    }

    /// Takes what a client has sent, in `len` bytes.
    pub(super) fn on_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        frame: PacketFrame<'_>,
        len: usize,
    ) -> Action {
        let now = conn.now();
        client.last = now;
        if let Some((rate, over)) = client.over_rate(len, now) {
            match rate.policy {
                OverRate::Close => {
                    self.counters().refused[RefusedPacket::Rate].add(1);
                    client.is_ended = true;
                    return Action::Close;
                }
                OverRate::Drop => {
                    return match frame {
                        PacketFrame::Packet { packet, .. } => {
                            self.refuse_packet(conn, client, &packet, RefusedPacket::Rate)
                        }
                        _ => Action::Continue,
                    };
                }
                OverRate::Delay => {
                    client.is_delayed = true;
                    pause(conn);
                    conn.set_timer(over, Client::RESUME);
                }
            }
        }
        match frame {
            PacketFrame::Packet { packet, whole } => {
                let counters = self.counters();
                counters.packets_in.add(1);
                counters.bytes_in.add(whole.len() as u64);
                let table = &self.table;
                let exists = || table.route(packet.route).is_some();
                let counters = self.by_route.of(packet.route, exists);
                counters.packets_in.add(1);
                counters.bytes_in.add(whole.len() as u64);
                self.dispatch(conn, client, &packet, whole)
            }
            PacketFrame::Heartbeat(_) => match self.shared.options.heartbeat {
                HeartbeatMode::Respond => self.send_heartbeat(conn),
                HeartbeatMode::Tick => Action::Continue,
            },
            PacketFrame::Control(control) => {
                let is_first = !std::mem::replace(&mut client.speaks_control, true);
                if is_first && self.said_goodbye {
                    self.send_goodbye(conn, client, GoodbyeReason::Stopping);
                }
                match control {
                    Control::Resume { token, last } => self.on_resume(conn, client, token, last),
                    Control::Ack { n } => {
                        if let Some(resumable) = &mut client.resumable {
                            resumable.pushes.ack(n);
                        }
                        Action::Continue
                    }
                    Control::Leave => {
                        client.is_ended = true;
                        Action::Continue
                    }
                    _ => Action::Continue,
                }
            }
            PacketFrame::Empty => Action::Continue,
        }
    }

    fn dispatch(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        packet: &Packet<'_>,
        whole: &[u8],
    ) -> Action {
        let cid = client.cid;
        let uid = self.sessions.uid(cid);
        let source = Source::Client { cid, uid };
        let mut tried = Vec::new();
        let refused = loop {
            match self.table.dispatch_past(packet.route, source, &tried) {
                Dispatch::To(node) => {
                    self.is_pending = true;
                    let request = Request::Deliver {
                        cid,
                        uid,
                        packet: whole,
                    };
                    match self.lanes.send_if_near(&node.id, &request, conn.now()) {
                        Ok(()) => {
                            self.counters().delivered.add(1);
                            self.hold_up(conn, client, whole.len());
                            break None;
                        }
                        // It has said Bye, which the registry has not told yet, or cannot be reached.
                        Err(Error::Draining | Error::LinkDown { .. }) => tried.push(node.clone()),
                        Err(_) => break Some(RefusedPacket::Busy),
                    }
                }
                Dispatch::Refuse(Refusal::NoneWorking) if !tried.is_empty() => {
                    break self.deliver_far(&tried, (cid, uid), whole, conn.now());
                }
                Dispatch::Refuse(refusal) => break Some(refusal.into()),
                Dispatch::Locate { .. } => {
                    return self.dispatch_stateful(conn, client, packet, whole);
                }
            }
        };
        match refused {
            None => Action::Continue,
            Some(refused) => self.refuse_packet(conn, client, packet, refused),
        }
    }

    /// Hands a packet to a node that has been out of reach for a while, since there is no other one. Returns why that failed.
    #[cold]
    fn deliver_far(
        &mut self,
        nodes: &[Arc<Instance>],
        from: (i64, i64),
        packet: &[u8],
        now: Instant,
    ) -> Option<RefusedPacket> {
        let mut refused = RefusedPacket::NoneWorking;
        for node in nodes {
            let counters = &self.shared.counters[self.id];
            match deliver(&mut self.lanes, counters, &node.id, from, packet, now) {
                Ok(()) => return None,
                Err(Error::LinkDown { .. }) => refused = RefusedPacket::Unreachable,
                Err(Error::Draining) => {}
                Err(_) => return Some(RefusedPacket::Busy),
            }
        }
        Some(refused)
    }

    /// Drops a packet, and answers it if the application wants to.
    pub(super) fn refuse_packet(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        packet: &Packet<'_>,
        reason: RefusedPacket,
    ) -> Action {
        self.counters().refused[reason].add(1);
        log::debug!(
            target: "epicycle::cluster",
            "a packet of route {} from connection {} is refused: {}",
            packet.route, client.cid, reason.value()
        );
        let Some(on_refused) = &self.shared.options.on_refused else {
            return Action::Continue;
        };
        let Some(data) = on_refused(packet, reason) else {
            return Action::Continue;
        };
        let answer = Packet {
            data: &data,
            ..*packet
        };
        match self.shared.options.packet.encode(&answer) {
            Ok(answer) => match send_packet(conn, &answer) {
                Ok(()) => {
                    client.count(&answer);
                    Action::Continue
                }
                Err(error) => tolerate(error),
            },
            Err(error) => {
                warn_seldom!("no answer to a refused packet: {error}");
                Action::Continue
            }
        }
    }

    fn send_heartbeat(&self, conn: &mut Conn<'_, Self>) -> Action {
        let options = self.shared.options.packet;
        let time = options.heartbeat_time().then(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_nanos() as i64)
        });
        self.send(conn, options.encode_heartbeat(Heartbeat { time }))
    }

    pub(super) fn send(&self, conn: &mut Conn<'_, Self>, packet: EncodedPacket) -> Action {
        match send_packet(conn, &packet) {
            Ok(()) => Action::Continue,
            Err(error) => tolerate(error),
        }
    }

    /// Tells the nodes that want it what happened to a connection.
    pub(super) fn trigger(&mut self, event: Event, cid: i64, uid: i64, now: Instant) {
        let trigger = Request::Trigger {
            event: event.code(),
            cid,
            uid,
        };
        for node in self.table.wanting(event) {
            let counters = &self.shared.counters[self.id];
            match self.lanes.send(&node.id, &trigger, now) {
                Ok(()) => counters.events.add(1),
                Err(error) => {
                    log::debug!(target: "epicycle::cluster", "no event to {}: {error}", node.id);
                    counters.events_lost.add(1);
                }
            }
            self.is_pending = true;
        }
    }
}

/// Returns what an answer that could not be sent means for its connection.
fn tolerate(error: WriteError) -> Action {
    match error {
        // Its input is paused long before that, so that it cannot ask for more.
        WriteError::Full { .. } => Action::Continue,
        error => error.into(),
    }
}

/// Hands a packet of a connection and its user to the link to its node.
pub(super) fn deliver(
    lanes: &mut Lanes<Asked>,
    counters: &GateCounters,
    nid: &str,
    (cid, uid): (i64, i64),
    packet: &[u8],
    now: Instant,
) -> Result<(), Error> {
    match lanes.send(nid, &Request::Deliver { cid, uid, packet }, now) {
        Ok(()) => {
            counters.delivered.add(1);
            Ok(())
        }
        Err(error) => {
            log::debug!(target: "epicycle::cluster", "no packet to {nid}: {error}");
            Err(error)
        }
    }
}

/// Sends a packet that is not for many.
pub(super) fn send_packet(
    conn: &mut Conn<'_, GateReactor>,
    packet: &EncodedPacket,
) -> Result<(), WriteError> {
    match conn.codec() {
        Protocol::Socket(_) => conn.send(packet.as_bytes()),
        #[cfg(feature = "kcp")]
        Protocol::Kcp(_) => over_kcp::send(conn, packet.as_bytes(), Client::FLUSH),
        _ => conn.send(packet.clone()),
    }
}

/// Closes a client, with all output sent.
pub(super) fn close(conn: &mut Conn<'_, GateReactor>) {
    #[cfg(feature = "kcp")]
    over_kcp::close(conn);
    #[cfg(not(feature = "kcp"))]
    conn.close();
}

/// Reads nothing from a client until [`resume`].
pub(super) fn pause(conn: &mut Conn<'_, GateReactor>) {
    #[cfg(feature = "kcp")]
    if let Protocol::Kcp(kcp) = conn.codec_mut() {
        // Its acknowledgements are still needed.
        kcp.is_paused = true;
        return;
    }
    conn.pause_reads();
}

/// Reads on, unless the client still has to wait for something.
pub(super) fn resume(conn: &mut Conn<'_, GateReactor>, client: &Client) {
    if client.wait != Wait::Nothing || client.is_delayed {
        return;
    }
    #[cfg(feature = "kcp")]
    if let Protocol::Kcp(kcp) = conn.codec_mut() {
        if std::mem::take(&mut kcp.is_paused) {
            conn.set_timer(Duration::ZERO, Client::READ);
        }
        return;
    }
    conn.resume_reads();
}

/// Returns true if nothing is read from a client now: it has to wait for something, or does not read itself.
fn is_unread(conn: &Conn<'_, GateReactor>, most_queued: usize) -> bool {
    #[cfg(feature = "kcp")]
    if let Protocol::Kcp(kcp) = conn.codec() {
        return kcp.is_paused || kcp.queued() > most_queued;
    }
    #[cfg(not(feature = "kcp"))]
    let _ = most_queued;
    conn.reads_later()
}
