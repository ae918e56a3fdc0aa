//! What a reactor lends to callbacks: everything of its own but the handler and the other connections.

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::{Completion, Conn, Detached, Engine, EventHandler, Reactor, WriteError};
use crate::addr::Addr;
use crate::buf::outbox::Arena;
use crate::buf::pool::BufferPool;
use crate::clock::{Clock, TICKS};
use crate::engine::conn::close::{CloseReason, Refused};
use crate::engine::conn::limits::{Limits, NEVER};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::{Alarm, ConnState};
use crate::engine::connect::DialId;
use crate::engine::pipes::{PipeEnd, Pipes};
use crate::engine::slots::{ConnId, Slots, Tenant};
use crate::engine::stream::{Stream, TlsScratch};
use crate::engine::timer::{TimerKey, Wheel};
use crate::engine::turn_time::TurnTime;
use crate::engine::udp::sockets::UdpSockets;
use crate::metrics::Metrics;
use crate::panic;
use crate::sys::socket::StreamSocket;

/// The connections of a reactor.
pub(crate) type Connections<H> = Slots<Slot<H>>;

/// A connection with all that belongs to it, beginning with what every message needs.
///
/// Aligned to cache lines: with many connections, each line touched is one fetched from far away.
#[repr(C, align(64))]
pub(crate) struct Slot<H: EventHandler> {
    /// None before `on_open` has answered and after `on_close` has taken it.
    pub(crate) session: Option<H::Session>,
    pub(crate) codec: H::Codec,
    pub(crate) link: Link,
}

impl<H: EventHandler> Tenant for Slot<H> {
    fn id(&self) -> ConnId {
        self.link.state.id
    }
}

/// A connection in the loop's hands, with the handler and what the reactor lends to callbacks.
pub(crate) struct Served<'a, H: EventHandler> {
    pub(crate) handler: &'a mut H,
    pub(crate) slot: &'a mut Slot<H>,
    pub(crate) cx: &'a mut Context<H>,
}

impl<'a, H: EventHandler> Served<'a, H> {
    #[inline(always)]
    pub(crate) fn new(handler: &'a mut H, slot: &'a mut Slot<H>, cx: &'a mut Context<H>) -> Self {
        Self { handler, slot, cx }
    }

