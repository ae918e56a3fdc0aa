//! The state that a reactor lends to callbacks: all of it but the handler and the other connections.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mio::{Poll, Token};

use super::{Completion, Conn, Detached, Engine, EventHandler, Reactor, WriteError};
use crate::addr::{Addr, Endpoint};
use crate::buf::outbox::Arena;
use crate::buf::pool::BufferPool;
use crate::clock::{Clock, TICKS};
use crate::engine::conn::close::{CloseReason, Refused};
use crate::engine::conn::limit_sets::{LimitSets, SERVER};
use crate::engine::conn::limits::{Budgets, ConnLimits, Limits, NEVER};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::{Alarm, ConnState};
use crate::engine::connect::awaiting::Admits;
use crate::engine::connect::negotiation::Negotiating;
use crate::engine::connect::{Connect, DialId};
#[cfg(feature = "cluster")]
use crate::engine::listen::admission::Entering;
use crate::engine::listen::handshakes::{Handshakes, counted_as};
use crate::engine::listen::listeners::Accepted;
use crate::engine::listen::profile::{KnownProfiles, ListenProfile};
use crate::engine::pipes::{PipeEnd, Pipes};
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::ProxyHeader;
use crate::engine::slots::{ConnId, Slots, Tenant};
use crate::engine::stream::{Stream, TlsScratch};
use crate::engine::timer::{TimerKey, Wheel};
use crate::engine::turn_time::TurnTime;
use crate::engine::udp::sockets::{UdpSockets, session_limits};
use crate::metrics::Metrics;
use crate::panic;
use crate::sys::socket::StreamSocket;
#[cfg(feature = "tls")]
use crate::tls::session::Session;

/// The connections of a reactor.
pub(crate) type Connections<H> = Slots<Slot<H>>;

/// A connection with all its parts. The fields that every message needs come first.
#[repr(C)]
pub(crate) struct Slot<H: EventHandler> {
    /// None before `on_open` has returned and after `on_close` has taken it.
    pub(crate) session: Option<H::Session>,
    pub(crate) codec: H::Codec,
    pub(crate) link: Link,
}

impl<H: EventHandler> Tenant for Slot<H> {
    fn id(&self) -> ConnId {
        self.link.state.id
    }
}

/// A connection that the loop serves, with the handler, the context and the other connections.
pub(crate) struct Served<'a, H: EventHandler> {
    pub(crate) handler: &'a mut H,
    pub(crate) slot: &'a mut Slot<H>,
    pub(crate) cx: &'a mut Context<H>,
    pub(crate) connections: &'a Connections<H>,
}

impl<'a, H: EventHandler> Served<'a, H> {
    #[inline(always)]
    pub(crate) fn new(
        handler: &'a mut H,
        slot: &'a mut Slot<H>,
        cx: &'a mut Context<H>,
        connections: &'a Connections<H>,
    ) -> Self {
        Self {
            handler,
            slot,
            cx,
            connections,
        }
    }

    /// Returns the connection as callbacks receive it.
    #[inline(always)]
    pub(crate) fn conn(&mut self) -> Conn<'_, H> {
        Conn::new(
            &mut self.slot.link,
            &mut self.slot.codec,
            self.cx,
            self.connections,
        )
    }

    pub(crate) fn mark_dirty(&mut self) {
        self.cx.lists.mark_dirty(&mut self.slot.link.state);
    }

    pub(crate) fn mark_ready(&mut self) {
        self.cx.lists.mark_ready(&mut self.slot.link.state);
    }

    pub(crate) fn set_alarm(&mut self) {
        self.cx.set_alarm(&mut self.slot.link);
    }
}

/// The state of a connection and its socket.
#[repr(C)]
pub(crate) struct Link {
    /// Dropped, and so closed, with the slot at the end of the turn.
    pub(crate) stream: Stream,
    pub(crate) extras: Option<Box<Extras>>,
    pub(crate) state: ConnState,
    /// The pending check of the limits.
    pub(crate) alarm: Option<TimerKey>,
}

