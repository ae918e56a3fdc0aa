//! The verbs of a handler that concern the client of its request.

use super::{boxed, push};
use crate::cluster::codec::EncodeBody;
use crate::cluster::drpc::{self, Scope, Target, Targets};
use crate::cluster::node::context::{Core, HandlerError, Request};
use crate::cluster::node::reply::Reply;
use crate::cluster::node::shared::{Shared, guarded};
use crate::cluster::{Error, Kind, locator};

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
    /// handler. `then` gets [`Error::InvalidArgument`] if the user's id is not above 0.
    pub fn bind_gate<S: 'static, E: Into<HandlerError>>(
        &mut self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.check_client()?;
        let call = self.later_call(
            move |state: &mut S, request: &mut Request<'_>, reply: Result<Reply, Error>| {
                let bound = reply.map(|_| ());
                let bound = bound.map_err(|error| not_bound(error, uid));
                if bound.is_ok() {
                    request.uid = uid;
                    // The locator's watch tells it too, but later.
                    request.core.shared.locations.forget(uid);
                }
                then(state, request, bound)
            },
        )?;
        if let Err(error) = locator::check(uid, &[]) {
            self.core.ended.push((boxed(call), Err(error)));
            self.core.is_pending = true;
            return Ok(());
        }
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
    /// It stays bound when its connection has ended. [`unbind_node`](Self::unbind_node) ends that, and so do a bind at another node of
    /// the alias, a [drain](crate::cluster::node::Node::drain), and the end of the node's record. A node has room for 1,000,000 users.
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
    /// A client that speaks control packets gets Goodbye with the reason [`Kicked`](crate::cluster::packet::GoodbyeReason::Kicked)
    /// before, unless `force`, and does not dial again if it is [one of the library](crate::cluster::client).
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn disconnect(&mut self, force: bool) -> Result<(), Error> {
        self.check_client()?;
        let target = Target::conn(self.cid);
        let kick = drpc::Request::Disconnect { target, force };
        if self.core.is_locating(self.uid) {
            let gid = self.from.id.clone();
            let send = move |core: &mut Core| core.send(Kind::Gate, &gid, &kick);
            return self.core.send_behind(self.uid, send);
        }
        self.core.send(Kind::Gate, &self.from.id, &kick)
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

    pub(super) fn check_client(&self) -> Result<(), Error> {
        if self.cid != 0 && !self.from.is_node {
            return Ok(());
        }
        let (kind, target) = ("connection", self.cid);
        Err(Error::NotFoundSession { kind, target })
    }
}

fn no_token() -> Error {
    let reason =
        "the gate does not resume (see `GateBuilder::resume`), or the connection has no user";
    Error::Refused {
        reason: reason.to_owned(),
    }
}

/// Returns the error of a bind, with what a gate's refusal means. It has one code for all causes.
fn not_bound(error: Error, uid: i64) -> Error {
    match error {
        Error::Refused { reason } => Error::Refused {
            reason: format!(
                "the user {uid} is not bound: {reason}. Either the locator of that gate has failed, which its log tells, or the user is \
                 logged in already and the gate has `DuplicateLogin::Refuse`: end the other login first"
            ),
        },
        error => error,
    }
}
