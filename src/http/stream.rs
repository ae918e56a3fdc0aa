#[cfg(feature = "cluster-http")]
use super::StatusCode;
use super::codec::close_notice;
#[cfg(feature = "cluster-http")]
use super::codec::take_refusal;
use super::exchange::Exchange;
use super::fields::Headers;
use super::limits::Limits;
use super::parts::{Found, PartReader};
use super::reader::{HeadReader, Start};
use super::request::ServerRequest;
use super::write;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, FrameError, Stage};

/// A server's side of HTTP/1.1, with bodies in parts as they arrive. A frame is a [`RequestPart`].
///
/// Each request is a [`Head`](RequestPart::Head), any number of [`Body`](RequestPart::Body)s and an
/// [`End`](RequestPart::End), even if it has no body. Use it for large uploads and for proxies: nothing is held back,
/// and the length of bodies is not limited by default. A handler that cannot take more for now [pauses
/// reads](crate::Conn::pause_reads).
///
/// The answer may begin at any time. If it is complete before the request is, the connection closes, and the rest of
/// the request is not read. A client that waits for a `100 Continue` gets one after the handler has received the head,
/// unless the handler has answered.
///
/// After an [upgrade](super::ServerResponse::upgrade), and after a successful answer to CONNECT, the input is not HTTP
/// any more. No part has it: it stays unread until the handler [switches](crate::Conn::switch) the connection to another
/// codec, [pipes](crate::Conn::pipe) it to another connection or [detaches](crate::Conn::detach) it. The bytes that have
/// arrived go along.
///
/// All else is as with [`HttpCodec`](super::HttpCodec). A connection that waits for a request costs the codec 104
/// bytes.
///
/// ```
/// use epicycle::codec::{Codec, Decoded};
/// use epicycle::http::{HttpStreamCodec, RequestPart};
///
/// let mut codec = HttpStreamCodec::default();
/// let mut input = *b"PUT /log HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello";
/// let Decoded::Frame { frame: RequestPart::Head(request), consumed } = codec.decode(&mut input)? else {
///     panic!("the head is there");
/// };
/// assert_eq!(request.content_length(), Some(11));
/// let Decoded::Frame { frame: RequestPart::Body(part), .. } = codec.decode(&mut input[consumed..])? else {
///     panic!("a part of the body is there");
/// };
/// assert_eq!(part, b"hello");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Debug)]
pub struct HttpStreamCodec {
    reader: HeadReader,
    pub(super) exchange: Exchange,
    parts: PartReader,
    manual_continue: bool,
}

/// A part of a request.
///
/// The bytes after an upgrade or CONNECT are in none of them: see [`HttpStreamCodec`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RequestPart<'a> {
    /// The start of a request. Its body follows.
    Head(ServerRequest<'a>),
    /// A part of the body, at least one byte, without chunk framing.
    Body(&'a [u8]),
    /// The end of the request, with the trailers of a chunked body.
    End(Headers<'a>),
}

impl HttpStreamCodec {
    /// Returns a codec with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            reader: HeadReader::new(limits),
            exchange: Exchange::default(),
            parts: PartReader::default(),
            manual_continue: false,
        }
    }

    /// Leaves the `100 Continue` to the handler. The handler sends a [`Continue`](super::Continue), or an answer that
    /// refuses the body.
    #[must_use]
    pub fn manual_continue(mut self) -> Self {
        self.manual_continue = true;
        self
    }

    /// Returns true if the connection has changed to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.exchange.is_upgraded()
    }

    /// Returns the status and the reason of the close notice, for a codec that writes it in a form of its own. It counts as
    /// sent.
    #[cfg(feature = "cluster-http")]
    pub(crate) fn take_refusal(&mut self, cause: CloseCause<'_>) -> Option<(StatusCode, String)> {
        let receiving = self.is_receiving();
        take_refusal(&mut self.exchange, receiving, cause)
    }

    fn is_receiving(&self) -> bool {
        self.reader.is_within_head() || self.exchange.is_receiving()
    }

    #[inline]
    fn look<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<RequestPart<'a>>, FrameError> {
        if !self.parts.is_within_body() {
            return self.head(src);
        }
        self.exchange.body_comes();
        Ok(match self.parts.next(src, false, &self.reader.limits)? {
            Found::Data { bytes, consumed } => {
                let frame = RequestPart::Body(bytes);
                Decoded::Frame { frame, consumed }
            }
            Found::End { trailers, consumed } => {
                self.exchange.body_ends();
                let frame = RequestPart::End(Headers::trailers(trailers));
                Decoded::Frame { frame, consumed }
            }
            Found::Skip { consumed } => Decoded::Skip { consumed },
            Found::NeedMore(at_least) => Decoded::NeedMore { at_least },
        })
    }

    #[inline]
    fn head<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<RequestPart<'a>>, FrameError> {
        let head = match self.reader.read(src)? {
            Start::Head(head) => head,
            Start::Ignored(consumed) => return Ok(Decoded::Skip { consumed }),
            Start::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        let limits = &self.reader.limits;
        let consumed = self.parts.begin(head.framing.into(), head.len(), limits)?;
        let receiving = consumed > 0;
        self.exchange.begin(&head, receiving);
        Ok(Decoded::Frame {
            frame: RequestPart::Head(ServerRequest::new(&src[..head.len()], head, &[])),
            consumed,
        })
    }
}

impl Default for HttpStreamCodec {
    /// Returns a codec with the default limits, except that bodies may have any length.
    fn default() -> Self {
        Self::new(Limits::default().max_body(u64::MAX))
    }
}

impl Codec for HttpStreamCodec {
    type Frame<'a> = RequestPart<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<RequestPart<'a>>, FrameError> {
        if !self.parts.is_within_body() && self.exchange.is_busy() {
            return Ok(Decoded::Hold);
        }
        self.look(src)
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if !self.manual_continue && self.exchange.take_expectation() {
            dst.put(write::CONTINUE);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let receiving = self.is_receiving();
        close_notice(&mut self.exchange, receiving, cause, dst);
    }

    fn refused_status(&self) -> Option<u16> {
        self.exchange.refused_status()
    }

    fn is_open_ended(&self) -> bool {
        self.exchange.is_open_ended()
    }

    fn begin_drain(&mut self) {
        self.exchange.close();
    }

    fn stage(&self) -> Stage {
        self.exchange.stage()
    }
}
