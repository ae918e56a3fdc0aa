//! The associations of SOCKS clients: datagrams between a client and its targets (RFC 1928, section 7).
//!
//! An association has a session with its client, over a socket of its own, and one with each target. All of them end with the
//! connection of the client.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::datagrams::{DatagramDial, DatagramWay, Held, session_limits};
use super::socks::SocksSession;
use super::{Proxy, Session};
use crate::addr::{Addr, Endpoint, Family};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::limits::ConnLimits;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::egress::{Host, Target, Way};
use crate::gateway::hooks::Hooks;
use crate::gateway::metrics::DropReason;
use crate::gateway::packet::Packet;
use crate::gateway::rules::Listener;
use crate::gateway::socks::{
    DatagramError, DatagramHeader, ReplyCode, SocksAnswer, SocksDatagram, datagram_header,
};

/// The most targets of an association. One more takes the place of the one that was used longest ago.
const MAX_TARGETS: usize = 64;

/// The most names of targets of an association that are being looked up, with those whose place was taken meanwhile. Else one client
/// could keep all threads that look names up.
const MAX_LOOK_UPS: usize = 16;

/// The state of the session with a SOCKS client that sends datagrams.
pub struct Relay {
    /// Its connection.
    client: ConnId,
    listener: Rc<Listener>,
    targets: HashMap<Target, ToTarget>,
    /// The number of names that are being looked up.
    look_ups: usize,
    /// The bytes of datagrams that were passed on, from the client and to it.
    bytes: (u64, u64),
}

/// A target of an association.
#[derive(Debug)]
struct ToTarget {
    way: DatagramWay,
    used: Instant,
}

/// The state of the session with a target of a SOCKS client.
pub struct UdpTarget {
    relay: ConnId,
    target: Target,
    header: DatagramHeader,
}

impl Relay {
    /// Returns the bytes of datagrams that were passed on, from the client and to it.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.bytes
    }
}

impl<H: Hooks> Proxy<H> {
    /// Makes an association for a client. `named` is the address from which the client says that it sends.
    pub(super) fn associate(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        named: Option<Target>,
    ) -> Result<(), ReplyCode> {
        let datagrams = &session.listener().settings.datagrams;
        if !datagrams.associate {
            return Err(ReplyCode::CommandNotSupported);
        }
        let local = conn.local_addr().ok();
        let local = local.and_then(|addr| Some(addr.as_socket_addr()?.ip().to_canonical()));
        let peer = conn.peer_addr().ip().map(|ip| ip.to_canonical());
        let (Some(local), Some(peer)) = (local, peer) else {
            return Err(ReplyCode::Failure);
        };
        if self.associations >= datagrams.max_sessions {
            log::warn!(target: "epicycle::gateway::socks", "{}: there are too many associations", conn.peer_addr());
            return Err(ReplyCode::Failure);
        }
        let port = match named {
            Some(Target {
                host: Host::Ip(ip),
                port,
            }) if ip == peer || ip.is_unspecified() => port,
            // The client is behind a NAT, or does not know.
            _ => 0,
        };
        let endpoint = Endpoint::Udp {
            host: peer.to_string(),
            port,
            family: Family::Any,
        };
        let connect = Connect::to(endpoint)
            .any_port(true)
            .local_addr(SocketAddr::new(local, 0))
            .limits(session_limits(datagrams.idle));
        let client = conn.id();
        let dial = DatagramDial::Relay { client };
        let asked = self.dial_datagrams(&mut conn.reactor(), connect, dial);
        session.begin_association(asked.map_err(|_| ReplyCode::Failure)?);
        self.associations += 1;
        self.meters.all.associations.add(1);
        Ok(())
    }

