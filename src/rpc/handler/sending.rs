//! Calls and pushes that are sent, and replies that arrive.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{CANCEL, Line, PeerHandler, SentAgain, SentCall, Stage, TIMEOUT};
use crate::engine::conn::write::WriteError;
use crate::engine::handler::Conn;
use crate::panic;
use crate::rpc::calls::Open;
use crate::rpc::logging::Of;
use crate::rpc::outgoing::{Arrived, CallState, Outgoing, WhenFull};
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::reply::local;
use crate::rpc::session::{Order, Session, SessionConn, Settings, settle};
use crate::rpc::stats::Counters;
use crate::rpc::wire::{Codec, Kind, Message, Status, code};

impl PeerHandler {
    pub(super) fn on_reply(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        mut reply: Message<'_>,
    ) {
        let (shared, plugins) = (&self.parts.peer.shared, &self.parts.plugins);
        let Some(call) = line.calls.take(&reply.seq) else {
            Counters::count(&shared.counters.stray_replies);
            log::debug!(target: "epicycle::rpc", "{}: a reply to no call: seq {:?}", conn.peer_addr(), reply.seq);
            return;
        };
        line.update(conn);
        let read = match plugins.have(READS_REPLIES) {
            true => read_reply(plugins, &line.session, &mut reply),
            false => Ok(()),
        };
        if let Some(sent) = &call.value.logged {
            let cost = conn.now().saturating_duration_since(call.sent);
            let end = read.as_ref().map(|()| &reply);
            let of = of(&line.session, Some(cost));
            self.log().call_out(of, sent, end);
        }
        call.value.waiter.settle(read.map(|()| Arrived {
            message: &reply,
            cost: conn.now().saturating_duration_since(call.sent),
            codecs: &shared.formats.codecs,
        }));
        if line.streams.is_some() {
            self.after_reply(conn, line, &reply);
        }
    }

    pub(super) fn execute(&self, conn: &mut Conn<'_, Self>, line: &mut Line, order: Order) {
        match order {
            Order::Send(outgoing) | Order::Write(outgoing) => self.send(conn, line, outgoing),
            Order::Cancel(call) => self.cancel(conn, line, &call),
            Order::Timer(plugin, after) => self.set_timer(conn, line, &plugin, after),
            Order::Age => {
                if line.stage == Stage::Open && !conn.codec().conversation().is_closing {
                    line.begin_age(conn);
                }
            }
            Order::Close(time) => {
                line.update(conn);
                let conversation = conn.codec_mut().conversation_mut();
                let was_closing = std::mem::replace(&mut conversation.is_closing, true);
                if conversation.owed + conversation.awaited == 0 {
                    return conn.close();
                }
                let give_up = conn.now().checked_add(time);
                let before = line.term.filter(|_| was_closing);
                line.term = before.into_iter().chain(give_up).min();
                line.set_alarm(conn);
            }
            Order::Abort => conn.abort(),
            Order::Lose => {
                line.is_lost = true;
                conn.abort();
            }
            Order::Show(look) => {
                let shown = SessionConn {
                    fd: conn.as_fd(),
                    calls_sent: line.calls.len(),
                    calls_received: line.deferred.len(),
                    bytes_waiting: conn.buffered_out(),
                };
                panic::catch(
                    "epicycle::rpc",
                    "the callback of `Session::with_conn`",
                    || {
                        look(&shown);
                    },
                );
            }
            Order::Stream(stream, signal) => self.on_signal(conn, line, &stream, signal),
        }
    }

