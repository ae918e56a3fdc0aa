//! The event loop. One turn: poll, serve ready connections, run requests of other threads, fire timers, flush.

mod awaiting;
mod commands;
mod datagrams;
mod dial;
mod events;
mod files;
mod flush;
mod negotiating;
mod opening;
mod pipe;
mod serve;
#[cfg(feature = "testing")]
mod simulated;
mod spin;
#[cfg(feature = "tls")]
mod starting_tls;

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Poll, Token};

use self::datagrams::DatagramIo;
use self::dial::Dials;
use self::events::Event;
use self::flush::{Flushed, flush_staged};
use self::serve::Budget;
use crate::clock::{self, Clock};
use crate::engine::conn::limits::{Budgets, Limits};
use crate::engine::handler::context::{Connections, Context, Interval, Served, Slot, Timer};
use crate::engine::handler::{Command, Engine, EventHandler, Reactor};
use crate::engine::listen::listeners::{ACCEPT_BUDGET, AcceptOutcome, Listeners};
use crate::engine::slots::{ConnId, MAX_SLOTS};
use crate::engine::timer::TimerKey;
use crate::engine::turn_time::tick_at;
use crate::engine::udp::sockets::{PORTS, UdpSockets};
use crate::sys::options::SocketOptions;
use crate::sys::poll_timer::PollTimer;
use crate::sys::stack::NetworkStack;

/// The token of the mailbox's waker.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// The token of the timer that ends the poll on time. Its event needs no action.
const TIMER: Token = Token(usize::MAX - 1);

/// The token of the first listener. Smaller tokens are the slots of connections.
pub(crate) const LISTENERS: usize = MAX_SLOTS;

/// Few enough that a connection's cache lines are still in the cache in the flush phase.
const EVENTS_PER_POLL: usize = 128;

/// The parts of an event loop.
pub(crate) struct Parts<H: EventHandler> {
    pub(crate) poll: Poll,
    pub(crate) engine: Engine<H>,
    pub(crate) clock: Clock,
    pub(crate) index: usize,
    pub(crate) budgets: Budgets,
    pub(crate) limits: Limits,
    /// The listeners of a reactor that accepts by itself. Their tokens begin at [`LISTENERS`].
    pub(crate) listeners: Listeners,
    /// True if there is no main reactor.
    pub(crate) accepts_itself: bool,
    /// The UDP sockets. They are watched as well.
    pub(crate) udp_sockets: UdpSockets,
    /// The options of outbound sockets.
    pub(crate) socket: SocketOptions,
    /// Makes the outbound sockets.
    pub(crate) stack: NetworkStack,
    pub(crate) read_buffer: usize,
    pub(crate) first_tick: Duration,
    /// The time for which it polls without waiting before it blocks.
    pub(crate) spin: Duration,
}

/// A reactor: its connections, its handler, and the state that it lends to callbacks.
pub(crate) struct EventLoop<H: EventHandler> {
    handler: H,
    connections: Connections<H>,
    cx: Context<H>,
    listeners: Listeners,
    /// True if it accepts by itself and has not stopped.
    accepts_itself: bool,
    /// The buffer into which input is received and decoded. Only leftovers are copied out of it.
    scratch: Box<[u8]>,
    commands: VecDeque<Command<H>>,
    dials: Dials,
    /// Receives and sends datagrams. None until there are any.
    datagram_io: Option<Box<DatagramIo>>,
    stage: ShutdownStage,
    /// True once the engine knows that this reactor waits for no answer.
    is_settled: bool,
    /// The slot at which the shutdown continues to close connections. None if it has examined all.
    next_to_close: Option<usize>,
    timer: PollTimer,
    /// The time for which it polls without waiting before it blocks.
    spin: Duration,
    /// The interval that the handler's last tick returned, and the due time of the next tick, as the time since the
    /// start.
    last_tick: Duration,
    tick_due: Duration,
    turn: Turn,
}

