//! What a reactor does: opens its connections, keeps requests under way on them, and counts the answers.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, Engine, EventHandler, FailedConnect, Frame, Reactor,
};
use rustix::time::{ClockId, clock_gettime};

use super::plan::{Nanos, Plan, Schedule};
use super::tally::{Failure, Tally, Window};
use super::wire::{Heard, Wire};

/// What a reactor tells the main thread.
pub(crate) enum Event {
    /// Each of its connections is ready for requests, or was not made; how many are, and why one is not.
    Ready(usize, Option<String>),
    /// All is done, and this was counted.
    Done(Box<Tally>),
    /// Somebody has pressed ctrl-c.
    Interrupt,
}

/// What is seen of it while it works.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) answers: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// The handler of a reactor.
pub(crate) struct Driver<W: Wire> {
    wire: W,
    plan: Arc<Plan>,
    reactor: usize,
    events: Sender<Event>,
    live: Arc<Live>,
    engine: Option<Engine<Self>>,
    phase: Phase,
    pace: Pace,
    /// The beginning of the warm-up, once it is known.
    epoch: Option<Instant>,
    /// Whether the main thread knows that the connections are made.
    told: bool,
    tally: Tally,
    /// Answers since the last look, those before the window included.
    answers: u64,
    errors_told: u64,
    /// Requests under way.
    under_way: usize,
    /// Connections that are being made, and those that are ready for requests.
    opening: usize,
    ready: usize,
    /// Attempts that failed before the beginning.
    failed: usize,
    /// Open, but still to be ready.
    greeting: usize,
    /// No connection is made before.
    redial_at: Instant,
    next_sweep: Instant,
    /// In an open loop: connections with room, the one that has waited longest first.
    idle: VecDeque<ConnId>,
    /// At the beginning of the window.
    begun: Option<Meter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// Everything is there but the beginning.
    Ready,
    Running,
    /// Nothing more is sent; answers are waited for until then.
    Draining(Nanos),
    Done,
}

enum Pace {
    Closed,
    Open(Schedule),
}

/// A request that is not answered yet.
struct Request {
    due: Nanos,
    sent: Nanos,
}

pub(crate) struct Session<W: Wire> {
    state: W::State,
    opened: Instant,
    ready: bool,
    /// Whether the driver knows that it has room.
    listed: bool,
    /// Whether it has answered anything.
    useful: bool,
    timed_out: bool,
    nonsense: Option<&'static str>,
    under_way: VecDeque<Request>,
}

/// What the reactor has used so far.
struct Meter {
    bytes_in: u64,
    bytes_out: u64,
    cpu: Duration,
}

/// As many connections are made at a time, lest the server's queue overflow.
const OPENING_AT_ONCE: usize = 64;

/// How long to leave a server alone that takes no connection.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// How often timeouts are looked for, and progress is told.
const SWEEP: Duration = Duration::from_millis(100);

impl<W: Wire> Driver<W> {
    pub(crate) fn new(
        wire: W,
        plan: Arc<Plan>,
        reactor: usize,
        events: Sender<Event>,
        live: Arc<Live>,
    ) -> Self {
        let now = Instant::now();
        let pace = match plan.rate {
            Some(rate) => Pace::Open(Schedule::new(rate, reactor, plan.reactors)),
            None => Pace::Closed,
        };
        Self {
            wire,
            reactor,
            events,
            live,
            engine: None,
            phase: Phase::Connecting,
            pace,
            epoch: None,
            told: false,
            tally: Tally::new(Window::new(plan.warm_up, plan.duration)),
            answers: 0,
            errors_told: 0,
            under_way: 0,
            opening: 0,
            ready: 0,
            failed: 0,
            greeting: 0,
            redial_at: now,
            next_sweep: now + SWEEP,
            idle: VecDeque::new(),
            begun: None,
            plan,
        }
    }

    /// The warm-up begins at `epoch`, on all reactors.
    pub(crate) fn begin(&mut self, epoch: Instant) {
        self.epoch = Some(epoch);
        self.phase = Phase::Ready;
    }

    /// Ends it at that moment, with what there is by then.
    pub(crate) fn interrupt(&mut self, until: Nanos) {
        if matches!(self.phase, Phase::Ready | Phase::Running) {
            self.tally.cut(until);
        }
    }