    /// Sends a CALL or a PUSH.
    fn send(&self, conn: &mut Conn<'_, Self>, line: &mut Line, mut outgoing: Outgoing) {
        let conversation = conn.codec().conversation();
        let settings = &self.parts.peer.shared.settings;
        if conversation.is_draining || conversation.is_closing {
            return settle(
                outgoing,
                &local(code::CONNECTION_CLOSED, "the session is closing"),
            );
        }
        let number = (!outgoing.has_own_seq).then(|| line.calls.next_number());
        if let Some(number) = number {
            let mut text = itoa::Buffer::new();
            outgoing.message.seq = text.format(number).as_bytes().to_vec().into();
        }
        let Some(call) = outgoing.call.take() else {
            return match outgoing.on_sent {
                Some(_) => self.push_when_room(conn, line, outgoing),
                None if self.finds_room(conn, line, outgoing.when_full) => {
                    self.push(conn, line, outgoing);
                }
                None => {}
            };
        };
        if call.waiter.is_cancelled() {
            Counters::count(&self.parts.peer.shared.counters.cancels);
            return call.waiter.settle(Err(local(code::CANCELLED, "")));
        }
        if let Some(reason) = over_limit(line, settings) {
            return call
                .waiter
                .settle(Err(local(code::TOO_MANY_REQUESTS, reason)));
        }
        let seq = &outgoing.message.seq;
        let is_taken = |line: &Line| {
            line.calls.contains(seq)
                || line.opened_stream(seq).is_some()
                || (line.waiting.as_ref())
                    .is_some_and(|waiting| waiting.cancels.iter().any(|waits| **waits == **seq))
        };
        if outgoing.has_own_seq && is_taken(line) {
            let reason = "a call with this seq waits for its reply or its cancellation, or has opened a stream";
            return call.waiter.settle(Err(local(code::WRITE_FAILED, reason)));
        }
        let now = conn.now();
        let left = call.deadline.map(|by| by.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            let reason = "the deadline is over before the call is sent";
            return call.waiter.settle(Err(local(code::HANDLE_TIMEOUT, reason)));
        }
        let timeout = call.timeout.into_iter().chain(left).min();
        if let Some(stream) = call.waiter.opens() {
            if line.stream_counts().1 >= settings.max_streams {
                let reason = "too many streams are open; the limit is `PeerBuilder::max_streams`";
                return call
                    .waiter
                    .settle(Err(local(code::TOO_MANY_REQUESTS, reason)));
            }
            // It was dropped before it is opened.
            if stream.is_over() {
                return call.waiter.settle(Err(local(code::CANCELLED, "")));
            }
        } else if let Some(timeout) = timeout {
            // At least 1, so that a short time is not taken for one that is over.
            let millis = timeout.as_millis().max(1);
            outgoing.message.meta.set(TIMEOUT, millis.to_string());
        }
        if let Err(error) = conn.send(&outgoing.message) {
            if matches!(error, WriteError::Closed) && self.outlives(line) {
                outgoing.call = Some(call);
                return self.hold(line, outgoing, now);
            }
            return call.waiter.settle(Err(unsent(&error)));
        }
        self.after_write(line, &outgoing.message);
        let mut sent = SentCall {
            waiter: call.waiter,
            seq: (&*outgoing.message.seq).into(),
            logged: self.log().is_on().then(|| {
                let mut sent = outgoing.message.clone();
                sent.size = conn.codec().last_sent();
                Box::new(sent)
            }),
            again: None,
        };
        let number = number.unwrap_or_else(|| line.calls.next_number());
        sent.waiter.sent(number);
        if let Some(stream) = sent.waiter.opens() {
            self.add_opened(line, stream.clone(), &sent.seq);
        }
        let own_seq = outgoing.has_own_seq.then(|| sent.seq.clone());
        if call.is_idempotent && !call.fails_fast && self.outlives(line) {
            sent.again = Some(Box::new(SentAgain {
                message: outgoing.message,
                has_own_seq: outgoing.has_own_seq,
                by: timeout.and_then(|timeout| now.checked_add(timeout)),
            }));
        }
        (line.calls).insert(number, own_seq.as_deref(), sent, now, timeout);
        line.update(conn);
        line.set_alarm(conn);
    }

    #[inline]
    pub(super) fn after_write(&self, line: &Line, message: &Message<'_>) {
        let (plugins, session) = (&self.parts.plugins, &line.session);
        match message.kind {
            Kind::Push => plugins.tell(Hooks::POST_WRITE_PUSH, |plugin| {
                plugin.post_write_push(session, message);
            }),
            _ => plugins.tell(Hooks::POST_WRITE_CALL, |plugin| {
                plugin.post_write_call(session, message);
            }),
        }
    }

