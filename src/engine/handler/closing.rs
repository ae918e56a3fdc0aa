//! The end of a connection: from the decision to close it until its slot can be freed.
//!
//! 1. The application, a limit, the codec or the peer closes it. [`Context::begin_close`] sends the remaining output
//!    first, [`Context::abort`] does not. [`Served::on_alarm`] does this for limits.
//! 2. After each flush [`Served::take_next_step`] asks the [state](ConnState) for the next step: FIN, the wait for
//!    the peer's FIN, or the end.
//! 3. [`Served::close`] and [`Served::close_finished`] end it. The handler and all pending completions are notified,
//!    and the slot is freed at the end of the turn.

use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use log::Level;

#[cfg(feature = "proxy-protocol")]
use super::context::Proxied;
use super::context::{Context, Link, Outcome, Served, Slot};
use super::converse::{is_awaited, is_owed};
use super::{Conn, EventHandler, Reactor, WriteError};
use crate::addr::Addr;
use crate::buf::order::Front;
use crate::codec::{CloseCause, Codec};
use crate::engine::conn::close::{CloseReason, Closed, REFUSED_INPUT, Refused, TimeoutKind};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::{Alarm, ConnState, Step};
use crate::engine::pipes::{PipeEnd, PipeTask};
use crate::engine::slots::ConnId;
use crate::error::StreamError;
use crate::panic;

/// The longest wait for a peer's FIN once the server shuts down, in milliseconds.
const LAST_FIN: u64 = 1_000;

impl<H: EventHandler> Context<H> {
    pub(crate) fn begin_close(
        &mut self,
        link: &mut Link,
        codec: &mut H::Codec,
        reason: CloseReason,
    ) {
        if H::Codec::CONVERSES {
            close_notice(link, codec, self, &reason);
            if codec.is_open_ended() {
                return self.abort(link, reason);
            }
        }
        let now = self.time.moment();
        let limits = self.limits.get(link.state.limits());
        if link.state.begin_close(reason, now, limits) {
            self.end_draining(&mut link.state);
            link.state.inbox.clear(&mut self.buffers.pool);
            self.unpipe(link, false);
            self.lists.mark_dirty(&mut link.state);
            // If both sides have finished, it is closed in this turn's flush phase.
            if !link.state.is_finished() {
                self.set_alarm(link);
                // Input is read and dropped, because closing with unread input sends RST.
                self.lists.mark_ready(&mut link.state);
            }
        }
    }

    pub(crate) fn abort(&mut self, link: &mut Link, reason: CloseReason) {
        link.state.abort(reason);
        self.end_draining(&mut link.state);
        self.unpipe(link, true);
        self.lists.mark_dirty(&mut link.state);
    }

    /// Closes a connection because a callback has panicked.
    #[cold]
    pub(crate) fn close_panicked(&mut self, link: &mut Link, codec: &mut H::Codec) {
        if link.state.is_open() {
            self.begin_close(link, codec, CloseReason::Panic);
        } else {
            self.abort(link, CloseReason::Panic);
        }
    }

    /// Delays the end of a connection until the answers that are owed or awaited have been sent. A shutdown waits for
    /// it.
    pub(crate) fn begin_drain(&mut self, state: &mut ConnState, codec: &mut H::Codec) {
        if !state.is_draining() {
            state.begin_drain();
            // Counted before the codec is called, which may panic.
            self.draining += 1;
            codec.begin_drain();
        }
    }

    /// Returns the close reason of a connection that drains because of a shutdown or its lifetime.
    pub(crate) fn drain_reason(&self) -> CloseReason {
        if self.engine.is_stopping() {
            CloseReason::Shutdown
        } else {
            CloseReason::Timeout(TimeoutKind::Lifetime)
        }
    }

    /// Counts a connection that closes: a shutdown no longer waits for its answers.
    pub(crate) fn end_draining(&mut self, state: &mut ConnState) {
        self.draining -= usize::from(state.end_draining());
    }

    /// Separates a connection that ends from the one it is piped to. The other one ends too, with RST if `broken`.
    pub(crate) fn unpipe(&mut self, link: &mut Link, broken: bool) {
        let pipe_end = link
            .extras
            .as_mut()
            .and_then(|extras| extras.pipe_end.take());
        if let Some(PipeEnd { partner, .. }) = pipe_end {
            let survivor = partner;
            self.pipes
                .tasks
                .push_back(PipeTask::Ended { survivor, broken });
        }
    }

