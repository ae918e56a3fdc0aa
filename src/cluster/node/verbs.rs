//! The verbs of a handler: for its client and for others.

use std::any::Any;

use super::context::{Call, Core, HandlerError, Request};
use super::reply::Reply;
use super::shared::{Shared, guarded};
use crate::cluster::codec::EncodeBody;
use crate::cluster::drpc::{self, MAX_TARGETS, Scope, Target, Targets, unique_targets};
use crate::cluster::{Error, Kind};

/// # The client of the request
impl Request<'_> {
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
        self.check_client()?;
        let (target, from, uid) = (Target::conn(self.cid), self.from, self.uid);
        self.core.with_packet((route, seq), value, |core, packet| {
            if core.is_locating(uid) {
                let (gid, packet) = (from.id.clone(), packet.to_vec());
                return core.send_behind(uid, move |core| push(core, &gid, target, &packet));
            }
            push(core, &from.id, target, packet)
        })
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

    /// Binds a user to the client's connection. `then` is called when the gate and the locator have done so, or with the reason
    /// why they have not. What is pushed to the user after that reaches this connection.
    ///
    /// The packets that the client sends until then have the old user still.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundSession`] if there is no client, and [`Error::InvalidArgument`] if `S` is not the state of this
    /// handler.
    pub fn bind_gate<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.check_client()?;
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let bound = reply.map(|_| ());
                if bound.is_ok() {
                    request.uid = uid;
                    // The locator's watch tells it too, but later.
                    request.core.shared.locations.forget(uid);
                }
                then(state, request, bound)
            },
        )?;
        let bind = drpc::Request::Bind { cid: self.cid, uid };
        self.core.ask(&self.from.id, &bind, boxed(call));
        Ok(())
    }

    /// Takes a user from its connection, whichever gate that is at. `then` is called when gate and locator have done so.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if `S` is not the state of this handler, and [`Error::Busy`] if too much waits for the
    /// locator. That the user is at no gate is told to `then`.
    pub fn unbind_gate<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                request.core.shared.locations.forget(uid);
                then(state, request, reply.map(|_| ()))
            },
        )?;
        let absent = Err(Error::NotFoundUserLocation { uid });
        let unbind = drpc::Request::Unbind { uid };
        self.core.ask_gate_of(uid, unbind, absent, boxed(call))
    }

    /// Binds a user to this node: packets of its stateful routes come here. `then` is called when the locator has done so.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if `S` is not the state of this handler, and [`Error::Busy`] if too much waits for the
    /// locator.
    pub fn bind_node<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.ask_locator(uid, move |shared| shared.bind_node(uid), then)
    }

    /// Unbinds a user from this node, if it is still bound to it. `then` is called when the locator has done so.
    ///
    /// # Errors
    ///
    /// As [`bind_node`](Self::bind_node).
    pub fn unbind_node<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.ask_locator(uid, move |shared| shared.unbind_node(uid), then)
    }

    /// Has the locator asked about a user, behind what it was asked about this user before.
    fn ask_locator<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        ask: impl FnOnce(&Shared) -> Result<(), Error> + Send + 'static,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let call = self.later_call(then)?;
        let (shared, reactor) = (self.core.shared.clone(), self.core.id);
        let posting = self.core.posting.clone();
        self.core.shared.submit(Some(uid), move || {
            let result = guarded(|| ask(&shared));
            posting.post_anyway(
                reactor,
                Box::new(move |state, core| call(state, core, result)),
            );
        })
    }

    /// Makes the client a member of a channel of its gate. A gate has it leave all its channels when it disconnects.
    ///
    /// # Errors
    ///
    /// Returns [`Error::TooLarge`] if the name is longer than 255 bytes, and the errors of [`push`](Self::push) but for those of
    /// encoding.
    pub fn subscribe(&mut self, channel: &str) -> Result<(), Error> {
        self.check_client()?;
        let scope = Scope::Conn;
        let targets = &[self.cid];
        let targets = Targets::from(targets);
        let subscribe = drpc::Request::Subscribe {
            scope,
            targets,
            channel,
        };
        self.core.send(Kind::Gate, &self.from.id, &subscribe)
    }

    /// Takes the client out of a channel.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, channel: &str) -> Result<(), Error> {
        self.check_client()?;
        let scope = Scope::Conn;
        let targets = &[self.cid];
        let targets = Targets::from(targets);
        let unsubscribe = drpc::Request::Unsubscribe {
            scope,
            targets,
            channel,
        };
        self.core.send(Kind::Gate, &self.from.id, &unsubscribe)
    }

    /// Closes the client's connection: once all is sent, or at once by a reset if `force`.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn disconnect(&mut self, force: bool) -> Result<(), Error> {
        self.check_client()?;
        let (target, uid) = (Target::conn(self.cid), self.uid);
        if self.core.is_locating(uid) {
            let gid = self.from.id.clone();
            let kick = drpc::Request::Disconnect { target, force };
            return (self.core).send_behind(uid, move |core| core.send(Kind::Gate, &gid, &kick));
        }
        self.kick(target, force)
    }

    /// Asks for the client's address. From a gate of due comes an IPv4 address without a port, and nothing for others.
    ///
    /// # Errors
    ///
    /// As [`bind_gate`](Self::bind_gate).
    pub fn addr<S: 'static, E: Into<HandlerError>>(
        &mut self,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<String, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        self.check_client()?;
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let addr = reply.map(|reply| match reply {
                    Reply::Addr(addr) => addr,
                    _ => String::new(),
                });
                then(state, request, addr)
            },
        )?;
        let target = Target::conn(self.cid);
        let ask = drpc::Request::GetAddr { target };
        self.core.ask(&self.from.id, &ask, boxed(call));
        Ok(())
    }

    /// Asks the gate for a token with which the client can take its user back after it has lost its connection. Send it to the client,
    /// and again a new one after each [`Reconnect`](crate::cluster::Event::Reconnect): a token is good once.
    ///
    /// `then` gets [`Error::Refused`] if the gate does not [resume](crate::cluster::gate::GateBuilder::resume), if it is one of due, or
    /// if the connection has no user.
    ///
    /// # Errors
    ///
    /// As [`bind_gate`](Self::bind_gate).
    ///
    /// # Examples
    ///
    /// ```
    /// use epicycle::cluster::node::Request;
    /// use epicycle::cluster::{Cluster, Error, Event};
    ///
    /// const TOKEN: i32 = 9;
    ///
    /// fn entered(_: &mut (), cx: &mut Request<'_>) -> Result<(), Error> {
    ///     cx.resume_token(|_: &mut (), cx, token| cx.push(TOKEN, &token?))
    /// }
    /// # let node = Cluster::embedded().node().event(Event::Reconnect, entered).start()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn resume_token<S: 'static, E: Into<HandlerError>>(
        &mut self,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<String, Error>) -> Result<(), E>
        + Send
        + 'static,
    ) -> Result<(), Error> {
        self.check_client()?;
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let token = match reply {
                    Ok(Reply::Token(token)) => Ok(token),
                    Ok(_) | Err(Error::Refused { .. }) => Err(no_token()),
                    Err(error) => Err(error),
                };
                then(state, request, token)
            },
        )?;
        let target = Target::conn(self.cid);
        let ask = drpc::Request::GetToken { target };
        self.core.ask(&self.from.id, &ask, boxed(call));
        Ok(())
    }

    fn check_client(&self) -> Result<(), Error> {
        if self.cid != 0 && !self.from.is_node {
            return Ok(());
        }
        let (kind, target) = ("connection", self.cid);
        Err(Error::NotFoundSession { kind, target })
    }
}

