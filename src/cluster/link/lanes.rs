//! The dialling side of a reactor's links, on the engine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::clock::Clock;
use super::dialled::Dialled;
use super::health::Health;
use super::{Identity, Lane, LaneEvent, LaneOptions};
use crate::cluster::Error;
use crate::cluster::chance::Chance;
use crate::cluster::drpc::{Incoming, Request, Secret};
use crate::cluster::registry::LinkEndpoint;
use crate::engine::connect::{Backoff, Connect, ConnectError, FailedConnect};
use crate::engine::handler::{Action, Conn, EventHandler, Reactor};
use crate::engine::slots::ConnId;
#[cfg(feature = "tls")]
use crate::tls::TlsClient;

/// The lanes of one reactor, one to each peer. It dials them, for as long as the peers are registered.
///
/// The frames of a turn leave at its end, with [`flush`](Self::flush), in one write for each lane. Many of them leave earlier, with
/// [`flush_long`](Self::flush_long).
pub(in crate::cluster) struct Lanes<T> {
    ours: Identity,
    secret: Option<Secret>,
    options: LaneOptions,
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
    /// By the token of their connections.
    lanes: FxHashMap<u64, Dialled<T>>,
    by_id: FxHashMap<String, u64>,
    /// The lane of the last request. The next one is likely to be for the same peer.
    recent: u64,
    last_token: u64,
    /// The lanes with something to write.
    changed: Vec<u64>,
    /// True if one of them has [`LONG`] output.
    has_long: bool,
    /// True if the last request went to a lane that has much to send.
    is_loaded: bool,
    clock: Clock,
    /// The time of the pending timer. Others that fire are out of date.
    timer: Option<Duration>,
    lost: Lost,
    chance: Chance,
}

/// The frames that were given up since the last log line.
#[derive(Default)]
struct Lost {
    frames: u64,
    bytes: u64,
    logged: Option<Duration>,
}

/// A handler that has [`Lanes`].
pub(in crate::cluster) trait LinkTimer: EventHandler {
    /// Calls [`Lanes::on_timer`].
    fn on_link_timer(&mut self, reactor: &mut Reactor<'_, Self>, at: Duration);
}

/// The maximum number of peers that are expected.
const MAX_EXPECTED: usize = 1024;

/// The number of bytes that are written before the end of the turn: they are still in a core's cache then, and the peer has something
/// to do.
const LONG: usize = 64 << 10;

/// A lane has much to send from a quarter of what may wait on, until it is an eighth.
const HEAVY: u32 = 2;
const LIGHT: u32 = 3;

const LOG_INTERVAL: Duration = Duration::from_secs(1);

impl<T> Lanes<T> {
    pub(in crate::cluster) fn new(
        ours: Identity,
        secret: Option<Secret>,
        options: LaneOptions,
    ) -> Self {
        Self {
            ours,
            secret,
            options,
            #[cfg(feature = "tls")]
            tls: None,
            lanes: FxHashMap::default(),
            by_id: FxHashMap::default(),
            recent: 0,
            last_token: 0,
            changed: Vec::new(),
            has_long: false,
            is_loaded: false,
            clock: Clock::default(),
            timer: None,
            lost: Lost::default(),
            chance: Chance::default(),
        }
    }

    /// Takes nonces from this source.
    pub(in crate::cluster) fn chance(mut self, chance: &Chance) -> Self {
        self.chance = chance.clone();
        self
    }

    /// Dials peers with TLS whose address asks for it.
    #[cfg(feature = "tls")]
    pub(in crate::cluster) fn tls(mut self, tls: Option<TlsClient>) -> Self {
        self.tls = tls;
        self
    }

