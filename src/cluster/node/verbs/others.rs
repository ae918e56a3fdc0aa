//! The verbs of a handler that concern other clients.

use std::any::Any;

use super::{boxed, push};
use crate::cluster::codec::EncodeBody;
use crate::cluster::drpc::{self, MAX_TARGETS, Scope, Target, Targets, unique_targets};
use crate::cluster::node::context::{Call, Core, HandlerError, Request};
use crate::cluster::node::reply::Reply;
use crate::cluster::{Error, Kind, locator};

/// # Other clients
///
/// A target that is a connection is at the gate of the request. One that is a user is wherever it is.
impl Request<'_> {
    /// Sends a packet to a client.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), [`Error::NotFoundUserLocation`] if it is known that the user is at no gate, and
    /// [`Error::InvalidArgument`] if the target's id is not above 0.
    pub fn push_to(
        &mut self,
        target: Target,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        check(target)?;
        let from = self.from;
        match target.scope {
            // It comes behind what waits for the location of its user.
            Scope::Conn if target.id == self.cid => self.push(route, value),
            Scope::Conn => {
                self.check_gate()?;
                self.core.with_packet((route, 0), value, |core, packet| {
                    push(core, &from.id, target, packet)
                })
            }
            Scope::User => self.core.with_packet((route, 0), value, |core, packet| {
                let packet = packet.to_vec();
                core.send_to_gate_of(target.id, move |core, gid| push(core, gid, target, &packet))
            }),
        }
    }

    /// Closes a client's connection: once all is sent, or at once by a reset if `force`.
    ///
    /// A client that speaks control packets gets Goodbye with the reason [`Kicked`](crate::cluster::packet::GoodbyeReason::Kicked)
    /// before, unless `force`, and does not dial again if it is [one of the library](crate::cluster::client).
    ///
    /// # Errors
    ///
    /// As [`push_to`](Self::push_to), but for those of encoding.
    pub fn kick(&mut self, target: Target, force: bool) -> Result<(), Error> {
        check(target)?;
        let kick = drpc::Request::Disconnect { target, force };
        match target.scope {
            Scope::Conn if target.id == self.cid => self.disconnect(force),
            Scope::Conn => {
                self.check_gate()?;
                self.core.send(Kind::Gate, &self.from.id, &kick)
            }
            Scope::User => self.core.send_to_gate_of(target.id, move |core, gid| {
                core.send(Kind::Gate, gid, &kick)
            }),
        }
    }

    /// Asks if a client is connected.
    ///
    /// # Errors
    ///
    /// As [`bind_gate`](Self::bind_gate), and [`Error::Busy`] if too much waits for the locator.
    pub fn is_online<S: 'static, E: Into<HandlerError>>(
        &mut self,
        target: Target,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<bool, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        check(target)?;
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let online = reply.map(|reply| matches!(reply, Reply::Online(true)));
                then(state, request, online)
            },
        )?;
        let ask = drpc::Request::IsOnline { target };
        match target.scope {
            Scope::Conn => {
                self.check_gate()?;
                self.core.ask(&self.from.id, &ask, boxed(call));
                Ok(())
            }
            Scope::User => {
                let absent = Ok(Reply::Online(false));
                self.core.ask_gate_of(target.id, ask, absent, boxed(call))
            }
        }
    }

    /// Calls `then` if a user is certainly not connected: neither is the connection of this request, if it is the user's, nor does
    /// the gate have it that the locator names, without the cache.
    pub(in crate::cluster::node) fn if_offline(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut dyn Any, &mut Core) + Send + 'static,
    ) -> Result<(), Error> {
        let is_offline = |reply| matches!(reply, Ok(Reply::Online(false)));
        let user = drpc::Request::IsOnline {
            target: Target::user(uid),
        };
        let again = user;
        let last = move |state: &mut dyn Any, core: &mut Core, reply| {
            if is_offline(reply) {
                then(state, core);
            }
        };
        let first = move |_: &mut dyn Any, core: &mut Core, reply| {
            if !is_offline(reply) {
                return;
            }
            core.shared.locations.forget(uid);
            let asked = core.ask_gate_of(uid, again, Ok(Reply::Online(false)), boxed(last));
            core.note_lost(asked);
        };
        if self.uid == uid && self.check_client().is_ok() {
            let target = Target::conn(self.cid);
            let conn = drpc::Request::IsOnline { target };
            self.core.ask(&self.from.id, &conn, boxed(first));
            return Ok(());
        }
        (self.core).ask_gate_of(uid, user, Ok(Reply::Online(false)), boxed(first))
    }

    /// Asks all gates for the number of connections, or of users. A gate that does not answer is not counted.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if `S` is not the state of this handler.
    pub fn stat<S: 'static, E: Into<HandlerError>>(
        &mut self,
        scope: Scope,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<u64, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let call = self.total_call(then)?;
        self.core.gather(&drpc::Request::Stat { scope }, call);
        Ok(())
    }

    /// Sends a packet to connections of this gate, or to users wherever they are. Each gets it once, and those that are gone are
    /// skipped.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push): of the gates that did not take it, the first one's. The others have taken it.
    pub fn multicast(
        &mut self,
        scope: Scope,
        targets: &[i64],
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        if scope == Scope::Conn {
            self.check_gate()?;
        }
        let (from, cid, uid) = (self.from, self.cid, self.uid);
        let targets = unique_targets(targets);
        self.core.with_packet((route, 0), value, |core, packet| {
            let mut result = Ok(());
            let mut targets = targets;
            // A user that must be located gets it behind what waits for that.
            let must_wait = |core: &Core, id: i64| match scope {
                Scope::Conn => id == cid && core.is_locating(uid),
                Scope::User => core.is_locating(id),
            };
            let mut waiting: Vec<i64> = Vec::new();
            if targets.iter().any(|id| must_wait(core, *id)) {
                waiting.extend(targets.iter().filter(|id| must_wait(core, **id)));
                targets.to_mut().retain(|id| !must_wait(core, *id));
            }
            for id in waiting {
                let (target, packet) = (Target { scope, id }, packet.to_vec());
                let sent = match scope {
                    Scope::Conn => {
                        let gid = from.id.clone();
                        core.send_behind(uid, move |core| push(core, &gid, target, &packet))
                    }
                    Scope::User => {
                        let send =
                            move |core: &mut Core, gid: &str| push(core, gid, target, &packet);
                        core.send_to_gate_of(id, send)
                    }
                };
                result = result.and(sent);
            }
            for targets in targets.chunks(MAX_TARGETS) {
                let targets = Targets::from(targets);
                let multicast = drpc::Request::Multicast {
                    scope,
                    targets,
                    disconnect: false,
                    packet,
                };
                let sent = match scope {
                    Scope::Conn => core.send(Kind::Gate, &from.id, &multicast),
                    // Each gate skips the users that it does not have.
                    Scope::User => core.send_to_all(&multicast),
                };
                result = result.and(sent);
            }
            result
        })
    }

    /// Sends a packet to all connections, or to all users, of all gates.
    ///
    /// It does not wait for the location of users: it may come before what was [pushed](Self::push_to) to one of them earlier.
    ///
    /// # Errors
    ///
    /// As [`multicast`](Self::multicast).
    pub fn broadcast(
        &mut self,
        scope: Scope,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core.with_packet((route, 0), value, |core, packet| {
            core.send_to_all(&drpc::Request::Broadcast {
                scope,
                disconnect: false,
                packet,
            })
        })
    }

    /// Sends a packet to the members of a channel, at all gates.
    ///
    /// It does not wait for the location of users: it may come before what was [pushed](Self::push_to) to one of them earlier.
    ///
    /// # Errors
    ///
    /// As [`multicast`](Self::multicast), and [`Error::TooLarge`] if the name is longer than 255 bytes.
    pub fn publish(
        &mut self,
        channel: &str,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core.with_packet((route, 0), value, |core, packet| {
            core.send_to_all(&drpc::Request::Publish {
                channel,
                disconnect: false,
                packet,
            })
        })
    }

    /// Sends a packet as [`multicast`](Self::multicast) does. `then` gets the number of clients that it was sent to. A gate that does
    /// not answer is not counted.
    ///
    /// It does not wait for the location of users: it may come before what was [pushed](Self::push_to) to them earlier.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] and the errors of [`PacketOptions::encode`](crate::cluster::packet::PacketOptions::encode) if the
    /// packet cannot be encoded, and [`Error::InvalidArgument`] if `S` is not the state of this handler.
    pub fn multicast_counted<S: 'static, E: Into<HandlerError>>(
        &mut self,
        scope: Scope,
        targets: &[i64],
        route: i32,
        value: &(impl EncodeBody + ?Sized),
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<u64, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let call = self.total_call(then)?;
        if scope == Scope::Conn {
            self.check_gate()?;
        }
        let (gate, targets) = (self.from.id.clone(), unique_targets(targets));
        self.core.with_packet((route, 0), value, |core, packet| {
            let chunks = targets
                .chunks(MAX_TARGETS)
                .map(|targets| drpc::Request::Multicast {
                    scope,
                    targets: Targets::from(targets),
                    disconnect: false,
                    packet,
                });
            let requests: Vec<_> = chunks.collect();
            let gates = match scope {
                Scope::Conn => vec![gate],
                Scope::User => core.gates.clone(),
            };
            core.gather_from(&gates, &requests, call);
            Ok(())
        })
    }

    /// Sends a packet as [`broadcast`](Self::broadcast) does. `then` gets the number of clients that it was sent to.
    ///
    /// # Errors
    ///
    /// As [`multicast_counted`](Self::multicast_counted).
    pub fn broadcast_counted<S: 'static, E: Into<HandlerError>>(
        &mut self,
        scope: Scope,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<u64, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let call = self.total_call(then)?;
        self.core.with_packet((route, 0), value, |core, packet| {
            let disconnect = false;
            let broadcast = drpc::Request::Broadcast {
                scope,
                disconnect,
                packet,
            };
            core.gather(&broadcast, call);
            Ok(())
        })
    }

    /// Sends a packet as [`publish`](Self::publish) does. `then` gets the number of clients that it was sent to, those of gates of due
    /// not counted: they cannot be asked.
    ///
    /// # Errors
    ///
    /// As [`multicast_counted`](Self::multicast_counted).
    pub fn publish_counted<S: 'static, E: Into<HandlerError>>(
        &mut self,
        channel: &str,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<u64, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let call = self.total_call(then)?;
        self.core.with_packet((route, 0), value, |core, packet| {
            let disconnect = false;
            let publish = drpc::Request::Publish {
                channel,
                disconnect,
                packet,
            };
            core.gather(&publish, call);
            Ok(())
        })
    }

    /// Returns what calls `then` with the total of an answer.
    fn total_call<S: 'static, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<u64, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<Call, Error> {
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let total = reply.map(|reply| match reply {
                    Reply::Total(total) => total,
                    _ => 0,
                });
                then(state, request, total)
            },
        )?;
        Ok(boxed(call))
    }

    fn check_gate(&self) -> Result<(), Error> {
        if !self.from.is_node {
            return Ok(());
        }
        let wanted = "the gate of a request that did not come from one".to_owned();
        Err(Error::NotFoundEndpoint { wanted })
    }
}

/// Refuses a target that nothing can have.
fn check(target: Target) -> Result<(), Error> {
    match target.scope {
        Scope::User => locator::check(target.id, &[]),
        Scope::Conn if target.id > 0 => Ok(()),
        Scope::Conn => {
            let problem = format!("{} is no connection; ids are above 0", target.id);
            Err(Error::argument("cid", problem))
        }
    }
}