    /// 0 before the beginning.
    #[inline]
    fn now(&self) -> Nanos {
        self.epoch
            .map_or(0, |epoch| epoch.elapsed().as_nanos() as Nanos)
    }

    /// Makes the connections, and tells when that is done.
    fn connect(&mut self) {
        self.dial(Instant::now());
        let settled = self.ready + self.failed >= self.plan.share(self.reactor);
        if settled && !mem::replace(&mut self.told, true) {
            let why = self.tally.connect_failures.keys().next().cloned();
            // The main thread may have given up already.
            let _ = self.events.send(Event::Ready(self.ready, why));
        }
    }

    /// Makes the connections that are missing, a few at a time.
    fn dial(&mut self, now: Instant) {
        while now >= self.redial_at && self.opening < self.missing().min(OPENING_AT_ONCE) {
            let Some(engine) = self.engine.clone() else {
                return;
            };
            match engine.connect_on(self.reactor, self.plan.connect()) {
                Ok(_) => self.opening += 1,
                Err(error) => self.connect_failed(error.to_string()),
            }
        }
    }

    /// How many connections there should be more, those being made included.
    fn missing(&self) -> usize {
        let given_up = match self.phase {
            Phase::Connecting => self.failed,
            _ => 0,
        };
        let there = self.ready + self.greeting + given_up;
        self.plan.share(self.reactor).saturating_sub(there)
    }

    #[cold]
    fn connect_failed(&mut self, why: String) {
        if self.phase == Phase::Connecting {
            self.failed += 1;
        } else {
            self.redial_at = Instant::now() + REDIAL_PAUSE;
        }
        self.tally.connect_failed(why);
    }

    /// The connection can take requests.
    fn become_ready(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>) {
        session.ready = true;
        self.greeting -= 1;
        self.ready += 1;
        self.tally.connected += 1;
        if self.phase == Phase::Running {
            let now = self.now();
            self.feed(conn, session, now);
        } else {
            self.list(conn.id(), session);
        }
    }

    /// Notes that the connection has room for a request.
    fn list(&mut self, id: ConnId, session: &mut Session<W>) {
        if matches!(self.pace, Pace::Open(_)) && !mem::replace(&mut session.listed, true) {
            self.idle.push_back(id);
        }
    }

    /// Sends on this connection what is due, as far as it has room.
    #[inline]
    fn feed(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>, now: Nanos) {
        while session.under_way.len() < self.plan.pipeline {
            if !self.send(conn, session, now) {
                break;
            }
        }
        if session.under_way.len() < self.plan.pipeline {
            self.list(conn.id(), session);
        }
    }

    /// Sends the next request if one is due and the connection takes it.
    #[inline]
    fn send(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>, now: Nanos) -> bool {
        let due = match &self.pace {
            Pace::Closed => now,
            Pace::Open(schedule) => schedule.due(),
        };
        if due > now || due >= self.tally.window.until || self.phase != Phase::Running {
            return false;
        }
        // A connection that takes no more says at its end what has become of it.
        if self.wire.ask(conn).is_err() {
            return false;
        }
        if let Pace::Open(schedule) = &mut self.pace {
            schedule.advance();
            if self.tally.window.has(due) {
                self.tally.lateness.saturating_record(now - due);
            }
        }
        session.under_way.push_back(Request { due, sent: now });
        self.under_way += 1;
        true
    }

    /// An open loop: sends what is due on the connections that have room, one after the other.
    fn pump(&mut self, reactor: &mut Reactor<'_, Self>, now: Nanos) {
        while let Pace::Open(schedule) = &self.pace
            && schedule.due() <= now
            && let Some(id) = self.idle.pop_front()
        {
            reactor.with(id, |conn, session| {
                session.listed = false;
                if self.send(conn, session, now) && session.under_way.len() < self.plan.pipeline {
                    self.list(id, session);
                }
            });
        }
    }

    /// The oldest request of the connection is answered; false if there is none.
    #[inline]
    fn settle(&mut self, session: &mut Session<W>, now: Nanos, failure: Option<Failure>) -> bool {
        let Some(request) = session.under_way.pop_front() else {
            return false;
        };
        self.under_way -= 1;
        match failure {
            None => {
                session.useful = true;
                self.answers += 1;
                self.tally.answered(request.due, now);
            }
            Some(failure) => self.tally.failed(request.due, failure, 1),
        }
        true
    }

