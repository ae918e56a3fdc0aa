//! Outbound connections: name lookup, the race of attempts at the addresses of a host, and retries.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::vec;

use super::{EventLoop, ShutdownStage};
use crate::addr::{Addr, Endpoint};
use crate::clock::millis;
use crate::engine::conn::ConnState;
use crate::engine::conn::close::{CloseReason, TimeoutKind};
use crate::engine::conn::limit_sets::SERVER;
use crate::engine::conn::origin::Origin;
use crate::engine::connect::negotiation::{Failed, Negotiating};
use crate::engine::connect::resolve::{Lookup, LookupResult, NotAsked, Ticket};
use crate::engine::connect::{
    Backoff, Connect, ConnectError, DEFAULT_TIMEOUT, DialId, FailedAddress, FailedConnect,
};
#[cfg(feature = "proxy-protocol")]
use crate::engine::handler::context::Proxied;
use crate::engine::handler::context::{Context, Outcome, Slot, Timer};
use crate::engine::handler::{Command, EventHandler, Reactor};
use crate::engine::slots::ConnId;
use crate::engine::stream::Stream;
use crate::engine::timer::TimerKey;
use crate::sys::options::SocketOptions;
use crate::sys::socket::StreamSocket;
use crate::sys::stack::NetworkStack;
#[cfg(feature = "tls")]
use crate::tls::stream::TlsStream;

/// The outbound connections of a reactor: those being made, and those to make again when they end.
pub(super) struct Dials {
    dials: HashMap<DialId, Dial>,
    /// The dial that each connection belongs to.
    by_conn: HashMap<ConnId, DialId>,
    /// Failures that the handler has not been notified of yet.
    failed: VecDeque<FailedConnect>,
    pub(super) options: SocketOptions,
    pub(super) stack: NetworkStack,
}

struct Dial {
    connect: Connect,
    to: Endpoint,
    /// The number of consecutive failures.
    failures: u32,
    backoff: Backoff,
    progress: Progress,
    /// The end of the attempt, in the reactor's milliseconds.
    attempt_ends_at: u64,
    timer: Option<TimerKey>,
    cancelled: bool,
}

enum Progress {
    Resolving(Ticket),
    /// Connecting to one or more addresses.
    Connecting(Race),
    /// The server's backlog is full. Unix sockets report that at once.
    Queueing(Addr),
    /// Open since this time.
    Open(ConnId, u64),
    /// Waits for the next attempt.
    Waiting,
}

/// The attempts at the addresses of a host. The first connection that opens wins (RFC 8305, "Happy Eyeballs").
#[derive(Default)]
struct Race {
    /// The addresses that are not tried yet.
    rest: vec::IntoIter<Addr>,
    /// The attempts under way, the oldest first.
    running: Vec<(ConnId, Addr)>,
    failures: Vec<FailedAddress>,
    /// True while the next attempt waits for a handshake under way.
    waits_for_handshake: bool,
    /// True once a connection is open. Those that open after it in the same turn are too late.
    is_won: Rc<Cell<bool>>,
}

/// The most connects of callbacks that begin before other events are handled.
const DIAL_BUDGET: usize = 1024;

/// The longest pause before the next address is tried too (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The most attempts of a dial at a time. The name server chooses the number of addresses.
const MAX_RUNNING: usize = 8;

/// The pause before the next attempt at a Unix server whose backlog is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

impl Dials {
    pub(super) fn new(options: SocketOptions, stack: NetworkStack) -> Self {
        Self {
            dials: HashMap::new(),
            by_conn: HashMap::new(),
            failed: VecDeque::new(),
            options,
            stack,
        }
    }

    /// Returns true if the handler has been notified of every failure.
    pub(super) fn are_reported(&self) -> bool {
        self.failed.is_empty()
    }
}

