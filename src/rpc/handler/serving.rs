//! Calls and pushes that arrive, and the handlers that take them.

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::Level;

use super::replies::{Served, obey, time_since};
use super::{CANCEL, Line, Parts, PeerHandler, TIMEOUT};
use crate::engine::handler::{Action, Conn};
use crate::engine::slots::ConnId;
use crate::panic;
use crate::rpc::cancellation::Cancellation;
use crate::rpc::context::{AfterBody, AsyncCtx, CallCtx, Incoming, PushCtx, ReplyHead};
use crate::rpc::deferred::DeferredCall;
use crate::rpc::logging::Of;
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::responder::{Answered, Give, ReplyToken};
use crate::rpc::router::{AsyncFn, CallFn, CallHandler, LaterFn, PushHandler, Route};
use crate::rpc::session::{Settings, Shared, enter, has_work, work_for};
use crate::rpc::stats::{Counters, Outcome};
use crate::rpc::tasks::{Finished, Task, TaskOf};
use crate::rpc::wire::{Dialect, Message, Meta, OneLine, Status, code};
use crate::rpc::working::Working;

impl PeerHandler {
    #[inline]
    pub(super) fn on_call(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        mut call: Incoming<'_>,
    ) -> Action {
        let parts = &self.parts;
        let (began, size) = (self.begin_time(conn), call.message.size);
        let conversation = conn.codec().conversation();
        if conversation.is_draining || conversation.is_closing {
            return self.refuse_closing(conn, &call, began);
        }
        let read = (parts.plugins).run(Hooks::POST_READ_CALL_HEADER, |plugin| {
            call.arrived = Some(conn.now());
            plugin.post_read_call_header(&mut call)
        });
        if let Err(status) = read {
            return self.refuse_early(conn, &call, began, &status);
        }
        let table = &parts.table;
        let route = match table.calls.find(&call.message.uri) {
            Ok(route) => route.or(table.unknown_call.as_ref()),
            Err(error) => {
                let served = self.served_nowhere(conn, &call, began);
                return self.refuse_uri(conn, &call, served, error);
            }
        };
        let Some(route) = route else {
            let status = Status::of(code::NOT_FOUND, call.dialect);
            return self.refuse_early(conn, &call, began, &status);
        };
        self.meters.arrived(route.meter, size);
        let read = (route.plugins).run(Hooks::PRE_READ_CALL_BODY, |plugin| {
            call.arrived = Some(conn.now());
            plugin.pre_read_call_body(&mut call)
        });
        if let Err(status) = read {
            let served = self.served(conn, &route.plugins, &call, route.meter, began);
            return self.refuse(conn, &call, served, &status);
        }
        if !matches!(
            route.handler,
            CallHandler::OnLoop(_) | CallHandler::Stream(_)
        ) && let Some(reason) = over_limit(line, &parts.peer.shared.settings)
        {
            let status = Status::of(code::TOO_MANY_REQUESTS, call.dialect);
            let served = self.served(conn, &route.plugins, &call, route.meter, began);
            return self.refuse(conn, &call, served, &status.with_reason(reason));
        }
        match &route.handler {
            CallHandler::OnLoop(run) => self.run_on_loop(conn, line, route, run, &call, began),
            CallHandler::Later(run) => self.run_later(conn, line, route, run, call, began),
            CallHandler::Async(run) => self.run_async(conn, line, route, run, call, began),
            CallHandler::Stream(handler) => self.on_stream(conn, line, route, handler, call, began),
            CallHandler::Blocking { run, in_order } => {
                let run = (run, *in_order);
                self.run_blocking(conn, line, route, run, call, began)
            }
        }
    }

    /// Answers a call of a session that takes no more calls.
    #[cold]
    fn refuse_closing(
        &self,
        conn: &mut Conn<'_, Self>,
        call: &Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let status = Status::of(code::SERVICE_UNAVAILABLE, call.dialect);
        let served = self.served_nowhere(conn, call, began);
        let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
        reply.meta.set(Meta::REFUSED, "closing");
        let status = status.with_reason("the peer is closing");
        self.fail_reply(conn, &mut reply, served, &status)
    }