    /// Ends the calls of a session whose time to close is over. The other side is told, so that it does not wait for their
    /// replies before it closes.
    pub(super) fn give_up(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let calls: Vec<_> = line.calls.drain().collect();
        for call in calls {
            send_cancel(conn, line, &call.value.seq);
            let reason = "the session closed before the reply";
            let status = local(code::CONNECTION_CLOSED, reason);
            self.fail_call(conn.now(), &line.session, call, status);
        }
        for call in line.deferred.cancel_all() {
            self.drop_call(&call);
        }
        self.give_up_streams(conn, line);
        line.update(conn);
    }

    fn cancel(&self, conn: &mut Conn<'_, Self>, line: &mut Line, call: &CallState) {
        let Some(call) = call.number().and_then(|number| line.calls.remove(number)) else {
            return;
        };
        line.update(conn);
        send_cancel(conn, line, &call.value.seq);
        Counters::count(&self.parts.peer.shared.counters.cancels);
        self.fail_call(conn.now(), &line.session, call, local(code::CANCELLED, ""));
    }

    /// Ends a call that has no reply.
    pub(super) fn fail_call(
        &self,
        now: Instant,
        session: &Session,
        call: Open<SentCall>,
        status: Status,
    ) {
        if let Some(sent) = &call.value.logged {
            let cost = now.saturating_duration_since(call.sent);
            let of = of(session, Some(cost));
            self.log().call_out(of, sent, Err(&status));
        }
        call.value.waiter.settle(Err(status));
    }
}

/// Messages that wait for room in the output, the oldest first.
#[derive(Default)]
pub(super) struct Waiting {
    pushes: VecDeque<Outgoing>,
    /// The `seq`s of calls whose cancellations wait. They count as calls that wait for their replies.
    cancels: VecDeque<Box<[u8]>>,
}

/// The most pushes of a session that wait for room.
const MAX_WAITING_PUSHES: usize = 1024;

/// Pushes, and room for them.
impl PeerHandler {
    /// Returns true if a push should be sent. If there is no room, it may be dropped, or the session closed.
    #[inline]
    pub(super) fn finds_room(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &Line,
        when_full: WhenFull,
    ) -> bool {
        if when_full == WhenFull::Send || conn.has_room() {
            return true;
        }
        Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
        if when_full == WhenFull::Close {
            log::info!(target: "epicycle::rpc", "{}: closing, since its reader is too slow for a push", conn.peer_addr());
            line.session.begin_close();
            conn.abort();
        }
        false
    }

    fn push(&self, conn: &mut Conn<'_, Self>, line: &Line, mut outgoing: Outgoing) {
        let sent = match conn.send(&outgoing.message) {
            Ok(()) => {
                self.after_write(line, &outgoing.message);
                if outgoing.message.kind == Kind::Push && self.log().is_on() {
                    outgoing.message.size = conn.codec().last_sent();
                    let of = of(&line.session, None);
                    self.log().push_out(of, &outgoing.message);
                }
                Ok(())
            }
            Err(WriteError::Closed) if self.outlives(line) => {
                return self.hold(line, outgoing, conn.now());
            }
            Err(error) => {
                Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
                log::debug!(target: "epicycle::rpc", "{}: a push is dropped: {error}", conn.peer_addr());
                Err(unsent(&error))
            }
        };
        if let Some(on_sent) = outgoing.on_sent {
            on_sent.tell(sent);
        }
    }

    /// Sends a push now or when there is room.
    fn push_when_room(&self, conn: &mut Conn<'_, Self>, line: &mut Line, outgoing: Outgoing) {
        let is_first = (line.waiting.as_ref()).is_none_or(|waiting| waiting.pushes.is_empty());
        if is_first && conn.has_room() {
            return self.push(conn, line, outgoing);
        }
        let pushes = &mut line.waiting.get_or_insert_default().pushes;
        if pushes.len() < MAX_WAITING_PUSHES {
            return pushes.push_back(outgoing);
        }
        Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
        let reason = "too many pushes wait for room";
        settle(outgoing, &local(code::TOO_MANY_REQUESTS, reason));
    }

    /// Sends what waits for room, as far as there is some.
    pub(super) fn send_waiting(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        send_waiting_cancels(conn, line);
        while conn.has_room()
            && let Some(outgoing) = (line.waiting.as_mut()).and_then(|it| it.pushes.pop_front())
        {
            self.push(conn, line, outgoing);
        }
        if line.streams.is_some() {
            self.send_waiting_items(conn, line);
        }
    }