/// # Other clients
///
/// A target that is a connection is at the gate of the request. One that is a user is wherever it is.
impl Request<'_> {
    /// Sends a packet to a client.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and [`Error::NotFoundUserLocation`] if it is known that the user is at no gate.
    pub fn push_to(
        &mut self,
        target: Target,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let from = self.from;
        match target.scope {
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
    /// # Errors
    ///
    /// As [`push_to`](Self::push_to), but for those of encoding.
    pub fn kick(&mut self, target: Target, force: bool) -> Result<(), Error> {
        let kick = drpc::Request::Disconnect { target, force };
        match target.scope {
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
    pub(super) fn if_offline(
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
        let (from, targets) = (self.from, unique_targets(targets));
        self.core.with_packet((route, 0), value, |core, packet| {
            let mut result = Ok(());
            let mut targets = targets;
            if scope == Scope::User {
                // A user that must be located gets it behind what waits for that.
                let located = targets.iter().copied();
                let waiting: Vec<i64> = located.filter(|uid| core.is_locating(*uid)).collect();
                if !waiting.is_empty() {
                    targets.to_mut().retain(|uid| !core.is_locating(*uid));
                }
                for uid in waiting {
                    let packet = packet.to_vec();
                    let sent = core.send_to_gate_of(uid, move |core, gid| {
                        push(core, gid, Target::user(uid), &packet)
                    });
                    result = result.and(sent);
                }
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

    /// Sends a packet as [`publish`](Self::publish) does. `then` gets the number of clients that it was sent to.
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

/// # Nodes
impl Request<'_> {
    /// Sends a packet to a node that has the route: to that of the user if the route is stateful, else to one by the
    /// [policy](super::NodeBuilder::dispatch). `uid` may be 0 if no user is concerned.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundRoute`] if no node has the route, [`Error::NotFoundEndpoint`] if none takes packets,
    /// [`Error::NotFoundUserLocation`] if it is known that the user is on no node, and those of [`push`](Self::push).
    pub fn deliver(
        &mut self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver(route, uid, packet)
            })
    }

    /// Sends a packet to a node.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFoundEndpoint`] if no such node is registered, and those of [`push`](Self::push).
    pub fn deliver_to(
        &mut self,
        nid: &str,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver_to(nid, uid, packet)
            })
    }

    /// Sends a packet to this node, whose own route takes it. An actor reaches the handlers of its node that way.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if too many such packets wait, [`Error::Codec`] if the value cannot be encoded, and
    /// [`Error::TooLarge`] if its bytes are more than a packet has room for.
    pub fn deliver_here(
        &mut self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.core
            .with_plain_packet((route, 0), value, |core, packet| {
                core.deliver_here(uid, packet)
            })
    }
}

fn push(core: &mut Core, gid: &str, target: Target, packet: &[u8]) -> Result<(), Error> {
    let push = drpc::Request::Push {
        target,
        disconnect: false,
        packet,
    };
    core.send(Kind::Gate, gid, &push)?;
    core.counters().pushed.add(1);
    Ok(())
}

fn no_token() -> Error {
    let reason =
        "the gate does not resume (see `GateBuilder::resume`), or the connection has no user";
    Error::Refused {
        reason: reason.to_owned(),
    }
}

fn boxed(
    call: impl FnOnce(&mut dyn Any, &mut Core, Result<Reply, Error>) + Send + 'static,
) -> Call {
    Box::new(call)
}
