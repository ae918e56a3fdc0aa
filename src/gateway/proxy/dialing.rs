//! Dials, within the places that each node has.

use super::{Dial, Proxy, Purpose, Session};
use crate::balance::NodeId;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::Reactor;
use crate::gateway::destination::Destination;
use crate::gateway::error::{ProxyError, by_way_of};
use crate::gateway::hooks::Hooks;
use crate::gateway::places::TakenPlace;

impl<H: Hooks> Proxy<H> {
    /// Makes a connection, or lets the dial wait for a place.
    pub(super) fn dial(&mut self, number: usize, to: Destination, reactor: &mut Reactor<'_, Self>) {
        let pool = &mut self.pools[number];
        let place = match pool.shared.places.get(&to.node) {
            // Nobody counts the connections to a target.
            _ if to.target.is_some() => None,
            Some(places) => match places.try_take() {
                Some(place) => Some(place),
                None => return self.hold(number, to, reactor),
            },
            // The node is in the list no more, and the dial fails.
            None => None,
        };
        self.dial_at(number, to, place, reactor);
    }

    fn dial_at(
        &mut self,
        number: usize,
        to: Destination,
        place: Option<TakenPlace>,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let connect = self.pools[number].connect(&to);
        let of_clients = to.is_of_clients().then(|| (number, to.clone()));
        let token = self.next_token(Dial {
            pool: number,
            generation: self.pools[number].generation,
            began: reactor.now(),
            purpose: Purpose::Serve(to, place),
            is_withdrawn: false,
        });
        let asked = match connect {
            Some(connect) => reactor.connect(Connect::token(connect, token)).map(|dial| {
                if let Some(key) = of_clients {
                    let dials = self.dials_of_clients.entry(key).or_default();
                    dials.push((token, dial));
                }
            }),
            // It is in the list no more.
            None => Err(ConnectError::Cancelled),
        };
        if let Err(error) = asked {
            // The exchange that asks for it may be in hand.
            reactor.defer(move |proxy, reactor| proxy.on_dial_failed(token, error, reactor));
        }
    }

    /// Notes a dial, and returns its token.
    pub(super) fn next_token(&mut self, dial: Dial) -> u64 {
        self.last_dial += 1;
        self.dials.insert(self.last_dial, dial);
        self.last_dial
    }

    pub(super) fn on_dial_failed(
        &mut self,
        token: u64,
        error: ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let Some(dial) = self.dials.remove(&token) else {
            return;
        };
        let number = dial.pool;
        let (to, place) = match dial.purpose {
            Purpose::Serve(to, place) => (to, place),
            Purpose::Check(node) => return self.on_checked(number, node, false, reactor),
            Purpose::Mirror(node) => {
                return self.on_mirror_dial_failed(number, node, &error, reactor);
            }
        };
        if let Some(place) = place {
            self.offer_place(number, to.node, place, reactor);
        }
        if dial.is_withdrawn {
            return self.settle(number, reactor);
        }
        self.forget_dial_of_clients(number, &to, token);
        let pool = &mut self.pools[number];
        let via = pool.settings().via.clone();
        let (name, node, by) = (
            &pool.shared.name,
            pool.name_of(to.node),
            by_way_of(via.as_ref()),
        );
        log::debug!(target: "epicycle::gateway::pool", "pool {name}: {node}{by}: {error}");
        let is_removed = to.target.is_none() && pool.addr(to.node).is_none();
        if let Some(waiter) = pool.connections.failed(&to) {
            reactor.with(waiter, |conn, session| match session {
                Session::Client(client) => {
                    if let Some(exchange) = &mut client.exchange {
                        exchange.notes.end_wait(dial.began);
                    }
                    match is_removed {
                        true => self.choose_anew(conn, client),
                        false => {
                            let error = ProxyError::connect(error, via.as_ref());
                            self.try_elsewhere(conn, client, to.node, error);
                        }
                    }
                }
                Session::Tcp(client) => {
                    client.notes.end_wait(dial.began);
                    match is_removed {
                        true => self.choose_node_anew(conn, client),
                        false => {
                            let error = ProxyError::connect(error, via.as_ref());
                            self.try_another_node(conn, client, to.node, &error);
                        }
                    }
                }
                _ => {}
            });
        }
        self.settle(number, reactor);
    }

    /// Cancels the dials to a destination of clients for which nobody waits any more. Else clients that come and leave could have any
    /// number of them under way.
    pub(super) fn cancel_needless_dials(&mut self, number: usize, to: Destination) {
        let connections = &mut self.pools[number].connections;
        let needless = connections.needless_dials(&to);
        let key = (number, to);
        let Some(dials) = self.dials_of_clients.get_mut(&key) else {
            return;
        };
        for (token, connecting) in dials.split_off(dials.len().saturating_sub(needless)) {
            connections.withdraw_dial(&key.1);
            if let Some(dial) = self.dials.get_mut(&token) {
                dial.is_withdrawn = true;
            }
            // One that goes on, as the engine shuts down for example, is closed when it opens.
            let _ = connecting.cancel();
        }
        if dials.is_empty() {
            self.dials_of_clients.remove(&key);
        }
    }

    /// Forgets a dial to a destination of clients that has ended.
    pub(super) fn forget_dial_of_clients(&mut self, number: usize, to: &Destination, token: u64) {
        if !to.is_of_clients() {
            return;
        }
        let key = (number, to.clone());
        if let Some(dials) = self.dials_of_clients.get_mut(&key) {
            dials.retain(|(other, _)| *other != token);
            if dials.is_empty() {
                self.dials_of_clients.remove(&key);
            }
        }
    }

