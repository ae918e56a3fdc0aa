//! The engine's callbacks for the connections of a peer.

mod opening;
mod redialling;
mod replies;
mod sending;
mod serving;
mod streaming;
mod timing;

use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::redialling::Redials;
use self::replies::{Served, obey};
use self::sending::Waiting;
use self::streaming::Streams;
use super::broadcast::Broadcast;
use super::calls::Calls;
use super::codec::{Encoded, ProtocolChoice, Wire};
use super::context::{Locals, MakeLocal};
use super::deferred::Deferred;
use super::outgoing::Waiter;
use super::peer::{Inner, PeerEngine};
use super::plugin::{Hooks, Plugins};
use super::reply::local;
use super::router::Table;
use super::session::{
    Address, Home, Order, Session, Target, TaskWaker, Work, enter, give, has_work, next_work,
};
use super::stats::{Counters, Meters};
use super::tasks::{Finished, Tasks};
use super::timers::Timers;
use super::wire::{Kind, Message, Status, code};
use crate::addr::Addr;
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::resolve::LookupResult;
use crate::engine::connect::{Connect, ConnectError, FailedConnect};
use crate::engine::handler::{Action, Conn, ConnTask, Engine, EventHandler, HandleError, Reactor};
use crate::engine::slots::ConnId;
use crate::metrics;
use crate::workers::WorkerPool;

/// Serves the connections of a [`Peer`](super::Peer) on one reactor.
pub struct PeerHandler {
    parts: Arc<Parts>,
    locals: Rc<Locals>,
    /// The handlers that are futures.
    tasks: Tasks,
    redials: Redials,
    /// The memory for the body of a reply.
    scratch: Cell<Vec<u8>>,
    /// The second in which the log was asked whether it wants messages, and its answer.
    logged: Cell<(u64, bool)>,
    /// Counts the messages of each route.
    meters: Arc<Meters>,
}

/// The parts that all reactors of a peer share.
pub(super) struct Parts {
    pub(super) peer: Arc<Inner>,
    /// The plugins of the peer.
    pub(super) plugins: Arc<Plugins>,
    pub(super) table: Table,
    pub(super) pool: Option<WorkerPool>,
    /// The protocols of the listeners, by their numbers.
    pub(super) protocols: Vec<ProtocolChoice>,
    pub(super) locals: Vec<MakeLocal>,
}

/// The state of a peer's connection.
pub struct Line {
    session: Session,
    /// The token of the dial. None on a connection that was accepted.
    token: Option<u64>,
    stage: Stage,
    calls: Calls<SentCall>,
    deferred: Deferred,
    /// None until there is a stream.
    streams: Option<Box<Streams>>,
    /// The messages that wait for room. None until there is one.
    waiting: Option<Box<Waiting>>,
    /// True while a handler on the reactor works on a call.
    is_answering: bool,
    /// True if the connection ends since the other side is gone.
    is_lost: bool,
    /// The end of the session's present state: of the time to open, of its age, or of the time to close.
    term: Option<Instant>,
    /// The times at which plugins want to be called.
    timers: Option<Box<Timers>>,
    /// The moment for which the connection's deadline is set.
    alarm: Option<Instant>,
}

/// The progress of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The handshake of what carries the messages goes on.
    Greeting,
    /// The plugin at this place awaits a message.
    Early(u32),
    Open,
    /// A plugin has refused it. It closes once what was sent has left.
    Refused,
}

/// The time after which it is looked again whether the last messages of a peer that has left are handled.
const LEAVING: Duration = Duration::from_millis(10);

/// The time within which a session must open.
const EARLY_TIME: Duration = Duration::from_secs(10);

/// A piece of work for one connection.
enum Deed {
    Order(Order),
    Finish(Finished),
}

/// A call that waits for its reply.
struct SentCall {
    waiter: Waiter,
    /// The call's `seq`, for its cancellation.
    seq: Box<[u8]>,
    /// The call, for the log.
    logged: Option<Box<Message<'static>>>,
    /// The message of a call that is sent again when the connection ends.
    again: Option<Box<SentAgain>>,
}

struct SentAgain {
    message: Message<'static>,
    has_own_seq: bool,
    by: Option<Instant>,
}

/// The key of the metadata with the time that the caller still waits, in milliseconds.
const TIMEOUT: &str = "X-Timeout";

/// The path of pushes that cancel a call.
const CANCEL: &str = "/_/cancel";

