//! The clients of SOCKS listeners: the handshake, the connection to the target, and the tunnel between both.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::answering::tell;
use super::{Proxy, Session};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::limits::ConnLimits;
use crate::engine::connect::{Connect, ConnectError};
use crate::engine::handler::{Action, Conn, Connecting, Reactor};
use crate::engine::slots::ConnId;
use crate::gateway::dial::{self, Refused};
use crate::gateway::egress::{Host, Target, Way};
use crate::gateway::error::by_way_of;
use crate::gateway::hooks::Hooks;
use crate::gateway::record::{EndedBy, Record, Times};
use crate::gateway::rules::Listener;
use crate::gateway::socks::{Asked, Command, ReplyCode, SocksAnswer, SocksFrame};

/// The state of a connection of a SOCKS client.
pub struct SocksSession<H: Hooks> {
    listener: Rc<Listener>,
    began: Instant,
    unix_time: u64,
    /// The name that the client has proved. Empty if none was asked for.
    user: Box<str>,
    target: Option<Target>,
    reply: Option<ReplyCode>,
    connected: Option<Instant>,
    /// True if it awaits a connection of its target, or has one.
    is_bind: bool,
    /// True if the password of the client was wrong. It may have to wait for the answer.
    has_wrong_password: bool,
    /// The dial to its target, or to itself for an association.
    dial: Option<Connecting<Proxy<H>>>,
    association: Option<Box<Association>>,
}

/// The association of a client.
#[derive(Debug, Default)]
struct Association {
    /// The session with the client, once it is there.
    relay: Option<ConnId>,
    /// The bytes of datagrams, from the client and to it, once it has ended.
    bytes: (u64, u64),
    is_idle: bool,
}

/// The address in replies that have none to tell.
const NO_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl<H: Hooks> SocksSession<H> {
    /// Begins with a client, whose handshake must end in time.
    pub(super) fn new(conn: &mut Conn<'_, Proxy<H>>, listener: Rc<Listener>) -> Self {
        conn.set_deadline(Some(listener.settings.tunnels.handshake));
        Self {
            listener,
            began: conn.now(),
            unix_time: conn.unix_time(),
            user: Box::default(),
            target: None,
            reply: None,
            connected: None,
            is_bind: false,
            has_wrong_password: false,
            dial: None,
            association: None,
        }
    }

    pub(super) fn listener(&self) -> &Rc<Listener> {
        &self.listener
    }

    pub(super) fn begin_association(&mut self, dial: Connecting<Proxy<H>>) {
        self.dial = Some(dial);
        self.association = Some(Box::default());
    }

    /// Notes the session with the client.
    pub(super) fn note_association(&mut self, relay: ConnId, now: Instant) {
        self.dial = None;
        self.reply = Some(ReplyCode::Succeeded);
        self.connected = Some(now);
        if let Some(association) = &mut self.association {
            association.relay = Some(relay);
        }
    }

    /// Notes that the session with the client has ended, and what it has carried.
    pub(super) fn note_end_of_association(&mut self, bytes: (u64, u64), reason: &CloseReason) {
        if let Some(association) = &mut self.association {
            association.relay = None;
            association.bytes = bytes;
            association.is_idle = matches!(reason, CloseReason::Timeout(_));
        }
    }

    /// Returns true if it awaits a connection of its target.
    pub(super) fn awaits_peer(&self) -> bool {
        self.is_bind && self.reply.is_none()
    }

    pub(super) fn has_wrong_password(&self) -> bool {
        self.has_wrong_password
    }

    /// Returns the moment at which the client came.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Returns true if it is joined with its target.
    pub(super) fn is_tunnel(&self) -> bool {
        self.reply == Some(ReplyCode::Succeeded)
    }

    /// Returns the target, if the client has told it.
    pub(super) fn target_text(&self) -> String {
        let target = self.target.as_ref();
        target.map(ToString::to_string).unwrap_or_default()
    }

    /// Returns the status of HTTP that tells the same as the reply, for records.
    fn status(&self) -> u16 {
        match self.reply {
            Some(ReplyCode::Succeeded) => 200,
            Some(ReplyCode::NotAllowed) => 403,
            Some(ReplyCode::CommandNotSupported | ReplyCode::AddressNotSupported) => 501,
            Some(ReplyCode::Expired) => 504,
            Some(_) => 502,
            None if self.has_wrong_password => 407,
            // It left, or sent no request.
            None => 400,
        }
    }
}

