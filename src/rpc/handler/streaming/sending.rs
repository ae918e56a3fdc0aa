//! Messages of streams that are sent.

use std::mem;
use std::sync::Arc;

use super::{Line, PeerHandler};
use crate::engine::conn::write::WriteError;
use crate::engine::handler::Conn;
use crate::rpc::handler::replies::obey;
use crate::rpc::handler::sending::unsent;
use crate::rpc::reply::local;
use crate::rpc::stats::Counters;
use crate::rpc::stream::{CREDIT, END, Role, Signal, Stream};
use crate::rpc::wire::{Codec, Message, Status, code};

impl PeerHandler {
    pub(in crate::rpc::handler) fn on_signal(
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
            Signal::Grant(items) => self.grant(conn, line, stream, items),
            signal => self.put(conn, line, stream, signal),
        }
    }

    /// Grants credit. Without room it is granted with the next one, or once there is room.
    fn grant(&self, conn: &mut Conn<'_, Self>, line: &mut Line, stream: &Arc<Stream>, items: u32) {
        let waited = (line.entry(stream)).map_or(0, |entry| mem::take(&mut entry.grant));
        let items = items.saturating_add(waited);
        if items == 0 {
            return;
        }
        let mut push = stream_push(line, stream, CREDIT);
        push.codec = Codec::PLAIN;
        push.body = items.to_string().into_bytes().into();
        match conn.send(&push) {
            Ok(()) => {}
            Err(WriteError::Full { .. }) => {
                if let Some(entry) = line.entry(stream) {
                    entry.grant = items;
                }
            }
            // Without the grant the other side would wait for ever.
            Err(error) => self.fail_stream(conn, line, stream, unsent(&error)),
        }
    }

    /// Sends an item or the end, for which there is room.
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

    /// Sends what waits for room, as far as there is some: grants, and one item of each stream in turn.
    #[cold]
    pub(in crate::rpc::handler) fn send_waiting_items(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
    ) {
        let mut waiting = line
            .streams
            .as_ref()
            .map_or_else(Vec::new, |streams| streams.waiting());
        for stream in &waiting {
            self.grant(conn, line, stream, 0);
        }
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

/// Sends the end of the items of this side. Returns false if it finds no room.
pub(super) fn send_end(
    conn: &mut Conn<'_, PeerHandler>,
    line: &mut Line,
    stream: &Stream,
    result: &Result<(), Status>,
) -> bool {
    let mut push = stream_push(line, stream, END);
    if let Err(status) = result {
        status.write(&mut push.meta, conn.codec().max_field());
    }
    match conn.send(&push) {
        Ok(()) => true,
        Err(WriteError::Full { .. }) => false,
        Err(error) => {
            // The other side would wait for it for ever.
            obey(conn, error.into());
            true
        }
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
