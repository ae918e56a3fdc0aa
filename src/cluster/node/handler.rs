//! A node on one reactor.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHasher};

use super::context::{Core, HandlerError, OwnPacket, Reactors, Request, Subject, Task};
use super::hand_over::{Back, Found, Item, Note, Sender, Undecided, Waiting, What};
use super::router::Router;
use crate::cluster::dispatch::RouteTable;
use crate::cluster::drpc::{self, Answer, Code, FrameCodec, Incoming, Op, RejectReason, Value};
use crate::cluster::link::{Identity, Inbound, LinkTimer, Verdict};
use crate::cluster::locator::Located;
use crate::cluster::packet::{Packet, PacketFrame};
use crate::cluster::reactors::on_all;
use crate::cluster::registry::LinkEndpoint;
use crate::cluster::{Error, Event, Kind};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, Engine, EventHandler, HandleError, Reactor};
use crate::engine::slots::ConnId;

/// The part of a node that one reactor has: the application's state, and handlers that run one at a time.
///
/// A link may be on any reactor. What comes by it is handled by the reactor that the user's number names, or the gate's and the
/// connection's as long as there is no user. [`outgoing`](Self::outgoing) has what is for others, which get all of a turn at once.
pub(super) struct NodeReactor<T> {
    core: Core,
    state: T,
    router: Arc<Router<T>>,
    waiting: Waiting,
    /// By reactor.
    outgoing: Vec<Vec<Item>>,
    /// Messages to servers that have dialled this one, by reactor.
    notes: Vec<Vec<(ConnId, Note)>>,
    /// The users of the connections that this reactor knows of, by gate. Empty if nobody wants to know of their end.
    connections: HashMap<Arc<str>, FxHashMap<i64, i64>>,
    /// The users that were handed over, since the node is about to stop.
    left: HashSet<i64>,
    /// The locator's answer for the packet that has asked, which is performed next.
    found: Option<Found>,
}

pub(super) enum Session {
    /// A link that another server has dialled.
    Inbound(Box<Link>),
    /// A link that this side has dialled, with its token.
    Lane(u64),
}

pub(super) struct Link {
    inbound: Inbound,
    sender: Sender,
    /// A hash of the sender's id.
    hash: u64,
    /// The reactors that handle the connections, if there are several.
    owners: FxHashMap<i64, usize>,
    undecided: Undecided,
}