impl<H: Hooks> Proxy<H> {
    pub(super) fn on_socks_frame(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        frame: SocksFrame<'_>,
    ) -> Action {
        match frame {
            SocksFrame::Greeting(choice) => {
                if conn.send(SocksAnswer::Method(choice)).is_err() || !choice.is_acceptable() {
                    return Action::Close;
                }
            }
            SocksFrame::Credentials { user, password } => {
                self.check_password(conn, session, user, password);
            }
            SocksFrame::Request(asked) => {
                conn.set_deadline(None);
                // The payload waits until there is a tunnel.
                conn.pause_reads();
                if let Err(code) = self.carry_out(conn, session, asked) {
                    self.refuse_socks(conn, session, code);
                }
            }
        }
        Action::Continue
    }

    /// Checks the password of a client, which waits meanwhile.
    fn check_password(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        user: &[u8],
        password: &[u8],
    ) {
        let user = String::from_utf8_lossy(user).into_owned();
        let Some(users) = session.listener.settings.users.clone() else {
            return conn.close();
        };
        if users.remembers(&user, password, conn.now()) {
            session.user = user.into();
            return Self::accept_password(conn);
        }
        conn.pause_reads();
        let (client, password) = (conn.handle(), password.to_vec());
        let is_queued = self.shared.check_password(move || {
            let is_right = users.verify(&user, &password);
            // A client that has left needs no answer.
            let _ = client.run(move |_, conn, session| {
                let Session::Socks(session) = session else {
                    return;
                };
                if is_right {
                    users.remember(&user, &password, conn.now());
                    session.user = user.into();
                    conn.resume_reads();
                    return Self::accept_password(conn);
                }
                log::info!(target: "epicycle::gateway::socks", "{}: a wrong password for {user:?}", conn.peer_addr());
                session.has_wrong_password = true;
                let ip = conn.peer_addr().ip();
                let delay = ip.map(|ip| users.note_failure(ip, conn.now()));
                match delay.unwrap_or_default() {
                    Duration::ZERO => Self::refuse_socks_password(conn),
                    delay => conn.set_deadline(Some(delay)),
                }
            });
        });
        if !is_queued {
            log::warn!(target: "epicycle::gateway::socks", "{}: too many passwords wait to be checked", conn.peer_addr());
            Self::refuse_socks_password(conn);
        }
    }

    fn accept_password(conn: &mut Conn<'_, Self>) {
        // A client that is gone needs no answer.
        let _ = conn.send(SocksAnswer::Credentials(true));
    }

    pub(super) fn refuse_socks_password(conn: &mut Conn<'_, Self>) {
        let _ = conn.send(SocksAnswer::Credentials(false));
        conn.close();
    }

    /// Begins with the request of a client, or returns the reply to it.
    fn carry_out(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        asked: Asked,
    ) -> Result<(), ReplyCode> {
        match asked {
            Asked::Command(Command::Connect, target) => {
                session.target = Some(target.clone());
                self.dial_target(conn, session, target)
            }
            Asked::Command(Command::UdpAssociate, named) => {
                self.associate(conn, session, Some(named))
            }
            Asked::Bind(host, port) => self.await_target(conn, session, &host, port),
            Asked::Portless(Command::UdpAssociate) => self.associate(conn, session, None),
            Asked::Command(..) | Asked::Portless(_) | Asked::UnknownCommand => {
                Err(ReplyCode::CommandNotSupported)
            }
            Asked::UnknownAddress => Err(ReplyCode::AddressNotSupported),
            Asked::BadHost(error) => {
                log::debug!(target: "epicycle::gateway::socks", "{}: {error}", conn.peer_addr());
                Err(ReplyCode::HostUnreachable)
            }
        }
    }

