//! The handler: it reacts to the connections of clients and of nodes.

mod admitting;
mod answering;
mod asking;
mod checking;
mod compressing;
mod datagrams;
mod dialing;
mod forward;
mod gathering;
mod mirroring;
mod observing;
mod own;
mod placing;
mod relay;
mod relaying;
mod reloading;
mod socks;
mod tcp;
mod tunneling;
mod udp;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::RandomState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::checking::CheckSession;
use self::datagrams::DatagramDial;
use self::mirroring::{Copy, MirrorSession};
pub(super) use self::observing::MAX_LONGEST;
use self::relay::{Relay, UdpTarget};
use self::socks::SocksSession;
use self::tcp::TcpSession;
use self::tunneling::{end_frames, other_side};
use self::udp::{UdpNode, UdpSession};
use super::access_log::Sink;
use super::compress::Bodies;
use super::destination::Destination;
use super::egress::Target;
use super::error::{Cause, Phase, ProxyError};
use super::exchange::{Exchange, Expectation, Place, Spare};
use super::forwarding::Peer;
use super::frames::{RelayCodec, Relayed};
use super::hooks::Hooks;
use super::joined::Joined;
use super::metrics::{Meters, RouteCounters};
use super::packet::Packet;
use super::places::TakenPlace;
use super::pool::{Pool, SharedPool};
use super::record::EndedBy;
use super::rules::{Listener, Rules};
use super::settings::{ListenerKind, OnFin, Settings};
use super::shared::Shared;
use super::socks::{SocksAnswer, SocksServer};
use crate::balance::NodeId;
use crate::codec::one_of;
use crate::engine::conn::close::{CloseReason, Closed, TimeoutKind};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{Action, Conn, Connecting, EventHandler, Reactor};
use crate::engine::slots::ConnId;
use crate::http::client::{ClientRequest, StreamCodec};
use crate::http::{
    Chunk, Continue, End, HeaderBlock, HttpStreamCodec, ServerResponse, StatusCode, Trailers,
};
use crate::panic;

one_of! {
    /// The codec of a connection: that of a client or of a node.
    #[derive(Debug)]
    pub enum Side {
        Client(HttpStreamCodec),
        Upstream(StreamCodec),
        Frames(RelayCodec),
        Socks(SocksServer),
        Joined(Joined),
        Packet(Packet),
    }
    /// A part of a request or of a response.
    #[derive(Debug)]
    pub enum Part;
    impl Encode<ServerResponse<'_>> for Client;
    impl Encode<Continue> for Client;
    impl Encode<ClientRequest<'_>> for Upstream;
    impl Encode<Chunk<'_>> for Client | Upstream;
    impl Encode<End> for Client | Upstream;
    impl Encode<Trailers<'_>> for Client | Upstream;
    impl Encode<Relayed<'_>> for Frames;
    impl Encode<SocksAnswer> for Socks;
}

/// The handler of a gateway's engine: one value for each reactor.
pub struct Proxy<H: Hooks> {
    hooks: H,
    rules: Rc<Rules>,
    pools: Vec<Pool>,
    /// The dials to nodes under way, by token.
    dials: HashMap<u64, Dial>,
    /// The dials among them to what clients have named, and to nodes for one client, by pool and destination, with their tokens.
    dials_of_clients: HashMap<(usize, Destination), Vec<TokenAndDial<H>>>,
    /// The clients for whose targets dials are under way, by token.
    target_dials: HashMap<u64, ConnId>,
    /// Those of them that are for a `CONNECT`.
    connects: HashMap<u64, Connecting<Self>>,
    /// Hashes the targets that clients name.
    target_hasher: RandomState,
    /// The sessions for datagrams that are being made, by token.
    datagram_dials: HashMap<u64, DatagramDial>,
    /// The number of associations of SOCKS clients.
    associations: usize,
    last_dial: u64,
    /// The numbers of the listeners whose clients take no further request.
    left: HashSet<usize>,
    /// The copies of requests that wait for a connection.
    copies: HashMap<u64, Copy>,
    last_copy: u64,
    /// The bodies of responses that are being compressed.
    compressing: Bodies,
    /// The fields of the head in hand.
    block: HeaderBlock,
    spare: Spare<H::Exchange>,
    sink: Option<Sink>,
    meters: Arc<Meters>,
    /// The counters of requests for which there is no route.
    unrouted: Arc<RouteCounters>,
    pub(super) shared: Arc<Shared>,
}

