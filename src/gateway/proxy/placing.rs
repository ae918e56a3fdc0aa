//! The way of an exchange to a connection: a node is chosen, a connection is taken or made, the request is sent; and again
//! if that fails and it may.

use std::time::Instant;

use super::tunneling::end_frames;
use super::{ClientSession, Proxy, Session, Side};
use crate::balance::{Node, NodeId, Outcome};
use crate::codec::FrameError;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::fetch::Step;
use crate::gateway::destination::{Destination, NamedClient};
use crate::gateway::error::{Cause, Phase, ProxyError};
use crate::gateway::exchange::{Answer, Exchange, Kept, Place};
use crate::gateway::hooks::Hooks;
use crate::gateway::record::EndedBy;
use crate::http::{SendError, StatusCode};

/// The number of connections that may end before the request was written to them.
const MAX_IN_VAIN: u32 = 3;

/// The result of sending a request.
enum Sent {
    Yes {
        /// The time at which its connection was begun.
        dialed: Instant,
    },
    /// The connection has ended. Nothing was sent.
    InVain,
    /// The request cannot be sent on any connection.
    Never(WriteError),
}

/// A connection for the exchange whose client's connection is in hand.
type Found = Option<(ConnId, bool)>;

impl<H: Hooks> Proxy<H> {
    /// Brings the exchange of a client to a node.
    pub(super) fn dispatch(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        while let Some(exchange) = client.exchange.as_deref_mut() {
            match self.place(conn, exchange, false) {
                Ok(Some((upstream, reused))) => {
                    if self.send(conn, client, upstream, reused) {
                        return;
                    }
                }
                Ok(None) => return wait(conn, exchange),
                Err(error) => return self.fail(conn, client, error),
            }
        }
    }

    /// Asks for a connection to the target, to the chosen node, or to one that is chosen now. With `fresh` it must not have served before.
    fn place(
        &mut self,
        conn: &mut Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        fresh: bool,
    ) -> Result<Found, ProxyError> {
        let Some(number) = exchange.pool else {
            return Ok(None);
        };
        let to = match exchange.target.clone() {
            Some(target) => Destination::target(target),
            None => self.node_destination(conn, exchange, number)?,
        };
        let pool = &mut self.pools[number];
        let (id, now) = (conn.id(), conn.now());
        let limits = &pool.settings().connections;
        let deadline = limits
            .max_connections
            .and_then(|_| now.checked_add(limits.pending_timeout));
        let asked = match fresh {
            true => pool.connections.request_fresh(to, id, deadline),
            false => pool.connections.request(to, id, deadline),
        };
        let ticket = asked.map_err(|_| busy())?;
        exchange.place = Place::Waiting(ticket);
        Ok(self.run_steps(number, &mut conn.reactor(), Some(id)))
    }

    /// Returns the connections to the chosen node, or to one that is chosen now.
    fn node_destination(
        &mut self,
        conn: &Conn<'_, Self>,
        exchange: &mut Exchange<H::Exchange>,
        number: usize,
    ) -> Result<Destination, ProxyError> {
        let pool = &mut self.pools[number];
        let chosen = match exchange.chosen.take() {
            Some(chosen) => chosen,
            None => pool.pick(exchange.key, &exchange.tried)?,
        };
        let node = chosen.node;
        exchange.chosen = Some(chosen);
        exchange.last_node = Some(node);
        if exchange.takes_nodes_host
            && let Some(addr) = pool.addr(node)
        {
            addr.authority.clone_into(&mut exchange.head.host);
            exchange.head.is_checked = false;
        }
        Ok(Destination {
            node,
            client: pool.settings().proxy_protocol.map(|_| named(conn)),
            target: None,
        })
    }

