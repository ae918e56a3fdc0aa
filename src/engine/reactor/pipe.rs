//! Pipes: each of two connections sends what the other receives.

use super::flush::WRITE_BUDGET;
use super::{EventLoop, NOBODY};
use crate::engine::conn::close::CloseReason;
use crate::engine::handler::context::{Connections, Context, Link, Served, Slot};
use crate::engine::handler::{EventHandler, pipe};
use crate::engine::pipes::{PipeEnd, PipeTask};
use crate::engine::slots::ConnId;
use crate::engine::stream::Received;
use crate::error::StreamError;
use crate::sys::transfer;

/// The most bytes that the kernel moves at a time, and so the most kernel memory that a slow peer holds.
const SPLICE: usize = 1 << 20;

/// Smaller pieces are copied. That costs no more, and saves a call to find that there is no more.
const SPLICE_MIN: usize = 16 << 10;

impl<H: EventHandler> EventLoop<H> {
    /// Runs the pending work of piped connections.
    #[inline]
    pub(super) fn run_pipes(&mut self) {
        if !self.cx.pipes.tasks.is_empty() {
            self.run_due();
        }
    }

    #[cold]
    #[inline(never)]
    fn run_due(&mut self) {
        self.turn.serving = NOBODY;
        // Work that becomes due meanwhile runs the next time, so that the loop continues.
        for _ in 0..self.cx.pipes.tasks.len() {
            match self.cx.pipes.tasks.pop_front() {
                Some(PipeTask::Join(id, other)) => {
                    let Self {
                        connections, cx, ..
                    } = self;
                    let joined = pipe::join(connections, cx, id, other);
                    if let Err(error) = joined
                        && let Some(mut slot) = connections.get(id)
                    {
                        let name = slot.link.state.name();
                        log::debug!(target: "epicycle::conn", "{name}: cannot be joined: {error}");
                        self.turn.serving = id.slot();
                        let Slot { link, codec, .. } = &mut *slot;
                        cx.begin_close(link, codec, CloseReason::Pipe);
                    }
                }
                Some(PipeTask::Move(id)) => self.forward_both_ways(id),
                Some(PipeTask::Ended { survivor, broken }) => {
                    if let Some(mut slot) = self.connections.get(survivor) {
                        self.turn.serving = survivor.slot();
                        end_partner(&mut slot, &mut self.cx, broken);
                    }
                }
                None => break,
            }
            self.turn.serving = NOBODY;
        }
    }

    /// Moves bytes both ways between a connection and its partner.
    fn forward_both_ways(&mut self, id: ConnId) {
        let Self {
            handler,
            connections,
            cx,
            scratch,
            turn,
            ..
        } = self;
        let connections = &*connections;
        let Some(mut one) = connections.get(id) else {
            return;
        };
        if one.link.state.can_send_backlog() {
            turn.serving = id.slot();
            Served::new(handler, &mut one, cx, connections).flush();
        }
        let Some(partner) = pipe_end(&one.link).map(|pipe_end| pipe_end.partner) else {
            return;
        };
        if let Some(mut other) = connections.get(partner) {
            if other.link.state.can_send_backlog() {
                turn.serving = partner.slot();
                Served::new(handler, &mut other, cx, connections).flush();
            }
            turn.serving = NOBODY;
            let mut pair = Pair {
                handler,
                from: &mut one,
                to: &mut other,
                cx,
                connections,
            };
            pair.forward(scratch);
            pair.turn_round().forward(scratch);
            pair.end_broken();
            pair.turn_round().end_broken();
        }
    }
}

fn pipe_end(link: &Link) -> Option<PipeEnd> {
    link.extras.as_ref().and_then(|extras| extras.pipe_end)
}

/// Ends a connection because the one it was piped to has ended.
fn end_partner<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>, broken: bool) {
    let link = &mut slot.link;
    // Its partner has ended already and must not be notified.
    if let Some(extras) = &mut link.extras {
        extras.pipe_end = None;
    }
    if broken {
        if link.state.still_sends() {
            cx.abort(link, CloseReason::Pipe);
        }
    } else if !link.state.ends_by_itself() {
        cx.begin_close(link, &mut slot.codec, CloseReason::Pipe);
    }
}

/// Two piped connections, and the way in which bytes move between them.
struct Pair<'a, H: EventHandler> {
    handler: &'a mut H,
    from: &'a mut Slot<H>,
    to: &'a mut Slot<H>,
    cx: &'a mut Context<H>,
    connections: &'a Connections<H>,
}

