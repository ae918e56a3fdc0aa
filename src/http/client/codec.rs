use std::collections::VecDeque;
use std::time::Duration;

use super::head::{Extent, Head, HeadFinder, RequestKind, Start};
use super::request::Request;
use super::response::Response;
use crate::buf::outbox::Outbox;
use crate::codec::{Backpressure, Codec, Decoded, Encode, FrameError, Stage};
use crate::http::assembly::Assembly;
use crate::http::error::{MessageError, SendError, malformed};
use crate::http::limits::Limits;
use crate::http::response::{Body, Chunk, End};
use crate::http::write::{LAST_CHUNK, check_end, end_of_body, write_chunk};

/// A client's side of HTTP/1.1, with each response's body in one piece. A frame is a [`Response`].
///
/// The handler sends [`Request`]s, and for one whose body follows, [`Chunk`]s and an [`End`]. It may send the next
/// request before the response has arrived, unless the request asks to change the protocol. It must write nothing else,
/// with `Conn::write` for example, except a body announced as a [`file`](Request::file), and data after an
/// [upgrade](Response::is_upgrade).
///
/// Interim responses (1xx) are skipped: up to 16 per request, whose heads may take [`max_head`](Limits::max_head) bytes
/// in total. The connection closes after its last response: one after which either side asked to close, or one whose
/// body ends with the stream. Requests [without a response](Self::outstanding) by then may be sent again on another
/// connection, if they can be repeated.
///
/// A response that violates RFC 9112, that was not requested or that is cut short closes the connection with a
/// [`MessageError`]. The boundaries of a response must be certain; otherwise it could be taken for the response to
/// another request. A connection that has received bytes after the last response accepts no further request: it [is
/// not ready](Self::is_ready).
///
/// A connection without an outstanding request costs the codec 104 bytes.
#[derive(Debug, Default)]
pub struct ClientCodec {
    limits: Limits,
    /// The requests without a response, in order.
    outstanding: VecDeque<RequestKind>,
    sending: Sending,
    finder: HeadFinder,
    /// In milliseconds. 0 means none.
    response_timeout: u32,
    phase: Phase,
    /// The response whose body is arriving.
    pending: Option<Box<PendingResponse>>,
}

/// The part of a request that is still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Nothing,
    /// This many bytes of the announced body.
    Sized(u64),
    /// A body that is written past the codec, up to this position of the output, then its end.
    Elsewhere(u64),
    /// Chunks, then their end.
    Chunks,
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
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

#[derive(Debug)]
struct PendingResponse {
    head: Head,
    assembly: Assembly,
}

impl PendingResponse {
    fn new(head: Head) -> Self {
        let assembly = Assembly::behind(head.len());
        Self { head, assembly }
    }
}

/// The number of requests for which memory is kept. A larger queue is freed once all its requests are answered.
const MAX_KEPT_REQUESTS: usize = 64;

/// The number of bytes to wait for before the next look at a body that ends with the stream.
const EOF_BODY_STEP: usize = 64 << 10;