impl Line {
    /// Gives the connection's codec the numbers of replies that are due, after they have changed.
    fn update(&self, conn: &mut Conn<'_, PeerHandler>) {
        let conversation = conn.codec_mut().conversation_mut();
        let (accepted, opened) = self.stream_counts();
        conversation.owed = self.deferred.len() + usize::from(self.is_answering) + accepted;
        conversation.awaited = self.calls.len() + opened;
    }

    /// Begins to count the session's age.
    fn begin_age(&mut self, conn: &mut Conn<'_, PeerHandler>) {
        self.term = end_of_age(&self.session, conn.now());
        self.set_alarm(conn);
    }

    /// Sets the connection's deadline to the earliest one, unless an earlier one is set.
    fn set_alarm(&mut self, conn: &mut Conn<'_, PeerHandler>) {
        let deadlines = [
            self.calls.next_deadline(),
            self.deferred.next_deadline(),
            self.term,
            self.timers.as_ref().and_then(|timers| timers.next()),
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return;
        };
        if self.alarm.is_none_or(|alarm| next < alarm) {
            self.alarm = Some(next);
            conn.set_deadline(Some(next.saturating_duration_since(conn.now())));
        }
    }
}

/// Returns the moment at which a session closes because of its age, shortened by up to a tenth, if it is counted from `now`.
fn end_of_age(session: &Session, now: Instant) -> Option<Instant> {
    let age = session.age()?;
    now.checked_add(age.mul_f64(1.0 - fastrand::f64() / 10.0))
}

impl EventHandler for PeerHandler {
    type Codec = Wire;
    type Session = Line;