    /// Answers a call before its route is known.
    #[cold]
    fn refuse_early(
        &self,
        conn: &mut Conn<'_, Self>,
        call: &Incoming<'_>,
        began: Option<u64>,
        status: &Status,
    ) -> Action {
        let served = self.served_nowhere(conn, call, began);
        self.refuse(conn, call, served, status)
    }

    /// Counts a call that has no route, or whose route is not known yet.
    fn served_nowhere<'a>(
        &'a self,
        conn: &Conn<'_, Self>,
        call: &'a Incoming<'a>,
        began: Option<u64>,
    ) -> Served<'a> {
        let unknown = self.meters.unknown();
        self.meters.arrived(unknown, call.message.size);
        self.served(conn, &self.parts.plugins, call, unknown, began)
    }

    fn run_on_loop(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        run: &CallFn,
        call: &Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let mut ctx = CallCtx::new(call, Some(&self.locals), after_body(&route.plugins));
        let mut body = self.scratch.take();
        body.clear();
        let result = self.parts.run(run, &mut ctx, call, &mut body);
        let head = ctx.reply;
        // Messages of the handler leave before its reply, and a session that it has closed stays open for it.
        if has_work() {
            line.is_answering = true;
            self.carry_out(conn, line);
            line.is_answering = false;
            line.update(conn);
        }
        let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
        let served = self.served(conn, &route.plugins, call, route.meter, began);
        let result = result.map(|()| Cow::Borrowed(&body[..]));
        let action = self.finish_reply(conn, &mut reply, served, head, result);
        self.scratch.set(body);
        action
    }

    fn run_later(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        run: &LaterFn,
        mut call: Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let (number, token) = self.defer(conn, line, route, &mut call, began);
        let ctx = CallCtx::new(&call, Some(&self.locals), after_body(&route.plugins));
        match catch_unwind(AssertUnwindSafe(|| run(&ctx, token))) {
            Ok(()) => Action::Continue,
            Err(panic) => self.fail(conn, line, number, panic),
        }
    }

    fn run_async(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        run: &AsyncFn,
        mut call: Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let task = self.tasks.next_number();
        let (number, working) = self.expect_reply(conn, line, route, &mut call, Some(task), began);
        let after_body = after_body(&route.plugins);
        let ctx = AsyncCtx::new(call.into_owned(), self.locals.clone(), after_body);
        let head = ctx.reply.clone();
        let begin = || {
            let task_state = Task {
                conn: conn.id(),
                of: TaskOf::Call(number),
                head,
                future: run(ctx),
                _working: Some(working),
            };
            self.tasks.begin(task, task_state, &self.parts.peer.shared)
        };
        match catch_unwind(AssertUnwindSafe(begin)) {
            Ok(None) => Action::Continue,
            Ok(Some(finished)) => self.finish(conn, line, finished),
            Err(panic) => self.fail(conn, line, number, panic),
        }
    }

    fn run_blocking(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        (run, in_order): (&Arc<CallFn>, bool),
        mut call: Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let (number, mut token) = self.defer(conn, line, route, &mut call, began);
        let (dialect, call) = (call.dialect, call.into_owned());
        let (run, parts) = (run.clone(), self.parts.clone());
        let after_body = after_body(&route.plugins);
        let job = move || {
            if call.is_cancelled() {
                return;
            }
            let mut ctx = CallCtx::new(&call, None, after_body);
            let mut body = Vec::new();
            let result = parts.run(&*run, &mut ctx, &call, &mut body);
            token.head = ctx.reply;
            token.give(result.map(|()| body));
        };
        match self.submit(conn.id(), in_order, job) {
            Ok(()) => Action::Continue,
            Err(reason) => {
                let status = Status::of(code::SERVICE_UNAVAILABLE, dialect).with_reason(reason);
                let mut head = ReplyHead::default();
                head.meta.set(Meta::REFUSED, "busy");
                self.answer(conn, line, number, head, Err(status))
            }
        }
    }

    /// Makes the argument of a handler.
    #[inline(always)]
    pub(super) fn incoming<'a>(
        &self,
        conn: &Conn<'_, Self>,
        line: &Line,
        message: Message<'a>,
    ) -> Incoming<'a> {
        let told = (!message.meta.encoded().is_empty())
            .then(|| message.meta.get_str(TIMEOUT)?.parse().ok())
            .flatten()
            .map(Duration::from_millis);
        let own = line.session.handle_timeout();
        let limit = match (told, own) {
            (Some(told), Some(own)) => Some(told.min(own)),
            (told, own) => told.or(own),
        };
        Incoming {
            message,
            session: line.session.clone(),
            dialect: conn.codec().dialect(),
            deadline: limit.and_then(|limit| conn.now().checked_add(limit)),
            arrived: None,
            cancelled: None,
            extras: None,
        }
    }

    /// Prepares a reply that is given later. Returns its number, and the right to give it.
    fn defer(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        call: &mut Incoming<'_>,
        began: Option<u64>,
    ) -> (u64, ReplyToken) {
        let (number, working) = self.expect_reply(conn, line, route, call, None, began);
        let answer = conn.defer_answer();
        let peer = self.parts.peer.shared.clone();
        let give: Give = Box::new(move |answered: Answered| {
            drop(working);
            let late = LateAnswer(answered.result.is_ok().then_some(peer));
            // The task is dropped if the session has ended, and if no call waits for its reply any more.
            let _ = answer.run(move |handler: &mut Self, conn, line| {
                late.deliver();
                let _entered = enter(&handler.parts.peer.shared, conn.id().reactor());
                let Answered { head, result } = answered;
                let action = handler.answer(conn, line, number, head, result);
                obey(conn, action);
                handler.carry_out(conn, line);
            });
        });
        (number, ReplyToken::new(call, give))
    }

    /// Answers a deferred call whose handler panicked.
    fn fail(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        number: u64,
        panic: Box<dyn Any + Send>,
    ) -> Action {
        let status = self
            .parts
            .panicked(conn.codec().dialect(), "a handler", panic);
        self.answer(conn, line, number, ReplyHead::default(), Err(status))
    }

    /// Sends the result of a handler that is a future.
    pub(super) fn finish(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        finished: Finished,
    ) -> Action {
        match (finished.of, finished.result) {
            (TaskOf::Call(call), Ok(result)) => {
                self.answer(conn, line, call, finished.head, result)
            }
            (TaskOf::Call(call), Err(panic)) => self.fail(conn, line, call, panic),
            (TaskOf::Stream(stream), result) => {
                self.end_stream(
                    &stream,
                    conn.codec().dialect(),
                    result.map(|end| end.map(drop)),
                );
                Action::Continue
            }
        }
    }

    /// Ends the work on a call whose caller no longer waits, and gets no reply.
    pub(super) fn drop_call(&self, call: &DeferredCall) {
        self.meters.ended(call.meter, Outcome::Cancelled);
        self.abandon(call);
    }

    /// Ends the work on a call.
    pub(super) fn abandon(&self, call: &DeferredCall) {
        if let Some(task) = call.task {
            self.tasks.cancel(task);
        }
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
        let Some(mut call) = line.deferred.take(number) else {
            if result.is_ok() {
                Counters::count(&self.parts.peer.shared.counters.late_answers);
            }
            return Action::Continue;
        };
        line.update(conn);
        let mut reply = call.take_reply();
        let served = Served::deferred(&call);
        self.finish_reply(conn, &mut reply, served, head, result.map(Cow::Owned))
    }

    pub(super) fn submit(
        &self,
        conn: ConnId,
        in_order: bool,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let Some(pool) = &self.parts.pool else {
            return Err("the peer has no worker pool".to_owned());
        };
        let peer = self.parts.peer.shared.clone();
        let job = move || work_for(&peer, job);
        let submitted = if in_order {
            pool.submit_ordered(conn.as_u64(), job)
        } else {
            pool.submit(job)
        };
        submitted.map_err(|error| error.to_string())
    }

    pub(super) fn on_push(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        mut push: Incoming<'_>,
    ) {
        let parts = &self.parts;
        if push.message.uri.starts_with(RESERVED) {
            return self.on_reserved(conn, line, push);
        }
        let (began, size) = (self.begin_time(conn), push.message.size);
        let read = (parts.plugins).run(Hooks::POST_READ_PUSH_HEADER, |plugin| {
            push.arrived = Some(conn.now());
            plugin.post_read_push_header(&mut push)
        });
        if let Err(status) = read {
            let unknown = self.meters.unknown();
            self.meters.arrived(unknown, size);
            return self.end_push(conn, &push, unknown, began, Ok(Err(status)));
        }
        let table = &parts.table;
        let found = table.pushes.find(&push.message.uri).ok().flatten();
        let Some(route) = found.or(table.unknown_push.as_ref()) else {
            Counters::count(&parts.peer.shared.counters.stray_pushes);
            let unknown = self.meters.unknown();
            self.meters.arrived(unknown, size);
            self.meters.ended(unknown, Outcome::NotFound);
            let uri = push.uri();
            log::debug!(target: "epicycle::rpc", "{}: a push to no route: {uri:?}", conn.peer_addr());
            return;
        };
        self.meters.arrived(route.meter, size);
        let read = (route.plugins).run(Hooks::PRE_READ_PUSH_BODY, |plugin| {
            push.arrived = Some(conn.now());
            plugin.pre_read_push_body(&mut push)
        });
        if let Err(status) = read {
            return self.end_push(conn, &push, route.meter, began, Ok(Err(status)));
        }
        let after_body = after_body(&route.plugins);
        match &route.handler {
            PushHandler::OnLoop(run) => {
                let ctx = PushCtx::new(&push, Some(&self.locals), after_body);
                let result = catch_unwind(AssertUnwindSafe(|| run(&ctx, &push)));
                self.end_push(conn, &push, route.meter, began, result);
            }
            PushHandler::Blocking { run, in_order } => {
                if self.log().is_on() {
                    let addr = push.logged_addr();
                    self.log().push_in(Of { addr, cost: None }, &push.message);
                }
                let (run, push, parts) = (run.clone(), push.into_owned(), self.parts.clone());
                let job = move || {
                    let ctx = PushCtx::new(&push, None, after_body);
                    let result = catch_unwind(AssertUnwindSafe(|| run(&ctx, &push)));
                    parts.log_push(&push, result);
                };
                let submitted = self.submit(conn.id(), *in_order, job);
                let outcome = match submitted {
                    Ok(()) => Outcome::Ok,
                    Err(_) => Outcome::ServiceUnavailable,
                };
                self.meters.ended(route.meter, outcome);
                if let Err(reason) = submitted {
                    Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
                    // The other side can cause as many as it likes.
                    log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {reason}", conn.peer_addr());
                }
            }
        }
    }
}

