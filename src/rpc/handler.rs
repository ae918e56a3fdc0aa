//! The engine's callbacks for the connections of a peer.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::calls::Calls;
use super::codec::{ProtocolChoice, Wire};
use super::context::{CallCtx, Incoming, Locals, MakeLocal, PushCtx, ReplyHead};
use super::deferred::Deferred;
use super::dials::Dials;
use super::outgoing::{Arrived, CallState, Outgoing, Waiter};
use super::reply::local;
use super::responder::{Answered, Give, ReplyToken};
use super::router::{CallFn, CallHandler, LaterFn, PushHandler, Table};
use super::session::{Counters, Order, Session, Shared, Target, enter, next_order, settle};
use super::wire::{Codec, Dialect, Kind, Message, Status, UriError, code};
use crate::codec::{FrameError, encode_to_vec};
use crate::engine::conn::close::{CloseReason, Closed};
use crate::engine::conn::origin::{ConnInfo, Origin};
use crate::engine::connect::FailedConnect;
use crate::engine::handler::{
    Action, Conn, Engine, EventHandler, HandleError, Reactor, WriteError,
};
use crate::engine::slots::ConnId;
use crate::panic;
use crate::workers::WorkerPool;

/// Serves the connections of a [`Peer`](super::Peer) on one reactor.
pub struct PeerHandler {
    parts: Arc<Parts>,
    locals: Locals,
    /// The memory for the body of a reply.
    scratch: Cell<Vec<u8>>,
}

/// The parts that all reactors of a peer share.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) table: Table,
    pub(super) pool: Option<WorkerPool>,
    /// The protocols of the listeners, by their numbers.
    pub(super) protocols: Vec<ProtocolChoice>,
    pub(super) dials: Dials,
    pub(super) locals: Vec<MakeLocal>,
    /// Set when the first reactor boots.
    pub(super) engine: OnceLock<Engine<PeerHandler>>,
}

/// The state of a peer's connection.
pub struct Line {
    session: Session,
    calls: Calls<SentCall>,
    deferred: Deferred,
    /// True while a handler on the reactor works on a call.
    is_answering: bool,
    /// The moment at which a session that is closing gives its calls up.
    give_up: Option<Instant>,
    /// The moment for which the connection's deadline is set.
    alarm: Option<Instant>,
}

/// A call that waits for its reply.
struct SentCall {
    waiter: Waiter,
    /// The call's `seq`, for its cancellation.
    seq: Box<[u8]>,
}

/// The meta key of the time that the caller still waits, in milliseconds.
const TIMEOUT: &str = "X-Timeout";

/// The path of pushes that cancel a call.
const CANCEL: &str = "/_/cancel";

impl EventHandler for PeerHandler {
    type Codec = Wire;
    type Session = Line;