/// A dial that can be cancelled.
type TokenAndDial<H> = (u64, Connecting<Proxy<H>>);

/// A dial to a node under way.
struct Dial {
    pool: usize,
    /// The pool's, when it began.
    generation: u32,
    began: Instant,
    purpose: Purpose,
    /// True if nobody waits for it any more, and it was cancelled.
    is_withdrawn: bool,
}

/// The purpose of a connection to a node.
enum Purpose {
    /// It serves exchanges. It has a place at its node, unless the node is in the list no more.
    Serve(Destination, Option<TakenPlace>),
    /// It checks the node.
    Check(NodeId),
    /// It carries copies of requests.
    Mirror(NodeId),
}

/// The state of a connection.
pub enum Session<H: Hooks> {
    /// A connection of a client.
    Client(ClientSession<H>),
    /// A connection to a node.
    Upstream(Box<UpstreamSession>),
    /// A connection that checks a node.
    Check(Box<CheckSession>),
    /// A connection that carries copies of requests.
    Mirror(Box<MirrorSession>),
    /// A connection of a SOCKS client.
    Socks(Box<SocksSession<H>>),
    /// A connection to the target of a tunnel.
    Target,
    /// A connection of a client of a TCP listener.
    Tcp(Box<TcpSession>),
    /// A session of a UDP listener's client.
    Udp(Box<UdpSession>),
    /// A session with the node of a UDP listener's client.
    UdpNode(Box<UdpNode>),
    /// A session with a SOCKS client that sends datagrams.
    Relay(Box<Relay>),
    /// A session with a target of a SOCKS client.
    UdpTarget(Box<UdpTarget>),
}

/// The state of a client's connection.
pub struct ClientSession<H: Hooks> {
    listener: Rc<Listener>,
    requests: u32,
    /// The port that the client has connected to, once it is known. It is 0 for a Unix socket.
    port: Option<u16>,
    /// The time after which the connection takes no further request. Few listeners have such a limit, so it has little room.
    retires: Option<Box<Instant>>,
    exchange: Option<Box<Exchange<H::Exchange>>>,
}

impl<H: Hooks> ClientSession<H> {
    /// Returns true if the connection takes no further request from this time on.
    fn retires_by(&self, now: Instant) -> bool {
        self.retires.as_ref().is_some_and(|at| now >= **at)
    }

    /// Returns the port that the client has connected to. The kernel is asked once.
    fn port(&mut self, conn: &Conn<'_, Proxy<H>>) -> Option<u16> {
        let port = *self.port.get_or_insert_with(|| {
            let local = conn.local_addr().ok();
            let local = local.and_then(|addr| addr.as_socket_addr());
            local.map_or(0, |addr| addr.port())
        });
        (port > 0).then_some(port)
    }
}

/// The state of a connection to a node.
pub struct UpstreamSession {
    pool: usize,
    node: NodeId,
    /// The pool's, when it was made.
    generation: u32,
    /// The client whose exchange it serves.
    client: Option<ConnId>,
    /// The bytes of a response that nobody wants which may still be read, so that the connection can be used again.
    unwanted: Option<usize>,
    requests: u32,
    /// The target, if the client of a forward listener has named it.
    target: Option<Rc<Target>>,
    /// True if a request has proved who sends it for the whole connection.
    is_private: bool,
    /// Its place at the node.
    place: Option<TakenPlace>,
    dialed: Instant,
    opened: Instant,
}