    const HANDLES_FIN: bool = true;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Wire {
        let carried = match info.origin() {
            Origin::Accepted { listener } => {
                let protocol = self.parts.protocols.get(listener);
                protocol.map(ProtocolChoice::accepted)
            }
            Origin::Connected { token } | Origin::Adopted { token } => {
                let first = self.parts.peer.dials.protocol(token);
                let protocol = first.or_else(|| self.redials.protocol(token));
                protocol.as_ref().map(ProtocolChoice::dialled)
            }
        };
        let carried = carried.unwrap_or_else(|| ProtocolChoice::raw().accepted());
        Wire::conversing(carried, self.parts.peer.shared.formats.clone())
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        let engine = reactor.engine();
        let peer = &self.parts.peer;
        peer.shared.set_target(|| Box::new(engine.clone()));
        peer.set_engine(|| Box::new(engine.clone()));
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Line> {
        let (shared, remote) = (&self.parts.peer.shared, conn.peer_addr().clone());
        let _entered = enter(shared, conn.id().reactor());
        let token = match conn.origin() {
            Origin::Accepted { .. } => None,
            Origin::Connected { token } | Origin::Adopted { token } => Some(token),
        };
        let local_addr = match conn.local_addr() {
            Ok(addr) => addr,
            Err(error) => {
                log::debug!(target: "epicycle::rpc", "{remote}: {error}");
                if let Some(token) = token {
                    let status = local(code::DIAL_FAILED, error.to_string());
                    self.attempt_failed(&mut conn.reactor(), token, status, false);
                    self.carry_out_all(&mut conn.reactor());
                }
                return None;
            }
        };
        let redialled = token.and_then(|token| self.redials.begin_setup(token, conn.id()));
        let (session, calls) = match (redialled, token) {
            (Some((session, calls)), _) => {
                session.set_addrs(local_addr, remote);
                (session, calls)
            }
            // The session has ended while the connection was being made.
            (None, Some(token)) if !self.parts.peer.dials.contains(token) => return None,
            (None, token) => {
                let (peer, calls) = (shared.clone(), Calls::new(shared.calls.clone()));
                let dials = &self.parts.peer.dials;
                let is_dialled = token.is_some_and(|token| !dials.is_accepted(token));
                let session = Session::new(peer, conn.id(), local_addr, remote, is_dialled);
                (session, calls)
            }
        };
        let mut line = Line {
            session,
            token,
            stage: Stage::Early(0),
            calls,
            deferred: Deferred::new(shared.deferred.clone()),
            streams: None,
            waiting: None,
            is_answering: false,
            is_lost: false,
            term: None,
            timers: None,
            alarm: None,
        };
        if conn.codec().is_ready() {
            self.open(conn, &mut line, 0);
        } else {
            self.begin_greeting(conn, &mut line);
        }
        self.carry_out(conn, &mut line);
        if line.stage == Stage::Refused {
            conn.close();
        }
        Some(line)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        message: Message<'_>,
    ) -> Action {
        let _entered = enter(&self.parts.peer.shared, conn.id().reactor());
        if line.stage != Stage::Open
            && let Some(action) = self.on_early(conn, line, &message)
        {
            return action;
        }
        if let Err(status) = self.before_read(line) {
            log::info!(target: "epicycle::rpc", "{}: closing: {status}", conn.peer_addr());
            return Action::Close;
        }
        let action = match message.kind {
            Kind::Call => {
                let call = self.incoming(conn, line, message);
                self.on_call(conn, line, call)
            }
            Kind::Reply => {
                self.on_reply(conn, line, message);
                Action::Continue
            }
            Kind::Push if message.uri.is_empty() && conn.codec_mut().take_greeting() => {
                self.greet(conn, line).into()
            }
            Kind::Push => {
                let push = self.incoming(conn, line, message);
                self.on_push(conn, line, push);
                Action::Continue
            }
        };
        self.carry_out(conn, line);
        action
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>, line: &mut Line) -> Action {
        let _entered = enter(&self.parts.peer.shared, conn.id().reactor());
        let now = conn.now();
        line.alarm = None;
        let timeouts = &self.parts.peer.shared.counters.timeouts;
        while let Some((_, call)) = line.calls.take_expired(now) {
            Counters::count(timeouts);
            let status = local(code::HANDLE_TIMEOUT, "no reply arrived in time");
            self.give_up_stream(conn, line, &call.value.seq);
            self.fail_call(conn.now(), &line.session, call, status);
        }
        let mut action = Action::Continue;
        while let Some(mut call) = line.deferred.take_expired(now) {
            Counters::count(timeouts);
            let status = Status::of(code::HANDLE_TIMEOUT, conn.codec().dialect());
            self.abandon(&call);
            let mut reply = call.take_reply();
            action = self.fail_reply(conn, &mut reply, Served::deferred(&call), &status);
        }
        line.update(conn);
        if line.term.is_some_and(|by| by <= now) {
            line.term = None;
            if line.stage == Stage::Open && !conn.codec().conversation().is_closing {
                log::debug!(target: "epicycle::rpc", "{}: the session has reached its age", conn.peer_addr());
                line.session.close();
            } else {
                self.give_up(conn, line);
                conn.codec_mut().conversation_mut().is_late = line.stage != Stage::Open;
                action = Action::Close;
            }
        }
        if line.timers.is_some() {
            self.run_timers(conn, line);
        }
        line.set_alarm(conn);
        self.carry_out(conn, line);
        action
    }

    fn on_fin(&mut self, conn: &mut Conn<'_, Self>, line: &mut Line) -> Action {
        if line.stream_counts().0 + line.calls.len() > 0 {
            let id = conn.id();
            conn.defer(move |handler: &mut Self, reactor| handler.on_left(reactor, id));
        }
        Action::Continue
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>, line: &mut Line) -> Action {
        let _entered = enter(&self.parts.peer.shared, conn.id().reactor());
        self.send_waiting(conn, line);
        self.carry_out(conn, line);
        Action::Continue
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        mut line: Line,
        reason: CloseReason,
    ) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        for call in line.deferred.cancel_all() {
            self.drop_call(&call);
        }
        let (streams, waiting) = (line.streams.take(), line.waiting.take());
        match line.token {
            Some(token) if self.redials.contains(token) => {
                self.redial(reactor, token, info, line, &reason);
            }
            _ => self.end_session(reactor.now(), line, &reason),
        }
        let status = local(code::CONNECTION_CLOSED, reason.to_string());
        self.stop_streams(streams, &status);
        self.drop_waiting(waiting, &status);
        self.carry_out_all(reactor);
    }

    fn on_connect_failed(&mut self, reactor: &mut Reactor<'_, Self>, failed: FailedConnect) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        let is_over = matches!(failed.error, ConnectError::Stopped);
        let status = local(code::DIAL_FAILED, failed.error.to_string());
        self.attempt_failed(reactor, failed.token, status, is_over);
        self.carry_out_all(reactor);
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        self.end_redials(reactor);
        self.carry_out_all(reactor);
    }
}