/// The beginning of paths that belong to this crate.
const RESERVED: &[u8] = b"/_/";

impl PeerHandler {
    /// Takes a push that peers of this crate send each other.
    #[inline(never)]
    fn on_reserved(&self, conn: &mut Conn<'_, Self>, line: &mut Line, push: Incoming<'_>) {
        if *push.message.uri != *CANCEL.as_bytes() {
            return self.on_stream_push(conn, line, push);
        }
        if let Some(call) = line.deferred.cancel(&push.message.body) {
            Counters::count(&self.parts.peer.shared.counters.cancels);
            self.drop_call(&call);
        } else {
            self.on_stream_cancelled(line, &push.message.body);
        }
        line.update(conn);
    }

    /// Counts and logs a push that was handled on the reactor.
    fn end_push(
        &self,
        conn: &Conn<'_, Self>,
        push: &Incoming<'_>,
        meter: usize,
        began: Option<u64>,
        result: thread::Result<Result<(), Status>>,
    ) {
        let outcome = match &result {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(_)) if push.answered().is_some() => Outcome::Ok,
            Ok(Err(status)) => Outcome::of(status.code),
            Err(_) => Outcome::InternalServerError,
        };
        self.meters.ended(meter, outcome);
        if self.log().is_on() {
            let (addr, cost) = (push.logged_addr(), time_since(conn, began));
            self.log().push_in(Of { addr, cost }, &push.message);
        }
        self.parts.log_push(push, result);
    }

    /// Adds a call whose reply is given later. Returns its number.
    fn expect_reply(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        call: &mut Incoming<'_>,
        task: Option<u64>,
        began: Option<u64>,
    ) -> (u64, Working) {
        let cancelled = Arc::new(Cancellation::default());
        call.cancelled = Some(cancelled.clone());
        call.arrived = Some(conn.now());
        let kept = call.take_kept();
        let reply = Message::reply(&call.message, call.dialect.echoes_uri()).into_owned();
        let times = (route.meter, began);
        let added = (line.deferred).add(reply, cancelled, task, call.deadline, times, kept);
        let is_seen = self.served(conn, &route.plugins, call, route.meter, began);
        if is_seen.seen.is_some() {
            let seen = Box::new((route.plugins.clone(), call.clone().into_owned()));
            line.deferred.set_seen(added.0, seen);
        }
        line.update(conn);
        line.set_alarm(conn);
        added
    }
}

