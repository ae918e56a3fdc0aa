//! A gate on one reactor.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::away::Away;
use super::by_route::ByRoute;
use super::client::Client;
use super::codec::{Protocol, ProtocolFrame};
use super::kept::{Asked, Kept, Notice, note};
use super::listener::Door;
use super::resume::Claim;
use super::servers::Known;
use super::shared::Shared;
use super::stats::GateCounters;
#[cfg(feature = "kcp")]
use super::unproved::Unproved;
use super::work::{Reply, Work};
use crate::cluster::dispatch::RouteTable;
use crate::cluster::drpc::FrameCodec;
use crate::cluster::link::{Identity, Inbound, LaneEvent, Lanes, LinkTimer, Verdict};
#[cfg(feature = "kcp")]
use crate::cluster::over_kcp::{self, KcpCodec};
use crate::cluster::packet::{EncodedPacket, PacketCodec};
use crate::cluster::registry::LinkEndpoint;
use crate::cluster::seldom::warn_seldom;
use crate::cluster::session::Sessions;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
#[cfg(feature = "kcp")]
use crate::engine::handler::{Datagram, Udp};
use crate::engine::slots::ConnId;
use crate::ws;

/// The part of a gate that one reactor has.
///
/// The requests of other servers are not served in the callback of their link, where that connection and those of the callbacks around
/// it are out of reach, but at the end of the turn: [`queue`](Self::queue) has the tasks for this reactor, and
/// [`outgoing`](Self::outgoing) those for others, which get all of a turn at once. The order of the tasks of a link is kept.
pub(super) struct GateReactor {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) sessions: Sessions,
    pub(super) lanes: Lanes<Asked>,
    pub(super) nodes: Arc<[(Identity, LinkEndpoint)]>,
    /// The other gates.
    pub(super) gates: Arc<[(Identity, LinkEndpoint)]>,
    /// The gates that users come from or go to. The others are not dialled.
    pub(super) dialled: HashSet<String>,
    /// The notices of the links to nodes in this turn.
    pub(super) notices: Vec<Notice>,
    pub(super) kept: Kept,
    /// True while a timer runs until nodes are asked about what is kept.
    pub(super) is_asking: bool,
    /// The clients that wait for nodes.
    pub(super) waiting: Vec<i64>,
    /// The clients that wait for the links to nodes.
    pub(super) held_up: FxHashSet<i64>,
    /// True while a link has much to send.
    pub(super) is_loaded: bool,
    /// The number of times that this has ended.
    pub(super) loads: u64,
    pub(super) table: RouteTable,
    pub(super) by_route: ByRoute,
    pub(super) queue: VecDeque<Work>,
    /// By reactor.
    pub(super) outgoing: Vec<Vec<Work>>,
    /// Answers to links, by reactor.
    pub(super) answers: Vec<Vec<(ConnId, Vec<u8>)>>,
    /// True if the end of the turn has something to do.
    pub(super) is_pending: bool,
    /// True once the clients know that the gate is about to stop.
    pub(super) said_goodbye: bool,
    /// The users that have lost their connection, by its number.
    pub(super) away: FxHashMap<i64, Away>,
    /// The number of those that are on another connection.
    pub(super) settled: usize,
    /// The pushes to connections that are about to end, and can no longer be reached.
    pub(super) limbo: FxHashMap<i64, Limbo>,
    /// The connections for which the locator is asked for the user that they take back. True if another gate may have got it meanwhile.
    pub(super) binding: FxHashMap<i64, bool>,
    /// The connections that were lost while they took a user back.
    pub(super) orphans: FxHashSet<i64>,
    /// The claims that wait for nodes.
    pub(super) ordering: FxHashMap<u64, Pending>,
    pub(super) last_order: u64,
    /// The moment at which the gate began, as far as this reactor knows.
    pub(super) started: Option<Instant>,
    #[cfg(feature = "kcp")]
    pub(super) unproved: Unproved,
}

/// Pushes and claims that come for a connection between its end and the callback that tells it.
#[derive(Default)]
pub(super) struct Limbo {
    pub(super) pushes: Vec<EncodedPacket>,
    pub(super) bytes: usize,
    pub(super) claims: Vec<(Claim, Option<Arc<Reply>>)>,
}

