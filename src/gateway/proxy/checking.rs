//! Active health checks: one reactor makes them for all.

use std::time::Duration;

use super::{Dial, Proxy, Purpose, jittered};
use crate::balance::{Node, NodeId};
use crate::engine::connect::Connect;
use crate::engine::handler::{Action, Conn, Reactor};
use crate::gateway::health::MAX_BODY;
use crate::gateway::hooks::Hooks;
use crate::gateway::settings::HealthProbe;
use crate::http::client::{ClientRequest, ResponsePart};

/// The state of a connection that checks a node.
pub struct CheckSession {
    pub(super) pool: usize,
    pub(super) node: NodeId,
    /// The text in the body that is looked for.
    search: Search,
    /// True once the node has answered as expected.
    is_good: bool,
}

impl<H: Hooks> Proxy<H> {
    /// Begins the checks of the pools that have some, on the first reactor. Pools whose checks run by the same rules are left
    /// alone. The nodes of pools that have none any more are up.
    pub(super) fn begin_checks(&mut self, reactor: &mut Reactor<'_, Self>) {
        if reactor.id() != 0 {
            return;
        }
        for (number, pool) in self.pools.iter_mut().enumerate() {
            let is_in_use = self.rules.pools.contains_key(&pool.shared.name);
            let shared = pool.shared.clone();
            let rules = shared.settings.health.as_ref().filter(|_| is_in_use);
            if !pool.checks.set_rules(rules) {
                continue;
            }
            let generation = pool.checks.generation;
            if rules.is_some() {
                // Not in the middle of a callback.
                reactor.schedule(Duration::ZERO, move |proxy, reactor| {
                    proxy.check_nodes(number, generation, reactor);
                });
                continue;
            }
            let time = shared.time(reactor.now());
            for node in pool.nodes.iter().filter(|node| node.is_down()) {
                let health = &shared.health;
                health.set_down(&pool.nodes, node.id(), false, time);
            }
        }
    }

    /// Checks all nodes of a pool, and again after the interval.
    fn check_nodes(&mut self, number: usize, generation: u64, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        if pool.checks.generation != generation {
            // Others are made in place of these.
            return;
        }
        let Some(rules) = pool.checks.rules().cloned() else {
            return;
        };
        let nodes = pool.nodes.clone();
        pool.checks.retain(|node| nodes.get(node).is_some());
        for node in nodes.iter().map(Node::id) {
            let pool = &mut self.pools[number];
            if !pool.checks.begin(node) {
                continue;
            }
            let made_by = pool.generation;
            let connect = pool.connect_check(node);
            let token = self.next_token(Dial {
                pool: number,
                generation: made_by,
                began: reactor.now(),
                purpose: Purpose::Check(node),
                is_withdrawn: false,
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
            proxy.check_nodes(number, generation, reactor);
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
            search: Search::default(),
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
                let wanted = text.unwrap_or_default().as_bytes();
                session.is_good = session.search.is_found(wanted, bytes);
                if !session.is_good && session.search.searched < MAX_BODY {
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

/// The search for a text in the parts of a body. Each byte is looked at once, however many parts there are.
#[derive(Debug, Default)]
struct Search {
    /// The last bytes of the parts so far, with which the text may begin.
    tail: Vec<u8>,
    /// The bytes of the parts so far.
    searched: usize,
}

impl Search {
    /// Returns true if the text ends in this part, as far as the first [`MAX_BODY`] bytes go.
    fn is_found(&mut self, wanted: &[u8], part: &[u8]) -> bool {
        let part = &part[..part.len().min(MAX_BODY - self.searched)];
        self.searched += part.len();
        let kept = wanted.len().saturating_sub(1);
        // Only its first bytes can end a text that began before.
        self.tail.extend_from_slice(&part[..part.len().min(kept)]);
        if memchr::memmem::find(&self.tail, wanted).is_some()
            || memchr::memmem::find(part, wanted).is_some()
        {
            return true;
        }
        if part.len() >= kept {
            self.tail.clear();
            self.tail.extend_from_slice(&part[part.len() - kept..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(kept));
        }
        false
    }
}

impl CheckSession {
    pub(super) fn is_good(&self) -> bool {
        self.is_good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_parts_of_any_length_and_little_of_them_is_kept() {
        let body = b"status=okay; status=ok; and more".repeat(3);
        for len in 1..body.len() {
            let mut search = Search::default();
            let mut parts = body.chunks(len);
            assert!(
                parts.any(|part| search.is_found(b"status=ok;", part)),
                "{len}"
            );
            let mut search = Search::default();
            for part in body.chunks(len) {
                assert!(!search.is_found(b"status=down", part), "{len}");
                assert!(search.tail.len() < "status=down".len());
            }
        }
    }

    #[test]
    fn a_text_is_looked_for_in_so_much_of_a_body() {
        let mut search = Search::default();
        let before = vec![b'x'; MAX_BODY - 2];
        assert!(!search.is_found(b"ok", &before));
        assert!(search.is_found(b"ok", b"ok"));
        let mut search = Search::default();
        assert!(!search.is_found(b"ok", &before));
        assert!(!search.is_found(b"ok", b"xok"));
        assert_eq!(search.searched, MAX_BODY);
    }
}
