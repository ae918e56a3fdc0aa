//! A request and its answer, as a server sees them: what is owed, and what becomes of the connection then.

use ::http::StatusCode;

use super::error::SendError;
use super::flags::*;
use super::head::Head;
use crate::codec::Stage;

/// The state of the exchange under way on a connection.
///
/// There is one at a time: the next request is handed out when this one is answered, so that answers are in the
/// order of requests whenever they are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange {
    flags: u16,
    /// The status of an answer that the codec has given by itself, or 0.
    refused: u16,
    answer: Answer,
}

/// How far the answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing has been asked, or all is answered.
    #[default]
    None,
    /// It has not begun.
    Owed,
    /// So many bytes of the body it announced are to come.
    Sized(u64),
    /// Chunks are to come, then their end.
    Chunks,
    /// Bytes are to come until the connection closes.
    UntilClose,
    /// The body it announced is to come past the codec, up to this position of the output, then its end.
    Elsewhere(u64),
    /// The answer was a change of protocol: there is no other message.
    Upgraded,
}

impl Exchange {
    /// A request has come whose body is to follow, or is complete.
    #[inline]
    pub(super) fn begin(&mut self, head: &Head, receiving: bool) {
        self.flags = if receiving {
            head.flags | RECEIVING
        } else {
            head.flags & !EXPECTS
        };
        self.answer = Answer::Owed;
    }

    /// The head of a request has come whose body has to be complete before the handler gets it.
    pub(super) fn await_body(&mut self, expects: bool) {
        self.flags = RECEIVING | if expects { EXPECTS } else { 0 };
    }

    /// A part of the body has come: there is no more to wait for.
    #[inline]
    pub(super) fn body_comes(&mut self) {
        self.flags &= !EXPECTS;
    }

    /// The request is complete.
    pub(super) fn body_ends(&mut self) {
        self.flags &= !(RECEIVING | EXPECTS);
    }

    /// Whether the client is to be told to go on; only once.
    #[inline]
    pub(super) fn take_expectation(&mut self) -> bool {
        let expects = self.has(EXPECTS) && matches!(self.answer, Answer::None | Answer::Owed);
        if expects {
            self.flags &= !EXPECTS;
        }
        expects
    }

    /// Whether the next request has to wait.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.answer != Answer::None || self.has(FINISHED)
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.has(RECEIVING)
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.answer == Answer::Upgraded
    }

    /// Whether an answer can begin.
    #[inline]
    pub(super) fn may_begin(&self) -> Result<(), SendError> {
        match self.answer {
            Answer::Owed => Ok(()),
            Answer::None | Answer::Upgraded => Err(SendError::NotAsked),
            _ => Err(SendError::Begun),
        }
    }

    #[inline]
    pub(super) fn answer(&self) -> Answer {
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

    /// Whether the end of the connection would be taken for that of the answer.
    pub(super) fn is_open_ended(&self) -> bool {
        self.answer == Answer::UntilClose && !self.has(HEAD)
    }

    /// Whether the connection closes after this answer.
    #[inline]
    pub(super) fn closes(&self) -> bool {
        self.has(CLOSE)
    }

    /// Whether the answer has a head and a body like most, and the connection goes on after it.
    #[inline]
    pub(super) fn is_usual(&self) -> bool {
        self.flags == 0
    }

    pub(super) fn close(&mut self) {
        self.flags |= CLOSE;
    }

    /// The head of the answer has been sent, and this is to follow.
    #[inline]
    pub(super) fn answered(&mut self, rest: Answer) {
        self.answer = rest;
        match rest {
            Answer::None | Answer::Sized(0) => self.end(),
            _ => {}
        }
    }

    /// So many bytes of an announced body have been sent.
    pub(super) fn sent(&mut self, len: u64) {
        if let Answer::Sized(left) = self.answer {
            self.answered(Answer::Sized(left.saturating_sub(len)));
        }
    }

    /// All of the answer has been sent.
    #[inline]
    pub(super) fn end(&mut self) {
        self.answer = Answer::None;
        if self.has(CLOSE | RECEIVING) {
            self.flags |= FINISHED;
        }
    }

    /// The codec has answered by itself, and nothing more will be.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.refused = status.as_u16();
        self.flags |= FINISHED;
    }

    /// The status of such an answer.
    pub(super) fn refused(&self) -> Option<u16> {
        (self.refused > 0).then_some(self.refused)
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        match self.answer {
            _ if self.has(FINISHED) => Stage::Finished,
            Answer::None | Answer::Upgraded if self.has(RECEIVING) => Stage::Receiving,
            Answer::None | Answer::Upgraded => Stage::Idle,
            _ if self.has(RECEIVING) => Stage::Streaming,
            _ => Stage::Answering,
        }
    }

    #[inline]
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}
