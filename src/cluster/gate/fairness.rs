//! Clients that send more than a node takes.

use std::time::Duration;

use super::client::{Client, Wait};
use super::clients::{pause, resume};
use super::handler::{GateReactor, Session};
use crate::cluster::link::Identity;
use crate::cluster::registry::LinkEndpoint;
use crate::engine::handler::{Conn, Reactor};

/// The bytes that a client can send to links that have much to send before it is held up.
const SHARE: usize = 64 << 10;

/// The maximum time for which it is held up: a node that hangs must not keep it from the others.
const HELD_UP: Duration = Duration::from_secs(1);

impl GateReactor {
    /// Reads nothing more of a client for a while, if it has sent its share to links that have much to send. So its packets wait in
    /// its own connection, and there is room for those of others.
    #[inline]
    pub(super) fn hold_up(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client, sent: usize) {
        if self.lanes.loads() {
            self.count_share(conn, client, sent);
        }
    }

    #[cold]
    fn count_share(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client, sent: usize) {
        self.is_loaded = true;
        let share = &mut client.share;
        if share.load != self.loads {
            (share.load, share.bytes) = (self.loads, 0);
        }
        share.bytes += sent;
        if share.bytes < SHARE || client.wait != Wait::Nothing {
            return;
        }
        share.bytes = 0;
        client.wait = Wait::Link;
        pause(conn);
        conn.set_timer(HELD_UP, Client::HELD_UP);
        self.counters().held_up.add(1);
        self.held_up.insert(client.cid);
    }

    /// Reads on from a client that was held up.
    pub(super) fn let_go_on(&mut self, conn: &mut Conn<'_, Self>, client: &mut Client) {
        if client.wait == Wait::Link {
            self.held_up.remove(&client.cid);
            client.wait = Wait::Nothing;
            resume(conn, client);
        }
    }

    /// Reads on from all clients that were held up, once no link has much to send.
    pub(super) fn note_load(&mut self, reactor: &mut Reactor<'_, Self>) {
        let is_loaded = |(node, _): &(Identity, LinkEndpoint)| self.lanes.is_loaded(&node.id);
        if !self.is_loaded || self.nodes.iter().any(is_loaded) {
            return;
        }
        self.is_loaded = false;
        self.loads += 1;
        for cid in std::mem::take(&mut self.held_up) {
            let Some(id) = self.sessions.find(cid, 0) else {
                continue;
            };
            reactor.with(id, |conn, session| {
                if let Session::Client(client) = session {
                    self.let_go_on(conn, client);
                }
            });
        }
    }
}
