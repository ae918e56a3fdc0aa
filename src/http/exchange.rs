//! The exchange of a request and its answer, as the server tracks it.

use ::http::StatusCode;

use super::error::SendError;
use super::head::Head;
use super::head::flags::*;
use crate::codec::Stage;

/// The state of the current exchange on a connection.
///
/// There is one at a time: the codec holds the next request back until this one is answered. Answers are therefore in
/// the order of the requests, whenever they are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange {
    flags: u16,
    /// The status of an answer that the codec sent on its own, or 0.
    refused: u16,
    answer: AnswerState,
}

/// The progress of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AnswerState {
    /// No answer is due.
    #[default]
    None,
    /// The answer is due and has not begun.
    Owed,
    /// This many bytes of the announced body are still to be sent. With none left, only the end is.
    Sized(u64),
    /// Chunks are to be sent, then their end.
    Chunks,
    /// Bytes are to be sent until the connection closes.
    UntilClose,
    /// The body is written past the codec, up to this position of the output. Then its end is to be sent.
    Elsewhere(u64),
    /// The answer changed the protocol: no other message follows.
    Upgraded,
}

impl Exchange {
    /// Notes a request that the handler gets now, while `receiving` before its body is complete.
    #[inline]
    pub(super) fn begin(&mut self, head: &Head, receiving: bool) {
        self.flags = if receiving {
            head.flags & !NOMINATES | RECEIVING
        } else {
            head.flags & !(EXPECTS | NOMINATES)
        };
        self.answer = AnswerState::Owed;
    }

    /// Notes a head that is withheld from the handler until the body is complete.
    pub(super) fn await_body(&mut self, expects: bool) {
        self.flags = RECEIVING | if expects { EXPECTS } else { 0 };
    }

    /// Notes a part of the body: the client no longer waits for a `100 Continue`.
    #[inline]
    pub(super) fn body_comes(&mut self) {
        self.flags &= !EXPECTS;
    }

    /// Notes the end of the request.
    pub(super) fn body_ends(&mut self) {
        self.flags &= !(RECEIVING | EXPECTS);
    }

    /// Returns true, once, if a `100 Continue` must be sent.
    #[inline]
    pub(super) fn take_expectation(&mut self) -> bool {
        let expects =
            self.has(EXPECTS) && matches!(self.answer, AnswerState::None | AnswerState::Owed);
        if expects {
            self.flags &= !EXPECTS;
        }
        expects
    }

    /// Returns true if the next request must wait.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.answer != AnswerState::None || self.has(FINISHED)
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.has(RECEIVING)
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.answer == AnswerState::Upgraded
    }

    /// Returns an error if no answer may begin.
    #[inline]
    pub(super) fn may_begin(&self) -> Result<(), SendError> {
        match self.answer {
            AnswerState::Owed => Ok(()),
            AnswerState::None | AnswerState::Upgraded => Err(SendError::NotAsked),
            _ => Err(SendError::Begun),
        }
    }

    #[inline]
    pub(super) fn answer(&self) -> AnswerState {
        self.answer
    }

    #[inline]
    pub(super) fn is_head(&self) -> bool {
        self.has(HEAD)
    }

    pub(super) fn is_connect(&self) -> bool {
        self.has(CONNECT)
    }

    #[inline]
    pub(super) fn is_http10(&self) -> bool {
        self.has(HTTP10)
    }

    /// Returns true if the client takes the end of the connection for the end of the answer.
    pub(super) fn is_open_ended(&self) -> bool {
        self.answer == AnswerState::UntilClose && !self.has(HEAD)
    }

    /// Returns true if the connection closes after this answer.
    #[inline]
    pub(super) fn closes(&self) -> bool {
        self.has(CLOSE)
    }

    /// Returns true if neither the request nor the connection requires a special head or body.
    #[inline]
    pub(super) fn is_usual(&self) -> bool {
        self.flags == 0
    }

    pub(super) fn close(&mut self) {
        self.flags |= CLOSE;
    }

    /// Notes that the head of the answer has been sent, and the body that remains.
    #[inline]
    pub(super) fn answered(&mut self, rest: AnswerState) {
        self.answer = rest;
        match rest {
            AnswerState::None => self.end(),
            AnswerState::Sized(0) if !self.has(AWAITS_END) => self.end(),
            _ => {}
        }
    }

    /// Notes that the answer ends with its `End`, not with the last byte of its body. The next request ends that.
    pub(super) fn await_end(&mut self) {
        self.flags |= AWAITS_END;
    }

    /// Notes an interim response. After a 100 the client no longer waits for it.
    pub(super) fn interim(&mut self, status: StatusCode) {
        if status == StatusCode::CONTINUE {
            self.flags &= !EXPECTS;
        }
    }

    /// Notes that `len` bytes of an announced body have been sent.
    pub(super) fn sent(&mut self, len: u64) {
        if let AnswerState::Sized(left) = self.answer {
            self.answered(AnswerState::Sized(left.saturating_sub(len)));
        }
    }

    /// Notes that the whole answer has been sent.
    #[inline]
    pub(super) fn end(&mut self) {
        self.answer = AnswerState::None;
        if self.has(CLOSE | RECEIVING) {
            self.flags |= FINISHED;
        }
    }

    /// Notes that the codec answered on its own, and that nothing may follow.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.refused = status.as_u16();
        self.flags |= FINISHED;
    }

    /// Returns the status of the answer that the codec sent on its own.
    pub(super) fn refused_status(&self) -> Option<u16> {
        (self.refused > 0).then_some(self.refused)
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        match self.answer {
            _ if self.has(FINISHED) => Stage::Finished,
            AnswerState::None | AnswerState::Upgraded if self.has(RECEIVING) => Stage::Receiving,
            AnswerState::None | AnswerState::Upgraded => Stage::Idle,
            _ if self.has(RECEIVING) => Stage::Streaming,
            _ => Stage::Answering,
        }
    }

    #[inline]
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}