impl ClientCodec {
    /// Returns a codec with these limits on the input.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Sets the time within which the server must begin its response, in whole milliseconds up to 49 days. It counts
    /// from when the request has been sent to the head of the response; interim responses do not extend it. Of several
    /// outstanding requests it counts for the first, from the previous response. When it expires, the connection closes
    /// with [`TimeoutKind::Response`](crate::TimeoutKind::Response). Default: none.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.response_timeout = millis.max(1);
        self
    }

    /// Accepts a response with several `Content-Length` values if all are equal (RFC 9110, section 8.6). By default it
    /// is refused.
    #[must_use]
    pub fn take_repeated_length(mut self) -> Self {
        self.finder.accepts_repeated_length = true;
        self
    }

    /// Returns the number of requests without a response.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns true if another request can be sent.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Open && self.sending == Sending::Nothing
    }

    /// Returns true if the connection has changed to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.phase == Phase::Upgraded
    }

    /// Looks for a response. With `last`, the stream ends after `src`.
    fn look<'a>(
        &mut self,
        src: &'a mut [u8],
        last: bool,
    ) -> Result<Decoded<Response<'a>>, MessageError> {
        let Some(request_kind) = self.outstanding.front().copied() else {
            return unsolicited();
        };
        let mut pending = match self.pending.take() {
            Some(pending) => pending,
            None => match self.finder.find(src, request_kind, &self.limits)? {
                Start::Head(head) => Box::new(PendingResponse::new(head)),
                Start::Interim(consumed) => return Ok(Decoded::Skip { consumed }),
                Start::NeedMore(at_least) => return Ok(need(at_least)),
            },
        };
        let mut head = pending.head;
        let body = self.body(src, &mut pending, last)?;
        let (end, trailers, consumed) = match body {
            Progress::Complete(end, trailers, consumed) => (end, trailers, consumed),
            Progress::NeedMore(at_least) => {
                self.pending = Some(pending);
                return Ok(need(at_least));
            }
        };
        let upgraded = head.changes_protocol(request_kind);
        self.answered(&head, upgraded, consumed < src.len());
        head.keep_alive &= !matches!(self.phase, Phase::Finished | Phase::Unsolicited);
        let (bytes, rest) = src.split_at(head.len());
        let body = &rest[..end - head.len()];
        let trailers = rest.get(trailers - head.len()..consumed.saturating_sub(head.len() + 2));
        let frame = Response::new(bytes, head, body, trailers.unwrap_or_default(), upgraded);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn body(
        &self,
        src: &mut [u8],
        pending: &mut PendingResponse,
        last: bool,
    ) -> Result<Progress, MessageError> {
        let head = pending.head.len();
        let limit = self.limits.body;
        match pending.head.extent {
            Extent::None => Ok(Progress::Complete(head, head, head)),
            Extent::Length(len) => {
                let end = usize::try_from(len)
                    .ok()
                    .and_then(|len| head.checked_add(len));
                match end {
                    Some(end) if len <= limit && end <= src.len() => {
                        Ok(Progress::Complete(end, end, end))
                    }
                    Some(end) if len <= limit => Ok(Progress::NeedMore(end)),
                    _ => Err(MessageError::BodyTooLong { max: limit }),
                }
            }
            Extent::Chunked => Ok(match pending.assembly.advance(src, &self.limits)? {
                Some(at_least) => Progress::NeedMore(at_least),
                None => {
                    let done = &pending.assembly;
                    Progress::Complete(done.data, done.read, done.end)
                }
            }),
            Extent::Eof if (src.len() - head) as u64 > limit => {
                Err(MessageError::BodyTooLong { max: limit })
            }
            Extent::Eof if last => Ok(Progress::Complete(src.len(), src.len(), src.len())),
            Extent::Eof => Ok(Progress::NeedMore(src.len() + EOF_BODY_STEP)),
        }
    }

    /// Notes that the response to the first request is complete. With `more`, input has arrived after it.
    fn answered(&mut self, head: &Head, upgraded: bool, more: bool) {
        self.outstanding.pop_front();
        let all = self.outstanding.is_empty();
        if all && self.outstanding.capacity() > MAX_KEPT_REQUESTS {
            self.outstanding = VecDeque::new();
        }
        let is_last = !head.keep_alive || head.extent == Extent::Eof;
        self.phase = match self.phase {
            _ if upgraded => Phase::Upgraded,
            _ if is_last => Phase::Finished,
            Phase::Closing if all => Phase::Finished,
            // That input must not be taken for the response to a later request.
            _ if all && more => Phase::Unsolicited,
            Phase::Changing if all => Phase::Open,
            phase => phase,
        };
    }

    fn send_request(
        &mut self,
        request: &Request<'_>,
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
            Body::Sized(len) if len > 0 => Sending::Sized(len),
            Body::Elsewhere(len) => Sending::Elsewhere(end_of_body(len, dst)),
            Body::Stream => Sending::Chunks,
            _ => Sending::Nothing,
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

    fn send_chunk(&mut self, bytes: &[u8], dst: &mut Outbox<'_>) -> Result<(), SendError> {
        let given = bytes.len() as u64;
        match self.sending {
            Sending::Chunks => write_chunk(bytes, dst),
            Sending::Sized(left) if given <= left => {
                dst.put(bytes);
                self.sending = match left - given {
                    0 => Sending::Nothing,
                    left => Sending::Sized(left),
                };
            }
            Sending::Sized(left) => return Err(SendError::Length { left, given }),
            Sending::Nothing | Sending::Elsewhere(_) => return Err(SendError::NotBegun),
        }
        Ok(())
    }

    fn send_end(&mut self, dst: &mut Outbox<'_>) -> Result<(), SendError> {
        match self.sending {
            Sending::Chunks => dst.put(LAST_CHUNK),
            Sending::Elsewhere(end) => check_end(end, false, dst)?,
            Sending::Sized(left) => return Err(SendError::Length { left, given: 0 }),
            Sending::Nothing => return Err(SendError::NotBegun),
        }
        self.sending = Sending::Nothing;
        Ok(())
    }
}

/// The progress of a body.
enum Progress {
    /// The end of the body, the start of the trailers, and the end of the response.
    Complete(usize, usize, usize),
    /// The input must have at least this many bytes.
    NeedMore(usize),
}

impl Codec for ClientCodec {
    type Frame<'a> = Response<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Response<'a>>, FrameError> {
        match self.phase {
            Phase::Upgraded | Phase::Finished => Ok(Decoded::Hold),
            Phase::Unsolicited => Ok(unsolicited()?),
            _ => Ok(self.look(src, false)?),
        }
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Response<'a>>, FrameError> {
        if matches!(self.phase, Phase::Upgraded | Phase::Finished) {
            return Ok(need(src.len() + 1));
        }
        if self.phase == Phase::Unsolicited {
            return Ok(unsolicited()?);
        }
        match self.look(src, true)? {
            Decoded::NeedMore { .. } => Ok(malformed("a response that is cut short")?),
            found => Ok(found),
        }
    }

    /// Reads on, since a server may answer or refuse while the request is still being sent.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ReadOn
    }

    fn response_timeout(&self) -> Option<Duration> {
        let has_limit = self.response_timeout > 0
            && self.sending == Sending::Nothing
            && !self.outstanding.is_empty()
            && self.pending.is_none();
        has_limit.then(|| Duration::from_millis(self.response_timeout.into()))
    }

    fn stage(&self) -> Stage {
        match self.phase {
            Phase::Finished => Stage::Finished,
            _ if self.outstanding.is_empty() => Stage::Idle,
            _ => Stage::Awaiting,
        }
    }
}

impl Encode<Request<'_>> for ClientCodec {
    fn encode(&mut self, request: Request<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.send_request(&request, dst)?)
    }
}

impl Encode<Chunk<'_>> for ClientCodec {
    fn encode(&mut self, chunk: Chunk<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.send_chunk(chunk.0, dst)?)
    }
}

impl Encode<End> for ClientCodec {
    fn encode(&mut self, _: End, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.send_end(dst)?)
    }
}

fn need<F>(at_least: usize) -> Decoded<F> {
    Decoded::NeedMore { at_least }
}

#[cold]
fn unsolicited<T>() -> Result<T, MessageError> {
    malformed("a response that was not requested")
}