/// A claim that waits until nodes have taken what the old connection has sent.
pub(super) struct Pending {
    pub(super) missing: usize,
    pub(super) cid: i64,
    pub(super) claim: Claim,
    pub(super) reply: Option<Arc<Reply>>,
}

pub(super) enum Session {
    Client(Box<Client>),
    /// A link that another server has dialled.
    Inbound(Box<Inbound>),
    /// A link that this side has dialled, with its token.
    Lane(u64),
}

impl GateReactor {
    pub(super) fn new(id: usize, shared: Arc<Shared>, known: Known) -> Self {
        let reactors = shared.counters.len();
        let (ours, options) = (shared.ours.clone(), &shared.options);
        let lanes = Lanes::new(ours, options.secret.clone(), options.lanes.clone());
        let lanes = lanes.chance(&options.chance);
        #[cfg(feature = "tls")]
        let lanes = lanes.tls(options.tls.as_ref().map(|tls| tls.client.clone()));
        Self {
            id,
            sessions: Sessions::new(id, shared.began, shared.all_channels.clone()),
            lanes,
            nodes: known.nodes,
            gates: known.gates,
            dialled: HashSet::new(),
            notices: Vec::new(),
            kept: Kept::default(),
            is_asking: false,
            waiting: Vec::new(),
            held_up: FxHashSet::default(),
            is_loaded: false,
            loads: 0,
            table: known.table,
            by_route: ByRoute::new(shared.routes.clone()),
            queue: VecDeque::new(),
            outgoing: (0..reactors).map(|_| Vec::new()).collect(),
            answers: (0..reactors).map(|_| Vec::new()).collect(),
            is_pending: false,
            said_goodbye: false,
            away: FxHashMap::default(),
            settled: 0,
            limbo: FxHashMap::default(),
            binding: FxHashMap::default(),
            orphans: FxHashSet::default(),
            ordering: FxHashMap::default(),
            last_order: 0,
            started: None,
            #[cfg(feature = "kcp")]
            unproved: Unproved::new(shared.most_unproved()),
            shared,
        }
    }

    pub(super) fn counters(&self) -> &GateCounters {
        &self.shared.counters[self.id]
    }

    /// Takes the nodes that are registered now.
    pub(super) fn set_nodes(
        &mut self,
        table: RouteTable,
        peers: Arc<[(Identity, LinkEndpoint)]>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        self.table = table;
        self.started.get_or_insert(reactor.now());
        self.nodes = peers.clone();
        self.reach_peers(reactor);
        self.heed(reactor);
        let is_there = |nid: &str| peers.iter().any(|(peer, _)| peer.id == nid);
        let returned = self.kept.retain(is_there);
        self.take_back(returned, reactor);
        self.release(reactor);
        self.request_turn_end(reactor);
    }

    /// Takes the gates that are registered now.
    pub(super) fn set_gates(
        &mut self,
        gates: Arc<[(Identity, LinkEndpoint)]>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let is_there = |gid: &String| gates.iter().any(|(gate, _)| gate.id == *gid);
        self.dialled.retain(is_there);
        self.gates = gates;
        self.reach_peers(reactor);
        self.request_turn_end(reactor);
    }

    /// Dials the nodes, and the gates that users come from or go to.
    pub(super) fn reach_peers(&mut self, reactor: &mut Reactor<'_, Self>) {
        let mut peers = self.nodes.to_vec();
        let gates = self.gates.iter();
        peers.extend(
            gates
                .filter(|(gate, _)| self.dialled.contains(&gate.id))
                .cloned(),
        );
        let counters = &self.shared.counters[self.id];
        (self.lanes).set_peers(&peers, reactor, &mut noting(counters, &mut self.notices));
    }

    /// Takes tasks from other threads.
    pub(super) fn take(&mut self, work: Vec<Work>, reactor: &mut Reactor<'_, Self>) {
        self.queue.extend(work);
        self.is_pending = true;
        reactor.request_turn_end();
    }