    fn codec(&mut self, info: &ConnInfo<'_>) -> Wire {
        let protocol = match info.origin() {
            Origin::Accepted { listener } => self.parts.protocols.get(listener).cloned(),
            Origin::Connected { token } | Origin::Adopted { token } => {
                self.parts.dials.protocol(token)
            }
        };
        let protocol = protocol.unwrap_or_else(ProtocolChoice::raw);
        Wire::conversing(protocol.make(), self.parts.shared.formats.clone())
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        let engine = reactor.engine();
        self.parts.engine.get_or_init(|| engine.clone());
        let target = || -> Box<dyn Target> { Box::new(engine.clone()) };
        self.parts.shared.set_target(target);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Line> {
        let (shared, remote) = (&self.parts.shared, conn.peer_addr().clone());
        let _entered = enter(shared, conn.id().reactor());
        let local = match conn.local_addr() {
            Ok(local) => local,
            Err(error) => {
                log::debug!(target: "epicycle::rpc", "{remote}: {error}");
                return None;
            }
        };
        let token = match conn.origin() {
            Origin::Accepted { .. } => None,
            Origin::Connected { token } | Origin::Adopted { token } => Some(token),
        };
        let session = Session::new(shared.clone(), conn.id(), local, remote, token.is_some());
        if let Some(other) = shared.sessions.insert(&session) {
            other.close();
        }
        let mut line = Line {
            session: session.clone(),
            calls: Calls::new(),
            deferred: Deferred::default(),
            is_answering: false,
            give_up: None,
            alarm: None,
        };
        if let Some(token) = token {
            self.parts.dials.end(token, Ok(session));
        }
        self.carry_out(conn, &mut line);
        Some(line)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        message: Message<'_>,
    ) -> Action {
        let _entered = enter(&self.parts.shared, conn.id().reactor());
        let action = match message.kind {
            Kind::Call => self.on_call(conn, line, message),
            Kind::Reply => {
                self.on_reply(conn, line, &message);
                Action::Continue
            }
            Kind::Push => {
                self.on_push(conn, line, message);
                Action::Continue
            }
        };
        self.carry_out(conn, line);
        action
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>, line: &mut Line) -> Action {
        let _entered = enter(&self.parts.shared, conn.id().reactor());
        let now = conn.now();
        line.alarm = None;
        let timeouts = &self.parts.shared.counters.timeouts;
        while let Some((_, call)) = line.calls.take_expired(now) {
            Counters::count(timeouts);
            let status = local(code::HANDLE_TIMEOUT, "no reply arrived in time");
            call.value.waiter.settle(Err(status));
        }
        let mut action = Action::Continue;
        while let Some(call) = line.deferred.take_expired(now) {
            Counters::count(timeouts);
            let status = Status::of(code::HANDLE_TIMEOUT, conn.codec().dialect());
            action = send_reply(conn, call.reply, Err(status));
        }
        update(conn, line);
        if line.give_up.is_some_and(|by| by <= now) {
            give_up(conn, line);
            action = Action::Close;
        }
        set_alarm(conn, line);
        self.carry_out(conn, line);
        action
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        _info: &Closed,
        mut line: Line,
        reason: CloseReason,
    ) {
        let _entered = enter(&self.parts.shared, reactor.id());
        line.deferred.cancel_all();
        line.session.end();
        let status = local(code::CONNECTION_CLOSED, reason.to_string());
        for call in line.calls.drain() {
            call.waiter.settle(Err(status.clone()));
        }
        while let Some((conn, order)) = next_order() {
            reactor.with(conn, |conn, line| self.execute(conn, line, order));
        }
    }

    fn on_connect_failed(&mut self, _: &mut Reactor<'_, Self>, failed: FailedConnect) {
        if failed.retry_in.is_none() {
            let status = local(code::DIAL_FAILED, failed.error.to_string());
            self.parts.dials.end(failed.token, Err(status));
        }
    }
}

impl PeerHandler {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        let mut locals = Locals::default();
        for make in &parts.locals {
            make(&mut locals);
        }
        Self {
            parts,
            locals,
            scratch: Cell::default(),
        }
    }

