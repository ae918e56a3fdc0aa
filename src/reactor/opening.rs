//! How a connection comes into being: its socket is watched, it connects and shakes hands, and then the
//! handler knows it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mio::{Interest, Token};

use super::slots::MAX_SLOTS;
use super::{EventLoop, NOBODY, Stage, flush, release, report_panic};
use crate::conn::ConnState;
use crate::conn::close::CloseReason;
use crate::handler::context::{Arrival, Context, Link, Slot};
use crate::handler::{Conn, EventHandler};
use crate::stream::Stream;

impl<H: EventHandler> EventLoop<H> {
    /// Takes over a socket that is connected: watches it, makes its codec, and tells the handler.
    pub(super) fn open(&mut self, arrival: Arrival) {
        let Arrival {
            socket,
            peer,
            origin,
        } = arrival;
        let id = self.connections.next_id();
        let stream = Stream::Plain(socket);
        let state = ConnState::new(id, peer, origin, self.cx.now);
        let Some(slot) = self.watch(stream, state) else {
            return;
        };
        self.turn.serving = slot;
        if let Some(slot) = self.connections.at(slot)
            && !slot.link.state.is_opening()
        {
            welcome(&mut self.handler, slot, &mut self.cx);
        }
        self.turn.serving = NOBODY;
    }

    /// Gives a connection its slot and has its events; tells which slot, unless it was refused.
    fn watch(&mut self, stream: Stream, state: ConnState) -> Option<usize> {
        let Self {
            poll,
            handler,
            connections,
            cx,
            ..
        } = self;
        let fd = stream.raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = if self.stage != Stage::Running || connections.len() >= MAX_SLOTS {
            Err(None)
        } else {
            let mut source = mio::unix::SourceFd(&fd);
            poll.registry()
                .register(&mut source, Token(state.id.slot()), interest)
                .map_err(Some)
        };
        // A codec that panics must not take the count of connections with it.
        let codec = registered.map(|()| catch_unwind(AssertUnwindSafe(|| handler.codec())));
        let codec = match codec {
            Ok(Ok(codec)) => codec,
            refused => {
                match refused {
                    Err(Some(error)) => {
                        let peer = &state.peer;
                        log::warn!(target: "epicycle::accept", "cannot watch the connection of {peer}: {error}");
                    }
                    Ok(Err(panic)) => report_panic(panic, cx, "codec"),
                    Err(None) | Ok(Ok(_)) => {}
                }
                cx.metrics.refused.add(1);
                release(cx, &state.peer, state.origin);
                return None;
            }
        };
        cx.engine.peer(cx.reactor).liveness.set_open(state.id);
        Some(connections.insert(Slot {
            link: Link {
                state,
                stream,
                alarm: None,
                extras: None,
            },
            codec,
            session: None,
        }))
    }
}

/// Goes on with a connection that connects or shakes hands.
#[cold]
pub(super) fn advance<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    let Link { stream, state, .. } = &mut slot.link;
    match stream.open(state.is_writable(), &mut cx.records) {
        Ok(true) => {
            state.opened(cx.now);
            welcome(handler, slot, cx);
            // What has arrived behind the handshake is announced by no event.
            cx.mark_ready(&mut slot.link.state);
        }
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            cx.mark_ready(state);
        }
        Err(error) => flush::fail(handler, slot, cx, error),
    }
}

/// Tells the handler of a connection that is open.
fn welcome<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    slot.session = handler.on_open(&mut Conn::new(&mut slot.link, &mut slot.codec, cx));
    if slot.session.is_some() {
        cx.set_first_alarm(&mut slot.link);
    } else {
        cx.metrics.refused.add(1);
        cx.begin_close(&mut slot.link, CloseReason::Local);
    }
}
