//! Offering output to the kernel, and what follows when there is none left: FIN, and the end.

use std::io::{self, IoSlice};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{files, release, report_panic};
use crate::buf::order::Front;
use crate::buf::outbox::Arena;
use crate::buf::pool::BufferPool;
use crate::buf::queue::{MAX_SLICES, OutQueue};
use crate::engine::conn::close::{CloseReason, Closed, TimeoutKind};
use crate::engine::conn::origin::Origin;
use crate::engine::conn::{Alarm, ConnState, Step};
use crate::engine::handler::context::{Context, Extras, Link, Outcome, Slot};
use crate::engine::handler::converse::{is_awaited, is_owed};
use crate::engine::handler::{Completion, Conn, EventHandler, WriteError};
use crate::engine::pipes::Due;

/// The most bytes offered to the kernel for one connection before the others have their turn.
pub(super) const WRITE_BUDGET: usize = 1 << 20;

/// Once the server shuts down, a peer's FIN is awaited no longer than this, in milliseconds.
const LAST_FIN: u64 = 1_000;

/// Offers what a connection has written to the kernel, then acts on its state.
#[inline(never)]
pub(super) fn flush<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    flush_inline(handler, slot, cx);
}

/// Flushes a connection that has written much, so that its next write is not refused for what the kernel would take.
pub(super) fn flush_much<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
) {
    if slot.link.state.should_be_flushed() {
        flush(handler, slot, cx);
    }
}

/// The same for the flush phase, where calls count.
#[inline(always)]
pub(super) fn flush_inline<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
) {
    let Slot { link, session, .. } = &mut *slot;
    let state = &mut link.state;
    let staged = state.out.staged();
    if !staged.is_empty() && state.is_writable() {
        let bytes = cx.arena.get(staged);
        if let Some(session) = session {
            show(handler, session, state, &cx.arena, &mut cx.buffers);
        }
        let nothing_follows = state.is_plain() && link.extras.is_none();
        if nothing_follows && let Some(socket) = link.stream.as_plain() {
            return match socket.send(bytes) {
                Ok(n) if n == bytes.len() => {
                    cx.metrics.bytes_out.add(n as u64);
                    state.on_staged_sent(n, cx.now);
                }
                sent => on_staged_refused(handler, slot, cx, sent),
            };
        }
        let sent = link.stream.send(bytes, &mut cx.records);
        return on_staged_offered(handler, slot, cx, sent);
    }
    flush_backlog(handler, slot, cx);
}

/// The same for a connection that more than the usual follows for.
#[inline(never)]
fn on_staged_offered<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    sent: io::Result<usize>,
) {
    let state = &mut slot.link.state;
    match sent {
        Ok(n) if n == state.out.len() => {
            cx.metrics.bytes_out.add(n as u64);
            state.on_staged_sent(n, cx.now);
            flush_backlog(handler, slot, cx);
        }
        sent => on_staged_refused(handler, slot, cx, sent),
    }
}

/// The kernel took less than was staged: the rest becomes backlog.
#[cold]
fn on_staged_refused<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    sent: io::Result<usize>,
) {
    let n = *sent.as_ref().unwrap_or(&0);
    let out = &mut slot.link.state.out;
    out.staged_refused(n, &cx.arena, &mut cx.buffers);
    match on_sent(slot, cx, sent) {
        Ok(()) => flush_backlog(handler, slot, cx),
        Err(error) => break_off(handler, slot, cx, error),
    }
}

/// Shows `pre_write` what is staged.
#[inline(always)]
fn show<H: EventHandler>(
    handler: &mut H,
    session: &mut H::Session,
    state: &mut ConnState,
    arena: &Arena,
    buffers: &mut BufferPool,
) {
    let id = state.id;
    let rescue = Rescue {
        out: &mut state.out,
        arena,
        buffers,
    };
    handler.pre_write(id, session, arena.get(rescue.out.staged()));
    // There is nothing in it but references.
    mem::forget(rescue);
}

