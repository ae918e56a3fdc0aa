//! The context of a handler of a room, and the verbs that concern rooms.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::{Hook, Kit, Room, RoomActor, RoomOptions, connection};
use crate::cluster::Error;
use crate::cluster::codec::EncodeBody;
use crate::cluster::drpc::Scope;
use crate::cluster::node::actor::{Actor, ActorContext, ActorOptions, ActorRef, ActorTimer};
use crate::cluster::node::context::{HandlerError, Request};

/// The context of a handler of a room. It has all that a [`Request`] has.
pub struct RoomContext<'a, R: Room> {
    pub(super) cx: ActorContext<'a, RoomActor<R>>,
    pub(super) kit: &'a mut Kit,
}

impl<R: Room> RoomContext<'_, R> {
    /// Makes a user a member, and binds it to the room. [`Room::on_join`] is called when this handler has ended. It is no error if
    /// the user is a member already.
    ///
    /// The user's gate is asked whether it is connected, since its end may have been told before it was a member. If it is not, it
    /// has lost its connection.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the room is full, and those of [`Request::bind_actor`].
    pub fn join(&mut self, uid: i64) -> Result<(), Error> {
        let me = self.cx.me();
        if self.kit.members.join(uid)? {
            if let Err(error) = self.cx.bind_actor(uid, me.kind(), me.id()) {
                self.kit.members.leave(uid);
                return Err(error);
            }
            self.kit.hooks.push_back(Hook::Joined(uid));
        }
        let conn = connection(&self.cx).filter(|_| self.cx.uid() == uid);
        if self.kit.members.regain(uid, conn) {
            self.kit.hooks.push_back(Hook::Back(uid));
        }
        let signs = self.kit.members.signs(uid);
        let asked = self.cx.if_offline(uid, move |_, _| {
            let told = me.invoke_anyway(move |actor: &mut RoomActor<R>, cx| {
                actor.on_offline(cx, uid, signs)
            });
            if let Err(error) = told {
                log::debug!(target: "epicycle::cluster", "a room is not told of a lost member: {error}");
            }
        });
        // It is a member, whether or not its gate can be asked.
        self.cx.core.note_lost(asked);
        Ok(())
    }

    /// Makes a user a member that was bound to the room in advance, unless it is bound to another one by now.
    fn join_bound(&mut self, uid: i64) -> Result<(), Error> {
        if !self.cx.has_bound(uid) {
            return Ok(());
        }
        let joined = self.join(uid);
        if joined.is_err() {
            self.cx.let_go(uid);
        }
        joined
    }

    /// Takes a member out of the room. [`Room::on_leave`] is called when this handler has ended. Returns false if the user is no
    /// member.
    pub fn leave(&mut self, uid: i64) -> bool {
        let was_member = self.kit.members.leave(uid);
        if was_member {
            self.cx.let_go(uid);
            self.kit.hooks.push_back(Hook::Left(uid));
        }
        was_member
    }

    /// Returns the members, those without a connection included, in the order of their numbers.
    pub fn members(&self) -> Vec<i64> {
        self.kit.members.all()
    }

    /// Returns true if the user is a member.
    pub fn is_member(&self, uid: i64) -> bool {
        self.kit.members.contains(uid)
    }

    /// Sends a packet to all members that have a connection. It is encoded once.
    ///
    /// # Errors
    ///
    /// As [`Request::multicast`].
    pub fn broadcast(
        &mut self,
        route: i32,
        value: &(impl EncodeBody + ?Sized),
    ) -> Result<(), Error> {
        let users = self.kit.members.connected();
        match users.is_empty() {
            true => Ok(()),
            false => self.cx.multicast(Scope::User, &users, route, value),
        }
    }

    /// Calls `then` after a time, unless the room has ended by then.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Busy`] if the room has 4,096 timers.
    pub fn after_time<E: Into<HandlerError>>(
        &mut self,
        delay: Duration,
        then: impl FnOnce(&mut R, &mut RoomContext<'_, R>) -> Result<(), E> + Send + 'static,
    ) -> Result<ActorTimer, Error> {
        self.cx
            .after_time(delay, move |actor: &mut RoomActor<R>, cx| {
                actor.attend(cx, |room, cx| then(room, cx).map_err(Into::into))
            })
    }

    /// Cancels a timer. Returns true if it was still waiting.
    pub fn cancel(&mut self, timer: ActorTimer) -> bool {
        self.cx.cancel(timer)
    }

    /// Starts an actor, which tells this room its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn`].
    pub fn spawn<C: Actor>(&mut self, kind: &str, id: &str, actor: C) -> Result<ActorRef, Error> {
        self.cx.spawn(kind, id, actor)
    }

    /// Starts an actor with options, which tells this room its end.
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
        self.cx.spawn_with(options, kind, id, actor)
    }

    /// Starts another room, which tells this one its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn_room`].
    pub fn spawn_room<C: Room>(
        &mut self,
        options: RoomOptions,
        kind: &str,
        id: &str,
        room: C,
    ) -> Result<ActorRef, Error> {
        self.cx.spawn_room(options, kind, id, room)
    }

    /// Returns a handle of this room.
    pub fn me(&self) -> ActorRef {
        self.cx.me()
    }

    /// Ends this room, when it has handled the messages that wait.
    pub fn stop(&mut self) {
        self.cx.stop();
    }
}

