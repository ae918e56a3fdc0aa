//! The writing of answers. Each head is checked before its first byte is written, and written in one piece.

use ::http::StatusCode;

use super::block::HeaderBlock;
use super::check::{check_headers, check_protocol, framing_header};
use super::error::SendError;
use super::exchange::{AnswerState, Exchange};
use super::fields::is_value;
use super::list::Pair;
use super::prefix::ResponsePrefix;
use super::response::{Body, ServerResponse};
use crate::buf::outbox::Outbox;

/// The maximum size of a body that is written in one piece with its head.
pub(super) const SMALL_BODY: usize = 4 << 10;

/// An upper bound for the lines that the codec adds, with the longest reason and length.
pub(super) const CODEC_LINES_MAX: usize = 256;

/// Writes an answer, and notes the body that remains to be sent.
#[inline]
pub(super) fn response(
    exchange: &mut Exchange,
    response: &ServerResponse<'_>,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    exchange.may_begin()?;
    if response.status.is_informational() && response.upgrade.is_none() {
        return interim(exchange, response, dst);
    }
    let headers = response.headers.as_slice();
    let checked = check_headers(headers)?;
    let names = response.block_names.or(checked.names);
    let mut room = response.block.len() + checked.len;
    if let Some(protocol) = response.upgrade {
        room += check_protocol(protocol)?;
    }
    if let Some(reason) = response.reason {
        room += check_reason(reason)?;
    }
    let mut plan = plan(exchange, response)?;
    // The rest of a request that is answered already is not read.
    let unread = exchange.is_receiving() && plan.rest == AnswerState::None;
    if response.close || unread || plan.rest == AnswerState::UntilClose {
        exchange.close();
    }
    if response.awaits_end && plan.rest == AnswerState::None {
        plan.rest = AnswerState::Sized(0);
    }
    let closes = exchange.closes() && plan.rest != AnswerState::Upgraded;
    let small = match plan.body {
        Body::Bytes(body) if body.len() <= SMALL_BODY => *body,
        _ => &[],
    };
    let prefix = ResponsePrefix::at(dst.unix_time());
    dst.put_with(CODEC_LINES_MAX + room + small.len(), |room| {
        let mut head = Cursor { room, len: 0 };
        let is_usual = response.status == StatusCode::OK && response.reason.is_none();
        if is_usual && !names.date {
            head.put(prefix.ok());
        } else if is_usual {
            head.put(b"HTTP/1.1 200 OK\r\n");
        } else {
            head.status_line(response.status, response.reason);
            if !names.date {
                head.put(prefix.date());
            }
        }
        if closes {
            head.put(b"Connection: close\r\n");
        } else if exchange.is_http10() {
            head.put(b"Connection: keep-alive\r\n");
        }
        // A message with an `Upgrade` header must name it in `Connection` (RFC 9110, section 7.8).
        if names.upgrade || response.upgrade.is_some() {
            head.put(b"Connection: Upgrade\r\n");
        }
        if let Some(protocol) = response.upgrade {
            head.put(b"Upgrade: ");
            head.put(protocol.as_bytes());
            head.put(b"\r\n");
        }
        head.put(response.block);
        head.headers(headers);
        match plan.framing {
            Announced::Nothing => head.put(b"\r\n"),
            Announced::Length(len) => {
                head.put(b"Content-Length: ");
                head.put(itoa::Buffer::new().format(len).as_bytes());
                head.put(b"\r\n\r\n");
            }
            Announced::Chunked => head.put(b"Transfer-Encoding: chunked\r\n\r\n"),
        }
        head.put(small);
        head.len
    });
    match plan.body {
        Body::Bytes(body) if body.len() > SMALL_BODY => dst.put(body),
        Body::Shared(body) => dst.put_shared(body.clone()),
        _ => {}
    }
    if let AnswerState::Elsewhere(len) = plan.rest {
        plan.rest = AnswerState::Elsewhere(end_of_body(len, dst));
    }
    if response.awaits_end {
        exchange.await_end();
    }
    exchange.answered(plan.rest);
    Ok(())
}