impl Link {
    /// Returns the error of a write that was offered to the kernel at once. The loop handles it behind the callback.
    pub(crate) fn take_send_error(&mut self) -> Option<io::Error> {
        self.extras.as_mut()?.send_error.take()
    }
}

/// A socket that is to become a connection.
pub(crate) struct Arrival {
    pub(crate) socket: StreamSocket,
    pub(crate) peer: Addr,
    pub(crate) origin: Origin,
    pub(crate) handshakes: Option<Arc<Handshakes>>,
}

impl Arrival {
    /// Returns the address for which it is counted.
    pub(crate) fn counted_as(&self) -> Option<IpAddr> {
        counted_as(self.handshakes.as_ref(), &self.peer)
    }
}

impl From<Accepted> for Arrival {
    fn from(accepted: Accepted) -> Self {
        Self {
            socket: accepted.socket,
            peer: accepted.peer,
            origin: Origin::Accepted {
                listener: accepted.listener,
            },
            handshakes: accepted.handshakes,
        }
    }
}

/// The use of the PROXY protocol on a connection.
#[cfg(feature = "proxy-protocol")]
pub(crate) enum Proxied {
    /// The proxy's header has not arrived. The connection is not counted for any address.
    AwaitsHeader,
    /// A proxy at this address made the connection.
    Via(Addr),
    /// This header has to be sent first.
    Sends(ProxyHeader),
}

/// The result of a connection that this side made.
pub(crate) enum Outcome {
    Opened,
    /// It was never open.
    Failed(CloseReason),
    /// The handshake on an adopted socket has failed.
    NotAdopted {
        peer: Addr,
        origin: Origin,
        reason: CloseReason,
    },
    /// It was open. `again` is false if this side has closed it.
    Closed {
        again: bool,
    },
}

/// The fields that few connections need.
#[derive(Default)]
pub(crate) struct Extras {
    /// Completions, each with the byte count at which its write has reached the kernel.
    pub(crate) flushes: VecDeque<(u64, Completion)>,
    pub(crate) timers: HashSet<TimerKey>,
    /// The callback that receives the detached socket.
    pub(crate) detach: Option<Detach>,
    /// The TLS that begins once all plain output is sent.
    #[cfg(feature = "tls")]
    pub(crate) start_tls: Option<Box<StartTls>>,
    /// The number of bytes that the peer had acknowledged at the last check while the kernel refused output. Only a
    /// change of it has a meaning.
    pub(crate) acknowledged: Option<u64>,
    /// The time at which the handler wants to be called, in milliseconds.
    pub(crate) deadline: Option<u64>,
    /// The error of a write that was offered to the kernel at once.
    pub(crate) send_error: Option<io::Error>,
    /// True while a part of a file is read for it.
    pub(crate) reads_file: bool,
    /// The number of the current request. It distinguishes its deferred answers from those to earlier requests.
    pub(crate) deferral: Option<u64>,
    /// The number of outstanding deferred answers, with codecs that do not report owed answers.
    pub(crate) deferred: usize,
    /// The last request that the codec has refused.
    pub(crate) refused: Option<Refused>,
    /// The connection it is piped to.
    pub(crate) pipe_end: Option<PipeEnd>,
}

/// The TLS session of a connection that is plain until now, and the limit of its handshake.
#[cfg(feature = "tls")]
pub(crate) struct StartTls {
    pub(crate) session: Session,
    pub(crate) limit: Duration,
}

/// A callback that receives a detached socket.
pub(crate) type Detach = Box<dyn FnOnce(Detached)>;

/// The entries of the timer wheel.
pub(crate) enum Timer<H: EventHandler> {
    /// The check of a connection's limits.
    Alarm(ConnId),
    /// A timer of the application on a connection.
    User { id: ConnId, token: u64 },
    /// An interval of the application on a connection.
    Interval(Box<Interval>),
    /// The handler's tick.
    Tick,
    /// Another attempt to accept.
    Accept,
    /// A name lookup has taken too long, or it is time to connect again.
    Dial(DialId),
    /// A task scheduled on the reactor.
    Task(Task<H>),
    /// The end of the drain.
    DrainOver,
}