    fn open_link(&self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let (options, counters) = (&self.shared.options, self.counters());
        if !self.shared.links().admit(None) {
            warn_seldom!(
                "no link for {}: there are {} already; raise max_links",
                conn.peer_addr(),
                options.max_links
            );
            counters.links_refused.add(1);
            return None;
        }
        counters.links.add(1);
        let (ours, secret) = (self.shared.ours.clone(), options.secret.clone());
        let inbound = Inbound::open(ours, secret, &options.chance, conn);
        Some(Session::Inbound(Box::new(inbound)))
    }

    /// Takes answers from other reactors.
    fn take_answers(&mut self, answers: Vec<(ConnId, Vec<u8>)>, reactor: &mut Reactor<'_, Self>) {
        self.answers[self.id].extend(answers);
        self.is_pending = true;
        reactor.request_turn_end();
    }

    /// Sends what the turn has collected: answers to the links of this reactor, and the rest to the others.
    fn ship(&mut self, reactor: &mut Reactor<'_, Self>) {
        for (link, answer) in std::mem::take(&mut self.answers[self.id]) {
            reactor.with(link, |conn, _| {
                if let Err(error) = conn.write(&answer) {
                    log::debug!(target: "epicycle::cluster", "an answer to a server is lost: {error}");
                }
            });
        }
        for other in 0..self.outgoing.len() {
            let answers = std::mem::take(&mut self.answers[other]);
            let work = std::mem::take(&mut self.outgoing[other]);
            // Their bytes are counted when they are made, so they may go past the bound of the mailbox.
            if !work.is_empty() {
                let take = move |gate: &mut Self, reactor: &mut Reactor<'_, Self>| {
                    gate.take(work, reactor);
                };
                reactor.engine().run_anyway(other, take);
            }
            if !answers.is_empty() {
                reactor.engine().run_anyway(other, move |gate, reactor| {
                    gate.take_answers(answers, reactor);
                });
            }
        }
    }

    /// Asks for a call at the end of the turn, if there is something to do.
    fn settle(&mut self, conn: &mut Conn<'_, Self>) {
        self.lanes.flush_long(&mut conn.reactor());
        if self.has_to_do() {
            conn.request_turn_end();
        }
    }

    fn request_turn_end(&self, reactor: &mut Reactor<'_, Self>) {
        if self.has_to_do() {
            reactor.request_turn_end();
        }
    }

    fn has_to_do(&self) -> bool {
        self.is_pending || self.is_loaded || !self.notices.is_empty()
    }
}