    /// Drops the pushes that wait for room, since their connection has closed.
    pub(super) fn drop_waiting(&self, waiting: Option<Box<Waiting>>, status: &Status) {
        for outgoing in waiting.into_iter().flat_map(|waiting| waiting.pushes) {
            Counters::count(&self.parts.peer.shared.counters.dropped_pushes);
            settle(outgoing, status);
        }
    }
}

/// Tells the other side that nobody waits for the reply to a call: now, or when there is room.
pub(super) fn send_cancel(conn: &mut Conn<'_, PeerHandler>, line: &mut Line, seq: &[u8]) {
    send_waiting_cancels(conn, line);
    if line.waiting_cancels() > 0 || !put_cancel(conn, line, seq) {
        let cancels = &mut line.waiting.get_or_insert_default().cancels;
        cancels.push_back(seq.into());
    }
}

/// Sends the cancellations that wait for room, as far as there is some.
fn send_waiting_cancels(conn: &mut Conn<'_, PeerHandler>, line: &mut Line) {
    while let Some(seq) = (line.waiting.as_mut()).and_then(|it| it.cancels.pop_front()) {
        if !put_cancel(conn, line, &seq) {
            let cancels = &mut line.waiting.get_or_insert_default().cancels;
            return cancels.push_front(seq);
        }
    }
}

/// Sends a cancellation. Returns false if it finds no room.
fn put_cancel(conn: &mut Conn<'_, PeerHandler>, line: &mut Line, seq: &[u8]) -> bool {
    let mut push = Message::push(CANCEL);
    push.codec = Codec::PLAIN;
    push.body = seq.into();
    let mut text = itoa::Buffer::new();
    push.seq = text.format(line.calls.next_number()).as_bytes().into();
    match conn.send(&push) {
        Err(WriteError::Full { .. }) => return false,
        Err(error) => {
            log::debug!(target: "epicycle::rpc", "{}: a cancellation is not sent: {error}", conn.peer_addr());
        }
        Ok(()) => {}
    }
    true
}

impl Line {
    /// Returns the number of cancellations that wait for room.
    fn waiting_cancels(&self) -> usize {
        (self.waiting.as_ref()).map_or(0, |waiting| waiting.cancels.len())
    }
}

/// Returns the limit that one more call would exceed.
fn over_limit(line: &Line, settings: &Settings) -> Option<&'static str> {
    if line.calls.len() + line.waiting_cancels() >= settings.max_calls {
        return Some(
            "too many calls wait for their replies; the limit is `PeerBuilder::max_calls`",
        );
    }
    (line.calls.total() >= settings.max_total_calls).then_some(
        "too many calls of all sessions wait for their replies; the limit is `PeerBuilder::max_total_calls`",
    )
}

pub(super) fn unsent(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => local(code::CONNECTION_CLOSED, ""),
        error => local(code::WRITE_FAILED, error.to_string()),
    }
}

/// Returns the beginning of a log line.
fn of(session: &Session, cost: Option<Duration>) -> Of {
    Of {
        addr: session.remote_addr().to_string(),
        cost,
    }
}

/// The hooks that see replies.
const READS_REPLIES: Hooks = Hooks::POST_READ_REPLY_HEADER
    .union(Hooks::PRE_READ_REPLY_BODY)
    .union(Hooks::POST_READ_REPLY_BODY);

/// Lets the plugins see a reply, and change it.
fn read_reply(plugins: &Plugins, session: &Session, reply: &mut Message<'_>) -> Result<(), Status> {
    plugins.run(Hooks::POST_READ_REPLY_HEADER, |plugin| {
        plugin.post_read_reply_header(session, reply)
    })?;
    if reply.status().is_some() {
        return Ok(());
    }
    plugins.run(Hooks::PRE_READ_REPLY_BODY, |plugin| {
        plugin.pre_read_reply_body(session, reply)
    })?;
    plugins.run(Hooks::POST_READ_REPLY_BODY, |plugin| {
        plugin.post_read_reply_body(session, reply)
    })
}