    /// The connection as callbacks have it.
    #[inline(always)]
    pub(crate) fn conn(&mut self) -> Conn<'_, H> {
        Conn::new(&mut self.slot.link, &mut self.slot.codec, self.cx)
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

/// A connection's state and its socket.
#[repr(C)]
pub(crate) struct Link {
    /// Dropped, and so closed, with the slot at the end of the turn.
    pub(crate) stream: Stream,
    pub(crate) extras: Option<Box<Extras>>,
    pub(crate) state: ConnState,
    /// The pending look at the clock, and when it is due.
    pub(crate) alarm: Option<(TimerKey, u64)>,
}

/// A socket that is to become a connection.
pub(crate) struct Arrival {
    pub(crate) socket: StreamSocket,
    pub(crate) peer: Addr,
    pub(crate) origin: Origin,
}

/// What has become of a connection that this side made.
pub(crate) enum Outcome {
    Opened,
    /// It was never open.
    Failed(CloseReason),
    /// It was open; `again` unless this side has closed it.
    Closed {
        again: bool,
    },
}

/// What few connections have.
#[derive(Default)]
pub(crate) struct Extras {
    /// Waiting for the byte count at which their write has reached the kernel.
    pub(crate) flushes: VecDeque<(u64, Completion)>,
    pub(crate) timers: HashSet<TimerKey>,
    /// Who wants the socket.
    pub(crate) detach: Option<Detach>,
    /// How much the peer had acknowledged at the last look while the kernel refused output: only good to compare with.
    pub(crate) acknowledged: Option<u64>,
    /// A part of a file is being read for it.
    pub(crate) reads_file: bool,
    /// What tells deferred answers to the request at hand from those to earlier ones.
    pub(crate) deferral: Option<u64>,
    /// How many deferred answers are to come, where the codec does not tell what is owed.
    pub(crate) deferred: usize,
    /// What its codec has refused.
    pub(crate) refused: Option<Refused>,
    /// The connection it is joined with.
    pub(crate) pipe_end: Option<PipeEnd>,
}

/// Takes a socket that leaves the engine.
pub(crate) type Detach = Box<dyn FnOnce(Detached)>;

/// What the timer wheel holds.
pub(crate) enum Timer<H: EventHandler> {
    /// A look at a connection's limits.
    Alarm(ConnId),
    /// A timer of the application on a connection.
    User { id: ConnId, token: u64 },
    /// The same, again and again.
    Interval(Box<Interval>),
    /// The handler's tick.
    Tick,
    /// Another attempt to accept.
    Accept,
    /// A name takes too long to resolve, or it is time to connect again.
    Dial(DialId),
    /// Something scheduled on the reactor.
    Task(Task<H>),
    /// The end of the drain.
    DrainOver,
}

/// A timer of the application that comes again.
pub(crate) struct Interval {
    pub(crate) id: ConnId,
    pub(crate) token: u64,
    /// When it is due, as the time since the reactor's start.
    pub(crate) due: Duration,
    pub(crate) period: Duration,
}

pub(crate) type Task<H> = Box<dyn FnOnce(&mut H, &mut Reactor<'_, H>)>;

/// The reactor's own things.
pub(crate) struct Context<H: EventHandler> {
    pub(crate) engine: Engine<H>,
    pub(crate) reactor: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) buffers: Buffers,
    pub(crate) udp_sockets: UdpSockets,
    pub(crate) wheel: Wheel<Timer<H>>,
    pub(crate) lists: Lists,
    pub(crate) pipes: Pipes,
    pub(crate) decoding: Decoding,
    /// How many requests have had their answers deferred.
    pub(crate) deferrals: u64,
    /// How many connections a shutdown waits for.
    pub(crate) draining: usize,
    pub(crate) time: TurnTime,
}

/// The memory that a reactor's connections share.
pub(crate) struct Buffers {
    /// The output of this turn.
    pub(crate) arena: Arena,
    /// Where the rings of inboxes and backlogs come from.
    pub(crate) pool: BufferPool,
    pub(crate) tls_scratch: TlsScratch,
}

/// What callbacks leave for the loop to do, in this turn or the next.
#[derive(Default)]
pub(crate) struct Lists {
    /// Connections with something to do that no event will announce.
    pub(crate) ready: VecDeque<u32>,
    /// Connections to flush at the end of the turn.
    pub(crate) dirty: Vec<u32>,
    /// Closed connections, whose slots are freed at the end of the turn.
    pub(crate) closed: Vec<u32>,
    /// What has become of the connections that this side made.
    pub(crate) outcomes: VecDeque<(ConnId, Outcome)>,
    /// The slots whose sockets leave the engine, with what was received and not handled.
    pub(crate) detached: Vec<(u32, Detach, Vec<u8>)>,
}

impl Lists {
    /// Has the connection flushed, and its state acted upon, at the end of the turn.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, state: &mut ConnState) {
        if state.mark_dirty() {
            self.dirty.push(state.id.slot() as u32);
        }
    }

    /// Has the connection served although no event announces it.
    pub(crate) fn mark_ready(&mut self, state: &mut ConnState) {
        if state.enqueue() {
            self.ready.push_back(state.id.slot() as u32);
        }
    }
}

/// The input under decoding, which no connection holds meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Decoding {
    pub(crate) is_under_way: bool,
    /// The size of the buffer taken out of the inbox, which a panic loses.
    pub(crate) taken: usize,
}