/// Makes backlog of what is being shown when `pre_write` panics, so that the connection's end sends all of it.
struct Rescue<'a> {
    out: &'a mut OutQueue,
    arena: &'a Arena,
    buffers: &'a mut BufferPool,
}

impl Drop for Rescue<'_> {
    #[cold]
    fn drop(&mut self) {
        self.out.staged_refused(0, self.arena, self.buffers);
    }
}

/// Offers the backlog until the kernel has taken all of it or refuses, then acts on the state.
#[inline(never)]
pub(super) fn flush_backlog<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
) {
    let Link { stream, state, .. } = &mut slot.link;
    if state.is_closed() {
        return;
    }
    if state.is_datagram() {
        settle_datagrams(slot, cx);
        return act(handler, slot, cx);
    }
    let had_output = state.has_output();
    state.set_tail(stream.has_tail());
    if !state.is_writable() {
        state.out.unstage(&cx.arena, &mut cx.buffers);
    }
    let mut offered = 0;
    while slot.link.state.can_send_backlog() && offered < WRITE_BUDGET {
        let Slot { link, session, .. } = &mut *slot;
        if let Some(session) = session {
            let state = &mut link.state;
            let id = state.id;
            state
                .out
                .show_unseen(|bytes| handler.pre_write(id, session, bytes));
        }
        let sent = offer(link, cx, WRITE_BUDGET - offered);
        link.state.set_tail(link.stream.has_tail());
        offered += *sent.as_ref().unwrap_or(&0);
        if let Err(error) = on_sent(slot, cx, sent) {
            return break_off(handler, slot, cx, error);
        }
    }
    let Slot { link, codec, .. } = &mut *slot;
    if link.state.can_send_backlog() {
        cx.mark_ready(&mut link.state);
    }
    if let Some(extras) = &mut link.extras {
        let taken = link.state.bytes_out - link.stream.unsent() as u64;
        complete_flushed(extras, taken, cx);
    }
    if link.state.update_congestion(&cx.limits) {
        if link.state.pauses_reads() {
            cx.resume(link);
        } else {
            cx.mark_ready(&mut link.state);
        }
    }
    if link.state.is_piped() && had_output && !link.state.has_output() {
        // The one it is joined with may be read again.
        cx.pipes.due.push_back(Due::Move(link.state.id));
    }
    if had_output && link.state.awaits_response() && !link.state.has_output() {
        Conn::new(link, codec, cx).await_response(true);
    }
    act(handler, slot, cx);
}

/// After the flush of its socket, tells those who wait for a session's datagrams to be sent, or has them told later.
pub(super) fn settle_datagrams<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>) {
    let link = &mut slot.link;
    let flushes = link.extras.as_ref().map(|extras| extras.flushes.len());
    if !link.state.is_congested() && flushes.unwrap_or(0) == 0 {
        return;
    }
    if let Some(datagram) = link.stream.datagram()
        && let Some(port) = cx.ports.get_mut(datagram.port)
        && !port.queue.is_past(datagram.queued_to)
    {
        port.waiting.insert((datagram.queued_to, link.state.id));
        return;
    }
    if let Some(extras) = &mut link.extras {
        complete_flushed(extras, link.state.bytes_out, cx);
    }
    if link.state.on_queue_empty() {
        cx.resume(link);
    }
}

