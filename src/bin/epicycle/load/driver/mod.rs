//! The handler of a reactor: it opens its connections, sends requests on them, and counts the answers.

mod connecting;
mod phases;
mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, Engine, EventHandler, FailedConnect,
    Frame, Reactor,
};

use crate::load::plan::{Nanos, Plan, Schedule};
use crate::load::tally::{Failure, Tally, Window};
use crate::load::wire::{Meaning, Wire};

use self::connecting::REDIAL_PAUSE;
use self::phases::{Meter, SWEEP};

/// A message to the main thread.
pub(crate) enum Event {
    /// All connections of a reactor are ready or have failed: the number of ready ones, and the reason of a failure.
    Ready(usize, Option<String>),
    /// A reactor is done. These are its counters.
    Done(Box<Tally>),
    /// The user has pressed ctrl-c.
    Interrupt,
}

/// The counters that the main thread shows during the run.
#[derive(Default)]
pub(crate) struct Live {
    /// Connections made.
    pub(crate) connected: AtomicU64,
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
    /// The start of the warm-up, once it is known.
    epoch: Option<Instant>,
    /// True once the main thread has been notified that the connections are made.
    ready_reported: bool,
    tally: Tally,
    /// Answers since the last sweep, including those outside the window.
    answers: u64,
    /// Errors that are already in `live`.
    errors_shown: u64,
    /// Requests under way.
    under_way: usize,
    /// Connections being made.
    opening: usize,
    /// Connections that are ready for requests.
    ready: usize,
    /// Connects that failed before the start.
    failed: usize,
    /// The time when the last connection became ready.
    connected_at: Instant,
    /// Open connections in their handshake.
    greeting: usize,
    /// The earliest time of the next connect.
    redial_at: Instant,
    next_sweep: Instant,
    /// In an open loop, the connections with room for requests, oldest first.
    idle: VecDeque<ConnId>,
    /// The meter at the beginning of the window.
    begun: Option<Meter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The connections are made, and the start is known.
    Ready,
    Running,
    /// No more requests are sent. Answers are awaited until this time.
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
    /// True while the connection is in `Driver::idle`.
    listed: bool,
    /// True once the server has answered a request.
    useful: bool,
    timed_out: bool,
    /// The reason why the input makes no sense.
    nonsense: Option<&'static str>,
    under_way: VecDeque<Request>,
}

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
            ready_reported: false,
            tally: Tally::new(Window::new(plan.warm_up, plan.duration)),
            answers: 0,
            errors_shown: 0,
            under_way: 0,
            opening: 0,
            ready: 0,
            failed: 0,
            connected_at: now,
            greeting: 0,
            redial_at: now,
            next_sweep: now + SWEEP,
            idle: VecDeque::new(),
            begun: None,
            plan,
        }
    }

    /// Sets the start of the warm-up, which is the same on all reactors.
    pub(crate) fn begin(&mut self, epoch: Instant) {
        self.epoch = Some(epoch);
        self.phase = Phase::Ready;
    }

    /// Ends the window at that time.
    pub(crate) fn interrupt(&mut self, until: Nanos) {
        if matches!(self.phase, Phase::Ready | Phase::Running) {
            self.tally.cut(until);
        }
    }

    /// Returns the time since the start, or 0 before it.
    #[inline]
    fn now(&self) -> Nanos {
        self.epoch
            .map_or(0, |epoch| epoch.elapsed().as_nanos() as Nanos)
    }
}

impl<W: Wire> EventHandler for Driver<W> {
    type Codec = W::Codec;
    type Session = Session<W>;

    fn codec(&mut self, _: &ConnInfo<'_>) -> W::Codec {
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
        let meaning = self.wire.interpret(conn, &mut session.state, frame);
        let now = self.now();
        let expected = match meaning {
            Meaning::Nothing => return Action::Continue,
            Meaning::Ready => {
                self.become_ready(conn, session);
                return Action::Continue;
            }
            Meaning::Right(answers) => (0..answers).all(|_| self.settle(session, now, None)),
            Meaning::Wrong(failure) => self.settle(session, now, Some(failure)),
            Meaning::Nonsense(what) => {
                session.nonsense = Some(what);
                conn.abort();
                return Action::Continue;
            }
        };
        if !expected {
            session.nonsense = Some("an answer arrived without a request");
            conn.abort();
            return Action::Continue;
        }
        self.feed(conn, session, now);
        Action::Continue
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, Self>, session: &mut Session<W>, _: u64) -> Action {
        self.wire.on_timer(conn, &mut session.state);
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        _info: &Closed,
        session: Session<W>,
        reason: CloseReason,
    ) {
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
                    Failure::Lost("closed, because an earlier answer was late".into())
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
        // A connection that ends without open requests is replaced at once. One that breaks is replaced after a pause.
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
        // From then on `step` schedules itself, because its pauses differ.
        self.step(reactor);
        None
    }
}

/// Describes the end of a connection. The codec closes a connection (`Local`) after its last answer.
fn cause(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Local => "an earlier answer was the last on this connection".to_owned(),
        reason => reason.to_string(),
    }
}