impl PeerHandler {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        let mut locals = Locals::default();
        for make in &parts.locals {
            make(&mut locals);
        }
        Self {
            meters: parts.peer.shared.meters.add(),
            parts,
            locals: Rc::new(locals),
            tasks: Tasks::default(),
            redials: Redials::default(),
            scratch: Cell::default(),
            logged: Cell::new((u64::MAX, false)),
        }
    }

    /// Sends a push to all open sessions of the reactor.
    fn broadcast(&self, reactor: &mut Reactor<'_, Self>, push: &Broadcast) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        reactor.for_each(|conn, line| self.push_encoded(conn, line, push));
    }

    /// Sends a push to some sessions of the reactor.
    fn broadcast_to(&self, reactor: &mut Reactor<'_, Self>, push: &Broadcast, to: &[Address]) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        for address in to {
            let sent = self.conn_of(*address).and_then(|conn| {
                reactor.with(conn, |conn, line| self.push_encoded(conn, line, push))
            });
            match (sent, address) {
                (Some(()), _) => {}
                (None, Address::Home(token)) => {
                    self.order_apart(reactor, *token, Order::Send(push.outgoing()));
                }
                (None, Address::Conn(_)) => {
                    Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
                }
            }
        }
    }

    fn push_encoded(&self, conn: &mut Conn<'_, Self>, line: &mut Line, push: &Broadcast) {
        if line.stage != Stage::Open {
            // Whoever has not authenticated gets nothing.
            return;
        }
        if !self.finds_room(conn, line, push.when_full) || conn.codec().only_answers() {
            return;
        }
        let sent = (push.encoded_for(conn.codec_mut())).and_then(|bytes| {
            conn.send(Encoded(&bytes))
                .map_err(|error| error.to_string())
        });
        if let Err(error) = sent {
            Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
            log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {error}", conn.peer_addr());
        }
    }

    /// Does what callbacks on this thread have given the reactor to do.
    #[inline]
    fn carry_out(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        if has_work() {
            self.carry_out_work(conn, line);
        }
    }

    #[inline(never)]
    fn carry_out_work(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        while let Some((address, deed)) = self.next_deed() {
            if self.conn_of(address) == Some(conn.id()) {
                self.perform(conn, line, deed);
            } else {
                self.perform_on(&mut conn.reactor(), address, deed);
            }
        }
    }

    /// Does the same where no connection is served.
    fn carry_out_all(&self, reactor: &mut Reactor<'_, Self>) {
        while let Some((address, deed)) = self.next_deed() {
            self.perform_on(reactor, address, deed);
        }
    }

    /// Returns the open connection that an order is for.
    fn conn_of(&self, address: Address) -> Option<ConnId> {
        match address {
            Address::Conn(conn) => Some(conn),
            Address::Home(token) => self.redials.conn(token),
        }
    }

    fn perform_on(&self, reactor: &mut Reactor<'_, Self>, address: Address, deed: Deed) {
        let mut deed = Some(deed);
        if let Some(conn) = self.conn_of(address) {
            reactor.with(conn, |conn, line| {
                if let Some(deed) = deed.take() {
                    self.perform(conn, line, deed);
                }
            });
        }
        // Without an open connection.
        if let (Address::Home(token), Some(Deed::Order(order))) = (address, deed) {
            self.order_apart(reactor, token, order);
        }
    }

    /// Returns the next deed and its addressee. Polls tasks that are woken until then.
    fn next_deed(&self) -> Option<(Address, Deed)> {
        loop {
            match next_work()? {
                Work::Order(to, order) => return Some((to, Deed::Order(order))),
                Work::Poll(waker) => {
                    if let Some(finished) = self.tasks.poll(waker) {
                        let to = Address::Conn(finished.conn);
                        return Some((to, Deed::Finish(finished)));
                    }
                }
            }
        }
    }

    /// Ends a session with its connection.
    fn end_session(&self, now: Instant, mut line: Line, reason: &CloseReason) {
        line.session.end();
        match line.stage {
            Stage::Open => self.disconnected(&line.session),
            Stage::Greeting | Stage::Early(_) | Stage::Refused => {
                let reason = format!("the connection closed before the session opened: {reason}");
                self.end_dial(line.token, Err(local(code::DIAL_FAILED, reason)));
            }
        }
        let status = local(code::CONNECTION_CLOSED, reason.to_string());
        for call in line.calls.drain() {
            self.fail_call(now, &line.session, call, status.clone());
        }
    }

    /// Tells the plugins that an open session has ended.
    fn disconnected(&self, session: &Session) {
        self.parts.plugins.tell(Hooks::POST_DISCONNECT, |plugin| {
            plugin.post_disconnect(session);
        });
    }

    fn perform(&self, conn: &mut Conn<'_, Self>, line: &mut Line, deed: Deed) {
        match deed {
            Deed::Order(order) => self.execute(conn, line, order),
            Deed::Finish(finished) => {
                let action = self.finish(conn, line, finished);
                obey(conn, action);
            }
        }
    }
}

