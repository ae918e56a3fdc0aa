//! Offers output to the kernel, and takes the next step when none is left: FIN, or the end.

use std::io::IoSlice;
use std::mem;

use super::files;
use crate::buf::order::Front;
use crate::buf::outbox::Arena;
use crate::buf::pool::BufferPool;
use crate::buf::queue::{MAX_SLICES, OutQueue};
use crate::engine::conn::ConnState;
use crate::engine::handler::context::{Context, Link, Served, Slot};
use crate::engine::handler::{Conn, EventHandler};
use crate::engine::pipes::PipeTask;
use crate::error::StreamError;

/// The most bytes offered to the kernel for one connection before other connections are served.
pub(super) const WRITE_BUDGET: usize = 1 << 20;

impl<H: EventHandler> Served<'_, H> {
    /// Offers a connection's output to the kernel, then takes its next step.
    #[inline(never)]
    pub(super) fn flush(&mut self) {
        let flushed = flush_staged(self.handler, self.slot, self.cx);
        self.continue_flush(flushed);
    }

    /// Flushes a connection with much output, so that its next write is not refused although the kernel has room.
    pub(super) fn flush_much(&mut self) {
        if self.slot.link.state.should_be_flushed() {
            self.flush();
        }
    }

    /// Continues a flush behind the staged output.
    pub(super) fn continue_flush(&mut self, flushed: Flushed) {
        match flushed {
            Flushed::Done => {}
            Flushed::Offered(sent) => self.on_staged_offered(sent),
            Flushed::NothingStaged => self.flush_backlog(),
        }
    }

    /// Handles the result of a send for a connection that needs more than the usual.
    fn on_staged_offered(&mut self, sent: Result<usize, StreamError>) {
        let state = &mut self.slot.link.state;
        match sent {
            Ok(n) if n == state.out.len() => {
                self.cx.metrics.bytes_out.add(n as u64);
                state.on_staged_sent(n, self.cx.time.now());
                self.flush_backlog();
            }
            sent => self.on_staged_refused(sent),
        }
    }

    /// Moves the staged output that the kernel did not take to the backlog.
    #[cold]
    fn on_staged_refused(&mut self, sent: Result<usize, StreamError>) {
        let n = *sent.as_ref().unwrap_or(&0);
        let out = &mut self.slot.link.state.out;
        out.staged_refused(n, &self.cx.buffers.arena, &mut self.cx.buffers.pool);
        match self.on_sent(sent) {
            Ok(()) => self.flush_backlog(),
            Err(error) => self.on_broken(error),
        }
    }
}

/// The result of offering the staged output to the kernel.
pub(super) enum Flushed {
    /// The kernel took all, and nothing follows.
    Done,
    /// It was offered. The rest, or the next step, follows.
    Offered(Result<usize, StreamError>),
    /// Nothing is staged, or the kernel has no room.
    NothingStaged,
}

/// Offers a connection's staged output to the kernel. It is inlined for the flush phase, where calls cost.
#[inline(always)]
pub(super) fn flush_staged<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
) -> Flushed {
    let Slot { link, session, .. } = slot;
    let state = &mut link.state;
    let staged = state.out.staged();
    if staged.is_empty() || !state.is_writable() {
        return Flushed::NothingStaged;
    }
    let bytes = cx.buffers.arena.get(staged);
    if H::HANDLES_PRE_WRITE
        && let Some(session) = session
    {
        let arena = &cx.buffers.arena;
        call_pre_write(handler, session, state, arena, &mut cx.buffers.pool);
    }
    if state.is_plain()
        && let Some(socket) = link.stream.as_plain()
    {
        return match socket.send(bytes) {
            Ok(n) if n == bytes.len() => {
                cx.metrics.bytes_out.add(n as u64);
                state.on_staged_sent(n, cx.time.now());
                Flushed::Done
            }
            sent => Flushed::Offered(sent.map_err(StreamError::from)),
        };
    }
    Flushed::Offered(link.stream.send(bytes, &mut cx.buffers.tls_scratch))
}

/// Calls `pre_write` with the staged output.
#[inline(always)]
fn call_pre_write<H: EventHandler>(
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
    // It holds nothing but references.
    mem::forget(rescue);
}

/// Moves the output shown to `pre_write` to the backlog if `pre_write` panics, so that all of it is sent before the
/// connection ends.
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

