//! Streams that begin.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use super::{Line, PeerHandler};
use crate::engine::handler::{Action, Conn};
use crate::rpc::context::{AsyncCtx, CallCtx, Incoming, ReplyHead};
use crate::rpc::handler::replies::Served;
use crate::rpc::handler::sending::send_cancel;
use crate::rpc::handler::serving::after_body;
use crate::rpc::plugin::Plugins;
use crate::rpc::router::{Begin, BeginAsync, CallHandler, Route, StreamHandler, StreamRun};
use crate::rpc::stream::{Role, STREAM, Stream};
use crate::rpc::stream_ends::Accepted;
use crate::rpc::tasks::{Task, TaskOf};
use crate::rpc::wire::{Dialect, Message, Status, code};
use crate::rpc::working::Working;

impl PeerHandler {
    /// Adds a stream that this side opens, whose CALL is sent.
    pub(in crate::rpc::handler) fn add_opened(
        &self,
        line: &mut Line,
        stream: Arc<Stream>,
        seq: &[u8],
    ) {
        stream.set_seq(seq);
        let streams = line.streams.get_or_insert_default();
        streams.insert(stream, self.parts.plugins.clone());
    }

    /// Handles a CALL whose route is a stream.
    pub(in crate::rpc::handler) fn on_stream(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        route: &Route<CallHandler>,
        handler: &StreamHandler,
        mut call: Incoming<'_>,
        began: Option<u64>,
    ) -> Action {
        let plugins = &route.plugins;
        let window = match handler.receives {
            true => self.parts.peer.shared.settings.stream_credit,
            false => 0,
        };
        let stream = Stream::new(Role::Acceptor, window, Box::new(line.session.clone()));
        stream.set_seq(&call.message.seq);
        // The caller's time is for the acceptance, and not for the stream.
        call.deadline = None;
        call.cancelled = Some(stream.cancelled());
        call.arrived = Some(conn.now());
        let kept = call.take_kept();
        let begin = self
            .check_stream(line, &call, &stream)
            .and_then(|()| self.decode_argument(plugins, handler, &call));
        let served = self.served(conn, plugins, &call, route.meter, began);
        let begin = match begin {
            Ok(begin) => begin,
            Err(status) => return self.refuse(conn, &call, served, &status),
        };
        let streams = line.streams.get_or_insert_default();
        let total = &self.parts.peer.shared.deferred;
        let working = Working::new([&streams.working, total], kept);
        streams.insert(stream.clone(), plugins.clone());
        line.update(conn);
        let (action, is_accepted) = self.accept(conn, &call, served, window);
        if let Err(status) = is_accepted {
            line.remove_stream(&stream);
            line.update(conn);
            stream.stop(status);
            return action;
        }
        let accepted = Accepted::new(&call, stream.clone(), working);
        self.begin_stream(conn, line, stream, call, begin, accepted);
        action
    }

    /// Checks whether a stream can be accepted, and takes the caller's first grant of credit.
    fn check_stream(
        &self,
        line: &mut Line,
        call: &Incoming<'_>,
        stream: &Arc<Stream>,
    ) -> Result<(), Status> {
        let refuse =
            |code, reason: &'static str| Err(Status::of(code, call.dialect).with_reason(reason));
        let Some(credit) = call.message.meta.get_str(STREAM) else {
            let reason = "this route is a stream; the call needs the metadata X-Stream";
            return refuse(code::BAD_MESSAGE, reason);
        };
        let is_taken = match credit.parse() {
            Ok(0) => true,
            Ok(credit) => stream.on_credit(credit).is_ok(),
            Err(_) => false,
        };
        if !is_taken {
            return refuse(code::BAD_MESSAGE, "X-Stream is no number from 0 to 1048576");
        }
        let streams = line.streams.get_or_insert_default();
        if streams.accepted.contains_key(&*call.message.seq) {
            return refuse(code::BAD_MESSAGE, "a stream with this seq is open");
        }
        let working = streams.working.load(Ordering::Relaxed);
        if working.max(streams.accepted.len()) >= self.parts.peer.shared.settings.max_streams {
            let reason = "too many streams of this session are open";
            return refuse(code::TOO_MANY_REQUESTS, reason);
        }
        if line.deferred.total() >= self.parts.peer.shared.settings.max_total_deferred {
            let reason = "too many calls of all sessions are not answered yet";
            return refuse(code::TOO_MANY_REQUESTS, reason);
        }
        Ok(())
    }

