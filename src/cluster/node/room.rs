//! Rooms: actors with members and a clock.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::actor::{Actor, ActorContext, ActorOptions, ActorRef, ActorRoutes, ActorTimer};
use super::context::{HandlerError, Request};
use super::room_clock::{Tick, TickClock};
use super::room_members::Members;
use crate::cluster::codec::EncodeBody;
use crate::cluster::drpc::Scope;
use crate::cluster::{Error, Event};

/// A place where users meet: an actor with members and, if it wants, a clock.
///
/// A user that has [joined](RoomContext::join) is bound to the room, so that a handler of the node finds it by [`Request::next`]. The
/// node tells the room of lost connections if its handlers of [`Event::Disconnect`] and [`Event::Reconnect`] call that as well.
///
/// ```
/// use std::time::Duration;
/// use epicycle::cluster::node::{HandlerError, Node, Room, RoomContext, RoomOptions, RoomRoutes, Tick};
/// use epicycle::cluster::{Error, Event};
///
/// #[derive(Default)]
/// struct Race {
///     laps: u64,
/// }
///
/// impl Room for Race {
///     fn routes(routes: &mut RoomRoutes<'_, Self>) {
///         routes.route(7, |race, cx| {
///             race.laps += 1;
///             cx.respond(&race.laps)
///         });
///     }
///
///     fn on_tick(&mut self, cx: &mut RoomContext<'_, Self>, _tick: Tick) -> Result<(), HandlerError> {
///         cx.broadcast(8, &self.laps)?;
///         Ok(())
///     }
/// }
///
/// let options = RoomOptions::default().tick(20).reconnect_window(Duration::from_secs(30));
/// let node = Node::builder()
///     .route(1, move |_, cx| {
///         let room = match cx.actor("race", "1") {
///             Some(room) => room,
///             None => cx.spawn_room(options, "race", "1", Race::default())?,
///         };
///         room.join::<Race>(cx.uid())
///     })
///     .route(7, |_, cx| cx.next())
///     .event(Event::Disconnect, |_, cx| cx.next())
///     .event(Event::Reconnect, |_, cx| cx.next());
/// # let _ = node.start()?;
/// # Ok::<(), Error>(())
/// ```
#[expect(
    clippy::missing_errors_doc,
    reason = "the application decides about them"
)]
pub trait Room: Sized + Send + 'static {
    /// Adds the handlers of the routes that the room has.
    fn routes(routes: &mut RoomRoutes<'_, Self>) {
        let _ = routes;
    }

    /// Called first. An error ends the room.
    fn on_start(&mut self, cx: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        let _ = cx;
        Ok(())
    }

    /// Called when a user has become a member.
    fn on_join(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        let _ = (cx, uid);
        Ok(())
    }

    /// Called when a member has lost its connection. It stays for the [window](RoomOptions::reconnect_window).
    fn on_lost(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        let _ = (cx, uid);
        Ok(())
    }

    /// Called when a member that had lost its connection is back.
    fn on_reconnect(
        &mut self,
        cx: &mut RoomContext<'_, Self>,
        uid: i64,
    ) -> Result<(), HandlerError> {
        let _ = (cx, uid);
        Ok(())
    }

    /// Called when a user is no member any more: it has left, it is in another room of this kind, or its window is over.
    fn on_leave(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        let _ = (cx, uid);
        Ok(())
    }

    /// Called at each step, if the room has a [clock](RoomOptions::tick).
    fn on_tick(&mut self, cx: &mut RoomContext<'_, Self>, tick: Tick) -> Result<(), HandlerError> {
        let _ = (cx, tick);
        Ok(())
    }

    /// Called when an actor or a room that this one has spawned has ended.
    fn on_child_end(
        &mut self,
        cx: &mut RoomContext<'_, Self>,
        child: &ActorRef,
        has_panicked: bool,
    ) {
        let _ = (cx, child, has_panicked);
    }

    /// Called last, when the room was killed. It is not called after a panic.
    fn on_stop(&mut self, cx: &mut RoomContext<'_, Self>) {
        let _ = cx;
    }
}

/// The options of a room.
#[derive(Clone, Copy, Debug)]
#[must_use = "it has no effect until a room is spawned with it"]
pub struct RoomOptions {
    actor: ActorOptions,
    rate: u32,
    window: Duration,
    max_members: usize,
}

impl RoomOptions {
    /// Sets the number of steps in a second, up to 1,000. Default: 0, the room has no clock.
    pub fn tick(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// Sets the time for which a member that has lost its connection stays a member. Default: 0.
    pub fn reconnect_window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Sets the number of members. Default: 1,000.
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }

    /// Sets the options that it has as an actor.
    pub fn actor(mut self, options: ActorOptions) -> Self {
        self.actor = options;
        self
    }

