//! What the engine does for a codec that takes part in the conversation.

use std::iter;

use super::conn::Attempt;
use super::{Conn, EventHandler};
use crate::buf::outbox::Outbox;
use crate::clock::millis;
use crate::codec::look::look;
use crate::codec::{Codec, Decoded, Stage, write_to_vec};
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limits::NEVER;

impl<H: EventHandler> Conn<'_, H> {
    /// Some input has been decoded: the codec may have something to say about it.
    #[inline]
    pub(crate) fn after_decoding(&mut self, found_frames: bool) {
        if self.link.state.takes_writes() {
            self.say(Codec::poll_output);
            self.follow_stage(found_frames);
        } else if self.link.state.is_open() && !self.link.state.is_leaving() {
            self.follow_stage(found_frames);
        }
    }

    /// Something has been sent: what waited for it goes on.
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
        // What was owed has been sent, and nobody can ask for more.
        let has_ended = self.link.state.is_open() && self.link.state.saw_peer_eof();
        if has_ended && matches!(self.codec.stage(), Stage::Idle | Stage::Awaiting) {
            self.close_unhurried(CloseReason::Peer);
        }
        self.follow_stage(false);
    }

    /// Acts on where the conversation stands; `found_frames` when the peer has just sent some.
    #[inline]
    fn follow_stage(&mut self, found_frames: bool) {
        let stage = self.codec.stage();
        if stage != Stage::Idle || self.link.state.has_waiters() {
            self.follow(stage, found_frames);
        }
    }

    /// The stage is another one than the usual, or something waits for what it may be.
    #[inline(never)]
    fn follow(&mut self, stage: Stage, found_frames: bool) {
        match stage {
            Stage::Closing => self.await_goodbye(),
            Stage::Finished if self.link.state.is_draining() => {
                self.close_unhurried(self.cx.drain_reason());
            }
            Stage::Finished => self.close_unhurried(CloseReason::Local),
            Stage::Answering | Stage::Streaming => self.owe(),
            Stage::Awaiting => self.await_response(found_frames),
            _ if self.link.state.has_waiters() => self.settle(),
            _ => {}
        }
    }

    /// The handler has not answered at once: the answer timeout takes the place of the idle timeout.
    #[cold]
    pub(super) fn owe(&mut self) {
        if self.link.state.owe() && self.cx.limits_of(&self.link.stream).answer != NEVER {
            self.cx.set_alarm(self.link);
        }
    }

    /// The peer owes an answer. With `afresh` the limit of the wait begins anew.
    #[inline(never)]
    pub(crate) fn await_response(&mut self, afresh: bool) {
        match self.codec.response_timeout() {
            Some(limit) if afresh || !self.link.state.awaits_response() => {
                let by = self.cx.time.moment().saturating_add(millis(limit));
                self.link.state.await_response(by);
                self.cx.set_alarm(self.link);
            }
            Some(_) => {}
            None => self.link.state.end_response_wait(),
        }
        self.settle_debt();
    }

    /// Nobody owes an answer any more.
    #[cold]
    pub(super) fn settle(&mut self) {
        self.link.state.end_response_wait();
        self.settle_debt();
    }

    /// The handler owes no answer any more.
    fn settle_debt(&mut self) {
        if self.link.state.pay() {
            if let Some(extras) = &mut self.link.extras {
                extras.deferral = None;
            }
            self.cx.set_alarm(self.link);
        }
        // One that is awaited keeps it open. One that leaves has its end elsewhere.
        let state = &self.link.state;
        if state.is_draining() && !state.is_leaving() && !is_awaited(state, self.codec) {
            self.begin_close(self.cx.drain_reason());
        }
    }

    #[cold]
    fn await_goodbye(&mut self) {
        let (now, limit) = (self.cx.time.moment(), self.cx.limits.fin);
        self.link.state.await_goodbye(now, limit);
        self.cx.set_alarm(self.link);
    }

    /// Lets the codec write by itself, behind everything written so far.
    #[inline]
    pub(super) fn say(&mut self, say: impl FnOnce(&mut H::Codec, &mut Outbox<'_>)) {
        if self.link.state.is_datagram() {
            return self.say_in_datagram(say);
        }
        let before = self.link.state.out.len();
        let mut attempt = Attempt::new(Outbox::new(
            &mut self.link.state.out,
            &mut self.cx.buffers.arena,
            &mut self.cx.buffers.pool,
        ));
        say(self.codec, &mut attempt.outbox);
        attempt.keep();
        if self.link.state.out.len() != before {
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
    }

    /// The same on a session over datagrams: whatever the codec says is one.
    #[cold]
    fn say_in_datagram(&mut self, say: impl FnOnce(&mut H::Codec, &mut Outbox<'_>)) {
        let ((), bytes) = write_to_vec(|dst| say(self.codec, dst));
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = self.write_datagram(iter::once(&bytes[..])) {
            log::debug!(target: "epicycle::udp", "{}: {error}", self.link.state.name());
        }
    }
}

/// Whether the handler owes an answer: the codec tells, or deferred answers do where it does not converse.
pub(crate) fn is_owed<C: Codec>(state: &ConnState, codec: &C) -> bool {
    if C::CONVERSES {
        matches!(codec.stage(), Stage::Answering | Stage::Streaming)
    } else {
        state.owes()
    }
}

/// Whether somebody waits for an answer on a connection, at either end of it, that can still come.
pub(crate) fn is_awaited<C: Codec>(state: &ConnState, codec: &C) -> bool {
    // The sockets of sessions over datagrams close with the server.
    if state.is_datagram() {
        return false;
    }
    if is_owed(state, codec) {
        return state.takes_writes();
    }
    let awaits = C::CONVERSES && codec.stage() == Stage::Awaiting;
    awaits && state.is_open() && !state.is_leaving() && !state.saw_peer_eof()
}

/// Whether a message has begun whose rest is awaited.
#[inline]
pub(crate) fn awaits_rest<C: Codec>(codec: &C) -> bool {
    C::CONVERSES && matches!(codec.stage(), Stage::Receiving | Stage::Streaming)
}

/// Whether the end of the peer's stream has to wait for an answer: one is owed that can still be sent.
#[inline]
pub(crate) fn owes_answer<C: Codec>(state: &ConnState, codec: &C) -> bool {
    let owes = if C::CONVERSES {
        codec.stage() == Stage::Answering
    } else {
        state.owes()
    };
    owes && state.takes_writes() && !state.is_datagram()
}

/// How long the input is that a frame came from which took up none of it yet, on a connection that leaves: whoever takes it
/// over must not get that.
#[cold]
pub(crate) fn shown<C: Codec>(codec: &mut C, input: &mut [u8]) -> usize {
    let mut in_vain = 0;
    loop {
        match look(codec, input, false, &mut in_vain) {
            Ok(Decoded::Frame { consumed: 0, .. }) => {}
            Ok(Decoded::Frame { consumed, .. }) => return consumed,
            _ => return 0,
        }
    }
}
