//! What a reactor does: opens its connections, keeps requests under way on them, and counts the answers.

mod connecting;
mod phases;
mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, Engine, EventHandler, FailedConnect, Frame, Reactor,
};

use crate::plan::{Nanos, Plan, Schedule};
use crate::tally::{Failure, Tally, Window};
use crate::wire::{Heard, Wire};

use self::connecting::REDIAL_PAUSE;
use self::phases::{Meter, SWEEP};

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
    /// When the last connection was made.
    connected_at: Instant,
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
            connected_at: now,
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
        // From then on it schedules itself, since no two pauses are the same.
        self.step(reactor);
        None
    }
}

/// Why a connection ended that this side does not close by itself.
fn cause(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Local => "the answer before was the last on it".to_owned(),
        reason => reason.to_string(),
    }
}