impl<'a, R: Room> Deref for RoomContext<'a, R> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        &self.cx
    }
}

impl<R: Room> DerefMut for RoomContext<'_, R> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.cx
    }
}

impl Request<'_> {
    /// Starts a room, as [`spawn`](Self::spawn) starts an actor.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), and [`Error::InvalidArgument`] if the rate is above 1,000.
    pub fn spawn_room<R: Room>(
        &mut self,
        options: RoomOptions,
        kind: &str,
        id: &str,
        room: R,
    ) -> Result<ActorRef, Error> {
        self.spawn_with(options.actor, kind, id, options.build(room)?)
    }
}

impl<A: Actor> ActorContext<'_, A> {
    /// Starts a room, which tells this actor its end.
    ///
    /// # Errors
    ///
    /// As [`Request::spawn_room`].
    pub fn spawn_room<R: Room>(
        &mut self,
        options: RoomOptions,
        kind: &str,
        id: &str,
        room: R,
    ) -> Result<ActorRef, Error> {
        self.spawn_with(options.actor, kind, id, options.build(room)?)
    }
}

/// # Rooms
impl ActorRef {
    /// Makes a user a member of a room, as [`RoomContext::join`] does. The room takes it behind the messages that wait, so it returns
    /// before the user is a member. What is sent to the room later comes behind that: broadcasts reach the user, and the user's packets
    /// find the room by [`Request::next`]. While the user is in another room of this kind, its packets go to that one until this one has
    /// taken it.
    ///
    /// If the room refuses the user, that is logged. [`Room::on_join`] tells that it is a member.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke), and [`Error::InvalidArgument`] if `uid` is not above 0.
    pub fn join<R: Room>(&self, uid: i64) -> Result<(), Error> {
        let is_bound = self.bind_if_free(uid)?;
        let posted = self.invoke_room(move |_: &mut R, cx| match is_bound {
            true => cx.join_bound(uid),
            false => cx.join(uid),
        });
        if posted.is_err() && is_bound {
            self.let_go(uid);
        }
        posted
    }

    /// Calls `then` with a room, on its reactor.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke).
    pub fn invoke_room<R: Room, E: Into<HandlerError>>(
        &self,
        then: impl FnOnce(&mut R, &mut RoomContext<'_, R>) -> Result<(), E> + Send + 'static,
    ) -> Result<(), Error> {
        self.invoke(
            move |actor: &mut RoomActor<R>, cx: &mut ActorContext<'_, RoomActor<R>>| {
                actor.attend(cx, |room, cx| then(room, cx).map_err(Into::into))
            },
        )
    }
}

impl<R: Room> fmt::Debug for RoomContext<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomContext")
            .field("members", &self.kit.members)
            .finish_non_exhaustive()
    }
}
