//! The clients of UDP listeners: each has a session, and the session has a node.

use std::fmt;
use std::mem;
use std::rc::Rc;
use std::time::Instant;

use super::datagrams::{DatagramDial, DatagramWay, Held, session_limits};
use super::{Proxy, Session};
use crate::balance::{Node, NodeId, Outcome};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::hooks::Hooks;
use crate::gateway::metrics::DropReason;
use crate::gateway::pool::Chosen;
use crate::gateway::record::{EndedBy, Notes};
use crate::gateway::rules::Listener;
use crate::http::StatusCode;

/// The state of a session of a UDP listener's client.
pub struct UdpSession {
    listener: Rc<Listener>,
    /// The number of the pool.
    pool: usize,
    /// The hash that the balancer may use.
    key: u64,
    chosen: Option<Chosen>,
    way: DatagramWay,
    /// The node that has failed it, which is not chosen again at once.
    failed: Option<NodeId>,
    /// The node whose name stands in the record.
    last_node: Option<NodeId>,
    /// True if its node has answered.
    is_answered: bool,
    notes: Notes,
}

/// The state of a session with the node of a UDP listener's client.
pub struct UdpNode {
    client: ConnId,
    pub(super) pool: usize,
    pub(super) node: NodeId,
    has_answered: bool,
}

impl UdpSession {
    /// Returns the number of the pool, and the node.
    pub(super) fn destination(&self) -> (usize, Option<NodeId>) {
        (self.pool, self.last_node)
    }

    /// Returns the time at which it began.
    pub(super) fn began(&self) -> Instant {
        self.notes.began
    }
}

impl<H: Hooks> Proxy<H> {
    /// Begins with a client. Returns `None` if it is not admitted.
    pub(super) fn begin_datagrams(
        &mut self,
        conn: &mut Conn<'_, Self>,
        listener: Rc<Listener>,
    ) -> Option<UdpSession> {
        let number = *self.rules.pools.get(&**listener.settings.pool.as_ref()?)?;
        self.meters.all.udp_sessions.add(1);
        Some(UdpSession {
            key: self.pools[number].key_of(conn.peer_addr().ip()),
            listener,
            pool: number,
            chosen: None,
            way: DatagramWay::None,
            failed: None,
            last_node: None,
            is_answered: false,
            notes: Notes::at(conn.now(), conn.unix_time()),
        })
    }