impl<H: EventHandler> Served<'_, H> {
    /// Offers the backlog until the kernel has taken all of it or refuses, then takes the next step.
    #[inline(never)]
    pub(super) fn flush_backlog(&mut self) {
        let Link { stream, state, .. } = &mut self.slot.link;
        if state.is_closed() {
            return;
        }
        if state.is_datagram() {
            self.complete_sent_datagrams();
            return self.take_next_step();
        }
        let had_output = state.has_output();
        state.set_tail(stream.has_tail());
        if !state.is_writable() {
            state
                .out
                .unstage(&self.cx.buffers.arena, &mut self.cx.buffers.pool);
        }
        let mut offered = 0;
        while self.slot.link.state.can_send_backlog() && offered < WRITE_BUDGET {
            let Slot { link, session, .. } = &mut *self.slot;
            if H::HANDLES_PRE_WRITE
                && let Some(session) = session
            {
                let state = &mut link.state;
                let id = state.id;
                state
                    .out
                    .show_unseen(|bytes| self.handler.pre_write(id, session, bytes));
            }
            let sent = offer(link, self.cx, WRITE_BUDGET - offered);
            link.state.set_tail(link.stream.has_tail());
            offered += *sent.as_ref().unwrap_or(&0);
            if let Err(error) = self.on_sent(sent) {
                return self.on_broken(error);
            }
        }
        let Slot { link, codec, .. } = &mut *self.slot;
        if link.state.can_send_backlog() {
            self.cx.lists.mark_ready(&mut link.state);
        }
        if let Some(extras) = &mut link.extras {
            let taken = link.state.bytes_out - link.stream.unsent() as u64;
            self.cx.complete_flushed(extras, taken);
            link.state.set_completes(!extras.flushes.is_empty());
        }
        let limits = self.cx.limits.get(link.state.limits());
        if link.state.update_congestion(limits) {
            if link.state.pauses_reads() {
                self.cx.resume(link);
            } else {
                self.cx.lists.mark_ready(&mut link.state);
            }
        }
        if link.state.is_piped() && had_output && !link.state.has_output() {
            // The piped connection may be read again.
            self.cx.pipes.tasks.push_back(PipeTask::Move(link.state.id));
        }
        if had_output && link.state.awaits_response() && !link.state.has_output() {
            Conn::new(link, codec, self.cx, self.connections).await_response(true);
        }
        self.take_next_step();
    }

    /// Completes the pending writes of a UDP session after the flush of its socket, or schedules that.
    pub(super) fn complete_sent_datagrams(&mut self) {
        let link = &mut self.slot.link;
        let flushes = link.extras.as_ref().map(|extras| extras.flushes.len());
        if !link.state.is_congested() && flushes.unwrap_or(0) == 0 {
            return;
        }
        if let Some(datagram) = link.stream.datagram()
            && let Some(port) = self.cx.udp_sockets.get_mut(datagram.port)
            && !port.queue.is_past(datagram.queued_to)
        {
            port.waiting.insert((datagram.queued_to, link.state.id));
            return;
        }
        if let Some(extras) = &mut link.extras {
            self.cx.complete_flushed(extras, link.state.bytes_out);
        }
        if link.state.on_queue_empty() {
            self.cx.resume(link);
        }
    }
}

/// Offers the front of the backlog, or the output that the stream holds. Returns the number of bytes taken.
fn offer<H: EventHandler>(
    link: &mut Link,
    cx: &mut Context<H>,
    budget: usize,
) -> Result<usize, StreamError> {
    if let Some(error) = link.take_send_error() {
        return Err(error.into());
    }
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
                _ => stream.send_vectored(slices, &mut cx.buffers.tls_scratch)?,
            };
            state.out.backlog_sent(sent, &mut cx.buffers.pool);
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

impl<H: EventHandler> Served<'_, H> {
    /// Records the bytes that the kernel took, or that it refuses for now. Returns other errors.
    pub(super) fn on_sent(&mut self, sent: Result<usize, StreamError>) -> Result<(), StreamError> {
        match sent {
            Ok(n) => {
                self.cx.metrics.bytes_out.add(n as u64);
                self.slot.link.state.on_sent(n, self.cx.time.now());
                Ok(())
            }
            Err(StreamError::WouldBlock) => {
                self.cx.await_room(&mut self.slot.link)?;
                Ok(())
            }
            Err(StreamError::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
