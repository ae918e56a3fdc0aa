//! One connection's share of a turn: offer its backlog, receive, decode, call the handler.

use std::io;

use super::{flush, opening};
use crate::buf::queue::FLUSH_AT;
use crate::codec::look::look;
use crate::codec::{Codec, Decoded, FrameError};
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::{Limits, NEVER};
use crate::engine::handler::context::{Context, Link, Slot};
use crate::engine::handler::converse::{
    awaits_rest, give_up, is_awaited, keep_refused, owes_answer, shown,
};
use crate::engine::handler::{Action, Conn, EventHandler};
use crate::engine::pipes::Due;
use crate::engine::stream::Received;

/// What a connection may receive and have handled before the others have their turn.
pub(super) struct Budget {
    bytes: usize,
    frames: usize,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            bytes: limits.read_budget,
            frames: limits.frame_budget,
        }
    }

    /// So many bytes were received, or as much work was done.
    #[inline]
    pub(super) fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// So many frames were handled.
    pub(super) fn spend_frames(&mut self, frames: usize) {
        self.frames = self.frames.saturating_sub(frames);
    }

    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }
}

/// Serves a connection within its budgets; what is left over has it served again next turn.
#[inline(always)]
pub(super) fn serve<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    scratch: &mut [u8],
) {
    let mut budget = Budget::new(&cx.limits);
    if slot.link.state.is_ordinary() {
        let received = receive::<H, true>(handler, slot, cx, scratch, 0, &mut budget);
        if slot.link.state.is_settled() {
            return;
        }
        budget.spend(received);
    }
    // One that waits on the ready list has its turn there.
    if !slot.link.state.is_queued() && !slot.link.state.has_nothing_to_do() {
        serve_fully(handler, slot, cx, scratch, budget);
    }
}

/// The same for a connection in any condition.
#[inline(never)]
pub(super) fn serve_fully<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    scratch: &mut [u8],
    mut budget: Budget,
) {
    if slot.link.state.is_ordinary_unix() {
        let received = receive::<H, false>(handler, slot, cx, scratch, 0, &mut budget);
        if slot.link.state.is_settled() {
            return;
        }
        budget.spend(received);
    }
    if slot.link.state.is_opening() {
        return opening::advance(handler, slot, cx);
    }
    if slot.link.state.is_piped() && slot.link.state.is_open() {
        return cx.pipes.due.push_back(Due::Move(slot.link.state.id));
    }
    if slot.link.state.can_send_backlog() {
        flush::flush(handler, slot, cx);
    }
    if slot.link.state.take_drain_due()
        && let Some((mut conn, session)) = slot.lend(cx)
    {
        let action = handler.on_drain(&mut conn, session);
        carry_out(action, slot, cx, CloseReason::Local);
    }
    let state = &slot.link.state;
    if !budget.is_spent() && state.inbox.is_ready() && state.wants_frames() {
        decode_inbox(handler, slot, cx, &mut budget, false);
    }
    while slot.link.state.is_readable() && !budget.is_spent() {
        let received = if slot.link.state.wants_frames() {
            // Frames beyond the budget come before more input.
            if slot.link.state.inbox.is_ready() {
                break;
            }
            let inbox = &mut slot.link.state.inbox;
            match inbox.move_to(scratch, &mut cx.buffers) {
                Some(kept) => receive::<H, false>(handler, slot, cx, scratch, kept, &mut budget),
                None => receive_rest(handler, slot, cx, &mut budget),
            }
        } else if slot.link.state.discards_input() {
            discard(handler, slot, cx, scratch)
        } else {
            break;
        };
        budget.spend(received);
    }
    if slot.link.state.is_broken() && slot.link.state.is_open() && !slot.link.state.outlives_break()
    {
        // What is left waits for something to be sent.
        return flush::close(handler, slot, cx, false);
    }
    let Link { stream, state, .. } = &mut slot.link;
    if stream.has_tail() {
        // Reading has made output of its own: an answer of the TLS layer.
        state.set_tail(true);
        cx.mark_dirty(state);
    }
    let wants_frames = state.wants_frames();
    let has_work = (state.is_readable() && (wants_frames || state.discards_input()))
        || (wants_frames && state.inbox.is_ready());
    if has_work {
        cx.mark_ready(state);
    }
}