/// A timer of the application that fires repeatedly.
pub(crate) struct Interval {
    pub(crate) id: ConnId,
    pub(crate) token: u64,
    /// The next due time, as the time since the reactor's start.
    pub(crate) due: Duration,
    pub(crate) period: Duration,
}

pub(crate) type Task<H> = Box<dyn FnOnce(&mut H, &mut Reactor<'_, H>)>;

/// The state of a reactor.
pub(crate) struct Context<H: EventHandler> {
    pub(crate) engine: Engine<H>,
    pub(crate) poll: Poll,
    pub(crate) reactor: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budgets: Budgets,
    pub(crate) limits: LimitSets,
    pub(crate) profiles: KnownProfiles,
    pub(crate) buffers: Buffers,
    pub(crate) udp_sockets: UdpSockets,
    pub(crate) wheel: Wheel<Timer<H>>,
    pub(crate) lists: Lists,
    pub(crate) pipes: Pipes,
    /// Tasks to run once the input of the turn is handled.
    pub(crate) deferred: VecDeque<Task<H>>,
    /// True if `on_turn_end` is to be called.
    pub(crate) wants_turn_end: bool,
    /// True once no connection is made any more, although other reactors may still make some.
    pub(crate) refuses_connects: bool,
    /// The number of bytes that may still be offered to the kernel at once in this turn, on connections where that was done
    /// before in the turn.
    pub(crate) at_once_left: usize,
    pub(crate) decoding: Decoding<H::Codec>,
    /// The number of requests whose answers were deferred.
    pub(crate) deferrals: u64,
    /// The number of connections that a shutdown waits for.
    pub(crate) draining: usize,
    /// For each outbound connection that is not open yet, whether another one of the same dial is.
    pub(crate) races: HashMap<ConnId, Rc<Cell<bool>>>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxied: HashMap<ConnId, Proxied>,
    /// The places of connections that have not passed the steps before `on_open`.
    #[cfg(feature = "cluster")]
    pub(crate) entering: HashMap<ConnId, Entering>,
    /// The checks of the peers of connections that are awaited.
    pub(crate) awaited: HashMap<ConnId, Admits>,
    /// The negotiations of outbound connections that are not open yet.
    pub(crate) negotiations: HashMap<ConnId, Negotiating>,
    pub(crate) time: TurnTime,
}

/// The most bytes that connections may offer to the kernel at once in a turn, apart from the first write of each. Otherwise a
/// callback that writes while there is room would hold the loop as long as its peer reads.
const AT_ONCE_BUDGET: usize = 1 << 20;

/// The memory that a reactor's connections share.
pub(crate) struct Buffers {
    /// The output of this turn.
    pub(crate) arena: Arena,
    /// The pool that lends rings to inboxes and backlogs.
    pub(crate) pool: BufferPool,
    pub(crate) tls_scratch: TlsScratch,
}

/// The lists that callbacks leave for the loop, for this turn or the next.
#[derive(Default)]
pub(crate) struct Lists {
    /// The ready list: connections to serve that no event will announce.
    pub(crate) ready: VecDeque<u32>,
    /// The flush list: connections to flush at the end of the turn.
    pub(crate) dirty: Vec<u32>,
    /// Closed connections. Their slots are freed at the end of the turn.
    pub(crate) closed: Vec<u32>,
    /// The results of the connections that this side made.
    pub(crate) outcomes: VecDeque<(ConnId, Outcome)>,
    /// The outbound connections that callbacks have asked for.
    pub(crate) dials: VecDeque<(DialId, Connect, Endpoint)>,
    /// Slots whose sockets leave the engine, with the received input that was not handled.
    pub(crate) detached: Vec<(u32, Detach, Vec<u8>)>,
    /// Slots on whose sockets TLS begins at the end of the turn. One may be there twice.
    #[cfg(feature = "tls")]
    pub(crate) starting_tls: Vec<u32>,
}

impl Lists {
    /// Puts the connection on the flush list. At the end of the turn it is flushed and takes its next step.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, state: &mut ConnState) {
        if state.mark_dirty() {
            self.dirty.push(state.id.slot() as u32);
        }
    }

    /// Puts the connection on the ready list. It is served although no event announces it.
    pub(crate) fn mark_ready(&mut self, state: &mut ConnState) {
        if state.enqueue() {
            self.ready.push_back(state.id.slot() as u32);
        }
    }
}