/// The progress of a turn. After a panic of a callback, the turn continues here and does not start over.
struct Turn {
    events_done: usize,
    ready_left: usize,
    /// None before the first check of the UDP sockets.
    udp_sockets_left: Option<usize>,
    commands_left: usize,
    timers_left: usize,
    /// None before the first of the deferred tasks.
    deferred_left: Option<usize>,
    flushed: usize,
    drain_mailbox: bool,
    /// The slot of the connection whose callback is running, or `NOBODY`.
    serving: usize,
}

const NOBODY: usize = usize::MAX;

impl Turn {
    fn new() -> Self {
        Self {
            events_done: 0,
            ready_left: 0,
            udp_sockets_left: None,
            commands_left: 0,
            timers_left: TIMER_BUDGET,
            deferred_left: None,
            flushed: 0,
            drain_mailbox: false,
            serving: NOBODY,
        }
    }
}

/// The progress of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShutdownStage {
    /// No shutdown has been asked for.
    Running,
    /// Asked to stop. Next, the connections on which nobody waits are closed.
    Stopping,
    /// The other connections continue until the answers have come. Answers may need further connections.
    Answering,
    /// No more connections are made, and nobody waits on those that are open.
    Draining,
}

/// The shortest time to the next tick after a tick that panicked.
const TICK_AFTER_PANIC: Duration = Duration::from_secs(1);

/// The length from which a turn counts as long, in nanoseconds.
const LONG_TURN: u64 = 1_000_000;

/// The most requests of other threads that run in one turn.
const COMMAND_BUDGET: usize = 1024;

/// The most connections that a shutdown begins to close in one turn.
const CLOSE_BUDGET: usize = 1024;

/// The most timers that fire in one turn.
const TIMER_BUDGET: usize = 1024;

impl<H: EventHandler> EventLoop<H> {
    /// Makes the loop and its handler, on the thread that will run it.
    pub(crate) fn boot(
        parts: Parts<H>,
        factory: &dyn Fn(usize) -> H,
    ) -> Result<Self, Box<dyn Any + Send>> {
        catch_unwind(AssertUnwindSafe(|| {
            let mut event_loop = Self {
                handler: factory(parts.index),
                connections: Connections::new(parts.index),
                cx: Context::new(
                    parts.engine,
                    parts.poll,
                    parts.index,
                    parts.budgets,
                    parts.limits,
                    parts.clock,
                ),
                listeners: parts.listeners,
                accepts_itself: parts.accepts_itself,
                scratch: vec![0; parts.read_buffer].into_boxed_slice(),
                commands: VecDeque::new(),
                dials: Dials::new(parts.socket, parts.stack),
                datagram_io: None,
                stage: ShutdownStage::Running,
                is_settled: false,
                next_to_close: None,
                timer: PollTimer::default(),
                spin: parts.spin,
                last_tick: parts.first_tick,
                tick_due: Duration::ZERO,
                turn: Turn::new(),
            };
            let Self {
                handler,
                connections,
                cx,
                ..
            } = &mut event_loop;
            cx.udp_sockets = parts.udp_sockets;
            handler.on_boot(&mut Reactor::new(connections, cx));
            let shared = cx.engine.shared();
            shared.unsettled.fetch_add(1, Ordering::AcqRel);
            event_loop.tick_after(event_loop.cx.time.clock.elapsed(), parts.first_tick);
            event_loop
        }))
    }

