//! The context of a handler of an actor.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Actor, ActorOptions, ActorRef, Home, Timed, Timers};
use crate::cluster::Error;
use crate::cluster::node::actor_table::Entry;
use crate::cluster::node::context::{HandlerError, Request};

/// The context of a handler of an actor. It has all that a [`Request`] has. What that calls later has the state of the node; use
/// [`ActorRef::invoke`] of [`me`](Self::me) to go on with the actor.
pub struct ActorContext<'a, A> {
    pub(super) request: Request<'a>,
    pub(super) entry: &'a Arc<Entry>,
    pub(super) timers: &'a mut Timers<A>,
}

/// A timer of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActorTimer(Instant, u64);

/// The maximum number of timers of an actor.
const MAX_TIMERS: usize = 4096;

/// The time of a timer whose end no clock can tell.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

impl<A: Actor> ActorContext<'_, A> {
    /// Returns a handle of this actor.
    pub fn me(&self) -> ActorRef {
        Home::of(self.request.core).reference(self.entry)
    }

    /// Returns true if the user is bound to this actor.
    pub(in crate::cluster::node) fn has_bound(&self, uid: i64) -> bool {
        self.entry.has_user(uid)
    }

    /// Unbinds a user from this actor. If it is bound to another one by now, it stays bound to that.
    pub(in crate::cluster::node) fn let_go(&mut self, uid: i64) {
        self.request.core.shared.actors.unbind_from(uid, self.entry);
    }

    /// Starts another actor, which tells this one its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn<C: Actor>(&mut self, kind: &str, id: &str, actor: C) -> Result<ActorRef, Error> {
        self.spawn_with(ActorOptions::default(), kind, id, actor)
    }

    /// Starts another actor with options, which tells this one its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn_with<C: Actor>(
        &mut self,
        options: ActorOptions,
        kind: &str,
        id: &str,
        actor: C,
    ) -> Result<ActorRef, Error> {
        let owner = Some(self.entry);
        Home::of(self.request.core).spawn(options, (kind, id), actor, owner)
    }

    /// Calls `then` after a time, unless the actor has ended by then.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the actor has 4,096 timers.
    pub fn after_time<E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> Result<ActorTimer, Error> {
        if self.timers.waiting.len() >= MAX_TIMERS {
            return Err(Error::Busy {
                what: "list of timers of the actor",
            });
        }
        Ok(self.after_time_anyway(delay, then))
    }

    /// Calls `then` after a time, however many timers the actor has.
    pub(in crate::cluster::node) fn after_time_anyway<E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut A, &mut ActorContext<'_, A>) -> Result<(), E> + Send + 'static,
    ) -> ActorTimer {
        self.timers.last += 1;
        let (now, number) = (self.request.core.now, self.timers.last);
        let at = now.checked_add(delay).unwrap_or(now + FOREVER);
        let then: Timed<A> = Box::new(move |actor, cx| then(actor, cx).map_err(Into::into));
        self.timers.waiting.insert((at, number), then);
        ActorTimer(at, number)
    }

    /// Cancels a timer. Returns true if it was still waiting.
    pub fn cancel(&mut self, timer: ActorTimer) -> bool {
        let ActorTimer(at, number) = timer;
        self.timers.waiting.remove(&(at, number)).is_some()
    }

    /// Returns the same context for a shorter time.
    pub(in crate::cluster::node) fn reborrow(&mut self) -> ActorContext<'_, A> {
        let Request {
            core,
            state,
            from,
            cid,
            uid,
            subject,
            ..
        } = &mut self.request;
        ActorContext {
            request: Request::new(core, *state, from, (*cid, *uid), *subject),
            entry: self.entry,
            timers: self.timers,
        }
    }

    /// Ends this actor, when it has handled the messages that wait.
    pub fn stop(&mut self) {
        self.me().kill();
    }
}

impl<'a, A> Deref for ActorContext<'a, A> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        &self.request
    }
}

impl<A> DerefMut for ActorContext<'_, A> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.request
    }
}

impl<A> fmt::Debug for ActorContext<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorContext")
            .field("actor", &self.entry.name)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