    /// Dials the peers that are new, and closes the lanes to those that are gone. A peer at another address is a new one.
    pub(in crate::cluster) fn set_peers<H: LinkTimer>(
        &mut self,
        peers: &[(Identity, LinkEndpoint)],
        reactor: &mut Reactor<'_, H>,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) {
        let wanted: HashMap<&str, &LinkEndpoint> = peers
            .iter()
            .map(|(peer, endpoint)| (&*peer.id, endpoint))
            .collect();
        let gone: Vec<u64> = (self.lanes.iter())
            .filter(|(_, lane)| !lane.is_wanted(wanted.get(&*lane.theirs.id).copied()))
            .map(|(token, _)| *token)
            .collect();
        for token in gone {
            self.remove(token, reactor, events);
        }
        for (peer, endpoint) in peers {
            let known = self.by_id.get(&peer.id).copied();
            let token = known.unwrap_or_else(|| self.insert(peer));
            self.reach(token, endpoint, reactor);
        }
        self.set_timer(reactor);
    }

    /// Makes a lane to a peer that is about to be registered: it has dialled this side, but the registry has not told of it yet.
    /// Frames for it wait, as while a link is down. If there are too many, those for which nothing waits go.
    pub(in crate::cluster) fn expect(&mut self, peer: &Identity) {
        if self.by_id.contains_key(&peer.id) {
            return;
        }
        let mut expected = (self.lanes.values())
            .filter(|lane| lane.endpoint.is_none())
            .count();
        if expected >= MAX_EXPECTED {
            let is_idle = |lane: &Dialled<T>| lane.endpoint.is_none() && !lane.is_wanted(None);
            for (_, lane) in (self.lanes).extract_if(|_, lane| is_idle(lane)) {
                self.by_id.remove(&lane.theirs.id);
                expected -= 1;
            }
        }
        if expected < MAX_EXPECTED {
            self.insert(peer);
        }
    }

    /// Sends a request without an answer. It leaves with the next [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] if there is no such peer, or no link to it is accepted, and those of [`Lane::send`].
    pub(in crate::cluster) fn send(
        &mut self,
        id: &str,
        request: &Request<'_>,
        now: Instant,
    ) -> Result<(), Error> {
        self.send_if(id, request, now, |health, _| !health.is_refused())
    }

    /// Does the same, unless the peer has been out of reach for so long that another one should be taken.
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] in that case, and those of [`send`](Self::send).
    pub(in crate::cluster) fn send_if_near(
        &mut self,
        id: &str,
        request: &Request<'_>,
        now: Instant,
    ) -> Result<(), Error> {
        self.send_if(id, request, now, |health, now| !health.is_bad(now))
    }

    #[inline]
    fn send_if(
        &mut self,
        id: &str,
        request: &Request<'_>,
        now: Instant,
        is_sound: impl FnOnce(&Health, Duration) -> bool,
    ) -> Result<(), Error> {
        let now = self.clock.time(now);
        let dialled = self.changing(id)?;
        if !is_sound(&dialled.health, now) {
            return Err(dialled.down());
        }
        let sent = dialled.lane.send(request, now, dialled.backlog);
        let (is_loaded, len) = (dialled.exceeds(HEAVY), dialled.lane.output_len());
        self.is_loaded = is_loaded;
        self.has_long |= len >= LONG;
        sent
    }

    /// Returns true if the peer of the last request has much to take. Then whoever sends can wait until it
    /// [has taken](Self::is_loaded) it.
    #[inline]
    pub(in crate::cluster) fn loads(&mut self) -> bool {
        std::mem::take(&mut self.is_loaded)
    }

    /// Returns true if a peer has much to take.
    pub(in crate::cluster) fn is_loaded(&self, id: &str) -> bool {
        let token = self.by_id.get(id);
        let dialled = token.and_then(|token| self.lanes.get(token));
        dialled.is_some_and(|dialled| dialled.exceeds(LIGHT))
    }

    /// Sends a request whose answer comes as a [`LaneEvent::Answered`] with this token. It leaves with the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`Error::LinkDown`] if there is no such peer, and those of [`Lane::call`]. The token is given back.
    pub(in crate::cluster) fn call(
        &mut self,
        id: &str,
        request: &Request<'_>,
        token: T,
        now: Instant,
    ) -> Result<(), (T, Error)> {
        let now = self.clock.time(now);
        match self.changing(id) {
            Err(error) => Err((token, error)),
            Ok(dialled) if dialled.health.is_refused() => Err((token, dialled.down())),
            Ok(dialled) => {
                let called = dialled.lane.call(request, token, now, dialled.backlog);
                called.map(|_| ())
            }
        }
    }