    /// Begins, measures and ends the phases; says when to look again.
    fn step(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        let clock = Instant::now();
        match self.phase {
            Phase::Connecting => self.connect(),
            Phase::Ready if self.epoch.is_some_and(|epoch| clock >= epoch) => {
                self.phase = Phase::Running;
                let now = self.now();
                if matches!(self.pace, Pace::Closed) {
                    reactor.for_each(|conn, session| {
                        if session.ready {
                            self.feed(conn, session, now);
                        }
                    });
                }
            }
            Phase::Ready | Phase::Running | Phase::Draining(_) => {}
            Phase::Done => return None,
        }
        if clock >= self.next_sweep {
            self.next_sweep = clock + SWEEP;
            self.sweep(reactor, clock);
        }
        let now = self.now();
        if self.phase == Phase::Running {
            self.dial(clock);
            self.pump(reactor, now);
            if self.begun.is_none() && now >= self.tally.window.from {
                self.begun = Some(Meter::read(reactor));
            }
            if now >= self.tally.window.until {
                self.stop_sending(reactor);
            }
        }
        if let Phase::Draining(until) = self.phase
            && (self.under_way == 0 || now >= until)
        {
            self.finish(reactor);
            return None;
        }
        Some(self.pause(now))
    }

    /// How long until something is due.
    fn pause(&self, now: Nanos) -> Duration {
        let window = &self.tally.window;
        let next = match (self.phase, &self.pace) {
            // Without a connection that has room, the next answer will make some, and that is not told here.
            (Phase::Running, Pace::Open(schedule)) if schedule.due() <= now => now + 1,
            (Phase::Running, Pace::Open(schedule)) => schedule.due().min(window.until),
            (Phase::Running, _) if now < window.from => window.from,
            (Phase::Running, _) => window.until,
            _ => return Duration::from_millis(1),
        };
        Duration::from_nanos(next.saturating_sub(now)).min(SWEEP / 10)
    }

    /// The window is over.
    fn stop_sending(&mut self, reactor: &mut Reactor<'_, Self>) {
        let window = self.tally.window;
        let now = Meter::read(reactor);
        if let Some(begun) = &self.begun {
            self.tally.bytes_in = now.bytes_in - begun.bytes_in;
            self.tally.bytes_out = now.bytes_out - begun.bytes_out;
            self.tally.cpu = now.cpu.saturating_sub(begun.cpu);
        }
        if let Pace::Open(schedule) = &self.pace {
            let unsent = schedule.left_until(window.until) - schedule.left_until(window.from);
            if unsent > 0 {
                let due = schedule.due().max(window.from);
                self.tally.failed(due, Failure::NeverSent, unsent);
            }
        }
        // Requests time out by themselves; none of them is waited for longer than that.
        let planned = window.until - window.from >= self.plan.duration.as_nanos() as Nanos;
        let patience = match planned {
            true => self.plan.timeout + 2 * SWEEP,
            false => self.plan.timeout.min(Duration::from_secs(1)),
        };
        self.phase = Phase::Draining(window.until + patience.as_nanos() as Nanos);
    }

    fn finish(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.phase = Phase::Done;
        let mut left = 0;
        reactor.for_each(|_, session| left += session.under_way.len() as u64);
        self.tally.cut_off = left;
        let tally = Box::new(self.tally.clone());
        // The main thread may have given up already.
        let _ = self.events.send(Event::Done(tally));
    }

    /// Gives up connections on which a request, or the beginning, has waited for too long.
    fn sweep(&mut self, reactor: &mut Reactor<'_, Self>, clock: Instant) {
        self.live
            .answers
            .fetch_add(mem::take(&mut self.answers), Ordering::Relaxed);
        let errors = self.tally.errors();
        let told = mem::replace(&mut self.errors_told, errors);
        self.live.errors.fetch_add(errors - told, Ordering::Relaxed);
        let (now, timeout) = (self.now(), self.plan.timeout);
        reactor.for_each(|conn, session| {
            let waited = match session.under_way.front() {
                Some(request) => Duration::from_nanos(now.saturating_sub(request.sent)),
                None if session.ready => return,
                None => clock - session.opened,
            };
            if waited > timeout {
                session.timed_out = true;
                conn.abort();
            }
        });
    }
}

