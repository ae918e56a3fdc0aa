use std::time::Duration;

use super::exchanges::{Exchanges, Phase, unsolicited};
use super::head::Start;
use super::response::ClientResponse;
use crate::codec::{Backpressure, Codec, Decoded, FrameError, Stage};
use crate::http::error::MessageError;
use crate::http::fields::Headers;
use crate::http::limits::Limits;
use crate::http::parts::{Found, PartReader};

/// A client's side of HTTP/1.1, with responses in parts as they arrive. A frame is a [`ResponsePart`].
///
/// Each response is any number of [`Interim`](ResponsePart::Interim)s, a [`Head`](ResponsePart::Head), any number of
/// [`Body`](ResponsePart::Body)s and an [`End`](ResponsePart::End), even if it has no body. Use it for proxies, for
/// large downloads and for responses that do not end: nothing is held back, and the length of bodies is not limited by
/// default. A handler that cannot take more for now [pauses reads](crate::Conn::pause_reads).
///
/// A response may begin, and end, before its request has ended. The rest of the request may then still be sent. The
/// connection is [reusable](Self::is_reusable) once both are complete.
///
/// A body without a length ends with the stream, and so with an `End`. A response that the end of the stream cuts short
/// has no `End`: the connection closes with [`MessageError::Truncated`](crate::http::MessageError::Truncated). A stream
/// that ends before the response has begun closes the connection without an error; the request is
/// [outstanding](Self::outstanding) then.
///
/// After a successful `CONNECT`, and a `101` that was [asked for](super::ClientRequest::upgrade), the `Head` is
/// followed by [`Upgraded`](ResponsePart::Upgraded) bytes instead. Send bytes of your own with
/// [`Conn::write`](crate::Conn::write) then.
///
/// Between the parts of a response the [read timeout](crate::Client::read_timeout) runs. Set none, or a long one, for
/// responses in which the server may be silent.
///
/// All else is as with [`ClientCodec`](super::ClientCodec). A connection without an outstanding request costs the codec
/// 136 bytes.
///
/// ```
/// use epicycle::codec::{Codec, Decoded, encode_to_vec};
/// use epicycle::http::client::{ResponsePart, ClientRequest, StreamCodec};
///
/// let mut codec = StreamCodec::default();
/// encode_to_vec(&mut codec, ClientRequest::get("a", "/log"))?;
/// let mut input = *b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// let Decoded::Frame { frame: ResponsePart::Head(response), consumed } = codec.decode(&mut input)? else {
///     panic!("the head is there");
/// };
/// assert_eq!(response.content_length(), Some(5));
/// let Decoded::Frame { frame: ResponsePart::Body(part), .. } = codec.decode(&mut input[consumed..])? else {
///     panic!("a part of the body is there");
/// };
/// assert_eq!(part, b"hello");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Debug)]
pub struct StreamCodec {
    pub(super) exchanges: Exchanges,
    parts: PartReader,
    /// True if no other response follows the current one.
    is_last: bool,
}

