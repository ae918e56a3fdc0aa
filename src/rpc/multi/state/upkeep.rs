//! The upkeep of the addresses: dials, lookups, and the end of idle sessions.

use std::time::{Duration, Instant};

use super::{Deed, Known, State};
use crate::balance::{NodeId, NodeSpec};
use crate::engine::connect::resolve::LookupResult;
use crate::rpc::multi::address::Address;
use crate::rpc::multi::options::{Options, Source};
use crate::rpc::session::Session;
use crate::rpc::wire::Status;

/// The shortest time between two lookups of a name because of failures.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);

impl State {
    /// Takes the result of a dial.
    pub(in crate::rpc::multi) fn dialled(
        &mut self,
        node: NodeId,
        result: Result<Session, Status>,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let time = self.time(now);
        let is_finished = self.is_finished();
        let Some(address) = self.addresses.get_mut(&node) else {
            // The name has lost the address meanwhile.
            deeds.extend(result.map(Deed::Close));
            return;
        };
        match result {
            Ok(session) => {
                address.dialling -= 1;
                if is_finished {
                    return deeds.push(Deed::Close(session));
                }
                address.add(session.clone(), now);
                self.stats.created += 1;
                (self.options.health).set_down(&self.nodes, node, false, time);
                deeds.push(Deed::Watch(node, session));
            }
            Err(status) => {
                log::debug!(target: "epicycle::rpc", "{:?} is not connected: {status}", self.nodes.address(node));
                address.dial_failed(status, &self.options, now);
                self.stats.failed_dials += 1;
                if address.workers.is_empty() {
                    self.nodes.set_down(node, true);
                }
                self.look_up_soon(now);
            }
        }
        self.upkeep(now, deeds);
        self.place_waiting(now, deeds);
    }

    /// Notes that a session has ended.
    pub(in crate::rpc::multi) fn session_ended(
        &mut self,
        node: NodeId,
        session: &Session,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let address = self.addresses.get_mut(&node);
        if address.is_some_and(|address| address.ended(session, &self.options, now)) {
            self.upkeep(now, deeds);
        }
    }

    /// Takes the addresses of a host name. Those that stay keep their state.
    pub(in crate::rpc::multi) fn resolved(
        &mut self,
        source: usize,
        found: LookupResult,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let pause = self.options.resolve_every;
        let known = self.sources.iter_mut().find(|known| known.number == source);
        let Some(known) = known else {
            return;
        };
        known.is_looking_up = false;
        known.looked_up = Some(now);
        match found.and_then(|found| known.take(&found)) {
            Ok(()) => {
                known.failed = None;
                known.look_up_at = now.checked_add(pause);
            }
            Err(reason) => {
                log::debug!(target: "epicycle::rpc", "{:?} does not resolve: {reason}", known.host);
                known.failed = Some(reason);
                // The addresses from before stay.
                known.look_up_at = now.checked_add(pause.min(LOOK_UP_PAUSE));
            }
        }
        self.sources_changed(now, deeds);
    }

    /// Takes other sources. What stays of the addresses keeps its state.
    pub(in crate::rpc::multi) fn set_sources(
        &mut self,
        sources: Vec<Source>,
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        if self.is_over() {
            return;
        }
        let mut old = std::mem::take(&mut self.sources);
        for source in sources {
            match old.iter().position(|known| known.leads_to(&source)) {
                Some(at) => {
                    let mut known = old.swap_remove(at);
                    known.source.weight = source.weight;
                    self.sources.push(known);
                }
                None => {
                    self.sources.push(Known::new(self.next_source, source));
                    self.next_source += 1;
                }
            }
        }
        self.sources_changed(now, deeds);
    }

    fn sources_changed(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let had_none = self.nodes.is_empty();
        let (added, removed) = self.set_nodes();
        if !had_none {
            let time = self.time(now);
            self.options.health.added(&self.nodes, &added, time);
        }
        for address in removed {
            // Their calls end first.
            let sessions = address.workers.into_iter().map(|worker| worker.session);
            deeds.extend(sessions.map(Deed::Close));
        }
        self.upkeep(now, deeds);
        self.place_waiting(now, deeds);
    }

