//! Copies of requests: connections of their own to the nodes of another pool, whose answers are dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{Dial, Proxy, Purpose, Session, Side};
use crate::balance::{NodeId, Outcome};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::write::WriteError;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::{Action, Conn, Reactor};
use crate::fetch::Step;
use crate::gateway::destination::Destination;
use crate::gateway::exchange::{Body, Exchange};
use crate::gateway::hooks::{Head, Hooks};
use crate::gateway::metrics::RouteCounters;
use crate::gateway::mirror::{Mirror, UnderWay};
use crate::gateway::pool::Chosen;
use crate::gateway::route::Route;
use crate::http::client::{ClientRequest, ResponsePart};
use crate::http::{Chunk, HeaderBlock};

/// The bytes of an answer's body that are read, so that its connection can be used again. More would take the reactor's time from clients.
const MAX_ANSWER: usize = 1 << 20;

/// The state of a connection that carries copies.
pub struct MirrorSession {
    pub(super) pool: usize,
    node: NodeId,
    /// The pool's, when it was begun.
    generation: u32,
    /// The copy that is under way on it.
    copy: Option<Copy>,
    /// The bytes of the answer's body so far.
    received: usize,
    requests: u32,
    opened: Instant,
}

/// A copy of a request, while it waits for a connection, and until it is answered.
pub(super) struct Copy {
    request: Copied,
    counters: Arc<RouteCounters>,
    /// The time at which it is given up.
    until: Instant,
    _node: Chosen,
    _under_way: UnderWay,
}

/// A copy of a request.
pub(super) struct Copied {
    pub(super) head: Head,
    /// True if the host is that of the node.
    pub(super) takes_nodes_host: bool,
    /// The body, if there is one.
    pub(super) body: Option<Vec<u8>>,
}

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head.fmt(f)
    }
}

impl<X> Exchange<X> {
    /// Keeps a part of the body for the copy, if there is to be one and the body is not too long.
    pub(super) fn copy_body(&mut self, part: &[u8]) {
        let Some(extras) = &mut self.extras else {
            return;
        };
        let Some(copied) = &mut extras.copied_body else {
            return;
        };
        let mirror = self.route.as_ref().and_then(|route| route.mirror.as_ref());
        let max = mirror.map_or(0, |mirror| mirror.settings.max_body);
        match copied.len() + part.len() <= max {
            true => copied.extend_from_slice(part),
            false => extras.copied_body = None,
        }
    }

    /// Returns the copy of a complete request, if there is to be one.
    pub(super) fn take_copy(&mut self) -> Option<Copied> {
        let body = self.extras.as_mut()?.copied_body.take()?;
        let head = &self.head;
        let mut fields = HeaderBlock::new();
        // The body is here, with its length known, and without its trailers.
        let lines = head.fields.headers().lines();
        let lines = lines.filter(|line| !line.is("expect") && !line.is("trailer"));
        fields.fill(lines).ok()?;
        Some(Copied {
            head: Head {
                method: head.method.clone(),
                target: head.target.clone(),
                host: head.host.clone(),
                fields,
                is_checked: head.is_checked,
                has_new_fields: head.has_new_fields,
            },
            takes_nodes_host: self.takes_nodes_host,
            body: (self.body != Body::None).then_some(body),
        })
    }
}

impl<H: Hooks> Proxy<H> {
    /// Sends the copy of a complete request, if there is to be one, after the request itself.
    pub(super) fn send_copy(conn: &mut Conn<'_, Self>, exchange: &mut Exchange<H::Exchange>) {
        if let (Some(copied), Some(route)) = (exchange.take_copy(), exchange.route.clone()) {
            conn.defer(move |proxy, reactor| {
                if let Some(mirror) = &route.mirror {
                    proxy.mirror(&route, mirror, copied, reactor);
                }
            });
        }
    }

    /// Sends a copy of a request of a client, unless too many are under way.
    pub(super) fn mirror(
        &mut self,
        route: &Route,
        mirror: &Mirror,
        request: Copied,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(under_way) = mirror.begin() else {
            return route.counters.mirror_dropped.add(1);
        };
        let now = reactor.now();
        let chosen = mirror.pool.and_then(|number| {
            let pool = &mut self.pools[number];
            let key = pool.key(&request.head, None);
            Some((number, pool.pick(key, &[]).ok()?))
        });
        let until = now.checked_add(mirror.settings.timeout);
        let (Some((number, chosen)), Some(until)) = (chosen, until) else {
            return route.counters.mirror_failed.add(1);
        };
        let node = chosen.node;
        self.last_copy += 1;
        let copy = Copy {
            request,
            counters: route.counters.clone(),
            until,
            _node: chosen,
            _under_way: under_way,
        };
        self.copies.insert(self.last_copy, copy);
        let mirrors = &mut self.pools[number].mirrors;
        if let Err(refused) = mirrors.request(node, self.last_copy, None) {
            self.fail_copy(refused);
        }
        self.settle_mirrors(number, reactor);
    }