    /// Sends a push to all sessions of the reactor.
    pub(super) fn broadcast(&self, reactor: &mut Reactor<'_, Self>, push: &Message<'_>) {
        let _entered = enter(&self.parts.shared, reactor.id());
        let mut encoded: Vec<(&str, Dialect, Result<Bytes, FrameError>)> = Vec::new();
        let dropped = &self.parts.shared.counters.dropped_pushes;
        reactor.for_each(|conn, _| {
            let codec = conn.codec_mut();
            let (protocol, dialect) = (codec.protocol(), codec.dialect());
            let found = encoded.iter().position(|(name, of, _)| *name == protocol && *of == dialect);
            let place = found.unwrap_or_else(|| {
                let bytes = encode_to_vec(codec, push).map(Bytes::from);
                encoded.push((protocol, dialect, bytes));
                encoded.len() - 1
            });
            let sent = match &encoded[place].2 {
                Ok(bytes) => conn.write_shared(bytes.clone()).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = sent {
                Counters::count(dropped);
                log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {error}", conn.peer_addr());
            }
        });
    }

    fn on_call(&self, conn: &mut Conn<'_, Self>, line: &mut Line, call: Message<'_>) -> Action {
        let dialect = conn.codec().dialect();
        let conversation = conn.codec().conversation();
        if conversation.is_draining || conversation.is_closing {
            return refuse(
                conn,
                &call,
                code::SERVICE_UNAVAILABLE,
                "the peer is closing",
            );
        }
        let table = &self.parts.table;
        let handler = match call.parse_uri() {
            Ok(uri) => table.calls.get(uri.path()).or(table.unknown_call.as_ref()),
            Err(error) => {
                let echoes = dialect.echoes_uri() && error == UriError::NoPath;
                let reply = Message::reply(&call, echoes);
                let status =
                    Status::of(code::BAD_MESSAGE, dialect).with_reason(error.text(dialect));
                return send_reply(conn, reply, Err(status));
            }
        };
        let Some(handler) = handler else {
            return refuse(conn, &call, code::NOT_FOUND, "");
        };
        let incoming = self.incoming(conn, line, call);
        match handler {
            CallHandler::OnLoop(run) => self.run_on_loop(conn, line, run, &incoming),
            _ if line.deferred.working() >= self.parts.shared.settings.max_deferred => {
                let reason = "too many calls of this session are not answered yet";
                refuse(conn, &incoming.message, code::TOO_MANY_REQUESTS, reason)
            }
            CallHandler::Later(run) => self.run_later(conn, line, run, incoming),
            CallHandler::Blocking { run, in_order } => {
                self.run_blocking(conn, line, run, *in_order, incoming)
            }
        }
    }

    fn run_on_loop(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        run: &CallFn,
        call: &Incoming<'_>,
    ) -> Action {
        let mut ctx = CallCtx::new(call, Some(&self.locals));
        let mut body = self.scratch.take();
        body.clear();
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut ctx, call, &mut body)));
        let result = result.unwrap_or_else(|panic| Err(self.parts.panicked(call, panic)));
        let head = ctx.reply;
        // What the handler has sent leaves before its reply, and a session that it has closed stays open for it.
        line.is_answering = true;
        self.carry_out(conn, line);
        line.is_answering = false;
        update(conn, line);
        let reply = Message::reply(&call.message, call.dialect.echoes_uri());
        let action = finish_reply(conn, reply, head, result.map(|()| &body[..]));
        self.scratch.set(body);
        action
    }

    fn run_later(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        run: &LaterFn,
        mut call: Incoming<'_>,
    ) -> Action {
        let (number, token) = self.defer(conn, line, &mut call);
        let ctx = CallCtx::new(&call, Some(&self.locals));
        match catch_unwind(AssertUnwindSafe(|| run(&ctx, token))) {
            Ok(()) => Action::Continue,
            Err(panic) => {
                let status = self.parts.panicked(&call, panic);
                self.answer(conn, line, number, ReplyHead::default(), Err(status))
            }
        }
    }

    fn run_blocking(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        run: &Arc<CallFn>,
        in_order: bool,
        mut call: Incoming<'_>,
    ) -> Action {
        let (number, mut token) = self.defer(conn, line, &mut call);
        let (dialect, call) = (call.dialect, call.into_owned());
        let (run, parts) = (run.clone(), self.parts.clone());
        let job = move || {
            if call.is_cancelled() {
                return;
            }
            let mut ctx = CallCtx::new(&call, None);
            let mut body = Vec::new();
            let result = catch_unwind(AssertUnwindSafe(|| run(&mut ctx, &call, &mut body)));
            let result = result.unwrap_or_else(|panic| Err(parts.panicked(&call, panic)));
            token.head = ctx.reply;
            token.give(result.map(|()| body));
        };
        match self.submit(conn.id(), in_order, job) {
            Ok(()) => Action::Continue,
            Err(reason) => {
                let status = Status::of(code::SERVICE_UNAVAILABLE, dialect).with_reason(reason);
                self.answer(conn, line, number, ReplyHead::default(), Err(status))
            }
        }
    }

    /// Makes the argument of a handler.
    fn incoming<'a>(
        &self,
        conn: &Conn<'_, Self>,
        line: &Line,
        message: Message<'a>,
    ) -> Incoming<'a> {
        let told = (!message.meta.encoded().is_empty())
            .then(|| message.meta.get_str(TIMEOUT)?.parse().ok())
            .flatten()
            .map(Duration::from_millis);
        let own = self.parts.shared.settings.handle_timeout;
        let limit = match (told, own) {
            (Some(told), Some(own)) => Some(told.min(own)),
            (told, own) => told.or(own),
        };
        Incoming {
            message,
            session: line.session.clone(),
            dialect: conn.codec().dialect(),
            deadline: limit.and_then(|limit| conn.now().checked_add(limit)),
            cancelled: None,
        }
    }

    /// Prepares a reply that is given later. Returns its number, and the right to give it.
    fn defer(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        call: &mut Incoming<'_>,
    ) -> (u64, ReplyToken) {
        let cancelled = Arc::new(AtomicBool::new(false));
        call.cancelled = Some(cancelled.clone());
        let reply = Message::reply(&call.message, call.dialect.echoes_uri()).into_owned();
        let (number, working) = line.deferred.add(reply, cancelled, call.deadline);
        update(conn, line);
        set_alarm(conn, line);
        let answer = conn.defer_answer();
        let give: Give = Box::new(move |answered: Answered| {
            drop(working);
            // A session that has ended needs no reply.
            let _ = answer.run(move |handler: &mut Self, conn, line| {
                let _entered = enter(&handler.parts.shared, conn.id().reactor());
                let Answered { head, result } = answered;
                let action = handler.answer(conn, line, number, head, result);
                obey(conn, action);
                handler.carry_out(conn, line);
            });
        });
        (number, ReplyToken::new(call, give))
    }

    /// Sends the reply to a deferred call, if its caller still waits.
    fn answer(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        number: u64,
        head: ReplyHead,
        result: Result<Vec<u8>, Status>,
    ) -> Action {
        let Some(call) = line.deferred.take(number) else {
            if result.is_ok() {
                Counters::count(&self.parts.shared.counters.late_answers);
            }
            return Action::Continue;
        };
        update(conn, line);
        finish_reply(
            conn,
            call.reply,
            head,
            result.as_deref().map_err(Status::clone),
        )
    }

    fn submit(
        &self,
        conn: ConnId,
        in_order: bool,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let Some(pool) = &self.parts.pool else {
            return Err("the peer has no worker pool".to_owned());
        };
        let submitted = if in_order {
            pool.submit_ordered(conn.as_u64(), job)
        } else {
            pool.submit(job)
        };
        submitted.map_err(|error| error.to_string())
    }

    fn on_reply(&self, conn: &mut Conn<'_, Self>, line: &mut Line, reply: &Message<'_>) {
        let shared = &self.parts.shared;
        let Some(call) = line.calls.take(&reply.seq) else {
            Counters::count(&shared.counters.stray_replies);
            log::debug!(target: "epicycle::rpc", "{}: a reply to no call: seq {:?}", conn.peer_addr(), reply.seq);
            return;
        };
        update(conn, line);
        call.value.waiter.settle(Ok(Arrived {
            message: reply,
            cost: conn.now().saturating_duration_since(call.sent),
            codecs: &shared.formats.codecs,
        }));
    }

    fn on_push(&self, conn: &mut Conn<'_, Self>, line: &mut Line, push: Message<'_>) {
        let table = &self.parts.table;
        let handler = match push.parse_uri() {
            Ok(uri) if uri.path() == CANCEL => {
                line.deferred.cancel(&push.body);
                return update(conn, line);
            }
            Ok(uri) => table.pushes.get(uri.path()).or(table.unknown_push.as_ref()),
            Err(_) => None,
        };
        let Some(handler) = handler else {
            Counters::count(&self.parts.shared.counters.stray_pushes);
            let uri = String::from_utf8_lossy(&push.uri);
            log::debug!(target: "epicycle::rpc", "{}: a push to no route: {uri:?}", conn.peer_addr());
            return;
        };
        let incoming = self.incoming(conn, line, push);
        match handler {
            PushHandler::OnLoop(run) => {
                let ctx = PushCtx::new(&incoming, Some(&self.locals));
                let result = catch_unwind(AssertUnwindSafe(|| run(&ctx, &incoming)));
                self.parts.log_push(&incoming, result);
            }
            PushHandler::Blocking { run, in_order } => {
                let (run, incoming, parts) =
                    (run.clone(), incoming.into_owned(), self.parts.clone());
                let job = move || {
                    let ctx = PushCtx::new(&incoming, None);
                    let result = catch_unwind(AssertUnwindSafe(|| run(&ctx, &incoming)));
                    parts.log_push(&incoming, result);
                };
                if let Err(reason) = self.submit(conn.id(), *in_order, job) {
                    Counters::count(&self.parts.shared.counters.dropped_pushes);
                    log::warn!(target: "epicycle::rpc", "{}: a push is dropped: {reason}", conn.peer_addr());
                }
            }
        }
    }

    /// Carries out the orders that a callback on this thread has given.
    fn carry_out(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        while let Some((id, order)) = next_order() {
            if id == conn.id() {
                self.execute(conn, line, order);
            } else {
                conn.with(id, |other, line| self.execute(other, line, order));
            }
        }
    }

    fn execute(&self, conn: &mut Conn<'_, Self>, line: &mut Line, order: Order) {
        match order {
            Order::Send(outgoing) => self.send(conn, line, outgoing),
            Order::Cancel(call) => self.cancel(conn, line, &call),
            Order::Close(time) => {
                update(conn, line);
                let conversation = conn.codec_mut().conversation_mut();
                conversation.is_closing = true;
                if conversation.owed + conversation.awaited == 0 {
                    return conn.close();
                }
                let give_up = conn.now().checked_add(time);
                line.give_up = line.give_up.into_iter().chain(give_up).min();
                set_alarm(conn, line);
            }
            Order::Abort => conn.abort(),
        }
    }

    /// Sends a CALL or a PUSH.
    fn send(&self, conn: &mut Conn<'_, Self>, line: &mut Line, mut outgoing: Outgoing) {
        let conversation = conn.codec().conversation();
        let settings = &self.parts.shared.settings;
        if conversation.is_draining || conversation.is_closing {
            return settle(
                outgoing,
                &local(code::CONNECTION_CLOSED, "the session is closing"),
            );
        }
        let number = line.calls.next_number();
        if !outgoing.has_own_seq {
            let mut text = itoa::Buffer::new();
            outgoing.message.seq = text.format(number).as_bytes().to_vec().into();
        }
        let Some(call) = outgoing.call else {
            if let Err(error) = conn.send(&outgoing.message) {
                Counters::count(&self.parts.shared.counters.dropped_pushes);
                log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {error}", conn.peer_addr());
            }
            return;
        };
        if line.calls.len() >= settings.max_calls {
            let reason =
                "too many calls wait for their replies; the limit is `PeerBuilder::max_calls`";
            return call
                .waiter
                .settle(Err(local(code::TOO_MANY_REQUESTS, reason)));
        }
        if outgoing.has_own_seq && line.calls.contains(&outgoing.message.seq) {
            let reason = "a call with this seq waits for its reply";
            return call.waiter.settle(Err(local(code::WRITE_FAILED, reason)));
        }
        if let Some(timeout) = call.timeout {
            // At least 1, so that a short time is not taken for one that is over.
            let millis = timeout.as_millis().max(1);
            outgoing.message.meta.set(TIMEOUT, millis.to_string());
        }
        if let Err(error) = conn.send(&outgoing.message) {
            return call.waiter.settle(Err(unsent(&error)));
        }
        let now = conn.now();
        let sent = SentCall {
            waiter: call.waiter,
            seq: (&*outgoing.message.seq).into(),
        };
        sent.waiter.sent(number);
        let own_seq = outgoing.has_own_seq.then_some(&*outgoing.message.seq);
        line.calls.insert(number, own_seq, sent, now, call.timeout);
        update(conn, line);
        set_alarm(conn, line);
    }

    fn cancel(&self, conn: &mut Conn<'_, Self>, line: &mut Line, call: &CallState) {
        let Some(call) = call.number().and_then(|number| line.calls.remove(number)) else {
            return;
        };
        update(conn, line);
        send_cancel(conn, line, &call.value.seq);
        call.value.waiter.settle(Err(local(code::CANCELLED, "")));
    }
}