impl EventHandler for GateReactor {
    type Codec = Protocol;
    type Session = Session;

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.set_nodes(self.table.clone(), self.nodes.clone(), reactor);
    }

    fn codec(&mut self, info: &ConnInfo<'_>) -> Protocol {
        let packet = self.shared.options.packet;
        let door = match info.origin() {
            Origin::Accepted { listener } => self.shared.doors.get(listener),
            _ => None,
        };
        match door {
            Some(Door::Packets) => PacketCodec::new(packet).into(),
            Some(Door::Sockets(_)) => {
                let max = packet.max_packet().max(9 + 4);
                let limits = ws::Limits::default().max_frame(max).max_message(max);
                ws::ServerCodec::new(limits).into()
            }
            #[cfg(feature = "kcp")]
            Some(Door::Kcp(options)) => {
                let secret = self.shared.options.chance.bytes();
                KcpCodec::server(options.clone(), packet, secret).into()
            }
            Some(Door::Links) | None => FrameCodec::default().into(),
        }
    }

    #[cfg(feature = "kcp")]
    fn admit(&mut self, _udp: &mut Udp<'_, Self>, datagram: &Datagram<'_>) -> bool {
        !datagram.truncated && over_kcp::opens(datagram.data)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session> {
        let opened = match conn.origin() {
            Origin::Connected { token } => self
                .lanes
                .on_open(token, conn)
                .then_some(Session::Lane(token)),
            Origin::Accepted { listener: 0 } => self.open_link(conn),
            _ => self
                .open_client(conn)
                .map(|client| Session::Client(Box::new(client))),
        };
        self.settle(conn);
        opened
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session,
        frame: ProtocolFrame<'_>,
    ) -> Action {
        let action = match (session, frame) {
            (Session::Client(client), ProtocolFrame::Packets(frame)) => {
                let len = match conn.codec() {
                    Protocol::Packets(packets) => packets.frame_len(),
                    _ => 0,
                };
                self.on_frame(conn, client, frame, len)
            }
            (Session::Client(client), ProtocolFrame::Socket(incoming)) => {
                self.on_socket(conn, client, incoming)
            }
            #[cfg(feature = "kcp")]
            (Session::Client(client), ProtocolFrame::Kcp(datagram)) => {
                self.on_client_datagram(conn, client, datagram)
            }
            #[cfg(not(feature = "kcp"))]
            (_, ProtocolFrame::Kcp(never)) => match never {},
            (Session::Inbound(link), ProtocolFrame::Link(frame)) => {
                match link.receive(conn, frame) {
                    Ok(Verdict::Serve { seq, request }) => {
                        self.serve(conn, seq, request, link.peer())
                    }
                    Ok(Verdict::Done) => Action::Continue,
                    Err(error) => {
                        log::warn!(target: "epicycle::cluster", "the link of {}: {error}", link.name());
                        Action::Close
                    }
                }
            }
            (Session::Lane(token), ProtocolFrame::Link(frame)) => {
                let mut events = noting(&self.shared.counters[self.id], &mut self.notices);
                self.lanes.receive(*token, conn, frame, &mut events)
            }
            // The codec was chosen by the same origin as the session.
            _ => Action::Close,
        };
        self.settle(conn);
        action
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session, token: u64) -> Action {
        let action = match session {
            Session::Client(client) => self.on_client_timer(conn, client, token),
            Session::Inbound(link) => link.on_timer(conn),
            Session::Lane(_) => Action::Continue,
        };
        self.settle(conn);
        action
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session) -> Action {
        if let Session::Lane(token) = session {
            self.lanes.on_drain(*token, conn);
            self.settle(conn);
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
            Session::Client(client) => self.close_client(reactor, client, info, &reason),
            Session::Inbound(link) => {
                let stats = link.stats();
                let refused = stats.malformed + stats.refused;
                self.counters().requests_refused.add(refused);
                self.counters().links.subtract(1);
                self.shared.links().release(None);
                log::debug!(target: "epicycle::cluster", "the link of {} has ended: {reason}", link.name());
            }
            Session::Lane(token) => {
                let mut events = noting(&self.shared.counters[self.id], &mut self.notices);
                self.lanes.on_close(token, info.id, reactor, &mut events);
            }
        }
        self.request_turn_end(reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.lanes.on_connect_failed(&failed, reactor);
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.say_goodbye(reactor);
        self.end_away_users(true, reactor);
        self.say_bye(reactor);
    }

    fn on_turn_end(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.is_pending = false;
        self.heed(reactor);
        self.work(reactor);
        self.ask_nodes(reactor);
        self.lanes.flush(reactor);
        self.note_load(reactor);
        self.ship(reactor);
        let counters = self.counters();
        let lost = self.away.len() + self.orphans.len();
        counters
            .connections
            .set((self.sessions.len() - lost) as u64);
        counters
            .users
            .set((self.sessions.users() - self.settled) as u64);
        counters.away.set((self.away.len() - self.settled) as u64);
        counters.kept_bytes.set(self.kept.bytes() as u64);
        if !self.queue.is_empty() {
            self.is_pending = true;
            reactor.request_turn_end();
        }
    }
}

impl LinkTimer for GateReactor {
    fn on_link_timer(&mut self, reactor: &mut Reactor<'_, Self>, at: Duration) {
        let counters = &self.shared.counters[self.id];
        (self.lanes).on_timer(at, reactor, &mut noting(counters, &mut self.notices));
        self.request_turn_end(reactor);
    }
}

/// Returns a function that counts and notes the events of lanes.
fn noting(
    counters: &GateCounters,
    notices: &mut Vec<Notice>,
) -> impl FnMut(&Identity, LaneEvent<'_, Asked>) {
    |node, event| {
        if let LaneEvent::GaveUp { frames, .. } = event {
            counters.given_up.add(frames);
        }
        note(notices, node, event);
    }
}