    /// Asks a peer for an answer, which comes as a [`LaneEvent::Answered`] with this token. Returns false if there is no room.
    pub(in crate::cluster) fn ping(&mut self, id: &str, token: T, now: Instant) -> bool {
        self.call(id, &Request::Ping, token, now).is_ok()
    }

    /// Returns true if there is a link to a peer, over which requests go at once.
    pub(in crate::cluster) fn is_up(&self, id: &str) -> bool {
        let token = self.by_id.get(id);
        let dialled = token.and_then(|token| self.lanes.get(token));
        dialled.is_some_and(|dialled| dialled.lane.is_up())
    }

    /// Returns the peers with the bytes that wait for each.
    pub(in crate::cluster) fn queued<H: LinkTimer>(
        &self,
        reactor: &mut Reactor<'_, H>,
    ) -> Vec<(String, u64)> {
        let queued = self.lanes.values().map(|dialled| {
            let unsent = (dialled.conn)
                .and_then(|conn| reactor.with(conn, |conn, _| conn.buffered_out()))
                .unwrap_or_default();
            let waiting = dialled.lane.stats().queued_bytes + unsent as u64;
            (dialled.theirs.id.clone(), waiting)
        });
        queued.collect()
    }

    /// Begins on a new connection. Returns false if its peer is gone.
    pub(in crate::cluster) fn on_open<H: LinkTimer>(
        &mut self,
        token: u64,
        conn: &mut Conn<'_, H>,
    ) -> bool {
        let now = self.clock.time(conn.now());
        let Some(dialled) = self.lanes.get_mut(&token) else {
            return false;
        };
        dialled.conn = Some(conn.id());
        (dialled.opened, dialled.backlog) = (now, 0);
        dialled.lane.connected(now, self.chance.bytes());
        dialled.write(conn);
        self.set_timer(&mut conn.reactor());
        true
    }

    /// Takes a frame of a peer.
    pub(in crate::cluster) fn receive<H: LinkTimer>(
        &mut self,
        token: u64,
        conn: &mut Conn<'_, H>,
        frame: Incoming<'_>,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) -> Action {
        let now = self.clock.time(conn.now());
        let dialled = self.lanes.get_mut(&token);
        let Some(dialled) = dialled.filter(|dialled| dialled.conn == Some(conn.id())) else {
            return Action::Close;
        };
        let theirs = &dialled.theirs;
        let received = (dialled.lane).receive(frame, &mut |event| events(theirs, event));
        dialled.write(conn);
        let Err(error) = received else {
            if dialled.lane.is_up() {
                dialled.health.up();
            }
            return Action::Continue;
        };
        log::warn!(target: "epicycle::cluster", "the link to {}: {error}", dialled.theirs.id);
        dialled.health.failed(&error, now);
        dialled.lose(now, events);
        self.set_timer(&mut conn.reactor());
        Action::Close
    }

    /// Notes that a connection has sent what it had to.
    pub(in crate::cluster) fn on_drain<H: LinkTimer>(&mut self, token: u64, conn: &Conn<'_, H>) {
        if let Some(dialled) = self.lanes.get_mut(&token) {
            dialled.backlog = conn.buffered_out();
        }
    }

    /// Notes the end of a connection. Dials again later, unless the lane has given it up already.
    pub(in crate::cluster) fn on_close<H: LinkTimer>(
        &mut self,
        token: u64,
        conn: ConnId,
        reactor: &mut Reactor<'_, H>,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) {
        let now = self.clock.time(reactor.now());
        let dialled = self.lanes.get_mut(&token);
        if let Some(dialled) = dialled.filter(|dialled| dialled.conn == Some(conn)) {
            dialled.lose(now, events);
            self.set_timer(reactor);
        }
    }