impl<T: 'static> NodeReactor<T> {
    pub(super) fn new(core: Core, state: T, router: Arc<Router<T>>) -> Self {
        let reactors = core.shared.counters.len();
        Self {
            core,
            state,
            router,
            waiting: Waiting::default(),
            outgoing: (0..reactors).map(|_| Vec::new()).collect(),
            notes: (0..reactors).map(|_| Vec::new()).collect(),
            connections: HashMap::new(),
            left: HashSet::new(),
            found: None,
        }
    }

    /// Takes the servers that are registered now.
    pub(super) fn set_servers(
        &mut self,
        peers: Arc<[(Identity, LinkEndpoint)]>,
        table: RouteTable,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let gates = peers.iter().filter(|(peer, _)| peer.kind == Kind::Gate);
        self.core.gates = gates.map(|(peer, _)| peer.id.as_str().into()).collect();
        (self.core.peers, self.core.table) = (peers, table);
        self.dial(reactor);
        for gate in self.connections.keys().cloned().collect::<Vec<_>>() {
            self.check_gate(&gate);
        }
        self.settle(reactor);
    }

    /// Dials the gates, and the nodes that something was sent to.
    fn dial(&mut self, reactor: &mut Reactor<'_, Self>) {
        let Core { peers, dialled, .. } = &self.core;
        let wanted = peers.iter().filter(|(peer, _)| {
            peer.kind == Kind::Gate || (!dialled.is_empty() && dialled.contains(&peer.id))
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        self.core.has_new_peer = false;
        (self.core).with_lanes(|lanes, mut events| lanes.set_peers(&wanted, reactor, &mut events));
    }

    fn open_link(&self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let shared = &self.core.shared;
        let (options, counters) = (&shared.options, self.core.counters());
        let links: u64 = shared.counters.iter().map(|all| all.links.get()).sum();
        if links >= options.max_links as u64 {
            log::warn!(
                target: "epicycle::cluster",
                "no link for {}: there are {links} already; raise max_links", conn.peer_addr()
            );
            counters.links_refused.add(1);
            return None;
        }
        counters.links.add(1);
        let link = Link {
            inbound: Inbound::open(shared.ours.clone(), options.secret.clone(), conn),
            sender: Sender {
                id: "".into(),
                is_node: false,
            },
            hash: 0,
            owners: FxHashMap::default(),
            undecided: Undecided::default(),
        };
        Some(Session::Inbound(Box::new(link)))
    }

    fn on_link_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        link: &mut Link,
        frame: Incoming<'_>,
    ) -> Action {
        let (seq, request) = match link.inbound.receive(conn, frame) {
            Ok(Verdict::Serve { seq, request }) => (seq, request),
            Ok(Verdict::Done) => return Action::Continue,
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "the link of {}: {error}", link.inbound.name());
                return Action::Close;
            }
        };
        self.core.now = conn.now();
        self.identify(link);
        let mut answer = Answer::new(request.op().code(), Code::Done);
        match request {
            drpc::Request::Deliver { cid, uid, packet } => {
                let back = Back {
                    link: Some(conn.id()),
                    seq,
                    epoch: link.undecided.epoch(),
                    is_counted: false,
                };
                self.on_deliver(link, (cid, uid), packet, back);
                self.settle(&mut conn.reactor());
                // It is answered at the end of the turn, or later.
                return Action::Continue;
            }
            drpc::Request::Trigger { event, cid, uid } => {
                self.core.counters().events.add(1);
                if let Some(event) = Event::from_code(event) {
                    self.on_trigger(link, event, cid, uid);
                    self.settle(&mut conn.reactor());
                }
            }
            drpc::Request::GetState => {
                answer.value = Value::State(self.core.shared.registered.state_code());
            }
            drpc::Request::Ping => match link.undecided.ping(seq) {
                Some(true) => {
                    // Behind the rejects of this turn.
                    let (op, failed) = (Op::Ping, false);
                    self.note(Some(conn.id()), Note::Answer { op, seq, failed });
                    self.settle(&mut conn.reactor());
                    return Action::Continue;
                }
                Some(false) => return Action::Continue,
                None => answer.code = Code::Failed,
            },
            drpc::Request::SetState { state } => {
                let shared = &self.core.shared;
                answer.code = shared.registered.set_state_code(state, &shared.pool);
            }
            // The link has refused what a node does not serve, and has nothing to do for a Bye.
            _ => answer.code = Code::Failed,
        }
        if seq == 0 {
            return Action::Continue;
        }
        match conn.send((seq, answer)) {
            Ok(()) => Action::Continue,
            Err(error) => error.into(),
        }
    }

    /// Notes who has dialled.
    fn identify(&self, link: &mut Link) {
        let Some((kind, id)) = link.inbound.peer() else {
            return;
        };
        if *link.sender.id == *id {
            return;
        }
        let mut links = self.core.shared.links.lock();
        leave(&mut links, &link.sender.id);
        link.sender = Sender {
            id: id.into(),
            is_node: kind == Kind::Node.code(),
        };
        let mut hasher = FxHasher::default();
        hasher.write(id.as_bytes());
        link.hash = hasher.finish();
        *links.entry(link.sender.id.clone()).or_default() += 1;
    }

    fn on_deliver(
        &mut self,
        link: &mut Link,
        client @ (cid, uid): (i64, i64),
        packet: &[u8],
        back: Back,
    ) {
        let counters = self.core.counters();
        counters.packets_in.add(1);
        counters.bytes_in.add(packet.len() as u64);
        let owner = self.place(link, cid, uid);
        if owner == self.core.id && !self.waiting.holds(&link.sender, (cid, uid)) {
            if !self.on_packet(&link.sender, client, packet, back) {
                link.undecided.add();
            }
            return;
        }
        let is_counted = true;
        let back = Back { is_counted, ..back };
        let item = Item {
            from: link.sender.clone(),
            cid,
            uid,
            what: What::Packet {
                packet: packet.to_vec(),
                back,
            },
        };
        link.undecided.add();
        if self.core.shared.queued.enqueue(owner, item.weight()) {
            self.pass(owner, item);
        } else {
            self.refuse(client, packet, back, Some(RejectReason::Overload));
        }
    }

    fn on_trigger(&mut self, link: &mut Link, event: Event, cid: i64, uid: i64) {
        let owner = self.place(link, cid, uid);
        if event == Event::Disconnect {
            link.owners.remove(&cid);
        }
        if owner == self.core.id && !self.waiting.holds(&link.sender, (cid, uid)) {
            return self.on_event(&link.sender, event, cid, uid);
        }
        let from = link.sender.clone();
        let what = What::Event(event);
        self.assign(
            owner,
            Item {
                from,
                cid,
                uid,
                what,
            },
        );
    }

    /// Returns the reactor that handles what comes of a client. If it was another one before, the new one waits until that has
    /// done what it has.
    fn place(&mut self, link: &mut Link, cid: i64, uid: i64) -> usize {
        let reactors = self.outgoing.len();
        if reactors == 1 {
            return 0;
        }
        let key = match (cid, uid) {
            (0, 0) => return self.core.id,
            (_, 0) => link.hash ^ cid as u64,
            _ => uid as u64,
        };
        let owner = spread(key, reactors);
        if cid == 0 {
            return owner;
        }
        match link.owners.insert(cid, owner) {
            Some(old) if old != owner => {
                let fence = self.core.shared.last_fence.fetch_add(1, Ordering::Relaxed);
                let from = link.sender.clone();
                let item = |what| Item {
                    from: from.clone(),
                    cid,
                    uid,
                    what,
                };
                self.assign(owner, item(What::Await { fence }));
                self.assign(old, item(What::Leave { to: owner, fence }));
            }
            _ => {}
        }
        owner
    }

    /// Gives a reactor something that is not refused.
    fn assign(&mut self, reactor: usize, item: Item) {
        self.core
            .shared
            .queued
            .enqueue_anyway(reactor, item.weight());
        self.pass(reactor, item);
    }

    /// Gives a reactor something that has been counted.
    fn pass(&mut self, reactor: usize, item: Item) {
        if reactor == self.core.id {
            return self.accept(item);
        }
        self.outgoing[reactor].push(item);
        self.core.is_pending = true;
    }

    /// Takes an item, which waits if others of its connection do.
    fn accept(&mut self, item: Item) {
        if let What::Release { fence, .. } = item.what {
            self.core.shared.queued.dequeue(self.core.id, item.weight());
            let mut items = (self.waiting).release(&item.from, (item.cid, item.uid), fence);
            if let What::Release { found, .. } = item.what {
                self.found = found.filter(|_| !items.is_empty());
            }
            while let Some(item) = items.pop_front() {
                let (from, client) = (item.from.clone(), (item.cid, item.uid));
                self.perform(item);
                self.found = None;
                if self.waiting.holds(&from, client) {
                    return self.waiting.put_back(&from, client, items);
                }
            }
        } else if let Some(item) = self.waiting.push(item) {
            self.perform(item);
        }
    }

    fn perform(&mut self, item: Item) {
        self.core.shared.queued.dequeue(self.core.id, item.weight());
        let Item {
            from,
            cid,
            uid,
            what,
        } = item;
        match what {
            What::Packet { packet, back } => {
                self.on_packet(&from, (cid, uid), &packet, back);
            }
            What::Event(event) => self.on_event(&from, event, cid, uid),
            What::Leave { to, fence } => {
                if let Some(known) = self.connections.get_mut(&from.id) {
                    known.remove(&cid);
                }
                let what = What::Release { fence, found: None };
                self.assign(
                    to,
                    Item {
                        from,
                        cid,
                        uid,
                        what,
                    },
                );
            }
            What::Await { fence } => self.waiting.hold(&from, (cid, uid), fence),
            What::LinksEnded => self.check_gate(&from.id),
            // It was taken before.
            What::Release { .. } => {}
        }
    }

    /// Takes a packet or rejects it, and returns true; or waits for the locator.
    fn on_packet(&mut self, from: &Sender, client: (i64, i64), whole: &[u8], back: Back) -> bool {
        let (cid, uid) = client;
        self.know(from, cid, uid);
        let shared = self.core.shared.clone();
        let Ok(PacketFrame::Packet { packet, .. }) = shared.options.packet.decode_message(whole)
        else {
            self.refuse(client, whole, back, None);
            return true;
        };
        let router = self.router.clone();
        let Some(route) = router.route(packet.route).or(router.default_route()) else {
            self.core.counters().unknown_routes.add(1);
            self.answer(back, false);
            return true;
        };
        if route.spec.stateful {
            if uid <= 0 {
                self.refuse(client, whole, back, Some(RejectReason::Moved));
                return true;
            }
            if self.left.contains(&uid) {
                self.refuse(client, whole, back, Some(RejectReason::Draining));
                return true;
            }
            // The cache may have no answer again, for example while the locator cannot be reached.
            let located = match self.found.take() {
                Some(Ok(node)) => node.map_or(Located::Nowhere, Located::At),
                Some(Err(())) => {
                    self.refuse(client, whole, back, Some(RejectReason::Overload));
                    return true;
                }
                None => shared.locations.cached_node(uid, &shared.alias),
            };
            match located {
                Located::At(nid) if *nid == shared.ours.id => {}
                Located::At(_) | Located::Nowhere => {
                    self.refuse(client, whole, back, Some(RejectReason::Moved));
                    return true;
                }
                Located::Unknown => return self.await_location(from, client, whole, back),
            }
        }
        self.answer(back, false);
        self.run(from, client, Subject::Packet(packet), |state, request| {
            route.run(state, request)
        });
        true
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
            let found = asking.locations.node(uid, &asking.alias).map_err(|error| {
                log::warn!(target: "epicycle::cluster", "the user {uid} is not located: {error}");
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

    fn on_event(&mut self, from: &Sender, event: Event, cid: i64, uid: i64) {
        match event {
            Event::Disconnect => {
                if let Some(known) = self.connections.get_mut(&from.id) {
                    known.remove(&cid);
                }
            }
            _ => self.know(from, cid, uid),
        }
        let router = self.router.clone();
        if let Some(handler) = router.event(event) {
            let subject = Subject::Event(event);
            self.run(from, (cid, uid), subject, |state, request| {
                handler(state, request)
            });
        }
    }

    /// Remembers a connection, if somebody wants to know of its end.
    fn know(&mut self, from: &Sender, cid: i64, uid: i64) {
        if cid == 0 || from.is_node || !self.router.follows_connections() {
            return;
        }
        match self.connections.get_mut(&from.id) {
            Some(known) => drop(known.insert(cid, uid)),
            None => {
                let known = FxHashMap::from_iter([(cid, uid)]);
                self.connections.insert(from.id.clone(), known);
            }
        }
    }

    /// Gives up the connections of a gate that is not registered and has no link.
    fn check_gate(&mut self, gate: &Arc<str>) {
        if self.core.gates.contains(gate) || self.core.shared.links.lock().contains_key(gate) {
            return;
        }
        let Some(known) = self.connections.remove(gate) else {
            return;
        };
        self.core.counters().gates_lost.add(1);
        log::warn!(target: "epicycle::cluster", "the gate {gate} is lost, with {} connections", known.len());
        let from = Sender {
            id: gate.clone(),
            is_node: false,
        };
        let router = self.router.clone();
        if let Some(handler) = router.gate_lost() {
            self.run(&from, (0, 0), Subject::Own, |state, request| {
                handler(state, request)
            });
        }
        for (cid, uid) in known {
            self.on_event(&from, Event::Disconnect, cid, uid);
        }
    }

    fn run(
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
    fn refuse(
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
            let Packet { route, seq, .. } = packet;
            let reject = Note::Reject {
                cid,
                route,
                seq,
                reason,
            };
            self.note(back.link, reject);
        }
        self.answer(back, true);
    }

    fn note(&mut self, link: Option<ConnId>, note: Note) {
        if let Some(link) = link {
            self.notes[link.reactor()].push((link, note));
            self.core.is_pending = true;
        }
    }

    /// Takes a packet of this node to itself.
    fn on_own_packet(&mut self, own: OwnPacket) {
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

    /// Takes items of another reactor.
    fn take(&mut self, items: Vec<Item>, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        for item in items {
            self.accept(item);
        }
        self.settle(reactor);
    }

    /// Hands users over to whom the application wants.
    fn hand_over(&mut self, users: Vec<i64>, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        let from = self.own_sender();
        let router = self.router.clone();
        for uid in users {
            self.left.insert(uid);
            if let Some(handler) = router.hand_over() {
                self.run(&from, (0, uid), Subject::Own, |state, request| {
                    handler(state, request)
                });
            }
        }
        self.settle(reactor);
    }

    fn say_bye(&self, reactor: &mut Reactor<'_, Self>) -> usize {
        let mut of_due = 0;
        reactor.for_each(|conn, session| {
            if let Session::Inbound(link) = session {
                of_due += usize::from(!link.inbound.bye(conn));
            }
        });
        of_due
    }

    fn own_sender(&self) -> Sender {
        Sender {
            id: self.core.shared.ours.id.as_str().into(),
            is_node: true,
        }
    }

    fn run_task(&mut self, task: Task, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        task(&mut self.state, &mut self.core);
        self.settle(reactor);
    }

    /// Does what handlers have left to do. Calls that end in it are told in the next turn.
    fn settle(&mut self, reactor: &mut Reactor<'_, Self>) {
        if !self.core.is_unsettled() {
            return;
        }
        for item in std::mem::take(&mut self.core.released) {
            self.accept(item);
        }
        for (call, result) in std::mem::take(&mut self.core.ended) {
            call(&mut self.state, &mut self.core, result);
        }
        for (delay, task) in std::mem::take(&mut self.core.timers) {
            reactor.schedule(delay, move |node: &mut Self, reactor| {
                node.run_task(task, reactor);
            });
        }
        if self.core.has_new_peer {
            self.dial(reactor);
        }
        if self.core.is_unsettled() {
            self.core.is_pending = true;
            reactor.request_turn_end();
        }
    }

    /// Sends what the turn has collected to the other reactors, and to the servers that have dialled.
    fn ship(&mut self, reactor: &mut Reactor<'_, Self>) {
        for other in 0..self.outgoing.len() {
            let items = std::mem::take(&mut self.outgoing[other]);
            // Their bytes are counted, so they may go past the bound of the mailbox.
            if !items.is_empty() {
                reactor.engine().run_anyway(other, move |node, reactor| {
                    node.take(items, reactor);
                });
            }
            let notes = std::mem::take(&mut self.notes[other]);
            if notes.is_empty() {
                continue;
            }
            if other == self.core.id {
                write_notes(notes, reactor);
            } else {
                // Behind its own ones: a Ping must not be answered before the rejections that came earlier on the link.
                reactor.engine().run_anyway(other, move |node, reactor| {
                    let own = node.core.id;
                    node.notes[own].extend(notes);
                    node.core.is_pending = true;
                    reactor.request_turn_end();
                });
            }
        }
    }
}

impl<T: 'static> EventHandler for NodeReactor<T> {
    type Codec = FrameCodec;
    type Session = Session;

    fn codec(&mut self, _: &ConnInfo<'_>) -> FrameCodec {
        FrameCodec::default()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.core.posting.open(reactor.engine().clone());
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        match conn.origin() {
            Origin::Connected { token } => {
                let is_wanted = self.core.lanes.on_open(token, conn);
                is_wanted.then_some(Session::Lane(token))
            }
            _ => self.open_link(conn),
        }
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: Incoming<'_>,
    ) -> Action {
        let token = match session {
            Session::Inbound(link) => return self.on_link_frame(conn, link, frame),
            Session::Lane(token) => *token,
        };
        self.core.now = conn.now();
        let action = (self.core)
            .with_lanes(|lanes, mut events| lanes.receive(token, conn, frame, &mut events));
        self.settle(&mut conn.reactor());
        action
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, _: u64) -> Action {
        match session {
            Session::Inbound(link) => link.inbound.on_timer(conn),
            Session::Lane(_) => Action::Continue,
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        if let Session::Lane(token) = session {
            self.core.lanes.on_drain(*token, conn);
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session,
        reason: CloseReason,
    ) {
        match session {
            Session::Inbound(link) => {
                let stats = link.inbound.stats();
                let counters = self.core.counters();
                let refused = stats.malformed + stats.refused;
                counters.requests_refused.add(refused);
                counters.links.subtract(1);
                log::debug!(target: "epicycle::cluster", "the link of {} has ended: {reason}", link.inbound.name());
                if leave(&mut self.core.shared.links.lock(), &link.sender.id) {
                    for reactor in 0..self.outgoing.len() {
                        let item = Item {
                            from: link.sender.clone(),
                            cid: 0,
                            uid: 0,
                            what: What::LinksEnded,
                        };
                        self.assign(reactor, item);
                    }
                }
            }
            Session::Lane(token) => {
                (self.core).with_lanes(|lanes, mut events| {
                    lanes.on_close(token, info.id, reactor, &mut events);
                });
            }
        }
        self.settle(reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.core.lanes.on_connect_failed(&failed, reactor);
    }

    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.core.is_pending = false;
        self.core.now = reactor.now();
        for own in std::mem::take(&mut self.core.own_packets) {
            self.on_own_packet(own);
        }
        for task in std::mem::take(&mut self.core.deferred) {
            task(&mut self.state, &mut self.core);
        }
        self.settle(reactor);
        self.ship(reactor);
        self.core.lanes.flush(reactor);
    }
}

impl<T: 'static> LinkTimer for NodeReactor<T> {
    fn on_link_timer(&mut self, reactor: &mut Reactor<'_, Self>, at: Duration) {
        self.core.now = reactor.now();
        (self.core).with_lanes(|lanes, mut events| lanes.on_timer(at, reactor, &mut events));
        self.settle(reactor);
    }
}

impl<T: 'static> Reactors for Engine<NodeReactor<T>> {
    fn post(&self, reactor: usize, task: Task) -> Result<(), Error> {
        let run = move |node: &mut NodeReactor<T>, reactor: &mut Reactor<'_, NodeReactor<T>>| {
            node.run_task(task, reactor);
        };
        self.run_on(reactor, run).map_err(|error| match error {
            HandleError::MailboxFull => Error::Busy {
                what: "mailbox of a reactor",
            },
            _ => Error::Draining,
        })
    }

    fn post_anyway(&self, reactor: usize, task: Task) {
        self.run_anyway(reactor, move |node, reactor| node.run_task(task, reactor));
    }

    fn hand_over(&self, users: &[i64]) {
        on_all(self, |id| {
            let reactors = self.reactors();
            let here = users
                .iter()
                .filter(|uid| spread(**uid as u64, reactors) == id);
            let here: Vec<i64> = here.copied().collect();
            move |node, reactor| node.hand_over(here, reactor)
        });
    }

    fn say_bye(&self) -> usize {
        self.stop_accepting();
        let of_due = on_all(self, |_| |node, reactor| node.say_bye(reactor));
        of_due.iter().sum()
    }
}

/// Returns one of several reactors.
fn spread(key: u64, reactors: usize) -> usize {
    // Numbers are often consecutive, or multiples of something.
    let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    spread as usize % reactors
}

/// Notes that a link of a server has ended. Returns true if that was the last one.
fn leave(links: &mut HashMap<Arc<str>, usize>, id: &Arc<str>) -> bool {
    let Some(count) = links.get_mut(id) else {
        return false;
    };
    *count -= 1;
    let was_last = *count == 0;
    if was_last {
        links.remove(id);
    }
    was_last
}

fn send_answer<T: 'static>(conn: &mut Conn<'_, NodeReactor<T>>, op: Op, seq: u64, code: Code) {
    if seq != 0
        && let Err(error) = conn.send((seq, Answer::new(op.code(), code)))
    {
        log::debug!(target: "epicycle::cluster", "an answer to a server is lost: {error}");
    }
}

fn write_notes<T: 'static>(notes: Vec<(ConnId, Note)>, reactor: &mut Reactor<'_, NodeReactor<T>>) {
    for (link, note) in notes {
        reactor.with(link, |conn, session| {
            let Session::Inbound(link) = session else {
                return;
            };
            match note {
                Note::Answer { op, seq, failed } => {
                    let code = if failed { Code::Failed } else { Code::Done };
                    send_answer(conn, op, seq, code);
                }
                Note::Decided { epoch } => {
                    for seq in link.undecided.decide(epoch) {
                        send_answer(conn, Op::Ping, seq, Code::Done);
                    }
                }
                Note::Reject {
                    cid,
                    route,
                    seq,
                    reason,
                } => link.inbound.reject(conn, cid, (route, seq), reason),
            }
        });
    }
}