    fn build<R>(self, room: R) -> Result<RoomActor<R>, Error> {
        if self.rate > 1000 {
            let problem = format!("{} steps a second are too many; use up to 1,000", self.rate);
            return Err(Error::argument("tick", problem));
        }
        Ok(RoomActor {
            room,
            kit: Kit {
                members: Members::new(self.max_members, self.window),
                clock: None,
                rate: self.rate,
                awaits_expiry: false,
                hooks: VecDeque::new(),
            },
        })
    }
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            actor: ActorOptions::default(),
            rate: 0,
            window: Duration::ZERO,
            max_members: 1000,
        }
    }
}

/// The handlers of a room.
pub struct RoomRoutes<'r, R>(&'r mut ActorRoutes<RoomActor<R>>);

impl<R: Room> RoomRoutes<'_, R> {
    /// Sets the handler of a route. The last one counts.
    pub fn route<E: Into<HandlerError>>(
        &mut self,
        route: i32,
        handler: impl Fn(&mut R, &mut RoomContext<'_, R>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.0.route(
            route,
            move |actor: &mut RoomActor<R>, cx: &mut ActorContext<'_, RoomActor<R>>| {
                actor.seen(cx)?;
                actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into))
            },
        );
        self
    }

    /// Sets the handler of an event. The node must have one for it, too, which calls [`Request::next`]. For
    /// [`Event::Disconnect`] and [`Event::Reconnect`], it is called after the room has noted what that means for the member.
    pub fn event<E: Into<HandlerError>>(
        &mut self,
        event: Event,
        handler: impl Fn(&mut R, &mut RoomContext<'_, R>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.0.event(
            event,
            move |actor: &mut RoomActor<R>, cx: &mut ActorContext<'_, RoomActor<R>>| {
                match event {
                    Event::Disconnect => actor.on_disconnect(cx)?,
                    _ => actor.seen(cx)?,
                }
                actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into))
            },
        );
        self
    }

    /// Sets the handler of packets of other routes, which only [`ActorRef::deliver`] and [`Request::next_to`] send. Default: they
    /// are ignored and counted.
    pub fn default_route<E: Into<HandlerError>>(
        &mut self,
        handler: impl Fn(&mut R, &mut RoomContext<'_, R>) -> Result<(), E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.0.default_route(
            move |actor: &mut RoomActor<R>, cx: &mut ActorContext<'_, RoomActor<R>>| {
                actor.seen(cx)?;
                actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into))
            },
        );
        self
    }
}

/// The context of a handler of a room. It has all that a [`Request`] has.
pub struct RoomContext<'a, R: Room> {
    cx: ActorContext<'a, RoomActor<R>>,
    kit: &'a mut Kit,
}

/// The parts of a room that are the same for all.
struct Kit {
    members: Members,
    clock: Option<TickClock>,
    rate: u32,
    /// True if there is a timer for the first member whose window ends.
    awaits_expiry: bool,
    /// The news that the room has yet to be told.
    hooks: VecDeque<Hook>,
}

