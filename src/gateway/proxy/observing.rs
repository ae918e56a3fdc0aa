//! The connections of a reactor, as they are told to operators.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Proxy, Session};
use crate::balance::NodeId;
use crate::engine::handler::Reactor;
use crate::engine::slots::ConnId;
use crate::gateway::hooks::{Hooks, path_of};
use crate::gateway::settings::ListenerKind;
use crate::gateway::status::{ConnectionsStatus, ExchangeStatus, ListenerStatus, PoolConnections};

/// The most exchanges that are told.
pub(in crate::gateway) const MAX_LONGEST: usize = 50;

/// The most bytes of a text of a client's.
const MAX_TEXT: usize = 256;

impl<H: Hooks> Proxy<H> {
    /// Returns the connections of this reactor. It looks at each of them once.
    pub(in crate::gateway) fn connections_here(
        &self,
        reactor: &mut Reactor<'_, Self>,
    ) -> ConnectionsStatus {
        let mut listeners = BTreeMap::<String, ListenerStatus>::new();
        let mut pools = vec![PoolConnections::default(); self.pools.len()];
        let mut status = ConnectionsStatus::default();
        let mut busy: Vec<(Instant, ConnId)> = Vec::new();
        reactor.for_each(|conn, session| {
            status.total += 1;
            match session {
                Session::Upstream(upstream) => {
                    let pool = &mut pools[upstream.pool];
                    pool.connections += 1;
                    pool.busy += usize::from(upstream.client.is_some());
                }
                Session::Mirror(mirror) => {
                    let pool = &mut pools[mirror.pool];
                    pool.connections += 1;
                    pool.busy += usize::from(mirror.has_copy());
                }
                Session::Check(_) => status.checks += 1,
                Session::Target
                | Session::UdpNode(_)
                | Session::Relay(_)
                | Session::UdpTarget(_) => status.targets += 1,
                Session::Client(_) | Session::Socks(_) | Session::Tcp(_) | Session::Udp(_) => {
                    let on = conn.label();
                    let listener = match listeners.get_mut(on) {
                        Some(known) => known,
                        None => listeners.entry(on.to_owned()).or_default(),
                    };
                    listener.connections += 1;
                    if let Some((since, is_tunnel)) = session.under_way() {
                        listener.busy += 1;
                        listener.tunnels += usize::from(is_tunnel);
                        busy.push((since, conn.id()));
                    }
                }
            }
        });
        for (on, mut listener) in listeners {
            let known = self.rules.listeners.get(&*on);
            let kind = known.map(|known| known.settings.kind);
            listener.kind = kind.map_or("closed", ListenerKind::as_str).to_owned();
            listener.on = on;
            status.listeners.push(listener);
        }
        for (pool, mut connections) in self.pools.iter().zip(pools) {
            connections.name = pool.shared.name.to_string();
            if connections.connections > 0 {
                status.pools.push(connections);
            }
        }
        if busy.len() > MAX_LONGEST {
            busy.select_nth_unstable(MAX_LONGEST);
            busy.truncate(MAX_LONGEST);
        }
        let now = reactor.now();
        for (since, id) in busy {
            let told = reactor.with(id, |conn, session| {
                let mut told = self.tell(session);
                told.listener = conn.label().to_owned();
                told.client = conn.peer_addr().to_string();
                told
            });
            if let Some(mut told) = told {
                let age = now.saturating_duration_since(since);
                told.age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                status.longest.push(told);
            }
        }
        status
    }

    fn tell(&self, session: &Session<H>) -> ExchangeStatus {
        let mut told = ExchangeStatus::default();
        match session {
            Session::Client(client) => {
                let Some(exchange) = &client.exchange else {
                    return told;
                };
                told.kind = match exchange.is_tunnel() {
                    true => "tunnel",
                    false => "exchange",
                };
                let asked = &exchange.asked;
                told.method = cut(&asked.method);
                told.host = cut(&asked.host);
                told.path = cut(path_of(&asked.target));
                if let Some(pool) = exchange.pool {
                    self.tell_node(&mut told, pool, exchange.last_node);
                }
            }
            Session::Tcp(tcp) => {
                told.kind = "tcp";
                let (pool, node) = tcp.destination();
                self.tell_node(&mut told, pool, node);
            }
            Session::Udp(udp) => {
                told.kind = "udp";
                let (pool, node) = udp.destination();
                self.tell_node(&mut told, pool, node);
            }
            Session::Socks(socks) => {
                told.kind = "socks5";
                told.host = cut(&socks.target_text());
            }
            _ => {}
        }
        told
    }

    fn tell_node(&self, told: &mut ExchangeStatus, pool: usize, node: Option<NodeId>) {
        let pool = &self.pools[pool];
        told.pool = pool.shared.name.to_string();
        let node = node.map(|node| pool.name_of(node));
        told.node = node.unwrap_or_default().to_owned();
    }
}

impl<H: Hooks> Session<H> {
    /// Returns the beginning of the exchange that is under way, and if it is a tunnel.
    fn under_way(&self) -> Option<(Instant, bool)> {
        match self {
            Session::Client(client) => {
                let exchange = client.exchange.as_ref()?;
                Some((exchange.notes.began, exchange.is_tunnel()))
            }
            Session::Socks(socks) => Some((socks.began(), socks.is_tunnel())),
            Session::Tcp(tcp) => Some((tcp.notes.began, tcp.is_joined())),
            Session::Udp(udp) => Some((udp.began(), false)),
            _ => None,
        }
    }
}

/// Returns the beginning of a text.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}
