//! The clients of a gate that come over KCP.

use super::client::Client;
use super::codec::Protocol;
use super::handler::{GateReactor, Session};
use crate::cluster::over_kcp::{self, End, KcpCodec};
use crate::codec::{Codec, Decoded};
use crate::engine::handler::{Action, Conn};

impl GateReactor {
    /// Notes that a client is new. The oldest one that is not known to be at its address ends, if there are too many: what forges
    /// addresses takes no place of others then.
    pub(super) fn open_unproved(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        client.is_unproved = true;
        self.unproved.add(conn.id());
        let mut reactor = conn.reactor();
        while let Some(oldest) = self.unproved.take_excess() {
            let ended = reactor.with(oldest, |conn, session| match session {
                Session::Client(client) if client.is_unproved => {
                    (client.is_unproved, client.is_lost) = (false, true);
                    conn.abort();
                    true
                }
                _ => false,
            });
            if ended == Some(true) {
                self.unproved.subtract();
                self.counters().unproved.add(1);
            }
        }
        let own = conn.id();
        let mut reactor = conn.reactor();
        self.unproved.tidy(|id| {
            let is_unproved = |session: &Session| matches!(session, Session::Client(client) if client.is_unproved);
            *id == own || reactor.with(*id, |_, session| is_unproved(session)) == Some(true)
        });
    }

    /// Notes that a client has proved its address, or has ended.
    pub(super) fn prove(&mut self, client: &mut Client) {
        if std::mem::take(&mut client.is_unproved) {
            self.unproved.subtract();
        }
    }

    /// Takes a datagram of a client.
    pub(super) fn on_client_datagram(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: &mut Client,
        datagram: &[u8],
    ) -> Action {
        if let Err(end) = over_kcp::receive(conn, datagram) {
            return self.end_kcp(conn, client, &end);
        }
        if client.is_unproved && kcp(conn).is_some_and(|kcp| kcp.is_proved()) {
            self.prove(client);
        }
        self.read_kcp(conn, client)
    }

    /// Handles the packets that have arrived, unless they have to wait, and sends what is due.
    pub(super) fn read_kcp(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) -> Action {
        // As over TCP, nothing is read from a client that does not read.
        let most_queued = self.shared.options.outbound_limit / 4;
        while let Some(kcp) = kcp(conn)
            && kcp.queued() <= most_queued
            && let Some(mut input) = (!kcp.is_paused).then(|| kcp.take_input()).flatten()
        {
            let mut packets = kcp.packets.clone();
            let mut handled = 0;
            let action = loop {
                let (frame, len) = match packets.decode(&mut input[handled..]) {
                    Ok(Decoded::Frame { frame, consumed }) => {
                        handled += consumed;
                        (frame, consumed)
                    }
                    Ok(_) => break Action::Continue,
                    Err(error) => {
                        log::debug!(target: "epicycle::cluster", "{}: {error}", client.address(conn.peer_addr()));
                        break Action::Close;
                    }
                };
                match self.on_frame(conn, client, frame, len) {
                    Action::Continue => {}
                    action => break action,
                }
                if self::kcp(conn).is_none_or(|kcp| kcp.is_paused) {
                    break Action::Continue;
                }
            };
            if let Some(kcp) = self::kcp(conn) {
                kcp.packets = packets;
                kcp.keep(input, handled);
            }
            if !matches!(action, Action::Continue) {
                return action;
            }
        }
        self.settle_kcp(conn, client)
    }

    /// Sends what is due.
    pub(super) fn settle_kcp(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) -> Action {
        match over_kcp::settle(conn, Client::FLUSH) {
            Ok(()) => Action::Continue,
            Err(end) => self.end_kcp(conn, client, &end),
        }
    }

    fn end_kcp(&self, conn: &Conn<'_, Self>, client: &mut Client, end: &End) -> Action {
        client.is_lost = true;
        match end {
            End::Replaced => {
                log::debug!(target: "epicycle::cluster", "{} begins another connection", conn.peer_addr());
            }
            End::Dead => self.counters().silent.add(1),
        }
        Action::Close
    }
}

fn kcp<'c>(conn: &'c mut Conn<'_, GateReactor>) -> Option<&'c mut KcpCodec> {
    match conn.codec_mut() {
        Protocol::Kcp(kcp) => Some(kcp),
        _ => None,
    }
}