/// One read behind the `kept` bytes in `scratch`, and the frames in it; says how many bytes came.
///
/// The first read of a turn is `HOT`: decoding and `react` are inlined into it.
#[inline(always)]
fn receive<H: EventHandler, const HOT: bool>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    scratch: &mut [u8],
    kept: usize,
    budget: &mut Budget,
) -> usize {
    let stream = &mut slot.link.stream;
    let received = if HOT {
        // What is ordinary is plain TCP; an early return keeps the other streams out of this path.
        let Some(socket) = stream.as_plain() else {
            return 0;
        };
        socket.receive_from_tcp(&mut scratch[kept..])
    } else {
        stream.recv(&mut scratch[kept..], &mut cx.records)
    };
    let Received { n, drained } = match received {
        Ok(received) if received.n > 0 => received,
        received => {
            if kept > 0 {
                let inbox = &mut slot.link.state.inbox;
                inbox.keep(&scratch[..kept], &mut cx.buffers);
                inbox.set_need(kept + 1, 0);
            }
            on_no_input(handler, slot, cx, received);
            return 0;
        }
    };
    let active_at = slot.link.state.active_at();
    slot.link.state.on_read(n, drained, cx.now);
    cx.metrics.bytes_in.add(n as u64);
    let input = &mut scratch[..kept + n];
    let pass = if HOT {
        decode(handler, slot, cx, input, budget, 0, false)
    } else {
        decode_again(handler, slot, cx, input, budget, 0, false)
    };
    if pass.skipped_all {
        slot.link.state.on_skipped(active_at);
    }
    if pass.consumed < input.len() {
        let leftover = &input[pass.consumed..];
        keep_leftover(slot, cx, leftover, pass.need, pass.in_vain, pass.advanced);
    } else if kept > 0 || H::Codec::CONVERSES {
        on_all_consumed(slot, cx);
    }
    n
}

/// The same for a long frame, whose rest is received straight behind its beginning.
fn receive_rest<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    budget: &mut Budget,
) -> usize {
    let Link { stream, state, .. } = &mut slot.link;
    let spare = state.inbox.spare_mut(&mut cx.buffers);
    match stream.recv(spare, &mut cx.records) {
        Ok(Received { n, drained }) if n > 0 => {
            let active_at = state.active_at();
            state.inbox.received(n);
            state.on_read(n, drained, cx.now);
            cx.metrics.bytes_in.add(n as u64);
            if state.inbox.is_ready() {
                let pass = decode_inbox(handler, slot, cx, budget, false);
                if pass.skipped_all {
                    slot.link.state.on_skipped(active_at);
                }
            }
            n
        }
        received => {
            on_no_input(handler, slot, cx, received);
            0
        }
    }
}

/// Reads to drop: the connection is closing, and unread input would make the kernel answer with RST.
fn discard<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    scratch: &mut [u8],
) -> usize {
    match slot.link.stream.recv(scratch, &mut cx.records) {
        Ok(Received { n, drained }) if n > 0 => {
            slot.link.state.on_read(n, drained, cx.now);
            cx.metrics.bytes_in.add(n as u64);
            n
        }
        received => {
            on_no_input(handler, slot, cx, received);
            0
        }
    }
}

/// A read brought the end of the stream, nothing, or an error.
#[inline(never)]
pub(super) fn on_no_input<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    received: io::Result<Received>,
) {
    let interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
    if slot.link.state.is_broken() && !received.as_ref().is_err_and(interrupted) {
        // All that had arrived is read.
        return flush::close(handler, slot, cx, false);
    }
    match received {
        Ok(_) => on_peer_eof(handler, slot, cx),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            slot.link.state.on_read_would_block();
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => on_truncation(slot, cx),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => on_breach(slot, cx, error),
        Err(error) => flush::fail(handler, slot, cx, error),
    }
}

/// The stream ended where TLS does not allow it: what was written is still sent.
#[cold]
fn on_truncation<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>) {
    slot.link.state.on_peer_eof();
    slot.link.state.on_input_consumed();
    cx.begin_close(&mut slot.link, &mut slot.codec, CloseReason::Truncated);
    cx.mark_dirty(&mut slot.link.state);
}

/// The peer broke the TLS protocol: all it gets now is the alert.
#[cold]
fn on_breach<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>, error: io::Error) {
    cx.begin_close(&mut slot.link, &mut slot.codec, CloseReason::Tls(error));
    cx.mark_dirty(&mut slot.link.state);
}

fn on_peer_eof<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    slot.link.state.on_peer_eof();
    let state = &slot.link.state;
    if !state.inbox.is_empty() && state.wants_frames() {
        let mut budget = Budget::new(&cx.limits);
        decode_inbox(handler, slot, cx, &mut budget, true);
    }
    // A frame that is incomplete now will stay so: nothing is awaited.
    slot.link.state.on_input_consumed();
    if owes_answer(&slot.link.state, &slot.codec) {
        return;
    }
    if slot.link.state.is_open()
        && let Some((mut conn, session)) = slot.lend(cx)
    {
        let action = handler.on_peer_shutdown(&mut conn, session);
        let closes = matches!(action, Action::Close);
        if closes && slot.link.state.is_finished() {
            return flush::close_finished(handler, slot, cx, CloseReason::Peer);
        }
        carry_out(action, slot, cx, CloseReason::Peer);
        if H::Codec::CONVERSES && closes {
            // What it has asked for by then it gets, as an answer that was owed.
            slot.link.state.take_time();
        }
        if slot.link.state.is_retiring() && !is_awaited(&slot.link.state, &slot.codec) {
            cx.begin_close(&mut slot.link, &mut slot.codec, cx.retirement());
        }
    }
    // One that was closing has waited for this.
    cx.mark_dirty(&mut slot.link.state);
}