    /// Tells a client where to send its datagrams.
    pub(super) fn on_relay_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: ConnId,
    ) -> Option<Session<H>> {
        let bound = conn.local_addr().ok();
        let bound = bound.and_then(|addr| addr.as_socket_addr())?;
        let (id, now) = (conn.id(), conn.now());
        let listener = conn.with(client, |client, session| {
            let Session::Socks(session) = session else {
                return None;
            };
            let listener = session.listener().clone();
            let advertised = listener.settings.datagrams.advertise;
            let told = SocketAddr::new(advertised.unwrap_or(bound.ip()), bound.port());
            let code = ReplyCode::Succeeded;
            client.send(SocksAnswer::Reply(code, told)).ok()?;
            session.note_association(id, now);
            // The connection has no time of its own. Any byte ends it.
            let limits = ConnLimits::new()
                .idle_timeout(Duration::MAX)
                .read_timeout(Duration::MAX);
            client.set_limits(&limits).ok()?;
            client.switch(Packet);
            client.resume_reads();
            Some(listener)
        });
        // A client that has left in the meantime needs none.
        let listener = listener.flatten()?;
        self.meters.all.socks[ReplyCode::Succeeded].add(1);
        Some(Session::Relay(Box::new(Relay {
            client,
            listener,
            targets: HashMap::new(),
            look_ups: 0,
            bytes: (0, 0),
        })))
    }

    /// Passes on a datagram of a client.
    pub(super) fn on_relayed_datagram(
        &mut self,
        conn: &mut Conn<'_, Self>,
        relay: &mut Relay,
        datagram: &[u8],
    ) -> Action {
        let SocksDatagram { target, data, .. } = match SocksDatagram::parse(datagram) {
            Ok(datagram) => datagram,
            Err(error) => {
                log::debug!(target: "epicycle::gateway::socks", "{}: a datagram is dropped: {error}", conn.peer_addr());
                let reason = match error {
                    DatagramError::Fragment => DropReason::Fragment,
                    _ => DropReason::Malformed,
                };
                self.drop_datagrams(reason, 1);
                return Action::Continue;
            }
        };
        if !relay.targets.contains_key(&target)
            && let Err(reason) = self.begin_target(conn, relay, &target)
        {
            self.drop_datagrams(reason, 1);
            return Action::Continue;
        }
        let Some(to) = relay.targets.get_mut(&target) else {
            return Action::Continue;
        };
        to.used = conn.now();
        match &mut to.way {
            DatagramWay::Open(id) => match conn.with(*id, |target, _| target.write(data)) {
                Some(Ok(())) => relay.bytes.0 += data.len() as u64,
                Some(Err(error)) => self.note_unwritten(&error),
                // Its end is told in a moment.
                None => self.drop_datagrams(DropReason::Unreachable, 1),
            },
            DatagramWay::Opening(held) => match held.add(data) {
                true => relay.bytes.0 += data.len() as u64,
                false => self.drop_datagrams(DropReason::Full, 1),
            },
            DatagramWay::None => {}
        }
        Action::Continue
    }

    /// Begins to make a session with a target, if the policy allows it.
    fn begin_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        relay: &mut Relay,
        target: &Target,
    ) -> Result<(), DropReason> {
        let is_name = is_name(target);
        if is_name && relay.look_ups >= MAX_LOOK_UPS {
            return Err(DropReason::Full);
        }
        let guard = relay.listener.guard.clone();
        if let Err(refusal) = guard.check(target, Way::Socks) {
            log::debug!(target: "epicycle::gateway::socks", "{}: {target} is refused: {refusal}", conn.peer_addr());
            self.meters.all.egress_refusals.add(1);
            return Err(DropReason::Denied);
        }
        let idle = relay.listener.settings.datagrams.idle;
        let dialled = target.clone();
        let connect = Connect::to(format!("udp://{target}"))
            .timeout(relay.listener.settings.tunnels.connect)
            .limits(session_limits(idle))
            .allow(move |ip| guard.check_addr(&dialled, ip, Way::Socks).is_ok());
        let dial = DatagramDial::Target {
            relay: conn.id(),
            target: target.clone(),
        };
        let asked = self.dial_datagrams(&mut conn.reactor(), connect, dial);
        asked.map_err(|_| DropReason::Unreachable)?;
        relay.look_ups += usize::from(is_name);
        if relay.targets.len() >= MAX_TARGETS {
            let targets = relay.targets.iter();
            let oldest = targets.min_by_key(|(_, to)| to.used);
            if let Some(oldest) = oldest.map(|(target, _)| target.clone())
                && let Some(to) = relay.targets.remove(&oldest)
            {
                self.end_target(to, |id| {
                    conn.with(id, |conn, _| conn.close());
                });
            }
        }
        let to = ToTarget {
            way: DatagramWay::Opening(Held::default()),
            used: conn.now(),
        };
        relay.targets.insert(target.clone(), to);
        Ok(())
    }

    fn end_target(&self, to: ToTarget, close: impl FnOnce(ConnId)) {
        match to.way {
            DatagramWay::Open(id) => close(id),
            DatagramWay::Opening(held) => self.drop_datagrams(DropReason::Unreachable, held.len()),
            DatagramWay::None => {}
        }
    }

    pub(super) fn on_udp_target_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        relay: ConnId,
        target: Target,
    ) -> Option<Session<H>> {
        let id = conn.id();
        let held = conn.with(relay, |_, session| {
            let Session::Relay(relay) = session else {
                return None;
            };
            relay.look_ups -= usize::from(is_name(&target));
            let to = relay.targets.get_mut(&target)?;
            match mem::take(&mut to.way) {
                DatagramWay::Opening(held) => {
                    to.way = DatagramWay::Open(id);
                    Some(held)
                }
                other => {
                    to.way = other;
                    None
                }
            }
        });
        // One whose place was needed is no target any more.
        let held = held.flatten()?;
        let from = match conn.peer_addr() {
            Addr::Ip(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()),
            _ => return None,
        };
        self.write_held(conn, held);
        Some(Session::UdpTarget(Box::new(UdpTarget {
            relay,
            target,
            header: datagram_header(from),
        })))
    }

    pub(super) fn on_udp_target_failed(
        &mut self,
        relay: ConnId,
        target: &Target,
        error: &ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        log::debug!(target: "epicycle::gateway::socks", "no datagrams to {target}: {error}");
        let reason = match error.last() {
            ConnectError::Denied { .. } => {
                self.meters.all.egress_refusals.add(1);
                DropReason::Denied
            }
            _ => DropReason::Unreachable,
        };
        let held = reactor.with(relay, |_, session| {
            let Session::Relay(relay) = session else {
                return None;
            };
            relay.look_ups -= usize::from(is_name(target));
            match relay.targets.get(target)?.way {
                DatagramWay::Opening(_) => relay.targets.remove(target),
                _ => None,
            }
        });
        if let Some(DatagramWay::Opening(held)) = held.flatten().map(|to| to.way) {
            self.drop_datagrams(reason, held.len());
        }
    }

    /// Passes on a datagram of a target.
    pub(super) fn on_target_datagram(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &UdpTarget,
        datagram: &[u8],
    ) -> Action {
        let now = conn.now();
        let written = conn.with(session.relay, |client, relay| {
            let slices = [session.header.as_slice(), datagram].map(std::io::IoSlice::new);
            let written = client.write_vectored(&slices);
            if let Session::Relay(relay) = relay {
                if written.is_ok() {
                    relay.bytes.1 += datagram.len() as u64;
                }
                if let Some(to) = relay.targets.get_mut(&session.target) {
                    to.used = now;
                }
            }
            written
        });
        self.after_answer(written)
    }

    pub(super) fn on_udp_target_closed(
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: &UdpTarget,
    ) {
        reactor.with(session.relay, |_, relay| {
            if let Session::Relay(relay) = relay
                && let Some(to) = relay.targets.get(&session.target)
                && matches!(to.way, DatagramWay::Open(id) if id == info.id)
            {
                relay.targets.remove(&session.target);
            }
        });
    }

    /// Ends an association whose session with the client has ended.
    pub(super) fn on_relay_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        relay: Relay,
        reason: &CloseReason,
    ) {
        reactor.with(relay.client, |client, session| {
            if let Session::Socks(session) = session {
                session.note_end_of_association(relay.bytes, reason);
            }
            client.close();
        });
        for to in relay.targets.into_values() {
            self.end_target(to, |id| {
                reactor.with(id, |conn, _| conn.close());
            });
        }
    }
}

fn is_name(target: &Target) -> bool {
    matches!(target.host, Host::Name(_))
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("client", &self.client)
            .field("targets", &self.targets.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UdpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpTarget")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
