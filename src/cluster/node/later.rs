//! Calls that run after a handler: on its reactor, on a worker thread, or from wherever the application is.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::context::{Core, HandlerError, Origin, Posting, Request};
use super::shared::Shared;
use crate::cluster::Error;
use crate::cluster::codec::{EncodeBody, Raw};
use crate::cluster::drpc::{Scope, Target};

/// The maximum number of timers, and of deferred calls, of one reactor.
const MAX_WAITING: u64 = 65_536;

impl Request<'_> {
    /// Returns a handle with which any thread can go on with this request.
    pub fn later(&self) -> Later {
        Later {
            origin: self.origin(),
            reactor: self.core.id,
            shared: self.core.shared.clone(),
            posting: self.core.posting.clone(),
        }
    }

    /// Runs `job` on a worker thread, where it may block. `then` gets its result, on this reactor. The jobs of a user run in
    /// order, and so do those of a connection without one. A job that panics is logged, and `then` is not called.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if too many jobs wait, and [`Error::InvalidArgument`] if `S` is not the state of this handler.
    pub fn spawn_blocking<S: 'static, R: Send + 'static, E: Into<HandlerError>>(
        &mut self,
        job: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(&mut S, &mut Request<'_>, R) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let call = self.later_call(then)?;
        let (posting, reactor) = (self.core.posting.clone(), self.core.id);
        let key = if self.uid == 0 { self.cid } else { self.uid };
        self.core.shared.submit_job(key, move |counted| {
            let result = job();
            let told = move |state: &mut dyn Any, core: &mut Core| {
                call(state, core, result);
                drop(counted);
            };
            posting.post_anyway(reactor, Box::new(told));
        })
    }

    /// Calls `then` after a time, on this reactor.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the reactor has 65,536 timers, and [`Error::InvalidArgument`] if `S` is not the state of this
    /// handler.
    pub fn after<S: 'static, E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut S, &mut Request<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let call = self
            .later_call(move |state: &mut S, request: &mut Request<'_>, ()| then(state, request))?;
        if self.core.counters().timers.get() >= MAX_WAITING {
            let what = "list of timers";
            return Err(Error::Busy { what });
        }
        self.core.counters().timers.add(1);
        let task = move |state: &mut dyn Any, core: &mut Core| {
            core.counters().timers.subtract(1);
            call(state, core, ());
        };
        self.core.timers.push((delay, Box::new(task)));
        Ok(())
    }

    /// Calls `then` at the end of the reactor's turn, when the handlers of all that has come are done.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if 65,536 calls are deferred, and [`Error::InvalidArgument`] if `S` is not the state of this
    /// handler.
    pub fn defer<S: 'static, E: Into<HandlerError>>(
        &mut self,
        then: impl FnOnce(&mut S, &mut Request<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let call = self
            .later_call(move |state: &mut S, request: &mut Request<'_>, ()| then(state, request))?;
        if self.core.deferred.len() as u64 >= MAX_WAITING {
            let what = "list of deferred calls";
            return Err(Error::Busy { what });
        }
        let task = move |state: &mut dyn Any, core: &mut Core| {
            call(state, core, ());
        };
        self.core.deferred.push_back(Box::new(task));
        self.core.is_pending = true;
        Ok(())
    }
}

/// A handle of a request, with which any thread can go on with it. The packet's data is not kept.
///
/// It does not keep the node from its end.
#[derive(Clone)]
pub struct Later {
    origin: Origin,
    reactor: usize,
    shared: Arc<Shared>,
    posting: Posting,
}

impl Later {
    /// Returns the handle of a node itself, for what concerns no request.
    pub(super) fn own(shared: &Arc<Shared>, posting: &Posting) -> Self {
        Self {
            origin: Origin::own(shared),
            reactor: 0,
            shared: shared.clone(),
            posting: posting.clone(),
        }
    }

    /// Calls `then` on the reactor of the request, with all that a handler can do. Never blocks.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the reactor has too much to do, and [`Error::Draining`] if the node has ended.
    pub fn run<E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut Request<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let origin = self.origin.clone();
        self.posting.post(
            self.reactor,
            Box::new(move |_, core| origin.run(core, then)),
        )
    }

    /// Calls `then` on the reactor of the request, with the state of its handler.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`Error::InvalidArgument`] if `S` is not that state.
    pub fn run_with<S: 'static, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut S, &mut Request<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        let origin = self.origin.clone();
        let call = origin
            .call(move |state: &mut S, request: &mut Request<'_>, ()| then(state, request))?;
        self.posting.post(
            self.reactor,
            Box::new(move |state, core| call(state, core, ())),
        )
    }
}

