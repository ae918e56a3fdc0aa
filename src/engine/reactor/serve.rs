//! One connection's share of a turn: its backlog is offered, input is received and decoded, and the handler is
//! called.

use std::io;

use crate::buf::queue::FLUSH_AT;
use crate::codec::look::look;
use crate::codec::{Codec, Decoded, FrameError};
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::{Budgets, NEVER};
use crate::engine::handler::closing::keep_refused;
use crate::engine::handler::context::{Link, Served};
use crate::engine::handler::converse::{awaits_rest, is_awaited, owes_answer, pending_frame_len};
use crate::engine::handler::{Action, EventHandler};
use crate::engine::pipes::PipeTask;
use crate::engine::stream::Received;
use crate::error::StreamError;

/// The number of bytes as which a shorter read counts. A peer can send records of one byte, each of which takes a read.
const READ_COST: usize = 1 << 10;

/// The most that a connection may receive and handle before other connections are served.
pub(super) struct Budget {
    bytes: usize,
    frames: usize,
}

impl Budget {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self {
            bytes: budgets.bytes,
            frames: budgets.frames,
        }
    }

    /// Counts received bytes, or as much other work.
    #[inline]
    pub(super) fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Counts a read that has returned `received` bytes.
    fn spend_read(&mut self, received: usize) {
        self.spend(received.max(READ_COST));
    }

    /// Counts handled frames.
    pub(super) fn spend_frames(&mut self, frames: usize) {
        self.frames = self.frames.saturating_sub(frames);
    }

    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }
}