    /// Dials the target of a client, if the policy allows it.
    fn dial_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        target: Target,
    ) -> Result<(), ReplyCode> {
        let listener = &session.listener;
        if let Err(refusal) = listener.guard.check(&target, Way::Socks) {
            log::info!(target: "epicycle::gateway::socks", "{}: {target} is refused: {refusal}", conn.peer_addr());
            return Err(ReplyCode::NotAllowed);
        }
        self.last_dial += 1;
        let token = self.last_dial;
        let via = listener.settings.via.as_ref();
        let connect = dial::connect(&listener.guard, &target, Way::Socks, via)
            .timeout(listener.settings.tunnels.connect)
            .token(token);
        let dial = conn
            .reactor()
            .connect(connect)
            .map_err(|error| reply_code(&error))?;
        session.dial = Some(dial);
        self.target_dials.insert(token, conn.id());
        Ok(())
    }

    /// Awaits a connection of the target of a client, at the address that the client has connected to.
    fn await_target(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        host: &Host,
        port: u16,
    ) -> Result<(), ReplyCode> {
        let listener = session.listener.clone();
        if !listener.settings.bind {
            return Err(ReplyCode::CommandNotSupported);
        }
        let &Host::Ip(ip) = host else {
            return Err(ReplyCode::AddressNotSupported);
        };
        let target = Target::from(SocketAddr::new(ip, port));
        session.target = Some(target.clone());
        let named = Some(ip).filter(|ip| !ip.is_unspecified());
        // Without an address or a port, the policy has to see who comes.
        if named.is_some()
            && port != 0
            && let Err(refusal) = listener.guard.check(&target, Way::Socks)
        {
            log::info!(target: "epicycle::gateway::socks", "{}: {target} is refused: {refusal}", conn.peer_addr());
            return Err(ReplyCode::NotAllowed);
        }
        let guard = listener.guard.clone();
        let admits = move |peer: SocketAddr| {
            let ip = peer.ip().to_canonical();
            named.is_none_or(|named| named == ip)
                && (port == 0 || port == peer.port())
                && guard.check(&Target::from(peer), Way::Socks).is_ok()
        };
        let local = conn
            .local_addr()
            .ok()
            .and_then(|addr| addr.as_socket_addr());
        let local = local.ok_or(ReplyCode::Failure)?.ip().to_canonical();
        let awaited = Connect::await_peer(SocketAddr::new(local, 0), admits);
        let (connect, bound) = awaited.map_err(|error| {
            log::warn!(target: "epicycle::gateway::socks", "{}: no connection can be awaited: {error}", conn.peer_addr());
            ReplyCode::Failure
        })?;
        self.last_dial += 1;
        let token = self.last_dial;
        let dial = conn
            .reactor()
            .connect(connect.timeout(listener.settings.tunnels.bind).token(token))
            .map_err(|error| reply_code(&error))?;
        session.dial = Some(dial);
        session.is_bind = true;
        self.target_dials.insert(token, conn.id());
        // The time is that of the wait alone.
        let limits = ConnLimits::new()
            .idle_timeout(Duration::MAX)
            .read_timeout(Duration::MAX);
        let told = SocksAnswer::Reply(ReplyCode::Succeeded, bound);
        if conn.set_limits(&limits).is_err() || conn.send(told).is_err() {
            return Err(ReplyCode::Failure);
        }
        Ok(())
    }

    /// Tells a client that its request has failed, and closes.
    fn refuse_socks(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut SocksSession<H>,
        code: ReplyCode,
    ) {
        let all = &self.meters.all;
        all.socks[code].add(1);
        if code == ReplyCode::NotAllowed {
            all.egress_refusals.add(1);
        }
        session.reply = Some(code);
        // A client that is gone needs no answer.
        let _ = conn.send(SocksAnswer::Reply(code, NO_ADDR));
        conn.close();
    }

    /// Joins the connection to a target with that of its client.
    pub(super) fn on_target_open(
        &mut self,
        conn: &mut Conn<'_, Self>,
        client: ConnId,
    ) -> Option<Session<H>> {
        let bound = conn
            .local_addr()
            .ok()
            .and_then(|addr| addr.as_socket_addr());
        let peer = conn.peer_addr().as_socket_addr();
        let now = conn.now();
        let idle = conn.with(client, |client, session| {
            let Session::Socks(session) = session else {
                return None;
            };
            session.dial = None;
            let code = ReplyCode::Succeeded;
            let told = match session.is_bind {
                true => {
                    session.target = peer.map(Target::from);
                    peer
                }
                false => bound,
            };
            client
                .send(SocksAnswer::Reply(code, told.unwrap_or(NO_ADDR)))
                .ok()?;
            session.reply = Some(code);
            session.connected = Some(now);
            Some(session.listener.settings.tunnels.idle)
        });
        let Some(idle) = idle.flatten() else {
            Self::forsake(conn);
            return None;
        };
        let all = &self.meters.all;
        all.socks[ReplyCode::Succeeded].add(1);
        all.tunnels.add(1);
        Self::join(conn, client, idle);
        Some(Session::Target)
    }

    /// Tells a client that its target cannot be reached.
    pub(super) fn on_target_failed(
        &mut self,
        client: ConnId,
        error: &ConnectError,
        reactor: &mut Reactor<'_, Self>,
    ) {
        reactor.with(client, |conn, session| {
            if let Session::Socks(session) = session {
                let (client, via) = (conn.peer_addr(), session.listener.settings.via.as_ref());
                let (to, by) = (session.target_text(), by_way_of(via));
                log::debug!(target: "epicycle::gateway::socks", "{client}: {to}{by}: {error}");
                session.dial = None;
                self.refuse_socks(conn, session, reply_code(error));
            }
        });
    }

    pub(super) fn on_socks_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        mut session: SocksSession<H>,
        reason: &CloseReason,
    ) {
        if let Some(dial) = &session.dial {
            // An engine that shuts down cancels it by itself.
            let _ = dial.cancel();
        }
        if let Some(association) = &mut session.association {
            self.associations -= 1;
            self.meters.all.associations.subtract(1);
            if let Some(relay) = association.relay {
                let bytes = reactor.with(relay, |conn, session| {
                    conn.close();
                    match session {
                        Session::Relay(relay) => relay.bytes(),
                        _ => (0, 0),
                    }
                });
                association.bytes = bytes.unwrap_or_default();
            }
        } else if session.connected.is_some() {
            self.meters.all.tunnels.subtract(1);
        }
        let is_idle = session.association.as_ref().is_some_and(|one| one.is_idle);
        let ended_by = match (session.reply, reason) {
            (Some(ReplyCode::Succeeded), CloseReason::Peer | CloseReason::Pipe) => EndedBy::Nobody,
            (_, CloseReason::Timeout(_)) => EndedBy::Timeout,
            _ if is_idle => EndedBy::Timeout,
            (_, CloseReason::Shutdown | CloseReason::Panic) => EndedBy::Gateway,
            (Some(ReplyCode::Succeeded) | None, _) => EndedBy::Client,
            (
                Some(
                    ReplyCode::NotAllowed
                    | ReplyCode::CommandNotSupported
                    | ReplyCode::AddressNotSupported,
                ),
                _,
            ) => EndedBy::Gateway,
            (Some(_), _) => EndedBy::Node,
        };
        self.record_tunnel(info, &session, ended_by);
    }

    /// Makes the record of a client of a tunnel.
    fn record_tunnel(&mut self, info: &Closed, session: &SocksSession<H>, ended_by: EndedBy) {
        let since = |time: Instant| time.saturating_duration_since(session.began);
        let association = session.association.as_ref();
        let target = match (&session.target, association) {
            (Some(target), _) => target.to_string(),
            (None, Some(_)) => "udp".to_owned(),
            (None, None) => String::new(),
        };
        let carried = association.map_or((info.bytes_in, info.bytes_out), |one| one.bytes);
        let record = Record {
            user: &session.user,
            status: session.status(),
            request_bytes: carried.0,
            response_bytes: carried.1,
            unix_time: session.unix_time,
            times: Times {
                connected: session.connected.map(since),
                total: since(info.closed_at),
                ..Times::default()
            },
            tries: u32::from(session.connected.is_some()),
            ended_by,
            timeout: match ended_by {
                EndedBy::Timeout if association.is_some() => "udp_idle",
                EndedBy::Timeout if session.connected.is_some() => "tunnel.idle",
                EndedBy::Timeout => "tunnel.handshake",
                _ => "",
            },
            ..Record::of(info, "SOCKS5", &target)
        };
        tell(&mut self.sink, &mut self.hooks, &record);
    }
}