    /// Notes that a peer could not be reached, and dials again later.
    pub(in crate::cluster) fn on_connect_failed<H: LinkTimer>(
        &mut self,
        failed: &FailedConnect,
        reactor: &mut Reactor<'_, H>,
    ) {
        let now = self.clock.time(reactor.now());
        if let Some(dialled) = self.lanes.get_mut(&failed.token) {
            let level = match failed.error {
                ConnectError::Tls(_) => log::Level::Warn,
                _ => log::Level::Debug,
            };
            log::log!(target: "epicycle::cluster", level, "no link to {}: {}", dialled.theirs.id, failed.error);
            dialled.dial_later(now);
            self.set_timer(reactor);
        }
    }

    /// Writes what was sent since the last call.
    pub(in crate::cluster) fn flush<H: LinkTimer>(&mut self, reactor: &mut Reactor<'_, H>) {
        self.has_long = false;
        let mut first = None;
        for token in self.changed.drain(..) {
            if let Some(dialled) = self.lanes.get_mut(&token) {
                dialled.is_changed = false;
                if let Some(conn) = dialled.conn {
                    reactor.with(conn, |conn, _| dialled.write(conn));
                }
                let next = dialled.lane.next_tick();
                first = [first, next].into_iter().flatten().min();
            }
        }
        // The timer is set for the other lanes already.
        self.set_timer_for(first, reactor);
    }

    /// Writes to the lanes that have much to write. Call it behind each callback that may have sent something.
    #[inline]
    pub(in crate::cluster) fn flush_long<H: LinkTimer>(&mut self, reactor: &mut Reactor<'_, H>) {
        if self.has_long {
            self.has_long = false;
            self.write_long(reactor);
        }
    }

    fn write_long<H: LinkTimer>(&mut self, reactor: &mut Reactor<'_, H>) {
        for token in &self.changed {
            if let Some(dialled) = self.lanes.get_mut(token)
                && dialled.lane.output_len() >= LONG
                && let Some(conn) = dialled.conn
            {
                reactor.with(conn, |conn, _| dialled.write(conn));
            }
        }
    }

    /// Does what is due: heartbeats, timeouts, dials.
    pub(in crate::cluster) fn on_timer<H: LinkTimer>(
        &mut self,
        at: Duration,
        reactor: &mut Reactor<'_, H>,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) {
        if self.timer != Some(at) {
            return;
        }
        self.timer = None;
        let now = self.clock.time(reactor.now());
        let lost = &mut self.lost;
        for (token, dialled) in &mut self.lanes {
            let theirs = &dialled.theirs;
            let ticked = dialled.lane.tick(now, &mut |event| {
                if let LaneEvent::GaveUp { frames, bytes } = event {
                    lost.frames += frames;
                    lost.bytes += bytes;
                }
                events(theirs, event);
            });
            if dialled.dial_at.is_some_and(|at| at <= now) {
                dialled.dial_at = None;
                dialled.dial(*token, now, reactor);
            }
            let Some(conn) = dialled.conn else {
                continue;
            };
            reactor.with(conn, |conn, _| {
                dialled.write(conn);
                if ticked.is_err() {
                    conn.close();
                }
            });
            if let Err(error) = ticked {
                log::warn!(target: "epicycle::cluster", "the link to {}: {error}", dialled.theirs.id);
                dialled.lose(now, events);
            }
        }
        self.lost.log(now);
        self.set_timer(reactor);
    }

    /// Dials a peer, unless its address is known already.
    fn reach<H: LinkTimer>(
        &mut self,
        token: u64,
        endpoint: &LinkEndpoint,
        reactor: &mut Reactor<'_, H>,
    ) {
        let now = self.clock.time(reactor.now());
        let connect = Connect::to(format!("tcp://{}", endpoint.address()));
        let connect = self.secured(connect, endpoint);
        if let Some(dialled) = self.lanes.get_mut(&token)
            && dialled.endpoint.is_none()
        {
            if connect.is_none() {
                log::warn!(
                    target: "epicycle::cluster",
                    "no link to {}: its address {endpoint} asks for TLS; give this server a `LinkTls`",
                    dialled.theirs.id
                );
                return;
            }
            dialled.connect = connect;
            dialled.endpoint = Some(endpoint.clone());
            dialled.dial(token, now, reactor);
        }
    }