    /// Gives up a copy that waits for a connection.
    fn fail_copy(&mut self, number: u64) {
        if let Some(copy) = self.copies.remove(&number) {
            copy.counters.mirror_failed.add(1);
        }
    }

    /// Carries out the steps of the connections that carry copies to a pool.
    pub(super) fn settle_mirrors(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        while let Some(step) = self.pools[number].mirrors.next_step() {
            match step {
                Step::Dial(node) => self.dial_mirror(number, node, reactor),
                Step::Serve {
                    waiter, connection, ..
                } => {
                    let Some(copy) = self.copies.remove(&waiter) else {
                        let now = reactor.now();
                        self.pools[number].mirrors.release(connection, now);
                        continue;
                    };
                    let counters = copy.counters.clone();
                    let pool = &self.pools[number];
                    let sent = reactor.with(connection, |conn, session| match session {
                        Session::Mirror(session) => {
                            let host = pool.addr(session.node).map(|addr| &*addr.authority);
                            session.send(conn, copy, host.unwrap_or_default());
                        }
                        _ => drop(copy),
                    });
                    if sent.is_none() {
                        // It has its `on_close` ahead.
                        counters.mirror_failed.add(1);
                    }
                }
                Step::Close(connection) => {
                    reactor.with(connection, |conn, _| conn.close());
                }
                Step::TimedOut(waiter) => self.fail_copy(waiter),
            }
        }
        self.set_mirror_alarm(number, reactor);
    }

    fn dial_mirror(&mut self, number: usize, node: NodeId, reactor: &mut Reactor<'_, Self>) {
        let connect = self.pools[number].connect(&Destination {
            node,
            client: None,
            target: None,
        });
        let token = self.next_token(Dial {
            pool: number,
            generation: self.pools[number].generation,
            began: reactor.now(),
            purpose: Purpose::Mirror(node),
            is_withdrawn: false,
        });
        let asked = match connect {
            Some(connect) => reactor.connect(Connect::token(connect, token)).map(drop),
            // It is in the list no more.
            None => Err(ConnectError::Cancelled),
        };
        if let Err(error) = asked {
            reactor.defer(move |proxy, reactor| proxy.on_dial_failed(token, error, reactor));
        }
    }

    /// Sets an alarm for the connections whose idle time is over, unless an earlier one is set.
    fn set_mirror_alarm(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        let Some(due) = pool.mirrors.next_deadline() else {
            return;
        };
        if pool.mirror_alarm.is_some_and(|alarm| alarm <= due) {
            return;
        }
        pool.mirror_alarm = Some(due);
        let delay = due.saturating_duration_since(reactor.now());
        reactor.schedule(delay, move |proxy, reactor| {
            let pool = &mut proxy.pools[number];
            if pool.mirror_alarm == Some(due) {
                pool.mirror_alarm = None;
            }
            pool.mirrors.expire(reactor.now());
            proxy.settle_mirrors(number, reactor);
        });
    }

