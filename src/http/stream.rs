use super::chunked::{Chunked, Piece};
use super::codec::close_notice;
use super::error::MessageError;
use super::exchange::Exchange;
use super::fields::Headers;
use super::head::{Framing, Head};
use super::limits::Limits;
use super::reader::{HeadReader, Start};
use super::request::Request;
use super::write;
use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Codec, Decoded, FrameError, Stage};

/// A server's side of HTTP/1.1, with bodies in parts as they arrive. A frame is a [`Part`].
///
/// Each request is a [`Head`](Part::Head), any number of [`Body`](Part::Body)s and an [`End`](Part::End), even if it
/// has no body. Use it for large uploads and for proxies: nothing is held back, and the length of bodies is not limited
/// by default. A handler that cannot take more for now [pauses reads](crate::Conn::pause_reads).
///
/// The answer may begin at any time. If it is complete before the request is, the connection closes, and the rest of
/// the request is not read. A client that waits for a `100 Continue` gets one after the handler has received the head,
/// unless the handler has answered.
///
/// All else is as with [`HttpCodec`](super::HttpCodec). A connection that waits for a request costs the codec 104
/// bytes.
///
/// ```
/// use epicycle::codec::{Codec, Decoded};
/// use epicycle::http::{HttpStreamCodec, Part};
///
/// let mut codec = HttpStreamCodec::default();
/// let mut input = *b"PUT /log HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello";
/// let Decoded::Frame { frame: Part::Head(request), consumed } = codec.decode(&mut input)? else {
///     panic!("the head is there");
/// };
/// assert_eq!(request.content_length(), Some(11));
/// let Decoded::Frame { frame: Part::Body(part), .. } = codec.decode(&mut input[consumed..])? else {
///     panic!("a part of the body is there");
/// };
/// assert_eq!(part, b"hello");
/// # Ok::<(), epicycle::codec::FrameError>(())
/// ```
#[derive(Debug)]
pub struct HttpStreamCodec {
    reader: HeadReader,
    pub(super) exchange: Exchange,
    next: Next,
    /// The number of bytes of the body that have arrived.
    received: u64,
    manual_continue: bool,
}

/// A part of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Part<'a> {
    /// The start of a request. Its body follows.
    Head(Request<'a>),
    /// A part of the body, at least one byte, without chunk framing.
    Body(&'a [u8]),
    /// The end of the request, with the trailers of a chunked body.
    End(Headers<'a>),
}

/// The kind of input that is expected next.
#[derive(Debug)]
enum Next {
    Head,
    /// This many bytes of a body.
    Length(u64),
    Chunks(Chunked),
    /// The end. It consumes this many bytes, which the part before it has returned without consuming them.
    End(usize),
}

impl HttpStreamCodec {
    /// Returns a codec with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            reader: HeadReader::new(limits),
            exchange: Exchange::default(),
            next: Next::Head,
            received: 0,
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

    fn look<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<Part<'a>>, MessageError> {
        match &mut self.next {
            Next::Head => self.head(src),
            Next::Length(left) => {
                let left = *left;
                Ok(self.sized(src, left))
            }
            Next::Chunks(_) => self.chunked(src),
            Next::End(consumed) => {
                let consumed = *consumed;
                Ok(self.end(&[], consumed))
            }
        }
    }

    fn head<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<Part<'a>>, MessageError> {
        let head = match self.reader.read(src)? {
            Start::Head(head) => head,
            Start::Ignored(consumed) => return Ok(Decoded::Skip { consumed }),
            Start::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        self.received = 0;
        let consumed = self.expect_body(&head)?;
        let receiving = consumed > 0;
        self.exchange.begin(&head, receiving);
        Ok(Decoded::Frame {
            frame: Part::Head(Request::new(&src[..head.len()], head, &[])),
            consumed,
        })
    }

    /// Returns the number of bytes that the head consumes: 0 if the end of the request must be returned from the same
    /// input.
    fn expect_body(&mut self, head: &Head) -> Result<usize, MessageError> {
        self.next = match head.framing {
            Framing::Length(len) if len > self.reader.limits.body => return Err(self.too_long()),
            Framing::Length(len) if len > 0 => Next::Length(len),
            Framing::Chunked => Next::Chunks(Chunked::default()),
            _ => {
                self.next = Next::End(head.len());
                return Ok(0);
            }
        };
        Ok(head.len())
    }

    fn sized<'a>(&mut self, src: &'a [u8], left: u64) -> Decoded<Part<'a>> {
        self.exchange.body_comes();
        let len = left.min(src.len() as u64) as usize;
        let left = left - len as u64;
        let consumed = if left > 0 {
            self.next = Next::Length(left);
            len
        } else {
            self.next = Next::End(len);
            0
        };
        Decoded::Frame {
            frame: Part::Body(&src[..len]),
            consumed,
        }
    }

    fn chunked<'a>(&mut self, src: &'a [u8]) -> Result<Decoded<Part<'a>>, MessageError> {
        self.exchange.body_comes();
        let mut at = 0;
        while let Next::Chunks(chunked) = &mut self.next {
            let rest = &src[at..];
            match chunked.next(rest, &self.reader.limits)? {
                Piece::Framing(len) => {
                    at += len;
                    let left = chunked.left();
                    if left > self.reader.limits.body.saturating_sub(self.received) {
                        return Err(self.too_long());
                    }
                }
                Piece::Data(len) => {
                    self.received += len as u64;
                    return Ok(Decoded::Frame {
                        frame: Part::Body(&rest[..len]),
                        consumed: at + len,
                    });
                }
                Piece::End(len) => return Ok(self.end(&rest[..len - 2], at + len)),
                Piece::NeedMore(_) if at > 0 => break,
                Piece::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
            }
        }
        Ok(Decoded::Skip { consumed: at })
    }

    fn end<'a>(&mut self, trailers: &'a [u8], consumed: usize) -> Decoded<Part<'a>> {
        self.next = Next::Head;
        self.exchange.body_ends();
        Decoded::Frame {
            frame: Part::End(Headers::new(trailers)),
            consumed,
        }
    }

    #[cold]
    fn too_long(&self) -> MessageError {
        MessageError::BodyTooLong {
            max: self.reader.limits.body,
        }
    }
}

impl Default for HttpStreamCodec {
    /// Returns a codec with the default limits, except that bodies may have any length.
    fn default() -> Self {
        Self::new(Limits::default().max_body(u64::MAX))
    }
}

impl Codec for HttpStreamCodec {
    type Frame<'a> = Part<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Part<'a>>, FrameError> {
        if matches!(self.next, Next::Head) && self.exchange.is_busy() {
            return Ok(Decoded::Hold);
        }
        Ok(self.look(src)?)
    }

    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if !self.manual_continue && self.exchange.take_expectation() {
            dst.put(write::CONTINUE);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let receiving = self.reader.is_within_head() || self.exchange.is_receiving();
        close_notice(&mut self.exchange, receiving, cause, dst);
    }

    fn refused(&self) -> Option<u16> {
        self.exchange.refused()
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
