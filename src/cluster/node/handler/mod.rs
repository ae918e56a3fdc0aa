//! A node on one reactor.

mod connections;
mod packets;
mod passing;
mod remote;
mod serving;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use self::connections::Known;
use self::serving::write_notes;
use super::actor::run_timers;
use super::context::{Core, Task};
use super::hand_over::{Found, Item, Note, Sender, Undecided, Waiting};
use super::rejecting::Rejecting;
use super::router::Router;
#[cfg(doc)]
use super::shared::Shared;
use crate::cluster::Kind;
use crate::cluster::dispatch::RouteTable;
use crate::cluster::drpc::{FrameCodec, Incoming};
use crate::cluster::link::{Identity, Inbound, LinkTimer};
use crate::cluster::registry::LinkEndpoint;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::engine::slots::ConnId;
use crate::engine::timer::TimerKey;

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
    connections: BTreeMap<Arc<str>, Known>,
    rejecting: Rejecting,
    /// The users that were handed over, since the node is about to stop.
    left: HashSet<i64>,
    /// The locator's answer for the packet that has asked, which is performed next.
    found: Option<Found>,
    /// The engine's timer for the first alarm.
    alarm: Option<TimerKey>,
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
    /// True if links of the same server have left theirs: see [`Shared::parked`].
    has_parked: bool,
    /// True once its server has said that it sends no more.
    has_left: bool,
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
            connections: BTreeMap::new(),
            rejecting: Rejecting::default(),
            left: HashSet::new(),
            found: None,
            alarm: None,
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
        let nodes = peers.iter().filter(|(peer, _)| peer.kind == Kind::Node);
        let nodes: HashSet<&str> = nodes.map(|(peer, _)| &*peer.id).collect();
        self.core.dialled.retain(|node| nodes.contains(&**node));
        (self.core.peers, self.core.table) = (peers, table);
        self.dial(reactor);
        self.forget_parked();
        self.check_gates();
        self.settle(reactor);
    }

    /// Forgets which reactors had the connections of gates that are gone.
    fn forget_parked(&self) {
        let (gates, shared) = (&self.core.gates, &self.core.shared);
        let links = shared.links.lock();
        let is_there = |gate: &Arc<str>| gates.contains(gate) || links.contains_key(gate);
        shared.parked.lock().retain(|gate, _| is_there(gate));
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

    fn run_task(&mut self, task: Task, reactor: &mut Reactor<'_, Self>) {
        self.core.now = reactor.now();
        task(&mut self.state, &mut self.core);
        self.settle(reactor);
    }

    /// Does what handlers have left to do. Calls that end in it are told in the next turn.
    #[inline]
    fn settle(&mut self, reactor: &mut Reactor<'_, Self>) {
        if self.core.has_calls() {
            self.run_calls(reactor);
        }
        self.core.lanes.flush_long(reactor);
        if self.core.is_pending || self.core.has_calls() {
            self.core.is_pending = true;
            reactor.request_turn_end();
        }
    }

    fn run_calls(&mut self, reactor: &mut Reactor<'_, Self>) {
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
        if self.core.alarms.is_changed() {
            self.set_alarm(reactor);
        }
        if self.core.has_new_peer {
            self.dial(reactor);
        }
    }

    /// Asks the engine for the time of the first alarm.
    fn set_alarm(&mut self, reactor: &mut Reactor<'_, Self>) {
        if let Some(alarm) = self.alarm.take() {
            reactor.unschedule(alarm);
        }
        if let Some(at) = self.core.alarms.arm() {
            let delay = at.saturating_duration_since(reactor.now());
            self.alarm = Some(reactor.schedule_keyed(delay, Self::on_alarm));
        }
    }

    fn on_alarm(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.alarm = None;
        self.core.now = reactor.now();
        for entry in self.core.alarms.take_due(self.core.now) {
            run_timers(&entry, &mut self.core);
        }
        self.settle(reactor);
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

    fn own_sender(&self) -> Sender {
        Sender {
            id: self.core.shared.ours.id.as_str().into(),
            is_node: true,
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
        let (peers, table) = (self.core.peers.clone(), self.core.table.clone());
        self.set_servers(peers, table, reactor);
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
                counters.left.subtract(link.has_left.into());
                self.core.shared.entrance.admission().release(None);
                log::debug!(target: "epicycle::cluster", "the link of {} has ended: {reason}", link.inbound.name());
                self.close_link(*link);
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