/// The event said that the connection is broken. A read shows it behind all that has arrived, unless input is not
/// wanted now.
#[cold]
pub(super) fn on_error<H: EventHandler>(handler: &mut H, slot: &mut Slot<H>, cx: &mut Context<H>) {
    let state = &mut slot.link.state;
    state.on_event(true, false, false);
    if state.is_open()
        && (state.saw_peer_eof() || !state.wants_frames())
        && let Some(error) = slot.link.stream.take_error()
    {
        flush::break_off(handler, slot, cx, error);
    }
}

/// Decodes what an earlier turn left over, a long frame that has become complete, or, at the end of the
/// stream, whatever there is.
fn decode_inbox<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    budget: &mut Budget,
    last: bool,
) -> Pass {
    let in_vain = slot.link.state.inbox.in_vain();
    let mut ring = slot.link.state.inbox.take();
    cx.decoding.taken = ring.capacity();
    let input = ring.make_contiguous();
    let pass = decode_again(handler, slot, cx, input, budget, in_vain, last);
    ring.consume(pass.consumed);
    if !slot.link.state.is_open() {
        ring.consume(ring.len());
    }
    cx.decoding.taken = 0;
    let all = ring.is_empty();
    let inbox = &mut slot.link.state.inbox;
    inbox.put_back(ring, &mut cx.buffers);
    inbox.set_need(pass.need, pass.in_vain);
    if all {
        on_all_consumed(slot, cx);
    } else {
        after_leftover(slot, cx, pass.need, pass.advanced);
    }
    pass
}

/// What a look at the input came to.
enum Found {
    /// A frame, which the handler has had.
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

/// What decoding some input came to.
struct Pass {
    /// How many bytes were consumed.
    consumed: usize,
    /// How many the rest must grow to before it is worth another look: 0 when it may hold complete frames that the
    /// handler does not want now.
    need: usize,
    /// How many frames in a row, the last ones, have consumed nothing.
    in_vain: u32,
    /// Whether a frame was consumed, or a part of a message: what is left over has begun behind that.
    advanced: bool,
    /// Whether all that was consumed was skipped and belongs to no message.
    skipped_all: bool,
}

/// Hands the frames in `input`, which must be wanted, to the handler, within the budget.
///
/// The frames before them that consumed nothing were `in_vain`. With `last`, no more input will come.
#[inline(always)]
fn decode<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    input: &mut [u8],
    budget: &mut Budget,
    mut in_vain: u32,
    last: bool,
) -> Pass {
    let mut handled = 0;
    let mut skipped = false;
    let mut consumed = 0;
    cx.decoding.is_under_way = true;
    let need = loop {
        // The frame, which borrows the input, is gone once the callback has had it.
        let rest = &mut input[consumed..];
        let found = match look(&mut slot.codec, rest, last, &mut in_vain) {
            Ok(Decoded::Frame {
                frame,
                consumed: taken,
            }) => {
                let Some((mut conn, session)) = slot.lend(cx) else {
                    break 0;
                };
                let action = handler.react(&mut conn, session, frame);
                Found::Frame { taken, action }
            }
            Ok(Decoded::Skip { consumed: taken }) => Found::Skipped { taken },
            Ok(Decoded::Hold) => Found::Held,
            Ok(Decoded::NeedMore { at_least }) => Found::Partial { at_least },
            Err(error) => Found::Malformed(error),
        };
        match found {
            Found::Frame { taken, action } => {
                consumed += taken;
                handled += 1;
                budget.frames -= 1;
                let usual = matches!(action, Action::Continue)
                    && slot.link.state.is_undisturbed()
                    && slot.link.state.out.len() < FLUSH_AT;
                if !usual && !after_callback(handler, slot, cx, action) {
                    if H::Codec::CONVERSES && taken == 0 && slot.link.state.is_leaving() {
                        consumed += shown(&mut slot.codec, &mut input[consumed..]);
                    }
                    break 0;
                }
            }
            // It is no frame for the handler, but work all the same.
            Found::Skipped { taken } => {
                consumed += taken;
                skipped = true;
                budget.frames -= 1;
            }
            Found::Held => {
                slot.link.state.hold();
                break 0;
            }
            Found::Partial { at_least } => {
                // Whatever the codec asks for, what it has is not enough.
                let need = at_least.max(input.len() - consumed + 1);
                if need <= cx.limits.max_frame {
                    break need;
                }
                let (len, max) = (need as u64, cx.limits.max_frame);
                refuse_frame(
                    slot,
                    cx,
                    FrameError::TooLong { len, max },
                    &input[consumed..],
                );
                break 0;
            }
            Found::Malformed(error) => {
                refuse_frame(slot, cx, error, &input[consumed..]);
                break 0;
            }
        }
        budget.spend(slot.codec.take_cost());
        // Two conditions rather than one: so the compiler sees that there is no loop at all with a
        // codec that takes everything, which saves 30 instructions a message.
        if consumed >= input.len() {
            break 0;
        }
        if budget.is_spent() {
            break 0;
        }
    };
    cx.decoding.is_under_way = false;
    if handled > 0 {
        slot.link.state.on_frames();
        cx.metrics.frames.add(handled);
    }
    let advanced = handled > 0 || (skipped && awaits_rest(&slot.codec));
    if H::Codec::CONVERSES && slot.session.is_some() {
        Conn::new(&mut slot.link, &mut slot.codec, cx).after_decoding(handled > 0);
    }
    Pass {
        consumed,
        need,
        in_vain,
        advanced: consumed > 0 && advanced,
        skipped_all: skipped && !advanced,
    }
}

