//! The packets and events of clients and other nodes, and what is told about them.

use std::any::TypeId;
use std::sync::atomic::Ordering;

use super::NodeReactor;
use super::passing::spread;
use crate::cluster::Event;
use crate::cluster::drpc::{Op, RejectReason};
use crate::cluster::locator::Located;
use crate::cluster::node::context::{HandlerError, OwnPacket, Request, Subject};
use crate::cluster::node::hand_over::{Back, Item, Note, Sender, What};
use crate::cluster::node::shared::{Shared, guarded};
use crate::cluster::packet::{Packet, PacketFrame};
use crate::cluster::seldom::warn_seldom;
use crate::engine::slots::ConnId;

/// The place of the user of a packet, as far as it is known.
enum Place {
    Here,
    /// Not here. The packet is rejected for this reason.
    Elsewhere(RejectReason),
    Unknown,
}

impl<T: 'static> NodeReactor<T> {
    /// Takes a packet or rejects it, and returns true; or waits for the locator.
    pub(super) fn on_packet(
        &mut self,
        from: &Sender,
        client: (i64, i64),
        whole: &[u8],
        back: Back,
    ) -> bool {
        let (cid, uid) = client;
        self.know(from, cid, uid);
        let packets = self.core.shared.options.packet;
        let Ok(PacketFrame::Packet { packet, .. }) = packets.decode_message(whole) else {
            self.refuse(client, whole, back, None);
            return true;
        };
        let Some(route) = self.router.serving(packet.route) else {
            self.core.counters().unknown_routes.add(1);
            self.reject(cid, &packet, back, RejectReason::UnknownRoute);
            // As due does.
            self.answer(back, false);
            return true;
        };
        if route.spec.stateful {
            let now = self.core.now;
            let collected = back.link.filter(|_| back.is_collected);
            if collected.is_some_and(|link| self.rejecting.contains(link, cid, now)) {
                self.refuse(client, whole, back, Some(RejectReason::Moved));
                return true;
            }
            match self.find_user(uid) {
                Place::Here => {}
                Place::Elsewhere(reason) => {
                    if reason == RejectReason::Moved
                        && let Some(link) = collected
                    {
                        self.rejecting.begin(link, cid, now);
                    }
                    self.refuse(client, whole, back, Some(reason));
                    return true;
                }
                Place::Unknown => return self.await_location(from, client, whole, back),
            }
        }
        self.answer(back, false);
        // Found again, since a reference to it would have to count the router's.
        if let Some(route) = self.router.serving(packet.route) {
            let (state, subject) = (TypeId::of::<T>(), Subject::Packet(packet));
            let mut request = Request::new(&mut self.core, state, from, client, subject);
            request.attend(&mut self.state, |state, request| route.run(state, request));
        }
        true
    }

    /// Finds out if the user of a packet of a stateful route is on this node.
    fn find_user(&mut self, uid: i64) -> Place {
        if uid <= 0 {
            return Place::Elsewhere(RejectReason::Moved);
        }
        if self.left.contains(&uid) {
            return Place::Elsewhere(RejectReason::Draining);
        }
        let shared = &self.core.shared;
        // The cache may have no answer again, for example while the locator cannot be reached.
        let located = match self.found.take() {
            Some(Ok(node)) => node.map_or(Located::Nowhere, Located::At),
            Some(Err(())) => return Place::Elsewhere(RejectReason::Overload),
            None => match shared.locations.cached_node(uid, &shared.alias) {
                Located::At(nid) if *nid != *shared.ours.id => older(shared, uid),
                Located::Nowhere => older(shared, uid),
                located => located,
            },
        };
        match located {
            Located::At(nid) if *nid == shared.ours.id => Place::Here,
            Located::At(_) | Located::Nowhere => Place::Elsewhere(RejectReason::Moved),
            Located::Unknown => Place::Unknown,
        }
    }

    /// Asks the locator where a user is. What comes of the connection waits until that is known. Returns true if the packet was
    /// rejected instead.
    fn await_location(
        &mut self,
        from: &Sender,
        client: (i64, i64),
        whole: &[u8],
        back: Back,
    ) -> bool {
        let (cid, uid) = client;
        let shared = self.core.shared.clone();
        let fence = shared.last_fence.fetch_add(1, Ordering::Relaxed);
        let item = |what| Item {
            from: from.clone(),
            cid,
            uid,
            what,
        };
        let packet = whole.to_vec();
        let counted = Back {
            is_counted: true,
            ..back
        };
        let first = item(What::Packet {
            packet,
            back: counted,
        });
        let mut release = item(What::Release { fence, found: None });
        let id = self.core.id;
        if !shared.queued.enqueue(id, first.weight()) {
            self.refuse(client, whole, back, Some(RejectReason::Overload));
            return true;
        }
        let (asking, posting) = (shared.clone(), self.core.posting.clone());
        let asked = shared.submit(None, move || {
            let found = guarded(|| asking.locations.node(uid, &asking.alias)).map_err(|error| {
                warn_seldom!("the user {uid} is not located: {error}");
            });
            release.what = What::Release {
                fence,
                found: Some(found),
            };
            asking.queued.enqueue_anyway(id, release.weight());
            posting.post_anyway(id, Box::new(move |_, core| core.released.push(release)));
        });
        if asked.is_err() {
            shared.queued.dequeue(id, first.weight());
            self.refuse(client, whole, back, Some(RejectReason::Overload));
            return true;
        }
        self.waiting.hold(from, client, fence);
        self.waiting.push(first);
        false
    }

    pub(super) fn on_event(&mut self, from: &Sender, event: Event, cid: i64, uid: i64) {
        if event != Event::Disconnect {
            self.know(from, cid, uid);
        } else if !self.forget(&from.id, cid) {
            return;
        }
        self.tell(from, event, cid, uid);
    }

    /// Tells the application an event.
    pub(super) fn tell(&mut self, from: &Sender, event: Event, cid: i64, uid: i64) {
        let router = self.router.clone();
        if let Some(handler) = router.event(event) {
            let subject = Subject::Event(event);
            self.run(from, (cid, uid), subject, |state, request| {
                handler(state, request)
            });
        }
    }

    pub(super) fn run(
        &mut self,
        from: &Sender,
        client: (i64, i64),
        subject: Subject<'_>,
        handler: impl FnOnce(&mut T, &mut Request<'_>) -> Result<(), HandlerError>,
    ) {
        let state = TypeId::of::<T>();
        let mut request = Request::new(&mut self.core, state, from, client, subject);
        request.attend(&mut self.state, handler);
    }

    /// Answers a packet that was taken or rejected, if that is wanted, and counts it as decided.
    fn answer(&mut self, back: Back, failed: bool) {
        let Back {
            link, seq, epoch, ..
        } = back;
        if seq != 0 {
            let op = Op::Deliver;
            self.note(link, Note::Answer { op, seq, failed });
        }
        if back.is_counted {
            self.note(link, Note::Decided { epoch });
        }
    }

    /// Refuses a packet. A gate that knows the extensions is told why, so that it can do something about it.
    pub(super) fn refuse(
        &mut self,
        (cid, _): (i64, i64),
        whole: &[u8],
        back: Back,
        reason: Option<RejectReason>,
    ) {
        self.core.counters().packets_refused.add(1);
        let packets = self.core.shared.options.packet;
        if let Some(reason) = reason
            && let Ok(PacketFrame::Packet { packet, .. }) = packets.decode_message(whole)
        {
            self.reject(cid, &packet, back, reason);
        }
        self.answer(back, true);
    }

    /// Tells the sender of a packet why it was not taken, if it knows the extensions.
    fn reject(&mut self, cid: i64, packet: &Packet<'_>, back: Back, reason: RejectReason) {
        let reject = Note::Reject {
            cid,
            route: packet.route,
            seq: packet.seq,
            reason,
        };
        self.note(back.link, reject);
    }

    pub(super) fn note(&mut self, link: Option<ConnId>, note: Note) {
        if let Some(link) = link {
            self.notes[link.reactor()].push((link, note));
            self.core.is_pending = true;
        }
    }

    /// Takes a packet of this node to itself.
    pub(super) fn on_own_packet(&mut self, own: OwnPacket) {
        let from = self.own_sender();
        let OwnPacket { uid, packet } = own;
        let owner = match uid {
            0 => self.core.id,
            _ => spread(uid as u64, self.outgoing.len()),
        };
        let back = Back {
            link: None,
            seq: 0,
            epoch: 0,
            is_collected: false,
            is_counted: false,
        };
        let what = What::Packet { packet, back };
        let item = Item {
            from,
            cid: 0,
            uid,
            what,
        };
        self.assign(owner, item);
    }
}

/// Forgets where a user is, since a gate has sent its packet here: it may know of a change that has not been told here yet.
fn older(shared: &Shared, uid: i64) -> Located {
    shared.locations.forget(uid);
    Located::Unknown
}
