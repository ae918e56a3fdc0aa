//! The opening of a connection: its socket is watched, it connects and completes the handshake, and `on_open` is
//! called.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
#[cfg(feature = "tls")]
use std::time::Duration;

use mio::Token;
use mio::unix::SourceFd;

use super::{EventLoop, ShutdownStage};
#[cfg(feature = "proxy-protocol")]
use crate::addr::Addr;
use crate::clock::millis;
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::origin::Origin;
#[cfg(feature = "proxy-protocol")]
use crate::engine::handler::context::Proxied;
use crate::engine::handler::context::{Arrival, Detach, Link, Outcome, Served, Slot};
#[cfg(feature = "tls")]
use crate::engine::handler::starting_tls::CLIENT_HANDSHAKE;
use crate::engine::handler::{Conn, Detached, EventHandler};
#[cfg(feature = "tls")]
use crate::engine::listen::handshakes::Handshakes;
#[cfg(feature = "proxy-protocol")]
use crate::engine::proxy_protocol::{self, MAX_HEADER};
use crate::engine::slots::ConnId;
use crate::engine::slots::MAX_SLOTS;
use crate::engine::stream::Stream;
use crate::error::StreamError;
#[cfg(feature = "tls")]
use crate::sys::socket::StreamSocket;
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
        self.with_slot(slot, |served, _| {
            match served.slot.link.state.is_opening() {
                true => served.set_alarm(),
                false => served.call_on_open(),
            }
        });
    }

    /// Makes the stream, and finds out which steps come before `on_open`.
    #[cfg_attr(
        not(any(feature = "proxy-protocol", feature = "tls")),
        allow(unused_mut, unused_variables, reason = "there are no steps")
    )]
    fn prepare(&mut self, id: ConnId, arrival: Arrival) -> Option<(Stream, ConnState)> {
        #[cfg(any(feature = "tls", feature = "cluster"))]
        let counted_as = arrival.counted_as();
        let Arrival {
            socket,
            peer,
            origin,
            handshakes,
        } = arrival;
        let Some(steps) = handshakes else {
            let limits = self.cx.acquire_limits(origin);
            let now = self.cx.opening_moment(limits);
            let mut state = ConnState::new(id, peer, origin, now);
            state.set_limits(limits);
            return Some((Stream::plain(socket), state));
        };
        #[cfg(feature = "cluster")]
        if let Some(entrance) = &steps.entrance {
            let Some(place) = entrance.enter(counted_as) else {
                log::debug!(target: "epicycle::accept", "{peer} refused: too many connections");
                self.cx.metrics.refused.add(1);
                self.cx.release_stream(counted_as, origin);
                return None;
            };
            self.cx.entering.insert(id, place);
        }
        let mut limit = None;
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxies) = &steps.proxy
            && steps.awaits_header(&peer)
        {
            self.cx.proxied.insert(id, Proxied::AwaitsHeader);
            limit = Some(proxies.limit());
        }
        #[cfg(not(feature = "tls"))]
        let stream = Stream::plain(socket);
        #[cfg(feature = "tls")]
        let stream = match tls_stream(socket, &steps) {
            Ok((stream, handshake)) => {
                limit = handshake.or(limit);
                stream
            }
            Err(error) => {
                log::error!(target: "epicycle::accept", "cannot begin TLS with {peer}: {error}");
                self.cx.metrics.refused.add(1);
                self.cx.release_stream(counted_as, origin);
                self.cx.forget_proxied(id);
                if let Origin::Adopted { .. } = origin {
                    let reason = CloseReason::Io(io::Error::other(error));
                    let outcome = Outcome::NotAdopted {
                        peer,
                        origin,
                        reason,
                    };
                    self.cx.lists.outcomes.push_back((id, outcome));
                }
                return None;
            }
        };
        let now = self.cx.time.moment();
        let mut state = match limit {
            Some(limit) => ConnState::opening(id, peer, origin, now, millis(limit)),
            None => ConnState::new(id, peer, origin, now),
        };
        state.set_limits(self.cx.acquire_limits(origin));
        if stream.has_tls() {
            state.seal();
        }
        Some((stream, state))
    }

    /// Puts a connection into a slot and watches its socket. Returns the slot.
    ///
    /// # Errors
    ///
    /// The error for which it was refused, which is logged too. Its admission is then undone.
    pub(super) fn watch(&mut self, stream: Stream, mut state: ConnState) -> io::Result<usize> {
        let codec = self.register(&stream, &mut state);
        let Self {
            connections, cx, ..
        } = self;
        let codec = codec.inspect_err(|error| {
            log::warn!(target: "epicycle::conn", "connection with {} refused: {error}", state.peer);
            cx.metrics.refused.add(1);
            cx.release(&state, &state.peer);
            cx.release_limits(&mut state);
            cx.forget_proxied(state.id);
        })?;
        cx.follow_backpressure(&mut state, &codec);
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

    fn register(&mut self, stream: &Stream, state: &mut ConnState) -> io::Result<H::Codec> {
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
        let for_room = state.needs_room_event();
        if for_room {
            state.set_watches_room();
        }
        stream.watch(self.cx.poll.registry(), Token(state.id.slot()), for_room)?;
        // A panic of the codec must not spoil the count of connections.
        let made = AssertUnwindSafe(|| self.cx.make_codec(&mut self.handler, stream, state));
        catch_unwind(made).map_err(|panic| {
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
        if let Err(error) = self.cx.poll.registry().deregister(&mut SourceFd(&fd)) {
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

/// Makes the stream on a socket, and returns the limit of its handshake if it uses TLS.
#[cfg(feature = "tls")]
fn tls_stream(
    socket: StreamSocket,
    steps: &Handshakes,
) -> Result<(Stream, Option<Duration>), Box<dyn std::error::Error + Send + Sync>> {
    let (stream, limit) = match (&steps.tls, &steps.tls_client) {
        (Some(tls), _) => (TlsStream::server(socket, tls)?, tls.handshake_limit()),
        (None, Some((tls, host))) => (TlsStream::client(socket, tls, host)?, CLIENT_HANDSHAKE),
        (None, None) => return Ok((Stream::plain(socket), None)),
    };
    Ok((Stream::Tls(Box::new(stream)), Some(limit)))
}

/// Returns true if another connection of the same dial opened earlier in this turn. If there is none, this one wins.
fn is_too_late(state: &ConnState, races: &HashMap<ConnId, Rc<Cell<bool>>>) -> bool {
    races
        .get(&state.id)
        .is_some_and(|is_won| is_won.replace(true))
}

impl<H: EventHandler> Served<'_, H> {
    /// Continues a connection that connects or is in the handshake.
    #[cold]
    pub(super) fn continue_opening(&mut self) {
        #[cfg(feature = "proxy-protocol")]
        if !self.cx.proxied.is_empty() && !self.pass_proxy_header() {
            return;
        }
        if !self.cx.awaited.is_empty() && !self.await_peer() {
            return;
        }
        if !self.cx.negotiations.is_empty() && !self.negotiate() {
            return;
        }
        let Link {
            stream,
            state,
            alarm,
            ..
        } = &mut self.slot.link;
        // An accepted socket is connected.
        let writable = state.is_writable() || matches!(state.origin(), Origin::Accepted { .. });
        match stream.open(writable, &mut self.cx.buffers.tls_scratch) {
            Ok(true) if is_too_late(state, &self.cx.races) => {
                self.begin_close(CloseReason::Aborted);
            }
            #[cfg(feature = "tls")]
            Ok(true) if !state.never_opened() && stream.has_tls() => self.on_tls_started(),
            Ok(true) => {
                state.opened(self.cx.time.moment());
                if let Some(key) = alarm.take() {
                    self.cx.wheel.cancel(key);
                }
                // Its place is taken anew by whoever admits it now.
                #[cfg(feature = "cluster")]
                self.cx.entering.remove(&state.id);
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
                self.choose_codec();
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
                self.cx.end_draining(state);
                let number = state.limits();
                state.refuse(
                    CloseReason::Tls(error),
                    self.cx.time.moment(),
                    self.cx.limits.get(number),
                );
                state.on_readable(false);
                self.cx.lists.mark_dirty(state);
                self.cx.lists.mark_ready(state);
                self.set_alarm();
            }
            #[cfg(feature = "tls")]
            Err(StreamError::Truncated) => {
                let error = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer ended the connection during the handshake",
                );
                self.fail(StreamError::Tls(error));
            }
            Err(error) => self.fail(error),
        }
    }

    /// Receives or sends the header of the PROXY protocol, if one is due. Returns true if the connection can go on.
    #[cfg(feature = "proxy-protocol")]
    fn pass_proxy_header(&mut self) -> bool {
        let id = self.slot.link.state.id;
        let passed = match self.cx.proxied.get(&id) {
            Some(Proxied::AwaitsHeader) => self.receive_proxy_header(),
            Some(Proxied::Sends(header)) => {
                let link = &self.slot.link;
                link.stream
                    .send_first(link.state.is_writable(), header.as_bytes())
            }
            Some(Proxied::Via(_)) | None => return true,
        };
        match passed {
            Ok(true) => {
                if let Some(Proxied::Sends(_)) = self.cx.proxied.get(&id) {
                    self.cx.proxied.remove(&id);
                }
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.fail(error.into());
                false
            }
        }
    }

    /// Receives the proxy's header and takes over the client's address. Returns false if it is not complete.
    ///
    /// # Errors
    ///
    /// The reason why the connection has to end.
    #[cfg(feature = "proxy-protocol")]
    fn receive_proxy_header(&mut self) -> io::Result<bool> {
        let Link { stream, state, .. } = &mut self.slot.link;
        let mut buffer = [0; MAX_HEADER];
        let Some(input) = stream.peek(&mut buffer)? else {
            return Ok(false);
        };
        let header = match proxy_protocol::parse(input) {
            // The rest cannot come any more.
            Ok(None) if input.is_empty() || state.may_have_ended() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(header) => Ok(header),
            Err(error) => Err(io::Error::from(error)),
        };
        let header = header.inspect_err(|error| {
            self.cx.metrics.proxy_errors.add(1);
            log::debug!(target: "epicycle::conn", "{}: {error}", state.name());
        })?;
        let Some(header) = header else {
            return Ok(false);
        };
        stream.take_peeked(&mut buffer[..header.len])?;
        let client = match header.client {
            Some(client) => Addr::Ip(client),
            None => state.peer.clone(),
        };
        if !self.cx.engine.shared().admission.admit_peer(client.ip()) {
            self.cx.metrics.refused.add(1);
            let problem = format!("{client} refused: too many connections");
            return Err(io::Error::other(problem));
        }
        let proxy = std::mem::replace(&mut state.peer, client);
        self.cx.proxied.insert(state.id, Proxied::Via(proxy));
        Ok(true)
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