/// Offers the front of the backlog, or what the stream holds back; says how many bytes were taken.
fn offer<H: EventHandler>(
    link: &mut Link,
    cx: &mut Context<H>,
    budget: usize,
) -> io::Result<usize> {
    let Link { stream, state, .. } = link;
    if !state.has_sendable() {
        return stream.flush().map(|()| 0);
    }
    match state.out.front() {
        Front::Memory => {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = state.out.slices(&mut slices);
            let slices = &slices[..count];
            let sent = match stream.as_plain() {
                // So that the beginning of an answer and the file behind it share a packet.
                Some(socket) if state.out.files() > 0 => socket.send_vectored_and_more(slices)?,
                _ => stream.send_vectored(slices, &mut cx.records)?,
            };
            state.out.backlog_sent(sent, &mut cx.buffers);
            if !stream.is_plain() {
                files::read_ahead(link, cx);
            }
            Ok(sent)
        }
        Front::File(_) => files::offer(link, cx, budget),
        Front::Pipe(pipe, len) => {
            let sent = pipe.drain(&*stream, len)?;
            if let Some(pipe) = state.out.pipe_sent(sent) {
                cx.pipes.put_back(pipe);
            }
            Ok(sent)
        }
    }
}

/// Notes what the kernel took, or that it refuses for now; other errors are the caller's.
pub(super) fn on_sent<H: EventHandler>(
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    sent: io::Result<usize>,
) -> io::Result<()> {
    match sent {
        Ok(n) => {
            cx.metrics.bytes_out.add(n as u64);
            slot.link.state.on_sent(n, cx.now);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            slot.link.state.on_write_would_block(cx.moment());
            cx.set_alarm(&mut slot.link);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does with the socket what the connection's state asks for.
fn act<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    if let Some(reason) = slot.link.state.take_early_reason() {
        let closed = slot.link.state.account(cx.now, cx.turn_at);
        tell(handler, slot, cx, closed, reason);
    }
    let link = &mut slot.link;
    let mut step = link.state.next_step();
    if step == Step::SendFin {
        let sent = link.stream.shutdown_write();
        if is_would_block(&sent) {
            // Its last words have to be taken first; what follows the next flush is this again.
            link.state.set_tail(true);
            link.state.on_write_would_block(cx.moment());
            return cx.set_alarm(link);
        }
        link.state.fin_sent(cx.moment(), &cx.limits);
        cx.set_alarm(link);
        hasten(slot, cx);
        let link = &mut slot.link;
        step = match sent {
            Err(_) if !link.state.is_open() => Step::Close,
            _ => link.state.next_step(),
        };
    }
    match step {
        Step::Wait | Step::SendFin => {}
        Step::Close => close(handler, slot, cx, false),
        Step::Reset => close(handler, slot, cx, true),
        // What is left over of the input under decoding goes along.
        Step::Detach if cx.decoding.is_under_way => cx.mark_dirty(&mut slot.link.state),
        Step::Detach => detach(handler, slot, cx),
    }
}

/// Ends the connection for the engine, whose socket goes to who asked for it.
fn detach<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    let Link { state, extras, .. } = &mut slot.link;
    if let Some(then) = extras.as_mut().and_then(|extras| extras.detach.take()) {
        let unread = state.inbox.take_bytes(&mut cx.buffers);
        cx.detached.push((state.id.slot() as u32, then, unread));
    }
    close_finished(handler, slot, cx, CloseReason::Detached);
}

fn is_would_block(result: &io::Result<()>) -> bool {
    let error = result.as_ref().err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Once the server stops, the peer's FIN is not awaited for long.
pub(super) fn hasten<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>) {
    if cx.engine.is_stopping() && slot.link.state.hasten(cx.moment() + LAST_FIN) {
        cx.set_alarm(&mut slot.link);
    }
}

/// The server's drain deadline is over.
pub(super) fn force<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    if is_owed(&slot.link.state, &slot.codec) && slot.link.state.is_open() {
        // Who has waited so long is told, if the kernel takes that at once.
        let reason = CloseReason::Shutdown;
        cx.begin_close(&mut slot.link, &mut slot.codec, reason);
        flush(handler, slot, cx);
    }
    let reset = !slot.link.state.awaits_fin();
    close(handler, slot, cx, reset);
}