    /// Sends the request of a client on a connection. Returns false if it must look for another one.
    fn send(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        upstream: ConnId,
        reused: bool,
    ) -> bool {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return true;
        };
        let id = conn.id();
        let sent = conn.with(upstream, |upstream, session| {
            let Session::Upstream(session) = session else {
                return Sent::InVain;
            };
            match exchange.write_to(upstream) {
                Ok(()) => {
                    session.client = Some(id);
                    session.requests += 1;
                    session.is_private |= exchange.is_private;
                    Sent::Yes {
                        dialed: session.dialed,
                    }
                }
                Err(error) if is_requests_fault(&error) => Sent::Never(error),
                Err(_) => {
                    upstream.abort();
                    Sent::InVain
                }
            }
        });
        match sent.unwrap_or(Sent::InVain) {
            Sent::Yes { dialed } => {
                let number = exchange.pool.unwrap_or_default();
                let pool = &self.pools[number];
                exchange.place = Place::On { upstream, reused };
                exchange.notes.tries += 1;
                exchange.notes.reused = reused;
                let now = conn.now();
                exchange.notes.end_wait(if reused { now } else { dialed });
                exchange.notes.times.connected = Some(exchange.notes.since(now));
                let limit = pool.settings().retries.body;
                if matches!(&exchange.upload.kept, Kept::Whole(bytes) if bytes.len() > limit) {
                    exchange.upload.kept = Kept::Gone;
                }
                conn.resume_reads();
                true
            }
            Sent::InVain => {
                exchange.in_vain += 1;
                exchange.place = Place::Nowhere;
                if exchange.in_vain < MAX_IN_VAIN {
                    return false;
                }
                let error = ProxyError::closed(CloseReason::Peer, Phase::Send);
                self.fail(conn, client, error);
                true
            }
            Sent::Never(error) => {
                exchange.place = Place::Nowhere;
                if let Some(number) = exchange.pool {
                    self.pools[number].connections.release(upstream, conn.now());
                    self.run_steps(number, &mut conn.reactor(), None);
                }
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let cause = Cause::Hook(Box::new(error));
                self.fail(conn, client, ProxyError::new(status, Phase::Send, cause));
                true
            }
        }
    }

    /// Carries out the steps of a pool, outside the callbacks of its connections.
    pub(super) fn settle(&mut self, pool: usize, reactor: &mut Reactor<'_, Self>) {
        self.run_steps(pool, reactor, None);
    }

    /// Carries out the steps of a pool. Returns the connection for the client whose connection is in hand.
    fn run_steps(
        &mut self,
        number: usize,
        reactor: &mut Reactor<'_, Self>,
        in_hand: Option<ConnId>,
    ) -> Found {
        let mut found = None;
        while let Some(step) = self.pools[number].connections.next_step() {
            match step {
                Step::Dial(to) => self.dial(number, to, reactor),
                Step::Serve {
                    waiter,
                    connection,
                    reused,
                } if Some(waiter) == in_hand => found = Some((connection, reused)),
                Step::Serve {
                    waiter,
                    connection,
                    reused,
                } => {
                    let served = reactor.with(waiter, |conn, session| match session {
                        Session::Client(client) => {
                            let is_sent = self.send(conn, client, connection, reused);
                            if !is_sent {
                                self.dispatch(conn, client);
                            }
                        }
                        Session::Tcp(client) => self.join_node(conn, client, connection),
                        _ => {}
                    });
                    if served.is_none() {
                        self.release_unserved(number, connection, reactor);
                    }
                }
                Step::Close(connection) => {
                    // One that is no longer open has its `on_close` ahead.
                    reactor.with(connection, |conn, _| conn.close());
                }
                Step::TimedOut(waiter) => {
                    reactor.with(waiter, |conn, session| match session {
                        Session::Client(client) => {
                            if let Some(exchange) = &mut client.exchange {
                                exchange.notes.timeout = "pending_timeout";
                            }
                            self.fail(conn, client, busy());
                        }
                        Session::Tcp(client) => {
                            client.notes.timeout = "pending_timeout";
                            Self::refuse_tcp(conn, client, &busy());
                        }
                        _ => {}
                    });
                }
            }
        }
        self.forget_needless_dials(number, reactor.id());
        self.set_alarm(number, reactor);
        found
    }

    /// Gives back a connection whose client has left before it could be served.
    fn release_unserved(
        &mut self,
        number: usize,
        connection: ConnId,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let is_for_others = reactor.with(connection, |conn, _| {
            let is_joined = matches!(conn.codec(), Side::Joined(_));
            if is_joined {
                Self::forsake(conn);
            }
            !is_joined
        });
        if is_for_others != Some(false) {
            let connections = &mut self.pools[number].connections;
            connections.release(connection, reactor.now());
        }
    }

    /// Sets an alarm for what a pool has to do next, unless an earlier one is set.
    fn set_alarm(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        pool.count_connections();
        let Some(due) = pool.connections.next_deadline() else {
            return;
        };
        if pool.alarm.is_none_or(|alarm| alarm > due) {
            pool.alarm = Some(due);
            let delay = due.saturating_duration_since(reactor.now());
            reactor.schedule(delay, move |proxy, reactor| {
                proxy.on_alarm(number, due, reactor);
            });
        }
    }

    fn on_alarm(&mut self, number: usize, alarm: Instant, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        if pool.alarm == Some(alarm) {
            pool.alarm = None;
        }
        pool.connections.expire(reactor.now());
        self.settle(number, reactor);
    }

    /// Takes another node for an exchange to which this one has sent nothing of a response, or gives up.
    pub(super) fn try_elsewhere(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut ClientSession<H>,
        node: NodeId,
        error: ProxyError,
    ) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        self.report(exchange, error.outcome(), conn);
        exchange.chosen = None;
        exchange.place = Place::Nowhere;
        if exchange.target.is_some() {
            // There is no other one.
            return self.fail(conn, client, error);
        }
        exchange.tried.push(node);
        if !self.may_retry(exchange, conn.now()) {
            return self.fail(conn, client, error);
        }
        // Another node may be there or not. If not, the first failure tells more.
        match self.pick_again(exchange) {
            true => self.dispatch(conn, client),
            false => self.fail(conn, client, error),
        }
    }

    /// Takes another node for an exchange whose own was removed before anything was sent to it. That is no retry.
    pub(super) fn choose_anew(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        if let Some(exchange) = client.exchange.as_deref_mut() {
            exchange.chosen = None;
            exchange.place = Place::Nowhere;
            self.dispatch(conn, client);
        }
    }

    fn pick_again(&mut self, exchange: &mut Exchange<H::Exchange>) -> bool {
        let Some(number) = exchange.pool else {
            return false;
        };
        exchange.chosen = self.pools[number].pick(exchange.key, &exchange.tried).ok();
        exchange.chosen.is_some()
    }

    /// Returns true if an exchange may be retried once more, and counts it.
    pub(super) fn may_retry(&mut self, exchange: &mut Exchange<H::Exchange>, now: Instant) -> bool {
        let Some(number) = exchange.pool else {
            return false;
        };
        self.pools[number].may_retry(&mut exchange.retries, now)
    }

    /// Decides what becomes of an exchange whose connection to the node has ended. `received` is true if bytes had arrived
    /// that were no part of a response.
    pub(super) fn on_upstream_ended(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        client: ConnId,
        received: bool,
        reason: CloseReason,
    ) {
        reactor.with(client, |conn, session| {
            let client = match session {
                Session::Client(client) => client,
                Session::Tcp(client) => return client.note_end_of_node(&reason),
                _ => return,
            };
            let Some(exchange) = client.exchange.as_deref_mut() else {
                return;
            };
            if let Place::Frames { .. } = exchange.place {
                return end_frames(conn, &reason);
            }
            let reused = matches!(exchange.place, Place::On { reused: true, .. });
            let is_peers_end = matches!(
                reason,
                CloseReason::Peer
                    | CloseReason::Reset(_)
                    | CloseReason::Io(_)
                    | CloseReason::Truncated
            );
            // The node had closed the connection before the request reached it.
            let is_stale =
                reused && is_peers_end && !received && exchange.answer == Answer::Awaited;
            exchange.place = Place::Nowhere;
            if is_stale
                && exchange.is_idempotent()
                && exchange.can_be_sent_again()
                && self.may_retry(exchange, conn.now())
            {
                return self.dispatch_fresh(conn, client);
            }
            let outcome = match reason {
                // It is no fault of the node's.
                CloseReason::Shutdown | CloseReason::Aborted | CloseReason::Local => {
                    Outcome::Abandoned
                }
                _ => Outcome::Failure,
            };
            self.report(exchange, outcome, conn);
            let phase = match exchange.answer {
                Answer::Begun => Phase::Body,
                _ if exchange.upload.is_complete => Phase::Head,
                _ => Phase::Send,
            };
            exchange.notes.ended_by = match reason {
                CloseReason::Timeout(_) => EndedBy::Timeout,
                _ => EndedBy::Node,
            };
            self.fail(conn, client, ProxyError::closed(reason, phase));
        });
    }

    /// Sends a request again, on a connection that has not served before.
    fn dispatch_fresh(&mut self, conn: &mut Conn<'_, Self>, client: &mut ClientSession<H>) {
        let Some(exchange) = client.exchange.as_deref_mut() else {
            return;
        };
        match self.place(conn, exchange, true) {
            Ok(Some((upstream, reused))) => {
                if !self.send(conn, client, upstream, reused) {
                    self.dispatch(conn, client);
                }
            }
            Ok(None) => wait(conn, exchange),
            Err(error) => self.fail(conn, client, error),
        }
    }

    /// Closes the idle connections that name a client who has left, as they serve no other.
    pub(super) fn close_named(&mut self, client: ConnId, reactor: &mut Reactor<'_, Self>) {
        for number in 0..self.pools.len() {
            let pool = &mut self.pools[number];
            if pool.settings().proxy_protocol.is_none() {
                continue;
            }
            let nodes: Vec<_> = pool.nodes.iter().map(Node::id).collect();
            for node in nodes {
                let to = Destination::of_client(node, client);
                self.pools[number].connections.close_idle_to(&to);
                self.cancel_needless_dials(number, to);
            }
            self.settle(number, reactor);
        }
    }

    /// Takes an exchange from its place. The connection that serves it, if any, is ended.
    pub(super) fn leave(
        &mut self,
        exchange: &mut Exchange<H::Exchange>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        match std::mem::replace(&mut exchange.place, Place::Nowhere) {
            Place::Waiting(ticket) => {
                if let Some(number) = exchange.pool {
                    self.pools[number].connections.cancel(ticket);
                    if let Some(target) = &exchange.target {
                        self.cancel_needless_dials(number, Destination::target(target.clone()));
                    }
                }
            }
            Place::On { upstream, .. } => {
                reactor.with(upstream, |upstream, session| {
                    if let Session::Upstream(session) = session {
                        session.client = None;
                    }
                    upstream.abort();
                });
            }
            Place::Dialing(token) => {
                if let Some(dial) = self.connects.remove(&token) {
                    // An engine that shuts down cancels it by itself.
                    let _ = dial.cancel();
                }
            }
            Place::Connecting
            | Place::Gathering
            | Place::Tunnel
            | Place::Frames { .. }
            | Place::Nowhere => {}
        }
    }

    /// Reports what became of a request at its node.
    pub(super) fn report(
        &mut self,
        exchange: &Exchange<H::Exchange>,
        outcome: Outcome,
        conn: &mut Conn<'_, Self>,
    ) {
        if let (Some(number), Some(chosen)) = (exchange.pool, &exchange.chosen)
            && self.pools[number].report(chosen.node, outcome, conn.now())
        {
            conn.defer(move |proxy, reactor| proxy.tend_health(number, reactor));
        }
    }

    /// Lets ejected nodes return whose time is over, and goes on with slow starts.
    pub(super) fn tend_health(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        let now = pool.shared.time(reactor.now());
        let Some(next) = pool.shared.health.tick(&pool.nodes, now) else {
            return;
        };
        if pool.tended_at.is_some_and(|at| at > now && at <= next) {
            return;
        }
        pool.tended_at = Some(next);
        reactor.schedule(next.saturating_sub(now), move |proxy, reactor| {
            proxy.tend_health(number, reactor);
        });
    }
}

