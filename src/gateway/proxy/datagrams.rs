//! The common parts of UDP listeners and of SOCKS associations: sessions of their own to nodes and targets.

use std::time::Duration;

use super::{Proxy, Session};
use crate::balance::NodeId;
use crate::engine::conn::limits::{ConnLimits, OutboundPolicy};
use crate::engine::conn::write::WriteError;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::{Action, Conn, Connecting, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::egress::Target;
use crate::gateway::error::is_shortage;
use crate::gateway::hooks::Hooks;
use crate::gateway::metrics::DropReason;

/// The purpose of a session that is being made.
#[derive(Clone, Debug)]
pub(super) enum DatagramDial {
    /// To the node of a UDP listener's client.
    Node { client: ConnId, node: NodeId },
    /// To a SOCKS client, whose connection is this one.
    Relay { client: ConnId },
    /// To a target of a SOCKS client.
    Target { relay: ConnId, target: Target },
}

/// The way of datagrams to a node or a target.
#[derive(Debug, Default)]
pub(super) enum DatagramWay {
    /// There is none yet.
    #[default]
    None,
    /// It is being made, and these datagrams wait for it.
    Opening(Held),
    /// It is there.
    Open(ConnId),
}

/// Datagrams that wait for their way.
#[derive(Debug, Default)]
pub(super) struct Held {
    datagrams: Vec<Box<[u8]>>,
    bytes: usize,
}

impl Held {
    const MAX: usize = 16;

    /// The most bytes, so that one datagram of any length fits.
    const MAX_BYTES: usize = 64 << 10;

    /// Adds a datagram. Returns false if there is no room.
    pub(super) fn add(&mut self, datagram: &[u8]) -> bool {
        let has_room =
            self.datagrams.len() < Self::MAX && self.bytes + datagram.len() <= Self::MAX_BYTES;
        if has_room {
            self.bytes += datagram.len();
            self.datagrams.push(datagram.into());
        }
        has_room
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }
}

/// The output of a session that may wait, in bytes: enough for several of the longest datagrams.
const MAX_WAITING: usize = 1 << 20;

/// Returns the limits of a session that ends when nothing passes for so long.
pub(super) fn session_limits(idle: Duration) -> ConnLimits {
    ConnLimits::new()
        .idle_timeout(idle)
        .high_water(MAX_WAITING / 2)
        .low_water(MAX_WAITING / 4)
        .outbound_limit(MAX_WAITING)
        .outbound_policy(OutboundPolicy::Drop)
}

impl<H: Hooks> Proxy<H> {
    pub(super) fn drop_datagrams(&self, reason: DropReason, count: usize) {
        self.meters.all.dropped_datagrams[reason].add(count as u64);
    }

    /// Counts a datagram that could not be written.
    pub(super) fn note_unwritten(&self, error: &WriteError) {
        let reason = match error {
            WriteError::TooLong { .. } => DropReason::TooLong,
            WriteError::Full { .. } => DropReason::Full,
            _ => DropReason::Unreachable,
        };
        self.drop_datagrams(reason, 1);
    }

    /// Goes on after an answer was written to the session of a client. That session may have ended.
    pub(super) fn after_answer(&self, written: Option<Result<(), WriteError>>) -> Action {
        match written {
            Some(Ok(())) => Action::Continue,
            Some(Err(error)) => {
                self.note_unwritten(&error);
                Action::Continue
            }
            None => Action::Close,
        }
    }

    /// Begins to make a session.
    pub(super) fn dial_datagrams(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        connect: Connect,
        dial: DatagramDial,
    ) -> Result<Connecting<Self>, ConnectError> {
        self.last_dial += 1;
        let connecting = reactor.connect(connect.token(self.last_dial))?;
        self.datagram_dials.insert(self.last_dial, dial);
        Ok(connecting)
    }

    pub(super) fn on_datagram_dial(
        &mut self,
        conn: &mut Conn<'_, Self>,
        dial: DatagramDial,
    ) -> Option<Session<H>> {
        match dial {
            DatagramDial::Node { client, node } => self.on_udp_node_open(conn, client, node),
            DatagramDial::Relay { client } => self.on_relay_open(conn, client),
            DatagramDial::Target { relay, target } => self.on_udp_target_open(conn, relay, target),
        }
    }

    pub(super) fn on_datagram_dial_failed(
        &mut self,
        dial: DatagramDial,
        error: &ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        match dial {
            DatagramDial::Node { client, node } => {
                log::debug!(target: "epicycle::gateway::udp", "no way to a node: {error}");
                self.on_udp_node_gone(client, node, None, !is_shortage(error), reactor);
            }
            DatagramDial::Relay { client } => {
                self.on_target_failed(client, error, reactor);
            }
            DatagramDial::Target { relay, target } => {
                self.on_udp_target_failed(relay, &target, error, reactor);
            }
        }
    }

    /// Writes the datagrams that have waited.
    pub(super) fn write_held(&self, conn: &mut Conn<'_, Self>, held: Held) {
        for datagram in held.datagrams {
            if let Err(error) = conn.write(&datagram) {
                self.note_unwritten(&error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_datagrams_wait_and_one_of_any_length() {
        let mut held = Held::default();
        assert!(held.add(&[0; 65_507]));
        assert!(!held.add(&[0; 100]));
        let mut held = Held::default();
        let added = (0..100).filter(|_| held.add(b"")).count();
        assert_eq!((added, held.len()), (Held::MAX, Held::MAX));
    }
}