/// The next step of a connection to a node, after a part of a response.
enum Next {
    Continue,
    /// The client takes no more for now.
    Pause,
    /// The client does not want the rest.
    Drop,
    /// It cannot be used any more.
    Abort,
    /// It is joined with the client's.
    Pipe(ConnId),
    /// The same, and their frames are seen.
    Frames(ConnId),
}

/// The token of the timer after which the gateway itself says `100 Continue`.
const SAY_CONTINUE: u64 = 1;

/// The token of the timer after which the gathered parts of a response are sent.
const FLUSH: u64 = 2;

/// The token of the timer after which a wrong password is refused.
const REFUSE: u64 = 3;

impl<H: Hooks> Proxy<H> {
    pub(super) fn new(
        hooks: H,
        settings: &Settings,
        pools: &[Arc<SharedPool>],
        reactors: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let high_water = high_water(settings);
        let meters = shared.registry.reactor();
        let pool = |pool: &Arc<SharedPool>| Pool::new(pool.clone(), reactors, high_water, &meters);
        Self {
            hooks,
            rules: Rc::new(Rules::new(settings, pools, &meters, &shared.kept)),
            pools: pools.iter().map(pool).collect(),
            sink: shared.sink(),
            unrouted: meters.route("none"),
            meters,
            shared,
            dials: HashMap::new(),
            dials_of_clients: HashMap::new(),
            target_dials: HashMap::new(),
            connects: HashMap::new(),
            target_hasher: RandomState::new(),
            datagram_dials: HashMap::new(),
            associations: 0,
            last_dial: 0,
            left: HashSet::new(),
            copies: HashMap::new(),
            last_copy: 0,
            compressing: Bodies::default(),
            block: HeaderBlock::new(),
            spare: Spare::default(),
        }
    }

    /// Returns the weights of nodes that failures have lowered, or may have, by pool.
    pub(super) fn weights(&self) -> Vec<(String, NodeId, u32)> {
        let pools = self.pools.iter();
        let weights = pools.flat_map(|pool| {
            pool.nodes.iter().filter_map(|node| {
                let weight = pool.effective_weight(node.id())?;
                Some((pool.shared.name.to_string(), node.id(), weight))
            })
        });
        weights.collect()
    }

    /// Returns the hooks.
    pub fn hooks(&mut self) -> &mut H {
        &mut self.hooks
    }

    /// Returns the number of open connections to nodes, with the idle ones.
    pub fn upstream_connections(&self) -> usize {
        self.pools
            .iter()
            .map(|pool| pool.connections.connections())
            .sum()
    }

    /// Returns the number of idle connections to nodes.
    pub fn idle_connections(&self) -> usize {
        self.pools.iter().map(|pool| pool.connections.idle()).sum()
    }

    /// Returns the number of requests that the nodes have in hand, as all reactors count them together.
    pub fn in_flight(&self) -> u64 {
        let nodes = self.pools.iter().flat_map(|pool| pool.nodes.iter());
        nodes.map(|node| u64::from(node.in_flight())).sum()
    }

    /// Returns the number of connections to the nodes, with those that are being made, as all reactors count them together.
    pub fn node_connections(&self) -> usize {
        let places = self
            .pools
            .iter()
            .flat_map(|pool| pool.shared.places.values());
        places.map(|places| places.taken()).sum()
    }

    /// Returns the number of nodes of all pools that take requests.
    pub fn nodes_up(&self) -> usize {
        let nodes = self.pools.iter().flat_map(|pool| pool.nodes.iter());
        nodes.filter(|node| node.is_up()).count()
    }

    /// Returns the number of dials to nodes, and to targets of requests, that are under way.
    pub fn dials(&self) -> usize {
        self.dials.len()
    }

    /// Returns the number of targets of tunnels that are being dialled.
    pub fn target_dials(&self) -> usize {
        self.target_dials.len()
    }