impl<H: EventHandler> Pair<'_, H> {
    /// Returns the pair for the other way.
    fn turn_round(&mut self) -> Pair<'_, H> {
        Pair {
            handler: self.handler,
            from: self.to,
            to: self.from,
            cx: self.cx,
            connections: self.connections,
        }
    }

    fn from(&mut self) -> Served<'_, H> {
        Served::new(self.handler, self.from, self.cx, self.connections)
    }

    fn to(&mut self) -> Served<'_, H> {
        Served::new(self.handler, self.to, self.cx, self.connections)
    }

    /// Ends a broken connection once no more of its input can be forwarded. The reset is passed on without further delay.
    fn end_broken(&mut self) {
        let can_forward = self.from.link.state.feeds_pipe() && self.to.link.state.takes_piped();
        if self.from.link.state.is_broken() && self.from.link.state.is_open() && !can_forward {
            self.from().close(false);
        }
    }

    /// Moves the input of `from` to `to`, as long as all of it is taken.
    fn forward(&mut self, scratch: &mut [u8]) {
        let mut moved = 0;
        while self.from.link.state.feeds_pipe() && self.to.link.state.takes_piped() {
            if moved >= WRITE_BUDGET {
                return self.cx.lists.mark_ready(&mut self.from.link.state);
            }
            let spliced = match pipe_end(&self.from.link) {
                // The kernel does not move data behind a mark of urgent data.
                Some(pipe_end) if pipe_end.bulk && !self.from.link.state.is_doubtful() => {
                    self.splice()
                }
                Some(_) => None,
                None => return,
            };
            moved += match spliced {
                Some(n) => n,
                None => self.copy(scratch),
            };
        }
    }

    /// Reads once into the scratch buffer, and writes once out of it.
    fn copy(&mut self, scratch: &mut [u8]) -> usize {
        let Link { stream, state, .. } = &mut self.from.link;
        let received = stream.recv(scratch, &mut self.cx.buffers.tls_scratch);
        if stream.has_tail() {
            // Reading may have made output: an answer of the TLS layer.
            state.set_tail(true);
            self.cx.lists.mark_dirty(state);
        }
        let n = match received {
            Ok(Received { n, drained }) if n > 0 => {
                on_received(&mut self.from.link, self.cx, n, drained);
                set_bulk(&mut self.from.link, n >= SPLICE_MIN);
                n
            }
            received => {
                self.on_no_input(received.map(|_| ()));
                return 0;
            }
        };
        let Link { stream, state, .. } = &mut self.to.link;
        let sent = stream.send(&scratch[..n], &mut self.cx.buffers.tls_scratch);
        state.set_tail(stream.has_tail());
        let taken = *sent.as_ref().unwrap_or(&0);
        state
            .out
            .enqueue_seen(&scratch[taken..n], &mut self.cx.buffers.pool);
        self.after_send(sent);
        n
    }

    /// Moves bytes through a kernel pipe. Returns `None` if they have to be copied.
    fn splice(&mut self) -> Option<usize> {
        let pipe = match self.cx.pipes.take() {
            Ok(pipe) => pipe?,
            Err(error) => {
                log::debug!(target: "epicycle::conn", "{}: no kernel pipe: {error}", self.from.link.state.name());
                never_splice(&mut self.from.link);
                return None;
            }
        };
        let n = match pipe.fill(&self.from.link.stream, SPLICE) {
            Ok(n) if n > 0 => n,
            nothing => {
                self.cx.pipes.put_back(pipe);
                return match nothing {
                    Err(error) if !transfer::is_unsupported(&error) => {
                        self.on_no_input(Err(error.into()));
                        Some(0)
                    }
                    // At the end of the stream a read has to decide, because it may be a mark of urgent data that no
                    // event has reported yet.
                    _ => {
                        never_splice(&mut self.from.link);
                        None
                    }
                };
            }
        };
        on_received(&mut self.from.link, self.cx, n, false);
        set_bulk(&mut self.from.link, n >= SPLICE_MIN);
        let sent = pipe
            .drain(&self.to.link.stream, n)
            .map_err(StreamError::from);
        let taken = *sent.as_ref().unwrap_or(&0);
        if taken == n {
            self.cx.pipes.put_back(pipe);
        } else {
            self.to.link.state.out.enqueue_piped(pipe, n - taken);
        }
        self.after_send(sent);
        Some(n)
    }

    /// Records the bytes that were taken. The rest becomes backlog, and an event reports when the kernel has room.
    fn after_send(&mut self, sent: Result<usize, StreamError>) {
        if let Err(error) = self.to().on_sent(sent) {
            self.to().on_broken(error);
        } else if self.to.link.state.has_output() {
            self.to().flush_backlog();
        }
    }

    /// Handles a read that returned the end of the stream, nothing, or an error.
    fn on_no_input(&mut self, received: Result<(), StreamError>) {
        let interrupted = matches!(received, Err(StreamError::Interrupted));
        if self.from.link.state.is_broken() && !interrupted {
            // All earlier input has been forwarded.
            return self.from().close(false);
        }
        match received {
            Ok(()) => {
                self.from.link.state.on_peer_eof();
                self.to.link.state.shut_write();
                // FIN follows the remaining output. No other event may follow.
                self.cx.lists.mark_dirty(&mut self.to.link.state);
                self.cx.lists.mark_dirty(&mut self.from.link.state);
            }
            Err(StreamError::WouldBlock) => {
                self.from.link.state.on_read_would_block();
            }
            Err(StreamError::Interrupted) => {}
            Err(error) => {
                // The peer of the other end must not take a truncated stream for a whole one.
                self.cx.unpipe(&mut self.from.link, true);
                self.from().on_no_input(Err(error));
            }
        }
    }
}

fn on_received<H: EventHandler>(link: &mut Link, cx: &Context<H>, n: usize, drained: bool) {
    link.state.on_read(n, drained, cx.time.now());
    cx.metrics.bytes_in.add(n as u64);
}

fn set_bulk(link: &mut Link, bulk: bool) {
    let extras = link.extras.as_mut();
    if let Some(pipe_end) = extras.and_then(|extras| extras.pipe_end.as_mut()) {
        pipe_end.bulk = bulk && pipe_end.splices;
    }
}

fn never_splice(link: &mut Link) {
    let extras = link.extras.as_mut();
    if let Some(pipe_end) = extras.and_then(|extras| extras.pipe_end.as_mut()) {
        pipe_end.splices = false;
        pipe_end.bulk = false;
    }
}