/// The same out of line, for all but the first read of a turn.
#[inline(never)]
fn decode_again<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    input: &mut [u8],
    budget: &mut Budget,
    in_vain: u32,
    last: bool,
) -> Pass {
    decode(handler, slot, cx, input, budget, in_vain, last)
}

/// A callback did more than write a little: flushes and carries out what is due. Says whether the next
/// frame is wanted.
#[inline(never)]
fn after_callback<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    action: Action,
) -> bool {
    if slot.link.state.should_be_flushed() {
        flush::flush(handler, slot, cx);
    }
    carry_out(action, slot, cx, CloseReason::Local);
    slot.link.state.wants_frames()
}

#[cold]
fn refuse_frame<H: EventHandler>(
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    error: FrameError,
    input: &[u8],
) {
    let level = level_of(&error);
    log::log!(target: "epicycle::conn", level, "{}: {error}", slot.link.state.name());
    cx.begin_close(&mut slot.link, &mut slot.codec, CloseReason::Frame(error));
    keep_refused(&mut slot.link, input);
}

/// How loudly an error is told: what peers send is their affair, a faulty codec is not.
pub(super) fn level_of(error: &FrameError) -> log::Level {
    match error {
        FrameError::Codec { .. } => log::Level::Error,
        _ => log::Level::Debug,
    }
}

/// Keeps what was not decoded, unless the connection is closing.
#[inline(never)]
fn keep_leftover<H: EventHandler>(
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    leftover: &[u8],
    need: usize,
    in_vain: u32,
    fresh: bool,
) {
    if slot.link.state.is_open() {
        let inbox = &mut slot.link.state.inbox;
        inbox.keep(leftover, &mut cx.buffers);
        inbox.set_need(need, in_vain);
        after_leftover(slot, cx, need, fresh);
    }
}

/// Nothing is left over. Of a message that a conversing codec hands out in parts, the next one may be awaited.
#[inline]
fn on_all_consumed<H: EventHandler>(slot: &mut Slot<H>, cx: &mut Context<H>) {
    if awaits_rest(&slot.codec) && slot.link.state.is_open() {
        after_leftover(slot, cx, 1, true);
    } else {
        slot.link.state.on_input_consumed();
    }
}

/// Something is left over. When it is an incomplete frame, its read timeout runs.
fn after_leftover<H: EventHandler>(
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    need: usize,
    fresh: bool,
) {
    if need == 0 {
        return slot.link.state.on_input_consumed();
    }
    if cx.limits.read != NEVER {
        slot.link.state.on_partial(fresh, cx.moment());
        cx.set_alarm(&mut slot.link);
    }
}

pub(super) fn fire_timer<H: EventHandler>(
    handler: &mut H,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    token: u64,
) {
    if slot.link.state.is_open()
        && let Some((mut conn, session)) = slot.lend(cx)
    {
        let action = handler.on_timer(&mut conn, session, token);
        carry_out(action, slot, cx, CloseReason::Local);
        flush::flush_much(handler, slot, cx);
    }
}

/// Does what a callback asked for.
pub(super) fn carry_out<H: EventHandler>(
    action: Action,
    slot: &mut Slot<H>,
    cx: &mut Context<H>,
    reason: CloseReason,
) {
    match action {
        Action::Continue => {}
        Action::Close => cx.begin_close(&mut slot.link, &mut slot.codec, reason),
        Action::Refused(error) => give_up(&mut slot.link, &mut slot.codec, cx, *error),
        Action::Shutdown => cx.engine.shutdown(),
    }
}