impl<H: EventHandler> Served<'_, H> {
    /// Serves a connection within its budgets. The rest is served in the next turn.
    #[inline(always)]
    pub(super) fn serve(&mut self, scratch: &mut [u8]) {
        let mut budget = Budget::new(self.cx.budgets);
        if self.slot.link.state.is_ordinary() {
            let received = self.receive::<true>(scratch, 0, &mut budget);
            if self.slot.link.state.has_nothing_pending() {
                return;
            }
            budget.spend(received);
        }
        // A connection on the ready list is served from there.
        if !self.slot.link.state.is_queued() && !self.slot.link.state.has_nothing_to_do() {
            self.serve_fully(scratch, budget);
        }
    }

    /// Serves a connection in any condition.
    #[inline(never)]
    pub(super) fn serve_fully(&mut self, scratch: &mut [u8], mut budget: Budget) {
        if self.slot.link.state.is_ordinary_unix() {
            let received = self.receive::<false>(scratch, 0, &mut budget);
            if self.slot.link.state.has_nothing_pending() {
                return;
            }
            budget.spend_read(received);
        }
        if self.slot.link.state.is_opening() {
            return self.continue_opening();
        }
        if self.slot.link.state.is_piped() && self.slot.link.state.is_open() {
            return self
                .cx
                .pipes
                .tasks
                .push_back(PipeTask::Move(self.slot.link.state.id));
        }
        if self.slot.link.state.can_send_backlog() {
            self.flush();
        }
        if self.slot.link.state.take_drain_due()
            && let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections)
        {
            let action = self.handler.on_drain(&mut conn, session);
            self.apply_action(action, CloseReason::Local);
        }
        let state = &self.slot.link.state;
        if !budget.is_spent() && state.inbox.is_ready() && state.wants_frames() {
            self.decode_inbox(&mut budget, false);
        }
        while self.slot.link.state.is_readable() && !budget.is_spent() {
            let received = if self.slot.link.state.wants_frames() {
                // Frames that were beyond the budget come before more input.
                if self.slot.link.state.inbox.is_ready() {
                    break;
                }
                let inbox = &mut self.slot.link.state.inbox;
                match inbox.move_to(scratch, &mut self.cx.buffers.pool) {
                    Some(kept) => self.receive::<false>(scratch, kept, &mut budget),
                    None => self.receive_rest(&mut budget),
                }
            } else if self.slot.link.state.discards_input() {
                self.discard(scratch)
            } else {
                break;
            };
            budget.spend_read(received);
        }
        if self.slot.link.state.is_broken()
            && self.slot.link.state.is_open()
            && !self.slot.link.state.keeps_input_when_broken()
        {
            // The remaining input waits for something to be sent, which can no longer happen.
            return self.close(false);
        }
        let Link { stream, state, .. } = &mut self.slot.link;
        if stream.has_tail() {
            // Reading may have made output: an answer of the TLS layer.
            state.set_tail(true);
            self.cx.lists.mark_dirty(state);
        }
        let wants_frames = state.wants_frames();
        let has_work = (state.is_readable() && (wants_frames || state.discards_input()))
            || (wants_frames && state.inbox.is_ready());
        if has_work {
            self.cx.lists.mark_ready(state);
        }
        if H::HANDLES_FIN {
            self.tell_fin();
        }
    }

    /// Tells the handler once that the peer's FIN has arrived.
    fn tell_fin(&mut self) {
        if self.slot.link.state.is_open()
            && self.slot.link.state.has_untold_fin()
            && let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections)
        {
            let action = self.handler.on_fin(&mut conn, session);
            self.slot.link.state.on_fin_told();
            self.apply_action(action, CloseReason::Peer);
        }
    }

    /// Reads once behind the `kept` bytes in `scratch`, and handles the frames. Returns the number of bytes received.
    ///
    /// The first read of a turn is `HOT`: decoding and `react` are inlined into it.
    #[inline(always)]
    fn receive<const HOT: bool>(
        &mut self,
        scratch: &mut [u8],
        kept: usize,
        budget: &mut Budget,
    ) -> usize {
        let stream = &mut self.slot.link.stream;
        let Received { n, drained } = if HOT {
            // The ordinary case is plain TCP. An early return keeps the other streams out of this path.
            let Some(socket) = stream.as_plain() else {
                return 0;
            };
            match socket.receive_from_tcp(&mut scratch[kept..]) {
                Ok(received) if received.n > 0 => received,
                received => {
                    // Converted here, since the larger error type would cost each successful read 8 instructions.
                    let received = received.map_err(StreamError::from);
                    self.on_nothing_received(&scratch[..kept], received);
                    return 0;
                }
            }
        } else {
            match stream.recv(&mut scratch[kept..], &mut self.cx.buffers.tls_scratch) {
                Ok(received) if received.n > 0 => received,
                received => {
                    self.on_nothing_received(&scratch[..kept], received);
                    return 0;
                }
            }
        };
        let active_at = self.slot.link.state.active_at();
        self.slot.link.state.on_read(n, drained, self.cx.time.now());
        self.cx.metrics.bytes_in.add(n as u64);
        let input = &mut scratch[..kept + n];
        let pass = if HOT {
            self.decode(input, budget, 0, false)
        } else {
            self.decode_again(input, budget, 0, false)
        };
        if pass.skipped_all {
            self.slot.link.state.on_skipped(active_at);
        }
        if pass.consumed < input.len() {
            let leftover = &input[pass.consumed..];
            self.keep_leftover(leftover, pass.need, pass.in_vain, pass.advanced);
        } else if kept > 0 || H::Codec::CONVERSES {
            self.on_all_consumed();
        }
        n
    }

    /// Keeps the input that was `kept` for this read, and handles the end of the stream or an error.
    #[inline(never)]
    fn on_nothing_received(&mut self, kept: &[u8], received: Result<Received, StreamError>) {
        if !kept.is_empty() {
            let inbox = &mut self.slot.link.state.inbox;
            inbox.keep(kept, &mut self.cx.buffers.pool);
            inbox.set_need(kept.len() + 1, 0);
        }
        self.on_no_input(received);
    }

    /// Receives the rest of a long frame straight behind its beginning.
    fn receive_rest(&mut self, budget: &mut Budget) -> usize {
        let Link { stream, state, .. } = &mut self.slot.link;
        let spare = state.inbox.spare_mut(&mut self.cx.buffers.pool);
        match stream.recv(spare, &mut self.cx.buffers.tls_scratch) {
            Ok(Received { n, drained }) if n > 0 => {
                let active_at = state.active_at();
                state.inbox.received(n);
                state.on_read(n, drained, self.cx.time.now());
                self.cx.metrics.bytes_in.add(n as u64);
                if state.inbox.is_ready() {
                    let pass = self.decode_inbox(budget, false);
                    if pass.skipped_all {
                        self.slot.link.state.on_skipped(active_at);
                    }
                }
                n
            }
            received => {
                self.on_no_input(received);
                0
            }
        }
    }

    /// Reads and drops input: the connection is closing, and unread input would make the kernel send RST.
    fn discard(&mut self, scratch: &mut [u8]) -> usize {
        match self
            .slot
            .link
            .stream
            .recv(scratch, &mut self.cx.buffers.tls_scratch)
        {
            Ok(Received { n, drained }) if n > 0 => {
                self.slot.link.state.on_read(n, drained, self.cx.time.now());
                self.cx.metrics.bytes_in.add(n as u64);
                n
            }
            received => {
                self.on_no_input(received);
                0
            }
        }
    }

    /// Handles a read that returned the end of the stream, nothing, or an error.
    #[inline(never)]
    pub(super) fn on_no_input(&mut self, received: Result<Received, StreamError>) {
        let interrupted = matches!(received, Err(StreamError::Interrupted));
        if self.slot.link.state.is_broken() && !interrupted {
            // All earlier input has been read.
            return self.close(false);
        }
        match received {
            Ok(_) => match self.slot.link.take_send_error() {
                // The kernel has reported the reset to the write, and so not to this read.
                Some(error) => self.fail(error.into()),
                None => self.on_peer_eof(),
            },
            Err(StreamError::WouldBlock) => {
                self.slot.link.state.on_read_would_block();
            }
            Err(StreamError::Interrupted) => {}
            Err(StreamError::Truncated) => self.on_truncation(),
            Err(StreamError::Tls(error)) => self.on_tls_violation(error),
            Err(error) => self.fail(error),
        }
    }

    /// Handles a stream that ended without close_notify. The remaining output is still sent.
    #[cold]
    fn on_truncation(&mut self) {
        self.slot.link.state.on_peer_eof();
        self.slot.link.state.on_input_consumed();
        self.begin_close(CloseReason::Truncated);
        self.mark_dirty();
    }

    /// Handles a violation of the TLS protocol. Only the alert is still sent.
    #[cold]
    fn on_tls_violation(&mut self, error: io::Error) {
        self.begin_close(CloseReason::Tls(error));
        self.mark_dirty();
    }

    fn on_peer_eof(&mut self) {
        self.slot.link.state.on_peer_eof();
        if H::HANDLES_FIN {
            self.slot.link.state.on_fin();
            self.tell_fin();
        }
        let state = &self.slot.link.state;
        // The end of the stream may be the end of a message that is handed out in parts.
        let has_rest = !state.inbox.is_empty() || awaits_rest(&self.slot.codec);
        if has_rest && state.wants_frames() {
            let mut budget = Budget::new(self.cx.budgets);
            self.decode_inbox(&mut budget, true);
        }
        let has_rest = !self.slot.link.state.inbox.is_empty() || awaits_rest(&self.slot.codec);
        let state = &mut self.slot.link.state;
        if has_rest && state.is_open() && state.reads_later() {
            // The rest is handled when the handler reads on, or the output has room.
            state.recheck_end();
        }
        if state.is_open() && !state.saw_peer_eof() {
            // The end is to be found again: by the codec that the handler has switched to, or after the pause.
            return;
        }
        // An incomplete frame will stay so. Nothing more is awaited.
        self.slot.link.state.on_input_consumed();
        if owes_answer(&self.slot.link.state, &self.slot.codec) {
            return;
        }
        if self.slot.link.state.is_leaving() {
            // The end belongs to the new owner of the socket, or to the connection that it is piped to.
            return self.mark_dirty();
        }
        self.slot.link.state.on_end_told();
        if self.slot.link.state.is_open()
            && let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections)
        {
            let action = self.handler.on_peer_shutdown(&mut conn, session);
            let closes = matches!(action, Action::Close);
            if closes && self.slot.link.state.is_finished() {
                return self.close_finished(CloseReason::Peer);
            }
            self.apply_action(action, CloseReason::Peer);
            if H::Codec::CONVERSES && closes {
                // The peer gets the answers to its earlier requests, as it would get an owed answer.
                self.slot.link.state.drain_by_progress();
            }
            self.close_if_drained();
        }
        // A closing connection has waited for this.
        self.mark_dirty();
    }

    /// Closes a draining connection on which nobody waits for an answer any more.
    pub(super) fn close_if_drained(&mut self) {
        if self.slot.link.state.is_draining()
            && !is_awaited(&self.slot.link.state, &self.slot.codec)
        {
            self.begin_close(self.cx.drain_reason());
        }
    }

    /// Handles an event that reported a broken connection. A read returns the error behind all earlier input, unless
    /// input is not wanted now.
    #[cold]
    pub(super) fn on_error(&mut self) {
        let state = &mut self.slot.link.state;
        state.on_event(true, false, false);
        if state.is_open()
            && (state.saw_peer_eof() || !state.wants_frames())
            && let Some(error) = self.slot.link.stream.take_error()
        {
            self.on_broken(error.into());
        }
    }

    /// Decodes the leftover of an earlier turn or a long frame that has become complete. At the end of the stream it
    /// decodes all that is left.
    fn decode_inbox(&mut self, budget: &mut Budget, last: bool) -> Pass {
        let in_vain = self.slot.link.state.inbox.in_vain();
        let mut ring = self.slot.link.state.inbox.take();
        self.cx.decoding.taken = ring.capacity();
        let input = ring.make_contiguous();
        let pass = self.decode_again(input, budget, in_vain, last);
        ring.consume(pass.consumed);
        if !self.slot.link.state.is_open() {
            ring.consume(ring.len());
        }
        self.cx.decoding.taken = 0;
        let all = ring.is_empty();
        let inbox = &mut self.slot.link.state.inbox;
        inbox.put_back(ring, &mut self.cx.buffers.pool);
        inbox.set_need(pass.need, pass.in_vain);
        if all {
            self.on_all_consumed();
        } else {
            self.after_leftover(pass.need, pass.advanced);
        }
        pass
    }
}