/// A part of a response.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ResponsePart<'a> {
    /// An interim response (1xx), which has no body. The response itself follows. At most 16 are accepted per request.
    Interim(ClientResponse<'a>),
    /// The start of the response. Its body follows.
    Head(ClientResponse<'a>),
    /// A part of the body, at least one byte, without chunk framing.
    Body(&'a [u8]),
    /// The end of the response, with the trailers of a chunked body.
    End(Headers<'a>),
    /// At least one byte of the protocol to which the connection has changed.
    Upgraded(&'a [u8]),
}

impl StreamCodec {
    /// Returns a codec with these limits on the input.
    pub fn new(limits: Limits) -> Self {
        Self {
            exchanges: Exchanges::new(limits),
            parts: PartReader::default(),
            is_last: false,
        }
    }

    /// Sets the time within which the server must begin its response: see
    /// [`ClientCodec::response_timeout`](super::ClientCodec::response_timeout). Each interim response begins it anew.
    /// Default: none.
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

    /// Returns the number of requests whose response is not complete.
    pub fn outstanding(&self) -> usize {
        self.exchanges.outstanding()
    }

    /// Returns true if another request can be sent.
    pub fn is_ready(&self) -> bool {
        self.exchanges.is_ready()
    }

    /// Returns true if another request can be sent, and all earlier ones are complete and have their responses. A pool
    /// keeps a connection only then.
    pub fn is_reusable(&self) -> bool {
        self.exchanges.is_reusable()
    }

    /// Returns true if the connection has changed to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.exchanges.phase() == Phase::Upgraded
    }

    /// Looks for a part. With `last`, the stream ends after `src`.
    #[inline]
    fn look<'a>(
        &mut self,
        src: &'a [u8],
        last: bool,
    ) -> Result<Decoded<ResponsePart<'a>>, FrameError> {
        if !self.parts.is_within_body() {
            return self.head(src, last);
        }
        Ok(match self.parts.next(src, last, &self.exchanges.limits)? {
            Found::Data { bytes, consumed } => Decoded::Frame {
                frame: ResponsePart::Body(bytes),
                consumed,
            },
            Found::End { trailers, consumed } => {
                self.exchanges.answered(self.is_last, consumed < src.len());
                Decoded::Frame {
                    frame: ResponsePart::End(Headers::trailers(trailers)),
                    consumed,
                }
            }
            Found::Skip { consumed } => Decoded::Skip { consumed },
            Found::NeedMore(_) if last => return Err(MessageError::Truncated.into()),
            Found::NeedMore(at_least) => Decoded::NeedMore { at_least },
        })
    }

    #[inline]
    fn head<'a>(
        &mut self,
        src: &'a [u8],
        last: bool,
    ) -> Result<Decoded<ResponsePart<'a>>, FrameError> {
        let (frame, consumed) = match self.exchanges.find_head(src)?.0 {
            Start::Head(head) => {
                let consumed = if head.upgrades {
                    self.exchanges.upgraded();
                    head.len()
                } else {
                    self.is_last = head.is_last();
                    let limits = &self.exchanges.limits;
                    self.parts.begin(head.extent, head.len(), limits)?
                };
                let response = ClientResponse::new(&src[..head.len()], head, &[], &[]);
                (ResponsePart::Head(response), consumed)
            }
            Start::Interim(head) => {
                let response = ClientResponse::new(&src[..head.len()], head, &[], &[]);
                (ResponsePart::Interim(response), head.len())
            }
            Start::NeedMore(_) if last => return Err(MessageError::Truncated.into()),
            Start::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        Ok(Decoded::Frame { frame, consumed })
    }
}

impl Default for StreamCodec {
    /// Returns a codec with the default limits, except that bodies may have any length.
    fn default() -> Self {
        Self::new(Limits::default().max_body(u64::MAX))
    }
}

impl Codec for StreamCodec {
    type Frame<'a> = ResponsePart<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<ResponsePart<'a>>, FrameError> {
        match self.exchanges.phase() {
            Phase::Finished => Ok(Decoded::Hold),
            Phase::Unsolicited => Ok(unsolicited()?),
            Phase::Upgraded => Ok(Decoded::Frame {
                consumed: src.len(),
                frame: ResponsePart::Upgraded(src),
            }),
            Phase::Open | Phase::Changing | Phase::Closing => self.look(src, false),
        }
    }

    fn decode_eof<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<ResponsePart<'a>>, FrameError> {
        let at_least = src.len() + 1;
        let is_within_body = self.parts.is_within_body();
        match self.exchanges.phase() {
            Phase::Finished => Ok(Decoded::NeedMore { at_least }),
            _ if src.is_empty() && !is_within_body => Ok(Decoded::NeedMore { at_least }),
            Phase::Upgraded | Phase::Unsolicited => self.decode(src),
            Phase::Open | Phase::Changing | Phase::Closing => self.look(src, true),
        }
    }

    /// Reads on, since a server may answer or refuse while the request is still being sent.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ReadOn
    }

    fn response_timeout(&self) -> Option<Duration> {
        self.exchanges.response_timeout(self.parts.is_within_body())
    }

    fn stage(&self) -> Stage {
        match self.exchanges.stage() {
            Stage::Awaiting if self.parts.is_within_body() => Stage::AwaitingRest,
            stage => stage,
        }
    }
}