impl<W: Wire> EventHandler for Driver<W> {
    type Codec = W::Codec;
    type Session = Session<W>;

    fn codec(&mut self) -> W::Codec {
        self.wire.codec()
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.engine = Some(reactor.engine().clone());
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Session<W>> {
        self.opening -= 1;
        self.greeting += 1;
        let mut session = Session {
            state: W::State::default(),
            opened: Instant::now(),
            ready: false,
            listed: false,
            useful: false,
            timed_out: false,
            nonsense: None,
            under_way: VecDeque::new(),
        };
        match self.wire.greet(conn) {
            Ok(true) => self.become_ready(conn, &mut session),
            Ok(false) => {}
            Err(error) => {
                self.greeting -= 1;
                self.connect_failed(error.to_string());
                return None;
            }
        }
        Some(session)
    }

    #[inline]
    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        session: &mut Session<W>,
        frame: Frame<'_, Self>,
    ) -> Action {
        let heard = self.wire.hear(&mut session.state, frame);
        let now = self.now();
        let expected = match heard {
            Heard::Nothing => return Action::Continue,
            Heard::Ready => {
                self.become_ready(conn, session);
                return Action::Continue;
            }
            Heard::Right(answers) => (0..answers).all(|_| self.settle(session, now, None)),
            Heard::Wrong(failure) => self.settle(session, now, Some(failure)),
            Heard::Nonsense(what) => {
                session.nonsense = Some(what);
                conn.abort();
                return Action::Continue;
            }
        };
        if !expected {
            session.nonsense = Some("an answer came that nothing was asked for");
            conn.abort();
            return Action::Continue;
        }
        self.feed(conn, session, now);
        Action::Continue
    }

    fn on_close(&mut self, _info: &Closed, session: Session<W>, reason: CloseReason) {
        let owed = session.under_way.len();
        self.under_way -= owed;
        if self.phase == Phase::Done {
            return;
        }
        let now = self.now();
        for request in session.under_way {
            let late = now.saturating_sub(request.sent) > self.plan.timeout.as_nanos() as Nanos;
            let failure = match session.nonsense {
                Some(what) => Failure::Wrong(what),
                None if session.timed_out && late => Failure::Timeout,
                None if session.timed_out => {
                    Failure::Lost("given up, as an answer before was late".into())
                }
                None => Failure::Lost(cause(&reason)),
            };
            self.tally.failed(request.due, failure, 1);
        }
        if !session.ready {
            self.greeting -= 1;
            let why = match session.timed_out {
                true => "the server does not answer the handshake".to_owned(),
                false => reason.to_string(),
            };
            self.connect_failed(why);
            return;
        }
        self.ready -= 1;
        if owed == 0
            && let Some(what) = session.nonsense
        {
            self.tally.failed(now, Failure::Wrong(what), 1);
        }
        if self.phase == Phase::Connecting && !session.useful {
            return self.connect_failed(format!("before the first request: {reason}"));
        }
        // A server that ends connections now and then gets new ones at once; one that breaks them has a rest.
        if owed > 0 || !session.useful {
            self.redial_at = Instant::now() + REDIAL_PAUSE;
        }
        if self.phase == Phase::Running {
            self.dial(Instant::now());
        }
    }

    fn on_connect_failed(&mut self, _reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        self.opening -= 1;
        if self.phase != Phase::Done {
            self.connect_failed(failed.error.to_string());
        }
    }

    fn tick(&mut self, reactor: &mut Reactor<'_, Self>) -> Option<Duration> {
        self.step(reactor)
    }
}

/// Why a connection ended that this side does not close by itself.
fn cause(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Local => "the answer before was the last on it".to_owned(),
        reason => reason.to_string(),
    }
}

impl Meter {
    fn read<W: Wire>(reactor: &Reactor<'_, Driver<W>>) -> Self {
        let all = reactor.engine().stats().reactors;
        let stats = all.get(reactor.id()).copied().unwrap_or_default();
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
        }
    }
}