/// # The verbs of a handler
///
/// Each does what that of [`Request`] does, on the reactor of the request. An error that it has there is logged, as that of a handler.
impl Later {
    /// Answers the packet: with its route and seq.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Codec`] if the value cannot be encoded, and those of [`run`](Self::run).
    pub fn respond(&self, value: &(impl EncodeBody + ?Sized)) -> Result<(), Error> {
        self.encoded(value, |request, value| {
            request.reply(request.route(), request.seq(), value)
        })
    }

    /// Sends a packet without a seq to the client.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn push(&self, route: i32, value: &(impl EncodeBody + ?Sized)) -> Result<(), Error> {
        self.encoded(value, move |request, value| request.push(route, value))
    }

    /// Sends a packet to a client.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn push_to(
        &self,
        target: Target,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.encoded(value, move |request, value| {
            request.push_to(target, route, value)
        })
    }

    /// Sends a packet to connections of the gate, or to users.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn multicast(
        &self,
        scope: Scope,
        targets: &[i64],
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let targets = targets.to_owned();
        self.encoded(value, move |request, value| {
            request.multicast(scope, &targets, route, value)
        })
    }

    /// Sends a packet to all connections, or to all users.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn broadcast(
        &self,
        scope: Scope,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.encoded(value, move |request, value| {
            request.broadcast(scope, route, value)
        })
    }

    /// Sends a packet to the members of a channel.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn publish(
        &self,
        channel: &str,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let channel = channel.to_owned();
        self.encoded(value, move |request, value| {
            request.publish(&channel, route, value)
        })
    }

    /// Sends a packet to a node that has the route.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn deliver(
        &self,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        self.encoded(value, move |request, value| {
            request.deliver(route, uid, value)
        })
    }

    /// Sends a packet to a node.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn deliver_to(
        &self,
        nid: &str,
        route: i32,
        uid: i64,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let nid = nid.to_owned();
        self.encoded(value, move |request, value| {
            request.deliver_to(&nid, route, uid, value)
        })
    }

    /// Makes the client a member of a channel.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn subscribe(&self, channel: &str) -> Result<(), Error> {
        let channel = channel.to_owned();
        self.run(move |request| request.subscribe(&channel))
    }

    /// Takes the client out of a channel.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn unsubscribe(&self, channel: &str) -> Result<(), Error> {
        let channel = channel.to_owned();
        self.run(move |request| request.unsubscribe(&channel))
    }

    /// Closes the client's connection: once all is sent, or at once if `force`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn disconnect(&self, force: bool) -> Result<(), Error> {
        self.run(move |request| request.disconnect(force))
    }

    /// Closes a client's connection: once all is sent, or at once if `force`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn kick(&self, target: Target, force: bool) -> Result<(), Error> {
        self.run(move |request| request.kick(target, force))
    }

    /// As [`Request::bind_gate`].
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn bind_gate<S: 'static, E: Into<HandlerError>>(
        &self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |request| request.bind_gate(uid, then))
    }

    /// As [`Request::unbind_gate`].
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn unbind_gate<S: 'static, E: Into<HandlerError>>(
        &self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |request| request.unbind_gate(uid, then))
    }

    /// As [`Request::bind_node`].
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn bind_node<S: 'static, E: Into<HandlerError>>(
        &self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |request| request.bind_node(uid, then))
    }

    /// As [`Request::unbind_node`].
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn unbind_node<S: 'static, E: Into<HandlerError>>(
        &self,
        uid: i64,
        then: impl FnOnce(&mut S, &mut Request<'_>, Result<(), Error>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |request| request.unbind_node(uid, then))
    }

    /// Encodes a value here, and calls `send` with it on the reactor.
    fn encoded(
        &self,
        value: &(impl EncodeBody + ?Sized),
        send: impl FnOnce(&mut Request<'_>, &Raw) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let data = self.shared.options.codec.encode(value)?;
        self.run(move |request| send(request, &Raw(data.into())))
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later")
            .field("reactor", &self.reactor)
            .finish_non_exhaustive()
    }
}