/// Writes an interim response. The answer is still owed then.
#[cold]
fn interim(
    exchange: &mut Exchange,
    response: &ServerResponse<'_>,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    let status = response.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::Status { status });
    }
    if !matches!(response.body, Body::None | Body::Absent(_)) {
        return Err(SendError::Bodiless { status });
    }
    let headers = response.headers.as_slice();
    let room = check_headers(headers)?.len + response.block.len();
    let reason = response.reason.map_or(Ok(0), check_reason)?;
    // HTTP/1.0 has none (RFC 9110, section 15.2).
    if exchange.is_http10() {
        return Ok(());
    }
    dst.put_with(CODEC_LINES_MAX + reason + room, |room| {
        let mut head = Cursor { room, len: 0 };
        head.status_line(status, response.reason);
        head.put(response.block);
        head.headers(headers);
        head.put(b"\r\n");
        head.len
    });
    exchange.interim(status);
    Ok(())
}

pub(super) fn check_reason(reason: &[u8]) -> Result<usize, SendError> {
    if is_value(reason) {
        Ok(reason.len())
    } else {
        Err(SendError::Reason)
    }
}

/// The framing that the headers announce.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Announced {
    Nothing,
    Length(u64),
    Chunked,
}

/// The plan for an answer's body: the bytes to send now, the framing to announce, and the rest to send later.
struct Plan<'a, 'b> {
    body: &'a Body<'b>,
    framing: Announced,
    rest: AnswerState,
}

#[inline]
fn plan<'a, 'b>(
    exchange: &Exchange,
    response: &'a ServerResponse<'b>,
) -> Result<Plan<'a, 'b>, SendError> {
    let status = response.status;
    let length = match &response.body {
        Body::None | Body::Absent(_) => Some(0),
        Body::Bytes(body) => Some(body.len() as u64),
        Body::Shared(body) => Some(body.len() as u64),
        Body::Sized(len) | Body::Elsewhere(len) => Some(*len),
        Body::Stream => None,
    };
    let mut plan = Plan {
        body: &response.body,
        framing: length.map_or(Announced::Chunked, Announced::Length),
        rest: match response.body {
            Body::Sized(len) => AnswerState::Sized(len),
            Body::Stream if exchange.is_http10() => AnswerState::UntilClose,
            Body::Stream => AnswerState::Chunks,
            Body::Elsewhere(len) => AnswerState::Elsewhere(len),
            _ => AnswerState::None,
        },
    };
    if plan.rest == AnswerState::UntilClose {
        plan.framing = Announced::Nothing;
    }
    if status == StatusCode::OK && !exchange.is_head() && !exchange.is_connect() {
        return Ok(plan);
    }
    plan_special(exchange, response, length, plan)
}

/// Plans an answer whose framing depends on the status or the method (RFC 9112, section 6.3).
#[inline(never)]
fn plan_special<'a, 'b>(
    exchange: &Exchange,
    response: &'a ServerResponse<'b>,
    length: Option<u64>,
    mut plan: Plan<'a, 'b>,
) -> Result<Plan<'a, 'b>, SendError> {
    const NO_BODY: &Body<'static> = &Body::None;
    let status = response.status;
    let is_tunnel = exchange.is_connect() && status.is_success();
    let bodiless = is_tunnel || is_bodiless(status);
    if bodiless && length != Some(0) {
        return Err(SendError::Bodiless { status });
    }
    if bodiless {
        plan.framing = Announced::Nothing;
    }
    // A 204 has no length, whatever the method (RFC 9110, section 8.6).
    let tells_length = match status {
        StatusCode::NOT_MODIFIED => true,
        StatusCode::NO_CONTENT => false,
        _ => exchange.is_head(),
    };
    if let Body::Absent(len) = response.body
        && tells_length
        && !is_tunnel
    {
        plan.framing = len.map_or(Announced::Nothing, Announced::Length);
    }
    if is_tunnel || response.upgrade.is_some() {
        plan.rest = AnswerState::Upgraded;
    } else if exchange.is_head() {
        plan.body = NO_BODY;
        if let AnswerState::Elsewhere(len) = &mut plan.rest {
            *len = 0;
        }
    }
    Ok(plan)
}

/// Returns true if responses with that status never have a body.
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Writes a part of a body.
pub(super) fn chunk(
    exchange: &mut Exchange,
    bytes: &[u8],
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    // The answer to HEAD has no body, but the handler may treat it as a GET.
    let is_sent = !exchange.is_head();
    match exchange.answer() {
        AnswerState::Chunks if is_sent => write_chunk(bytes, dst),
        AnswerState::UntilClose if is_sent => dst.put(bytes),
        AnswerState::Chunks | AnswerState::UntilClose => {}
        AnswerState::Sized(left) if bytes.len() as u64 <= left => {
            if is_sent {
                dst.put(bytes);
            }
            exchange.sent(bytes.len() as u64);
        }
        AnswerState::Sized(left) => {
            let given = bytes.len() as u64;
            return Err(SendError::Length { left, given });
        }
        _ => return Err(SendError::NotBegun),
    }
    Ok(())
}