/// Sending has failed, or an event told that the connection is broken. What had arrived before is still handed out.
#[cold]
pub(super) fn break_off<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    error: io::Error,
) {
    let reason = reason_of(error);
    let Link { state, stream, .. } = &mut slot.link;
    let goes_on = matches!(reason, CloseReason::Reset(_))
        && state.outlives_break()
        && slot.session.is_some()
        // The handler may not want to read for long, and must hear of the end then.
        && (!state.is_paused() || !state.inbox.is_empty() || stream.has_input());
    if !goes_on {
        return close_finished(handler, slot, cx, reason);
    }
    state.break_off(reason, cx.moment());
    cx.set_alarm(&mut slot.link);
    cx.mark_ready(&mut slot.link.state);
}

/// The socket failed: nothing can be sent or received any more.
#[cold]
pub(super) fn fail<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    error: io::Error,
) {
    close_finished(handler, slot, cx, reason_of(error));
}

fn reason_of(error: io::Error) -> CloseReason {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidData, TimedOut,
    };

    match error.kind() {
        // Of an open connection, the last is what a UDP peer's host says when nobody listens there.
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | ConnectionRefused => {
            CloseReason::Reset(error)
        }
        InvalidData => CloseReason::Tls(error),
        _ => CloseReason::Io(error),
    }
}

/// Asks the kernel whether the peer has acknowledged something since the last look, if output waits that it has refused.
/// Says whether it can tell.
pub(super) fn look<H: EventHandler>(link: &mut Link, cx: &Context<H>) -> bool {
    if !link.state.is_stalled() {
        return false;
    }
    let Some(acknowledged) = link.stream.acknowledged(link.state.bytes_out) else {
        return false;
    };
    let last = &mut link.extras.get_or_insert_default().acknowledged;
    if last.replace(acknowledged) != Some(acknowledged) {
        link.state.on_acknowledged(cx.moment());
    }
    true
}

/// A look at the clock was due.
pub(super) fn ring_alarm<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
) {
    match cx.alarm_of(&slot.link) {
        Alarm::At(_) => cx.set_alarm(&mut slot.link),
        // A drain would wait for what has just been waited for.
        Alarm::Timeout(kind @ TimeoutKind::WriteStall) => {
            cx.abort(&mut slot.link, CloseReason::Timeout(kind));
        }
        // As at a shutdown, somebody may wait for an answer.
        Alarm::Timeout(TimeoutKind::Lifetime)
            if !slot.link.state.is_retiring() && is_awaited(&slot.link.state, &slot.codec) =>
        {
            cx.retire(&mut slot.link.state, &mut slot.codec);
            cx.set_alarm(&mut slot.link);
        }
        // The request has not been sent in full, so there is nothing to answer yet.
        Alarm::Timeout(TimeoutKind::Response) if slot.link.state.has_output() => {
            Conn::new(&mut slot.link, &mut slot.codec, cx).await_response(true);
        }
        Alarm::Timeout(kind) => {
            if kind == TimeoutKind::Answer {
                log::warn!(target: "epicycle::conn", "{}: {kind}", slot.link.state.name());
            }
            let reason = CloseReason::Timeout(kind);
            cx.begin_close(&mut slot.link, &mut slot.codec, reason);
        }
        Alarm::DrainOver => {
            slot.link.state.give_up_draining();
            cx.mark_dirty(&mut slot.link.state);
        }
        Alarm::FinOver => close(handler, slot, cx, false),
    }
}

/// Closes a connection that nothing more can be done with, and says why, unless that is known already.
pub(super) fn close_finished<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    reason: CloseReason,
) {
    end(handler, slot, cx, false, Some(reason));
}

/// Closes a connection whose reason is known.
pub(super) fn close<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    reset: bool,
) {
    end(handler, slot, cx, reset, None);
}