    /// Returns the number of requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.pools
            .iter()
            .map(|pool| pool.connections.waiting())
            .sum()
    }
}

/// Returns the peer of a client's connection.
fn peer<H: Hooks>(conn: &Conn<'_, Proxy<H>>) -> Peer {
    let addr = conn.peer_addr();
    Peer {
        ip: addr.ip(),
        is_hidden: conn.via() == Some(addr),
    }
}

/// Shortens a time by up to a tenth, at random.
fn jittered(time: Duration) -> Duration {
    match time {
        Duration::MAX => time,
        time => time.mul_f64(1.0 - fastrand::f64() / 10.0),
    }
}

/// Returns the most bytes of a request that wait for a node.
fn high_water(settings: &Settings) -> usize {
    let listeners = settings.listeners.iter();
    let each = listeners.map(|listener| listener.limits.high_water);
    each.max().unwrap_or(256 << 10)
}

/// Calls a hook. A panic is caught and logged.
fn guarded<R>(hook: impl FnOnce() -> R) -> Result<R, ProxyError> {
    catch_unwind(AssertUnwindSafe(hook)).map_err(|payload| {
        panic::report("epicycle::gateway::http", "a hook", payload);
        ProxyError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Phase::Request,
            Cause::Panic,
        )
    })
}