/// Writes a chunk. An empty one is skipped, since it would end the body.
pub(super) fn write_chunk(bytes: &[u8], dst: &mut Outbox<'_>) {
    if bytes.is_empty() {
        return;
    }
    let small = if bytes.len() <= SMALL_BODY {
        bytes
    } else {
        &[]
    };
    dst.put_with(20 + small.len(), |room| {
        let mut chunk = Cursor { room, len: 0 };
        chunk.hex(bytes.len());
        chunk.put(b"\r\n");
        if !small.is_empty() {
            chunk.put(small);
            chunk.put(b"\r\n");
        }
        chunk.len
    });
    if small.is_empty() {
        dst.put(bytes);
        dst.put(b"\r\n");
    }
}

/// Ends a body. Only chunks can be followed by trailers.
pub(super) fn end(
    exchange: &mut Exchange,
    trailers: Option<&HeaderBlock>,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    match exchange.answer() {
        // A handler that handles HEAD itself omits the body.
        AnswerState::Chunks | AnswerState::Sized(_) if exchange.is_head() => {}
        AnswerState::Chunks => write_last_chunk(trailers, dst)?,
        AnswerState::UntilClose | AnswerState::Sized(0) => {}
        AnswerState::Elsewhere(end) => check_end(end, exchange.is_head(), dst)?,
        AnswerState::Sized(left) => return Err(SendError::Length { left, given: 0 }),
        _ => return Err(SendError::NotBegun),
    }
    exchange.end();
    Ok(())
}

/// Returns the position at which a body of `len` bytes ends that is written past the codec, after the head.
pub(super) fn end_of_body(len: u64, dst: &Outbox<'_>) -> u64 {
    dst.position().unwrap_or(0).saturating_add(len)
}

/// Checks that a body written past the codec has the announced length, if the output tracks its position.
pub(super) fn check_end(end: u64, is_head: bool, dst: &Outbox<'_>) -> Result<(), SendError> {
    let Some(position) = dst.position() else {
        return Ok(());
    };
    let (left, given) = (end.saturating_sub(position), position.saturating_sub(end));
    match (left, given) {
        (0, 0) => Ok(()),
        _ if is_head => Err(SendError::BodyForHead { given }),
        _ => Err(SendError::Length { left, given }),
    }
}

/// Writes the end of the chunks, with the trailers.
pub(super) fn write_last_chunk(
    trailers: Option<&HeaderBlock>,
    dst: &mut Outbox<'_>,
) -> Result<(), SendError> {
    let Some(trailers) = trailers else {
        dst.put(b"0\r\n\r\n");
        return Ok(());
    };
    // A recipient that merges trailers with the headers would see another host.
    if trailers.names().host {
        return Err(framing_header(b"Host"));
    }
    for part in [b"0\r\n", trailers.lines(), b"\r\n"] {
        dst.put(part);
    }
    Ok(())
}

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes an error answer with these header lines, the last answer on the connection.
pub(crate) fn refusal(status: StatusCode, headers: &str, body: &str, dst: &mut Outbox<'_>) {
    let prefix = ResponsePrefix::at(dst.unix_time());
    let date = String::from_utf8_lossy(prefix.date());
    let head = format!(
        "HTTP/1.1 {} {}\r\n{date}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    dst.put(head.as_bytes());
}

/// Writes into a part of the outbox that is large enough.
pub(super) struct Cursor<'a> {
    pub(super) room: &'a mut [u8],
    pub(super) len: usize,
}

impl Cursor<'_> {
    #[inline(always)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.room[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    #[inline(never)]
    fn status_line(&mut self, status: StatusCode, reason: Option<&[u8]>) {
        let standard = || status.canonical_reason().unwrap_or_default().as_bytes();
        self.put(b"HTTP/1.1 ");
        self.put(status.as_str().as_bytes());
        self.put(b" ");
        self.put(reason.unwrap_or_else(standard));
        self.put(b"\r\n");
    }

    #[inline]
    pub(super) fn headers(&mut self, headers: &[Pair<'_>]) {
        for (name, value) in headers {
            self.put(name.as_bytes());
            self.put(b": ");
            self.put(value);
            self.put(b"\r\n");
        }
    }

    fn hex(&mut self, number: usize) {
        let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = number >> (4 * digit) & 15;
            self.put(&[b"0123456789abcdef"[value]]);
        }
    }
}
