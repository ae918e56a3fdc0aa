use super::assembly::Assembly;
use super::error::MessageError;
use super::exchange::{AnswerState, Exchange};
use super::head::flags::EXPECTS;
use super::head::{Framing, Head};
use super::limits::Limits;
use super::reader::{HeadReader, Start};
use super::request::ServerRequest;
use super::write;
use crate::buf::outbox::Outbox;
use crate::codec::{Backpressure, CloseCause, Codec, Decoded, FrameError, Stage};
use ::http::StatusCode;

/// A server's side of HTTP/1.1, with each request's body in one piece. A frame is a [`ServerRequest`].
///
/// The handler answers with [`Conn::send`](crate::Conn::send): a [`ServerResponse`](super::ServerResponse), and if its
/// body follows, [`Chunk`](super::Chunk)s and an [`End`](super::End). It may answer later, or from another thread. The
/// connection's next request waits until the answer is complete, so that answers are in order. The handler must write
/// nothing else, with `Conn::write` for example, except a body announced as a [`file`](super::ServerResponse::file),
/// and data after an [upgrade](super::ServerResponse::upgrade).
///
/// The codec itself does the following:
///
/// - It sends `100 Continue` to a client that waits for it, once earlier requests are answered.
/// - It answers a malformed or too large request with the proper status and closes the connection. A request that takes
///   longer than the [read timeout](crate::Server::read_timeout) gets a 408. If a callback panics, an answer is refused
///   or an [`Answer`](crate::Answer) is dropped, the client gets a 500. If the answer is not given in time, it gets a
///   503.
/// - It closes the connection after the answer to a request that asked for that. A shutdown waits for the answers that
///   are due, up to the [drain deadline](crate::Server::drain_deadline).
///
/// A connection that waits for a request costs the codec 80 bytes.
#[derive(Debug, Default)]
pub struct HttpCodec {
    reader: HeadReader,
    pub(super) exchange: Exchange,
    /// A head whose body is incomplete.
    pending: Option<Box<Head>>,
    assembly: Option<Box<Assembly>>,
}

impl HttpCodec {
    /// Returns a codec with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            reader: HeadReader::new(limits),
            ..Self::default()
        }
    }

    /// Changes the limits.
    #[cfg(feature = "rpc")]
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.reader.limits = limits;
    }

    /// Returns true if the connection has changed to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.exchange.is_upgraded()
    }

    #[inline(always)]
    fn look<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<ServerRequest<'a>>, FrameError> {
        if let Some(head) = &self.pending {
            let head = **head;
            return self.body(src, head);
        }
        let head = match self.reader.read(src)? {
            Start::Head(head) => head,
            Start::Ignored(consumed) => return Ok(Decoded::Skip { consumed }),
            Start::NeedMore(at_least) => return Ok(Decoded::NeedMore { at_least }),
        };
        if head.framing == Framing::None {
            return Ok(self.hand_out(src, head, head.len(), &[], head.len()));
        }
        self.body(src, head)
    }

    /// Looks for the body that belongs to a head.
    #[inline(never)]
    fn body<'a>(
        &mut self,
        src: &'a mut [u8],
        head: Head,
    ) -> Result<Decoded<ServerRequest<'a>>, FrameError> {
        match head.framing {
            Framing::None => Ok(self.hand_out(src, head, head.len(), &[], head.len())),
            Framing::Length(len) => self.sized(src, head, len),
            Framing::Chunked => self.chunked(src, head),
        }
    }

    fn sized<'a>(
        &mut self,
        src: &'a [u8],
        head: Head,
        len: u64,
    ) -> Result<Decoded<ServerRequest<'a>>, FrameError> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| head.len().checked_add(len));
        let Some(end) = end.filter(|_| len <= self.reader.limits.body) else {
            return Err(self.body_too_long().into());
        };
        if src.len() < end {
            self.await_body(src, head);
            return Ok(need(end));
        }
        self.pending = None;
        Ok(self.hand_out(src, head, end, &[], end))
    }

    fn chunked<'a>(
        &mut self,
        src: &'a mut [u8],
        head: Head,
    ) -> Result<Decoded<ServerRequest<'a>>, FrameError> {
        let mut assembly = self
            .assembly
            .take()
            .unwrap_or_else(|| Box::new(Assembly::behind(head.len())));
        if let Some(at_least) = assembly.advance(src, &self.reader.limits)? {
            self.await_body(src, head);
            self.assembly = Some(assembly);
            return Ok(need(at_least));
        }
        self.pending = None;
        let trailers = &src[assembly.read..assembly.end - 2];
        Ok(self.hand_out(src, head, assembly.data, trailers, assembly.end))
    }

    /// Keeps the head while more of the body has to arrive, so that it is not parsed again.
    fn await_body(&mut self, src: &[u8], head: Head) {
        self.exchange
            .await_body(head.has(EXPECTS) && src.len() == head.len());
        self.pending.get_or_insert_with(|| Box::new(head));
    }

    #[inline(always)]
    fn hand_out<'a>(
        &mut self,
        src: &'a [u8],
        head: Head,
        body_end: usize,
        trailers: &'a [u8],
        consumed: usize,
    ) -> Decoded<ServerRequest<'a>> {
        self.exchange.begin(&head, false);
        Decoded::Frame {
            frame: ServerRequest::new(&src[..body_end], head, trailers),
            consumed,
        }
    }

    #[cold]
    fn body_too_long(&self) -> MessageError {
        MessageError::BodyTooLong {
            max: self.reader.limits.body,
        }
    }
}