    /// Lets a dial wait for a place.
    fn hold(&mut self, number: usize, to: Destination, reactor: &mut Reactor<'_, Self>) {
        let node = to.node;
        let pool = &mut self.pools[number];
        let since = pool.shared.time(reactor.now());
        pool.held.add(to, since);
        pool.tell_held(node, reactor.id());
        self.use_free_places(number, node, reactor);
        if self.pools[number].held.at(node).0 > 0 {
            let reactors = reactor.engine().reactors();
            self.ask_for_place(number, node, reactors, reactor);
        }
    }

    /// Makes the connections to a node for which there are places by now.
    fn use_free_places(&mut self, number: usize, node: NodeId, reactor: &mut Reactor<'_, Self>) {
        while self.pools[number].held.at(node).0 > 0
            && let Some(places) = self.pools[number].shared.places.get(&node)
            && let Some(place) = places.try_take()
        {
            self.dial_held(number, node, place, reactor);
        }
    }

    /// Makes the connection to a node whose dial waits for longest.
    fn dial_held(
        &mut self,
        number: usize,
        node: NodeId,
        place: TakenPlace,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let pool = &mut self.pools[number];
        if let Some(to) = pool.held.take(node) {
            pool.tell_held(node, reactor.id());
            self.dial_at(number, to, Some(place), reactor);
        }
    }

    /// Closes an idle connection to a node here, or asks the next reactor to. `left` reactors are still to be asked.
    fn ask_for_place(
        &mut self,
        number: usize,
        node: NodeId,
        left: usize,
        reactor: &mut Reactor<'_, Self>,
    ) {
        if let Some(pool) = self.pools.get_mut(number) {
            let places = pool.shared.places.get(&node);
            if !places.is_some_and(|places| places.are_wanted()) {
                return;
            }
            if let Some(idle) = pool.connections.give_up_idle(|to| to.node == node) {
                reactor.with(idle, |_, session| {
                    if let Session::Upstream(upstream) = session
                        && let Some(place) = &mut upstream.place
                    {
                        place.begin_yield();
                    }
                });
                return;
            }
        }
        if left > 1 {
            let next = (reactor.id() + 1) % reactor.engine().reactors();
            // A gateway that ends closes its connections.
            let _ = reactor
                .engine()
                .run_on(next, move |proxy: &mut Self, reactor| {
                    proxy.ask_for_place(number, node, left - 1, reactor);
                    if number < proxy.pools.len() {
                        proxy.settle(number, reactor);
                    }
                });
        }
    }

    /// Passes on a place at a node that its connection needs no more, to the reactor that waits for longest. If none does, the
    /// place is free.
    pub(super) fn offer_place(
        &mut self,
        number: usize,
        node: NodeId,
        mut place: TakenPlace,
        reactor: &mut Reactor<'_, Self>,
    ) {
        let shared = &self.pools[number].shared;
        let (node, places) = match shared.places.get(&node) {
            Some(places) => (node, places),
            None => {
                let again = shared.node_of(&place);
                let Some((node, places)) =
                    again.and_then(|node| Some((node, shared.places.get(&node)?)))
                else {
                    return;
                };
                (node, places)
            }
        };
        let waiting = match places.longest_waiting() {
            Some(waiting) if !places.are_too_many() => waiting,
            _ => {
                drop(place);
                // One may have begun to wait before it could see that the place is free.
                let Some(waiting) = places.longest_waiting() else {
                    return;
                };
                let Some(again) = places.try_take() else {
                    return;
                };
                place = again;
                waiting
            }
        };
        place.end_yield();
        if waiting == reactor.id() {
            return self.dial_held(number, node, place, reactor);
        }
        // The place of a message that is lost is free again.
        let _ = reactor
            .engine()
            .run_on(waiting, move |proxy: &mut Self, reactor| {
                proxy.on_place(number, node, place, reactor);
            });
    }

    /// Uses a place that another reactor has passed on. If nobody waits here any more, it goes on.
    fn on_place(
        &mut self,
        number: usize,
        node: NodeId,
        place: TakenPlace,
        reactor: &mut Reactor<'_, Self>,
    ) {
        match self.pools[number].held.at(node).0 {
            0 => self.offer_place(number, node, place, reactor),
            _ => self.dial_held(number, node, place, reactor),
        }
    }

    /// Forgets the dials that wait for places and whose requests are served, or have gone.
    pub(super) fn forget_needless_dials(&mut self, number: usize, reactor: usize) {
        let pool = &mut self.pools[number];
        if pool.held.is_empty() {
            return;
        }
        for (to, held) in pool.held.destinations() {
            let needless = pool.connections.needless_dials(&to).min(held);
            for _ in 0..needless {
                pool.held.forget(&to);
                pool.connections.withdraw_dial(&to);
            }
            if needless > 0 {
                pool.tell_held(to.node, reactor);
            }
        }
    }

    /// Makes the connections that other settings allow, or whose nodes they have removed.
    pub(super) fn retry_held_dials(&mut self, number: usize, reactor: &mut Reactor<'_, Self>) {
        for (to, held) in self.pools[number].held.destinations() {
            if self.pools[number].addr(to.node).is_some() {
                self.use_free_places(number, to.node, reactor);
                continue;
            }
            for _ in 0..held {
                self.pools[number].held.forget(&to);
                self.dial_at(number, to.clone(), None, reactor);
            }
        }
    }
}
