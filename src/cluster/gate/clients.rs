//! The clients of a gate: their lives, and what they send.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::client::Client;
use super::codec::Protocol;
use super::handler::{GateReactor, Session};
use super::listener::{Door, Upgrade};
use super::options::{HeartbeatMode, OverRate};
use super::stats::{GateCounters, RefusedPacket};
use crate::cluster::dispatch::{Dispatch, Source};
use crate::cluster::drpc::Request;
use crate::cluster::link::Lanes;
use crate::cluster::locator::Located;
use crate::cluster::packet::{EncodedPacket, Heartbeat, MAX_EMPTY_IN_ROW, Packet, PacketFrame};
use crate::cluster::registry::Instance;
use crate::cluster::{Error, Event};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::http::{ServerRequest, ServerResponse, StatusCode};
use crate::ws::{self, Close, CloseCode};

impl GateReactor {
    pub(super) fn open_client(&mut self, conn: &mut Conn<'_, Self>) -> Option<Client> {
        let ip = conn.peer_addr().ip();
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
        if matches!(conn.codec(), Protocol::Packets(_)) {
            self.enter(conn, &mut client);
        }
        Some(client)
    }

    /// Makes the client one that nodes know of.
    fn enter(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) {
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

    pub(super) fn close_client(&mut self, reactor: &mut Reactor<'_, Self>, client: &Client) {
        self.shared.admission.release(client.ip);
        if client.cid == 0 {
            return;
        }
        let uid = self.sessions.remove(client.cid);
        self.trigger(Event::Disconnect, client.cid, uid, reactor.now());
        if uid != 0 && self.shared.users.release(uid, client.cid) {
            self.forget(uid, None, reactor);
        }
        self.is_pending = true;
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
                if conn.reads_paused() {
                    // Its packets are not seen.
                    client.last = conn.now();
                }
                let silent = conn.now().saturating_duration_since(client.last);
                if silent >= allowed {
                    self.counters().silent.add(1);
                    return Action::Close;
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
            _ => Action::Continue,
        }
    }

    pub(super) fn on_socket(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        incoming: ws::Incoming<'_>,
    ) -> Action {
        client.last = conn.now();
        let message = match incoming {
            ws::Incoming::Request(request) => return self.upgrade(conn, client, &request),
            ws::Incoming::Message(message) => message,
            ws::Incoming::Pong(_) | ws::Incoming::Closed(_) => return Action::Continue,
        };
        let ws::Message::Binary(message) = message else {
            return refuse_message(conn, CloseCode::UNSUPPORTED, "packets are binary messages");
        };
        match self.shared.options.packet.decode_message(&message) {
            Ok(PacketFrame::Empty) if client.empty_in_row == MAX_EMPTY_IN_ROW => {
                refuse_message(conn, CloseCode::PROTOCOL, "too many packets of size 0")
            }
            Ok(PacketFrame::Empty) => {
                client.empty_in_row += 1;
                Action::Continue
            }
            Ok(frame) => {
                client.empty_in_row = 0;
                self.on_frame(conn, client, frame)
            }
            Err(error) => {
                log::debug!(target: "epicycle::cluster", "{}: {error}", conn.peer_addr());
                refuse_message(conn, CloseCode::PROTOCOL, "a message that is no packet")
            }
        }
    }

    pub(super) fn on_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        frame: PacketFrame<'_>,
    ) -> Action {
        client.last = conn.now();
        let len = match &frame {
            PacketFrame::Packet { whole, .. } => whole.len(),
            _ => 0,
        };
        if let Some((rate, over)) = client.over_rate(len, conn.now()) {
            match rate.policy {
                OverRate::Close => {
                    self.counters().refused[RefusedPacket::Rate].add(1);
                    return Action::Close;
                }
                OverRate::Drop => {
                    return match frame {
                        PacketFrame::Packet { packet, .. } => {
                            self.refuse_packet(conn, &packet, RefusedPacket::Rate)
                        }
                        _ => Action::Continue,
                    };
                }
                OverRate::Delay => {
                    client.is_delayed = true;
                    conn.pause_reads();
                    conn.set_timer(over, Client::RESUME);
                }
            }
        }
        match frame {
            PacketFrame::Packet { packet, whole } => {
                let counters = self.counters();
                counters.packets_in.add(1);
                counters.bytes_in.add(whole.len() as u64);
                self.dispatch(conn, client, &packet, whole)
            }
            PacketFrame::Heartbeat(_) => match self.shared.options.heartbeat {
                HeartbeatMode::Respond => self.send_heartbeat(conn),
                HeartbeatMode::Tick => Action::Continue,
            },
            PacketFrame::Control(_) => {
                client.speaks_control = true;
                Action::Continue
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
        let found = match self
            .table
            .dispatch(packet.route, Source::Client { cid, uid })
        {
            Dispatch::Locate { alias, uid } => {
                match self.shared.locations.cached_node(uid, alias) {
                    Located::At(nid) => self.table.located(Some(&nid)),
                    Located::Nowhere => self.table.located(None),
                    Located::Unknown => {
                        let alias = alias.clone();
                        return self.locate(conn, client, uid, &alias, packet, whole);
                    }
                }
            }
            found => found,
        };
        let refused = match found {
            Dispatch::To(node) => {
                self.is_pending = true;
                let counters = &self.shared.counters[self.id];
                let from = (cid, uid);
                deliver(&mut self.lanes, counters, node, from, whole, conn.now())
            }
            Dispatch::Refuse(refusal) => Some(refusal.into()),
            // It was located above.
            Dispatch::Locate { .. } => Some(RefusedPacket::NotLocated),
        };
        let Some(refused) = refused else {
            return Action::Continue;
        };
        self.refuse_packet(conn, packet, refused)
    }

    /// Asks the locator for the node of a user. Until it has answered, the packet waits, and nothing more of the client is read.
    fn locate(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        uid: i64,
        alias: &Arc<str>,
        packet: &Packet<'_>,
        whole: &[u8],
    ) -> Action {
        let (engine, id, alias) = (conn.engine().clone(), conn.id(), alias.clone());
        let shared = self.shared.clone();
        let asked = self.shared.pool.submit(move || {
            let found = shared.locations.node(uid, &alias);
            // One for each client at most.
            engine.run_anyway(id.reactor(), move |gate, reactor| {
                gate.on_located(reactor, id, found);
            });
        });
        if asked.is_err() {
            return self.refuse_packet(conn, packet, RefusedPacket::Busy);
        }
        client.held = Some(whole.to_vec());
        conn.pause_reads();
        Action::Continue
    }

    fn on_located(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        id: ConnId,
        found: Result<Option<Arc<str>>, Error>,
    ) {
        let is_pending = reactor.with(id, |conn, session| {
            let Session::Client(client) = session else {
                return false;
            };
            let Some(held) = client.held.take() else {
                return false;
            };
            let options = self.shared.options.packet;
            if let Ok(PacketFrame::Packet { packet, whole }) = options.decode_message(&held) {
                self.deliver_located(conn, client, found, &packet, whole);
            }
            resume(conn, client);
            true
        });
        if is_pending == Some(true) {
            reactor.request_turn_end();
        }
    }

    fn deliver_located(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &Client,
        found: Result<Option<Arc<str>>, Error>,
        packet: &Packet<'_>,
        whole: &[u8],
    ) {
        let cid = client.cid;
        let uid = self.sessions.uid(cid);
        let dispatched = self
            .table
            .dispatch(packet.route, Source::Client { cid, uid });
        let refused = match (found, dispatched) {
            // The flags of the route or the user may have changed meanwhile.
            (_, Dispatch::Refuse(refusal)) => Some(refusal.into()),
            (Err(error), _) => {
                log::warn!(target: "epicycle::cluster", "the user {uid} is not located: {error}");
                Some(RefusedPacket::Busy)
            }
            (Ok(found), _) => match self.table.located(found.as_deref()) {
                Dispatch::To(node) => {
                    self.is_pending = true;
                    let counters = &self.shared.counters[self.id];
                    let from = (cid, uid);
                    deliver(&mut self.lanes, counters, node, from, whole, conn.now())
                }
                _ => Some(RefusedPacket::NotLocated),
            },
        };
        let Some(refused) = refused else {
            return;
        };
        if let Action::Refused(error) = self.refuse_packet(conn, packet, refused) {
            log::debug!(target: "epicycle::cluster", "an answer to {} is lost: {error}", conn.peer_addr());
        }
    }

    /// Drops a packet, and answers it if the application wants to.
    fn refuse_packet(
        &mut self,
        conn: &mut Conn<'_, Self>,
        packet: &Packet<'_>,
        reason: RefusedPacket,
    ) -> Action {
        self.counters().refused[reason].add(1);
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
            Ok(answer) => self.send(conn, answer),
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "no answer to a refused packet: {error}");
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
        let sent = match conn.codec() {
            Protocol::Socket(_) => conn.send(packet.as_bytes()),
            _ => conn.send(packet),
        };
        match sent {
            // Its input is paused long before that, so that it cannot ask for more.
            Err(WriteError::Full { .. }) | Ok(()) => Action::Continue,
            Err(error) => error.into(),
        }
    }

    fn upgrade(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        request: &ServerRequest<'_>,
    ) -> Action {
        let shared = self.shared.clone();
        let door = match conn.origin() {
            Origin::Accepted { listener } => shared.doors.get(listener),
            _ => None,
        };
        let Some(Door::Sockets(Upgrade {
            path,
            origins,
            check,
        })) = door
        else {
            return Action::Close;
        };
        // A connection without a WebSocket is of no use here.
        let refuse = |conn: &mut Conn<'_, Self>, response: ServerResponse<'_>| match conn
            .send(response.close())
        {
            Ok(()) => Action::Close,
            Err(error) => error.into(),
        };
        if request.path() != path {
            return refuse(conn, ServerResponse::new(StatusCode::NOT_FOUND));
        }
        let accepted = ws::accept(request).and_then(|accept| match origins.is_empty() {
            true => Ok(accept),
            false => accept.origins(origins),
        });
        let accept = match accepted {
            Ok(accept) => accept,
            Err(refusal) => return refuse(conn, refusal.response()),
        };
        if check.as_ref().is_some_and(|check| !check(request)) {
            return refuse(conn, ServerResponse::new(StatusCode::FORBIDDEN));
        }
        let opened = conn.send(accept);
        if opened.is_ok() {
            self.enter(conn, client);
        }
        opened.into()
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

/// Hands a packet of a connection and its user to the link to its node. Returns the reason if that does not take it.
fn deliver(
    lanes: &mut Lanes<()>,
    counters: &GateCounters,
    node: &Instance,
    (cid, uid): (i64, i64),
    packet: &[u8],
    now: Instant,
) -> Option<RefusedPacket> {
    match lanes.send(&node.id, &Request::Deliver { cid, uid, packet }, now) {
        Ok(()) => {
            counters.delivered.add(1);
            None
        }
        Err(error) => {
            log::debug!(target: "epicycle::cluster", "no packet to {}: {error}", node.id);
            Some(RefusedPacket::Busy)
        }
    }
}

fn refuse_message(conn: &mut Conn<'_, GateReactor>, code: CloseCode, reason: &str) -> Action {
    match conn.send(Close::new(code, reason)) {
        Ok(()) => Action::Close,
        Err(error) => error.into(),
    }
}

fn resume(conn: &mut Conn<'_, GateReactor>, client: &Client) {
    if client.held.is_none() && !client.is_delayed {
        conn.resume_reads();
    }
}