/// Carries out an order from another thread.
struct OrderTask(Order);

impl ConnTask<PeerHandler> for OrderTask {
    fn run(
        self: Box<Self>,
        handler: &mut PeerHandler,
        conn: &mut Conn<'_, PeerHandler>,
        line: &mut Line,
    ) {
        let _entered = enter(&handler.parts.peer.shared, conn.id().reactor());
        handler.execute(conn, line, self.0);
        handler.carry_out(conn, line);
    }
}

impl Target for Engine<PeerHandler> {
    fn order(&self, conn: ConnId, order: Order) -> Result<(), (HandleError, Box<Order>)> {
        let Some(handle) = self.handle(conn) else {
            return Err((HandleError::Closed, Box::new(order)));
        };
        let given = handle.give(OrderTask(order));
        given.map_err(|(error, task)| (error, Box::new(task.0)))
    }

    fn order_home(&self, home: &Home, order: Order) -> Result<(), (HandleError, Box<Order>)> {
        // The engine does not return a task that it refuses.
        let order = Arc::new(Mutex::new(Some(order)));
        let (given, token) = (order.clone(), home.token());
        let result = self.run_on(home.reactor(), move |handler, reactor| {
            let _entered = enter(&handler.parts.peer.shared, reactor.id());
            let order = given.lock().take();
            if let Some(order) = order {
                handler.perform_on(reactor, Address::Home(token), Deed::Order(order));
                handler.carry_out_all(reactor);
            }
        });
        let Err(error) = result else {
            return Ok(());
        };
        let order = order.lock().take();
        order.map_or(Ok(()), |order| Err((error, Box::new(order))))
    }

    fn order_anyway(&self, reactor: usize, address: Address, order: Order) {
        self.run_anyway(reactor, move |handler, reactor| {
            let _entered = enter(&handler.parts.peer.shared, reactor.id());
            handler.perform_on(reactor, address, Deed::Order(order));
            handler.carry_out_all(reactor);
        });
    }

    fn poll(&self, reactor: usize, waker: Arc<TaskWaker>) {
        self.run_anyway(reactor, move |handler, reactor| {
            let _entered = enter(&handler.parts.peer.shared, reactor.id());
            give(Work::Poll(waker));
            handler.carry_out_all(reactor);
        });
    }
}

impl PeerEngine for Engine<PeerHandler> {
    fn local_addrs(&self) -> &[Addr] {
        self.local_addrs()
    }

    fn stats(&self) -> metrics::Stats {
        self.stats()
    }

    fn connect(&self, connect: Connect) -> Result<(), ConnectError> {
        self.connect(connect).map(drop)
    }

    fn adopt(&self, socket: OwnedFd, token: u64) -> Result<(), ConnectError> {
        self.adopt(socket, token)
    }

    fn broadcast(&self, push: Broadcast) -> Result<(), HandleError> {
        let push = Arc::new(push);
        let mut result = Ok(());
        for reactor in 0..self.reactors() {
            let push = push.clone();
            let sent = self.run_on(reactor, move |handler, reactor| {
                handler.broadcast(reactor, &push);
            });
            result = result.and(sent);
        }
        result
    }

    fn broadcast_to(
        &self,
        push: Arc<Broadcast>,
        reactor: usize,
        to: Vec<Address>,
    ) -> Result<(), HandleError> {
        self.run_on(reactor, move |handler, reactor| {
            handler.broadcast_to(reactor, &push, &to);
        })
    }

    fn shutdown(&self, deadline: Option<Duration>) {
        match deadline {
            Some(deadline) => self.shutdown_within(deadline),
            None => self.shutdown(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping()
    }

    fn now(&self) -> Instant {
        self.now()
    }

    fn schedule(&self, delay: Duration, task: Box<dyn FnOnce() + Send>) {
        self.run_anyway(0, move |_, reactor| {
            reactor.schedule(delay, move |handler, reactor| {
                let _entered = enter(&handler.parts.peer.shared, reactor.id());
                task();
                handler.carry_out_all(reactor);
            });
        });
    }

    fn look_up(&self, host: String, callback: Box<dyn FnOnce(LookupResult) + Send>) {
        self.look_up(host, callback);
    }
}

impl fmt::Debug for PeerHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHandler").finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Line").field(&self.session).finish()
    }
}