/// Ends the connection; its slot and its socket go at the end of the turn.
fn end<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    reset: bool,
    last_reason: Option<CloseReason>,
) {
    let link = &mut slot.link;
    if link.state.is_closed() {
        return;
    }
    if reset {
        link.stream.reset_on_close();
    }
    cx.settle(&mut link.state);
    let broken =
        reset || last_reason.is_some() || link.state.is_aborted() || link.state.is_broken();
    cx.part(link, broken);
    if let Front::Pipe(..) = link.state.out.front() {
        cx.pipes.forget();
    }
    let refused = link
        .extras
        .as_mut()
        .and_then(|extras| extras.refused.take());
    let (mut closed, reason) = link
        .state
        .finish(cx.now, cx.turn_at, last_reason, &mut cx.buffers);
    closed.refused = refused;
    let lost = reset || closed.unsent + link.stream.unsent() > 0;
    cx.engine.peer(cx.reactor).liveness.set_closed(closed.id);
    release(cx, &link.state, &closed.peer);
    cx.graveyard.push(closed.id.slot() as u32);
    if let Some(datagram) = link.stream.datagram() {
        cx.ports
            .forget(datagram.port, &closed.peer, closed.id.slot());
    }
    if !link.state.never_opened() && cx.engine.is_stopping() {
        cx.metrics.forced.add(u64::from(lost));
        cx.metrics.drained.add(u64::from(!lost));
    }
    end_waits(link, cx);
    if !link.state.is_told() {
        tell(handler, slot, cx, closed, reason);
    }
}

/// Tells the handler, and whoever would connect again, that the connection has ended, or is about to.
fn tell<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    mut closed: Closed,
    reason: CloseReason,
) {
    let Link { stream, state, .. } = &mut slot.link;
    log::debug!(target: "epicycle::conn", "{}: {reason}", state.name());
    cx.engine.peer(cx.reactor).liveness.set_closed(closed.id);
    let is_ours = matches!(state.origin(), Origin::Connected { .. });
    if state.never_opened() {
        let failed = stream.is_shaking_hands();
        cx.metrics.handshake_failures.add(u64::from(failed));
        // An attempt is no connection yet.
        if is_ours {
            cx.outcomes.push_back((closed.id, Outcome::Failed(reason)));
            return;
        }
    }
    let unsent = stream.unsent();
    closed.unsent += unsent;
    closed.bytes_out -= unsent as u64;
    count(&reason, cx);
    if is_ours {
        let again = !reason.is_wanted();
        cx.outcomes
            .push_back((closed.id, Outcome::Closed { again }));
    }
    if let Some(session) = slot.session.take() {
        handler.on_close(&closed, session, reason);
    }
}

fn count<H: EventHandler>(reason: &CloseReason, cx: &Context<H>) {
    let metrics = &cx.metrics;
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

/// Cancels a closed connection's timers and tells those who wait for its writes.
fn end_waits<H: EventHandler>(link: &mut Link, cx: &mut Context<H>) {
    if let Some((key, _)) = link.alarm.take() {
        cx.wheel.cancel(key);
    }
    if let Some(mut extras) = link.extras.take() {
        let taken = link.state.bytes_out - link.stream.unsent() as u64;
        complete_flushed(&mut extras, taken, cx);
        for key in extras.timers {
            cx.wheel.cancel(key);
        }
        for (_, done) in extras.flushes {
            complete(done, Err(WriteError::Closed), cx);
        }
    }
}

/// Tells those whose write is in the kernel by now.
pub(super) fn complete_flushed<H: EventHandler>(extras: &mut Extras, sent: u64, cx: &Context<H>) {
    while extras
        .flushes
        .front()
        .is_some_and(|(position, _)| *position <= sent)
    {
        if let Some((_, done)) = extras.flushes.pop_front() {
            complete(done, Ok(()), cx);
        }
    }
}

/// Calls a completion; its panic concerns neither the connection nor the other completions.
pub(super) fn complete<H: EventHandler>(
    done: Completion,
    result: Result<(), WriteError>,
    cx: &Context<H>,
) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| done(result))) {
        report_panic(panic, cx, "completion");
    }
}