    /// Releases the admission and the load count of a connection. UDP sessions are not admitted as streams are. They
    /// have limits of their own.
    pub(crate) fn release(&self, state: &ConnState, peer: &Addr) {
        if state.is_datagram() {
            let load = &self.engine.peer(self.reactor).load;
            load.fetch_sub(1, Ordering::Relaxed);
        } else {
            let counted_as = match self.awaits_proxy_header(state.id) {
                true => None,
                false => peer.ip(),
            };
            self.release_stream(counted_as, state.origin());
        }
    }

    /// Releases the same for a stream that has no state yet.
    pub(crate) fn release_stream(&self, counted_as: Option<IpAddr>, origin: Origin) {
        if matches!(origin, Origin::Accepted { .. }) {
            self.engine.shared().admission.release(counted_as);
        }
        let load = &self.engine.peer(self.reactor).load;
        load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns true if the connection has to begin with a header of the PROXY protocol that has not arrived.
    #[cfg_attr(
        not(feature = "proxy-protocol"),
        allow(unused_variables, clippy::unused_self, reason = "there are no proxies")
    )]
    pub(crate) fn awaits_proxy_header(&self, id: ConnId) -> bool {
        #[cfg(feature = "proxy-protocol")]
        return !self.proxied.is_empty()
            && matches!(self.proxied.get(&id), Some(Proxied::AwaitsHeader));
        #[cfg(not(feature = "proxy-protocol"))]
        false
    }

    /// Forgets which proxy a connection that has ended came by, its place before it opened, its negotiation, and whom it has awaited.
    pub(crate) fn forget_proxied(&mut self, id: ConnId) {
        #[cfg(feature = "proxy-protocol")]
        if !self.proxied.is_empty() {
            self.proxied.remove(&id);
        }
        #[cfg(feature = "cluster")]
        if !self.entering.is_empty() {
            self.entering.remove(&id);
        }
        if !self.negotiations.is_empty() {
            self.negotiations.remove(&id);
        }
        if !self.awaited.is_empty() {
            self.awaited.remove(&id);
        }
    }

    /// Tells the handles of a connection that it has ended.
    fn set_closed(&self, id: ConnId) {
        self.engine.peer(self.reactor).liveness.set_closed(id);
    }

    fn count_closed(&self, reason: &CloseReason) {
        let metrics = &self.metrics;
        metrics.closed.add(1);
        match reason {
            CloseReason::Reset(_) => metrics.resets.add(1),
            CloseReason::Io(_) => metrics.io_errors.add(1),
            CloseReason::Frame(_) => metrics.frame_errors.add(1),
            CloseReason::Tls(_) => metrics.tls_errors.add(1),
            CloseReason::Timeout(_) => metrics.timeouts.add(1),
            _ => {}
        }
    }

    /// Cancels the timers of a closed connection and completes the pending writes.
    fn end_waits(&mut self, link: &mut Link) {
        if let Some(key) = link.alarm.take() {
            self.wheel.cancel(key);
        }
        if let Some(mut extras) = link.extras.take() {
            let taken = link.state.bytes_out - link.stream.unsent() as u64;
            self.complete_flushed(&mut extras, taken);
            for key in extras.timers {
                self.wheel.cancel(key);
            }
            for (_, done) in extras.flushes {
                self.complete(done, Err(WriteError::Closed));
            }
        }
    }
}

impl<H: EventHandler> Conn<'_, H> {
    pub(super) fn begin_close(&mut self, reason: CloseReason) {
        self.cx.begin_close(self.link, self.codec, reason);
    }

    /// Closes once all output is sent. The drain lasts as long as the peer takes output, so that a large answer is not
    /// truncated.
    #[inline(never)]
    pub(super) fn close_by_progress(&mut self, reason: CloseReason) {
        self.begin_close(reason);
        self.link.state.drain_by_progress();
    }

    /// Closes because the handler's write was refused.
    #[cold]
    pub(crate) fn close_refused(&mut self, error: WriteError) {
        // A closing connection already has its reason.
        if self.link.state.is_open() {
            let level = severity(&error);
            log::log!(target: "epicycle::conn", level, "{}: closing, since a send was refused: {error}", self.name());
            self.begin_close(CloseReason::Refused(error));
        }
    }

    /// Handles a refused write of another thread. If an answer is owed, it would never be given, so the connection
    /// closes as after [`Action::Refused`](super::Action::Refused). Otherwise the connection continues without the
    /// item.
    #[cold]
    pub(super) fn on_send_refused(&mut self, error: WriteError) {
        if is_owed(&self.link.state, self.codec) {
            return self.close_refused(error);
        }
        let level = severity(&error);
        log::log!(target: "epicycle::conn", level, "{}: a send was refused: {error}", self.name());
    }
}

