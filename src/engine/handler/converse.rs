//! The engine's side of conversing codecs.

use std::iter;

use super::conn::Attempt;
use super::context::{Context, Link};
use super::{Conn, EventHandler};
use crate::buf::outbox::Outbox;
use crate::clock::millis;
use crate::codec::look::look;
use crate::codec::{Codec, Decoded, Stage, write_to_vec};
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::NEVER;

impl<H: EventHandler> Conn<'_, H> {
    /// Called after input has been decoded. The codec may have output or a new stage.
    #[inline(always)]
    pub(crate) fn after_decoding(&mut self, found_frames: bool) {
        if self.link.state.takes_writes() {
            self.cx
                .write_output(self.link, self.codec, Codec::poll_output);
            self.follow_stage(found_frames);
        } else if self.link.state.is_open() && !self.link.state.is_leaving() {
            self.follow_stage(found_frames);
        }
    }

    /// Called after something has been sent. Input that the codec held is decoded again.
    #[inline]
    pub(super) fn after_send(&mut self) {
        if self.link.state.awaits_answer() {
            return self.answered();
        }
        self.follow_stage(false);
    }

    #[inline(never)]
    fn answered(&mut self) {
        if self.link.state.release() {
            self.cx.resume(self.link);
        }
        // The owed answers are sent, and the peer cannot send another request.
        let state = &self.link.state;
        let has_ended = self.codec.converses() && state.is_open() && state.saw_peer_eof();
        let owes_nothing = |stage| matches!(stage, Stage::Idle) || is_peers_turn(stage);
        if has_ended && owes_nothing(self.codec.stage()) {
            self.close_by_progress(CloseReason::Peer);
        }
        self.follow_stage(false);
    }

    /// Follows the codec's stage. `found_frames` is true if the peer has just sent some.
    #[inline]
    fn follow_stage(&mut self, found_frames: bool) {
        let stage = self.codec.stage();
        if stage != Stage::Idle || self.link.state.has_waiters() {
            self.follow_unusual_stage(stage, found_frames);
        }
    }

    /// Follows a stage other than the usual one, or one that something waits for.
    #[inline(never)]
    fn follow_unusual_stage(&mut self, stage: Stage, found_frames: bool) {
        // One of several codecs may have no stages. Its deferred answers are counted.
        if !self.codec.converses() {
            return;
        }
        match stage {
            Stage::Closing => self.await_closing_message(),
            Stage::Finished if self.link.state.is_draining() => {
                self.close_by_progress(self.cx.drain_reason());
            }
            Stage::Finished => self.close_by_progress(CloseReason::Local),
            Stage::Answering | Stage::Streaming => self.on_answer_owed(),
            Stage::Awaiting | Stage::AwaitingRest => self.await_response(found_frames),
            _ if self.link.state.has_waiters() => self.end_answer_waits(),
            _ => {}
        }
    }

    /// Records that the handler has not answered at once. The answer timeout then replaces the idle timeout.
    #[cold]
    pub(super) fn on_answer_owed(&mut self) {
        if self.link.state.mark_owing() && self.limits().answer != NEVER {
            self.cx.set_alarm(self.link);
        }
    }

    /// Records that the peer owes an answer. With `restart` the response timeout starts anew.
    #[inline(never)]
    pub(crate) fn await_response(&mut self, restart: bool) {
        match self.codec.response_timeout() {
            Some(limit) if restart || !self.link.state.awaits_response() => {
                let by = self.cx.time.moment().saturating_add(millis(limit));
                self.link.state.await_response(by);
                self.cx.set_alarm_for(self.link, by);
            }
            Some(_) => {}
            None => self.link.state.end_response_wait(),
        }
        self.on_answers_given();
    }

    /// Records that no answer is owed or awaited.
    #[cold]
    pub(super) fn end_answer_waits(&mut self) {
        self.link.state.end_response_wait();
        self.on_answers_given();
    }

    /// Records that the handler owes no more answers.
    fn on_answers_given(&mut self) {
        if self.link.state.clear_owing() {
            if let Some(extras) = &mut self.link.extras {
                extras.deferral = None;
            }
            // The idle timeout replaces the answer timeout.
            let idle = self.limits().idle;
            let due = self.link.state.active_at().saturating_add(idle);
            self.cx.set_alarm_for(self.link, due);
        }
        // An awaited answer keeps it open. A connection that is being detached or piped ends elsewhere.
        let state = &self.link.state;
        if state.is_draining() && !state.is_leaving() && !is_awaited(state, self.codec) {
            self.begin_close(self.cx.drain_reason());
        }
    }

    #[cold]
    fn await_closing_message(&mut self) {
        let (now, limit) = (self.cx.time.moment(), self.limits().fin);
        self.link.state.await_closing_message(now, limit);
        self.cx.set_alarm(self.link);
    }
}