impl Codec for HttpCodec {
    type Frame<'a> = ServerRequest<'a>;
    const CONVERSES: bool = true;

    #[inline]
    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<ServerRequest<'a>>, FrameError> {
        if self.exchange.is_busy() {
            return Ok(Decoded::Hold);
        }
        self.look(src)
    }

    #[inline]
    fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if self.exchange.take_expectation() {
            dst.put(write::CONTINUE);
        }
    }

    fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        let receiving = self.reader.is_within_head() || self.exchange.is_receiving();
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

    fn backpressure(&self) -> Backpressure {
        Backpressure::PauseReads
    }

    #[inline]
    fn stage(&self) -> Stage {
        self.exchange.stage()
    }
}

fn need<F>(at_least: usize) -> Decoded<F> {
    Decoded::NeedMore { at_least }
}

/// Answers a client that waits for something with the reason why its connection closes.
#[cold]
pub(super) fn close_notice(
    exchange: &mut Exchange,
    receiving: bool,
    cause: CloseCause<'_>,
    dst: &mut Outbox<'_>,
) {
    if let Some((status, why)) = take_refusal(exchange, receiving, cause) {
        let text = "Content-Type: text/plain; charset=utf-8\r\n";
        write::refusal(status, text, &format!("{why}\n"), dst);
    }
}

/// Returns the status and the reason of the last answer to a client that waits for something, and notes it as sent.
#[cold]
pub(super) fn take_refusal(
    exchange: &mut Exchange,
    receiving: bool,
    cause: CloseCause<'_>,
) -> Option<(StatusCode, String)> {
    if exchange.stage() == Stage::Finished {
        return None;
    }
    let owed = exchange.answer() == AnswerState::Owed;
    let status = match cause {
        // A new answer must not follow a part of another one, or another protocol.
        _ if !owed && exchange.answer() != AnswerState::None => return None,
        CloseCause::Malformed(error) => {
            MessageError::of(error).map_or(StatusCode::BAD_REQUEST, MessageError::status)
        }
        CloseCause::Timeout if receiving => StatusCode::REQUEST_TIMEOUT,
        CloseCause::Timeout if owed => StatusCode::SERVICE_UNAVAILABLE,
        CloseCause::Shutdown if receiving || owed => StatusCode::SERVICE_UNAVAILABLE,
        CloseCause::Panic | CloseCause::Failed if owed => StatusCode::INTERNAL_SERVER_ERROR,
        CloseCause::Unanswered if owed => StatusCode::SERVICE_UNAVAILABLE,
        _ => return None,
    };
    let why = match cause {
        CloseCause::Malformed(error) => error.to_string(),
        CloseCause::Timeout if receiving => "the request took too long to arrive".to_owned(),
        CloseCause::Shutdown => "the server is shutting down".to_owned(),
        CloseCause::Timeout | CloseCause::Unanswered => "the answer took too long".to_owned(),
        _ => "the server failed to answer".to_owned(),
    };
    exchange.refuse(status);
    Some((status, why))
}
