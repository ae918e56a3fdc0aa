use std::collections::VecDeque;
use std::time::Duration;

use super::head::{Asked, Extent, Head, HeadFinder, Start};
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
/// The handler sends [`Request`]s, and for one whose body follows, [`Chunk`]s and an [`End`]. It need not wait for the response
/// before the next request, unless the request asks for another protocol. Nothing else may be written, with `Conn::write` say,
/// but for a body announced as a [`file`](Request::file), and after an [upgrade](Response::is_upgrade).
///
/// Interim responses (1xx) are passed over: up to 16 to a request, whose heads may take [`max_head`](Limits::max_head) bytes
/// in all. The connection is closed after a response that is the last on it, because
/// either side has asked for that or since its body ends with the stream. Requests that have no response by then have
/// [none](Self::outstanding), and may be sent on another connection if they can be repeated.
///
/// What a server sends by other rules than those of RFC 9112, or without having been asked, ends the connection with a
/// [`MessageError`], and so does a response that is cut short: where an answer begins and ends must be beyond doubt, or it
/// could be taken for that to another request. A connection on which something lies behind the last response takes no other
/// request: it [is not ready](Self::is_ready).
///
/// A connection without a request under way costs the codec 104 bytes.
#[derive(Debug, Default)]
pub struct ClientCodec {
    limits: Limits,
    /// The requests without a response, in order.
    asked: VecDeque<Asked>,
    sending: Sending,
    finder: HeadFinder,
    /// In milliseconds; 0 for none.
    response_timeout: u32,
    course: Course,
    /// The response whose body is on its way.
    begun: Option<Box<Begun>>,
}

/// What of a request is still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Nothing,
    /// So many bytes of the body it announced.
    Sized(u64),
    /// A body past the codec, up to this position of the output, then its end.
    Elsewhere(u64),
    /// Chunks, then their end.
    Chunks,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    /// It may have more requests.
    #[default]
    Open,
    /// It has had a request to change the protocol, which must be answered before another one.
    Changing,
    /// It has had its last request.
    Closing,
    /// It speaks another protocol.
    Upgraded,
    /// It has had its last response.
    Finished,
    /// Something came behind the response to its last request, when nothing was asked.
    Spoilt,
}

#[derive(Debug)]
struct Begun {
    head: Head,
    assembly: Assembly,
}

impl Begun {
    fn new(head: Head) -> Self {
        let assembly = Assembly::behind(head.len());
        Self { head, assembly }
    }
}

/// How many requests may be under way before the room for them is given back once they are answered.
const MOST_KEPT: usize = 64;

/// How many bytes more of a body that ends with the stream are awaited before another look.
const MORE: usize = 64 << 10;