impl<H: EventHandler> Context<H> {
    /// Lets the codec write output of its own, behind everything written so far.
    #[inline(always)]
    pub(super) fn write_output(
        &mut self,
        link: &mut Link,
        codec: &mut H::Codec,
        write: impl FnOnce(&mut H::Codec, &mut Outbox<'_>),
    ) {
        if link.state.is_datagram() {
            return self.write_output_datagram(link, codec, write);
        }
        let before = link.state.out.len();
        let mut attempt = Attempt::new(Outbox::new(
            &mut link.state.out,
            &mut self.buffers.arena,
            &mut self.buffers.pool,
        ));
        write(codec, &mut attempt.outbox);
        attempt.keep();
        if link.state.out.len() != before {
            self.lists.mark_dirty(&mut link.state);
        }
    }

    /// Sends the codec's output as one datagram, on a UDP session.
    #[cold]
    fn write_output_datagram(
        &mut self,
        link: &mut Link,
        codec: &mut H::Codec,
        write: impl FnOnce(&mut H::Codec, &mut Outbox<'_>),
    ) {
        let ((), bytes) = write_to_vec(|dst| write(codec, dst));
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = self.write_datagram(link, iter::once(&bytes[..])) {
            log::debug!(target: "epicycle::udp", "{}: {error}", link.state.name());
        }
    }
}

/// Returns true if the handler owes an answer. A conversing codec reports that. With other codecs the deferred
/// answers are counted.
pub(crate) fn is_owed<C: Codec>(state: &ConnState, codec: &C) -> bool {
    if codec.converses() {
        matches!(codec.stage(), Stage::Answering | Stage::Streaming)
    } else {
        state.owes()
    }
}

/// Returns true if either end of the connection waits for an answer that can still arrive.
pub(crate) fn is_awaited<C: Codec>(state: &ConnState, codec: &C) -> bool {
    // The sockets of UDP sessions close with the server.
    if state.is_datagram() {
        return false;
    }
    if is_owed(state, codec) {
        return state.takes_writes();
    }
    let awaits = C::CONVERSES && is_peers_turn(codec.stage());
    // The partner of a piped connection may still send the rest.
    let may_come = state.is_piped() || (!state.is_leaving() && !state.saw_peer_eof());
    awaits && state.is_open() && may_come
}

/// Returns true if the peer owes an answer or its rest, and the handler owes none.
fn is_peers_turn(stage: Stage) -> bool {
    matches!(stage, Stage::Awaiting | Stage::AwaitingRest)
}

/// Returns true if a message has begun and its rest is awaited.
#[inline]
pub(crate) fn awaits_rest<C: Codec>(codec: &C) -> bool {
    let is_amid = |stage| {
        matches!(
            stage,
            Stage::Receiving | Stage::Streaming | Stage::AwaitingRest
        )
    };
    C::CONVERSES && is_amid(codec.stage())
}

/// Returns true if the end of the peer's stream has to wait for an answer that is owed and can still be sent.
#[inline]
pub(crate) fn owes_answer<C: Codec>(state: &ConnState, codec: &C) -> bool {
    let owes = if codec.converses() {
        codec.stage() == Stage::Answering
    } else {
        state.owes()
    };
    owes && state.takes_writes() && !state.is_datagram()
}

/// Returns the length of the input of a frame that was delivered but not consumed yet, on a connection that leaves the
/// engine. The new owner of the socket must not receive that input again.
#[cold]
pub(crate) fn pending_frame_len<C: Codec>(codec: &mut C, input: &mut [u8]) -> usize {
    let mut in_vain = 0;
    loop {
        match look(codec, input, false, &mut in_vain) {
            Ok(Decoded::Frame { consumed: 0, .. }) => {}
            Ok(Decoded::Frame { consumed, .. }) => return consumed,
            _ => return 0,
        }
    }
}
