//! Active health checks: one reactor makes them for all.

use std::time::Duration;

use super::{Dial, Proxy, Purpose, jittered};
use crate::balance::{Node, NodeId};
use crate::engine::connect::Connect;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::gateway::destination::Destination;
use crate::gateway::health::MAX_BODY;
use crate::gateway::hooks::Hooks;
use crate::gateway::settings::HealthProbe;
use crate::http::client::{ClientRequest, ResponsePart};

/// The state of a connection that checks a node.
pub struct CheckSession {
    pub(super) pool: usize,
    pub(super) node: NodeId,
    /// The body so far, if a text is looked for.
    seen: Vec<u8>,
    /// True once the node has answered as expected.
    is_good: bool,
}

impl<H: Hooks> Proxy<H> {
    /// Begins the checks of the pools that have some, on the first reactor. Pools whose checks run are left alone.
    pub(super) fn begin_checks(&mut self, reactor: &mut Reactor<'_, Self>) {
        if reactor.id() != 0 {
            return;
        }
        for (number, pool) in self.pools.iter_mut().enumerate() {
            let is_in_use = self.rules.pools.contains_key(&pool.shared.name);
            let is_new = is_in_use && !pool.checks.are_running && pool.settings().health.is_some();
            if is_new {
                pool.checks.are_running = true;
                // Not in the middle of a callback.
                reactor.schedule(Duration::ZERO, move |proxy, reactor| {
                    proxy.check_nodes(number, reactor);
                });
            }
        }
    }

    /// Checks all nodes of a pool, and again after the interval.
    fn check_nodes(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        let is_in_use = self.rules.pools.contains_key(&pool.shared.name);
        let rules = pool.settings().health.clone().filter(|_| is_in_use);
        let Some(rules) = rules else {
            pool.checks.are_running = false;
            return;
        };
        let nodes = pool.nodes.clone();
        pool.checks.retain(|node| nodes.get(node).is_some());
        for node in nodes.iter().map(Node::id) {
            let pool = &mut self.pools[number];
            if !pool.checks.begin(node) {
                continue;
            }
            let connect = pool.connect(&Destination { node, client: None });
            let token = self.next_token(Dial {
                pool: number,
                began: reactor.now(),
                purpose: Purpose::Check(node),
            });
            let asked = connect.map(|connect| {
                let connect = Connect::token(connect, token).timeout(rules.timeout);
                reactor.connect(connect)
            });
            if !matches!(asked, Some(Ok(_))) {
                self.dials.remove(&token);
                self.on_checked(number, node, false, reactor);
            }
        }
        reactor.schedule(jittered(rules.interval), move |proxy, reactor| {
            proxy.check_nodes(number, reactor);
        });
    }

    /// Asks a node, if the check is more than a connect.
    pub(super) fn begin_check(
        &mut self,
        conn: &mut Conn<'_, Self>,
        number: usize,
        node: NodeId,
    ) -> CheckSession {
        let mut session = CheckSession {
            pool: number,
            node,
            seen: Vec::new(),
            is_good: false,
        };
        let pool = &self.pools[number];
        match pool.settings().health.as_ref() {
            Some(rules) => match &rules.probe {
                HealthProbe::Tcp => {
                    session.is_good = true;
                    conn.close();
                }
                HealthProbe::Http {
                    method, path, host, ..
                } => {
                    let own = pool.addr(node).map_or("localhost", |addr| &addr.authority);
                    let host = host.as_deref().unwrap_or(own);
                    conn.set_deadline(Some(rules.timeout));
                    let request = ClientRequest::new(method, host, path).close();
                    let request = request.header("User-Agent", "epicycle-health");
                    if conn.send(request).is_err() {
                        conn.close();
                    }
                }
            },
            None => conn.close(),
        }
        session
    }

    pub(super) fn on_check_part(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut CheckSession,
        part: ResponsePart<'_>,
    ) -> Action {
        let Some(rules) = self.pools[session.pool].settings().health.as_ref() else {
            return Action::Close;
        };
        let text = rules.probe.text();
        match part {
            ResponsePart::Interim(_) => return Action::Continue,
            ResponsePart::Head(response) => {
                if rules.probe.expects(response.status()) && text.is_some() {
                    return Action::Continue;
                }
                session.is_good = rules.probe.expects(response.status());
            }
            ResponsePart::Body(bytes) => {
                let room = MAX_BODY - session.seen.len();
                session
                    .seen
                    .extend_from_slice(&bytes[..bytes.len().min(room)]);
                let wanted = text.unwrap_or_default().as_bytes();
                session.is_good = memchr::memmem::find(&session.seen, wanted).is_some();
                if !session.is_good && session.seen.len() < MAX_BODY {
                    return Action::Continue;
                }
            }
            _ => {}
        }
        // The rest is of no interest.
        conn.abort();
        Action::Continue
    }

    /// Notes the result of a check.
    pub(super) fn on_checked(
        &mut self,
        number: usize,
        node: NodeId,
        is_good: bool,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let pool = &mut self.pools[number];
        let Some(rules) = pool.settings().health.clone() else {
            return;
        };
        let Some(is_down) = pool.checks.end(node, is_good, &rules) else {
            return;
        };
        let was_down = pool.nodes.get(node).is_some_and(Node::is_down);
        if was_down == is_down {
            return;
        }
        let (name, address) = (&pool.shared.name, pool.name_of(node));
        match is_down {
            true => {
                log::warn!(target: "epicycle::gateway::health", "pool {name}: {address} is down: {} checks have failed", rules.down_after);
            }
            false => {
                log::info!(target: "epicycle::gateway::health", "pool {name}: {address} is up");
            }
        }
        let time = pool.shared.time(reactor.now());
        pool.shared
            .health
            .set_down(&pool.nodes, node, is_down, time);
        if is_down {
            pool.tell_if_none_is_up(node);
        }
        self.tend_health(number, reactor);
    }
}

impl CheckSession {
    pub(super) fn is_good(&self) -> bool {
        self.is_good
    }
}