/// The result of one decode step.
enum DecodeStep {
    /// A frame, which the handler has handled.
    Frame {
        taken: usize,
        action: Action,
    },
    Skipped {
        taken: usize,
    },
    Held,
    Partial {
        at_least: usize,
    },
    Malformed(FrameError),
}

/// The result of decoding some input.
struct Pass {
    /// The number of bytes consumed.
    consumed: usize,
    /// The length that the rest must reach before it is decoded again. 0 if it may hold complete frames that the
    /// handler does not want now.
    need: usize,
    /// The number of frames, up to the last one, that consumed nothing in a row.
    in_vain: u32,
    /// True if a frame or a part of a message was consumed, so that the leftover begins behind it.
    advanced: bool,
    /// True if all consumed input was skipped and belongs to no message.
    skipped_all: bool,
}

impl<H: EventHandler> Served<'_, H> {
    /// Delivers the frames in `input` to the handler, within the budget. The caller has checked that frames are
    /// wanted.
    ///
    /// `in_vain` is the number of frames before them that consumed nothing. With `last`, no more input will arrive.
    #[inline(always)]
    fn decode(
        &mut self,
        input: &mut [u8],
        budget: &mut Budget,
        mut in_vain: u32,
        last: bool,
    ) -> Pass {
        let mut handled = 0;
        let mut skipped = false;
        let mut consumed = 0;
        self.cx.decoding.of = Some(self.slot.link.state.id);
        let need = loop {
            // The frame borrows the input until the callback has returned.
            let rest = &mut input[consumed..];
            let found = match look(&mut self.slot.codec, rest, last, &mut in_vain) {
                Ok(Decoded::Frame {
                    frame,
                    consumed: taken,
                }) => {
                    let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections)
                    else {
                        break 0;
                    };
                    let action = self.handler.react(&mut conn, session, frame);
                    DecodeStep::Frame { taken, action }
                }
                Ok(Decoded::Skip { consumed: taken }) => DecodeStep::Skipped { taken },
                Ok(Decoded::Hold) => DecodeStep::Held,
                Ok(Decoded::NeedMore { at_least }) => DecodeStep::Partial { at_least },
                Err(error) => DecodeStep::Malformed(error),
            };
            match found {
                DecodeStep::Frame { taken, action } => {
                    consumed += taken;
                    handled += 1;
                    budget.frames -= 1;
                    let usual = matches!(action, Action::Continue)
                        && self.slot.link.state.is_undisturbed()
                        && self.slot.link.state.out.len() < FLUSH_AT;
                    if !usual {
                        let goes_on = self.after_callback(action);
                        consumed +=
                            self.after_last_frame(taken, &mut input[consumed..], &mut in_vain);
                        // A codec that was switched to at the end of the stream looks for whole frames first.
                        let begins_anew = last && !self.slot.link.state.saw_peer_eof();
                        if !goes_on || begins_anew {
                            break 0;
                        }
                    }
                }
                // It is not a frame for the handler, but it costs work.
                DecodeStep::Skipped { taken } => {
                    consumed += taken;
                    skipped = true;
                    budget.frames -= 1;
                }
                DecodeStep::Held => {
                    self.slot.link.state.hold();
                    break 0;
                }
                DecodeStep::Partial { at_least } => {
                    // The codec needs more than it has, even if it asks for less.
                    let need = at_least.max(input.len() - consumed + 1);
                    let max = self.cx.limits_of(&self.slot.link.state).max_frame;
                    if need <= max {
                        break need;
                    }
                    let len = need as u64;
                    self.refuse_frame(FrameError::TooLong { len, max }, &input[consumed..]);
                    break 0;
                }
                DecodeStep::Malformed(error) => {
                    self.refuse_frame(error, &input[consumed..]);
                    break 0;
                }
            }
            budget.spend(self.slot.codec.take_cost());
            // Two conditions rather than one. With a codec that takes all input, the compiler then sees that there is
            // no loop, which saves 30 instructions a message.
            if consumed >= input.len() {
                break 0;
            }
            if budget.is_spent() {
                break 0;
            }
        };
        self.cx.decoding.of = None;
        if handled > 0 {
            self.slot.link.state.on_frames();
            self.cx.metrics.frames.add(handled);
        }
        let advanced = handled > 0 || (skipped && awaits_rest(&self.slot.codec));
        if H::Codec::CONVERSES && self.slot.session.is_some() {
            self.conn().after_decoding(handled > 0);
        }
        Pass {
            consumed,
            need,
            in_vain,
            advanced: consumed > 0 && advanced,
            skipped_all: skipped && !advanced,
        }
    }

    /// Decodes out of line, for all but the first read of a turn.
    #[inline(never)]
    fn decode_again(
        &mut self,
        input: &mut [u8],
        budget: &mut Budget,
        in_vain: u32,
        last: bool,
    ) -> Pass {
        self.decode(input, budget, in_vain, last)
    }

    /// Flushes and applies the action after a callback that did more than write a little. Returns true if the next
    /// frame is wanted.
    #[inline(never)]
    fn after_callback(&mut self, action: Action) -> bool {
        if self.slot.link.state.should_be_flushed() {
            self.flush();
        }
        self.apply_action(action, CloseReason::Local);
        self.slot.link.state.wants_frames()
    }

    /// Returns the number of further bytes that belong to the frame in hand, if the connection leaves its codec now: the
    /// handler has switched to another one, or takes the socket. The rest of the input goes to the new owner.
    #[inline(never)]
    pub(super) fn after_last_frame(
        &mut self,
        taken: usize,
        rest: &mut [u8],
        in_vain: &mut u32,
    ) -> usize {
        let old = self.cx.decoding.replaced.take();
        if old.is_some() {
            *in_vain = 0;
        }
        match old {
            _ if taken > 0 => 0,
            Some(mut old) => pending_frame_len(&mut old, rest),
            None if H::Codec::CONVERSES && self.slot.link.state.is_leaving() => {
                pending_frame_len(&mut self.slot.codec, rest)
            }
            None => 0,
        }
    }

    #[cold]
    fn refuse_frame(&mut self, error: FrameError, input: &[u8]) {
        let level = level_of(&error);
        log::log!(target: "epicycle::conn", level, "{}: {error}", self.slot.link.state.name());
        self.begin_close(CloseReason::Frame(error));
        keep_refused(&mut self.slot.link, input);
    }
}

