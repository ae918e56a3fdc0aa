//! The opening of a connection: its socket is watched, it connects and completes the handshake, and `on_open` is
//! called.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mio::Token;
use mio::unix::SourceFd;

use super::{EventLoop, NOBODY, ShutdownStage};
#[cfg(feature = "tls")]
use crate::clock::millis;
use crate::codec::{Backpressure, Codec};
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::OutboundPolicy;
use crate::engine::conn::origin::Origin;
use crate::engine::handler::context::{Arrival, Detach, Link, Outcome, Served, Slot};
use crate::engine::handler::{Conn, Detached, EventHandler};
use crate::engine::slots::ConnId;
use crate::engine::slots::MAX_SLOTS;
use crate::engine::stream::Stream;
use crate::error::StreamError;
#[cfg(feature = "tls")]
use crate::tls::stream::TlsStream;

impl<H: EventHandler> EventLoop<H> {
    /// Opens a connection on a connected socket: watches it, makes its codec, and calls the handler.
    pub(super) fn open(&mut self, arrival: Arrival) {
        let id = self.connections.next_id();
        let Some((stream, state)) = self.prepare(id, arrival) else {
            return;
        };
        let Ok(slot) = self.watch(stream, state) else {
            return;
        };
        self.turn.serving = slot;
        if let Some(mut slot) = self.connections.at(slot) {
            if slot.link.state.is_opening() {
                self.cx.set_alarm(&mut slot.link);
            } else {
                Served::new(
                    &mut self.handler,
                    &mut slot,
                    &mut self.cx,
                    &self.connections,
                )
                .call_on_open();
            }
        }
        self.turn.serving = NOBODY;
    }

    /// Makes the stream. It uses TLS if its listener does.
    fn prepare(&self, id: ConnId, arrival: Arrival) -> Option<(Stream, ConnState)> {
        let Arrival {
            socket,
            peer,
            origin,
        } = arrival;
        #[cfg(feature = "tls")]
        if let Origin::Accepted { listener } = origin
            && let Some(Some(tls)) = self.cx.engine.shared().tls.get(listener)
        {
            let stream = match TlsStream::server(socket, tls) {
                Ok(stream) => Stream::Tls(Box::new(stream)),
                Err(error) => {
                    log::error!(target: "epicycle::accept", "cannot begin TLS with {peer}: {error}");
                    self.cx.metrics.refused.add(1);
                    self.cx.release_stream(&peer, origin);
                    return None;
                }
            };
            let (now, limit) = (self.cx.time.moment(), millis(tls.handshake_limit()));
            let mut state = ConnState::opening(id, peer, origin, now, limit);
            state.seal();
            return Some((stream, state));
        }
        let now = self.cx.opening_moment();
        Some((Stream::Plain(socket), ConnState::new(id, peer, origin, now)))
    }

