//! An open WebSocket, for both sides.

#[cfg(all(test, not(loom)))]
mod tests;

use std::borrow::Cow;
use std::mem;

#[cfg(feature = "rpc")]
use bytes::Bytes;

use crate::buf::outbox::Outbox;
use crate::codec::{CloseCause, Decoded, FrameError, Stage};
use crate::ws::assembly::Assembly;
use crate::ws::close::{Close, MAX_REASON};
use crate::ws::deflate::{Agreed, Compressor, Inflater};
use crate::ws::error::SendError;
use crate::ws::failure::{CloseCode, Failure};
use crate::ws::frame::{self, Kind};
use crate::ws::header::{Header, MAX_CONTROL, Opcode, Parsed, Role};
use crate::ws::limits::Limits;
use crate::ws::mask::Mask;
use crate::ws::message::{Fragment, Message, Ping, Prepared};
use crate::ws::text::{self, Text};

/// The result of decoding a frame or a message.
#[derive(Debug)]
pub(super) enum Received<'a> {
    Message(Message<'a>),
    Pong(&'a [u8]),
    Closed(Close<'a>),
}

/// The state of an open WebSocket.
#[derive(Debug)]
pub(super) struct Protocol {
    role: Role,
    stage: Stage,
    /// True if [`poll_output`](Self::poll_output) has output.
    has_output: bool,
    /// True if frames that bring no message are told.
    #[cfg(feature = "cluster")]
    tells_all: bool,
    sent_close: bool,
    /// The code of the peer's Close, once it has arrived.
    received_close: Option<Option<CloseCode>>,
    /// The code with which to close after a failure of the peer.
    failure: Option<CloseCode>,
    /// The type of the fragmented message that is being sent.
    sending: Option<Opcode>,
    limits: Limits,
    /// The message that is being received, of which some frames have arrived.
    assembly: Option<Box<Assembly>>,
    deflate: Option<Box<Deflate>>,
    /// The encoded pongs that are not sent yet.
    pongs: Vec<u8>,
    /// The number of bytes of pongs that have been sent since more than [`MAX_WAITING`] bytes wait.
    pongs_beyond: u16,
}

/// The state of permessage-deflate.
#[derive(Debug)]
struct Deflate {
    compressor: Compressor,
    inflater: Inflater,
    /// Messages shorter than this many bytes are not compressed.
    threshold: u32,
    /// The number of bytes that were inflated and compressed since the last call of `take_cost`.
    cost: u32,
}

impl Deflate {
    /// Returns true if a message is worth compressing. An empty message never is.
    fn is_worth_compressing(&self, message: &[u8]) -> bool {
        message.len() >= self.threshold.max(1) as usize
    }
}

/// Adds a length to a count, which saturates.
fn count(cost: &mut u32, bytes: &[u8]) {
    *cost = cost.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
}

/// Frames up to this size, header included, are checked while they arrive, so that an invalid text is refused early.
/// The engine decodes leftovers up to this size in place, so this causes no copying.
const EAGER: usize = 4 << 10;

/// The maximum number of bytes of pongs to keep. If a peer sends more pings at a time, only the latest ones are
/// answered (RFC 6455, section 5.5.3).
const MAX_PONGS: usize = 16 << 10;

/// The backlog beyond which pongs are limited: with more bytes than this waiting, at most [`MAX_PONGS`] bytes of pongs
/// are added, until a peer that reads nothing sends its next input.
const MAX_WAITING: usize = 64 << 10;

impl Protocol {
    pub(super) fn new(role: Role, limits: Limits, agreed: Option<Agreed>) -> Self {
        let deflate = agreed.map(|agreed| {
            Box::new(Deflate {
                threshold: u32::try_from(agreed.threshold).unwrap_or(u32::MAX),
                compressor: Compressor::new(&agreed),
                inflater: Inflater::new(agreed.theirs),
                cost: 0,
            })
        });
        Self {
            role,
            stage: Stage::Idle,
            has_output: false,
            #[cfg(feature = "cluster")]
            tells_all: false,
            sent_close: false,
            received_close: None,
            failure: None,
            sending: None,
            limits,
            assembly: None,
            deflate,
            pongs: Vec::new(),
            pongs_beyond: 0,
        }
    }

    #[cfg(feature = "rpc")]
    #[inline]
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Decodes the start of `src`.
    #[inline]
    pub(super) fn decode<'a>(
        &mut self,
        src: &'a mut [u8],
    ) -> Result<Decoded<Received<'a>>, FrameError> {
        // The fast path: nearly every frame is a complete, unfragmented message of moderate length.
        if self.role == Role::Server
            && let [first @ (0x81 | 0x82), second @ 0x80..=0xFF, a, b, ..] = *src
            && self.takes_message()
        {
            let (size, len) = match second & 0x7F {
                126 => (8, u16::from_be_bytes([a, b]).into()),
                len => (6, usize::from(len)),
            };
            let end = size + len;
            if second != 0xFF && src.len() >= end && self.allows(size, len) {
                let (header, payload) = src[..end].split_at_mut(size);
                if let [.., a, b, c, d] = *header {
                    Mask([a, b, c, d]).apply(payload);
                }
                let opcode = if first == 0x81 {
                    Opcode::Text
                } else {
                    Opcode::Binary
                };
                return match message(opcode, payload) {
                    Ok(message) => Ok(received(Received::Message(message), end)),
                    Err(failure) => Err(self.fail(failure)),
                };
            }
        }
        self.decode_any(src).map_err(|failure| self.fail(failure))
    }

    /// Returns true if an unfragmented message may arrive.
    #[inline]
    fn takes_message(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Returns true if an unfragmented message may have that length, with a header of `size` bytes.
    #[inline]
    fn allows(&self, size: usize, len: usize) -> bool {
        (size == 6 || len > MAX_CONTROL)
            && len <= self.limits.frame.min(self.limits.message) as usize
    }

    /// Decodes any frame.
    #[inline(never)]
    fn decode_any<'a>(&mut self, src: &'a mut [u8]) -> Result<Decoded<Received<'a>>, Failure> {
        if self.received_close.is_some() {
            // Input after a Close is ignored (section 5.5.1).
            return Ok(Decoded::Skip {
                consumed: src.len(),
            });
        }
        let (header, size) = match Header::parse(src, self.role)? {
            Parsed::Whole { header, size } => (header, size),
            Parsed::Partial { at_least } => return Ok(Decoded::NeedMore { at_least }),
        };
        self.check(&header)?;
        let end = size + header.len as usize;
        if src.len() < end {
            return self.partial(&header, &src[size..], end, src.len());
        }
        let payload = &mut src[size..end];
        if let Some(mask) = header.mask {
            mask.apply(payload);
        }
        match header.opcode {
            Opcode::Ping => {
                self.note_ping(payload);
                Ok(self.silent(end))
            }
            Opcode::Pong => Ok(received(Received::Pong(payload), end)),
            Opcode::Close => {
                let close = Close::parse(payload)?;
                self.note_close(close.code);
                Ok(received(Received::Closed(close), end))
            }
            opcode if header.fin && !header.rsv1 && self.assembly.is_none() => {
                Ok(received(Received::Message(message(opcode, payload)?), end))
            }
            opcode => match self.assemble(opcode, &header, payload)? {
                Some(message) => Ok(received(Received::Message(message), end)),
                None => Ok(self.silent(end)),
            },
        }
    }

    /// Checks that a frame may have this header in the current state.
    fn check(&self, header: &Header) -> Result<(), Failure> {
        let is_first = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.rsv1 && (self.deflate.is_none() || !is_first) {
            return Err(Failure::protocol("a reserved bit is set"));
        }
        let begun = match &self.assembly {
            Some(_) if is_first => {
                return Err(Failure::protocol(
                    "a new message before the end of a fragmented one",
                ));
            }
            None if header.opcode == Opcode::Continuation => {
                return Err(Failure::protocol(
                    "a continuation frame without a message to continue",
                ));
            }
            // The length of a compressed message is known only after decompression.
            Some(assembly) if !assembly.compressed => assembly.len(),
            Some(_) => 0,
            None => 0,
        };
        let is_compressed = header.rsv1
            || self
                .assembly
                .as_ref()
                .is_some_and(|assembly| assembly.compressed);
        if !is_first && header.opcode != Opcode::Continuation {
            return Ok(());
        }
        if header.len > self.limits.frame.into() {
            return Err(Failure::too_big(header.len, self.limits.frame as usize));
        }
        let len = begun as u64 + header.len;
        if !is_compressed && len > self.limits.message.into() {
            return Err(Failure::too_big(len, self.limits.message as usize));
        }
        Ok(())
    }

    /// Checks the part of a frame's payload that has `arrived`.
    fn partial<'a>(
        &self,
        header: &Header,
        arrived: &[u8],
        end: usize,
        len: usize,
    ) -> Result<Decoded<Received<'a>>, Failure> {
        let fresh = Text::default();
        let text = match (&self.assembly, header.opcode) {
            (None, Opcode::Text) if !header.rsv1 => Some(&fresh),
            (Some(assembly), Opcode::Continuation) if !assembly.compressed => assembly.as_text(),
            _ => None,
        };
        let Some(text) = text.filter(|_| end <= EAGER) else {
            return Ok(Decoded::NeedMore { at_least: end });
        };
        // The input stays masked, so that no state is needed for the part that is unmasked.
        let mut copy = [0; EAGER];
        let copy = &mut copy[..arrived.len()];
        copy.copy_from_slice(arrived);
        if let Some(mask) = header.mask {
            mask.apply(copy);
        }
        text.check_next(copy)?;
        Ok(Decoded::NeedMore { at_least: len + 1 })
    }

    /// Appends a frame's payload to the message. Returns the message once it is complete.
    fn assemble(
        &mut self,
        opcode: Opcode,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Message<'static>>, Failure> {
        let mut assembly = match self.assembly.take() {
            Some(assembly) => *assembly,
            None => Assembly::new(opcode, header.rsv1),
        };
        let max = self.limits.message as usize;
        match &mut self.deflate {
            Some(deflate) if assembly.compressed => {
                let cost = &mut deflate.cost;
                deflate.inflater.inflate(payload, header.fin, |bytes| {
                    count(cost, bytes);
                    assembly.push(bytes, max)
                })?;
            }
            _ => assembly.push(payload, max)?,
        }
        if header.fin {
            self.update_stage();
            return assembly.finish().map(Some);
        }
        self.assembly = Some(Box::new(assembly));
        self.update_stage();
        Ok(None)
    }

    /// Tells frames that bring no message, pings among them, as pongs without content.
    #[cfg(feature = "cluster")]
    pub(super) fn tell_all(&mut self) {
        self.tells_all = true;
    }

    /// Returns the result of decoding a frame that brings no message.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_self, reason = "gates of clusters count such frames")
    )]
    fn silent<'a>(&self, consumed: usize) -> Decoded<Received<'a>> {
        #[cfg(feature = "cluster")]
        if self.tells_all {
            return received(Received::Pong(&[]), consumed);
        }
        Decoded::Skip { consumed }
    }

    fn note_ping(&mut self, payload: &[u8]) {
        if self.sent_close {
            return;
        }
        if self.pongs.len() + payload.len() > MAX_PONGS {
            self.pongs.clear();
        }
        frame::push(
            self.role,
            Kind::whole(Opcode::Pong),
            payload,
            &mut self.pongs,
        );
        self.has_output = true;
    }

    fn note_close(&mut self, code: Option<CloseCode>) {
        self.received_close = Some(code);
        self.assembly = None;
        self.has_output = !self.sent_close;
        self.update_stage();
    }

    /// Records a failure of the peer.
    #[cold]
    fn fail(&mut self, failure: Failure) -> FrameError {
        self.failure = Some(failure.code);
        failure.error
    }

    /// Computes the stage anew.
    fn update_stage(&mut self) {
        self.stage = match (self.sent_close, self.received_close.is_some()) {
            // The server closes the TCP connection first (section 7.1.1).
            (true, true) if self.role == Role::Server => Stage::Finished,
            (true, _) => Stage::Closing,
            (false, true) => Stage::Answering,
            (false, false) if self.assembly.is_some() => Stage::Receiving,
            (false, false) => Stage::Idle,
        };
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the number of bytes that were inflated and compressed since the last call.
    #[inline]
    pub(super) fn take_cost(&mut self) -> usize {
        match &mut self.deflate {
            Some(deflate) => mem::take(&mut deflate.cost) as usize,
            None => 0,
        }
    }

    /// Sends answers to pings and to the peer's Close.
    #[inline]
    pub(super) fn poll_output(&mut self, dst: &mut Outbox<'_>) {
        if self.has_output {
            self.answer(dst);
        }
    }

    #[inline(never)]
    fn answer(&mut self, dst: &mut Outbox<'_>) {
        self.put_pongs(dst);
        if let Some(code) = self.received_close
            && !self.sent_close
        {
            self.put_close(Close { code, reason: "" }, dst);
        }
    }

    /// Sends the pongs that are due, ahead of any other frame. A peer that receives the answer to a message after its
    /// ping then knows that the ping was received (section 5.5.2).
    #[inline]
    fn send_pongs(&mut self, dst: &mut Outbox<'_>) {
        if self.has_output {
            self.put_pongs(dst);
        }
    }

    #[inline(never)]
    fn put_pongs(&mut self, dst: &mut Outbox<'_>) {
        let closes = self.received_close.is_some();
        if !self.sent_close && (self.may_pong(dst.len()) || closes) {
            dst.put(&self.pongs);
            self.pongs = Vec::new();
            self.has_output = closes;
        }
    }

    /// Returns true if pongs may be sent while `waiting` bytes are in the backlog. A peer that pings rarely is always
    /// answered, since it may send nothing else that its pong could go with.
    fn may_pong(&mut self, waiting: usize) -> bool {
        if waiting <= MAX_WAITING {
            self.pongs_beyond = 0;
            return true;
        }
        let beyond = usize::from(self.pongs_beyond) + self.pongs.len();
        match u16::try_from(beyond) {
            Ok(within) if beyond <= MAX_PONGS => {
                self.pongs_beyond = within;
                true
            }
            _ => false,
        }
    }

    /// Sends a Close with the reason why this side closes the connection, unless one was sent.
    pub(super) fn close_notice(&mut self, cause: CloseCause<'_>, dst: &mut Outbox<'_>) {
        if self.sent_close {
            return;
        }
        self.send_pongs(dst);
        let reason = match cause {
            CloseCause::Malformed(error) => error.to_string(),
            _ => String::new(),
        };
        let code = match (self.received_close, cause) {
            (Some(code), _) => code,
            (None, CloseCause::Malformed(error)) => Some(self.failure.unwrap_or(match error {
                FrameError::TooLong { .. } => CloseCode::TOO_BIG,
                _ => CloseCode::PROTOCOL,
            })),
            (None, CloseCause::Timeout | CloseCause::Shutdown) => Some(CloseCode::GOING_AWAY),
            (None, CloseCause::Panic | CloseCause::Failed | CloseCause::Unanswered) => {
                Some(CloseCode::INTERNAL)
            }
            (None, _) => Some(CloseCode::NORMAL),
        };
        self.put_close(
            Close {
                code,
                reason: &reason,
            },
            dst,
        );
    }

    fn put_close(&mut self, close: Close<'_>, dst: &mut Outbox<'_>) {
        let mut payload = [0; MAX_CONTROL];
        let len = close.write(&mut payload);
        frame::put(self.role, Kind::whole(Opcode::Close), &payload[..len], dst);
        self.sent_close = true;
        self.has_output = false;
        self.pongs = Vec::new();
        self.update_stage();
    }

    /// Sends a message in one frame.
    #[inline]
    pub(super) fn send(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.may_begin()?;
        self.send_pongs(dst);
        if self.deflate.is_some() {
            self.send_compressed(opcode, payload, dst);
        } else {
            frame::put(self.role, Kind::whole(opcode), payload, dst);
        }
        Ok(())
    }

    /// Sends a binary message whose payload others get as well.
    #[cfg(feature = "rpc")]
    pub(super) fn send_shared(
        &mut self,
        payload: &Bytes,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        if self.role == Role::Client || self.deflate.is_some() {
            return self.send(Opcode::Binary, payload, dst);
        }
        self.may_begin()?;
        self.send_pongs(dst);
        frame::put_shared(Kind::whole(Opcode::Binary), payload, dst);
        Ok(())
    }

    #[inline(never)]
    fn send_compressed(&mut self, opcode: Opcode, payload: &[u8], dst: &mut Outbox<'_>) {
        let (role, kind) = (self.role, Kind::whole(opcode));
        match &mut self.deflate {
            Some(deflate) if deflate.is_worth_compressing(payload) => {
                count(&mut deflate.cost, payload);
                deflate
                    .compressor
                    .compress(payload, |compressed| match compressed {
                        Some(bytes) => frame::put(
                            role,
                            Kind {
                                compressed: true,
                                ..kind
                            },
                            bytes,
                            dst,
                        ),
                        None => frame::put(role, kind, payload, dst),
                    });
            }
            _ => frame::put(role, kind, payload, dst),
        }
    }

    /// Sends a message that was framed before. Only servers do this.
    pub(super) fn send_prepared(
        &mut self,
        prepared: &Prepared,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.may_begin()?;
        self.send_pongs(dst);
        dst.put_shared(prepared.as_bytes().clone());
        Ok(())
    }

    pub(super) fn send_fragment(
        &mut self,
        fragment: &Fragment<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.may_send()?;
        let of = fragment.part.opcode();
        let opcode = match self.sending {
            None => of,
            Some(begun) if begun == of => Opcode::Continuation,
            Some(_) => return Err(SendError::FragmentType.into()),
        };
        let kind = Kind {
            opcode,
            fin: fragment.last,
            compressed: false,
        };
        self.send_pongs(dst);
        frame::put(self.role, kind, fragment.part.as_bytes(), dst);
        self.sending = (!fragment.last).then_some(of);
        Ok(())
    }

    pub(super) fn send_ping(
        &mut self,
        ping: Ping<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.may_send()?;
        fits(ping.0.len(), MAX_CONTROL)?;
        self.send_pongs(dst);
        frame::put(self.role, Kind::whole(Opcode::Ping), ping.0, dst);
        Ok(())
    }

    pub(super) fn send_close(
        &mut self,
        close: Close<'_>,
        dst: &mut Outbox<'_>,
    ) -> Result<(), FrameError> {
        self.may_send()?;
        fits(close.reason.len(), MAX_REASON)?;
        self.send_pongs(dst);
        self.put_close(close, dst);
        Ok(())
    }

    #[inline]
    fn may_send(&self) -> Result<(), FrameError> {
        if self.sent_close {
            return Err(SendError::Closed.into());
        }
        Ok(())
    }

    #[inline]
    fn may_begin(&self) -> Result<(), FrameError> {
        self.may_send()?;
        if self.sending.is_some() {
            return Err(SendError::Unfinished.into());
        }
        Ok(())
    }
}

#[inline]
fn received(received: Received<'_>, consumed: usize) -> Decoded<Received<'_>> {
    Decoded::Frame {
        frame: received,
        consumed,
    }
}

/// Returns the message of an unfragmented frame.
#[inline]
fn message(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, Failure> {
    Ok(match opcode {
        Opcode::Text => Message::Text(Cow::Borrowed(text::whole(payload)?)),
        _ => Message::Binary(Cow::Borrowed(payload)),
    })
}

fn fits(len: usize, max: usize) -> Result<(), FrameError> {
    if len > max {
        return Err(FrameError::TooLong {
            len: len as u64,
            max,
        });
    }
    Ok(())
}