impl<H: Hooks> EventHandler for Proxy<H> {
    type Codec = Side;
    type Session = Session<H>;
    const HANDLES_FIN: bool = true;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Side {
        match info.origin() {
            Origin::Connected { token } if self.target_dials.contains_key(&token) => Joined.into(),
            Origin::Connected { token } if self.datagram_dials.contains_key(&token) => {
                Packet.into()
            }
            Origin::Connected { token } => {
                let dial = self.dials.get(&token);
                match dial.map(|dial| &dial.purpose) {
                    Some(Purpose::Serve(to, _)) if to.is_joined() => return Joined.into(),
                    _ => {}
                }
                let pool = dial.map(|dial| &self.pools[dial.pool]);
                pool.map_or_else(StreamCodec::default, Pool::codec).into()
            }
            _ => match self.rules.listeners.get(info.label()) {
                Some(listener) if listener.settings.kind == ListenerKind::Socks5 => {
                    SocksServer::new(listener.settings.users.is_some()).into()
                }
                Some(listener) if listener.settings.kind == ListenerKind::Tcp => Joined.into(),
                Some(listener) if listener.settings.kind == ListenerKind::Udp => Packet.into(),
                Some(listener) => HttpStreamCodec::new(listener.limits)
                    .manual_continue()
                    .into(),
                None => HttpStreamCodec::default().into(),
            },
        }
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.begin_checks(reactor);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session<H>> {
        let opened = conn.now();
        if let Origin::Connected { token } = conn.origin() {
            if let Some(client) = self.target_dials.remove(&token) {
                return match self.connects.remove(&token) {
                    Some(_) => self.on_tunnel_open(conn, client, token),
                    None => self.on_target_open(conn, client),
                };
            }
            if let Some(dial) = self.datagram_dials.remove(&token) {
                return self.on_datagram_dial(conn, dial);
            }
            if !self.may_keep(conn, token) {
                return None;
            }
            let Dial {
                pool,
                generation,
                began,
                purpose,
                is_withdrawn,
            } = self.dials.remove(&token)?;
            let (to, place) = match purpose {
                Purpose::Serve(to, place) if is_withdrawn => {
                    if to.is_joined() {
                        Self::forsake(conn);
                    }
                    if let Some(place) = place {
                        conn.defer(move |proxy, reactor| {
                            proxy.offer_place(pool, to.node, place, reactor);
                        });
                    }
                    return None;
                }
                Purpose::Serve(to, place) => (to, place),
                Purpose::Mirror(node) => {
                    let session = self.on_mirror_open(conn, pool, node, generation);
                    return Some(Session::Mirror(Box::new(session)));
                }
                Purpose::Check(node) => {
                    let session = self.begin_check(conn, pool, node);
                    return Some(Session::Check(Box::new(session)));
                }
            };
            self.forget_dial_of_clients(pool, &to, token);
            let connections = &mut self.pools[pool].connections;
            connections.opened(&to, conn.id(), opened);
            let is_outdated = !to.is_joined() && generation != self.pools[pool].generation;
            let mut is_needless = false;
            if let Some(client) = to.client {
                // It serves no other client.
                is_needless = conn.with(client.id, |_, _| ()).is_none();
            }
            match to.is_joined() {
                true if is_needless => Self::forsake(conn),
                _ if is_outdated || is_needless => conn.close(),
                _ => {}
            }
            self.pools[pool].counters.opens.add(1);
            conn.defer(move |proxy, reactor| proxy.settle(pool, reactor));
            return Some(Session::Upstream(Box::new(UpstreamSession {
                pool,
                node: to.node,
                generation,
                client: None,
                unwanted: None,
                requests: 0,
                target: to.target.map(|named| named.target),
                is_private: false,
                place,
                dialed: began,
                opened,
            })));
        }
        let listener = self.rules.listeners.get(conn.label())?.clone();
        let kind = listener.settings.kind;
        let is_http = !matches!(
            kind,
            ListenerKind::Socks5 | ListenerKind::Tcp | ListenerKind::Udp
        );
        if !is_http && self.refuses_address(conn, &listener) {
            return None;
        }
        if listener.settings.kind == ListenerKind::Socks5 {
            return Some(Session::Socks(Box::new(SocksSession::new(conn, listener))));
        }
        if kind == ListenerKind::Udp {
            let session = self.begin_datagrams(conn, listener)?;
            return Some(Session::Udp(Box::new(session)));
        }
        if kind == ListenerKind::Tcp {
            let session = self.begin_forwarding(conn, listener)?;
            return Some(Session::Tcp(Box::new(session)));
        }
        // A handshake may have begun before its listener was left.
        let max_age = match self.is_left(conn.origin()) {
            true => Duration::ZERO,
            false => jittered(listener.settings.timeouts.max_age),
        };
        let retires = opened.checked_add(max_age).map(Box::new);
        Some(Session::Client(ClientSession {
            listener,
            requests: 0,
            port: None,
            retires,
            exchange: None,
        }))
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session<H>,
        part: Part<'_>,
    ) -> Action {
        match part {
            Part::Client(part) => {
                if let Session::Client(client) = session {
                    return self.on_request_part(conn, client, part);
                }
            }
            Part::Upstream(part) => match session {
                Session::Upstream(upstream) => return self.on_response_part(conn, upstream, part),
                Session::Check(check) => return self.on_check_part(conn, check, part),
                Session::Mirror(mirror) => return self.on_mirror_part(conn, mirror, part),
                _ => {}
            },
            Part::Frames(part) => return Self::on_frames(conn, session, part),
            Part::Socks(frame) => {
                if let Session::Socks(socks) = session {
                    return self.on_socks_frame(conn, socks, frame);
                }
            }
            Part::Packet(datagram) => match session {
                Session::Udp(client) => return self.on_client_datagram(conn, client, datagram),
                Session::UdpNode(node) => return self.on_node_datagram(conn, node, datagram),
                Session::Relay(relay) => return self.on_relayed_datagram(conn, relay, datagram),
                Session::UdpTarget(target) => {
                    return self.on_target_datagram(conn, target, datagram);
                }
                // Any byte on its connection ends an association.
                Session::Socks(_) => return Action::Close,
                _ => {}
            },
            Part::Joined(_) => {}
        }
        conn.abort();
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<H>) -> Action {
        if let Some(other) = other_side(session) {
            conn.with(other, |other, _| other.resume_reads());
        }
        Action::Continue
    }

    fn on_fin(&mut self, _: &mut Conn<'_, Self>, session: &mut Session<H>) -> Action {
        match session {
            Session::Client(ClientSession {
                exchange: Some(exchange),
                listener,
                ..
            }) if !exchange.is_tunnel()
                // It may send no more, and still receive.
                && !exchange.is_connect
                && listener.settings.on_fin == OnFin::Cancel =>
            {
                Action::Close
            }
            Session::Socks(socks) if socks.awaits_peer() => Action::Close,
            _ => Action::Continue,
        }
    }

    fn on_peer_shutdown(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<H>) -> Action {
        match (conn.codec(), other_side(session)) {
            (Side::Frames(_), Some(other)) => {
                conn.with(other, |other, _| other.shutdown_write());
                Action::Continue
            }
            _ => Action::Close,
        }
    }

    fn on_timer(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session<H>,
        token: u64,
    ) -> Action {
        let Session::Client(client) = session else {
            return Action::Continue;
        };
        let Some(exchange) = &mut client.exchange else {
            return Action::Continue;
        };
        match (token, exchange.expectation) {
            (SAY_CONTINUE, Expectation::Awaited(_)) => {
                exchange.expectation = Expectation::Met;
                // Nothing is sent to a client that no longer waits.
                return conn.send(Continue).into();
            }
            (REFUSE, _) => self.refuse_password(conn, client),
            (FLUSH, _) => {
                if let Some(gathered) = &mut exchange.gathered {
                    gathered.timer = None;
                }
                Self::flush(conn, exchange);
            }
            _ => {}
        }
        Action::Continue
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<H>) -> Action {
        match session {
            Session::Client(client) => {
                let error =
                    ProxyError::new(StatusCode::GATEWAY_TIMEOUT, Phase::Head, Cause::Timeout);
                self.fail(conn, client, error);
            }
            Session::Socks(socks) if socks.has_wrong_password() => {
                Self::refuse_socks_password(conn);
            }
            _ => conn.abort(),
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        session: Session<H>,
        reason: CloseReason,
    ) {
        match session {
            Session::Client(client) => self.on_client_closed(reactor, info, client, &reason),
            Session::Upstream(upstream) => {
                self.pools[upstream.pool].connections.closed(info.id);
                if let Some(place) = upstream.place {
                    self.offer_place(upstream.pool, upstream.node, place, reactor);
                }
                if let Some(client) = upstream.client {
                    self.on_upstream_ended(reactor, client, info.undecoded > 0, reason);
                }
                self.settle(upstream.pool, reactor);
            }
            Session::Check(check) => {
                self.on_checked(check.pool, check.node, check.is_good(), reactor);
            }
            Session::Mirror(mirror) => self.on_mirror_closed(reactor, info, *mirror, &reason),
            Session::Socks(socks) => self.on_socks_closed(reactor, info, *socks, &reason),
            Session::Target => {}
            Session::Tcp(client) => self.on_tcp_closed(reactor, info, *client, &reason),
            Session::Udp(client) => self.on_udp_closed(reactor, info, *client, &reason),
            Session::UdpNode(node) => self.on_udp_node_closed(reactor, info, &node, &reason),
            Session::Relay(relay) => self.on_relay_closed(reactor, *relay, &reason),
            Session::UdpTarget(target) => Self::on_udp_target_closed(reactor, info, &target),
        }
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        if let Some(dial) = self.datagram_dials.remove(&failed.token) {
            return self.on_datagram_dial_failed(dial, &failed.error, reactor);
        }
        match self.target_dials.remove(&failed.token) {
            Some(client) => match self.connects.remove(&failed.token) {
                Some(_) => self.on_tunnel_failed(client, failed.token, failed.error, reactor),
                None => self.on_target_failed(client, &failed.error, reactor),
            },
            None => self.on_dial_failed(failed.token, failed.error, reactor),
        }
    }
}

impl<H: Hooks> Proxy<H> {
    fn on_client_closed(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        client: ClientSession<H>,
        reason: &CloseReason,
    ) {
        let Some(mut exchange) = client.exchange else {
            self.close_named(info.id, reactor);
            return self.record_refused(info, reactor.unix_time());
        };
        let is_tunnel = exchange.is_tunnel();
        if let Place::Frames { upstream } = exchange.place {
            reactor.with(upstream, |upstream, session| {
                if let Session::Upstream(session) = session {
                    session.client = None;
                }
                end_frames(upstream, reason);
            });
        }
        if is_tunnel {
            self.meters.all.tunnels.subtract(1);
        }
        self.leave(&mut exchange, reactor);
        self.close_named(info.id, reactor);
        if let Some(pool) = exchange.pool {
            self.settle(pool, reactor);
        }
        if is_tunnel && exchange.is_connect {
            exchange.notes.request_bytes = info.bytes_in;
            exchange.notes.response_bytes = info.bytes_out;
        }
        if let CloseReason::Timeout(kind) = reason {
            exchange.notes.timeout = match kind {
                TimeoutKind::WriteStall => "write_stall",
                _ if is_tunnel && exchange.is_connect => "tunnel.idle",
                _ if is_tunnel => "tunnel_idle",
                _ => "body_idle",
            };
        }
        exchange.notes.ended_by = match reason {
            CloseReason::Timeout(_) => EndedBy::Timeout,
            CloseReason::Peer | CloseReason::Pipe if is_tunnel => EndedBy::Nobody,
            CloseReason::Aborted | CloseReason::Shutdown | CloseReason::Panic => EndedBy::Gateway,
            _ => EndedBy::Client,
        };
        // The codec has answered, for example a body that became too long.
        if let (None, Some(refused)) = (exchange.notes.status, &info.refused) {
            exchange.notes.status = StatusCode::from_u16(refused.status).ok();
            if exchange.notes.ended_by == EndedBy::Client {
                exchange.notes.ended_by = EndedBy::Gateway;
            }
        }
        self.done(exchange, &info.peer, info.closed_at);
    }
}

impl<H: Hooks> fmt::Debug for Proxy<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("upstream_connections", &self.upstream_connections())
            .field("idle_connections", &self.idle_connections())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl<H: Hooks> fmt::Debug for Session<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Session::Client(_) => "Client",
            Session::Upstream(_) => "Upstream",
            Session::Check(_) => "Check",
            Session::Mirror(_) => "Mirror",
            Session::Socks(_) => "Socks",
            Session::Target => "Target",
            Session::Tcp(_) => "Tcp",
            Session::Udp(_) => "Udp",
            Session::UdpNode(_) => "UdpNode",
            Session::Relay(_) => "Relay",
            Session::UdpTarget(_) => "UdpTarget",
        })
    }
}

impl<H: Hooks> fmt::Debug for ClientSession<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CheckSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckSession").finish_non_exhaustive()
    }
}

impl fmt::Debug for MirrorSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorSession").finish_non_exhaustive()
    }
}

impl fmt::Debug for UpstreamSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamSession")
            .field("client", &self.client)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::NoHooks;

    #[test]
    fn ages_are_shortened_by_up_to_a_tenth() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1000).map(|_| jittered(age)).collect();
        assert!(
            ages.iter()
                .all(|jittered| (age * 9 / 10..=age).contains(jittered))
        );
        assert!(ages.iter().any(|jittered| *jittered < age * 92 / 100));
        assert!(ages.iter().any(|jittered| *jittered > age * 98 / 100));
        assert_eq!(jittered(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn a_client_that_waits_takes_little_beside_its_connection() {
        // The engine takes 270 bytes for a connection. All of it is to stay below 520.
        assert!(size_of::<Session<NoHooks>>() + size_of::<Side>() <= 180);
    }
}
