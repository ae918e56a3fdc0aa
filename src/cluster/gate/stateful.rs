//! Packets of stateful routes: they go to the node that has their user, and follow it when it moves.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Held, Left, Place, Wait};
use super::clients::{deliver, pause, resume};
use super::handler::{GateReactor, Session};
use super::kept::{Asked, Notice, PacketKey, Returned};
use super::stats::RefusedPacket;
use crate::cluster::Error;
use crate::cluster::dispatch::{Dispatch, Source};
use crate::cluster::drpc::{RejectReason, Request};
use crate::cluster::locator::Located;
use crate::cluster::packet::{Packet, PacketFrame, ResumeRefusal};
use crate::cluster::seldom::warn_seldom;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;

/// The longest time for which packets are kept before their node is asked about them.
const ASK_AFTER: Duration = Duration::from_millis(20);

/// The number of times that the locator is asked for a user that has left a node, while it still names that node. A node whose user
/// may have come back is tried again each time.
const TRIES: u32 = 6;

/// The time before the first of them. Each next one comes after twice the time, so that it is tried for 1.3 s.
const FIRST_TRY: Duration = Duration::from_millis(20);

/// The answer of the locator about a user.
pub(super) struct Found {
    uid: i64,
    alias: Arc<str>,
    node: Result<Option<Arc<str>>, Error>,
}

/// A packet of a client on its way to a node, with its user when it was read.
#[derive(Clone, Copy)]
struct Outgoing<'p> {
    order: u64,
    uid: i64,
    tries: u32,
    packet: Packet<'p>,
    whole: &'p [u8],
}

/// The result of an attempt to send a packet to its node.
enum Step {
    Sent,
    Refused(RefusedPacket),
    Wait(Wait),
}

/// Tells how a user has left a node, if a rejected packet is for the node where the user is by now.
fn follows(reason: RejectReason) -> Option<Left> {
    match reason {
        RejectReason::Moved => Some(Left::Moved),
        RejectReason::Draining => Some(Left::Ended),
        _ => None,
    }
}

impl Outgoing<'_> {
    fn hold(&self) -> Held {
        Held {
            order: self.order,
            uid: self.uid,
            tries: self.tries,
            bytes: self.whole.into(),
        }
    }
}

/// Returns why a packet is refused that a link has not taken.
fn refusal_of(error: &Error) -> RefusedPacket {
    match error {
        Error::LinkDown { .. } => RefusedPacket::Unreachable,
        _ => RefusedPacket::Busy,
    }
}

impl GateReactor {
    pub(super) fn dispatch_stateful(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        packet: &Packet<'_>,
        whole: &[u8],
    ) -> Action {
        client.read += 1;
        let outgoing = Outgoing {
            order: client.read,
            uid: self.sessions.uid(client.cid),
            tries: 0,
            packet: *packet,
            whole,
        };
        match self.forward(conn, client, outgoing, None) {
            Step::Sent => {
                self.hold_up(conn, client, whole.len());
                Action::Continue
            }
            Step::Refused(reason) => self.refuse_packet(conn, client, packet, reason),
            Step::Wait(wait) => {
                client.held = Some(outgoing.hold());
                self.wait(conn, client, wait);
                Action::Continue
            }
        }
    }

    /// Heeds what the links to nodes have told in this turn.
    pub(super) fn heed(&mut self, reactor: &mut Reactor<'_, Self>) {
        if self.notices.is_empty() {
            return;
        }
        for notice in std::mem::take(&mut self.notices) {
            match notice {
                Notice::Rejected {
                    nid,
                    packet,
                    reason,
                } => self.on_rejected(&nid, packet, reason, reactor),
                Notice::Decided { nid, fence } => {
                    let returned = self.kept.decided(&nid, fence);
                    self.take_back(returned, reactor);
                }
                Notice::Unanswered { nid } => {
                    let returned = self.kept.unanswered(&nid);
                    self.take_back(returned, reactor);
                    self.is_pending = true;
                }
                Notice::Up { nid, extensions } => {
                    let returned = self.kept.set_extensions(&nid, extensions);
                    self.take_back(returned, reactor);
                }
                Notice::GaveUp { nid } => {
                    let returned = self.kept.gave_up(&nid);
                    self.take_back(returned, reactor);
                }
                Notice::Ordered(order) => self.on_ordered(order, reactor),
                Notice::Taken {
                    gid,
                    cid,
                    uid,
                    taken,
                } => {
                    let taken = taken.and_then(|bytes| self.read_taken(&bytes));
                    // Without an answer it is unknown if the user was handed over.
                    if matches!(taken, Err(ResumeRefusal::Unavailable)) {
                        self.return_user(Some(&gid), (cid, uid), reactor);
                    }
                    self.on_taken(Some(&gid), (cid, uid), taken, reactor);
                }
            }
        }
        self.release(reactor);
    }

