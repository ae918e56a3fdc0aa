use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::context::{Connections, Context, Timer};
use super::{Conn, Connecting, Engine, EventHandler, Udp};
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::slots::ConnId;

/// A reactor, as callbacks that belong to no single connection see it.
pub struct Reactor<'a, H: EventHandler> {
    pub(super) connections: &'a mut Connections<H>,
    pub(super) cx: &'a mut Context<H>,
}

impl<'a, H: EventHandler> Reactor<'a, H> {
    pub(crate) fn new(connections: &'a mut Connections<H>, cx: &'a mut Context<H>) -> Self {
        Self { connections, cx }
    }

    /// Its number, counted from 0.
    pub fn id(&self) -> usize {
        self.cx.reactor
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine<H> {
        &self.cx.engine
    }

    /// When this turn of the loop began: in a simulation the virtual time, which [`Instant::now`] is not.
    ///
    /// It is the same in all callbacks of a turn, and costs nothing to ask.
    pub fn now(&self) -> Instant {
        self.cx.time.turn_at()
    }

    /// How many connections it has, those that are closing included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Calls `f` for every open connection of this reactor, in no particular order.
    pub fn for_each(&mut self, mut f: impl FnMut(&mut Conn<'_, H>, &mut H::Session)) {
        for slot in 0..self.connections.end() {
            let Some(slot) = self.connections.at(slot) else {
                continue;
            };
            if slot.link.state.is_open()
                && let Some((mut conn, session)) = slot.lend(self.cx)
            {
                f(&mut conn, session);
            }
        }
    }

    /// Calls `f` with one connection of this reactor, if it is open.
    pub fn with<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut Conn<'_, H>, &mut H::Session) -> R,
    ) -> Option<R> {
        let slot = self.connections.get(id)?;
        if !slot.link.state.is_open() {
            return None;
        }
        let (mut conn, session) = slot.lend(self.cx)?;
        Some(f(&mut conn, session))
    }

    /// Writes the same bytes to every open connection of this reactor; returns how many took them.
    ///
    /// [`Engine::broadcast`] reaches those of the other reactors too.
    pub fn broadcast(&mut self, bytes: impl Into<Bytes>) -> usize {
        let bytes = bytes.into();
        let mut taken = 0;
        self.for_each(|conn, _| taken += usize::from(conn.write_shared(bytes.clone()).is_ok()));
        taken
    }

    /// Makes an outbound connection on this reactor, as [`Engine::connect`] does.
    ///
    /// # Errors
    ///
    /// As for [`Engine::connect`].
    pub fn connect(&mut self, connect: impl Into<Connect>) -> Result<Connecting<H>, ConnectError> {
        self.cx.engine.connect_on(self.cx.reactor, connect)
    }

    /// The UDP socket that this reactor has for a listener, counted from 0 in the order in which the server was told of
    /// them. With [`AcceptMode::ReusePort`](crate::AcceptMode) every reactor has one; otherwise, of N reactors, that of
    /// listener K is on reactor K modulo N alone. None for other listeners, and once the engine shuts down.
    pub fn udp(&mut self, listener: usize) -> Option<Udp<'_, H>> {
        let port = self.cx.udp_sockets.of_listener(listener)?;
        Some(Udp::new(self.connections, self.cx, port, None))
    }

    /// Runs `task` on this reactor after `delay`, counted from now: never early, and as exact as
    /// [`Conn::set_timer`](crate::Conn::set_timer).
    pub fn schedule(
        &mut self,
        delay: Duration,
        task: impl FnOnce(&mut H, &mut Reactor<'_, H>) + 'static,
    ) {
        let deadline = self.cx.time.deadline(delay);
        self.cx.wheel.insert(deadline, Timer::Task(Box::new(task)));
    }
}

impl<H: EventHandler> fmt::Debug for Reactor<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("id", &self.id())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
