//! The clients of TCP listeners: a node of the pool is chosen and connected, and both connections are joined.

use std::fmt;
use std::rc::Rc;

use super::placing::{busy, named};
use super::{Proxy, Session};
use crate::balance::{NodeId, Outcome};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::handler::{Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::fetch::Ticket;
use crate::gateway::destination::Destination;
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::hooks::Hooks;
use crate::gateway::pool::Chosen;
use crate::gateway::record::{EndedBy, Notes};
use crate::gateway::rules::Listener;
use crate::http::StatusCode;

/// The state of a connection of a TCP listener's client.
pub struct TcpSession {
    listener: Rc<Listener>,
    /// The number of the pool.
    pool: usize,
    /// The hash that the balancer may use.
    key: u64,
    chosen: Option<Chosen>,
    /// The nodes that could not be connected to.
    tried: Vec<NodeId>,
    /// The node whose name stands in the record.
    last_node: Option<NodeId>,
    retries: u32,
    place: Place,
    pub(super) notes: Notes,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It waits for a connection to its node.
    Waiting(Ticket),
    /// Its connection is joined with that of its node.
    Joined,
    /// It has no node, and is being closed.
    Nowhere,
}

impl TcpSession {
    /// Returns true if its connection is joined with that of its node.
    pub(super) fn is_joined(&self) -> bool {
        self.place == Place::Joined
    }

    /// Returns the number of the pool, and the node that was tried last.
    pub(super) fn destination(&self) -> (usize, Option<NodeId>) {
        (self.pool, self.last_node)
    }

    /// Notes why the connection to the node has ended.
    pub(super) fn note_end_of_node(&mut self, reason: &CloseReason) {
        self.notes.ended_by = match reason {
            // That both sides have ended their streams, or what the client did.
            CloseReason::Peer | CloseReason::Pipe => return,
            CloseReason::Timeout(_) => {
                self.notes.timeout = "tunnel_idle";
                EndedBy::Timeout
            }
            CloseReason::Aborted | CloseReason::Shutdown | CloseReason::Local => EndedBy::Gateway,
            _ => EndedBy::Node,
        };
    }
}

impl<H: Hooks> Proxy<H> {
    /// Begins with a client. Returns `None` if its listener has no pool any more.
    pub(super) fn begin_forwarding(
        &mut self,
        conn: &mut Conn<'_, Self>,
        listener: Rc<Listener>,
    ) -> Option<TcpSession> {
        // Its bytes wait in the kernel until there is a node.
        conn.pause_reads();
        let number = *self.rules.pools.get(&**listener.settings.pool.as_ref()?)?;
        let pool = &mut self.pools[number];
        pool.count(conn.now());
        let mut session = TcpSession {
            key: pool.key_of(conn.peer_addr().ip()),
            listener,
            pool: number,
            chosen: None,
            tried: Vec::new(),
            last_node: None,
            retries: 0,
            place: Place::Nowhere,
            notes: Notes::at(conn.now(), conn.unix_time()),
        };
        self.find_node(conn, &mut session);
        Some(session)
    }

    /// Asks for a connection to a node, or refuses the client.
    fn find_node(&mut self, conn: &mut Conn<'_, Self>, session: &mut TcpSession) {
        if let Err(error) = self.ask_for_node(conn, session) {
            Self::refuse_tcp(conn, session, &error);
        }
    }

    fn ask_for_node(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut TcpSession,
    ) -> Result<(), ProxyError> {
        let pool = &mut self.pools[session.pool];
        let chosen = match session.chosen.take() {
            Some(chosen) => chosen,
            None => pool.pick(session.key, &session.tried)?,
        };
        let node = chosen.node;
        session.chosen = Some(chosen);
        session.last_node = Some(node);
        let settings = pool.settings();
        let mut to = Destination::of_client(node, conn.id());
        if let Some(client) = to
            .client
            .as_mut()
            .filter(|_| settings.proxy_protocol.is_some())
        {
            client.addrs = named(conn).addrs;
        }
        let limits = &settings.connections;
        let deadline = limits
            .max_connections
            .and_then(|_| conn.now().checked_add(limits.pending_timeout));
        let asked = pool.connections.request_fresh(to, conn.id(), deadline);
        session.place = Place::Waiting(asked.map_err(|_| busy())?);
        session.notes.begin_wait(conn.now());
        self.settle(session.pool, &mut conn.reactor());
        Ok(())
    }

    /// Joins the connection of a client with one to its node.
    pub(super) fn join_node(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut TcpSession,
        upstream: ConnId,
    ) {
        let client = conn.id();
        session.place = Place::Nowhere;
        session.notes.tries += 1;
        let dialed = conn.with(upstream, |_, session| match session {
            Session::Upstream(session) => {
                session.client = Some(client);
                session.requests += 1;
                Some(session.dialed)
            }
            _ => None,
        });
        let (Some(dialed), Some(node)) = (dialed.flatten(), session.last_node) else {
            let error = ProxyError::closed(CloseReason::Peer, Phase::Send);
            if let Some(node) = session.last_node {
                self.try_another_node(conn, session, node, &error);
            }
            return;
        };
        self.meters.all.tunnels.add(1);
        session.place = Place::Joined;
        session.notes.end_wait(dialed);
        let now = conn.now();
        session.notes.times.connected = Some(session.notes.since(now));
        session.notes.status = Some(StatusCode::OK);
        let pool = &mut self.pools[session.pool];
        let idle = pool.settings().timeouts.tunnel_idle;
        if pool.report(node, Outcome::Success, now) {
            let number = session.pool;
            conn.defer(move |proxy, reactor| proxy.tend_health(number, reactor));
        }
        Self::join(conn, upstream, idle);
    }

    /// Takes another node for a client whose own was removed before it was connected. That is no retry.
    pub(super) fn choose_node_anew(&mut self, conn: &mut Conn<'_, Self>, session: &mut TcpSession) {
        session.chosen = None;
        session.place = Place::Nowhere;
        self.find_node(conn, session);
    }

    /// Takes another node for a client whose node could not be connected to, or refuses the client.
    pub(super) fn try_another_node(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut TcpSession,
        node: NodeId,
        error: &ProxyError,
    ) {
        let number = session.pool;
        let pool = &mut self.pools[number];
        if pool.report(node, error.outcome(), conn.now()) {
            conn.defer(move |proxy, reactor| proxy.tend_health(number, reactor));
        }
        session.chosen = None;
        session.place = Place::Nowhere;
        session.tried.push(node);
        let pool = &mut self.pools[number];
        if pool.may_retry(&mut session.retries, conn.now()) {
            // Another node may be there or not. If not, the first failure tells more.
            session.chosen = pool.pick(session.key, &session.tried).ok();
        }
        match session.chosen {
            Some(_) => self.find_node(conn, session),
            None => Self::refuse_tcp(conn, session, error),
        }
    }

    /// Resets the connection of a client that gets no node.
    pub(super) fn refuse_tcp(
        conn: &mut Conn<'_, Self>,
        session: &mut TcpSession,
        error: &ProxyError,
    ) {
        log::warn!(target: "epicycle::gateway::tcp", "{}: {}: {error}", session.listener.settings.on, conn.peer_addr());
        session.place = Place::Nowhere;
        let notes = &mut session.notes;
        notes.status = Some(error.status());
        if notes.timeout.is_empty() {
            notes.timeout = error.timeout();
        }
        notes.ended_by = match error.cause() {
            _ if !notes.timeout.is_empty() => EndedBy::Timeout,
            Cause::NoNode | Cause::Busy => EndedBy::Gateway,
            _ => EndedBy::Node,
        };
        conn.abort();
    }

    pub(super) fn on_tcp_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        mut session: TcpSession,
        reason: &CloseReason,
    ) {
        let number = session.pool;
        if session.place == Place::Joined {
            self.meters.all.tunnels.subtract(1);
        }
        if let Place::Waiting(ticket) = session.place {
            self.pools[number].connections.cancel(ticket);
        }
        if let Some(node) = session.last_node {
            let to = Destination::of_client(node, info.id);
            self.cancel_needless_dials(number, to);
        }
        match session.place {
            Place::Waiting(_) => {
                if let Some(node) = session.last_node
                    && self.pools[number].report(node, Outcome::Abandoned, reactor.now())
                {
                    self.tend_health(number, reactor);
                }
                self.settle(number, reactor);
                session.notes.ended_by = match reason {
                    CloseReason::Shutdown | CloseReason::Panic => EndedBy::Gateway,
                    _ => EndedBy::Client,
                };
            }
            Place::Joined if session.notes.ended_by == EndedBy::Nobody => {
                session.notes.ended_by = match reason {
                    CloseReason::Peer => EndedBy::Nobody,
                    CloseReason::Pipe => EndedBy::Node,
                    CloseReason::Timeout(_) => EndedBy::Timeout,
                    CloseReason::Reset(_) | CloseReason::Io(_) => EndedBy::Client,
                    _ => EndedBy::Gateway,
                };
                if let CloseReason::Timeout(_) = reason {
                    session.notes.timeout = "tunnel_idle";
                }
            }
            Place::Joined | Place::Nowhere => {}
        }
        self.record_forwarded(
            info,
            "TCP",
            &session.listener,
            number,
            session.last_node,
            &mut session.notes,
        );
    }
}

impl fmt::Debug for TcpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSession")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
