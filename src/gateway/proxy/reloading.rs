//! New settings, as a reactor takes them over.

use std::rc::Rc;

use super::{Proxy, Session, Side};
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
            sink,
        } = change;
        let reactors = reactor.engine().reactors();
        let high_water = super::high_water(&settings);
        for (number, shared) in pools.iter().enumerate() {
            match self.pools.get_mut(number) {
                Some(pool) => pool.take_over(shared, reactors, high_water, &self.meters),
                None => {
                    let pool = Pool::new(shared.clone(), reactors, high_water, &self.meters);
                    self.pools.push(pool);
                }
            }
            if !settings.pools.contains_key(&*shared.name) {
                self.pools[number].connections.close_all_idle();
            }
        }
        let rules = Rc::new(Rules::new(&settings, &pools, &self.meters));
        reactor.for_each(|conn, session| {
            if let Session::Client(client) = session
                && let Some(listener) = rules.listeners.get(conn.label())
            {
                client.listener = listener.clone();
            }
        });
        self.rules = rules;
        if let Some(sink) = sink {
            self.sink = sink;
        }
        self.begin_checks(reactor);
        self.meters.forget_unused();
        for number in 0..self.pools.len() {
            self.tend_health(number, reactor);
            self.retry_held_dials(number, reactor);
            self.settle(number, reactor);
        }
        let timeout = settings.drain.node_timeout;
        if self.has_leaving_connections(reactor) {
            reactor.schedule(timeout, Self::end_leaving);
        }
    }

    fn has_leaving_connections(&self, reactor: &mut Reactor<'_, Self>) -> bool {
        let mut found = false;
        reactor.for_each(|_, session| found |= self.is_leaving(session));
        found
    }

    /// Closes the connections to nodes that were removed.
    fn end_leaving(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.for_each(|conn, session| {
            if self.is_leaving(session) {
                match conn.codec() {
                    // Both sides are told.
                    Side::Frames(_) => conn.close(),
                    _ => conn.abort(),
                }
            }
        });
    }

    /// Returns true for a connection to a node that was removed.
    fn is_leaving(&self, session: &Session<H>) -> bool {
        match session {
            Session::Upstream(upstream) => {
                let pool = &self.pools[upstream.pool];
                !self.rules.pools.contains_key(&pool.shared.name)
                    || pool.addr(upstream.node).is_none()
            }
            Session::Client(_) | Session::Check(_) => false,
        }
    }
}
