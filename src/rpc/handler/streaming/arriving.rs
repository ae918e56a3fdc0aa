//! Messages of streams that arrive, and the end of streams with their connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sending::send_end;
use super::{Entry, LEAVING, Line, PeerHandler, Streams, enter};
use crate::engine::handler::{Conn, Reactor};
use crate::engine::slots::ConnId;
use crate::rpc::context::{AfterBody, Incoming};
use crate::rpc::handler::sending::send_cancel;
use crate::rpc::plugin::{Hooks, Plugins};
use crate::rpc::reply::local;
use crate::rpc::stats::Counters;
use crate::rpc::stream::{
    AfterItem, CREDIT, END, ITEM, Item, Role, STREAM_BY, STREAM_ID, Stream, Violation,
};
use crate::rpc::wire::{Status, code};

impl PeerHandler {
    /// Takes a push for a stream, from the other side.
    pub(in crate::rpc::handler) fn on_stream_push(
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
            let push = push.into_owned();
            let after = after_item(&plugins, &push);
            stream.on_item(Item::new(push.message, &held).then(after))
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
    pub(in crate::rpc::handler) fn on_stream_cancelled(&self, line: &mut Line, seq: &[u8]) {
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
    pub(super) fn fail_stream(
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
            Role::Acceptor => {
                let end = Err(status.clone());
                if !send_end(conn, line, stream, &end)
                    && let Some(streams) = &mut line.streams
                {
                    streams.put_back(entry, end);
                    line.update(conn);
                }
            }
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
    pub(in crate::rpc::handler) fn give_up_streams(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
    ) {
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
    pub(in crate::rpc::handler) fn on_left(&self, reactor: &mut Reactor<'_, Self>, id: ConnId) {
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
    pub(in crate::rpc::handler) fn stop_streams(
        &self,
        streams: Option<Box<Streams>>,
        status: &Status,
    ) {
        self.stop_all(streams.map(|mut streams| streams.drain()), status);
    }

    fn stop_all(&self, entries: Option<Vec<Entry>>, status: &Status) {
        for entry in entries.unwrap_or_default() {
            self.cancel_task(&entry);
            entry.stream.stop(status.clone());
        }
    }
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

/// Returns the part of the plugins that see an item when it has been decoded, which its reader does.
fn after_item(plugins: &Arc<Plugins>, item: &Incoming<'static>) -> Option<AfterItem> {
    if !plugins.have(Hooks::POST_READ_PUSH_BODY) {
        return None;
    }
    let (plugins, session) = (plugins.clone(), item.session.clone());
    let (dialect, arrived) = (item.dialect, item.arrived);
    Some(Box::new(move |message| {
        plugins.after_body(&Incoming {
            message,
            session,
            dialect,
            deadline: None,
            arrived,
            cancelled: None,
            extras: None,
        })
    }))
}