    /// Runs until the engine is shut down and the last connection is gone.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut resuming = false;
        loop {
            // One guard around the whole loop costs nothing while nothing panics.
            let run = catch_unwind(AssertUnwindSafe(|| {
                if resuming {
                    self.finish_turn(events.iter());
                }
                while !self.is_done() {
                    self.begin_turn(&mut events);
                    self.finish_turn(events.iter());
                }
            }));
            match run {
                Ok(()) => break,
                Err(panic) => self.recover(panic),
            }
            resuming = true;
        }
        self.end();
        let Self { handler, cx, .. } = self;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handler))) {
            cx.report_panic(panic, "handler's drop");
        }
    }

    fn is_done(&self) -> bool {
        self.stage == ShutdownStage::Draining
            && self.connections.len() == 0
            && self.cx.lists.dials.is_empty()
            && self.cx.lists.outcomes.is_empty()
            && self.dials.are_reported()
    }

    /// Waits for events.
    fn begin_turn(&mut self, events: &mut Events) {
        let mut timeout = self.timeout();
        if !self.spin.is_zero() && timeout != Some(Duration::ZERO) {
            if self.spin(events, timeout) {
                return self.enter_turn(timeout);
            }
            timeout = self.timeout_after_spin();
        }
        let limit = timeout.map(|timeout| self.limit(timeout));
        if let Err(error) = self.cx.poll.poll(events, limit)
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!(target: "epicycle::reactor", "poll failed: {error}");
        }
        self.enter_turn(timeout);
    }

    /// Begins a turn after a sleep of at most `timeout`.
    #[inline]
    fn enter_turn(&mut self, timeout: Option<Duration>) {
        self.cx.begin_turn();
        self.cx.engine.peer(self.cx.reactor).mailbox.set_awake();
        self.turn = Turn {
            ready_left: self.cx.lists.ready.len(),
            drain_mailbox: timeout == Some(Duration::ZERO),
            ..Turn::new()
        };
    }

    /// Does everything that is due. After a panic it is called again, and continues behind the callback that
    /// panicked.
    fn finish_turn<'e, E: Event + 'e>(&mut self, events: impl Iterator<Item = &'e E>) {
        self.serve_events(events);
        self.serve_ready();
        self.serve_udp_sockets();
        self.run_commands();
        self.run_timers();
        self.follow_dials();
        if self.stage != ShutdownStage::Running {
            self.follow_shutdown();
        }
        self.accept();
        self.run_pipes();
        if !self.cx.deferred.is_empty() || self.cx.wants_turn_end {
            self.run_deferred();
        }
        self.flush_udp_sockets();
        if !self.cx.lists.dirty.is_empty() {
            self.flush_all();
        }
        self.free_closed();
        self.account();
    }

    /// Runs the tasks that are deferred by now, then `on_turn_end` if it was asked for. Tasks that they defer run in the
    /// next turn.
    #[inline(never)]
    fn run_deferred(&mut self) {
        let waiting = self.cx.deferred.len();
        self.turn.deferred_left.get_or_insert(waiting);
        while let Some(left @ 1..) = &mut self.turn.deferred_left {
            *left -= 1;
            if let Some(task) = self.cx.deferred.pop_front() {
                task(
                    &mut self.handler,
                    &mut Reactor::new(&self.connections, &mut self.cx),
                );
            }
            self.run_pipes();
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        }
        if std::mem::take(&mut self.cx.wants_turn_end) {
            self.handler
                .on_turn_end(&mut Reactor::new(&self.connections, &mut self.cx));
            self.run_pipes();
        }
    }

    #[cold]
    #[inline(never)]
    fn timeout_after_spin(&mut self) -> Option<Duration> {
        self.timeout()
    }

    /// Returns the time to sleep, which is zero while there is something to do.
    #[inline(always)]
    fn timeout(&mut self) -> Option<Duration> {
        let mailbox = &self.cx.engine.peer(self.cx.reactor).mailbox;
        if !self.cx.lists.ready.is_empty()
            || !self.cx.pipes.tasks.is_empty()
            || !self.cx.deferred.is_empty()
            || self.cx.wants_turn_end
            || !self.commands.is_empty()
            || !self.cx.lists.dials.is_empty()
            || !self.cx.lists.outcomes.is_empty()
            || !self.dials.are_reported()
            || self.next_to_close.is_some()
            || self.must_report_settled()
            || self.listeners.are_ready()
            || self.cx.udp_sockets.have_work()
            || self.cx.wheel.has_expired()
            || !mailbox.try_sleep()
        {
            return Some(Duration::ZERO);
        }
        let deadline = self.cx.wheel.next_deadline()?;
        Some(self.cx.time.until(deadline))
    }

    /// Returns the time that the poll may wait, of the time to sleep.
    fn limit(&mut self, timeout: Duration) -> Duration {
        if timeout.is_zero() || !self.cx.wheel.has_fine() {
            return timeout;
        }
        match self.cx.wheel.next_deadline() {
            Some(deadline) => {
                let registry = self.cx.poll.registry();
                self.timer.limit(registry, TIMER, deadline, timeout)
            }
            None => timeout,
        }
    }

    // Out of line, so that the rest of the turn takes no registers from the loop over the events.
    #[inline(never)]
    fn serve_events<'e, E: Event + 'e>(&mut self, mut events: impl Iterator<Item = &'e E>) {
        if let Some(last) = self.turn.events_done.checked_sub(1) {
            events.nth(last);
        }
        for event in events {
            self.turn.events_done += 1;
            self.serve_event(event);
        }
        self.turn.serving = NOBODY;
    }

    #[inline(always)]
    fn serve_event(&mut self, event: &impl Event) {
        let token = event.token().0;
        if self.serve_connection(token, event) {
            self.run_pipes();
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        } else if event.token() == WAKER {
            self.turn.drain_mailbox = true;
        } else if let Some(port) = token.checked_sub(PORTS) {
            // A read returns the error.
            let readable = event.is_readable() || event.is_error();
            self.cx
                .udp_sockets
                .on_event(port, readable, event.is_writable());
        } else if let Some(listener) = token.checked_sub(LISTENERS) {
            self.listeners.mark_ready(listener);
        }
        // An unknown token is possible: a copy of a closed connection's descriptor, for example in a forked child,
        // still causes events.
    }

    /// Serves the connection in a slot. Returns false if there is none: the tokens of the waker, the listeners and the
    /// UDP sockets are greater than any slot.
    #[inline(always)]
    fn serve_connection(&mut self, index: usize, event: &impl Event) -> bool {
        let Self {
            handler,
            connections,
            cx,
            scratch,
            turn,
            ..
        } = self;
        let Some(mut place) = connections.place(index) else {
            return false;
        };
        let Some(slot) = &mut *place else {
            return false;
        };
        turn.serving = index;
        let mut served = Served::new(handler, slot, cx, connections);
        if event.is_priority() {
            served.slot.link.state.on_urgent();
        }
        if event.is_readable() && !event.is_read_closed() {
            served.slot.link.state.on_readable(event.is_writable());
        } else {
            served.slot.link.state.on_event(
                event.is_readable(),
                event.is_writable(),
                event.is_read_closed(),
            );
            if event.is_error() {
                served.on_error();
            }
        }
        served.serve(scratch);
        served.slot.link.state.check();
        true
    }

    /// Calls `serve` with the connection in a slot and the scratch buffer. If that panics, the connection is closed. Does
    /// nothing if there is no connection.
    #[inline]
    fn with_slot(&mut self, index: usize, serve: impl FnOnce(&mut Served<'_, H>, &mut [u8])) {
        let Self {
            handler,
            connections,
            cx,
            scratch,
            turn,
            ..
        } = self;
        if let Some(mut slot) = connections.at(index) {
            turn.serving = index;
            serve(
                &mut Served::new(handler, &mut slot, cx, connections),
                scratch,
            );
            turn.serving = NOBODY;
        }
    }

    /// Calls `serve` as [`with_slot`](Self::with_slot) does, if the slot still belongs to this connection.
    fn with_conn(&mut self, id: ConnId, serve: impl FnOnce(&mut Served<'_, H>, &mut [u8])) {
        self.with_slot(id.slot(), |served, scratch| {
            if served.slot.link.state.id == id {
                serve(served, scratch);
            }
        });
    }

    fn serve_ready(&mut self) {
        while self.turn.ready_left > 0 {
            self.turn.ready_left -= 1;
            let Some(index) = self.cx.lists.ready.pop_front() else {
                break;
            };
            let index = index as usize;
            self.with_slot(index, |served, scratch| {
                served.slot.link.state.dequeue();
                let budget = Budget::new(served.cx.budgets);
                served.serve_fully(scratch, budget);
                served.slot.link.state.check();
            });
            self.run_pipes();
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        }
        self.turn.serving = NOBODY;
    }

    /// Fires the timers that are due, within the budget. The rest fires in the next turn, before the timers that
    /// become due until then.
    fn run_timers(&mut self) {
        self.cx.wheel.advance(self.cx.time.tick());
        while self.turn.timers_left > 0
            && let Some((key, timer)) = self.cx.wheel.peek_expired()
        {
            self.turn.timers_left -= 1;
            if let Timer::Interval(interval) = timer {
                let Interval { id, token, .. } = **interval;
                // Filed again before the call, so that a panic does not end it. Filed anew if the call has taken
                // longer than a period.
                self.renew(key);
                self.fire_timer(id, token);
                self.renew(key);
            } else if let Some((key, timer)) = self.cx.wheel.pop_expired() {
                self.run_timer(key, timer);
            }
            self.run_pipes();
            if self.cx.buffers.arena.is_full() {
                self.flush_all();
            }
        }
    }

    /// Files an interval again that still exists and has passed its due time.
    fn renew(&mut self, key: TimerKey) {
        let now = self.cx.time.clock.elapsed();
        if let Some(Timer::Interval(interval)) = self.cx.wheel.get_mut(key)
            && interval.due <= now
        {
            interval.due = clock::next_on_grid(interval.due, interval.period, now);
            let deadline = tick_at(interval.due, interval.period);
            self.cx.wheel.postpone(key, deadline);
        }
    }

    /// Schedules the handler's tick `delay` after a time since the start.
    fn tick_after(&mut self, since: Duration, delay: Duration) -> TimerKey {
        self.last_tick = delay;
        self.tick_due = clock::next_on_grid(since, delay, self.cx.time.clock.elapsed());
        let deadline = tick_at(self.tick_due, delay);
        self.cx.wheel.insert(deadline, Timer::Tick)
    }

    fn run_timer(&mut self, key: TimerKey, timer: Timer<H>) {
        let Self {
            handler,
            connections,
            cx,
            scratch,
            ..
        } = self;
        match timer {
            Timer::Alarm(id) => {
                if let Some(mut slot) = connections.get(id) {
                    slot.link.alarm = None;
                    self.turn.serving = id.slot();
                    let known = cx.check_acknowledged(&mut slot.link);
                    let alarm = cx.alarm_of(&slot.link);
                    if slot.link.state.may_have_traffic(alarm, known) {
                        slot.link.state.on_event(true, true, false);
                        let budget = Budget::new(cx.budgets);
                        Served::new(handler, &mut slot, cx, connections)
                            .serve_fully(scratch, budget);
                    }
                    Served::new(handler, &mut slot, cx, connections).on_alarm();
                    slot.link.state.check();
                    self.turn.serving = NOBODY;
                }
            }
            Timer::User { id, token } => {
                if let Some(mut slot) = connections.get(id)
                    && let Some(extras) = &mut slot.link.extras
                {
                    extras.timers.remove(&key);
                }
                self.fire_timer(id, token);
            }
            // It stays in the wheel and fires from there.
            Timer::Interval(_) => {}
            Timer::Tick => self.run_tick(),
            Timer::Accept => self.listeners.unblock(),
            Timer::Dial(id) => self.redial(id),
            Timer::Task(task) => task(handler, &mut Reactor::new(connections, cx)),
            Timer::DrainOver => self.force_all(),
        }
    }

    /// Fires a timer of the application on a connection.
    fn fire_timer(&mut self, id: ConnId, token: u64) {
        self.with_conn(id, |served, _| served.fire_timer(token));
    }

    fn run_tick(&mut self) {
        let (due, now) = (self.tick_due, self.cx.time.clock.elapsed());
        // Scheduled again before the call, so that a panic does not end the ticks.
        let pending = self.tick_after(now, self.last_tick.max(TICK_AFTER_PANIC));
        let mut reactor = Reactor::new(&self.connections, &mut self.cx);
        let delay = self.handler.tick(&mut reactor);
        self.cx.wheel.cancel(pending);
        if let Some(delay) = delay {
            self.tick_after(due, delay);
        }
    }

    fn accept(&mut self) {
        if !self.listeners.are_ready() {
            return;
        }
        for _ in 0..ACCEPT_BUDGET {
            let cx = &self.cx;
            let admission = &cx.engine.shared().admission;
            match self.listeners.accept(admission, &cx.metrics) {
                AcceptOutcome::Connection(accepted) => {
                    let load = &cx.engine.peer(cx.reactor).load;
                    load.fetch_add(1, Ordering::Relaxed);
                    self.open(accepted.into());
                }
                AcceptOutcome::Failed => {}
                AcceptOutcome::NoneWaits => break,
            }
        }
        if let Some(pause) = self.listeners.take_pause() {
            let retry = self.cx.time.deadline(pause);
            self.cx.wheel.insert(retry, Timer::Accept);
        }
    }

    /// The flush phase. Each connection with output gets one write, or takes its next step.
    fn flush_all(&mut self) {
        while let Some(&index) = self.cx.lists.dirty.get(self.turn.flushed) {
            self.turn.flushed += 1;
            let index = index as usize;
            self.turn.serving = index;
            // The usual case calls nothing that could borrow it, so it needs no borrow either.
            let Some(slot) = self.connections.at_mut(index) else {
                continue;
            };
            slot.link.state.clear_dirty();
            match flush_staged(&mut self.handler, slot, &mut self.cx) {
                Flushed::Done => slot.link.state.check(),
                rest => self.continue_flush(index, rest),
            }
        }
        self.turn.serving = NOBODY;
        self.turn.flushed = 0;
        self.cx.lists.dirty.clear();
        self.cx.buffers.arena.clear();
    }

    /// Continues a flush that needs more than the usual.
    #[inline(never)]
    fn continue_flush(&mut self, index: usize, flushed: Flushed) {
        self.with_slot(index, |served, _| {
            served.continue_flush(flushed);
            served.slot.link.state.check();
        });
    }

    fn free_closed(&mut self) {
        #[cfg(feature = "tls")]
        while let Some(index) = self.cx.lists.starting_tls.pop() {
            self.start_tls(index);
        }
        while let Some((index, then, unread)) = self.cx.lists.detached.pop() {
            self.release_socket(index, then, unread);
        }
        while let Some(index) = self.cx.lists.closed.pop() {
            self.connections.free(index as usize);
        }
        self.close_udp_sockets();
    }

    fn account(&mut self) {
        let busy = self.cx.time.nanos_of_turn();
        if busy >= LONG_TURN {
            self.cx.time.note_long_turn(busy);
        }
        let metrics = &self.cx.metrics;
        metrics.turns.add(1);
        metrics.busy.add_nanos(busy);
        metrics.lag.set_nanos(busy);
        metrics.max_lag.raise_nanos(busy);
        metrics.buffered.set(self.cx.buffers.pool.lent() as u64);
        metrics.timers.set(self.cx.wheel.len() as u64);
        metrics.kernel_pipes.set(self.cx.pipes.open() as u64);
    }

    /// Closes the connection whose callback panicked. The turn then continues.
    #[cold]
    fn recover(&mut self, panic: Box<dyn Any + Send>) {
        let decoding = std::mem::take(&mut self.cx.decoding);
        self.cx.buffers.pool.forget(decoding.taken);
        let serving = std::mem::replace(&mut self.turn.serving, NOBODY);
        let what = match self.connections.at(serving) {
            Some(slot) => format!("callback of {}", slot.link.state.name()),
            None => "callback".to_owned(),
        };
        self.cx.report_panic(panic, &what);
        if let Some(mut slot) = self.connections.at(serving) {
            let Slot { link, codec, .. } = &mut *slot;
            self.cx.close_panicked(link, codec);
        }
    }
}