enum Hook {
    Joined(i64),
    Lost(i64),
    Back(i64),
    Left(i64),
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
        self.cx.if_offline(uid, move |_, _| {
            let told = me.invoke_anyway(move |actor: &mut RoomActor<R>, cx| {
                actor.on_offline(cx, uid, signs)
            });
            if let Err(error) = told {
                log::debug!(target: "epicycle::cluster", "a room is not told of a lost member: {error}");
            }
        })
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
    /// Makes a user a member of a room, as [`RoomContext::join`] does, and returns before it is one. So [`Request::next`] may not find
    /// the room for the packets that the client sends until [`Room::on_join`] has told it. If the room refuses the user, that is logged.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke).
    pub fn join<R: Room>(&self, uid: i64) -> Result<(), Error> {
        self.invoke_room(move |_: &mut R, cx| cx.join(uid))
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

/// A room as an actor.
struct RoomActor<R> {
    room: R,
    kit: Kit,
}

impl<R: Room> Actor for RoomActor<R> {
    fn routes(routes: &mut ActorRoutes<Self>) {
        routes
            .event(Event::Disconnect, Self::on_disconnect)
            .event(Event::Reconnect, Self::seen);
        R::routes(&mut RoomRoutes(routes));
    }

    fn on_start(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        if self.kit.rate > 0 {
            let step = Duration::from_secs(1) / self.kit.rate;
            self.kit.clock = Some(TickClock::new(step, cx.now()));
            self.await_tick(cx);
        }
        self.attend(cx, R::on_start)
    }

    fn on_unbind(&mut self, cx: &mut ActorContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        // It may have joined again since.
        if cx.has_bound(uid) || !self.kit.members.leave(uid) {
            return Ok(());
        }
        self.kit.hooks.push_back(Hook::Left(uid));
        self.attend(cx, |_, _| Ok(()))
    }

    fn on_child_end(
        &mut self,
        cx: &mut ActorContext<'_, Self>,
        child: &ActorRef,
        has_panicked: bool,
    ) {
        // It has no error of its own, and hooks log theirs.
        let told = self.attend(cx, |room, cx| {
            room.on_child_end(cx, child, has_panicked);
            Ok(())
        });
        if let Err(error) = told {
            log::warn!(target: "epicycle::cluster", "a hook of a room: {error}");
        }
    }

    fn on_stop(&mut self, cx: &mut ActorContext<'_, Self>) {
        let mut cx = RoomContext {
            cx: cx.reborrow(),
            kit: &mut self.kit,
        };
        self.room.on_stop(&mut cx);
    }
}

impl<R: Room> RoomActor<R> {
    /// Runs a handler, and tells the room what it has caused.
    fn attend(
        &mut self,
        cx: &mut ActorContext<'_, Self>,
        handler: impl FnOnce(&mut R, &mut RoomContext<'_, R>) -> Result<(), HandlerError>,
    ) -> Result<(), HandlerError> {
        let mut cx = RoomContext {
            cx: cx.reborrow(),
            kit: &mut self.kit,
        };
        let mut result = handler(&mut self.room, &mut cx);
        while let Some(hook) = cx.kit.hooks.pop_front() {
            let told = match hook {
                Hook::Joined(uid) => self.room.on_join(&mut cx, uid),
                Hook::Lost(uid) => self.room.on_lost(&mut cx, uid),
                Hook::Back(uid) => self.room.on_reconnect(&mut cx, uid),
                Hook::Left(uid) => self.room.on_leave(&mut cx, uid),
            };
            result = result.and(told);
        }
        result
    }

    /// Notes that the user of this packet or event is connected.
    fn seen(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        let uid = cx.uid();
        // Packets of other nodes tell nothing of a connection.
        let Some(conn) = connection(cx) else {
            return Ok(());
        };
        if !self.kit.members.regain(uid, Some(conn)) {
            return Ok(());
        }
        self.kit.hooks.push_back(Hook::Back(uid));
        self.attend(cx, |_, _| Ok(()))
    }

    fn on_disconnect(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        let uid = cx.uid();
        if !(self.kit.members).lose(uid, (cx.gid(), cx.cid()), cx.now()) {
            return Ok(());
        }
        self.tell_lost(cx, uid)
    }

    /// Notes that the gate of a new member does not have it, unless it was seen since.
    fn on_offline(
        &mut self,
        cx: &mut ActorContext<'_, Self>,
        uid: i64,
        signs: u64,
    ) -> Result<(), HandlerError> {
        if !self.kit.members.lose_after(uid, signs, cx.now()) {
            return Ok(());
        }
        self.tell_lost(cx, uid)
    }

    fn tell_lost(&mut self, cx: &mut ActorContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        self.kit.hooks.push_back(Hook::Lost(uid));
        let told = self.attend(cx, |_, _| Ok(()));
        self.await_expiry(cx);
        told
    }

    /// Sets the timer for the first member whose window ends, if there is none.
    fn await_expiry(&mut self, cx: &mut ActorContext<'_, Self>) {
        let first = self.kit.members.first_expiry();
        if let Some(first) = first.filter(|_| !self.kit.awaits_expiry) {
            self.kit.awaits_expiry = true;
            let delay = first.saturating_duration_since(cx.now());
            cx.after_time_anyway(delay, |actor: &mut Self, cx| actor.expire(cx));
        }
    }

    /// Lets the members go whose window is over.
    fn expire(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        self.kit.awaits_expiry = false;
        for uid in self.kit.members.expire(cx.now()) {
            cx.let_go(uid);
            self.kit.hooks.push_back(Hook::Left(uid));
        }
        self.await_expiry(cx);
        self.attend(cx, |_, _| Ok(()))
    }

    fn await_tick(&mut self, cx: &mut ActorContext<'_, Self>) {
        if let Some(clock) = &self.kit.clock {
            let delay = clock.delay(cx.now());
            cx.after_time_anyway(delay, |actor: &mut Self, cx| actor.tick(cx));
        }
    }

    fn tick(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
        let now = cx.now();
        if let Some(clock) = &mut self.kit.clock {
            clock.begin(now);
        }
        let mut result = Ok(());
        while let Some(tick) = self.kit.clock.as_mut().and_then(|clock| clock.next(now)) {
            result = result.and(self.attend(cx, |room, cx| room.on_tick(cx, tick)));
        }
        self.await_tick(cx);
        result
    }
}

/// Returns the connection that a request came by.
fn connection<'a>(request: &Request<'a>) -> Option<(&'a str, i64)> {
    let (gid, cid) = (request.gid(), request.cid());
    (!gid.is_empty() && cid != 0).then_some((gid, cid))
}

impl<R> fmt::Debug for RoomRoutes<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomRoutes").finish_non_exhaustive()
    }
}

impl<R: Room> fmt::Debug for RoomContext<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomContext")
            .field("members", &self.kit.members)
            .finish_non_exhaustive()
    }
}