impl Parts {
    /// Logs a handler's panic. Returns the status for its caller.
    fn panicked(&self, call: &Incoming<'_>, payload: Box<dyn Any + Send>) -> Status {
        let status = Status::of(code::INTERNAL_SERVER_ERROR, call.dialect);
        let reason = panic::message(&*payload).to_owned();
        panic::report(
            "epicycle::rpc",
            &format!("the handler of {}", call.uri()),
            payload,
        );
        if self.shared.settings.tells_panics {
            status.with_reason(reason)
        } else {
            status
        }
    }

    fn log_push(&self, push: &Incoming<'_>, result: std::thread::Result<Result<(), Status>>) {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(status)) => {
                log::warn!(target: "epicycle::rpc", "{}: the push {}: {status}", push.remote_addr(), push.uri());
            }
            Err(payload) => drop(self.panicked(push, payload)),
        }
    }
}

/// Gives a connection's codec the numbers of replies that are due, after they have changed.
fn update(conn: &mut Conn<'_, PeerHandler>, line: &Line) {
    let conversation = conn.codec_mut().conversation_mut();
    conversation.owed = line.deferred.len() + usize::from(line.is_answering);
    conversation.awaited = line.calls.len();
}

/// Sets the connection's deadline to the earliest one, unless an earlier one is set.
fn set_alarm(conn: &mut Conn<'_, PeerHandler>, line: &mut Line) {
    let deadlines = [
        line.calls.next_deadline(),
        line.deferred.next_deadline(),
        line.give_up,
    ];
    let Some(next) = deadlines.into_iter().flatten().min() else {
        return;
    };
    if line.alarm.is_none_or(|alarm| next < alarm) {
        line.alarm = Some(next);
        conn.set_deadline(Some(next.saturating_duration_since(conn.now())));
    }
}