    /// Lets the clients go on whose packets have all been taken or rejected.
    pub(super) fn release(&mut self, reactor: &mut Reactor<'_, Self>) {
        for cid in std::mem::take(&mut self.waiting) {
            let Some(id) = self.sessions.find(cid, 0) else {
                continue;
            };
            reactor.with(id, |conn, session| {
                let Session::Client(client) = session else {
                    return;
                };
                let mut places = client.places.iter();
                if client.wait != Wait::Nodes {
                } else if places.all(|place| self.kept.is_decided(&place.nid, place.last)) {
                    self.proceed(conn, client, None);
                } else {
                    self.waiting.push(cid);
                }
            });
        }
    }

    /// Asks the nodes that have not told yet if they have taken what was sent to them.
    pub(super) fn ask_nodes(&mut self, reactor: &mut Reactor<'_, Self>) {
        let (lanes, now) = (&mut self.lanes, reactor.now());
        self.kept
            .ask(|nid, fence| lanes.ping(nid, Asked::Fence(fence), now));
        if !self.is_asking && self.kept.is_undecided() {
            self.is_asking = true;
            reactor.schedule(ASK_AFTER, |gate, reactor| {
                gate.is_asking = false;
                gate.kept.hurry_all();
                gate.is_pending = true;
                reactor.request_turn_end();
            });
        }
    }

    /// Asks again where a user is that has left a node.
    pub(super) fn retry(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        if client.wait == Wait::Move {
            self.proceed(conn, client, None);
        }
    }

    fn on_rejected(
        &mut self,
        nid: &str,
        key: PacketKey,
        reason: RejectReason,
        reactor: &mut Reactor<'_, Self>,
    ) {
        self.counters().rejected.add(1);
        let (cid, route, _) = key;
        let is_stateful = (self.table.route(route)).is_some_and(|(spec, _)| spec.stateful);
        if !is_stateful || !self.kept.reject(nid, key, reason) {
            let packet = None;
            let returned = Returned {
                key,
                reason,
                packet,
            };
            return self.take_back(vec![returned], reactor);
        }
        let Some(id) = self.sessions.find(cid, 0) else {
            return;
        };
        // Nothing overtakes what comes back when the node has told about the rest.
        if let Some(left) = follows(reason) {
            reactor.with(id, |conn, session| {
                if let Session::Client(client) = session {
                    (self.shared.locations).forget(self.sessions.uid(cid));
                    client.leave(nid, left);
                    if client.wait != Wait::Nodes {
                        self.wait(conn, client, Wait::Nodes);
                    }
                }
            });
        }
    }

    /// Gives rejected packets back to their clients, from which they go to where the users are by now.
    pub(super) fn take_back(&mut self, returned: Vec<Returned>, reactor: &mut Reactor<'_, Self>) {
        for returned in returned {
            let (reason, (cid, route, seq)) = (returned.reason, returned.key);
            let Some(id) = self.sessions.find(cid, 0) else {
                continue;
            };
            reactor.with(id, |conn, session| match (session, returned.packet) {
                (Session::Client(client), Some(packet)) if follows(reason).is_some() => {
                    self.shared.locations.forget(packet.uid);
                    client.take_back(packet);
                    if client.wait != Wait::Nodes {
                        self.wait(conn, client, Wait::Nodes);
                    }
                }
                (Session::Client(client), packet) => {
                    let bytes = packet.map(|packet| packet.bytes).unwrap_or_default();
                    let data = match self.shared.options.packet.decode_message(&bytes) {
                        Ok(PacketFrame::Packet { packet, .. }) => packet.data,
                        _ => &[],
                    };
                    let refused = match reason {
                        RejectReason::Moved => RefusedPacket::NotLocated,
                        RejectReason::UnknownRoute => RefusedPacket::UnknownRoute,
                        _ => RefusedPacket::Busy,
                    };
                    self.refuse_late(conn, client, &Packet { route, seq, data }, refused);
                }
                _ => {}
            });
        }
    }

