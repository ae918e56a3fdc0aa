use std::time::Duration;

use super::health::Health;
use super::{Identity, Lane, LaneEvent};
use crate::cluster::Error;
use crate::cluster::drpc::MAX_FRAME;
use crate::cluster::registry::LinkEndpoint;
use crate::engine::conn::limits::ConnLimits;
use crate::engine::connect::{Backoff, Connect, Reconnect};
use crate::engine::handler::{Conn, EventHandler, Reactor};
use crate::engine::slots::ConnId;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The usual high-water mark of a link.
const HIGH_WATER: usize = 1 << 20;

/// A peer that is dialled, with its lane.
pub(super) struct Dialled<T> {
    pub(super) lane: Lane<T>,
    pub(super) theirs: Identity,
    /// `None` until the peer is registered.
    pub(super) endpoint: Option<LinkEndpoint>,
    /// The way to reach it.
    pub(super) connect: Option<Connect>,
    pub(super) conn: Option<ConnId>,
    /// The bytes that the connection had not sent when it was last looked at.
    pub(super) backlog: usize,
    pub(super) is_changed: bool,
    pub(super) health: Health,
    pub(super) backoff: Backoff,
    pub(super) opened: Duration,
    /// The time of the next attempt to dial, if none is under way.
    pub(super) dial_at: Option<Duration>,
}

impl<T> Dialled<T> {
    pub(super) fn down(&self) -> Error {
        Error::LinkDown {
            peer: self.theirs.id.clone(),
        }
    }

    /// Returns true if more waits for the peer than what may wait, divided by 2 to the power of `shift`.
    #[inline]
    pub(super) fn exceeds(&self, shift: u32) -> bool {
        self.lane.exceeds(shift, self.backlog)
    }

    /// Returns true if the lane goes on when the peer is registered at this address. One that is only expected goes on as long as
    /// something waits for it.
    pub(super) fn is_wanted(&self, at: Option<&LinkEndpoint>) -> bool {
        match &self.endpoint {
            Some(endpoint) => at == Some(endpoint),
            None => at.is_some() || self.lane.stats().queued_bytes > 0,
        }
    }

    pub(super) fn dial<H: EventHandler>(
        &mut self,
        token: u64,
        now: Duration,
        reactor: &mut Reactor<'_, H>,
    ) {
        // The lane keeps to its own limit, so that what it gives to the connection is always taken.
        let max = self.lane.max_backlog();
        // Past the mark the end of the backlog is told, so that it is never taken for much more than it is.
        let limits = ConnLimits::new()
            .outbound_limit(max + 2 * MAX_FRAME)
            .high_water((max / 8).min(HIGH_WATER));
        let Some(connect) = self.connect.clone() else {
            return;
        };
        let connect = connect
            .timeout(self.lane.handshake_timeout())
            .limits(limits)
            .token(token);
        if let Err(error) = reactor.connect(connect) {
            log::debug!(target: "epicycle::cluster", "no link to {}: {error}", self.theirs.id);
            self.dial_later(now);
        }
    }

    /// Gives the connection up, and dials again later.
    pub(super) fn lose(
        &mut self,
        now: Duration,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) {
        self.conn = None;
        self.backlog = 0;
        self.health.down(now);
        let theirs = &self.theirs;
        self.lane.disconnected(&mut |event| events(theirs, event));
        let lasted = now.saturating_sub(self.opened);
        let delay = self.backoff.after_connection(lasted, &policy());
        self.dial_at = Some(now.saturating_add(delay));
    }

    pub(super) fn dial_later(&mut self, now: Duration) {
        self.health.down(now);
        let delay = self.backoff.after_failure(&policy());
        self.dial_at = Some(now.saturating_add(delay));
    }

    pub(super) fn write<H: EventHandler>(&mut self, conn: &mut Conn<'_, H>) {
        self.lane.write_output(|output| {
            if let Err(error) = conn.write(output) {
                // It is closing, and the next connection begins anew.
                log::debug!(target: "epicycle::cluster", "the link to {}: {error}", self.theirs.id);
            }
        });
        self.backlog = conn.buffered_out();
    }
}

fn policy() -> Reconnect {
    Reconnect::new(FIRST_DELAY, LONGEST_DELAY)
}