/// Returns the log level of a write error. Mistakes of the handler are warnings. Errors that peers cause would fill
/// the log.
pub(crate) fn severity(error: &WriteError) -> Level {
    if error.is_external() {
        Level::Debug
    } else {
        Level::Warn
    }
}

/// Lets a conversing codec send its closing message before the connection closes.
#[cold]
pub(crate) fn close_notice<H: EventHandler>(
    link: &mut Link,
    codec: &mut H::Codec,
    cx: &mut Context<H>,
    reason: &CloseReason,
) {
    let cause = match reason {
        CloseReason::Local => CloseCause::Local,
        CloseReason::Frame(error) => CloseCause::Malformed(error),
        CloseReason::Timeout(TimeoutKind::Answer) => CloseCause::Unanswered,
        CloseReason::Timeout(_) => CloseCause::Timeout,
        CloseReason::Shutdown => CloseCause::Shutdown,
        CloseReason::Panic => CloseCause::Panic,
        CloseReason::Refused(_) | CloseReason::Unanswered => CloseCause::Failed,
        _ => return,
    };
    if !link.state.takes_writes() {
        return;
    }
    // After a panic of the codec, a second one here must not end the reactor.
    let written = catch_unwind(AssertUnwindSafe(|| {
        cx.write_output(link, codec, |codec, outbox| {
            codec.close_notice(cause, outbox);
        });
    }));
    if let Err(panic) = written {
        panic::report("epicycle::conn", "a codec's close notice", panic);
    }
    if let Some(status) = codec.refused_status() {
        note_refusal(link, cx, status, reason);
    }
}

/// Records a request that the codec has answered in place of the handler.
#[cold]
fn note_refusal<H: EventHandler>(
    link: &mut Link,
    cx: &Context<H>,
    status: u16,
    reason: &CloseReason,
) {
    log::debug!(target: "epicycle::conn", "{}: answered {status}: {reason}", link.state.name());
    cx.metrics.refusals.add(1);
    let input = link.state.inbox.beginning(REFUSED_INPUT);
    link.extras.get_or_insert_default().refused = Some(Refused { status, input });
}

/// Keeps the beginning of refused input, at the place where it was decoded.
#[cold]
pub(crate) fn keep_refused(link: &mut Link, input: &[u8]) {
    let extras = link.extras.as_mut();
    if let Some(refused) = extras.and_then(|extras| extras.refused.as_mut()) {
        refused.input = input[..input.len().min(REFUSED_INPUT)].into();
    }
}