    /// Decodes the argument of a stream. Returns what runs once the stream is accepted.
    fn decode_argument(
        &self,
        plugins: &Arc<Plugins>,
        handler: &StreamHandler,
        call: &Incoming<'_>,
    ) -> Result<Beginning, Status> {
        let ctx = || CallCtx::new(call, Some(&self.locals), after_body(plugins));
        let decode = || match &handler.run {
            StreamRun::OnLoop(run) => run(&ctx()).map(Beginning::OnLoop),
            StreamRun::Blocking(run) => run(&ctx()).map(Beginning::Blocking),
            StreamRun::Async(run) => {
                let call = call.clone().into_owned();
                run(AsyncCtx::new(
                    call,
                    self.locals.clone(),
                    after_body(plugins),
                ))
                .map(Beginning::Async)
            }
        };
        catch_unwind(AssertUnwindSafe(decode))
            .unwrap_or_else(|panic| Err(self.parts.panicked_at(call, panic)))
    }

    /// Sends the acceptance of a stream. Returns the status with which a plugin has replaced it.
    fn accept(
        &self,
        conn: &mut Conn<'_, Self>,
        call: &Incoming<'_>,
        served: Served<'_>,
        window: u32,
    ) -> (Action, Result<(), Status>) {
        let mut head = ReplyHead::default();
        head.meta.set(STREAM, window.to_string());
        let mut reply = Message::reply(&call.message, call.dialect.echoes_uri());
        let body = Ok(Cow::Borrowed(&[][..]));
        let action = self.finish_reply(conn, &mut reply, served, head, body);
        (action, reply.status().map_or(Ok(()), Err))
    }

    /// Runs the handler of a stream that is accepted.
    fn begin_stream(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        stream: Arc<Stream>,
        call: Incoming<'_>,
        begin: Beginning,
        accepted: Accepted,
    ) {
        let dialect = call.dialect;
        match begin {
            Beginning::OnLoop(begin) => {
                let ctx = CallCtx::new(&call, Some(&self.locals), None);
                if let Err(panic) = stream.run(|| begin(&ctx, accepted)) {
                    stream.end(Err(self.parts.panicked_at(&call, panic)));
                }
            }
            Beginning::Blocking(begin) => {
                let (parts, call) = (self.parts.clone(), call.into_owned());
                let worked_on = stream.clone();
                let job = move || {
                    if call.is_cancelled() {
                        return;
                    }
                    let ctx = CallCtx::new(&call, None, None);
                    let result = worked_on.run(|| begin(&ctx, accepted));
                    worked_on
                        .end(result.unwrap_or_else(|panic| Err(parts.panicked_at(&call, panic))));
                };
                if let Err(reason) = self.submit(conn.id(), false, job) {
                    let status = Status::of(code::SERVICE_UNAVAILABLE, dialect);
                    stream.end(Err(status.with_reason(reason)));
                }
            }
            Beginning::Async(begin) => {
                let number = self.tasks.next_number();
                if let Some(entry) = line.entry(&stream) {
                    entry.task = Some(number);
                }
                let start = || {
                    let task = Task {
                        conn: conn.id(),
                        of: TaskOf::Stream(stream.clone()),
                        head: Rc::default(),
                        future: begin(accepted),
                        _working: None,
                    };
                    self.tasks.begin(number, task, &self.parts.peer.shared)
                };
                match stream.run(start) {
                    Ok(None) => {}
                    Ok(Some(finished)) => {
                        let result = finished.result.map(|end| end.map(drop));
                        self.end_stream(&stream, dialect, result);
                    }
                    Err(panic) => self.end_stream(&stream, dialect, Err(panic)),
                }
            }
        }
    }

    /// Ends a stream with the result of its handler.
    pub(in crate::rpc::handler) fn end_stream(
        &self,
        stream: &Arc<Stream>,
        dialect: Dialect,
        result: thread::Result<Result<(), Status>>,
    ) {
        let panicked = |panic| {
            Err(self
                .parts
                .panicked(dialect, "the handler of a stream", panic))
        };
        stream.end(result.unwrap_or_else(panicked));
    }

    /// Looks at a stream whose CALL has got its reply.
    #[cold]
    pub(in crate::rpc::handler) fn after_reply(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        reply: &Message<'_>,
    ) {
        let Some(stream) = line.opened_stream(&reply.seq) else {
            return;
        };
        if !stream.is_over() {
            return;
        }
        line.remove_stream(&stream);
        line.update(conn);
        if reply.status().is_none() && reply.meta.get(STREAM).is_some() {
            // The other side has accepted a stream that has failed here.
            send_cancel(conn, line, stream.seq());
        }
    }

    /// Gives up a stream whose CALL has got no reply in time. Its waiter is told elsewhere.
    pub(in crate::rpc::handler) fn give_up_stream(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        seq: &[u8],
    ) {
        if let Some(stream) = line.opened_stream(seq) {
            line.remove_stream(&stream);
            line.update(conn);
            send_cancel(conn, line, seq);
        }
    }
}

/// The handler that runs once a stream is accepted.
enum Beginning {
    OnLoop(Begin),
    Blocking(Begin),
    Async(BeginAsync),
}