/// Returns the log level of an error. Bad input of peers is normal, a faulty codec is not.
pub(super) fn level_of(error: &FrameError) -> log::Level {
    match error {
        FrameError::Codec { .. } => log::Level::Error,
        _ => log::Level::Debug,
    }
}

impl<H: EventHandler> Served<'_, H> {
    /// Keeps the undecoded rest, unless the connection is closing.
    #[inline(never)]
    fn keep_leftover(&mut self, leftover: &[u8], need: usize, in_vain: u32, fresh: bool) {
        if self.slot.link.state.is_open() {
            let inbox = &mut self.slot.link.state.inbox;
            inbox.keep(leftover, &mut self.cx.buffers.pool);
            inbox.set_need(need, in_vain);
            self.after_leftover(need, fresh);
        }
    }

    /// Records that nothing is left over. If a conversing codec delivers a message in parts, the next part may be
    /// awaited.
    #[inline]
    fn on_all_consumed(&mut self) {
        if awaits_rest(&self.slot.codec) && self.slot.link.state.is_open() {
            self.after_leftover(1, true);
        } else {
            self.slot.link.state.on_input_consumed();
        }
    }

    /// Records a leftover. If it is an incomplete frame, the read timeout runs.
    fn after_leftover(&mut self, need: usize, fresh: bool) {
        if need == 0 {
            return self.slot.link.state.on_input_consumed();
        }
        if self.cx.limits_of(&self.slot.link.state).read != NEVER {
            self.slot
                .link
                .state
                .on_partial(fresh, self.cx.time.moment());
            self.set_alarm();
        }
    }

    pub(super) fn fire_timer(&mut self, token: u64) {
        if self.slot.link.state.is_open()
            && let Some((mut conn, session)) = self.slot.lend(self.cx, self.connections)
        {
            let action = self.handler.on_timer(&mut conn, session, token);
            self.apply_action(action, CloseReason::Local);
            self.flush_much();
        }
    }

    /// Applies the action that a callback returned.
    pub(crate) fn apply_action(&mut self, action: Action, reason: CloseReason) {
        match action {
            Action::Continue => {}
            Action::Close => self.begin_close(reason),
            Action::Refused(error) => self.conn().close_refused(*error),
            Action::Shutdown => self.cx.engine.shutdown(),
        }
    }
}
