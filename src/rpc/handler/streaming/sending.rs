//! Messages of streams that are sent.

use std::sync::Arc;

use super::{Line, PeerHandler};
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
    pub(in crate::rpc::handler) fn send_waiting_items(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
    ) {
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
pub(super) fn send_end(
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