impl<H: EventHandler> Served<'_, H> {
    pub(crate) fn begin_close(&mut self, reason: CloseReason) {
        let Slot { link, codec, .. } = &mut *self.slot;
        self.cx.begin_close(link, codec, reason);
    }

    fn abort(&mut self, reason: CloseReason) {
        self.cx.abort(&mut self.slot.link, reason);
    }

    /// Handles the alarm of the connection's limits.
    pub(crate) fn on_alarm(&mut self) {
        match self.cx.alarm_of(&self.slot.link) {
            Alarm::At(_) => self.set_alarm(),
            // A drain would wait for the same thing again.
            Alarm::Timeout(kind @ TimeoutKind::WriteStall) => {
                self.abort(CloseReason::Timeout(kind));
            }
            // As at a shutdown, somebody may wait for an answer.
            Alarm::Timeout(TimeoutKind::Lifetime)
                if !self.slot.link.state.is_draining()
                    && is_awaited(&self.slot.link.state, &self.slot.codec) =>
            {
                self.cx
                    .begin_drain(&mut self.slot.link.state, &mut self.slot.codec);
                self.set_alarm();
            }
            // The request has not been sent in full, so the peer cannot answer yet.
            Alarm::Timeout(TimeoutKind::Response) if self.slot.link.state.has_output() => {
                self.conn().await_response(true);
            }
            Alarm::Timeout(kind) => {
                if kind == TimeoutKind::Answer {
                    log::warn!(target: "epicycle::conn", "{}: {kind}", self.slot.link.state.name());
                }
                let reason = CloseReason::Timeout(kind);
                self.begin_close(reason);
            }
            Alarm::Deadline => self.on_deadline(),
            Alarm::DrainOver => {
                self.slot.link.state.abandon_flush();
                self.mark_dirty();
            }
            Alarm::FinOver => self.close(false),
        }
    }

    /// Calls the handler because the deadline that it has set is over.
    fn on_deadline(&mut self) {
        if let Some(extras) = &mut self.slot.link.extras {
            extras.deadline = None;
        }
        if let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections) {
            let action = self.handler.on_deadline(&mut conn, session);
            self.apply_action(action, CloseReason::Timeout(TimeoutKind::Deadline));
            self.mark_dirty();
        }
        if self.slot.link.state.is_open() {
            self.set_alarm();
        }
    }

    /// Handles a failed send, or an event that reports a broken connection. Input that arrived before is still
    /// decoded.
    #[cold]
    pub(crate) fn on_broken(&mut self, error: StreamError) {
        let reason = reason_of(error);
        let Link { state, stream, .. } = &mut self.slot.link;
        let keeps_reading = matches!(reason, CloseReason::Reset(_))
        && state.keeps_input_when_broken()
        && self.slot.session.is_some()
        // A handler that has paused reads might not read for long, and still has to be notified of the end.
        && (!state.is_paused() || !state.inbox.is_empty() || stream.has_input());
        if !keeps_reading {
            return self.close_finished(reason);
        }
        state.mark_broken(reason, self.cx.time.moment());
        self.set_alarm();
        self.mark_ready();
    }

    /// Handles a socket error after which nothing can be sent or received.
    #[cold]
    pub(crate) fn fail(&mut self, error: StreamError) {
        self.close_finished(reason_of(error));
    }

    /// Takes the next step that the connection's state asks for.
    pub(crate) fn take_next_step(&mut self) {
        if let Some(reason) = self.slot.link.state.take_early_reason() {
            let mut closed = self
                .slot
                .link
                .state
                .account(self.cx.time.now(), self.cx.time.turn_at());
            self.cx.set_closed(closed.id);
            self.notify_closed(&mut closed, reason);
        }
        let link = &mut self.slot.link;
        let mut step = link.state.next_step();
        if step == Step::SendFin {
            let sent = link.stream.shutdown_write();
            if matches!(sent, Err(StreamError::WouldBlock)) {
                // The codec's closing message has to be sent first. This function runs again after the next flush.
                link.state.set_tail(true);
                if let Err(error) = self.cx.await_room(link) {
                    self.fail(error.into());
                }
                return;
            }
            let limits = self.cx.limits.get(link.state.limits());
            link.state.fin_sent(self.cx.time.moment(), limits);
            self.cx.set_alarm(link);
            self.shorten_fin_wait();
            let link = &mut self.slot.link;
            step = match sent {
                Err(_) if !link.state.is_open() => Step::Close,
                _ => link.state.next_step(),
            };
        }
        match step {
            Step::Wait | Step::SendFin => {}
            Step::Close => self.close(false),
            Step::Reset => self.close(true),
            // The undecoded rest of the input under decoding leaves with the socket.
            Step::Detach if self.cx.decoding.of == Some(self.slot.link.state.id) => {
                self.mark_dirty();
            }
            Step::Detach if self.starts_tls() => {}
            Step::Detach => self.detach(),
        }
    }

    /// Has TLS begin at the end of the turn, if that is what the connection's output had to be sent for.
    fn starts_tls(&mut self) -> bool {
        #[cfg(feature = "tls")]
        if let Link {
            state,
            extras: Some(extras),
            ..
        } = &mut self.slot.link
            && extras.start_tls.is_some()
        {
            self.cx.lists.starting_tls.push(state.id.slot() as u32);
            return true;
        }
        false
    }

    /// Ends the connection for the engine, and gives its socket to the application.
    fn detach(&mut self) {
        let Link { state, extras, .. } = &mut self.slot.link;
        if let Some(then) = extras.as_mut().and_then(|extras| extras.detach.take()) {
            let unread = state.inbox.take_bytes(&mut self.cx.buffers.pool);
            self.cx
                .lists
                .detached
                .push((state.id.slot() as u32, then, unread));
        }
        self.close_finished(CloseReason::Detached);
    }

    /// Shortens the wait for the peer's FIN once the server shuts down.
    pub(crate) fn shorten_fin_wait(&mut self) {
        if self.cx.engine.is_stopping()
            && self
                .slot
                .link
                .state
                .shorten_fin_wait(self.cx.time.moment() + LAST_FIN)
        {
            self.set_alarm();
        }
    }

    /// Closes a connection on which nothing more can happen. `reason` counts unless another one is known already.
    pub(crate) fn close_finished(&mut self, reason: CloseReason) {
        self.end(false, Some(reason));
    }

    /// Closes a connection whose reason is known.
    pub(crate) fn close(&mut self, reset: bool) {
        self.end(reset, None);
    }

    /// Ends the connection. Its slot and its socket are freed at the end of the turn.
    fn end(&mut self, reset: bool, last_reason: Option<CloseReason>) {
        let link = &mut self.slot.link;
        if link.state.is_closed() {
            return;
        }
        if reset {
            link.stream.reset_on_close();
        }
        self.cx.end_draining(&mut link.state);
        let broken =
            reset || last_reason.is_some() || link.state.is_aborted() || link.state.is_broken();
        self.cx.unpipe(link, broken);
        if let Front::Pipe(..) = link.state.out.front() {
            self.cx.pipes.forget();
        }
        let refused = link
            .extras
            .as_mut()
            .and_then(|extras| extras.refused.take());
        let time = &self.cx.time;
        let mut closed = link.state.account(time.now(), time.turn_at());
        closed.refused = refused;
        let reason = link.state.finish(last_reason, &mut self.cx.buffers.pool);
        let lost = reset || closed.unsent + link.stream.unsent() > 0;
        self.cx.set_closed(closed.id);
        self.cx.release(&link.state, &closed.peer);
        self.cx.lists.closed.push(closed.id.slot() as u32);
        if let Some(datagram) = link.stream.datagram() {
            self.cx
                .udp_sockets
                .forget(datagram.port, &closed.peer, closed.id.slot());
        }
        if !link.state.never_opened() && self.cx.engine.is_stopping() {
            self.cx.metrics.forced.add(u64::from(lost));
            self.cx.metrics.drained.add(u64::from(!lost));
        }
        self.cx.end_waits(link);
        self.cx.release_limits(&mut link.state);
        if !link.state.is_close_notified() {
            self.notify_closed(&mut closed, reason);
        }
    }

    /// Notifies the handler and the outbound connection's dial that the connection has ended or is about to end.
    fn notify_closed(&mut self, closed: &mut Closed, reason: CloseReason) {
        let Link { stream, state, .. } = &mut self.slot.link;
        log::debug!(target: "epicycle::conn", "{}: {reason}", state.name());
        let is_outbound = matches!(state.origin(), Origin::Connected { .. });
        let failed = stream.is_shaking_hands() && !self.cx.awaits_proxy_header(closed.id);
        self.cx.metrics.handshake_failures.add(u64::from(failed));
        self.cx.forget_proxied(closed.id);
        if state.never_opened() {
            // A failed attempt was never a connection.
            if is_outbound {
                self.cx
                    .lists
                    .outcomes
                    .push_back((closed.id, Outcome::Failed(reason)));
                return;
            }
            if let origin @ Origin::Adopted { .. } = state.origin() {
                let (id, peer) = (closed.id, closed.peer.clone());
                let outcome = Outcome::NotAdopted {
                    peer,
                    origin,
                    reason,
                };
                self.cx.lists.outcomes.push_back((id, outcome));
                return;
            }
        }
        let unsent = stream.unsent();
        closed.unsent += unsent;
        closed.bytes_out -= unsent as u64;
        self.cx.count_closed(&reason);
        if is_outbound {
            let again = !reason.is_by_this_side();
            self.cx
                .lists
                .outcomes
                .push_back((closed.id, Outcome::Closed { again }));
        }
        if let Some(session) = self.slot.session.take() {
            let mut reactor = Reactor::new(self.connections, self.cx);
            self.handler.on_close(&mut reactor, closed, session, reason);
        }
    }
}

fn reason_of(error: StreamError) -> CloseReason {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut,
    };

    let error = match error {
        StreamError::Tls(error) => return CloseReason::Tls(error),
        StreamError::Io(error) => error,
        StreamError::Truncated => io::ErrorKind::UnexpectedEof.into(),
        StreamError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        StreamError::Interrupted => io::ErrorKind::Interrupted.into(),
    };
    match error.kind() {
        // ConnectionRefused on an open connection is the ICMP error of a UDP peer's host.
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | ConnectionRefused => {
            CloseReason::Reset(error)
        }
        _ => CloseReason::Io(error),
    }
}