impl<H: EventHandler> Context<H> {
    pub(crate) fn new(engine: Engine<H>, reactor: usize, limits: Limits, clock: Clock) -> Self {
        Self {
            metrics: engine.peer(reactor).metrics.clone(),
            engine,
            reactor,
            limits,
            buffers: Buffers {
                arena: Arena::new(),
                pool: BufferPool::new(),
                tls_scratch: TlsScratch::default(),
            },
            udp_sockets: UdpSockets::default(),
            wheel: Wheel::new(TICKS),
            lists: Lists::default(),
            pipes: Pipes::default(),
            decoding: Decoding::default(),
            deferrals: 0,
            draining: 0,
            time: TurnTime::new(clock),
        }
    }

    /// Reads the clock, once a turn.
    #[inline]
    pub(crate) fn read_clock(&mut self) {
        if let Some(unix_time) = self.time.read() {
            self.buffers.arena.unix_time = Some(unix_time);
        }
    }

    /// The moment at which a connection opens. If it has no limits, the beginning of the turn is near enough.
    #[inline]
    pub(crate) fn opening_moment(&self) -> u64 {
        if self.limits.watch_open {
            self.time.moment()
        } else {
            self.time.now()
        }
    }

    /// Has a timer run out at a millisecond.
    pub(crate) fn insert_at(&mut self, moment: u64, timer: Timer<H>) -> TimerKey {
        self.wheel.insert(moment.saturating_mul(TICKS), timer)
    }

    /// Sees that input is read again, beginning with what has arrived meanwhile.
    pub(crate) fn resume(&mut self, link: &mut Link) {
        link.state.on_resumed(self.time.moment());
        self.set_alarm(link);
        self.lists.mark_ready(&mut link.state);
    }

    /// The limits a connection lives under.
    #[inline]
    pub(crate) fn limits_of(&self, stream: &Stream) -> &Limits {
        let own = stream
            .datagram()
            .and_then(|d| self.udp_sockets.limits(d.port));
        own.unwrap_or(&self.limits)
    }

    /// Which of the connection's limits has run out, or when to look again.
    pub(crate) fn alarm_of(&self, link: &Link) -> Alarm {
        // It was stamped with the whole millisecond in which its turn began.
        let late = 1 + self.time.longest_turn_since(link.state.active_at()).max(1);
        let limits = self.limits_of(&link.stream);
        link.state.alarm(self.time.now(), late, limits)
    }

    /// Sees that the connection's limits are looked at in time.
    pub(crate) fn set_alarm(&mut self, link: &mut Link) {
        let due = match self.alarm_of(link) {
            // What the peer acknowledges meanwhile makes no event.
            Alarm::At(tick) if link.state.is_stalled() => {
                tick.min(self.time.now() + self.limits.look_every())
            }
            Alarm::At(tick) => tick,
            Alarm::Timeout(_) | Alarm::DrainOver | Alarm::FinOver => self.time.now(),
        };
        if due == NEVER {
            return;
        }
        if let Some((key, pending)) = link.alarm {
            if pending <= due {
                return;
            }
            self.wheel.cancel(key);
        }
        let key = self.insert_at(due, Timer::Alarm(link.state.id));
        link.alarm = Some((key, due));
    }

    /// The same for a new connection, which most servers let live as long as it likes.
    #[inline]
    pub(crate) fn set_first_alarm(&mut self, link: &mut Link) {
        if self.limits_of(&link.stream).watch_open {
            self.set_alarm(link);
        }
    }

    /// Asks the kernel whether the peer has acknowledged something since the last look, if output waits that it has refused.
    /// Returns whether it can tell.
    pub(crate) fn look_for_acknowledgement(&self, link: &mut Link) -> bool {
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

    /// Tells those whose write is in the kernel by now.
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

    /// Calls a completion; its panic concerns neither the connection nor the other completions.
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
    /// Lends the connection and its session to a callback, unless it has no session.
    #[inline]
    pub(crate) fn lend<'a>(
        &'a mut self,
        cx: &'a mut Context<H>,
    ) -> Option<(Conn<'a, H>, &'a mut H::Session)> {
        let session = self.session.as_mut()?;
        Some((Conn::new(&mut self.link, &mut self.codec, cx), session))
    }
}