    /// Passes on a datagram of a client.
    pub(super) fn on_client_datagram(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut UdpSession,
        datagram: &[u8],
    ) -> Action {
        self.leave_node_if_gone(conn, session);
        if let DatagramWay::None = session.way {
            self.find_way(conn, session);
        }
        match &mut session.way {
            DatagramWay::Open(node) => {
                match conn.with(*node, |node, _| node.write(datagram)) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => self.note_unwritten(&error),
                    // Its end is told in a moment.
                    None => self.drop_datagrams(DropReason::Unreachable, 1),
                }
            }
            DatagramWay::Opening(held) => {
                if !held.add(datagram) {
                    self.drop_datagrams(DropReason::Full, 1);
                }
            }
            DatagramWay::None => self.drop_datagrams(DropReason::Unreachable, 1),
        }
        Action::Continue
    }

    /// Leaves a node that was removed, or that is down while another one is up.
    fn leave_node_if_gone(&mut self, conn: &mut Conn<'_, Self>, session: &mut UdpSession) {
        let Some(chosen) = &session.chosen else {
            return;
        };
        let pool = &mut self.pools[session.pool];
        let node = chosen.node;
        let is_there = !pool.is_leaving(node);
        if is_there && pool.nodes.get(node).is_some_and(Node::is_up) {
            return;
        }
        let other = match is_there {
            false => None,
            true => match pool.pick(session.key, &[node]).ok() {
                Some(other) if pool.nodes.get(other.node).is_some_and(Node::is_up) => Some(other),
                _ => return,
            },
        };
        session.chosen = other;
        if let DatagramWay::Open(id) = mem::take(&mut session.way) {
            conn.with(id, |conn, _| conn.close());
        }
    }

    /// Chooses a node, unless one is chosen, and begins to make a session to it.
    fn find_way(&mut self, conn: &mut Conn<'_, Self>, session: &mut UdpSession) {
        let pool = &mut self.pools[session.pool];
        let failed = session.failed.take();
        let chosen = session.chosen.take().or_else(|| {
            let other = failed.and_then(|failed| pool.pick(session.key, &[failed]).ok());
            other.or_else(|| pool.pick(session.key, &[]).ok())
        });
        let Some(chosen) = chosen else {
            session.notes.status = Some(StatusCode::SERVICE_UNAVAILABLE);
            return;
        };
        let node = chosen.node;
        session.chosen = Some(chosen);
        session.last_node = Some(node);
        session.notes.tries += 1;
        let limits = session_limits(session.listener.settings.datagrams.idle);
        let Some(connect) = pool.connect_datagrams(node, limits) else {
            session.chosen = None;
            return;
        };
        let client = conn.id();
        let dial = DatagramDial::Node { client, node };
        match self.dial_datagrams(&mut conn.reactor(), connect, dial) {
            Ok(_) => session.way = DatagramWay::Opening(Held::default()),
            Err(error) => {
                log::debug!(target: "epicycle::gateway::udp", "no way to a node: {error}");
                session.chosen = None;
            }
        }
    }

    pub(super) fn on_udp_node_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: ConnId,
        node: NodeId,
    ) -> Option<Session<H>> {
        let (id, now) = (conn.id(), conn.now());
        let opened = conn.with(client, |_, session| {
            let Session::Udp(session) = session else {
                return None;
            };
            let is_wanted = session
                .chosen
                .as_ref()
                .is_some_and(|chosen| chosen.node == node);
            match mem::take(&mut session.way) {
                DatagramWay::Opening(held) if is_wanted => {
                    session.way = DatagramWay::Open(id);
                    let connected = session.notes.since(now);
                    session.notes.times.connected.get_or_insert(connected);
                    session.notes.status = Some(StatusCode::OK);
                    Some((held, session.pool))
                }
                other => {
                    session.way = other;
                    None
                }
            }
        });
        // A client that has another node by now, or is gone, needs it no more.
        let (held, pool) = opened.flatten()?;
        self.write_held(conn, held);
        Some(Session::UdpNode(Box::new(UdpNode {
            client,
            pool,
            node,
            has_answered: false,
        })))
    }

    /// Passes on a datagram of a node.
    pub(super) fn on_node_datagram(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut UdpNode,
        datagram: &[u8],
    ) -> Action {
        let now = conn.now();
        if !mem::replace(&mut session.has_answered, true)
            && self.pools[session.pool].report(session.node, Outcome::Success, now)
        {
            let number = session.pool;
            conn.defer(move |proxy, reactor| proxy.tend_health(number, reactor));
        }
        let written = conn.with(session.client, |client, session| {
            if let Session::Udp(session) = session {
                session.is_answered = true;
                let first = session.notes.since(now);
                session.notes.times.first_byte.get_or_insert(first);
            }
            client.write(datagram)
        });
        self.after_answer(written)
    }

    pub(super) fn on_udp_node_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: &UdpNode,
        reason: &CloseReason,
    ) {
        // The error that the kernel has for a socket whose peer's host says that nobody listens there.
        let has_failed = matches!(reason, CloseReason::Reset(_) | CloseReason::Io(_));
        self.on_udp_node_gone(
            session.client,
            session.node,
            Some(info.id),
            has_failed,
            reactor,
        );
    }

    /// Lets a client whose node is gone have another one with its next datagram. `way` is the session to the node, if there was
    /// one.
    pub(super) fn on_udp_node_gone(
        &mut self,
        client: ConnId,
        node: NodeId,
        way: Option<ConnId>,
        has_failed: bool,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let pool = reactor.with(client, |_, session| {
            let Session::Udp(session) = session else {
                return None;
            };
            let is_current = match (&session.way, way) {
                (DatagramWay::Open(id), Some(way)) => *id == way,
                (DatagramWay::Opening(_), None) => true,
                _ => false,
            };
            if !is_current {
                return None;
            }
            if let DatagramWay::Opening(held) = mem::take(&mut session.way) {
                let dropped = &self.meters.all.dropped_datagrams;
                dropped[DropReason::Unreachable].add(held.len() as u64);
            }
            if has_failed {
                session.chosen = None;
                session.failed = Some(node);
                session.notes.status = Some(StatusCode::BAD_GATEWAY);
            }
            Some(session.pool)
        });
        if let Some(pool) = pool.flatten()
            && has_failed
            && self.pools[pool].report(node, Outcome::Failure, reactor.now())
        {
            self.tend_health(pool, reactor);
        }
    }

    pub(super) fn on_udp_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        mut session: UdpSession,
        reason: &CloseReason,
    ) {
        self.meters.all.udp_sessions.subtract(1);
        match mem::take(&mut session.way) {
            DatagramWay::Open(node) => {
                reactor.with(node, |node, _| node.close());
            }
            DatagramWay::Opening(held) => {
                self.drop_datagrams(DropReason::Unreachable, held.len());
            }
            DatagramWay::None => {}
        }
        let notes = &mut session.notes;
        notes.ended_by = match (notes.status, reason) {
            (_, CloseReason::Shutdown | CloseReason::Panic) => EndedBy::Gateway,
            (Some(StatusCode::OK), _) => EndedBy::Nobody,
            (Some(StatusCode::BAD_GATEWAY), _) => EndedBy::Node,
            _ => EndedBy::Gateway,
        };
        notes.status.get_or_insert(StatusCode::SERVICE_UNAVAILABLE);
        self.record_forwarded(
            info,
            "UDP",
            &session.listener,
            session.pool,
            session.last_node,
            notes,
        );
    }
}

impl fmt::Debug for UdpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSession")
            .field("way", &self.way)
            .field("is_answered", &self.is_answered)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UdpNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpNode")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