/// Ends the calls of a session whose time to close is over. The other side is told, so that it does not wait for their
/// replies before it closes.
fn give_up(conn: &mut Conn<'_, PeerHandler>, line: &mut Line) {
    let calls: Vec<_> = line.calls.drain().collect();
    for call in calls {
        send_cancel(conn, line, &call.seq);
        let reason = "the session closed before the reply";
        call.waiter
            .settle(Err(local(code::CONNECTION_CLOSED, reason)));
    }
    line.deferred.cancel_all();
    update(conn, line);
}

/// Tells the other side that nobody waits for the reply to a call.
fn send_cancel(conn: &mut Conn<'_, PeerHandler>, line: &mut Line, seq: &[u8]) {
    let mut push = Message::push(CANCEL);
    push.codec = Codec::PLAIN;
    push.body = seq.into();
    let mut text = itoa::Buffer::new();
    push.seq = text.format(line.calls.next_number()).as_bytes().into();
    if let Err(error) = conn.send(&push) {
        log::debug!(target: "epicycle::rpc", "{}: a cancellation is not sent: {error}", conn.peer_addr());
    }
}

fn refuse(
    conn: &mut Conn<'_, PeerHandler>,
    call: &Message<'_>,
    code: i32,
    reason: &'static str,
) -> Action {
    let dialect = conn.codec().dialect();
    let reply = Message::reply(call, dialect.echoes_uri());
    send_reply(
        conn,
        reply,
        Err(Status::of(code, dialect).with_reason(reason)),
    )
}

