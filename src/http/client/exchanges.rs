//! The exchanges of a connection, as the client tracks them. Both client codecs share them.

use std::collections::VecDeque;
use std::time::Duration;

use super::head::{HeadFinder, RequestKind, Start};
use super::request::ClientRequest;
use crate::buf::outbox::Outbox;
use crate::codec::Stage;
use crate::http::block::HeaderBlock;
use crate::http::error::{MessageError, SendError, malformed};
use crate::http::limits::Limits;
use crate::http::response::Body;
use crate::http::write::{check_end, end_of_body, write_chunk, write_last_chunk};

/// The requests that were sent and have no response yet, and the state of the connection.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    pub(super) limits: Limits,
    /// The requests without a response, in order.
    outstanding: VecDeque<RequestKind>,
    sending: Sending,
    pub(super) finder: HeadFinder,
    /// In milliseconds. 0 means none.
    response_timeout: u32,
    phase: Phase,
}

/// The part of a request that is still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Nothing,
    /// This many bytes of the announced body, then its end if that is awaited.
    Sized { left: u64, awaits_end: bool },
    /// A body that is written past the codec, up to this position of the output, then its end.
    Elsewhere(u64),
    /// Chunks, then their end.
    Chunks,
}

impl Sending {
    fn sized(left: u64, awaits_end: bool) -> Self {
        if left == 0 && !awaits_end {
            return Sending::Nothing;
        }
        Sending::Sized { left, awaits_end }
    }
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It accepts more requests.
    #[default]
    Open,
    /// A request to change the protocol was sent. It must be answered before another request.
    Changing,
    /// The last request was sent.
    Closing,
    /// The connection uses another protocol.
    Upgraded,
    /// The last response has arrived.
    Finished,
    /// Input arrived after the last response, without a request for it.
    Unsolicited,
}

/// The number of requests for which memory is kept. A larger queue is freed once all its requests are answered.
const MAX_KEPT_REQUESTS: usize = 64;

impl Exchanges {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(super) fn set_response_timeout(&mut self, timeout: Duration) {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.response_timeout = millis.max(1);
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the number of requests without a response.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns true if another request can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Open && self.sending == Sending::Nothing
    }

    /// Returns true if another request can be sent, and none is under way.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_ready() && self.outstanding.is_empty()
    }

    /// Looks for the head of the response to the first request, whose kind is returned with it.
    pub(super) fn find_head(&mut self, src: &[u8]) -> Result<(Start, RequestKind), MessageError> {
        let Some(kind) = self.outstanding.front().copied() else {
            return unsolicited();
        };
        let found = self.finder.find(src, kind, &self.limits)?;
        Ok((found, kind))
    }

    /// Notes that the response to the first request is complete. It is the last one with `is_last`. With `more`, input
    /// has arrived after it.
    pub(super) fn answered(&mut self, is_last: bool, more: bool) {
        self.take_first();
        let all = self.outstanding.is_empty();
        self.phase = match self.phase {
            _ if is_last => Phase::Finished,
            Phase::Closing if all => Phase::Finished,
            // That input must not be taken for the response to a later request.
            _ if all && more => Phase::Unsolicited,
            Phase::Changing if all => Phase::Open,
            phase => phase,
        };
    }

    /// Notes that the response to the first request has changed the protocol.
    pub(super) fn upgraded(&mut self) {
        self.take_first();
        self.phase = Phase::Upgraded;
    }

    fn take_first(&mut self) {
        self.outstanding.pop_front();
        if self.outstanding.is_empty() && self.outstanding.capacity() > MAX_KEPT_REQUESTS {
            self.outstanding = VecDeque::new();
        }
    }

    pub(super) fn send_request(
        &mut self,
        request: &ClientRequest<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), SendError> {
        if self.sending != Sending::Nothing {
            return Err(SendError::Begun);
        }
        // Input that is already there would be taken for the response.
        let has_unsolicited = self.outstanding.is_empty() && dst.has_unread_input();
        if self.phase != Phase::Open || has_unsolicited {
            return Err(SendError::Last);
        }
        request.write(dst)?;
        self.sending = match request.body {
            Body::Sized(left) => Sending::sized(left, request.awaits_end),
            Body::Elsewhere(len) => Sending::Elsewhere(end_of_body(len, dst)),
            Body::Stream => Sending::Chunks,
            _ => Sending::sized(0, request.awaits_end),
        };
        let request_kind = match request.method {
            "HEAD" => RequestKind::Head,
            "CONNECT" => RequestKind::Connect,
            _ if request.upgrade.is_some() => RequestKind::Upgrade,
            _ => RequestKind::Ordinary,
        };
        self.outstanding.push_back(request_kind);
        if request.close {
            self.phase = Phase::Closing;
        } else if matches!(request_kind, RequestKind::Connect | RequestKind::Upgrade) {
            self.phase = Phase::Changing;
        }
        Ok(())
    }

    pub(super) fn send_chunk(
        &mut self,
        bytes: &[u8],
        dst: &mut Outbox<'_>,
    ) -> Result<(), SendError> {
        let given = bytes.len() as u64;
        match self.sending {
            Sending::Chunks => write_chunk(bytes, dst),
            Sending::Sized { left, awaits_end } if given <= left => {
                dst.put(bytes);
                self.sending = Sending::sized(left - given, awaits_end);
            }
            Sending::Sized { left, .. } => return Err(SendError::Length { left, given }),
            Sending::Nothing | Sending::Elsewhere(_) => return Err(SendError::NotBegun),
        }
        Ok(())
    }

    /// Ends a body. Only chunks can be followed by trailers.
    pub(super) fn send_end(
        &mut self,
        trailers: Option<&HeaderBlock>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), SendError> {
        match self.sending {
            Sending::Chunks => write_last_chunk(trailers, dst)?,
            Sending::Elsewhere(end) => check_end(end, false, dst)?,
            Sending::Sized { left: 0, .. } => {}
            Sending::Sized { left, .. } => return Err(SendError::Length { left, given: 0 }),
            Sending::Nothing => return Err(SendError::NotBegun),
        }
        self.sending = Sending::Nothing;
        Ok(())
    }

    /// Returns the time within which the server must begin its response. `has_begun` is true once it has.
    pub(super) fn response_timeout(&self, has_begun: bool) -> Option<Duration> {
        let has_limit = self.response_timeout > 0
            && self.sending == Sending::Nothing
            && !self.outstanding.is_empty()
            && !has_begun;
        has_limit.then(|| Duration::from_millis(self.response_timeout.into()))
    }

    pub(super) fn stage(&self) -> Stage {
        match self.phase {
            Phase::Finished => Stage::Finished,
            _ if self.outstanding.is_empty() => Stage::Idle,
            _ => Stage::Awaiting,
        }
    }
}

#[cold]
pub(super) fn unsolicited<T>() -> Result<T, MessageError> {
    malformed("a response that was not requested")
}
