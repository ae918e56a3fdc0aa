//! The life of a room: what it is told, its members and its clock.

use std::time::Duration;

use super::clock::TickClock;
use super::context::RoomContext;
use super::{Hook, Room, RoomActor, RoomRoutes, connection};
use crate::cluster::Event;
use crate::cluster::node::actor::{Actor, ActorContext, ActorRef, ActorRoutes};
use crate::cluster::node::context::HandlerError;

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
    pub(super) fn attend(
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
    pub(super) fn seen(&mut self, cx: &mut ActorContext<'_, Self>) -> Result<(), HandlerError> {
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

    pub(super) fn on_disconnect(
        &mut self,
        cx: &mut ActorContext<'_, Self>,
    ) -> Result<(), HandlerError> {
        let uid = cx.uid();
        if !(self.kit.members).lose(uid, (cx.gid(), cx.cid()), cx.now()) {
            return Ok(());
        }
        self.tell_lost(cx, uid)
    }

    /// Notes that the gate of a new member does not have it, unless it was seen since.
    pub(super) fn on_offline(
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
