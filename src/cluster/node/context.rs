//! A request of a client, and the part of a reactor that answers it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::shared::Shared;
use super::stats::NodeCounters;
use crate::cluster::codec::{DecodeBody, EncodeBody};
use crate::cluster::drpc::{Scope, Target};
use crate::cluster::link::{Identity, Lanes};
use crate::cluster::packet::Packet;
use crate::cluster::{Error, Event, Kind, drpc};

/// The part of a reactor that is the same whatever the application's state is.
pub(super) struct Core {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: Lanes<()>,
    /// The time at which the turn began.
    pub(super) now: Instant,
    /// True if the end of the turn has something to do.
    pub(super) is_pending: bool,
    data: Vec<u8>,
    packet: Vec<u8>,
}

impl Core {
    pub(super) fn new(id: usize, shared: Arc<Shared>) -> Self {
        let (ours, options) = (shared.ours.clone(), &shared.options);
        Self {
            id,
            lanes: Lanes::new(ours, options.secret.clone(), options.lanes.clone()),
            now: Instant::now(),
            is_pending: false,
            data: Vec::new(),
            packet: Vec::new(),
            shared,
        }
    }

    pub(super) fn counters(&self) -> &NodeCounters {
        &self.shared.counters[self.id]
    }

    /// Sends a packet to a client of a gate. It leaves at the end of the turn.
    fn push(
        &mut self,
        gid: &str,
        target: Target,
        (route, seq): (i32, i32),
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.data.clear();
        self.packet.clear();
        let options = &self.shared.options;
        options.codec.encode_into(value, &mut self.data)?;
        let data = &self.data;
        let packets = &options.packet;
        packets.encode_into(&Packet { route, seq, data }, &mut self.packet)?;
        let push = drpc::Request::Push {
            target,
            disconnect: false,
            packet: &self.packet,
        };
        let mut sent = self.lanes.send(gid, &push, self.now);
        if let Err(Error::LinkDown { .. }) = sent {
            // The registry may not have told of it yet.
            self.lanes.expect(&Identity::new(Kind::Gate, gid));
            sent = self.lanes.send(gid, &push, self.now);
        }
        sent?;
        self.is_pending = true;
        self.counters().pushed.add(1);
        Ok(())
    }
}

/// A packet or an event of a client, with what its handler can do.
///
/// Whatever it sends leaves at the end of the reactor's turn, in the order in which it was sent.
pub struct Request<'a> {
    pub(super) core: &'a mut Core,
    pub(super) from: &'a Sender,
    pub(super) cid: i64,
    pub(super) uid: i64,
    pub(super) subject: Subject<'a>,
}

/// The server that has handed a packet or an event to the node.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// Its id, or nothing if it has not introduced itself.
    pub(super) id: Arc<str>,
    pub(super) is_node: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Packet(Packet<'a>),
    Event(Event),
}

impl Request<'_> {
    /// Returns the id of the client's gate. It is empty if another node sent the packet.
    pub fn gid(&self) -> &str {
        if self.from.is_node { "" } else { &self.from.id }
    }

    /// Returns the id of the node that sent the packet. It is empty if a client did.
    pub fn nid(&self) -> &str {
        if self.from.is_node { &self.from.id } else { "" }
    }

    /// Returns the number of the client's connection, or 0 if another node sent the packet.
    pub fn cid(&self) -> i64 {
        self.cid
    }

    /// Returns the user, or 0 if the connection has none.
    pub fn uid(&self) -> i64 {
        self.uid
    }

    /// Returns the packet's route. That of an event is 0.
    pub fn route(&self) -> i32 {
        match self.subject {
            Subject::Packet(packet) => packet.route,
            Subject::Event(_) => 0,
        }
    }

    /// Returns the packet's seq: above 0 if the client awaits an answer.
    pub fn seq(&self) -> i32 {
        match self.subject {
            Subject::Packet(packet) => packet.seq,
            Subject::Event(_) => 0,
        }
    }

    /// Returns the packet's data. An event has none.
    pub fn data(&self) -> &[u8] {
        match self.subject {
            Subject::Packet(packet) => packet.data,
            Subject::Event(_) => &[],
        }
    }

    /// Returns the event, if it is one.
    pub fn event(&self) -> Option<Event> {
        match self.subject {
            Subject::Packet(_) => None,
            Subject::Event(event) => Some(event),
        }
    }

    /// Decodes the data with the node's codec.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the data is not such a value.
    pub fn parse<V: DecodeBody>(&self) -> Result<V, Error> {
        self.core.shared.options.codec.decode(self.data())
    }

    /// Answers the packet: with its route and seq.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn respond(&mut self, value: &(impl EncodeBody + ?Sized)) -> Result<(), Error> {
        self.reply(self.route(), self.seq(), value)
    }

    /// Sends a packet with any route and seq to the client.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn reply(
        &mut self,
        route: i32,
        seq: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        if self.cid == 0 || self.from.is_node {
            return Err(Error::NotFoundSession {
                kind: "connection",
                target: self.cid,
            });
        }
        let target = Target {
            scope: Scope::Conn,
            id: self.cid,
        };
        self.core.push(&self.from.id, target, (route, seq), value)
    }

    /// Sends a packet without a seq to the client.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the value cannot be encoded, the errors of
    /// [`PacketOptions::encode`](crate::cluster::packet::PacketOptions::encode), [`Error::Busy`] if too much waits for the gate,
    /// [`Error::LinkDown`] if the gate is gone, and [`Error::NotFoundSession`] if there is no client, since another node sent the
    /// packet.
    pub fn push(&mut self, route: i32, value: &(impl EncodeBody + ?Sized)) -> Result<(), Error> {
        self.reply(route, 0, value)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("gid", &self.gid())
            .field("nid", &self.nid())
            .field("cid", &self.cid)
            .field("uid", &self.uid)
            .field("route", &self.route())
            .field("seq", &self.seq())
            .field("event", &self.event())
            .finish_non_exhaustive()
    }
}