/// Sends a reply, with what its handler has set.
fn finish_reply<'a>(
    conn: &mut Conn<'_, PeerHandler>,
    mut reply: Message<'a>,
    head: ReplyHead,
    mut result: Result<&'a [u8], Status>,
) -> Action {
    reply.meta = head.meta;
    if !head.filters.is_empty()
        && let Err(error) = (reply.filters).append_from(&head.filters, conn.codec().registered())
    {
        let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect());
        result = Err(status.with_reason(error.to_string()));
    }
    if let Ok(body) = result {
        reply.codec = head.codec.unwrap_or_default();
        reply.body = body.into();
    }
    send_reply(conn, reply, result.map(drop))
}

fn send_reply(
    conn: &mut Conn<'_, PeerHandler>,
    mut reply: Message<'_>,
    result: Result<(), Status>,
) -> Action {
    if let Err(status) = result {
        reply.set_status(&status, conn.codec().max_field());
    }
    put_reply(conn, &reply)
}

/// Sends a reply. One that cannot be encoded is replaced by a failure, so that the caller learns of it.
fn put_reply(conn: &mut Conn<'_, PeerHandler>, reply: &Message<'_>) -> Action {
    let error = match conn.send(reply) {
        Ok(()) => return Action::Continue,
        Err(WriteError::Frame(error)) => error,
        Err(error) => return Err(error).into(),
    };
    let status = Status::of(code::INTERNAL_SERVER_ERROR, conn.codec().dialect())
        .with_reason(format!("the reply cannot be sent: {error}"));
    let mut failure = Message::new(Kind::Reply);
    failure.seq = (&*reply.seq).into();
    failure.set_status(&status, conn.codec().max_field());
    conn.send(&failure).into()
}

/// Does what a callback would return.
fn obey(conn: &mut Conn<'_, PeerHandler>, action: Action) {
    match action {
        Action::Continue => {}
        Action::Refused(error) => conn.close_refused(*error),
        _ => conn.close(),
    }
}

fn unsent(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => local(code::CONNECTION_CLOSED, ""),
        error => local(code::WRITE_FAILED, error.to_string()),
    }
}

impl Target for Engine<PeerHandler> {
    fn order(&self, conn: ConnId, order: Order) -> Result<(), HandleError> {
        let handle = self.handle(conn).ok_or(HandleError::Closed)?;
        handle.run(move |handler, conn, line| {
            let _entered = enter(&handler.parts.shared, conn.id().reactor());
            handler.execute(conn, line, order);
            handler.carry_out(conn, line);
        })
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
