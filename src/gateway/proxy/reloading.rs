//! New settings, as a reactor takes them over.

use std::mem;
use std::rc::Rc;
use std::time::Duration;

use super::{Proxy, Session, Side};
use crate::engine::conn::origin::Origin;
use crate::engine::handler::Reactor;
use crate::gateway::hooks::Hooks;
use crate::gateway::pool::Pool;
use crate::gateway::rules::Rules;
use crate::gateway::shared::Change;

impl<H: Hooks> Proxy<H> {
    /// Takes over other settings. Exchanges under way keep their routes and their nodes.
    pub(in crate::gateway) fn take_over(
        &mut self,
        change: Change,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Change {
            settings,
            pools,
            left,
            sink,
        } = change;
        let reactors = reactor.engine().reactors();
        let high_water = super::high_water(&settings);
        let now = reactor.now();
        for (number, shared) in pools.iter().enumerate() {
            match self.pools.get_mut(number) {
                Some(pool) => pool.take_over(shared, reactors, high_water, &self.meters, now),
                None => {
                    let pool = Pool::new(shared.clone(), reactors, high_water, &self.meters);
                    self.pools.push(pool);
                }
            }
            let is_live = settings.has_pool(&shared.name);
            self.pools[number].set_live(is_live, now);
        }
        let rules = Rc::new(Rules::new(
            &settings,
            &pools,
            &self.meters,
            &self.shared.kept,
        ));
        if let Some(left) = left {
            self.left.extend(left.iter().copied());
            reactor.for_each(|conn, session| {
                let Session::Client(client) = session else {
                    return;
                };
                if self.is_left(conn.origin()) {
                    // It keeps the rules of its listener.
                    client.retires = Some(Box::new(now));
                } else if let Some(listener) = rules.listeners.get(conn.label()) {
                    client.listener = listener.clone();
                }
            });
        }
        self.take_over_rules(rules);
        if let Some(sink) = sink {
            self.sink = sink;
        }
        self.begin_checks(reactor);
        self.meters.forget_unused();
        self.shared.kept.forget_unused();
        for number in 0..self.pools.len() {
            self.tend_health(number, reactor);
            self.retry_held_dials(number, reactor);
            self.settle(number, reactor);
            self.settle_mirrors(number, reactor);
        }
        let timeout = settings.drain.node_timeout;
        if self.pools.iter().any(Pool::has_removed) {
            reactor.schedule(timeout, move |proxy, reactor| {
                proxy.end_leaving(timeout, reactor);
            });
        }
    }

    /// Returns true if a connection is of a listener whose clients take no further request.
    pub(super) fn is_left(&self, origin: Origin) -> bool {
        match origin {
            Origin::Accepted { listener } => self.left.contains(&listener),
            _ => false,
        }
    }

    /// Uses other rules. Kept connections to targets are closed if another policy may not allow where they lead.
    fn take_over_rules(&mut self, rules: Rc<Rules>) {
        let before = mem::replace(&mut self.rules, rules);
        let pools = self.pools.iter_mut();
        for pool in pools.filter(|pool| pool.settings().serves_targets) {
            // The pool of a forward listener has its name.
            let guard = |rules: &Rules| {
                let listener = rules.listeners.get(&*pool.shared.name);
                listener.map(|listener| listener.guard.clone())
            };
            if guard(&before) != guard(&self.rules) {
                pool.connections.close_all_idle();
            }
        }
    }

    /// Closes the connections to nodes that were removed so long ago. Others may have been removed since.
    fn end_leaving(&mut self, timeout: Duration, reactor: &mut Reactor<'_, Self>) {
        let now = reactor.now();
        reactor.for_each(|conn, session| {
            if let Session::UdpNode(node) = session
                && self.pools[node.pool].has_left(node.node, timeout, now)
            {
                conn.close();
            }
            if let Session::Upstream(upstream) = session
                && self.pools[upstream.pool].has_left(upstream.node, timeout, now)
            {
                match conn.codec() {
                    // Both sides are told.
                    Side::Frames(_) => conn.close(),
                    _ => conn.abort(),
                }
            }
        });
        for pool in &mut self.pools {
            pool.forget_removed(timeout, now);
        }
    }
}
