use std::time::Duration;

use super::exchanges::{Exchanges, Phase, unsolicited};
use super::head::{Head, Start};
use super::request::ClientRequest;
use super::response::ClientResponse;
use super::stream::StreamCodec;
use crate::buf::outbox::Outbox;
use crate::codec::{Backpressure, Codec, Decoded, Encode, FrameError, Stage};
use crate::http::assembly::Assembly;
use crate::http::error::MessageError;
use crate::http::limits::Limits;
use crate::http::parts::Extent;
use crate::http::response::{Chunk, End, Trailers};

/// A client's side of HTTP/1.1, with each response's body in one piece. A frame is a [`ClientResponse`].
///
/// The handler sends [`ClientRequest`]s, and for one whose body follows, [`Chunk`]s and an [`End`]. It may send the
/// next request before the response has arrived, unless the request asks to change the protocol. It must write nothing
/// else, with `Conn::write` for example, except a body announced as a [`file`](ClientRequest::file), and data after an
/// [upgrade](ClientResponse::is_upgrade).
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
    exchanges: Exchanges,
    /// The response whose body is arriving.
    pending: Option<Box<PendingResponse>>,
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

/// The number of bytes to wait for before the next look at a body that ends with the stream.
const EOF_BODY_STEP: usize = 64 << 10;

impl ClientCodec {
    /// Returns a codec with these limits on the input.
    pub fn new(limits: Limits) -> Self {
        Self {
            exchanges: Exchanges::new(limits),
            pending: None,
        }
    }

    /// Sets the time within which the server must begin its response, in whole milliseconds up to 49 days. It counts
    /// from when the request has been sent to the head of the response; interim responses do not extend it. Of several
    /// outstanding requests it counts for the first, from the previous response. When it expires, the connection closes
    /// with [`TimeoutKind::Response`](crate::TimeoutKind::Response). Default: none.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.exchanges.set_response_timeout(timeout);
        self
    }

    /// Accepts a response with several `Content-Length` values if all are equal (RFC 9110, section 8.6). By default it
    /// is refused.
    #[must_use]
    pub fn take_repeated_length(mut self) -> Self {
        self.exchanges.finder.accepts_repeated_length = true;
        self
    }

    /// Returns the number of requests without a response.
    pub fn outstanding(&self) -> usize {
        self.exchanges.outstanding()
    }

    /// Returns true if another request can be sent.
    pub fn is_ready(&self) -> bool {
        self.exchanges.is_ready()
    }

    /// Returns true if another request can be sent, and all earlier ones are complete and have their responses.
    pub fn is_reusable(&self) -> bool {
        self.exchanges.is_reusable()
    }

    /// Returns true if the connection has changed to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.exchanges.phase() == Phase::Upgraded
    }

    /// Looks for a response. With `last`, the stream ends after `src`.
    fn look<'a>(
        &mut self,
        src: &'a mut [u8],
        last: bool,
    ) -> Result<Decoded<ClientResponse<'a>>, MessageError> {
        let mut pending = match self.pending.take() {
            Some(pending) => pending,
            None => match self.exchanges.find_head(src)?.0 {
                Start::Head(head) => Box::new(PendingResponse::new(head)),
                Start::Interim(head) => {
                    return Ok(Decoded::Skip {
                        consumed: head.len(),
                    });
                }
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
        if head.upgrades {
            self.exchanges.upgraded();
        } else {
            self.exchanges
                .answered(head.is_last(), consumed < src.len());
        }
        let phase = self.exchanges.phase();
        head.keep_alive &= !matches!(phase, Phase::Finished | Phase::Unsolicited);
        let (bytes, rest) = src.split_at(head.len());
        let body = &rest[..end - head.len()];
        let trailers = rest.get(trailers - head.len()..consumed.saturating_sub(head.len() + 2));
        let frame = ClientResponse::new(bytes, head, body, trailers.unwrap_or_default());
        Ok(Decoded::Frame { frame, consumed })
    }

    fn body(
        &self,
        src: &mut [u8],
        pending: &mut PendingResponse,
        last: bool,
    ) -> Result<Progress, MessageError> {
        let head = pending.head.len();
        let limit = self.exchanges.limits.body;
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
            Extent::Chunked => Ok(
                match pending.assembly.advance(src, &self.exchanges.limits)? {
                    Some(at_least) => Progress::NeedMore(at_least),
                    None => {
                        let done = &pending.assembly;
                        Progress::Complete(done.data, done.read, done.end)
                    }
                },
            ),
            Extent::Eof if (src.len() - head) as u64 > limit => {
                Err(MessageError::BodyTooLong { max: limit })
            }
            Extent::Eof if last => Ok(Progress::Complete(src.len(), src.len(), src.len())),
            Extent::Eof => Ok(Progress::NeedMore(src.len() + EOF_BODY_STEP)),
        }
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
    type Frame<'a> = ClientResponse<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<ClientResponse<'a>>, FrameError> {
        match self.exchanges.phase() {
            Phase::Upgraded | Phase::Finished => Ok(Decoded::Hold),
            Phase::Unsolicited => Ok(unsolicited()?),
            _ => Ok(self.look(src, false)?),
        }
    }

    fn decode_eof<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<ClientResponse<'a>>, FrameError> {
        let is_over = matches!(self.exchanges.phase(), Phase::Upgraded | Phase::Finished);
        if is_over || src.is_empty() {
            return Ok(need(src.len() + 1));
        }
        if self.exchanges.phase() == Phase::Unsolicited {
            return Ok(unsolicited()?);
        }
        match self.look(src, true)? {
            Decoded::NeedMore { .. } => Err(MessageError::Truncated.into()),
            found => Ok(found),
        }
    }

    /// Reads on, since a server may answer or refuse while the request is still being sent.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ReadOn
    }

    fn response_timeout(&self) -> Option<Duration> {
        self.exchanges.response_timeout(self.pending.is_some())
    }

    fn stage(&self) -> Stage {
        self.exchanges.stage()
    }
}

macro_rules! requests_by {
    ($codec:ty) => {
        impl Encode<ClientRequest<'_>> for $codec {
            fn encode(
                &mut self,
                request: ClientRequest<'_>,
                dst: &mut Outbox<'_>,
            ) -> Result<(), FrameError> {
                Ok(self.exchanges.send_request(&request, dst)?)
            }
        }

        impl Encode<Chunk<'_>> for $codec {
            fn encode(&mut self, chunk: Chunk<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                Ok(self.exchanges.send_chunk(chunk.0, dst)?)
            }
        }

        impl Encode<End> for $codec {
            fn encode(&mut self, _: End, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
                Ok(self.exchanges.send_end(None, dst)?)
            }
        }

        impl Encode<Trailers<'_>> for $codec {
            fn encode(
                &mut self,
                trailers: Trailers<'_>,
                dst: &mut Outbox<'_>,
            ) -> Result<(), FrameError> {
                Ok(self.exchanges.send_end(Some(trailers.0), dst)?)
            }
        }
    };
}

requests_by!(ClientCodec);
requests_by!(StreamCodec);

fn need<F>(at_least: usize) -> Decoded<F> {
    Decoded::NeedMore { at_least }
}
