//! Connections of clients and nodes that have changed to another protocol.

use std::time::Duration;

use super::{Proxy, Session, UpstreamSession};
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::ConnLimits;
use crate::engine::conn::origin::Origin;
use crate::engine::conn::write::WriteError;
use crate::engine::handler::{Action, Conn};
use crate::engine::slots::ConnId;
use crate::gateway::exchange::{Exchange, Place};
use crate::gateway::frames::{self, Relayed};
use crate::gateway::hooks::Hooks;
use crate::gateway::joined::Joined;
use crate::gateway::settings::WebSocketMode;

impl<H: Hooks> Proxy<H> {
    /// Joins the connections of a client and a node, or a target, so that each sends what the other receives. The tunnel ends
    /// when nothing passes for `idle`. One of both connections is in hand, and the other one is `other`.
    pub(super) fn join(conn: &mut Conn<'_, Self>, other: ConnId, idle: Duration) {
        // Each byte passes on both connections. So only the accepted one tells that none did.
        let limit = |conn: &mut Conn<'_, Self>| {
            let (idle, stall) = match conn.origin() {
                Origin::Accepted { .. } => (idle, idle),
                _ => (Duration::MAX, idle),
            };
            let limits = ConnLimits::new().idle_timeout(idle);
            set_limits(
                conn,
                &limits
                    .read_timeout(Duration::MAX)
                    .write_stall_timeout(stall),
            );
            conn.set_deadline(None);
            conn.switch(Joined);
        };
        limit(conn);
        conn.with(other, |other, _| limit(other));
        if let Err(error) = conn.pipe(other) {
            log::debug!(target: "epicycle::gateway::http", "a tunnel was not made: {error}");
            conn.abort();
            conn.with(other, |other, _| other.abort());
        }
    }

    /// Resets a connection that was made for a tunnel whose client has left in the meantime. A stream that ends would tell that
    /// the client had nothing to say, and its bytes are lost.
    pub(super) fn forsake(conn: &mut Conn<'_, Self>) {
        conn.abort();
    }

    /// Lets the connections of a client and a node speak WebSocket, so that their frames are seen.
    pub(super) fn join_frames(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &UpstreamSession,
        client: ConnId,
    ) {
        let idle = self.pools[session.pool].settings().timeouts.tunnel_idle;
        // A frame may not stand still either.
        let limits = ConnLimits::new().idle_timeout(idle).read_timeout(idle);
        let limits = limits.write_stall_timeout(idle);
        set_limits(conn, &limits);
        conn.with(client, |client, _| {
            client.set_deadline(None);
            set_limits(client, &limits);
        });
        let Some((for_client, for_node)) = frames::codecs() else {
            return conn.abort();
        };
        conn.switch(for_node);
        conn.with(client, |client, _| client.switch(for_client));
    }

    /// Passes frames on to the other side.
    pub(super) fn on_frames(
        conn: &mut Conn<'_, Self>,
        session: &mut Session<H>,
        part: Relayed<'_>,
    ) -> Action {
        let len = part.len() as u64;
        if let Session::Client(client) = session
            && let Some(exchange) = &mut client.exchange
        {
            exchange.notes.request_bytes += len;
        }
        let Some(other) = other_side(session) else {
            return Action::Close;
        };
        let has_room = conn.with(other, |other, session| {
            if let Session::Client(client) = session
                && let Some(exchange) = &mut client.exchange
            {
                exchange.notes.response_bytes += len;
            }
            match other.send(part) {
                Ok(()) => other.has_room(),
                // One that is closing has its `on_close` ahead.
                Err(WriteError::Closed) => true,
                Err(_) => {
                    // The bytes that follow would be no frame.
                    other.abort();
                    true
                }
            }
        });
        if has_room == Some(false) {
            conn.pause_reads();
        }
        Action::Continue
    }
}

fn set_limits<H: Hooks>(conn: &mut Conn<'_, Proxy<H>>, limits: &ConnLimits) {
    if conn.set_limits(limits).is_err() {
        log::warn!(target: "epicycle::gateway::http", "too many different limits are in use");
    }
}

/// Ends a side of a WebSocket whose frames are seen, since the other one has ended: with a Close, or with a reset if the other one
/// is broken.
pub(super) fn end_frames<H: Hooks>(conn: &mut Conn<'_, Proxy<H>>, reason: &CloseReason) {
    match reason {
        CloseReason::Reset(_) | CloseReason::Io(_) | CloseReason::Aborted => conn.abort(),
        _ => conn.close(),
    }
}

/// Returns the other side of a connection.
pub(super) fn other_side<H: Hooks>(session: &Session<H>) -> Option<ConnId> {
    match session {
        Session::Client(client) => client.exchange.as_ref().and_then(|one| one.upstream()),
        Session::Upstream(upstream) => upstream.client,
        _ => None,
    }
}

impl<X> Exchange<X> {
    /// Returns true if the frames of the WebSocket that was agreed on are seen.
    pub(super) fn sees_frames(&self) -> bool {
        let route = self.route.as_ref().map(|route| &route.settings);
        let protocol = self.upgrade.as_deref();
        route.is_some_and(|route| route.websocket == WebSocketMode::Frames)
            && protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
    }

    /// Returns true if client and node have changed to another protocol.
    pub(super) fn is_tunnel(&self) -> bool {
        matches!(self.place, Place::Tunnel | Place::Frames { .. })
    }
}