impl ShutdownStage {
    /// Returns true if a connection may be made. During a shutdown, an answer may need it. UDP is excepted, because
    /// its sockets close with the server.
    fn allows(self, to: &Endpoint) -> bool {
        match self {
            ShutdownStage::Running => true,
            ShutdownStage::Stopping | ShutdownStage::Answering => {
                !matches!(to, Endpoint::Udp { .. })
            }
            ShutdownStage::Draining => false,
        }
    }
}

impl Dial {
    /// Returns the stream on a socket that connects.
    fn stream(&self, socket: StreamSocket) -> io::Result<Stream> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.connect.tls {
            let host = match (&self.connect.negotiate, &self.to) {
                (Some(negotiate), _) => &negotiate.host,
                (None, Endpoint::Tcp { host, .. }) => host.as_str(),
                _ => "",
            };
            let stream = TlsStream::client(socket, tls, host).map_err(io::Error::other)?;
            return Ok(Stream::Tls(Box::new(stream)));
        }
        Ok(Stream::plain(socket))
    }
}

impl<H: EventHandler> EventLoop<H> {
    /// Begins to make the connections that callbacks have asked for.
    #[inline]
    pub(super) fn begin_dials(&mut self) {
        if !self.cx.lists.dials.is_empty() {
            self.begin_waiting_dials();
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_waiting_dials(&mut self) {
        for _ in 0..DIAL_BUDGET {
            let Some((id, connect, to)) = self.cx.lists.dials.pop_front() else {
                break;
            };
            self.dial(id, connect, to);
        }
    }

    /// Begins to make a connection.
    pub(super) fn dial(&mut self, id: DialId, connect: Connect, to: Endpoint) {
        self.insert_dial(id, connect, to);
        self.attempt(id);
    }

    fn insert_dial(&mut self, id: DialId, connect: Connect, to: Endpoint) {
        let dial = Dial {
            connect,
            to,
            failures: 0,
            backoff: Backoff::default(),
            progress: Progress::Waiting,
            attempt_ends_at: 0,
            timer: None,
            cancelled: false,
        };
        self.dials.dials.insert(id, dial);
    }

    /// Begins an attempt.
    fn attempt(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        if !self.stage.allows(&dial.to) {
            return self.attempt_failed(id, ConnectError::Stopped);
        }
        let timeout = dial.connect.timeout.unwrap_or(DEFAULT_TIMEOUT);
        dial.attempt_ends_at = self.cx.time.moment().saturating_add(millis(timeout));
        let targets = match &dial.to {
            Endpoint::Unix(path) | Endpoint::UnixPacket(path) => {
                vec![Addr::Unix(Some(path.as_path().into()))]
            }
            Endpoint::UnixAbstract(name) | Endpoint::UnixPacketAbstract(name) => {
                vec![Addr::UnixAbstract(name.as_slice().into())]
            }
            Endpoint::Tcp { host, port, .. } | Endpoint::Udp { host, port, .. } => {
                match host.parse() {
                    Ok(ip) => vec![Addr::Ip(SocketAddr::new(ip, *port))],
                    Err(_) => return self.resolve(id),
                }
            }
        };
        self.race(id, targets);
    }

    /// Looks the name up on another thread, because the lookup may block.
    fn resolve(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        let (Endpoint::Tcp { host, .. } | Endpoint::Udp { host, .. }) = &dial.to else {
            return;
        };
        // Addresses that have just failed may be outdated.
        let fresh = dial.connect.fresh_lookup || dial.failures > 0;
        let (engine, reactor) = (self.cx.engine.clone(), self.cx.reactor);
        let notify = move |number, found| {
            // A reactor that has ended does not need it.
            let answer = Command::Resolved(id, number, found);
            let _ = engine.peer(reactor).mailbox.push_unbounded(answer);
        };
        match self.cx.engine.shared().lookups.look_up(host, fresh, notify) {
            Ok(Lookup::Known(addrs)) => self.try_found(id, Ok(addrs)),
            Ok(Lookup::Waiting(ticket)) => {
                dial.progress = Progress::Resolving(ticket);
                dial.timer = Some(self.cx.insert_at(dial.attempt_ends_at, Timer::Dial(id)));
            }
            Err(not_asked) => {
                let error = match not_asked {
                    NotAsked::QueueFull(capacity) => ConnectError::LookupQueueFull { capacity },
                    NotAsked::Ended => ConnectError::Stopped,
                    NotAsked::Threads(error) => ConnectError::Io(io::Error::other(error)),
                };
                self.attempt_failed(id, error);
            }
        }
    }

    /// Receives the result of a name lookup. Its attempt may already be over.
    pub(super) fn resolved(&mut self, id: DialId, number: u64, found: LookupResult) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        if !matches!(&dial.progress, Progress::Resolving(ticket) if ticket.number == number) {
            return;
        }
        dial.progress = Progress::Waiting;
        if let Some(timer) = dial.timer.take() {
            self.cx.wheel.cancel(timer);
        }
        self.try_found(id, found);
    }

    /// Tries the addresses found for a name.
    fn try_found(&mut self, id: DialId, found: LookupResult) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        let addrs = match found {
            Ok(addrs) => dial.to.wanted(addrs.iter().copied()),
            Err(error) => Err(dial.to.unresolved(error)),
        };
        match addrs {
            Ok(addrs) => {
                let local = dial.connect.local;
                let fits =
                    |addr: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == addr.is_ipv4());
                let addrs: Vec<SocketAddr> = addrs.into_iter().filter(fits).collect();
                if addrs.is_empty() {
                    let none = io::Error::new(
                        io::ErrorKind::AddrNotAvailable,
                        "the host has no address of the local address's IP version",
                    );
                    return self.attempt_failed(id, ConnectError::Io(none));
                }
                self.race(id, interleaved(addrs));
            }
            Err(error) => self.attempt_failed(id, ConnectError::Address(error)),
        }
    }

    /// Connects to the first of these addresses that answers.
    fn race(&mut self, id: DialId, targets: Vec<Addr>) {
        if let Some(dial) = self.dials.dials.get_mut(&id) {
            dial.progress = Progress::Connecting(Race {
                rest: targets.into_iter(),
                ..Race::default()
            });
            self.try_next(id);
        }
    }

    /// Connects to the next address at which an attempt can begin. Without any, the dial waits for the attempts under way.
    fn try_next(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        if let Some(timer) = dial.timer.take() {
            self.cx.wheel.cancel(timer);
        }
        loop {
            let Some(dial) = self.dials.dials.get_mut(&id) else {
                return;
            };
            let may_go_on = !dial.cancelled && self.stage.allows(&dial.to);
            let left = dial.attempt_ends_at.saturating_sub(self.cx.time.moment());
            let Progress::Connecting(race) = &mut dial.progress else {
                return;
            };
            let next = race.rest.next().filter(|_| may_go_on && left > 0);
            let Some(target) = next else {
                if race.running.is_empty() {
                    let error = match (dial.cancelled, may_go_on) {
                        (true, _) => ConnectError::Cancelled,
                        (false, false) => ConnectError::Stopped,
                        (false, true) => dial.race_error(),
                    };
                    self.attempt_failed(id, error);
                }
                return;
            };
            let others = race.rest.len() as u64;
            if let (Some(allow), Addr::Ip(addr)) = (&dial.connect.allow, &target) {
                let asked = catch_unwind(AssertUnwindSafe(|| allow.is_allowed(addr.ip())));
                let is_allowed = asked.unwrap_or_else(|panic| {
                    self.cx.report_panic(panic, "Connect::allow");
                    false
                });
                if !is_allowed {
                    let error = ConnectError::Denied { addr: *addr };
                    race.failed(target, error);
                    continue;
                }
            }
            match self.connect_to(id, &target, left) {
                Ok(conn) => {
                    self.dials.by_conn.insert(conn, id);
                    let Some(dial) = self.dials.dials.get_mut(&id) else {
                        return;
                    };
                    if let Progress::Connecting(race) = &mut dial.progress {
                        race.running.push((conn, target));
                        self.cx.races.insert(conn, race.is_won.clone());
                    }
                    if others > 0 {
                        // An address that does not respond must leave time for the others.
                        let pause = ATTEMPT_DELAY.min(Duration::from_millis(left / (others + 1)));
                        let next = self.cx.time.deadline(pause);
                        dial.timer = Some(self.cx.wheel.insert(next, Timer::Dial(id)));
                    }
                    return;
                }
                Err(busy)
                    if busy.kind() == io::ErrorKind::WouldBlock
                        && matches!(target, Addr::Unix(_) | Addr::UnixAbstract(_)) =>
                {
                    let again = self.cx.time.deadline(QUEUE_PAUSE);
                    let timer = self.cx.wheel.insert(again, Timer::Dial(id));
                    if let Some(dial) = self.dials.dials.get_mut(&id) {
                        dial.progress = Progress::Queueing(target);
                        dial.timer = Some(timer);
                    }
                    return;
                }
                Err(refused) => {
                    if let Some(dial) = self.dials.dials.get_mut(&id)
                        && let Progress::Connecting(race) = &mut dial.progress
                    {
                        race.failed(target, ConnectError::Io(refused));
                    }
                }
            }
        }
    }

    /// Tries another address, because those that are tried have not answered for a while.
    fn widen_race(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        let Progress::Connecting(race) = &mut dial.progress else {
            return;
        };
        let (connections, negotiations) = (&mut self.connections, &self.cx.negotiations);
        let is_shaking_hands = race.running.iter().any(|(conn, _)| {
            let negotiating = negotiations.get(conn);
            negotiating.is_some_and(Negotiating::is_connected)
                || connections
                    .get(*conn)
                    .is_some_and(|slot| slot.link.stream.is_shaking_hands())
        });
        if is_shaking_hands && !std::mem::replace(&mut race.waits_for_handshake, true) {
            // An address has answered. Its handshake gets a share of the time before another one is tried.
            let left = dial.attempt_ends_at.saturating_sub(self.cx.time.moment());
            let share = Duration::from_millis(left / (race.rest.len() as u64 + 1));
            let next = self.cx.time.deadline(share);
            dial.timer = Some(self.cx.wheel.insert(next, Timer::Dial(id)));
            return;
        }
        race.waits_for_handshake = false;
        if race.running.len() >= MAX_RUNNING {
            let (oldest, addr) = race.running.remove(0);
            race.failed(addr, ConnectError::Timeout);
            self.drop_attempt(oldest);
        }
        self.try_next(id);
    }

    /// Closes a connection that is not open yet and that the dial does not need any more.
    fn drop_attempt(&mut self, conn: ConnId) {
        self.dials.by_conn.remove(&conn);
        self.cx.races.remove(&conn);
        self.abort_opening(conn);
    }

    fn abort_opening(&mut self, conn: ConnId) {
        if let Some(mut slot) = self.connections.get(conn)
            && slot.link.state.is_opening()
            && slot.link.state.never_opened()
        {
            let Slot { link, codec, .. } = &mut *slot;
            self.cx.begin_close(link, codec, CloseReason::Aborted);
        }
    }

    /// Begins to connect to one address, within `limit` milliseconds.
    fn connect_to(&mut self, id: DialId, target: &Addr, limit: u64) -> io::Result<ConnId> {
        let dial = self.dials.dials.get_mut(&id);
        let awaiting = dial.and_then(|dial| dial.connect.awaits.take());
        let Some(dial) = self.dials.dials.get(&id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let origin = Origin::Connected {
            token: dial.connect.token,
        };
        if let (Endpoint::Udp { .. }, Addr::Ip(peer)) = (&dial.to, target) {
            #[cfg(feature = "tls")]
            if dial.connect.tls.is_some() {
                let problem = "there is no TLS over UDP; connect to a tcp:// address";
                return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
            }
            let (local, limits) = (dial.connect.local, dial.connect.limits.clone());
            return self.open_datagram_session(*peer, local, origin, limits.as_deref(), limit);
        }
        let Dials { stack, options, .. } = &self.dials;
        let has_records = dial.to.is_unix_packet();
        let (socket, admits) = match awaiting {
            None => {
                let socket = stack.connect(target, has_records, dial.connect.local, options)?;
                (socket, None)
            }
            Some(awaiting) => {
                let admits = awaiting.admits.clone();
                let socket = awaiting.into_socket()?;
                options.apply(&socket.options(), true)?;
                (socket, Some(admits))
            }
        };
        let stream = dial.stream(socket)?;
        let conn = self.connections.next_id();
        if let Some(admits) = admits {
            self.cx.awaited.insert(conn, admits);
        }
        let mut state =
            ConnState::opening(conn, target.clone(), origin, self.cx.time.moment(), limit);
        #[cfg(feature = "proxy-protocol")]
        if let Some(header) = &dial.connect.proxy_header {
            let sends = Proxied::Sends(header.clone());
            self.cx.proxied.insert(conn, sends);
        }
        if let Some(negotiate) = &dial.connect.negotiate {
            let negotiating = Negotiating::new(negotiate.begin());
            self.cx.negotiations.insert(conn, negotiating);
        }
        if let Some(own) = &dial.connect.limits {
            let number = self.cx.acquire_over_server(own);
            state.set_limits(number.unwrap_or(SERVER));
        }
        if stream.has_tls() {
            state.seal();
        }
        let load = &self.cx.engine.peer(self.cx.reactor).load;
        load.fetch_add(1, Ordering::Relaxed);
        let slot = self.watch(stream, state)?;
        if let Some(mut slot) = self.connections.at(slot) {
            self.cx.set_alarm(&mut slot.link);
        }
        Ok(conn)
    }

    /// Handles the results of the connections that this side made.
    #[inline]
    pub(super) fn follow_dials(&mut self) {
        self.begin_dials();
        if !self.cx.lists.outcomes.is_empty() || !self.dials.failed.is_empty() {
            self.follow_outcomes();
        }
    }

    #[cold]
    #[inline(never)]
    fn follow_outcomes(&mut self) {
        while let Some((conn, outcome)) = self.cx.lists.outcomes.pop_front() {
            self.follow_outcome(conn, outcome);
        }
        while let Some(failed) = self.dials.failed.pop_front() {
            let mut reactor = Reactor::new(&self.connections, &mut self.cx);
            self.handler.on_connect_failed(&mut reactor, failed);
        }
    }

    fn follow_outcome(&mut self, conn: ConnId, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::NotAdopted {
                peer,
                origin,
                reason,
            } => return self.adopt_failed(peer, origin, reason),
            outcome => outcome,
        };
        let Some(&id) = self.dials.by_conn.get(&conn) else {
            return;
        };
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        match outcome {
            Outcome::Opened => {
                dial.failures = 0;
                if let Some(timer) = dial.timer.take() {
                    self.cx.wheel.cancel(timer);
                }
                let opened = Progress::Open(conn, self.cx.time.now());
                let was = std::mem::replace(&mut dial.progress, opened);
                if dial.connect.reconnect.is_none() || dial.cancelled {
                    self.dials.by_conn.remove(&conn);
                    self.dials.dials.remove(&id);
                }
                self.cx.races.remove(&conn);
                if let Progress::Connecting(race) = was {
                    let losers = race.running.into_iter().filter(|(loser, _)| *loser != conn);
                    for (loser, _) in losers {
                        self.drop_attempt(loser);
                    }
                }
            }
            Outcome::Failed(reason) => {
                self.dials.by_conn.remove(&conn);
                self.cx.races.remove(&conn);
                if let Progress::Connecting(race) = &mut dial.progress
                    && let Some(at) = race.running.iter().position(|(one, _)| *one == conn)
                {
                    let (_, addr) = race.running.remove(at);
                    race.failed(addr, connect_error(reason));
                    self.try_next(id);
                }
            }
            Outcome::NotAdopted { .. } => {}
            Outcome::Closed { again } => {
                self.dials.by_conn.remove(&conn);
                let policy = dial.connect.reconnect;
                match policy.filter(|_| again && self.stage != ShutdownStage::Draining) {
                    Some(policy) => {
                        let since = match dial.progress {
                            Progress::Open(_, since) => since,
                            _ => self.cx.time.now(),
                        };
                        let lasted =
                            Duration::from_millis(self.cx.time.now().saturating_sub(since));
                        let delay = dial.backoff.after_connection(lasted, &policy);
                        dial.wait(id, delay, &mut self.cx);
                    }
                    None => {
                        self.dials.dials.remove(&id);
                    }
                }
            }
        }
    }

    /// Records a handshake on an adopted socket that failed. The handler is notified afterwards.
    fn adopt_failed(&mut self, peer: Addr, origin: Origin, reason: CloseReason) {
        let Origin::Adopted { token } = origin else {
            return;
        };
        let to = match peer {
            Addr::Ip(addr) => addr.into(),
            Addr::Unix(path) => Endpoint::Unix(path.map(Into::into).unwrap_or_default()),
            Addr::UnixAbstract(name) => Endpoint::UnixAbstract(name.into()),
        };
        self.cx.metrics.connect_failures.add(1);
        self.dials.failed.push_back(FailedConnect {
            token,
            to,
            attempt: 1,
            error: connect_error(reason),
            retry_in: None,
        });
    }

    /// Handles the timer of a dial: the name lookup took too long, or it is time to try again.
    pub(super) fn redial(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        dial.timer = None;
        match &dial.progress {
            Progress::Resolving(_) => self.attempt_failed(id, ConnectError::Timeout),
            Progress::Waiting => self.attempt(id),
            Progress::Queueing(target) => {
                let targets = vec![target.clone()];
                self.race(id, targets);
            }
            Progress::Connecting(_) => self.widen_race(id),
            Progress::Open(..) => {}
        }
    }

    /// Ends the attempts. An open connection stays open and is not made again.
    pub(super) fn cancel_dial(&mut self, id: DialId) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return self.cancel_waiting_dial(id);
        };
        dial.cancelled = true;
        match &dial.progress {
            Progress::Connecting(race) => {
                let running: Vec<ConnId> = race.running.iter().map(|(conn, _)| *conn).collect();
                // A connection that opened in this turn stays open.
                for conn in running {
                    self.abort_opening(conn);
                }
            }
            &Progress::Open(conn, _) => {
                self.dials.by_conn.remove(&conn);
                self.dials.dials.remove(&id);
            }
            _ => self.attempt_failed(id, ConnectError::Cancelled),
        }
    }

    /// Ends a dial that has not begun.
    fn cancel_waiting_dial(&mut self, id: DialId) {
        let waiting = &mut self.cx.lists.dials;
        // The identifiers ascend.
        let at = waiting.binary_search_by_key(&id, |(id, ..)| *id);
        if let Ok(at) = at
            && let Some((id, connect, to)) = waiting.remove(at)
        {
            self.insert_dial(id, connect, to);
            self.attempt_failed(id, ConnectError::Cancelled);
        }
    }

    /// Stops all dials. Connections that are not open yet will not be made.
    pub(super) fn stop_dials(&mut self) {
        let pending = self.dials.dials.iter().filter(|(_, dial)| {
            !matches!(dial.progress, Progress::Connecting(..) | Progress::Open(..))
        });
        let mut pending: Vec<DialId> = pending.map(|(id, _)| *id).collect();
        pending.sort_unstable();
        for id in pending {
            self.attempt_failed(id, ConnectError::Stopped);
        }
    }

    /// Records a failed attempt. The handler is notified afterwards.
    fn attempt_failed(&mut self, id: DialId, error: ConnectError) {
        let Some(dial) = self.dials.dials.get_mut(&id) else {
            return;
        };
        if let Some(timer) = dial.timer.take() {
            self.cx.wheel.cancel(timer);
        }
        if let Progress::Resolving(ticket) = &dial.progress {
            self.cx.engine.shared().lookups.cancel(ticket);
        }
        dial.failures = dial.failures.saturating_add(1);
        let over = matches!(error, ConnectError::Cancelled | ConnectError::Stopped)
            || self.stage == ShutdownStage::Draining;
        let policy = dial.connect.reconnect.filter(|_| !over);
        let policy = policy.filter(|policy| !policy.gives_up(dial.failures));
        let retry_in = policy.map(|policy| dial.backoff.after_failure(&policy));
        let failed = FailedConnect {
            token: dial.connect.token,
            to: dial.to.clone(),
            attempt: dial.failures,
            error,
            retry_in,
        };
        log::debug!(target: "epicycle::conn", "cannot connect to {}: {}", failed.to, failed.error);
        self.cx.metrics.connect_failures.add(1);
        match retry_in {
            Some(delay) => dial.wait(id, delay, &mut self.cx),
            None => {
                self.dials.dials.remove(&id);
            }
        }
        self.dials.failed.push_back(failed);
    }
}