    /// Makes a client wait. Nothing is read from it meanwhile.
    fn wait(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client, wait: Wait) {
        // It has sent nothing that a node could reject, whatever the node says.
        if client.wait == Wait::Resume {
            return;
        }
        if !client.wait.is_counted() {
            self.counters().waiting.add(1);
        }
        client.wait = wait;
        pause(conn);
        match wait {
            Wait::Nodes => {
                for place in &client.places {
                    self.kept.hurry(&place.nid);
                }
                self.waiting.push(client.cid);
                self.is_pending = true;
            }
            Wait::Move => {
                conn.set_timer(client.retry_after, Client::RETRY);
            }
            Wait::Locator | Wait::Resume | Wait::Link | Wait::Nothing => {}
        }
    }

    /// Sends what a client has waited with, in order, and reads on if nothing is left.
    fn proceed(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client, found: Option<Found>) {
        let (options, mut found) = (self.shared.options.packet, found);
        if std::mem::replace(&mut client.wait, Wait::Nothing).is_counted() {
            self.counters().waiting.subtract(1);
        }
        for place in &mut client.places {
            if std::mem::take(&mut place.rejects) {
                let collected = Request::Collected { cid: client.cid };
                if let Err(error) = self.lanes.send(&place.nid, &collected, conn.now()) {
                    log::debug!(target: "epicycle::cluster", "{} may reject for a while yet: {error}", place.nid);
                }
                self.is_pending = true;
            }
        }
        loop {
            let returned = client.returned.pop_front();
            let is_returned = returned.is_some();
            let Some(held) = returned.or_else(|| client.held.take()) else {
                break;
            };
            let Ok(PacketFrame::Packet { packet, .. }) = options.decode_message(&held.bytes) else {
                continue;
            };
            let outgoing = Outgoing {
                order: held.order,
                uid: held.uid,
                tries: held.tries,
                packet,
                whole: &held.bytes,
            };
            match self.forward(conn, client, outgoing, found.take()) {
                Step::Sent => self.counters().redelivered.add(u64::from(is_returned)),
                Step::Refused(reason) => self.refuse_late(conn, client, &packet, reason),
                Step::Wait(wait) => {
                    match is_returned {
                        true => client.returned.push_front(held),
                        false => client.held = Some(held),
                    }
                    return self.wait(conn, client, wait);
                }
            }
        }
        for place in &mut client.places {
            (place.left, place.tries) = (Left::No, 0);
        }
        resume(conn, client);
    }

