//! Rooms: actors with members and a clock.

mod clock;
mod context;
mod life;
mod members;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use self::clock::TickClock;
use self::members::Members;
use super::actor::{ActorContext, ActorOptions, ActorRef, ActorRoutes};
use super::context::{HandlerError, Request};
use crate::cluster::{Error, Event};

pub use self::clock::Tick;
pub use self::context::RoomContext;

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
                let noted = actor.seen(cx);
                noted.and(actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into)))
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
                let noted = match event {
                    Event::Disconnect => actor.on_disconnect(cx),
                    _ => actor.seen(cx),
                };
                noted.and(actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into)))
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
                let noted = actor.seen(cx);
                noted.and(actor.attend(cx, |room, cx| handler(room, cx).map_err(Into::into)))
            },
        );
        self
    }
}

/// A room as an actor.
struct RoomActor<R> {
    room: R,
    kit: Kit,
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