/// The state of the decode step under way. The input is out of the connection during it.
#[derive(Debug)]
pub(crate) struct Decoding<C> {
    /// The connection whose input is being decoded.
    pub(crate) of: Option<ConnId>,
    /// The codec that the frame in hand came from, if the handler has switched to another one.
    pub(crate) replaced: Option<C>,
    /// The size of the buffer that was taken out of the inbox. A panic loses it.
    pub(crate) taken: usize,
}

impl<C> Default for Decoding<C> {
    fn default() -> Self {
        Self {
            of: None,
            replaced: None,
            taken: 0,
        }
    }
}

impl<H: EventHandler> Context<H> {
    pub(crate) fn new(
        engine: Engine<H>,
        poll: Poll,
        reactor: usize,
        budgets: Budgets,
        limits: Limits,
        clock: Clock,
    ) -> Self {
        Self {
            metrics: engine.peer(reactor).metrics.clone(),
            engine,
            poll,
            reactor,
            budgets,
            limits: LimitSets::new(limits),
            profiles: KnownProfiles::default(),
            buffers: Buffers {
                arena: Arena::new(),
                pool: BufferPool::new(),
                tls_scratch: TlsScratch::default(),
            },
            udp_sockets: UdpSockets::default(),
            wheel: Wheel::new(TICKS),
            lists: Lists::default(),
            pipes: Pipes::default(),
            deferred: VecDeque::new(),
            wants_turn_end: false,
            refuses_connects: false,
            at_once_left: 0,
            decoding: Decoding::default(),
            deferrals: 0,
            draining: 0,
            races: HashMap::new(),
            #[cfg(feature = "proxy-protocol")]
            proxied: HashMap::new(),
            #[cfg(feature = "cluster")]
            entering: HashMap::new(),
            awaited: HashMap::new(),
            negotiations: HashMap::new(),
            time: TurnTime::new(clock),
        }
    }