/// Returns the reply for a target that cannot be reached.
fn reply_code(error: &ConnectError) -> ReplyCode {
    match error {
        ConnectError::Denied { .. } => ReplyCode::NotAllowed,
        ConnectError::Timeout => ReplyCode::Expired,
        ConnectError::Address(_) => ReplyCode::HostUnreachable,
        ConnectError::Negotiation(error) => match dial::refusal(&**error) {
            Some(Refused::Reply(code)) => ReplyCode::of(code),
            Some(Refused::Status(403)) => ReplyCode::NotAllowed,
            Some(Refused::Status(504)) => ReplyCode::Expired,
            Some(Refused::Status(_)) => ReplyCode::HostUnreachable,
            _ => ReplyCode::Failure,
        },
        ConnectError::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => ReplyCode::Refused,
            io::ErrorKind::NetworkUnreachable => ReplyCode::NetworkUnreachable,
            io::ErrorKind::HostUnreachable => ReplyCode::HostUnreachable,
            io::ErrorKind::TimedOut => ReplyCode::Expired,
            _ => ReplyCode::Failure,
        },
        // The last one that was dialled tells more than one that was not.
        ConnectError::Host(failed) => {
            let mut codes = failed.iter().rev().map(|failed| reply_code(&failed.error));
            let last = codes.next().unwrap_or(ReplyCode::Failure);
            match last {
                ReplyCode::NotAllowed => codes.find(|code| *code != last).unwrap_or(last),
                _ => last,
            }
        }
        _ => ReplyCode::Failure,
    }
}

impl<H: Hooks> fmt::Debug for SocksSession<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocksSession")
            .field("target", &self.target)
            .field("reply", &self.reply)
            .finish_non_exhaustive()
    }
}