    /// Puts a connection into a slot and watches its socket. Returns the slot.
    ///
    /// # Errors
    ///
    /// The error for which it was refused, which is logged too. Its admission is then undone.
    pub(super) fn watch(&mut self, stream: Stream, mut state: ConnState) -> io::Result<usize> {
        let codec = self.register(&stream, &state);
        let Self {
            connections, cx, ..
        } = self;
        let codec = codec.inspect_err(|error| {
            log::warn!(target: "epicycle::conn", "connection with {} refused: {error}", state.peer);
            cx.metrics.refused.add(1);
            cx.release(&state, &state.peer);
        })?;
        if pauses_reads(&codec, state.origin(), cx.limits.policy) {
            state.pause_reads_when_congested();
        }
        if stream.is_unix() {
            state.set_unix();
        }
        cx.engine.peer(cx.reactor).liveness.set_open(state.id);
        Ok(connections.insert(Slot {
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

    fn register(&mut self, stream: &Stream, state: &ConnState) -> io::Result<H::Codec> {
        let is_ours = !matches!(state.origin(), Origin::Accepted { .. });
        if self.stage == ShutdownStage::Draining
            || (self.stage != ShutdownStage::Running && !is_ours)
        {
            return Err(io::Error::other("the engine is shutting down"));
        }
        if self.connections.len() >= MAX_SLOTS {
            return Err(io::Error::other(
                "the reactor has no free slot for another connection",
            ));
        }
        stream.watch(self.poll.registry(), Token(state.id.slot()))?;
        // A panic of the codec must not spoil the count of connections.
        catch_unwind(AssertUnwindSafe(|| self.handler.codec())).map_err(|panic| {
            self.cx.report_panic(panic, "codec");
            io::Error::other("making its codec panicked")
        })
    }

    /// Gives the socket of a connection that left the engine to the application.
    pub(super) fn release_socket(&mut self, index: u32, then: Detach, unread: Vec<u8>) {
        let Some(Slot { link, .. }) = self.connections.remove(index as usize) else {
            return;
        };
        let fd = link.stream.raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            log::debug!(target: "epicycle::conn", "{}: not watched: {error}", link.state.name());
        }
        let Some(socket) = link.stream.into_socket() else {
            return;
        };
        let detached = Detached {
            socket,
            peer: link.state.peer,
            unread,
        };
        // A panic would repeat the turn, and a new connection would take the slot that is being freed.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| then(detached))) {
            self.cx.report_panic(panic, "detach");
        }
    }
}

/// Returns true if another connection of the same dial opened earlier in this turn. If there is none, this one wins.
fn is_too_late(state: &ConnState, races: &HashMap<ConnId, Rc<Cell<bool>>>) -> bool {
    races
        .get(&state.id)
        .is_some_and(|is_won| is_won.replace(true))
}

/// Returns true if a connection is not read while its output is congested.
///
/// If both ends of a connection did that, each could wait for the other to read for ever.
fn pauses_reads<C: Codec>(codec: &C, origin: Origin, policy: OutboundPolicy) -> bool {
    policy == OutboundPolicy::PauseReads
        && match codec.backpressure() {
            Backpressure::ByOrigin => matches!(origin, Origin::Accepted { .. }),
            Backpressure::PauseReads => true,
            Backpressure::ReadOn => false,
        }
}

impl<H: EventHandler> Served<'_, H> {
    /// Continues a connection that connects or is in the handshake.
    #[cold]
    pub(super) fn continue_opening(&mut self) {
        let Link {
            stream,
            state,
            alarm,
            ..
        } = &mut self.slot.link;
        match stream.open(state.is_writable(), &mut self.cx.buffers.tls_scratch) {
            Ok(true) if is_too_late(state, &self.cx.races) => {
                self.begin_close(CloseReason::Aborted);
            }
            Ok(true) => {
                state.opened(self.cx.time.moment());
                if let Some(key) = alarm.take() {
                    self.cx.wheel.cancel(key);
                }
                if stream.has_tls() {
                    self.cx.metrics.handshakes.add(1);
                    // The handshake has read ahead of the events, so no event may follow for that input.
                    state.on_readable(false);
                }
                // The last messages of the handshake may not have been sent completely.
                self.cx.lists.mark_dirty(state);
                if let Origin::Connected { .. } = state.origin() {
                    self.cx.metrics.connected.add(1);
                    self.cx
                        .lists
                        .outcomes
                        .push_back((state.id, Outcome::Opened));
                }
                self.call_on_open();
                self.mark_ready();
            }
            Ok(false) => {}
            Err(StreamError::Interrupted) => {
                self.cx.lists.mark_ready(state);
            }
            #[cfg(feature = "tls")]
            Err(StreamError::Tls(error)) => {
                log::debug!(target: "epicycle::conn", "{}: the TLS handshake failed: {error}", state.name());
                // The alert must reach the peer. So it is sent, and further input is read and dropped.
                state.refuse(
                    CloseReason::Tls(error),
                    self.cx.time.moment(),
                    &self.cx.limits,
                );
                state.on_readable(false);
                self.cx.lists.mark_dirty(state);
                self.cx.lists.mark_ready(state);
                self.set_alarm();
            }
            Err(error) => self.fail(error),
        }
    }

    /// Calls the handler for a connection that has opened.
    pub(super) fn call_on_open(&mut self) {
        let Slot { link, codec, .. } = &mut *self.slot;
        let mut conn = Conn::new(link, codec, self.cx, self.connections);
        self.slot.session = self.handler.on_open(&mut conn);
        if self.slot.session.is_some() {
            self.cx.set_first_alarm(&mut self.slot.link);
        } else {
            self.cx.metrics.refused.add(1);
            self.begin_close(CloseReason::Local);
        }
    }
}