    /// Begins a turn: reads the clock, once.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        self.at_once_left = AT_ONCE_BUDGET;
        if let Some(unix_time) = self.time.read() {
            self.buffers.arena.unix_time = Some(unix_time);
        }
    }

    /// Returns the profile of the listener that accepted a connection.
    pub(crate) fn profile(&mut self, origin: Origin) -> Option<&ListenProfile> {
        match origin {
            Origin::Accepted { listener } => {
                let all = &self.engine.shared().profiles;
                self.profiles.get(listener, all)
            }
            _ => None,
        }
    }

    /// Returns the label of the listener of an open connection.
    pub(crate) fn listener_label(&self, listener: usize) -> &str {
        let profile = self.profiles.known(listener);
        profile.map_or("", |profile| &profile.label)
    }

    /// Returns the number of the limits for a new connection of a listener, and counts it as one that uses them.
    pub(crate) fn acquire_limits(&mut self, origin: Origin) -> u16 {
        let Origin::Accepted { listener } = origin else {
            return SERVER;
        };
        let profile = self.profiles.get(listener, &self.engine.shared().profiles);
        let limits = profile.and_then(|profile| profile.limits.as_ref());
        let Some(limits) = limits else {
            return SERVER;
        };
        let number = self.limits.acquire(limits);
        number.or_else(|| self.lacks_limit_set()).unwrap_or(SERVER)
    }

    /// Records that a connection has to do without its own limits, because too many different ones are in use.
    #[cold]
    fn lacks_limit_set(&self) -> Option<u16> {
        self.metrics.limit_sets_lacking.add(1);
        log::warn!(
            target: "epicycle::conn",
            "reactor {}: a connection goes without its own limits, as 65,535 other sets of limits are in use; use fewer \
             different ones",
            self.reactor
        );
        None
    }

    /// Returns the number of the limits that differ from the server's as `own` says. Returns `None` if there are too many
    /// different limits, or if these cannot work.
    pub(crate) fn acquire_over_server(&mut self, own: &ConnLimits) -> Option<u16> {
        let limits = own.over(self.limits.server()).ok()?;
        let number = self.limits.acquire(&limits);
        number.or_else(|| self.lacks_limit_set())
    }

    /// Returns the number of the limits for a new UDP session, and counts it as one that uses them. `idle` replaces the idle
    /// timeout. Returns `None` if there are too many different limits.
    pub(crate) fn acquire_session_limits(
        &mut self,
        limits: &Limits,
        idle: Option<u64>,
    ) -> Option<u16> {
        let idle = idle.unwrap_or(limits.idle);
        let number = self.limits.acquire(&session_limits(limits, idle));
        number.or_else(|| self.lacks_limit_set())
    }

    /// Gives the limits of a connection that ends back.
    pub(crate) fn release_limits(&mut self, state: &mut ConnState) {
        self.limits.release(state.set_limits(SERVER));
    }

    /// Returns the time at which a connection opens. Without limits, the beginning of the turn is exact enough.
    #[inline]
    pub(crate) fn opening_moment(&self, limits: u16) -> u64 {
        if self.limits.get(limits).watch_open {
            self.time.moment()
        } else {
            self.time.now()
        }
    }

    /// Inserts a timer that expires at a whole millisecond.
    pub(crate) fn insert_at(&mut self, moment: u64, timer: Timer<H>) -> TimerKey {
        self.wheel.insert(moment.saturating_mul(TICKS), timer)
    }

    /// Resumes reads, beginning with the input that has arrived meanwhile.
    pub(crate) fn resume(&mut self, link: &mut Link) {
        link.state.on_resumed(self.time.moment());
        self.set_alarm(link);
        self.lists.mark_ready(&mut link.state);
    }

    /// Returns the limits that apply to a connection.
    #[inline]
    pub(crate) fn limits_of(&self, state: &ConnState) -> &Limits {
        self.limits.get(state.limits())
    }

    /// Returns the limit of the connection that has expired, or the time of the next check.
    pub(crate) fn alarm_of(&self, link: &Link) -> Alarm {
        // The activity was stamped with the whole millisecond in which its turn began.
        let late = 1 + self.time.longest_turn_since(link.state.active_at()).max(1);
        let limits = self.limits_of(&link.state);
        let now = self.time.now();
        match (link.state.alarm(now, late, limits), &link.extras) {
            (Alarm::At(at), Some(extras)) if link.state.is_open() => match extras.deadline {
                Some(deadline) if deadline <= now => Alarm::Deadline,
                Some(deadline) => Alarm::At(at.min(deadline)),
                None => Alarm::At(at),
            },
            (alarm, _) => alarm,
        }
    }

    /// Waits for room, because the kernel has refused output. An event reports it.
    ///
    /// # Errors
    ///
    /// The kernel cannot watch the socket for room.
    pub(crate) fn await_room(&mut self, link: &mut Link) -> io::Result<()> {
        if link.state.on_write_would_block(self.time.moment()) {
            self.watch_room(link)?;
        }
        self.set_alarm(link);
        Ok(())
    }

    /// Has events report room, unless they do already.
    pub(crate) fn watch_room(&self, link: &mut Link) -> io::Result<()> {
        let Link { stream, state, .. } = link;
        if !state.watches_room() {
            stream.watch_room(self.poll.registry(), Token(state.id.slot()))?;
            state.set_watches_room();
        }
        Ok(())
    }

    /// Schedules the next check of the connection's limits.
    pub(crate) fn set_alarm(&mut self, link: &mut Link) {
        let due = match self.alarm_of(link) {
            // Acknowledgements of the peer cause no event.
            Alarm::At(tick) if link.state.is_stalled() => {
                tick.min(self.time.now() + self.limits_of(&link.state).check_interval())
            }
            Alarm::At(tick) => tick,
            Alarm::Timeout(_) | Alarm::Deadline | Alarm::DrainOver | Alarm::FinOver => {
                self.time.now()
            }
        };
        if due == NEVER {
            return;
        }
        let deadline = due.saturating_mul(TICKS);
        if let Some(key) = link.alarm
            && let Some(pending) = self.wheel.deadline(key)
        {
            if deadline < pending {
                self.wheel.postpone(key, deadline);
            }
            return;
        }
        link.alarm = Some(self.wheel.insert(deadline, Timer::Alarm(link.state.id)));
    }

    /// Schedules the next check of the connection's limits, after one of them has begun that expires at `due` and no other one has
    /// changed. Mostly an earlier check is scheduled, so nothing else is looked at.
    #[inline]
    pub(crate) fn set_alarm_for(&mut self, link: &mut Link, due: u64) {
        if due == NEVER {
            return;
        }
        let pending = link.alarm.and_then(|key| self.wheel.deadline(key));
        if pending.is_none_or(|pending| pending > due.saturating_mul(TICKS)) {
            self.set_alarm(link);
        }
    }

    /// Schedules the first check for a new connection. Most servers set no limit on its age, so this is cheap.
    #[inline]
    pub(crate) fn set_first_alarm(&mut self, link: &mut Link) {
        if self.limits_of(&link.state).watch_open {
            self.set_alarm(link);
        }
    }

    /// Asks the kernel if the peer has acknowledged bytes since the last check, while output waits that the kernel
    /// has refused. Returns true if the kernel can tell.
    pub(crate) fn check_acknowledged(&self, link: &mut Link) -> bool {
        if !link.state.is_stalled() {
            return false;
        }
        let Some(acknowledged) = link.stream.acknowledged(link.state.bytes_out) else {
            return false;
        };
        let last = &mut link.extras.get_or_insert_default().acknowledged;
        if last.replace(acknowledged) != Some(acknowledged) {
            link.state.on_acknowledged(self.time.moment());
        }
        true
    }

    /// Calls the completions of the writes that the kernel has taken.
    pub(crate) fn complete_flushed(&self, extras: &mut Extras, sent: u64) {
        while extras
            .flushes
            .front()
            .is_some_and(|(position, _)| *position <= sent)
        {
            if let Some((_, done)) = extras.flushes.pop_front() {
                self.complete(done, Ok(()));
            }
        }
    }

    /// Calls a completion. Its panic affects neither the connection nor the other completions.
    pub(crate) fn complete(&self, done: Completion, result: Result<(), WriteError>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| done(result))) {
            self.report_panic(panic, "completion");
        }
    }

    pub(crate) fn report_panic(&self, panic: Box<dyn Any + Send>, what: &str) {
        self.metrics.panics.add(1);
        let what = format!("reactor {}: a {what}", self.reactor);
        panic::report("epicycle::handler", &what, panic);
    }
}

impl<H: EventHandler> Slot<H> {
    /// Lends the connection and its session to a callback. Returns `None` if it has no session.
    #[inline]
    pub(crate) fn lend<'a>(
        &'a mut self,
        cx: &'a mut Context<H>,
        connections: &'a Connections<H>,
    ) -> Option<(Conn<'a, H>, &'a mut H::Session)> {
        let session = self.session.as_mut()?;
        let conn = Conn::new(&mut self.link, &mut self.codec, cx, connections);
        Some((conn, session))
    }
}