    /// Sends a packet to its node, unless something has to be awaited before.
    fn forward(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        mut outgoing: Outgoing<'_>,
        found: Option<Found>,
    ) -> Step {
        let Outgoing {
            uid, packet, whole, ..
        } = outgoing;
        let cid = client.cid;
        let counters = &self.shared.counters[self.id];
        let from = (cid, uid);
        let alias = match self
            .table
            .dispatch(packet.route, Source::Client { cid, uid })
        {
            Dispatch::Locate { alias, .. } => alias.clone(),
            // The flags of the route have changed while it waited.
            Dispatch::To(node) => {
                self.is_pending = true;
                let lanes = &mut self.lanes;
                return match deliver(lanes, counters, &node.id, from, whole, conn.now()) {
                    Ok(()) => Step::Sent,
                    Err(error) => Step::Refused(refusal_of(&error)),
                };
            }
            Dispatch::Refuse(refusal) => return Step::Refused(refusal.into()),
        };
        let found = found.filter(|found| found.uid == uid && found.alias == alias);
        let located = match found.map(|found| found.node) {
            None => self.shared.locations.cached_node(uid, &alias),
            Some(Ok(node)) => node.map_or(Located::Nowhere, Located::At),
            Some(Err(error)) => {
                warn_seldom!("the user {uid} is not located: {error}");
                return Step::Refused(RefusedPacket::Busy);
            }
        };
        let nid = match located {
            Located::At(nid) => nid,
            Located::Nowhere => return Step::Refused(RefusedPacket::NotLocated),
            Located::Unknown => return self.locate(conn, uid, alias),
        };
        let place = match (client.places.iter_mut()).position(|place| place.alias == alias) {
            Some(place) => place,
            None => {
                client.places.push(Place::new(alias, nid.clone()));
                client.places.len() - 1
            }
        };
        let place = &mut client.places[place];
        if place.nid == nid && place.left != Left::No {
            place.tries = place.tries.max(outgoing.tries);
            let has_waited = place.tries > outgoing.tries;
            if !has_waited || place.left == Left::Ended {
                return self.await_move(place, &mut client.retry_after, uid);
            }
            // The locator still has the user there.
            place.left = Left::No;
        }
        if place.nid != nid {
            if !self.kept.is_decided(&place.nid, place.last) {
                return Step::Wait(Wait::Nodes);
            }
            *place = Place::new(place.alias.clone(), nid);
        }
        outgoing.tries = place.tries;
        let Dispatch::To(node) = self.table.located(Some(&place.nid)) else {
            return Step::Refused(RefusedPacket::NotLocated);
        };
        self.is_pending = true;
        let lanes = &mut self.lanes;
        match deliver(lanes, counters, &node.id, from, whole, conn.now()) {
            Ok(()) => {
                let key = (cid, packet.route, packet.seq);
                place.last = (self.kept).keep(&place.nid, key, || outgoing.hold());
                Step::Sent
            }
            // It has said Bye, and its users have left.
            Err(Error::Draining) => {
                place.left = Left::Ended;
                self.await_move(place, &mut client.retry_after, uid)
            }
            Err(error) => Step::Refused(refusal_of(&error)),
        }
    }

    /// Waits until the locator names another node than the one that a user has left.
    fn await_move(&self, place: &mut Place, retry_after: &mut Duration, uid: i64) -> Step {
        if place.tries == TRIES {
            return Step::Refused(RefusedPacket::NotLocated);
        }
        self.shared.locations.forget(uid);
        *retry_after = FIRST_TRY * 2_u32.pow(place.tries);
        place.tries += 1;
        Step::Wait(Wait::Move)
    }

    /// Asks the locator for the node of a user.
    fn locate(&self, conn: &Conn<'_, Self>, uid: i64, alias: Arc<str>) -> Step {
        let (engine, id) = (conn.engine().clone(), conn.id());
        let shared = self.shared.clone();
        let asked = self.shared.pool.submit(move || {
            let node = shared.locations.node(uid, &alias);
            let found = Found { uid, alias, node };
            // One for each client at most.
            engine.run_anyway(id.reactor(), move |gate, reactor| {
                gate.on_located(reactor, id, found);
            });
        });
        match asked {
            Ok(()) => Step::Wait(Wait::Locator),
            Err(_) => Step::Refused(RefusedPacket::Busy),
        }
    }

    fn on_located(&mut self, reactor: &mut Reactor<'_, Self>, id: ConnId, found: Found) {
        reactor.with(id, |conn, session| {
            if let Session::Client(client) = session
                && client.wait == Wait::Locator
            {
                self.proceed(conn, client, Some(found));
            }
        });
        if self.is_pending {
            reactor.request_turn_end();
        }
    }

    /// Refuses a packet outside the callback of its connection.
    fn refuse_late(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        packet: &Packet<'_>,
        reason: RefusedPacket,
    ) {
        if let Action::Refused(error) = self.refuse_packet(conn, client, packet, reason) {
            log::debug!(target: "epicycle::cluster", "an answer to {} is lost: {error}", conn.peer_addr());
        }
    }
}