    pub(super) fn on_mirror_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        number: usize,
        node: NodeId,
        generation: u32,
    ) -> MirrorSession {
        let opened = conn.now();
        let mirrors = &mut self.pools[number].mirrors;
        mirrors.opened(&node, conn.id(), opened);
        conn.defer(move |proxy, reactor| proxy.settle_mirrors(number, reactor));
        MirrorSession {
            pool: number,
            node,
            generation,
            copy: None,
            received: 0,
            requests: 0,
            opened,
        }
    }

    pub(super) fn on_mirror_dial_failed(
        &mut self,
        number: usize,
        node: NodeId,
        error: &ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let pool = &mut self.pools[number];
        log::debug!(target: "epicycle::gateway::pool", "pool {}: a mirror: {}: {error}", pool.shared.name, pool.name_of(node));
        if let Some(waiter) = pool.mirrors.failed(&node) {
            self.fail_copy(waiter);
            self.report_mirror(number, node, Outcome::Failure, reactor);
        }
        self.settle_mirrors(number, reactor);
    }

    /// Drops a part of an answer.
    pub(super) fn on_mirror_part(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut MirrorSession,
        part: ResponsePart<'_>,
    ) -> Action {
        match part {
            ResponsePart::Head(response) if response.is_upgrade() => conn.abort(),
            ResponsePart::End(_) => return self.end_copy(conn, session),
            _ if session.copy.is_none() => conn.abort(),
            ResponsePart::Body(bytes) => {
                session.received += bytes.len();
                if session.received > MAX_ANSWER {
                    self.note_answer(conn, session);
                    conn.abort();
                }
            }
            _ => {}
        }
        Action::Continue
    }

    /// Ends a copy whose answer has come. Returns false if there is none.
    fn note_answer(&mut self, conn: &mut Conn<'_, Self>, session: &mut MirrorSession) -> bool {
        let Some(copy) = session.copy.take() else {
            return false;
        };
        copy.counters.mirrored.add(1);
        conn.set_deadline(None);
        let (number, node) = (session.pool, session.node);
        self.report_mirror(number, node, Outcome::Success, &mut conn.reactor());
        true
    }

    /// Ends a copy that is answered, and gives its connection back.
    fn end_copy(&mut self, conn: &mut Conn<'_, Self>, session: &mut MirrorSession) -> Action {
        if !self.note_answer(conn, session) {
            return Action::Close;
        }
        let (number, node, now) = (session.pool, session.node, conn.now());
        let pool = &mut self.pools[number];
        let limits = &pool.settings().connections;
        let age = now.saturating_duration_since(session.opened);
        let is_worn = session.requests >= limits.max_requests || age >= limits.max_lifetime;
        let is_reusable = matches!(conn.codec(), Side::Upstream(codec) if codec.is_reusable());
        let is_leaving = pool.is_leaving(node) || session.generation != pool.generation;
        if !is_reusable || is_worn || is_leaving || conn.peer_has_shut_down() {
            return Action::Close;
        }
        pool.mirrors.release(conn.id(), now);
        conn.defer(move |proxy, reactor| proxy.settle_mirrors(number, reactor));
        Action::Continue
    }

    pub(super) fn on_mirror_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: MirrorSession,
        reason: &CloseReason,
    ) {
        let number = session.pool;
        self.pools[number].mirrors.closed(info.id);
        if let Some(copy) = session.copy {
            copy.counters.mirror_failed.add(1);
            let outcome = match reason {
                CloseReason::Shutdown | CloseReason::Local => Outcome::Abandoned,
                _ => Outcome::Failure,
            };
            self.report_mirror(number, session.node, outcome, reactor);
        }
        self.settle_mirrors(number, reactor);
    }

    fn report_mirror(
        &mut self,
        number: usize,
        node: NodeId,
        outcome: Outcome,
        reactor: &mut Reactor<'_, Self>,
    ) {
        if self.pools[number].report(node, outcome, reactor.now()) {
            reactor.defer(move |proxy, reactor| proxy.tend_health(number, reactor));
        }
    }

    /// Gives up all copies under way, so that the end of the gateway does not wait for them.
    pub(in crate::gateway) fn end_mirrors(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.for_each(|conn, session| {
            if let Session::Mirror(_) = session {
                conn.abort();
            }
        });
    }
}

impl MirrorSession {
    /// Returns true while a copy is under way on it.
    pub(super) fn has_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Sends a copy on its connection.
    fn send<H: Hooks>(&mut self, conn: &mut Conn<'_, Proxy<H>>, copy: Copy, nodes_host: &str) {
        self.requests += 1;
        self.received = 0;
        conn.set_deadline(Some(copy.until.saturating_duration_since(conn.now())));
        let sent = copy.request.write_to(conn, nodes_host);
        self.copy = Some(copy);
        if let Err(error) = sent {
            log::debug!(target: "epicycle::gateway::pool", "a mirror: {error}");
            conn.abort();
        }
    }
}

impl Copied {
    fn write_to<H: Hooks>(
        &self,
        conn: &mut Conn<'_, Proxy<H>>,
        nodes_host: &str,
    ) -> Result<(), WriteError> {
        let head = &self.head;
        let host = match self.takes_nodes_host {
            true => nodes_host,
            false => &head.host,
        };
        let request = ClientRequest::new(&head.method, host, &head.target).block(&head.fields);
        let request = match head.is_checked && !self.takes_nodes_host {
            true => request.received(),
            false => request,
        };
        match &self.body {
            None => conn.send(request),
            Some(body) => {
                conn.send(request.sized(body.len() as u64))?;
                match body.is_empty() {
                    true => Ok(()),
                    false => conn.send(Chunk(body)),
                }
            }
        }
    }
}