/// Lets a client wait for a connection. Its body waits in the kernel.
fn wait<H: Hooks>(conn: &mut Conn<'_, Proxy<H>>, exchange: &mut Exchange<H::Exchange>) {
    exchange.notes.begin_wait(conn.now());
    if !exchange.upload.is_complete {
        conn.pause_reads();
    }
}

/// Returns the client as the PROXY protocol names it.
pub(super) fn named<H: Hooks>(conn: &Conn<'_, Proxy<H>>) -> NamedClient {
    let peer = conn.peer_addr().as_socket_addr();
    let local = conn
        .local_addr()
        .ok()
        .and_then(|addr| addr.as_socket_addr());
    NamedClient {
        id: conn.id(),
        addrs: peer.zip(local),
        is_joined: false,
    }
}

pub(super) fn busy() -> ProxyError {
    ProxyError::new(StatusCode::SERVICE_UNAVAILABLE, Phase::Pick, Cause::Busy)
}

/// Returns true if the request could be sent on no connection.
fn is_requests_fault(error: &WriteError) -> bool {
    match error {
        WriteError::Frame(FrameError::Other(cause)) => !matches!(
            cause.downcast_ref(),
            Some(SendError::Last | SendError::Begun)
        ),
        WriteError::Closed => false,
        _ => true,
    }
}
