//! New settings, as a reactor takes them over.

use std::mem;
use std::rc::Rc;
use std::time::Duration;

use super::{Proxy, Session, Side};
use crate::engine::conn::origin::Origin;
use crate::engine::handler::Reactor;
use crate::gateway::hooks::Hooks;
use crate::gateway::pool::Pool;
use crate::gateway::route::Route;
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
                Some(pool) if pool.shared.name == shared.name => {
                    pool.take_over(shared, reactors, high_water, &self.meters, now);
                }
                Some(ended) => {
                    let pool = Pool::new(shared.clone(), reactors, high_water, &self.meters);
                    *ended = pool.in_place_of(ended);
                }
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

    /// Returns the numbers of the pools that were removed and that nothing here refers to any more, so that others may have them.
    pub(in crate::gateway) fn ended_pools(&self, reactor: &mut Reactor<'_, Self>) -> Vec<usize> {
        let all = self.pools.iter().enumerate();
        let ended = all.filter(|(_, pool)| pool.has_ended());
        let mut ended: Vec<usize> = ended.map(|(number, _)| number).collect();
        if !ended.is_empty() {
            ended.retain(|number| self.dials.values().all(|dial| dial.pool != *number));
            reactor.for_each(|_, session| ended.retain(|number| !session.refers_to(*number)));
        }
        ended
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

impl<H: Hooks> Session<H> {
    /// Returns true if a connection may yet ask for the pool with this number.
    fn refers_to(&self, number: usize) -> bool {
        let pool = Some(number);
        let leads_there = |route: &Rc<Route>| {
            let mirror = route.mirror.as_ref();
            route.pool == pool || mirror.is_some_and(|mirror| mirror.pool == pool)
        };
        match self {
            Session::Client(client) => {
                let exchange = client.exchange.as_ref();
                client.listener.targets.as_ref().is_some_and(leads_there)
                    || exchange.is_some_and(|exchange| {
                        exchange.pool == pool || exchange.route.as_ref().is_some_and(leads_there)
                    })
            }
            Session::Upstream(upstream) => upstream.pool == number,
            Session::Check(check) => check.pool == number,
            Session::Mirror(mirror) => mirror.pool == number,
            Session::Tcp(client) => client.destination().0 == number,
            Session::Udp(client) => client.destination().0 == number,
            Session::UdpNode(node) => node.pool == number,
            Session::Socks(_) | Session::Target | Session::Relay(_) | Session::UdpTarget(_) => {
                false
            }
        }
    }
}
