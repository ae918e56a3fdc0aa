//! The packets and requests that a node sends to gates and other nodes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::context::{Asked, Call, Core, Found, Gather, Locating, OwnPacket, Place};
use super::reply::Reply;
use super::shared::{Options, guarded};
use crate::cluster::codec::EncodeBody;
use crate::cluster::dispatch::{Dispatch, Refusal, Source};
use crate::cluster::drpc::Request;
use crate::cluster::link::Identity;
use crate::cluster::locator::Located;
use crate::cluster::{Error, Kind};

/// The maximum number of requests that wait for the locator, on one reactor.
const MAX_LOCATING: usize = 65_536;

impl Core {
    /// Encodes a packet for clients, and gives it to `send`.
    pub(super) fn with_packet<R>(
        &mut self,
        head: (i32, i32),
        value: &(impl EncodeBody + ?Sized),
        send: impl FnOnce(&mut Self, &[u8]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.encode(head, |options, dst| {
            #[cfg(feature = "crypto")]
            if let Some(cipher) = &options.cipher {
                let data = options.codec.encode(value)?;
                dst.extend_from_slice(&cipher.encrypt(&data)?);
                return Ok(());
            }
            options.codec.encode_into(value, dst)
        })?;
        self.with_encoded(send)
    }

    /// Encodes a packet for a node, and gives it to `send`.
    pub(super) fn with_plain_packet<R>(
        &mut self,
        head: (i32, i32),
        value: &(impl EncodeBody + ?Sized),
        send: impl FnOnce(&mut Self, &[u8]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.encode(head, |options, dst| options.codec.encode_into(value, dst))?;
        self.with_encoded(send)
    }

    /// Encodes a packet into the buffer for that, and not into that of a lane, where a faulty codec would harm what others send.
    fn encode(
        &mut self,
        head: (i32, i32),
        data: impl FnOnce(&Options, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let options = &self.shared.options;
        self.packet.clear();
        let packets = &options.packet;
        packets.encode_with(head, &mut self.packet, |dst| data(options, dst))
    }

    fn with_encoded<R>(
        &mut self,
        send: impl FnOnce(&mut Self, &[u8]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let packet = std::mem::take(&mut self.packet);
        let sent = send(self, &packet);
        self.packet = packet;
        sent
    }

    /// Sends a request that is not answered.
    pub(super) fn send(
        &mut self,
        kind: Kind,
        peer: &str,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        self.is_pending = true;
        let sent = self.lanes.send(peer, request, self.now);
        if !matches!(sent, Err(Error::LinkDown { .. })) {
            return sent;
        }
        // The registry may not have told of it yet.
        self.lanes.expect(&Identity::new(kind, peer));
        self.lanes.send(peer, request, self.now)
    }

    /// Sends a request to every gate. One that does not take it misses it.
    pub(super) fn send_to_all(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let gates = std::mem::take(&mut self.gates);
        let mut result = Ok(());
        for gate in &gates {
            result = result.and(self.send(Kind::Gate, gate, request));
        }
        self.gates = gates;
        result
    }

    /// Sends a request to the gate of a user, as soon as it is known.
    pub(super) fn send_to_gate_of(
        &mut self,
        uid: i64,
        send: impl FnOnce(&mut Self, &str) -> Result<(), Error> + 'static,
    ) -> Result<(), Error> {
        match self.whereabouts(uid, None) {
            Located::At(gid) => send(self, &gid),
            Located::Nowhere => Err(Error::NotFoundUserLocation { uid }),
            Located::Unknown => self.locate(
                (uid, None),
                Box::new(move |core, found| {
                    let sent = found
                        .and_then(|found| found.ok_or(Error::NotFoundUserLocation { uid }))
                        .and_then(|gid| send(core, &gid));
                    core.note_lost(sent);
                }),
            ),
        }
    }

    /// Asks a gate. The answer is told to `call`, and so is that it cannot be asked.
    pub(super) fn ask(&mut self, gid: &str, request: &Request<'_>, call: Call) {
        self.is_pending = true;
        let since = self.now;
        let asking = Asked { call, since };
        let asked = match self.lanes.call(gid, request, asking, since) {
            Err((asking, Error::LinkDown { .. })) => {
                // The registry may not have told of it yet.
                self.lanes.expect(&Identity::new(Kind::Gate, gid));
                self.lanes.call(gid, request, asking, since)
            }
            asked => asked,
        };
        match asked {
            Ok(()) => self.counters().calls.add(1),
            Err((Asked { call, .. }, error)) => {
                self.counters().calls_failed.add(1);
                self.ended.push((call, Err(error)));
            }
        }
    }

    /// Asks the gate of a user. If the user is nowhere, that is `absent`.
    pub(super) fn ask_gate_of(
        &mut self,
        uid: i64,
        request: Request<'static>,
        absent: Result<Reply, Error>,
        call: Call,
    ) -> Result<(), Error> {
        self.is_pending = true;
        let found: Found = Box::new(move |core, found| match found {
            Ok(Some(gid)) => core.ask(&gid, &request, call),
            Ok(None) => core.ended.push((call, absent)),
            Err(error) => core.ended.push((call, Err(error))),
        });
        match self.whereabouts(uid, None) {
            Located::At(gid) => found(self, Ok(Some(gid))),
            Located::Nowhere => found(self, Ok(None)),
            Located::Unknown => return self.locate((uid, None), found),
        }
        Ok(())
    }

    /// Asks all gates. `call` gets the sum of the totals.
    pub(super) fn gather(&mut self, request: &Request<'_>, call: Call) {
        let gates = std::mem::take(&mut self.gates);
        self.gather_from(&gates, std::slice::from_ref(request), call);
        self.gates = gates;
    }

    /// Sends requests to gates, and asks for their totals. `call` gets the sum.
    pub(super) fn gather_from(&mut self, gates: &[Arc<str>], requests: &[Request<'_>], call: Call) {
        if gates.is_empty() || requests.is_empty() {
            self.ended.push((call, Ok(Reply::Total(0))));
            self.is_pending = true;
            return;
        }
        self.last_gather += 1;
        let number = self.last_gather;
        let gather = Gather {
            missing: gates.len() * requests.len(),
            total: 0,
            then: call,
        };
        self.gathering.insert(number, gather);
        for gate in gates {
            for request in requests {
                self.ask(
                    gate,
                    request,
                    Box::new(move |_, core, reply| core.gathered(number, reply)),
                );
            }
        }
    }

    fn gathered(&mut self, number: u64, reply: Result<Reply, Error>) {
        let Some(gather) = self.gathering.get_mut(&number) else {
            return;
        };
        match reply {
            Ok(Reply::Total(total)) => gather.total = gather.total.saturating_add(total),
            Ok(_) => {}
            Err(error) => {
                log::debug!(target: "epicycle::cluster", "a gate is not counted: {error}");
            }
        }
        gather.missing -= 1;
        if gather.missing == 0
            && let Some(gather) = self.gathering.remove(&number)
        {
            self.ended
                .push((gather.then, Ok(Reply::Total(gather.total))));
            self.is_pending = true;
        }
    }

    /// Delivers a packet to a node of its route.
    pub(super) fn deliver(&mut self, route: i32, uid: i64, packet: &[u8]) -> Result<(), Error> {
        let table = self.table.clone();
        match table.dispatch(route, Source::Node { uid }) {
            Dispatch::To(node) => self.deliver_to(&node.id, uid, packet),
            Dispatch::Refuse(Refusal::UnknownRoute) => Err(Error::NotFoundRoute { route }),
            Dispatch::Refuse(Refusal::NoneWorking) => Err(Error::NotFoundEndpoint {
                wanted: format!("for route {route}"),
            }),
            Dispatch::Refuse(_) => Err(Error::NotFoundUserLocation { uid }),
            Dispatch::Locate { alias, uid } => match self.whereabouts(uid, Some(alias)) {
                Located::At(nid) => self.deliver_to(&nid, uid, packet),
                Located::Nowhere => Err(Error::NotFoundUserLocation { uid }),
                Located::Unknown => {
                    let (place, packet) = ((uid, Some(alias.clone())), packet.to_vec());
                    self.locate(
                        place,
                        Box::new(move |core, found| {
                            let sent = found
                                .and_then(|found| found.ok_or(Error::NotFoundUserLocation { uid }))
                                .and_then(|nid| core.deliver_to(&nid, uid, &packet));
                            core.note_lost(sent);
                        }),
                    )
                }
            },
        }
    }

    /// Delivers a packet to a node, which may be this one.
    pub(super) fn deliver_to(&mut self, nid: &str, uid: i64, packet: &[u8]) -> Result<(), Error> {
        if *nid == self.shared.ours.id {
            return self.deliver_here(uid, packet);
        }
        self.is_pending = true;
        if !self.dialled.contains(nid) {
            let known = self.peers.iter().any(|(peer, _)| peer.id == nid);
            if !known {
                let wanted = nid.to_owned();
                return Err(Error::NotFoundEndpoint { wanted });
            }
            self.dialled.insert(nid.to_owned());
            self.has_new_peer = true;
        }
        let cid = 0;
        self.send(Kind::Node, nid, &Request::Deliver { cid, uid, packet })
    }

    pub(super) fn deliver_here(&mut self, uid: i64, packet: &[u8]) -> Result<(), Error> {
        if self.own_packets.len() >= MAX_OWN {
            let what = "queue of packets of a node to itself";
            return Err(Error::Busy { what });
        }
        self.is_pending = true;
        let packet = packet.to_vec();
        self.own_packets.push_back(OwnPacket { uid, packet });
        Ok(())
    }

    /// Returns where a user is, if it is known and nothing waits to be told.
    fn whereabouts(&self, uid: i64, alias: Option<&Arc<str>>) -> Located {
        let place = (uid, alias.cloned());
        if !self.locating.is_empty() && self.locating.contains_key(&place) {
            return Located::Unknown;
        }
        match alias {
            None => self.shared.locations.cached_gate(uid),
            Some(alias) => self.shared.locations.cached_node(uid, alias),
        }
    }

    /// Asks the locator, after all that waits for the same place.
    fn locate(&mut self, place: Place, found: Found) -> Result<(), Error> {
        if self.locating_len >= MAX_LOCATING {
            let what = "queue of requests that wait for the locator";
            return Err(Error::Busy { what });
        }
        let changes = self.shared.locations.changes(place.0);
        let locating = Locating { changes, found };
        if let Some(waiting) = self.locating.get_mut(&place) {
            waiting.push_back(locating);
        } else {
            self.ask_where(&place)?;
            self.locating.insert(place, VecDeque::from([locating]));
        }
        self.locating_len += 1;
        Ok(())
    }

    fn ask_where(&self, place: &Place) -> Result<(), Error> {
        let (shared, reactor, asked) = (self.shared.clone(), self.id, place.clone());
        let posting = self.posting.clone();
        self.shared.submit(None, move || {
            let locations = &shared.locations;
            let changes = locations.changes(asked.0);
            let found = guarded(|| match &asked {
                (uid, None) => locations.gate(*uid),
                (uid, Some(alias)) => locations.node(*uid, alias),
            });
            posting.post_anyway(
                reactor,
                Box::new(move |_, core| core.located(&asked, changes, &found)),
            );
        })
    }

    /// Tells those who wait for a place what was found. It has all changes up to `changes`; those who know of later ones wait for
    /// another answer.
    fn located(&mut self, place: &Place, changes: u64, found: &Result<Option<Arc<str>>, Error>) {
        let is_told = |waiting: &mut Locating| waiting.changes <= changes;
        while let Some(waiting) = self.locating.get_mut(place) {
            if let Some(told) = waiting.pop_front_if(is_told) {
                self.locating_len -= 1;
                (told.found)(self, found.clone());
                continue;
            }
            if waiting.is_empty() {
                self.locating.remove(place);
            } else if let Err(error) = self.ask_where(place) {
                let given_up = self.locating.remove(place).unwrap_or_default();
                self.locating_len -= given_up.len();
                for waiting in given_up {
                    (waiting.found)(self, Err(error.clone()));
                }
            }
            return;
        }
    }

    /// Returns true if something for a user waits for its location. What is sent to its connection must wait behind that.
    pub(super) fn is_locating(&self, uid: i64) -> bool {
        uid > 0 && !self.locating.is_empty() && self.locating.contains_key(&(uid, None))
    }

    /// Calls `send` behind what waits for a user's location.
    pub(super) fn send_behind(
        &mut self,
        uid: i64,
        send: impl FnOnce(&mut Self) -> Result<(), Error> + 'static,
    ) -> Result<(), Error> {
        let found: Found = Box::new(move |core, _| {
            let sent = send(core);
            core.note_lost(sent);
        });
        self.locate((uid, None), found)
    }

    /// Notes that something which had been taken was not sent.
    pub(super) fn note_lost(&self, sent: Result<(), Error>) {
        if let Err(error) = sent {
            self.counters().lost.add(1);
            log::debug!(target: "epicycle::cluster", "something is not sent: {error}");
        }
    }
}

/// The maximum number of packets of a node to itself that wait, on one reactor.
const MAX_OWN: usize = 65_536;