    /// Dials, closes idle sessions, looks names up, and lets ejected addresses return. Sets the moment of the next call.
    pub(super) fn upkeep(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.upkeep_at = None;
        if self.is_over() {
            return;
        }
        let options = self.options.clone();
        let next = options.health.tick(&self.nodes, self.time(now));
        let mut next = next.and_then(|time| self.epoch.checked_add(time));
        let mut at = |moment: Option<Instant>| next = next.into_iter().chain(moment).min();
        let is_wanted = !self.waiting.is_empty();
        for node in self.nodes.iter() {
            let Some(address) = self.addresses.get_mut(&node.id()) else {
                continue;
            };
            let idle = address.take_idle(&options, now);
            deeds.extend(idle.into_iter().map(Deed::Close));
            at(address.next_idle(options.keep, options.idle));
            dial(address, node.id(), is_wanted, &options, now, deeds);
            let is_down = node.is_down() && address.dialling == 0;
            if is_down && address.may_dial(now) {
                // Nobody dials it without a call, so it must get one.
                self.nodes.set_down(node.id(), false);
            } else if is_down || address.lacks(is_wanted, &options) > 0 {
                at(address.dial_at);
            }
        }
        for known in &mut self.sources {
            let Some(host) = &known.host else {
                continue;
            };
            if known.is_looking_up {
                continue;
            }
            if known.look_up_at.is_none_or(|at| at <= now) {
                known.is_looking_up = true;
                deeds.push(Deed::LookUp(known.number, host.clone()));
            } else {
                at(known.look_up_at);
            }
        }
        self.upkeep_at = next;
    }

    /// Has the names looked up before their time, since an address has failed.
    pub(super) fn look_up_soon(&mut self, now: Instant) {
        for known in self.sources.iter_mut().filter(|known| known.host.is_some()) {
            let pause = LOOK_UP_PAUSE.min(self.options.resolve_every);
            let soon = known.looked_up.and_then(|before| before.checked_add(pause));
            known.look_up_at = known.look_up_at.min(soon.map(|soon| soon.max(now)));
        }
    }

    /// Makes the list of nodes from what is known of the sources. Returns the nodes that are new, and the addresses that are
    /// gone.
    pub(super) fn set_nodes(&mut self) -> (Vec<NodeId>, Vec<Address>) {
        let found = self.sources.iter().flat_map(|known| {
            let weight = known.source.weight;
            let found = known.found.iter();
            found.map(move |(address, _)| NodeSpec::new(address.clone()).weight(weight))
        });
        let (nodes, changes) = self.nodes.updated(found);
        self.nodes = nodes;
        for node in &changes.added {
            let name = self.nodes.address(*node).unwrap_or_default();
            for known in &self.sources {
                let mut found = known.found.iter();
                if let Some((_, connect)) = found.find(|(address, _)| address == name) {
                    // The name, not the address, is the host of an HTTP request.
                    let host = known.source.connect.host_and_port();
                    let protocol = self.options.protocol.clone().towards(host);
                    let address = Address::new(connect.clone(), protocol, &self.options);
                    self.addresses.insert(*node, address);
                    break;
                }
            }
        }
        let removed = changes.removed.iter();
        let removed = removed.filter_map(|node| self.addresses.remove(node));
        let removed = removed.collect();
        self.balancer.update(&self.nodes);
        (changes.added, removed)
    }
}

/// Dials the sessions that an address lacks.
pub(super) fn dial(
    address: &mut Address,
    node: NodeId,
    is_wanted: bool,
    options: &Options,
    now: Instant,
    deeds: &mut Vec<Deed>,
) {
    if address.may_dial(now) {
        for _ in 0..address.lacks(is_wanted, options) {
            address.dialling += 1;
            let (connect, protocol) = (address.connect.clone(), address.protocol.clone());
            deeds.push(Deed::Dial(node, connect, protocol));
        }
    }
}