impl Dial {
    /// Returns the reason why no address of the host could be connected to.
    fn race_error(&mut self) -> ConnectError {
        let Progress::Connecting(race) = &mut self.progress else {
            return ConnectError::Timeout;
        };
        let mut failures = std::mem::take(&mut race.failures);
        match &self.to {
            Endpoint::Tcp { host, .. } | Endpoint::Udp { host, .. }
                if host.parse::<IpAddr>().is_err() && !failures.is_empty() =>
            {
                ConnectError::Host(failures)
            }
            _ => failures
                .pop()
                .map_or(ConnectError::Timeout, |failed| failed.error),
        }
    }

    /// Schedules another attempt after a delay.
    fn wait<H: EventHandler>(&mut self, id: DialId, delay: Duration, cx: &mut Context<H>) {
        self.progress = Progress::Waiting;
        self.timer = Some(cx.wheel.insert(cx.time.deadline(delay), Timer::Dial(id)));
    }
}

impl Race {
    fn failed(&mut self, addr: Addr, error: ConnectError) {
        log::debug!(target: "epicycle::conn", "cannot connect to {addr}: {error}");
        self.failures.push(FailedAddress { addr, error });
    }
}

/// Returns addresses in the order in which they are tried: IPv6 and IPv4 take turns, beginning with the version of the first
/// (RFC 8305, section 4).
fn interleaved(addrs: Vec<SocketAddr>) -> Vec<Addr> {
    let first_is_v4 = addrs.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addrs
        .into_iter()
        .partition(|addr| addr.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::with_capacity(first.len() + second.len());
    while first.len() + second.len() > 0 {
        turns.extend(first.next().map(Addr::Ip));
        turns.extend(second.next().map(Addr::Ip));
    }
    turns
}

/// Returns the error for an opening connection that has ended.
fn connect_error(reason: CloseReason) -> ConnectError {
    match reason {
        CloseReason::Reset(error) | CloseReason::Io(error) => match error.downcast::<Failed>() {
            Ok(Failed(error)) => ConnectError::Negotiation(error),
            Err(error) => ConnectError::Io(error),
        },
        CloseReason::Tls(error) => ConnectError::Tls(error.into()),
        CloseReason::Timeout(TimeoutKind::Connect) => ConnectError::Timeout,
        CloseReason::Shutdown => ConnectError::Stopped,
        other => ConnectError::Io(io::Error::other(other.to_string())),
    }
}
