//! The streams of a connection.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::replies::{Served, obey};
use super::sending::{send_cancel, unsent};
use super::serving::after_body;
use super::{LEAVING, Line, PeerHandler, enter};
use crate::engine::handler::{Action, Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::rpc::context::{AsyncCtx, CallCtx, Incoming, ReplyHead};
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::reply::local;
use crate::rpc::router::{Begin, BeginAsync, CallHandler, Route, StreamHandler, StreamRun};
use crate::rpc::stats::Counters;
use crate::rpc::stream::{
    CREDIT, END, ITEM, Item, Role, STREAM, STREAM_BY, STREAM_ID, Signal, Stream, Violation,
};
use crate::rpc::stream_ends::Accepted;
use crate::rpc::tasks::{Task, TaskOf};
use crate::rpc::wire::{Codec, Dialect, Message, Status, code};
use crate::rpc::working::Working;

/// The streams of a connection, by the `seq`s of their CALLs. They are few, and have the same order in each simulation.
#[derive(Default)]
pub(super) struct Streams {
    opened: BTreeMap<Box<[u8]>, Entry>,
    accepted: BTreeMap<Box<[u8]>, Entry>,
    /// The number of streams with handlers at work. It includes streams that are over.
    working: Arc<AtomicUsize>,
    /// The bytes of items that wait for their readers.
    held: Arc<AtomicUsize>,
}

struct Entry {
    stream: Arc<Stream>,
    /// The items, and their end, that wait for room in the output.
    waiting: VecDeque<Signal>,
    /// The number of the handler's task, if it is a future.
    task: Option<u64>,
    /// The plugins that see the items.
    plugins: Arc<Plugins>,
}

impl Streams {
    fn side(&mut self, role: Role) -> &mut BTreeMap<Box<[u8]>, Entry> {
        match role {
            Role::Opener => &mut self.opened,
            Role::Acceptor => &mut self.accepted,
        }
    }

    fn insert(&mut self, stream: Arc<Stream>, plugins: Arc<Plugins>) {
        let seq = stream.seq().into();
        let entry = Entry {
            stream: stream.clone(),
            waiting: VecDeque::new(),
            task: None,
            plugins,
        };
        self.side(stream.role()).insert(seq, entry);
    }

    /// Returns the entry of a stream, unless it has ended.
    fn entry(&mut self, stream: &Arc<Stream>) -> Option<&mut Entry> {
        let entry = self.side(stream.role()).get_mut(stream.seq())?;
        Arc::ptr_eq(&entry.stream, stream).then_some(entry)
    }

    /// Returns the streams with items that wait for room.
    fn waiting(&self) -> Vec<Arc<Stream>> {
        (self.opened.values())
            .chain(self.accepted.values())
            .filter(|entry| !entry.waiting.is_empty())
            .map(|entry| entry.stream.clone())
            .collect()
    }

    fn drain(&mut self) -> Vec<Entry> {
        let accepted = mem::take(&mut self.accepted).into_values();
        accepted
            .chain(mem::take(&mut self.opened).into_values())
            .collect()
    }
}

impl Line {
    /// Returns the numbers of streams that this side has accepted and opened.
    pub(super) fn stream_counts(&self) -> (usize, usize) {
        match &self.streams {
            Some(streams) => (streams.accepted.len(), streams.opened.len()),
            None => (0, 0),
        }
    }

    /// Returns the stream of this side that a CALL with this `seq` has opened.
    pub(super) fn opened_stream(&self, seq: &[u8]) -> Option<Arc<Stream>> {
        let entry = self.streams.as_ref()?.opened.get(seq)?;
        Some(entry.stream.clone())
    }

    fn entry(&mut self, stream: &Arc<Stream>) -> Option<&mut Entry> {
        self.streams.as_mut()?.entry(stream)
    }

    fn remove_stream(&mut self, stream: &Arc<Stream>) -> Option<Entry> {
        self.entry(stream)?;
        self.streams
            .as_mut()?
            .side(stream.role())
            .remove(stream.seq())
    }
}

/// Streams that begin.
impl PeerHandler {
    /// Adds a stream that this side opens, whose CALL is sent.
    pub(super) fn add_opened(&self, line: &mut Line, stream: Arc<Stream>, seq: &[u8]) {
        stream.set_seq(seq);
        let streams = line.streams.get_or_insert_default();
        streams.insert(stream, self.parts.plugins.clone());
    }

    /// Handles a CALL whose route is a stream.
    pub(super) fn on_stream(
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
        let served = self.served(plugins, &call, route.meter, began);
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
    pub(super) fn end_stream(
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
    pub(super) fn after_reply(
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
    pub(super) fn give_up_stream(&self, conn: &mut Conn<'_, Self>, line: &mut Line, seq: &[u8]) {
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

/// Messages of streams that arrive.
impl PeerHandler {
    /// Takes a push for a stream, from the other side.
    pub(super) fn on_stream_push(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        mut push: Incoming<'_>,
    ) {
        let counters = &self.parts.peer.shared.counters;
        let meta = &push.message.meta;
        let by = meta.get(STREAM_BY).and_then(|by| Role::from_name(&by));
        let found = by.zip(meta.get(STREAM_ID)).and_then(|(by, seq)| {
            // The stream that the other side opened is one that this side accepted.
            let side = match by {
                Role::Opener => Role::Acceptor,
                Role::Acceptor => Role::Opener,
            };
            let streams = line.streams.as_mut()?;
            let held = streams.held.clone();
            let entry = streams.side(side).get(&*seq)?;
            Some((entry.stream.clone(), entry.plugins.clone(), held))
        });
        let Some((stream, plugins, held)) = found else {
            // It has crossed the end of the stream, as a rule.
            Counters::count(&counters.stray_items);
            log::debug!(target: "epicycle::rpc", "{}: a push to no stream: {:?}", conn.peer_addr(), push.uri());
            return;
        };
        let result = if *push.message.uri == *ITEM.as_bytes() {
            if let Err(status) = read_item(&plugins, &mut push) {
                return self.fail_stream(conn, line, &stream, status);
            }
            let waiting = held
                .load(Ordering::Relaxed)
                .saturating_add(push.message.body.len());
            if waiting > self.parts.peer.shared.settings.max_stream_bytes {
                let reason = "too many bytes of items wait for their readers";
                let status = local(code::TOO_MANY_REQUESTS, reason);
                return self.fail_stream(conn, line, &stream, status);
            }
            stream.on_item(Item::new(push.message.into_owned(), &held))
        } else if *push.message.uri == *CREDIT.as_bytes() {
            let items = std::str::from_utf8(&push.message.body).ok();
            match items.and_then(|items| items.parse().ok()) {
                Some(items) => stream.on_credit(items),
                None => Err(Violation::Credit),
            }
        } else if *push.message.uri == *END.as_bytes() {
            let result = Status::read(&push.message.meta).map_or(Ok(()), Err);
            let taken = stream.on_end(result);
            if stream.role() == Role::Opener {
                line.remove_stream(&stream);
                line.update(conn);
            }
            taken
        } else {
            Counters::count(&counters.stray_items);
            return;
        };
        if let Err(violation) = result {
            Counters::count(&counters.stream_violations);
            let status = violation.status();
            log::info!(target: "epicycle::rpc", "{}: a stream ends: {status}", conn.peer_addr());
            self.fail_stream(conn, line, &stream, status);
        }
    }

    /// Ends the stream that the other side has opened and cancelled.
    pub(super) fn on_stream_cancelled(&self, line: &mut Line, seq: &[u8]) {
        let Some(streams) = &mut line.streams else {
            return;
        };
        if let Some(entry) = streams.accepted.remove(seq) {
            Counters::count(&self.parts.peer.shared.counters.cancels);
            self.cancel_task(&entry);
            entry.stream.cancel(local(
                code::CANCELLED,
                "the other side has cancelled the stream",
            ));
        }
    }

    /// Ends a stream because of a fault of this side or the other one, and tells the other side.
    fn fail_stream(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        stream: &Arc<Stream>,
        status: Status,
    ) {
        let Some(entry) = line.remove_stream(stream) else {
            return;
        };
        self.cancel_task(&entry);
        line.update(conn);
        match stream.role() {
            Role::Opener => {
                let seq = stream.seq();
                if let Some(call) = line.calls.take(seq) {
                    // The stream is not accepted yet.
                    line.update(conn);
                    self.fail_call(conn.now(), &line.session, call, status.clone());
                }
                send_cancel(conn, line, seq);
            }
            Role::Acceptor => send_end(conn, line, stream, &Err(status.clone())),
        }
        stream.stop(status);
    }

    fn cancel_task(&self, entry: &Entry) {
        if let Some(task) = entry.task {
            self.tasks.cancel(task);
        }
    }

    /// Ends the streams of a session whose time to close is over. The other side learns of the end of those that it has not
    /// opened itself, so that it does not wait for them before it closes.
    pub(super) fn give_up_streams(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let entries = line.streams.as_mut().map(|streams| streams.drain());
        for entry in entries.unwrap_or_default() {
            if entry.stream.role() == Role::Opener {
                send_cancel(conn, line, entry.stream.seq());
            }
            self.cancel_task(&entry);
            let reason = "the session closed before the end of the stream";
            entry.stream.stop(local(code::CONNECTION_CLOSED, reason));
        }
    }

    /// Follows the end of the other side's stream. Its last messages are handled first: they may take several turns.
    pub(super) fn on_left(&self, reactor: &mut Reactor<'_, Self>, id: ConnId) {
        let _entered = enter(&self.parts.peer.shared, reactor.id());
        let waits = reactor.with(id, |conn, line| {
            let is_handled = conn.peer_has_shut_down();
            if is_handled {
                self.on_leave(conn, line);
            }
            !is_handled
        });
        if waits == Some(true) {
            reactor.schedule(LEAVING, move |handler, reactor| {
                handler.on_left(reactor, id);
            });
        }
        self.carry_out_all(reactor);
    }

    /// Ends the streams of a peer that has ended its side of the connection, and the calls that wait for its replies: neither
    /// credit nor replies can arrive any more. Handlers whose replies are owed to it may wait for these. Calls that a new
    /// connection repeats are left to it.
    fn on_leave(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let reason = "the other side has ended the connection";
        let status = local(code::CONNECTION_CLOSED, reason);
        let entries = line.streams.as_mut().map(|streams| streams.drain());
        self.stop_all(entries, &status);
        for number in line.calls.numbers(|call| call.again.is_none()) {
            if let Some(call) = line.calls.remove(number) {
                self.fail_call(conn.now(), &line.session, call, status.clone());
            }
        }
        line.update(conn);
        let conversation = conn.codec().conversation();
        if conversation.owed + conversation.awaited == 0 {
            conn.close();
        }
    }

    /// Ends the streams of a connection that has closed.
    pub(super) fn stop_streams(&self, streams: Option<Box<Streams>>, status: &Status) {
        self.stop_all(streams.map(|mut streams| streams.drain()), status);
    }

    fn stop_all(&self, entries: Option<Vec<Entry>>, status: &Status) {
        for entry in entries.unwrap_or_default() {
            self.cancel_task(&entry);
            entry.stream.stop(status.clone());
        }
    }
}

/// Messages of streams that are sent.
impl PeerHandler {
    pub(super) fn on_signal(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        stream: &Arc<Stream>,
        signal: Signal,
    ) {
        if let Signal::Deliver(delivery) = signal {
            return drop(delivery);
        }
        let Some(entry) = line.entry(stream) else {
            // The stream has ended.
            return;
        };
        match signal {
            Signal::Item(_) | Signal::End(_) if !(entry.waiting.is_empty() && conn.has_room()) => {
                stream.set_congested();
                entry.waiting.push_back(signal);
            }
            Signal::Cancel => self.cancel_stream(conn, line, stream),
            Signal::Grant(items) => {
                let mut push = stream_push(line, stream, CREDIT);
                push.codec = Codec::PLAIN;
                push.body = items.to_string().into_bytes().into();
                if let Err(error) = conn.send(&push) {
                    // Without the grant the other side would wait for ever.
                    self.fail_stream(conn, line, stream, unsent(&error));
                }
            }
            signal => self.put(conn, line, stream, signal),
        }
    }

    /// Sends an item or the end.
    fn put(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        stream: &Arc<Stream>,
        signal: Signal,
    ) {
        match signal {
            Signal::Item(mut item) => {
                number(line, &mut item);
                match conn.send(&item) {
                    Ok(()) => {
                        self.after_write(line, &item);
                        stream.written(item.body.len());
                    }
                    Err(error) => self.fail_stream(conn, line, stream, unsent(&error)),
                }
            }
            Signal::End(result) => {
                if stream.role() == Role::Acceptor {
                    line.remove_stream(stream);
                    // The engine looks at what is owed when the end is sent.
                    line.update(conn);
                }
                send_end(conn, line, stream, &result);
            }
            Signal::Grant(_) | Signal::Cancel | Signal::Deliver(_) => {}
        }
    }

    /// Cancels a stream that this side has opened.
    fn cancel_stream(&self, conn: &mut Conn<'_, Self>, line: &mut Line, stream: &Arc<Stream>) {
        Counters::count(&self.parts.peer.shared.counters.cancels);
        let status = local(code::CANCELLED, "");
        self.fail_stream(conn, line, stream, status);
    }

    /// Sends the items that wait for room, as far as there is some: one of each stream in turn.
    #[cold]
    pub(super) fn send_waiting_items(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let mut waiting = line
            .streams
            .as_ref()
            .map_or_else(Vec::new, |streams| streams.waiting());
        while !waiting.is_empty() {
            waiting.retain(|stream| {
                if !conn.has_room() {
                    return true;
                }
                let signal = line
                    .entry(stream)
                    .and_then(|entry| entry.waiting.pop_front());
                let Some(signal) = signal else {
                    return false;
                };
                self.put(conn, line, stream, signal);
                true
            });
            if !conn.has_room() {
                return;
            }
        }
    }
}

/// Sends the end of the items of this side.
fn send_end(
    conn: &mut Conn<'_, PeerHandler>,
    line: &mut Line,
    stream: &Stream,
    result: &Result<(), Status>,
) {
    let mut push = stream_push(line, stream, END);
    if let Err(status) = result {
        status.write(&mut push.meta, conn.codec().max_field());
    }
    if let Err(error) = conn.send(&push) {
        // The other side would wait for it for ever.
        obey(conn, error.into());
    }
}

/// Returns a push of this side of a stream.
fn stream_push(line: &mut Line, stream: &Stream, path: &'static str) -> Message<'static> {
    let mut push = Message::push(path);
    push.meta = stream.meta();
    number(line, &mut push);
    push
}

/// Gives a push the next number as its `seq`.
fn number(line: &mut Line, push: &mut Message<'_>) {
    let mut text = itoa::Buffer::new();
    let seq = text.format(line.calls.next_number());
    push.seq = seq.as_bytes().to_vec().into();
}

/// The hooks that see items before they are decoded.
const READS_ITEMS: Hooks = Hooks::POST_READ_PUSH_HEADER.union(Hooks::PRE_READ_PUSH_BODY);

/// Lets the plugins see an item, and change it.
fn read_item(plugins: &Plugins, item: &mut Incoming<'_>) -> Result<(), Status> {
    if !plugins.have(READS_ITEMS) {
        return Ok(());
    }
    plugins.run(Hooks::POST_READ_PUSH_HEADER, |plugin| {
        plugin.post_read_push_header(item)
    })?;
    plugins.run(Hooks::PRE_READ_PUSH_BODY, |plugin| {
        plugin.pre_read_push_body(item)
    })
}