impl ClientCodec {
    /// A codec with limits of one's own: on what it receives.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// How long the server may take to begin its response, in whole milliseconds up to 49 days: from when the request has been sent
    /// to the head of the response, whatever interim responses come between. Of several requests under way it counts for the
    /// first, from the response to the one before it. Then the connection is closed with
    /// [`TimeoutKind::Response`](crate::TimeoutKind::Response). Default: none.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.response_timeout = millis.max(1);
        self
    }

    /// Takes a response whose `Content-Length` is told several times, if it is the same each time (RFC 9110, section 8.6).
    /// Without this it is refused.
    #[must_use]
    pub fn take_repeated_length(mut self) -> Self {
        self.finder.takes_repeated_length = true;
        self
    }

    /// How many requests have no response yet.
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Whether another request can be sent.
    pub fn is_ready(&self) -> bool {
        self.course == Course::Open && self.sending == Sending::Nothing
    }

    /// Whether the connection has gone on to another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.course == Course::Upgraded
    }

    /// Looks for a response; with `last`, the stream ends behind `src`.
    fn look<'a>(
        &mut self,
        src: &'a mut [u8],
        last: bool,
    ) -> Result<Decoded<Response<'a>>, MessageError> {
        let Some(asked) = self.asked.front().copied() else {
            return unasked();
        };
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => match self.finder.find(src, asked, &self.limits)? {
                Start::Head(head) => Box::new(Begun::new(head)),
                Start::Interim(consumed) => return Ok(Decoded::Skip { consumed }),
                Start::NeedMore(at_least) => return Ok(need(at_least)),
            },
        };
        let mut head = begun.head;
        let body = self.body(src, &mut begun, last)?;
        let (end, trailers, consumed) = match body {
            Progress::Complete(end, trailers, consumed) => (end, trailers, consumed),
            Progress::NeedMore(at_least) => {
                self.begun = Some(begun);
                return Ok(need(at_least));
            }
        };
        let upgraded = head.changes_protocol(asked);
        self.answered(&head, upgraded, consumed < src.len());
        head.keep_alive &= !matches!(self.course, Course::Finished | Course::Spoilt);
        let (bytes, rest) = src.split_at(head.len());
        let body = &rest[..end - head.len()];
        let trailers = rest.get(trailers - head.len()..consumed.saturating_sub(head.len() + 2));
        let frame = Response::new(bytes, head, body, trailers.unwrap_or_default(), upgraded);
        Ok(Decoded::Frame { frame, consumed })
    }

    fn body(
        &self,
        src: &mut [u8],
        begun: &mut Begun,
        last: bool,
    ) -> Result<Progress, MessageError> {
        let head = begun.head.len();
        let limit = self.limits.body;
        match begun.head.extent {
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
            Extent::Chunked => Ok(match begun.assembly.advance(src, &self.limits)? {
                Some(at_least) => Progress::NeedMore(at_least),
                None => {
                    let done = &begun.assembly;
                    Progress::Complete(done.data, done.read, done.end)
                }
            }),
            Extent::Eof if (src.len() - head) as u64 > limit => {
                Err(MessageError::BodyTooLong { max: limit })
            }
            Extent::Eof if last => Ok(Progress::Complete(src.len(), src.len(), src.len())),
            Extent::Eof => Ok(Progress::NeedMore(src.len() + MORE)),
        }
    }

    /// The response to the first request is complete. `more` has come behind it.
    fn answered(&mut self, head: &Head, upgraded: bool, more: bool) {
        self.asked.pop_front();
        let all = self.asked.is_empty();
        if all && self.asked.capacity() > MOST_KEPT {
            self.asked = VecDeque::new();
        }
        let is_last = !head.keep_alive || head.extent == Extent::Eof;
        self.course = match self.course {
            _ if upgraded => Course::Upgraded,
            _ if is_last => Course::Finished,
            Course::Closing if all => Course::Finished,
            // It must not be taken for the response to a request that is sent from now on.
            _ if all && more => Course::Spoilt,
            Course::Changing if all => Course::Open,
            course => course,
        };
    }

    fn ask(&mut self, request: &Request<'_>, dst: &mut Outbox<'_>) -> Result<(), SendError> {
        if self.sending != Sending::Nothing {
            return Err(SendError::Begun);
        }
        // Unasked input would be taken for the response.
        let is_spoilt = self.asked.is_empty() && dst.has_unread_input();
        if self.course != Course::Open || is_spoilt {
            return Err(SendError::Last);
        }
        request.write(dst)?;
        self.sending = match request.body {
            Body::Sized(len) if len > 0 => Sending::Sized(len),
            Body::Elsewhere(len) => Sending::Elsewhere(end_of_body(len, dst)),
            Body::Stream => Sending::Chunks,
            _ => Sending::Nothing,
        };
        let asked = match request.method {
            "HEAD" => Asked::Head,
            "CONNECT" => Asked::Connect,
            _ if request.upgrade.is_some() => Asked::Upgrade,
            _ => Asked::Ordinary,
        };
        self.asked.push_back(asked);
        if request.close {
            self.course = Course::Closing;
        } else if matches!(asked, Asked::Connect | Asked::Upgrade) {
            self.course = Course::Changing;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], dst: &mut Outbox<'_>) -> Result<(), SendError> {
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

    fn end(&mut self, dst: &mut Outbox<'_>) -> Result<(), SendError> {
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

/// How far a body is.
enum Progress {
    /// The body ends here, the trailers begin here, and all of the response ends here.
    Complete(usize, usize, usize),
    /// The input must be at least so long.
    NeedMore(usize),
}

impl Codec for ClientCodec {
    type Frame<'a> = Response<'a>;
    const CONVERSES: bool = true;

    fn decode<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Response<'a>>, FrameError> {
        match self.course {
            Course::Upgraded | Course::Finished => Ok(Decoded::Hold),
            Course::Spoilt => Ok(unasked()?),
            _ => Ok(self.look(src, false)?),
        }
    }

    fn decode_eof<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Response<'a>>, FrameError> {
        if matches!(self.course, Course::Upgraded | Course::Finished) {
            return Ok(need(src.len() + 1));
        }
        if self.course == Course::Spoilt {
            return Ok(unasked()?);
        }
        match self.look(src, true)? {
            Decoded::NeedMore { .. } => Ok(malformed("a response that is cut short")?),
            found => Ok(found),
        }
    }

    /// A server may answer, or refuse, while the request is still being sent.
    fn backpressure(&self) -> Backpressure {
        Backpressure::ReadOn
    }

    fn response_timeout(&self) -> Option<Duration> {
        let has_limit = self.response_timeout > 0
            && self.sending == Sending::Nothing
            && !self.asked.is_empty()
            && self.begun.is_none();
        has_limit.then(|| Duration::from_millis(self.response_timeout.into()))
    }

    fn stage(&self) -> Stage {
        match self.course {
            Course::Finished => Stage::Finished,
            _ if self.asked.is_empty() => Stage::Idle,
            _ => Stage::Awaiting,
        }
    }
}

impl Encode<Request<'_>> for ClientCodec {
    fn encode(&mut self, request: Request<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.ask(&request, dst)?)
    }
}

impl Encode<Chunk<'_>> for ClientCodec {
    fn encode(&mut self, chunk: Chunk<'_>, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.send(chunk.0, dst)?)
    }
}

impl Encode<End> for ClientCodec {
    fn encode(&mut self, _: End, dst: &mut Outbox<'_>) -> Result<(), FrameError> {
        Ok(self.end(dst)?)
    }
}

fn need<F>(at_least: usize) -> Decoded<F> {
    Decoded::NeedMore { at_least }
}

#[cold]
fn unasked<T>() -> Result<T, MessageError> {
    malformed("a response that nobody has asked for")
}