impl Parts {
    /// Runs the handler of a call. Its panic is an error.
    fn run<'a>(
        &self,
        run: &CallFn,
        ctx: &mut CallCtx<'a>,
        call: &'a Incoming<'a>,
        body: &mut Vec<u8>,
    ) -> Result<(), Status> {
        catch_unwind(AssertUnwindSafe(|| run(ctx, call, body)))
            .unwrap_or_else(|panic| Err(self.panicked_at(call, panic)))
    }

    /// Logs the panic of a message's handler. Returns the status for its caller.
    pub(super) fn panicked_at(
        &self,
        message: &Incoming<'_>,
        payload: Box<dyn Any + Send>,
    ) -> Status {
        let what = format!("the handler of {}", OneLine(&message.uri()));
        self.panicked(message.dialect, &what, payload)
    }

    /// Logs a panic. Returns the status for the caller.
    pub(super) fn panicked(
        &self,
        dialect: Dialect,
        what: &str,
        payload: Box<dyn Any + Send>,
    ) -> Status {
        let status = Status::of(code::INTERNAL_SERVER_ERROR, dialect);
        let reason = panic::message(&*payload).to_owned();
        panic::report("epicycle::rpc", what, payload);
        if self.peer.shared.settings.tells_panics {
            status.with_reason(reason)
        } else {
            status
        }
    }

    fn log_push(&self, push: &Incoming<'_>, result: thread::Result<Result<(), Status>>) {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(_)) if push.answered().is_some() => {}
            Ok(Err(status)) => {
                let level = match status.code {
                    // The other side can cause as many as it likes.
                    code::BAD_MESSAGE | code::TOO_MANY_REQUESTS => Level::Debug,
                    _ => Level::Warn,
                };
                let (addr, uri) = (push.remote_addr(), push.uri());
                log::log!(target: "epicycle::rpc", level, "{addr}: the push {}: {status}", OneLine(&uri));
            }
            Err(payload) => drop(self.panicked_at(push, payload)),
        }
    }
}

/// Counts an answer as late when it is dropped, unless the reactor has taken it.
struct LateAnswer(Option<Arc<Shared>>);

impl LateAnswer {
    fn deliver(mut self) {
        self.0 = None;
    }
}

impl Drop for LateAnswer {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            Counters::count(&peer.counters.late_answers);
        }
    }
}

/// Returns the limit that one more deferred call would exceed.
fn over_limit(line: &Line, settings: &Settings) -> Option<&'static str> {
    if line.deferred.working() >= settings.max_deferred {
        return Some("too many calls of this session are not answered yet");
    }
    (line.deferred.total() >= settings.max_total_deferred)
        .then_some("too many calls of all sessions are not answered yet")
}

/// Returns the plugins if one of them wants to see decoded bodies.
#[inline]
pub(super) fn after_body(plugins: &Arc<Plugins>) -> Option<Arc<dyn AfterBody>> {
    let hooks = Hooks::POST_READ_CALL_BODY | Hooks::POST_READ_PUSH_BODY;
    if plugins.have(hooks) {
        Some(plugins.clone())
    } else {
        None
    }
}