    fn insert(&mut self, peer: &Identity) -> u64 {
        self.last_token += 1;
        let (ours, theirs) = (self.ours.clone(), peer.clone());
        let options = self.options.clone();
        let dialled = Dialled {
            lane: Lane::new(ours, theirs, self.secret.clone(), options),
            theirs: peer.clone(),
            endpoint: None,
            connect: None,
            conn: None,
            backlog: 0,
            is_changed: false,
            health: Health::default(),
            backoff: Backoff::default(),
            opened: Duration::ZERO,
            dial_at: None,
        };
        self.by_id.insert(peer.id.clone(), self.last_token);
        self.lanes.insert(self.last_token, dialled);
        self.last_token
    }

    fn remove<H: LinkTimer>(
        &mut self,
        token: u64,
        reactor: &mut Reactor<'_, H>,
        events: &mut impl FnMut(&Identity, LaneEvent<'_, T>),
    ) {
        let Some(mut dialled) = self.lanes.remove(&token) else {
            return;
        };
        self.by_id.remove(&dialled.theirs.id);
        if let Some(conn) = dialled.conn {
            reactor.with(conn, |conn, _| {
                dialled.write(conn);
                conn.close();
            });
        }
        let theirs = &dialled.theirs;
        // All that waits is out of time now.
        for now in [None, Some(Duration::MAX)] {
            let mut events = |event: LaneEvent<'_, T>| events(theirs, event);
            match now {
                None => dialled.lane.disconnected(&mut events),
                Some(now) => drop(dialled.lane.tick(now, &mut events)),
            }
        }
    }

    /// Adds TLS if the endpoint asks for it. Returns `None` if this side has none.
    #[cfg(feature = "tls")]
    fn secured(&self, connect: Connect, endpoint: &LinkEndpoint) -> Option<Connect> {
        match (endpoint.is_secure(), &self.tls) {
            (false, _) => Some(connect),
            (true, Some(tls)) => Some(connect.tls(tls)),
            (true, None) => None,
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "TLS is a feature")]
    fn secured(&self, connect: Connect, endpoint: &LinkEndpoint) -> Option<Connect> {
        (!endpoint.is_secure()).then_some(connect)
    }

    /// Returns the lane to a peer, which is about to have something to write.
    fn changing(&mut self, id: &str) -> Result<&mut Dialled<T>, Error> {
        if (self.lanes.get(&self.recent)).is_none_or(|dialled| dialled.theirs.id != id) {
            // No lane has the token 0.
            self.recent = self.by_id.get(id).copied().unwrap_or(0);
        }
        let Some(dialled) = self.lanes.get_mut(&self.recent) else {
            return Err(Error::LinkDown {
                peer: id.to_owned(),
            });
        };
        if !dialled.is_changed {
            dialled.is_changed = true;
            self.changed.push(self.recent);
        }
        Ok(dialled)
    }

    /// Sets the timer for the first thing that will be due, unless it is set for an earlier moment.
    fn set_timer<H: LinkTimer>(&mut self, reactor: &mut Reactor<'_, H>) {
        let dials = self.lanes.values().filter_map(|dialled| dialled.dial_at);
        let lanes = self.lanes.values();
        let first = dials
            .chain(lanes.filter_map(|dialled| dialled.lane.next_tick()))
            .min();
        self.set_timer_for(first, reactor);
    }

    fn set_timer_for<H: LinkTimer>(
        &mut self,
        first: Option<Duration>,
        reactor: &mut Reactor<'_, H>,
    ) {
        let Some(first) = first else { return };
        if self.timer.is_some_and(|at| at <= first) {
            return;
        }
        self.timer = Some(first);
        let delay = first.saturating_sub(self.clock.time(reactor.now()));
        reactor.schedule(delay, move |handler, reactor| {
            handler.on_link_timer(reactor, first);
        });
    }
}

impl Lost {
    fn log(&mut self, now: Duration) {
        let is_due = self.logged.is_none_or(|at| now >= at + LOG_INTERVAL);
        if self.frames > 0 && is_due {
            let Lost { frames, bytes, .. } = std::mem::take(self);
            self.logged = Some(now);
            log::warn!(
                target: "epicycle::cluster",
                "{frames} frames of {bytes} bytes were given up, since their links were down for too long"
            );
        }
    }
}
