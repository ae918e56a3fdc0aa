//! Clients over WebSocket: how they open one, and what they send by it.

use super::client::Client;
use super::codec::Protocol;
use super::handler::GateReactor;
use super::listener::{Door, Upgrade};
use crate::cluster::packet::{MAX_EMPTY_IN_ROW, PacketFrame};
use crate::engine::conn::origin::Origin;
use crate::engine::handler::{Action, Conn};
use crate::http::{ServerRequest, ServerResponse, StatusCode, forwarded_for};
use crate::ws::{self, Close, CloseCode};

impl GateReactor {
    /// Returns what opens a WebSocket on the listener of a connection.
    pub(super) fn upgrade_of(&self, conn: &Conn<'_, Self>) -> Option<&Upgrade> {
        match conn.origin() {
            Origin::Accepted { listener } => match self.shared.doors.get(listener) {
                Some(Door::Sockets(upgrade)) => Some(upgrade),
                _ => None,
            },
            _ => None,
        }
    }

    fn upgrade(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        request: &ServerRequest<'_>,
    ) -> Action {
        let Some(upgrade) = self.upgrade_of(conn).cloned() else {
            return Action::Close;
        };
        let Upgrade {
            path,
            origins,
            check,
            ..
        } = &upgrade;
        // A connection without a WebSocket is of no use here.
        let refuse = |conn: &mut Conn<'_, Self>, response: ServerResponse<'_>| match conn
            .send(response.close())
        {
            Ok(()) => Action::Close,
            Err(error) => error.into(),
        };
        if request.path() != path {
            return refuse(conn, ServerResponse::new(StatusCode::NOT_FOUND));
        }
        let accepted = ws::accept(request).and_then(|accept| match origins.is_empty() {
            true => Ok(accept),
            false => accept.origins(origins),
        });
        let accept = match accepted {
            Ok(accept) => accept,
            Err(refusal) => return refuse(conn, refusal.response()),
        };
        if check.as_ref().is_some_and(|check| !check(request)) {
            return refuse(conn, ServerResponse::new(StatusCode::FORBIDDEN));
        }
        if let Some(proxy) = conn.peer_addr().ip().filter(|ip| upgrade.trusts(*ip)) {
            let told = forwarded_for(request.headers(), |ip| upgrade.trusts(ip));
            let ip = told.unwrap_or(proxy);
            if !self.shared.admission.admit_peer(Some(ip)) {
                self.counters().clients_refused.add(1);
                return refuse(conn, ServerResponse::new(StatusCode::TOO_MANY_REQUESTS));
            }
            (client.ip, client.is_told) = (Some(ip), told.is_some());
        }
        let opened = conn.send(accept);
        if opened.is_ok() {
            // Frames that bring no packet count for the rate limit as well.
            if let Protocol::Socket(socket) = conn.codec_mut() {
                socket.tell_all();
            }
            self.enter(conn, client);
        }
        opened.into()
    }

    pub(super) fn on_socket(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        incoming: ws::Incoming<'_>,
    ) -> Action {
        client.last = conn.now();
        let message = match incoming {
            ws::Incoming::Request(request) => return self.upgrade(conn, client, &request),
            ws::Incoming::Message(message) => message,
            ws::Incoming::Pong(pong) => return self.on_idle_frame(conn, client, pong.len()),
            ws::Incoming::Closed(close) => {
                // It has said that it is done, unless it goes because the gate is about to stop. With other codes it is lost: a browser
                // sends 1001 when its page is left.
                match close.code == Some(CloseCode::NORMAL) && !self.said_goodbye {
                    true => client.is_ended = true,
                    false => client.is_lost = true,
                }
                return Action::Continue;
            }
        };
        let ws::Message::Binary(message) = message else {
            return refuse_message(
                conn,
                client,
                CloseCode::UNSUPPORTED,
                "packets are binary messages",
            );
        };
        match self.shared.options.packet.decode_message(&message) {
            Ok(PacketFrame::Empty) if client.empty_in_row == MAX_EMPTY_IN_ROW => refuse_message(
                conn,
                client,
                CloseCode::PROTOCOL,
                "too many packets of size 0",
            ),
            Ok(PacketFrame::Empty) => {
                client.empty_in_row += 1;
                self.on_idle_frame(conn, client, message.len())
            }
            Ok(frame) => {
                client.empty_in_row = 0;
                self.on_frame(conn, client, frame, message.len())
            }
            Err(error) => {
                log::debug!(target: "epicycle::cluster", "{}: {error}", client.address(conn.peer_addr()));
                refuse_message(
                    conn,
                    client,
                    CloseCode::PROTOCOL,
                    "a message that is no packet",
                )
            }
        }
    }

    /// Takes a frame that brings no packet. It counts as one.
    fn on_idle_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        len: usize,
    ) -> Action {
        self.on_frame(conn, client, PacketFrame::Empty, len)
    }
}

fn refuse_message(
    conn: &mut Conn<'_, GateReactor>,
    client: &mut Client,
    code: CloseCode,
    reason: &str,
) -> Action {
    client.is_ended = true;
    match conn.send(Close::new(code, reason)) {
        Ok(()) => Action::Close,
        Err(error) => error.into(),
    }
}
