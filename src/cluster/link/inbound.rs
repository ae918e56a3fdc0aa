//! The listening side of a link, on the engine.

use super::clock::Clock;
use super::{Identity, Listener, ListenerStats, Verdict};
use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::drpc::{Incoming, RejectReason, Secret};
use crate::engine::handler::{Action, Conn, EventHandler};

/// A connection that a peer has dialled.
pub(in crate::cluster) struct Inbound {
    listener: Listener,
    chance: Chance,
    clock: Clock,
}

impl Inbound {
    /// The token of the connection's timer. On it, call [`on_timer`](Self::on_timer).
    pub(in crate::cluster) const SILENCE: u64 = u64::MAX;

    pub(in crate::cluster) fn open<H: EventHandler>(
        ours: Identity,
        secret: Option<Secret>,
        chance: &Chance,
        conn: &mut Conn<'_, H>,
    ) -> Self {
        let listener = Listener::new(ours, secret);
        conn.set_timer(listener.deadline(), Self::SILENCE);
        let mut clock = Clock::default();
        clock.time(conn.now());
        Self {
            listener,
            chance: chance.clone(),
            clock,
        }
    }

    /// Takes a frame, and answers it unless the owner must serve it.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`]: close the connection.
    pub(in crate::cluster) fn receive<'a, H: EventHandler>(
        &mut self,
        conn: &mut Conn<'_, H>,
        frame: Incoming<'a>,
    ) -> Result<Verdict<'a>, Error> {
        let now = self.clock.time(conn.now());
        let mut output = Vec::new();
        let nonce = || self.chance.bytes();
        let verdict = (self.listener).receive(frame, now, nonce, &mut output);
        if !output.is_empty()
            && let Err(error) = conn.write(&output)
        {
            log::debug!(target: "epicycle::cluster", "an answer to a server is lost: {error}");
        }
        verdict
    }

    /// Closes a connection that was silent for too long.
    pub(in crate::cluster) fn on_timer<H: EventHandler>(
        &mut self,
        conn: &mut Conn<'_, H>,
    ) -> Action {
        let now = self.clock.time(conn.now());
        let left = self.listener.deadline().saturating_sub(now);
        if left.is_zero() {
            log::info!(target: "epicycle::cluster", "the link of {} was silent for too long", self.name());
            return Action::Close;
        }
        conn.set_timer(left, Self::SILENCE);
        Action::Continue
    }

    /// Returns the number of the dialler's kind and its id, once it has introduced itself.
    pub(in crate::cluster) fn peer(&self) -> Option<(u8, &str)> {
        self.listener.peer()
    }

    /// Returns true if the peer has said that it knows the extensions.
    pub(in crate::cluster) fn knows_extensions(&self) -> bool {
        self.listener.knows_extensions()
    }

    /// Tells the peer that what it sent before has been done, and that no more is taken. Returns false if the peer does not know it.
    pub(in crate::cluster) fn bye<H: EventHandler>(&self, conn: &mut Conn<'_, H>) -> bool {
        let mut output = Vec::new();
        self.listener.bye(&mut output);
        if let Err(error) = conn.write(&output) {
            log::debug!(target: "epicycle::cluster", "no goodbye to {}: {error}", self.name());
        }
        self.knows_extensions()
    }

    /// Tells the peer that a packet which it delivered was not taken, if it knows the extensions.
    pub(in crate::cluster) fn reject<H: EventHandler>(
        &self,
        conn: &mut Conn<'_, H>,
        cid: i64,
        (route, seq): (i32, i32),
        reason: RejectReason,
    ) {
        let mut output = Vec::new();
        self.listener.reject(cid, route, seq, reason, &mut output);
        if !output.is_empty()
            && let Err(error) = conn.write(&output)
        {
            log::debug!(target: "epicycle::cluster", "a reject to a server is lost: {error}");
        }
    }

    pub(in crate::cluster) fn stats(&self) -> ListenerStats {
        self.listener.stats()
    }

    /// Returns the peer's id, for logs.
    pub(in crate::cluster) fn name(&self) -> &str {
        self.listener
            .peer()
            .map_or("an unknown server", |(_, id)| id)
    }
}
